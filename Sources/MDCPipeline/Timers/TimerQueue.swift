// SPDX-License-Identifier: Apache-2.0

/// Timers by due time: set, replace, cancel and take out what is due. Pure.
///
/// A binary heap with lazy deletion: `set` and `cancel` cost O(log n) and O(1); a replaced or cancelled entry stays in the
/// heap until it comes up or until half of the heap is stale.
public struct TimerQueue<ID: Hashable & Sendable, Payload: Sendable>: Sendable {
    private struct Entry: Sendable {
        var due: Int64
        var sequence: UInt64
        var id: ID
    }

    private struct Pending: Sendable {
        var sequence: UInt64
        var due: Int64
        var payload: Payload
    }

    private var heap: [Entry] = []
    private var pending: [ID: Pending] = [:]
    private var sequence: UInt64 = 0

    /// No timers.
    public init() {}

    /// Timers that are set.
    public var count: Int { pending.count }

    /// When the next one is due, in milliseconds since 1970; nil: none is set.
    public var nextDue: Int64? {
        mutating get {
            dropStale()
            return heap.first?.due
        }
    }

    /// Sets a timer, or sets it anew.
    public mutating func set(_ id: ID, due: Int64, payload: Payload) {
        sequence += 1
        pending[id] = Pending(sequence: sequence, due: due, payload: payload)
        push(Entry(due: due, sequence: sequence, id: id))
        if heap.count > 64, heap.count > pending.count * 2 { rebuild() }
    }

    /// Cancels a timer; its payload if it was set.
    @discardableResult
    public mutating func cancel(_ id: ID) -> Payload? {
        pending.removeValue(forKey: id)?.payload
    }

    /// Cancels all timers with such a payload.
    public mutating func cancelAll(where matches: (Payload) -> Bool) {
        pending = pending.filter { !matches($0.value.payload) }
        rebuild()
    }

    /// The payload of a timer that is set.
    public func payload(of id: ID) -> Payload? { pending[id]?.payload }

    /// Takes out the first timer that is due; equal times in the order in which they were set.
    public mutating func popDue(now: Int64) -> (id: ID, due: Int64, payload: Payload)? {
        dropStale()
        guard let first = heap.first, first.due <= now else { return nil }
        pop()
        guard let found = pending.removeValue(forKey: first.id) else {
            preconditionFailure("the head of the heap is live after dropStale")
        }
        return (first.id, first.due, found.payload)
    }

    private mutating func dropStale() {
        while let first = heap.first, pending[first.id]?.sequence != first.sequence { pop() }
    }

    private mutating func rebuild() {
        heap.removeAll { pending[$0.id]?.sequence != $0.sequence }
        var index = heap.count / 2
        while index > 0 {
            index -= 1
            siftDown(index)
        }
    }

    private func before(_ a: Int, _ b: Int) -> Bool {
        (heap[a].due, heap[a].sequence) < (heap[b].due, heap[b].sequence)
    }

    private mutating func push(_ entry: Entry) {
        heap.append(entry)
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard before(child, parent) else { return }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    private mutating func pop() {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        siftDown(0)
    }

    private mutating func siftDown(_ start: Int) {
        var parent = start
        while true {
            let left = parent * 2 + 1
            guard left < heap.count else { return }
            var least = left
            if left + 1 < heap.count, before(left + 1, left) { least = left + 1 }
            guard before(least, parent) else { return }
            heap.swapAt(parent, least)
            parent = least
        }
    }
}
