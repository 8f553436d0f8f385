// SPDX-License-Identifier: Apache-2.0

/// The offset from which a partition must be read back to know everything that is still open. Pure.
///
/// Only the records that open something are tracked; when nothing is open, the floor is the end of what was read.
struct FloorTracker: Sendable {
    private var open: CommitTracker
    private var next: Int64

    init(start: Int64) {
        open = CommitTracker(start: start)
        next = start
    }

    /// Notes a record that opens nothing.
    mutating func passed(_ offset: Int64) {
        next = max(next, offset + 1)
    }

    /// Notes a record that opens something.
    mutating func opened(_ offset: Int64) {
        _ = open.read(offset)
        next = max(next, offset + 1)
    }

    /// Notes that what this record opened is at its end.
    mutating func closed(_ offset: Int64) {
        open.complete(offset)
    }

    /// The offset to commit.
    var floor: Int64 { open.isEmpty ? next : open.committable }
}
