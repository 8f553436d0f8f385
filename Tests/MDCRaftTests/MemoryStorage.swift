// SPDX-License-Identifier: Apache-2.0

import MDCRaft

/// A log in memory that can forget what was written and not synced, as a disk does when power fails.
struct MemoryStorage: RaftLogStorage, Sendable {
    struct Contents: Sendable {
        var hardState = RaftHardState()
        var snapshot = RaftSnapshotMetadata()
        var snapshotBytes: [UInt8] = []
        var entries: [RaftEntry] = []
        /// The index before the first of `entries`, and its epoch.
        var base: RaftIndex = 0
        var baseEpoch: RaftEpoch = 0
    }

    private(set) var contents = Contents()
    private(set) var durable = Contents()
    /// The file that an arriving snapshot is written to.
    private var incoming: [UInt8] = []

    init(membership: RaftMembership) {
        contents.snapshot.membership = membership
        durable = contents
    }

    var hardState: RaftHardState { contents.hardState }
    var snapshot: RaftSnapshotMetadata { contents.snapshot }
    var firstIndex: RaftIndex { contents.base + 1 }
    var lastIndex: RaftIndex { contents.base + RaftIndex(contents.entries.count) }

    func epoch(at index: RaftIndex) -> RaftEpoch? {
        if index == contents.base { return contents.baseEpoch }
        guard index > contents.base, index <= lastIndex else { return nil }
        return contents.entries[Int(index - contents.base) - 1].epoch
    }

    func entries(in range: Range<RaftIndex>, maxBytes: Int) -> [RaftEntry] {
        precondition(range.lowerBound >= firstIndex && range.upperBound <= lastIndex + 1, "\(range) is not in the log")
        var bytes = 0
        var result: [RaftEntry] = []
        for entry in contents.entries[Int(range.lowerBound - firstIndex)..<Int(range.upperBound - firstIndex)] {
            bytes += entry.size
            if bytes > maxBytes, !result.isEmpty { break }
            result.append(entry)
        }
        return result
    }

    func snapshotBytes(of index: RaftIndex, from position: Int64, maxBytes: Int) -> (bytes: [UInt8], isLast: Bool)? {
        guard index == contents.snapshot.index, position <= contents.snapshotBytes.count else { return nil }
        let end = min(contents.snapshotBytes.count, Int(position) + maxBytes)
        return (Array(contents.snapshotBytes[Int(position)..<end]), end == contents.snapshotBytes.count)
    }

    // MARK: - What the driver does

    mutating func append(_ entries: [RaftEntry]) {
        guard let first = entries.first?.index else { return }
        precondition(first >= firstIndex && first <= lastIndex + 1, "\(first) does not follow \(lastIndex)")
        contents.entries.removeSubrange(Int(first - firstIndex)...)
        contents.entries.append(contentsOf: entries)
    }

    mutating func write(_ hardState: RaftHardState) { contents.hardState = hardState }

    mutating func write(_ chunk: RaftMessage.SnapshotChunk) {
        if chunk.position == 0 { incoming = [] }
        precondition(chunk.position == incoming.count, "a piece of a snapshot is missing before \(chunk.position)")
        incoming.append(contentsOf: chunk.bytes)
    }

    /// Makes the arriving snapshot current, in place of the log.
    mutating func install(_ snapshot: RaftSnapshotMetadata) {
        contents.snapshot = snapshot
        contents.snapshotBytes = incoming
        contents.entries = []
        contents.base = snapshot.index
        contents.baseEpoch = snapshot.epoch
        incoming = []
    }

    /// Makes a snapshot at `index` and drops the log up to `keeping` entries before it.
    mutating func makeSnapshot(_ snapshot: RaftSnapshotMetadata, bytes: [UInt8], keeping: RaftIndex) {
        contents.snapshot = snapshot
        contents.snapshotBytes = bytes
        let newBase = max(contents.base, snapshot.index - keeping)
        contents.baseEpoch = epoch(at: newBase)!
        contents.entries.removeFirst(Int(newBase - contents.base))
        contents.base = newBase
        sync()
    }

    mutating func sync() { durable = contents }

    /// Power fails: what was not synced is gone.
    mutating func crash() {
        contents = durable
        incoming = []
    }
}
