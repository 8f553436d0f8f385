// SPDX-License-Identifier: Apache-2.0

/// Variable-length integers of the record format: base 128, lowest group first, signed numbers in zigzag form
/// (0, -1, 1, -2, … become 0, 1, 2, 3, …).
public enum Varint {
    /// The most bytes that a 32-bit number takes.
    public static let maxSize32 = 5
    /// The most bytes that a 64-bit number takes.
    public static let maxSize64 = 10

    @inlinable static func zigzag(_ value: Int64) -> UInt64 {
        UInt64(bitPattern: (value << 1) ^ (value >> 63))
    }

    /// Bytes that `value` takes. A 32-bit number takes as many as the same number in 64 bits.
    @inlinable public static func size(_ value: Int64) -> Int {
        // Seven bits a byte; at least one byte.
        (70 - (zigzag(value) | 1).leadingZeroBitCount) / 7
    }

    /// Bytes that `value` takes.
    @inlinable public static func size(_ value: Int) -> Int { size(Int64(value)) }

    /// Writes `value` at `position`, which moves on. The caller has made room (`size(_:)` bytes).
    @inlinable public static func write(
        _ value: Int64,
        to bytes: UnsafeMutableRawBufferPointer,
        at position: inout Int
    ) {
        var rest = zigzag(value)
        while rest >= 0x80 {
            bytes[position] = UInt8(truncatingIfNeeded: rest) | 0x80
            position += 1
            rest >>= 7
        }
        bytes[position] = UInt8(truncatingIfNeeded: rest)
        position += 1
    }

    /// Reads a 32-bit number at `position`, which moves on; nil where the bytes end first, or where the number does
    /// not fit (more than five bytes, or bits beyond 32).
    @inlinable public static func read32(_ bytes: UnsafeRawBufferPointer, at position: inout Int) -> Int32? {
        guard position < bytes.count else { return nil }
        let first = bytes[position]
        if first < 0x80 {
            position += 1
            return Int32(first >> 1) ^ -Int32(first & 1)
        }
        guard let raw = readUnsigned(bytes, at: &position, maxSize: maxSize32), raw <= UInt64(UInt32.max) else {
            return nil
        }
        let narrow = UInt32(truncatingIfNeeded: raw)
        return Int32(bitPattern: narrow >> 1) ^ -Int32(bitPattern: narrow & 1)
    }

    /// Reads a 64-bit number at `position`, which moves on; nil where the bytes end first, or where the number does
    /// not fit (more than ten bytes, or bits beyond 64).
    @inlinable public static func read64(_ bytes: UnsafeRawBufferPointer, at position: inout Int) -> Int64? {
        guard let raw = readUnsigned(bytes, at: &position, maxSize: maxSize64) else { return nil }
        return Int64(bitPattern: raw >> 1) ^ -Int64(bitPattern: raw & 1)
    }

    @inlinable static func readUnsigned(
        _ bytes: UnsafeRawBufferPointer,
        at position: inout Int,
        maxSize: Int
    ) -> UInt64? {
        var result: UInt64 = 0
        var shift: UInt64 = 0
        let end = min(bytes.count, position + maxSize)
        var index = position
        while index < end {
            let byte = bytes[index]
            index += 1
            // The tenth byte has room for one bit of the 64.
            if shift == 63 && byte > 1 { return nil }
            result |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 {
                position = index
                return result
            }
            shift += 7
        }
        return nil
    }
}
