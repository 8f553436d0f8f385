// SPDX-License-Identifier: Apache-2.0

import CLZ4
import NIOCore

/// LZ4 in its frame format, as message format v2 has it: with the header checksum of the specification (format v0's
/// was wrong), blocks of at most 64 KiB that stand each by itself, no content checksum, since the batch has its own.
enum LZ4 {
    /// Contexts of frames with larger blocks have grown buffers of megabytes and are not kept.
    private static let largestKeptBlockID = 5

    private static let compressors = ContextPool(
        make: {
            var context: OpaquePointer?
            return LZ4F_isError(LZ4F_createCompressionContext(&context, UInt32(LZ4F_VERSION))) == 0 ? context : nil
        },
        free: { LZ4F_freeCompressionContext($0) }
    )

    private static let decompressors = ContextPool(
        make: {
            var context: OpaquePointer?
            return LZ4F_isError(LZ4F_createDecompressionContext(&context, UInt32(LZ4F_VERSION))) == 0 ? context : nil
        },
        free: { LZ4F_freeDecompressionContext($0) }
    )

    private static func preferences(level: Int?) -> LZ4F_preferences_t {
        var preferences = LZ4F_preferences_t()
        preferences.frameInfo.blockSizeID = LZ4F_max64KB
        preferences.frameInfo.blockMode = LZ4F_blockIndependent
        preferences.compressionLevel = Int32(level ?? 0)
        // All input is there at once: compress straight from it, without the context's own buffer.
        preferences.autoFlush = 1
        return preferences
    }

    static func maximumCompressedSize(of size: Int) -> Int {
        var preferences = preferences(level: nil)
        return LZ4F_compressFrameBound(size, &preferences)
    }

    static func compress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        level: Int?
    ) throws(CompressionError) {
        guard let context = compressors.take() else { throw CompressionError(.failed, "lz4 has no memory") }
        var preferences = preferences(level: level)
        var status = 0
        out.writeWithUnsafeMutableBytes(minimumWritableBytes: maximumCompressedSize(of: bytes.count)) { room in
            guard let start = room.baseAddress else { return 0 }
            var written = 0
            // Each step's result is a size, or an error in the same number.
            let steps: [() -> Int] = [
                { LZ4F_compressBegin(context, start, room.count, &preferences) },
                {
                    LZ4F_compressUpdate(
                        context,
                        start + written,
                        room.count - written,
                        bytes.baseAddress,
                        bytes.count,
                        nil
                    )
                },
                { LZ4F_compressEnd(context, start + written, room.count - written, nil) },
            ]
            for step in steps {
                status = step()
                guard LZ4F_isError(status) == 0 else { return 0 }
                written += status
            }
            return written
        }
        let failed = LZ4F_isError(status) != 0
        // High levels make the context's tables several times as large.
        compressors.put(context, keep: !failed && (level ?? 0) < 3)
        if failed { throw CompressionError(.failed, "lz4: \(String(cString: LZ4F_getErrorName(status)))") }
    }

    static func decompress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        limit: Int
    ) throws(CompressionError) {
        guard let context = decompressors.take() else { throw CompressionError(.failed, "lz4 has no memory") }
        var finished = false
        defer {
            // Bits 4-6 of the sixth byte of a frame give its block size.
            let blockID = bytes.count > 5 ? Int(bytes[5] >> 4 & 7) : 7
            decompressors.put(context, keep: finished && blockID <= largestKeptBlockID)
        }
        var output = BoundedOutput(codec: .lz4, limit: limit, inputSize: bytes.count)
        var position = 0
        while true {
            var hint = 0
            var consumed = 0
            let before = output.produced
            try output.write(to: &out) { room in
                var written = room.count
                consumed = bytes.count - position
                hint = LZ4F_decompress(
                    context,
                    room.baseAddress,
                    &written,
                    bytes.baseAddress.map { $0 + position },
                    &consumed,
                    nil
                )
                return LZ4F_isError(hint) == 0 ? written : 0
            }
            guard LZ4F_isError(hint) == 0 else {
                let why = String(cString: LZ4F_getErrorName(hint))
                throw CompressionError(.corrupt, "lz4 data is corrupt near byte \(position): \(why)")
            }
            position += consumed
            // 0: a frame ended; another may follow.
            if hint == 0, position == bytes.count {
                finished = true
                return
            }
            guard consumed > 0 || output.produced > before else {
                throw CompressionError(.corrupt, "lz4 data ends early, after \(output.produced) bytes came out")
            }
        }
    }
}
