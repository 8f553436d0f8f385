// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// The last offset of each key of a part of a log, in bounded memory: an open-addressing table of 128-bit keyed hashes.
/// Two keys with the same hash would be taken for one; with a secret random key nobody can construct such, and the odds
/// of it by chance are below 1 in 10^20 for a billion keys.
struct KeyTable {
    private struct Slot {
        var high: UInt64
        var low: UInt64
        var offset: Int64
    }

    private var slots: ContiguousArray<Slot>
    private let mask: Int
    private let hasher: SipHash
    /// Keys that fit before the table is full.
    let capacity: Int
    private(set) var count = 0
    /// Offset after the last batch that was entered.
    var end: Offset

    init(memoryBytes: Int, start: Offset, hasher: SipHash) {
        let wanted = max(memoryBytes / MemoryLayout<Slot>.stride, 16)
        // The largest power of two that fits.
        let size = 1 << (Int.bitWidth - 1 - wanted.leadingZeroBitCount)
        slots = ContiguousArray(repeating: Slot(high: 0, low: 0, offset: -1), count: size)
        mask = size - 1
        capacity = size / 4 * 3
        self.hasher = hasher
        end = start
    }

    /// Enters a key's offset; false where the table is full.
    mutating func insert(_ key: UnsafeRawBufferPointer, at offset: Offset) -> Bool {
        let (high, low) = hasher.hash(key)
        var index = Int(truncatingIfNeeded: low) & mask
        while slots[index].offset >= 0 {
            if slots[index].high == high && slots[index].low == low {
                slots[index].offset = max(slots[index].offset, offset.rawValue)
                return true
            }
            index = (index + 1) & mask
        }
        guard count < capacity else { return false }
        slots[index] = Slot(high: high, low: low, offset: offset.rawValue)
        count += 1
        return true
    }

    /// The last offset of a key; nil where it was not entered.
    func lastOffset(of key: UnsafeRawBufferPointer) -> Offset? {
        let (high, low) = hasher.hash(key)
        var index = Int(truncatingIfNeeded: low) & mask
        while slots[index].offset >= 0 {
            if slots[index].high == high && slots[index].low == low { return Offset(slots[index].offset) }
            index = (index + 1) & mask
        }
        return nil
    }
}

/// SipHash-2-4 with 128 bits of output, under a secret key (Aumasson and Bernstein, 2012).
struct SipHash: Sendable {
    private let key0: UInt64
    private let key1: UInt64

    init(key0: UInt64, key1: UInt64) {
        self.key0 = key0
        self.key1 = key1
    }

    init(using generator: inout some RandomNumberGenerator) {
        self.init(key0: generator.next(), key1: generator.next())
    }

    func hash(_ bytes: UnsafeRawBufferPointer) -> (high: UInt64, low: UInt64) {
        var v0 = 0x736f_6d65_7073_6575 ^ key0
        var v1 = 0x646f_7261_6e64_6f6d ^ key1 ^ 0xEE
        var v2 = 0x6c79_6765_6e65_7261 ^ key0
        var v3 = 0x7465_6462_7974_6573 ^ key1
        @inline(__always) func rotate(_ value: UInt64, _ by: UInt64) -> UInt64 { value << by | value >> (64 - by) }
        @inline(__always) func round() {
            v0 = v0 &+ v1
            v1 = rotate(v1, 13) ^ v0
            v0 = rotate(v0, 32)
            v2 = v2 &+ v3
            v3 = rotate(v3, 16) ^ v2
            v0 = v0 &+ v3
            v3 = rotate(v3, 21) ^ v0
            v2 = v2 &+ v1
            v1 = rotate(v1, 17) ^ v2
            v2 = rotate(v2, 32)
        }
        let whole = bytes.count & ~7
        var position = 0
        while position < whole {
            let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self))
            v3 ^= word
            round()
            round()
            v0 ^= word
            position += 8
        }
        var last = UInt64(truncatingIfNeeded: bytes.count) << 56
        while position < bytes.count {
            last |= UInt64(bytes[position]) << UInt64((position - whole) * 8)
            position += 1
        }
        v3 ^= last
        round()
        round()
        v0 ^= last
        v2 ^= 0xEE
        for _ in 0..<4 { round() }
        let low = v0 ^ v1 ^ v2 ^ v3
        v1 ^= 0xDD
        for _ in 0..<4 { round() }
        return (v0 ^ v1 ^ v2 ^ v3, low)
    }
}
