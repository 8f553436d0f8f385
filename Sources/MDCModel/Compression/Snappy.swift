// SPDX-License-Identifier: Apache-2.0

import CSnappy
import NIOCore

/// Snappy. Raw Snappy has no framing; the Java library wraps blocks of it (16 bytes of header, then for each block a
/// four-byte size and the block), and so do Kafka's producers. Both are read; the framed form is written, which every
/// client reads.
enum Snappy {
    /// What the framed form begins with: a byte no raw stream of that length could sensibly begin with, and the name.
    private static let magic: [UInt8] = [0x82, 0x53, 0x4E, 0x41, 0x50, 0x50, 0x59, 0x00]
    /// The magic, the version and the oldest version that can read it, both 1.
    private static let frameHeader: [UInt8] = magic + [0, 0, 0, 1, 0, 0, 0, 1]
    /// Bytes of one block before compression, as Kafka's producers have it.
    private static let blockSize = 32 << 10
    /// A copy of 64 bytes takes three bytes of input; that is the best Snappy can do.
    private static let mostPerInputByte = 22

    static func maximumCompressedSize(of size: Int) -> Int {
        // Snappy's own bound per block is 32 + n + n/6.
        frameHeader.count + size + size / 6 + (size / blockSize + 1) * 36
    }

    static func compress(_ bytes: UnsafeRawBufferPointer, into out: inout ByteBuffer) throws(CompressionError) {
        out.writeBytes(frameHeader)
        var position = 0
        while position < bytes.count {
            let size = min(blockSize, bytes.count - position)
            let block = UnsafeRawBufferPointer(rebasing: bytes[position..<position + size])
            let sizeAt = out.writerIndex
            out.writeInteger(UInt32(0))
            var status = SNAPPY_OK
            let written = out.writeWithUnsafeMutableBytes(
                minimumWritableBytes: snappy_max_compressed_length(size)
            ) { room in
                var length = room.count
                status = snappy_compress(
                    block.bindMemory(to: CChar.self).baseAddress,
                    size,
                    room.bindMemory(to: CChar.self).baseAddress,
                    &length
                )
                return status == SNAPPY_OK ? length : 0
            }
            guard status == SNAPPY_OK else {
                throw CompressionError(.failed, "snappy_compress returned \(status.rawValue)")
            }
            out.setInteger(UInt32(written), at: sizeAt)
            position += size
        }
    }

    static func decompress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        limit: Int
    ) throws(CompressionError) {
        guard bytes.starts(with: magic) else {
            _ = try decompressBlock(bytes, into: &out, limit: limit)
            return
        }
        var position = frameHeader.count
        var left = limit
        guard bytes.count >= position else { throw CompressionError(.corrupt, "snappy data ends within its header") }
        while position < bytes.count {
            // Streams put after one another repeat the header.
            if bytes[position...].starts(with: magic), bytes.count - position >= frameHeader.count {
                position += frameHeader.count
                continue
            }
            guard bytes.count - position >= 4 else {
                throw CompressionError(.corrupt, "snappy data ends within the size of a block, at byte \(position)")
            }
            let size = Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: position, as: UInt32.self)))
            position += 4
            guard size <= bytes.count - position else {
                throw CompressionError(
                    .corrupt,
                    "a snappy block has \(size) bytes, but \(bytes.count - position) are left"
                )
            }
            let block = UnsafeRawBufferPointer(rebasing: bytes[position..<position + size])
            left -= try decompressBlock(block, into: &out, limit: left)
            position += size
        }
    }

    /// Decompresses one raw block; returns its size, which is at most `limit`.
    private static func decompressBlock(
        _ block: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        limit: Int
    ) throws(CompressionError) -> Int {
        let input = block.bindMemory(to: CChar.self).baseAddress
        var size = 0
        guard snappy_uncompressed_length(input, block.count, &size) == SNAPPY_OK else {
            throw CompressionError(.corrupt, "a snappy block of \(block.count) bytes does not begin with its size")
        }
        guard size <= limit else { throw .limit(.snappy, limit) }
        // The size is only claimed: refuse what so few bytes cannot hold before there is memory for it.
        guard size <= block.count * mostPerInputByte else {
            throw CompressionError(.corrupt, "a snappy block of \(block.count) bytes claims to hold \(size)")
        }
        var status = SNAPPY_OK
        out.writeWithUnsafeMutableBytes(minimumWritableBytes: size) { room in
            var length = room.count
            status = snappy_uncompress(
                input,
                block.count,
                room.bindMemory(to: CChar.self).baseAddress,
                &length
            )
            return status == SNAPPY_OK ? length : 0
        }
        guard status == SNAPPY_OK else {
            throw CompressionError(.corrupt, "a snappy block of \(block.count) bytes is corrupt")
        }
        return size
    }
}
