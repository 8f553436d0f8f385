// SPDX-License-Identifier: Apache-2.0

import MDCModel
public import NIOCore

/// Which task of a stage gets a record.
public enum Grouping: String, Sendable, Hashable, CaseIterable {
    /// The tasks take turns.
    case shuffle
    /// Each task owns a part of the keys, by their hash, so records of a key stay in order. No key counts as an empty one.
    case byKey = "by-key"
    /// The first task gets all.
    case global

    /// The task for a record, of `count` tasks. `turn`: how many records this stage got before.
    public func task(for key: ByteBuffer?, turn: Int, of count: Int) -> Int {
        switch self {
        case .shuffle: turn % count
        case .byKey:
            // Partitions were chosen by the same hash: unless it is mixed once more, all keys of one would meet in one task.
            (key ?? ByteBuffer()).withUnsafeReadableBytes {
                Int((UInt32(bitPattern: Murmur2.hash($0)) &* 0x9E37_79B1) >> 16) % count
            }
        case .global: 0
        }
    }
}
