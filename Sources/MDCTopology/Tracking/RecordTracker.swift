// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel

/// Why a record could not be worked on.
struct StageFailure: Sendable, Hashable {
    var stage: String
    var reason: String
}

/// Knows of each record of a source how many of its descendants are under way, and from that up to where a partition is done.
///
/// Pure. A tree begins with one branch, the record itself; each stage adds branches for what it emits and then finishes its own. When the
/// last is finished the tree has ended. A tree with a failure waits for `settled`: somebody has to write its dead letter first.
struct RecordTracker {
    typealias TreeID = Int

    /// What the end of a tree asks for.
    enum End: Hashable {
        /// Nothing.
        case succeeded
        /// Write a dead letter, then call `settled`.
        case failed(SourcePosition, StageFailure)
    }

    private struct Tree {
        /// Nil for a tick.
        let source: SourcePosition?
        var branches = 1
        var failure: StageFailure?
    }

    private struct Progress {
        struct Entry {
            let offset: Offset
            var isDone = false
        }
        /// Records that began and do not lie below the position, in order.
        var entries: Deque<Entry> = []
        /// Behind the last that began; nil before the first.
        var next: Offset?
        var committed: Offset?
        /// Trees that have not ended.
        var open = 0

        /// Everything below is done; nil where nothing began.
        var position: Offset? { entries.first?.offset ?? next }
    }

    private var partitions: [TopicPartition: Progress] = [:]
    private var trees: [TreeID: Tree] = [:]
    private var nextTree = 0

    /// Trees that have not ended, ticks among them.
    var inFlight: Int { trees.count }
    /// Whether nothing is under way.
    var isIdle: Bool { trees.isEmpty }
    /// Partitions whose records may begin.
    var assigned: Set<TopicPartition> { Set(partitions.keys) }

    // MARK: Partitions

    /// Records of the partition may begin.
    mutating func assign(_ partition: TopicPartition) {
        if partitions[partition] == nil { partitions[partition] = Progress() }
    }

    /// Forgets a partition; what is still under way of it has no effect any longer.
    mutating func drop(_ dropped: Set<TopicPartition>) {
        for partition in dropped { partitions[partition] = nil }
        trees = trees.filter { tree in tree.value.source.map { !dropped.contains($0.partition) } ?? true }
    }

    /// Whether nothing of these partitions is under way.
    func isIdle(_ wanted: Set<TopicPartition>) -> Bool { wanted.allSatisfy { partitions[$0]?.open ?? 0 == 0 } }

    // MARK: Trees

    /// A record was read. Nil where its partition is not (or no longer) assigned, or the record was read before.
    mutating func begin(_ source: SourcePosition) -> TreeID? {
        guard var progress = partitions[source.partition] else { return nil }
        if let next = progress.next, source.offset < next { return nil }
        progress.entries.append(.init(offset: source.offset))
        progress.next = source.offset + 1
        progress.open += 1
        partitions[source.partition] = progress
        return add(Tree(source: source))
    }

    /// A tick was sent to a task.
    mutating func beginTick() -> TreeID { add(Tree(source: nil)) }

    private mutating func add(_ tree: Tree) -> TreeID {
        nextTree += 1
        trees[nextTree] = tree
        return nextTree
    }

    /// What lies between the last record and `offset` is none (markers, compaction): it need not be read again.
    mutating func skip(_ partition: TopicPartition, to offset: Offset) {
        guard let next = partitions[partition]?.next else {
            partitions[partition]?.next = offset
            // Where it began is no progress.
            partitions[partition]?.committed = offset
            return
        }
        if offset > next { partitions[partition]?.next = offset }
    }

    /// Whether the tree is still of interest.
    func isAlive(_ tree: TreeID) -> Bool { trees[tree] != nil }

    /// Descendants were emitted.
    mutating func branch(_ tree: TreeID, _ count: Int = 1) { trees[tree]?.branches += count }

    /// One branch is finished.
    mutating func finish(_ tree: TreeID) -> End? {
        guard var state = trees[tree] else { return nil }
        state.branches -= 1
        precondition(state.branches >= 0, "a branch of a tree was finished twice")
        trees[tree] = state
        guard state.branches == 0 else { return nil }
        if let failure = state.failure, let source = state.source { return .failed(source, failure) }
        settled(tree)
        return .succeeded
    }

    /// One branch cannot be finished; the first failure of a tree counts.
    mutating func fail(_ tree: TreeID, _ failure: StageFailure) -> End? {
        if trees[tree]?.failure == nil { trees[tree]?.failure = failure }
        return finish(tree)
    }

    /// The tree has ended for good.
    mutating func settled(_ tree: TreeID) {
        guard let state = trees.removeValue(forKey: tree), let source = state.source,
            var progress = partitions[source.partition]
        else { return }
        progress.open -= 1
        if let index = Self.index(of: source.offset, in: progress.entries) { progress.entries[index].isDone = true }
        while progress.entries.first?.isDone == true { progress.entries.removeFirst() }
        partitions[source.partition] = progress
    }

    private static func index(of offset: Offset, in entries: Deque<Progress.Entry>) -> Int? {
        var low = 0
        var high = entries.count
        while low < high {
            let middle = (low + high) / 2
            if entries[middle].offset < offset { low = middle + 1 } else { high = middle }
        }
        return low < entries.count && entries[low].offset == offset ? low : nil
    }

    // MARK: Offsets

    /// What may be committed and is not yet: each the next offset to read.
    func committable(_ wanted: Set<TopicPartition>? = nil) -> [TopicPartition: Offset] {
        var result: [TopicPartition: Offset] = [:]
        for (partition, progress) in partitions where wanted?.contains(partition) ?? true {
            if let position = progress.position, position != progress.committed { result[partition] = position }
        }
        return result
    }

    /// These offsets were committed.
    mutating func committed(_ offsets: [TopicPartition: Offset]) {
        for (partition, offset) in offsets { partitions[partition]?.committed = offset }
    }
}
