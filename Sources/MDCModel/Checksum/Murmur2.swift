// SPDX-License-Identifier: Apache-2.0

/// The hash by which producers choose a partition from a key: MurmurHash2, 32 bits, with Kafka's seed.
/// The same key lands on the same partition whichever client sends it.
public enum Murmur2 {
    /// The hash of `key`, as the signed number that other clients print.
    public static func hash(_ key: UnsafeRawBufferPointer) -> Int32 {
        let multiplier: UInt32 = 0x5BD1_E995
        let count = key.count
        var hash: UInt32 = 0x9747_B28C ^ UInt32(truncatingIfNeeded: count)
        var position = 0
        while position + 4 <= count {
            var word = UInt32(littleEndian: key.loadUnaligned(fromByteOffset: position, as: UInt32.self))
            word &*= multiplier
            word ^= word >> 24
            word &*= multiplier
            hash &*= multiplier
            hash ^= word
            position += 4
        }
        if position < count {
            var shift: UInt32 = 0
            for index in position..<count {
                hash ^= UInt32(key[index]) << shift
                shift += 8
            }
            hash &*= multiplier
        }
        hash ^= hash >> 13
        hash &*= multiplier
        hash ^= hash >> 15
        return Int32(bitPattern: hash)
    }

    /// The partition of a key among `partitionCount` (at least 1).
    public static func partition(of key: UnsafeRawBufferPointer, partitionCount: Int32) -> PartitionID {
        precondition(partitionCount > 0, "a topic has at least one partition, not \(partitionCount)")
        return PartitionID((hash(key) & Int32.max) % partitionCount)
    }
}
