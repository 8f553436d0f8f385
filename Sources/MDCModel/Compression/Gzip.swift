// SPDX-License-Identifier: Apache-2.0

import CZlib
import NIOCore

/// gzip by zlib. Several members in a row are one stream, as in RFC 1952.
enum Gzip {
    /// Window bits of zlib, with 16 added for the gzip wrapping.
    private static let windowBits: Int32 = 15 + 16

    static func maximumCompressedSize(of size: Int) -> Int {
        // zlib's own bound for default memory: five bytes per 16 KiB stored block and more, plus the wrapping.
        size + size >> 12 + size >> 14 + size >> 25 + 13 + 18
    }

    static func compress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        level: Int?
    ) throws(CompressionError) {
        var stream = z_stream()
        let made = deflateInit2_(
            &stream,
            level.map(Int32.init) ?? Z_DEFAULT_COMPRESSION,
            Z_DEFLATED,
            windowBits,
            8,
            Z_DEFAULT_STRATEGY,
            ZLIB_VERSION,
            Int32(MemoryLayout<z_stream>.size)
        )
        guard made == Z_OK else { throw CompressionError(.failed, "zlib's deflateInit2 returned \(made)") }
        defer { deflateEnd(&stream) }
        guard bytes.count <= Int(Int32.max) else { throw CompressionError(.failed, "more than 2 GiB to compress") }
        setInput(&stream, bytes)
        let bound = Int(deflateBound(&stream, UInt(bytes.count)))
        var status = Z_OK
        out.writeWithUnsafeMutableBytes(minimumWritableBytes: bound) { room in
            setOutput(&stream, room)
            status = deflate(&stream, Z_FINISH)
            return room.count - Int(stream.avail_out)
        }
        guard status == Z_STREAM_END else { throw CompressionError(.failed, "zlib's deflate returned \(status)") }
    }

    static func decompress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        limit: Int
    ) throws(CompressionError) {
        var stream = z_stream()
        let made = inflateInit2_(&stream, windowBits, ZLIB_VERSION, Int32(MemoryLayout<z_stream>.size))
        guard made == Z_OK else { throw CompressionError(.failed, "zlib's inflateInit2 returned \(made)") }
        defer { inflateEnd(&stream) }
        guard bytes.count <= Int(Int32.max) else { throw CompressionError(.corrupt, "more than 2 GiB of gzip data") }
        setInput(&stream, bytes)
        var output = BoundedOutput(codec: .gzip, limit: limit, inputSize: bytes.count)
        while true {
            var status = Z_OK
            let before = (stream.avail_in, output.produced)
            try output.write(to: &out) { room in
                setOutput(&stream, room)
                status = inflate(&stream, Z_NO_FLUSH)
                return room.count - Int(stream.avail_out)
            }
            if status == Z_STREAM_END {
                if stream.avail_in == 0 { return }
                inflateReset(&stream)
                continue
            }
            guard status == Z_OK, before != (stream.avail_in, output.produced) else {
                let why = stream.msg.map { String(cString: $0) } ?? "it ends early"
                throw CompressionError(.corrupt, "gzip data is corrupt after \(output.produced) bytes: \(why)")
            }
        }
    }

    private static func setInput(_ stream: inout z_stream, _ bytes: UnsafeRawBufferPointer) {
        // zlib takes a mutable pointer for historical reasons; it never writes to its input.
        stream.next_in = UnsafeMutablePointer(mutating: bytes.bindMemory(to: UInt8.self).baseAddress)
        stream.avail_in = UInt32(bytes.count)
    }

    private static func setOutput(_ stream: inout z_stream, _ room: UnsafeMutableRawBufferPointer) {
        stream.next_out = room.bindMemory(to: UInt8.self).baseAddress
        stream.avail_out = UInt32(clamping: room.count)
    }
}
