// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// Chooses partitions as Kafka's producers do: a key by its murmur2 hash; records without a key stick to one
/// partition for a batch's worth of bytes, then move to another at random (KIP-480, KIP-794). Pure.
struct StickyPartitioner: Sendable {
    private var current: Int32 = -1
    private var bytesOnCurrent = 0

    /// The partition of a key.
    static func partition(of key: ByteBuffer, count: Int32) -> Int32 {
        key.withUnsafeReadableBytes { Murmur2.partition(of: $0, partitionCount: count).rawValue }
    }

    /// The partition for `size` bytes without a key. Partitions without a leader are left out while there are others.
    mutating func next(
        size: Int,
        count: Int32,
        stickyBytes: Int,
        isAvailable: (Int32) -> Bool,
        using generator: inout SeededGenerator
    ) -> Int32 {
        if current < 0 || current >= count || bytesOnCurrent >= stickyBytes || !isAvailable(current) {
            let available = (0..<count).filter(isAvailable)
            let choices = available.isEmpty ? Array(0..<count) : available
            let others = choices.filter { $0 != current }
            current = (others.isEmpty ? choices : others).randomElement(using: &generator) ?? 0
            bytesOnCurrent = 0
        }
        bytesOnCurrent += size
        return current
    }
}
