// SPDX-License-Identifier: Apache-2.0

/// The log as the node sees it: what storage has, and on top of it what storage does not have yet.
struct RaftLog<Storage: RaftLogStorage> {
    /// The durable part.
    var storage: Storage
    /// Entries that storage does not have, or has differently; the first is at `unstableStart`.
    private(set) var unstable: [RaftEntry] = []
    /// Entries before this index are storage's, and durable.
    private(set) var unstableStart: RaftIndex
    /// A snapshot that replaces all that storage has, until the driver has installed it.
    private(set) var pendingSnapshot: RaftSnapshotMetadata?
    /// The last index that is known to be committed.
    private(set) var committed: RaftIndex
    /// The last index that the driver has applied.
    private(set) var applied: RaftIndex

    init(storage: Storage, committed: RaftIndex, applied: RaftIndex) {
        self.storage = storage
        self.unstableStart = storage.lastIndex + 1
        self.committed = committed
        self.applied = applied
    }

    var firstIndex: RaftIndex { pendingSnapshot.map { $0.index + 1 } ?? storage.firstIndex }
    var lastIndex: RaftIndex { unstableStart + RaftIndex(unstable.count) - 1 }
    var lastEpoch: RaftEpoch { epoch(at: lastIndex) ?? 0 }
    /// The last index up to which this node's copy is durable.
    var stableIndex: RaftIndex { pendingSnapshot == nil ? unstableStart - 1 : 0 }

    /// The epoch of the entry at `index`; nil if it is not in the log any more or not yet.
    func epoch(at index: RaftIndex) -> RaftEpoch? {
        if index >= unstableStart {
            let position = Int(index - unstableStart)
            return position < unstable.count ? unstable[position].epoch : nil
        }
        if let pendingSnapshot { return index == pendingSnapshot.index ? pendingSnapshot.epoch : nil }
        return storage.epoch(at: index)
    }

    func matches(_ index: RaftIndex, _ epoch: RaftEpoch) -> Bool { self.epoch(at: index) == epoch }

    /// Whether a log that ends so has at least everything that may be committed as far as this one can tell.
    func isUpToDate(lastIndex: RaftIndex, lastEpoch: RaftEpoch) -> Bool {
        lastEpoch > self.lastEpoch || (lastEpoch == self.lastEpoch && lastIndex >= self.lastIndex)
    }

    /// The highest index up to `index` whose epoch is at most `epoch`, and its epoch: where a log that ends so may match.
    func lastPossibleMatch(upTo index: RaftIndex, epoch: RaftEpoch) -> (index: RaftIndex, epoch: RaftEpoch) {
        var candidate = min(index, lastIndex)
        while candidate > 0, let own = self.epoch(at: candidate) {
            if own <= epoch { return (candidate, own) }
            candidate -= 1
        }
        return (candidate, self.epoch(at: candidate) ?? 0)
    }

    /// Entries of `range`, as many from its start as fit `maxBytes`, at least one. The range lies within the log.
    func entries(in range: Range<RaftIndex>, maxBytes: Int) -> [RaftEntry] {
        guard !range.isEmpty else { return [] }
        var result: [RaftEntry] = []
        if range.lowerBound < unstableStart {
            let stored = range.lowerBound..<min(range.upperBound, unstableStart)
            result = storage.entries(in: stored, maxBytes: maxBytes)
            if result.count < stored.count { return result }
        }
        guard range.upperBound > unstableStart else { return result }
        var bytes = result.reduce(0) { $0 + $1.size }
        let start = Int(max(range.lowerBound, unstableStart) - unstableStart)
        for entry in unstable[start..<Int(range.upperBound - unstableStart)] {
            bytes += entry.size
            if bytes > maxBytes, !result.isEmpty { break }
            result.append(entry)
        }
        return result
    }

    /// Appends entries that follow the log, or replace its end from the first of them on.
    mutating func append(_ entries: some Collection<RaftEntry>) {
        guard let first = entries.first?.index else { return }
        precondition(first > committed, "entry \(first) would replace what is committed up to \(committed)")
        precondition(first <= lastIndex + 1, "entry \(first) leaves a gap after \(lastIndex)")
        if first >= unstableStart {
            unstable.removeSubrange(Int(first - unstableStart)...)
            unstable.append(contentsOf: entries)
        } else {
            unstableStart = first
            unstable = Array(entries)
        }
    }

    /// Marks as committed up to `index`.
    mutating func commit(to index: RaftIndex) {
        precondition(index <= lastIndex, "commit index \(index) lies beyond the log's end \(lastIndex)")
        committed = max(committed, index)
    }

    /// Replaces everything by a snapshot.
    mutating func restore(_ snapshot: RaftSnapshotMetadata) {
        precondition(snapshot.index > committed, "the snapshot of \(snapshot.index) is older than the log")
        pendingSnapshot = snapshot
        unstable = []
        unstableStart = snapshot.index + 1
        committed = snapshot.index
    }

    /// Entries to apply next: committed, and durable here.
    func nextToApply(maxBytes: Int) -> [RaftEntry] {
        let end = min(committed, stableIndex)
        guard pendingSnapshot == nil, end > applied else { return [] }
        return entries(in: (applied + 1)..<(end + 1), maxBytes: maxBytes)
    }

    /// The driver has made durable everything up to this entry.
    mutating func persisted(through last: RaftEntry) {
        // A new leader may have replaced the entry meanwhile; what replaced it is still to be written.
        guard last.index >= unstableStart, epoch(at: last.index) == last.epoch else { return }
        unstable.removeFirst(Int(last.index - unstableStart) + 1)
        unstableStart = last.index + 1
    }

    /// The driver has installed a snapshot.
    mutating func installed(_ snapshot: RaftSnapshotMetadata) {
        if pendingSnapshot == snapshot { pendingSnapshot = nil }
        applied = max(applied, snapshot.index)
    }

    /// The driver has applied up to `index`.
    mutating func applied(through index: RaftIndex) { applied = max(applied, index) }
}

extension RaftLog: Sendable where Storage: Sendable {}
