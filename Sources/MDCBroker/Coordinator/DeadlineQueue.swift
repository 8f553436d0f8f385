// SPDX-License-Identifier: Apache-2.0

/// The groups that want to be woken, by time. An entry is never removed before it is due: a group whose deadline moved
/// back is woken once too early, finds nothing to do and is put back. So a heartbeat, which only moves a deadline back,
/// costs nothing here.
struct DeadlineQueue: Sendable {
    private struct Entry {
        var deadline: Int64
        var groupID: String
    }

    private var heap: [Entry] = []
    /// The earliest entry of each group that has one.
    private var scheduled: [String: Int64] = [:]

    /// When the first group wants to be woken; nil for never.
    var next: Int64? { heap.first?.deadline }

    /// Makes sure that `groupID` is woken at `deadline` or before.
    mutating func schedule(_ groupID: String, at deadline: Int64) {
        if let present = scheduled[groupID], present <= deadline { return }
        scheduled[groupID] = deadline
        heap.append(Entry(deadline: deadline, groupID: groupID))
        siftUp(heap.count - 1)
    }

    /// Takes a group that is due at `now`; nil when none is.
    mutating func popDue(at now: Int64) -> String? {
        while let first = heap.first, first.deadline <= now {
            removeFirst()
            // An entry that a later, earlier one replaced is stale.
            guard scheduled[first.groupID] == first.deadline else { continue }
            scheduled[first.groupID] = nil
            return first.groupID
        }
        return nil
    }

    private mutating func removeFirst() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2]
            where child < heap.count && heap[child].deadline < heap[least].deadline {
                least = child
            }
            if least == parent { return }
            heap.swapAt(parent, least)
            parent = least
        }
    }

    private mutating func siftUp(_ start: Int) {
        var child = start
        while child > 0 {
            let parent = (child - 1) / 2
            if heap[parent].deadline <= heap[child].deadline { return }
            heap.swapAt(parent, child)
            child = parent
        }
    }
}
