// SPDX-License-Identifier: Apache-2.0

/// The durable part of the log, as the driver keeps it. `RaftNode` only reads; the driver writes what `RaftReady` asks for.
///
/// The functions cannot fail: the metadata log behind the latest snapshot is small, and a driver whose disk cannot be read
/// must stop the node.
public protocol RaftLogStorage {
    /// What the node remembered last.
    var hardState: RaftHardState { get }
    /// The latest snapshot; the empty one if there is none.
    var snapshot: RaftSnapshotMetadata { get }
    /// The first index that entries can be read from: at most `snapshot.index + 1`, lower if entries before are kept.
    var firstIndex: RaftIndex { get }
    /// The last index; `firstIndex - 1` if there are no entries, never less than `snapshot.index`.
    var lastIndex: RaftIndex { get }
    /// The epoch of the entry at `index`, from `firstIndex - 1` to `lastIndex`; nil outside.
    func epoch(at index: RaftIndex) -> RaftEpoch?
    /// The entries of `range`, which lies within `firstIndex...lastIndex`: all, or as many from its start as fit
    /// `maxBytes` by `RaftEntry.size`, at least one.
    func entries(in range: Range<RaftIndex>, maxBytes: Int) -> [RaftEntry]
    /// Up to `maxBytes` of the snapshot that ends at `index`, from `position` on, and whether it ends with them; nil if that
    /// snapshot is gone.
    func snapshotBytes(of index: RaftIndex, from position: Int64, maxBytes: Int) -> (bytes: [UInt8], isLast: Bool)?
}
