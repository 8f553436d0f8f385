// SPDX-License-Identifier: Apache-2.0

import CZstd
import NIOCore

/// Zstandard. Contexts are kept, since making one costs more than compressing a small batch.
enum Zstd {
    /// Contexts that have grown beyond this are not kept.
    private static let largestKeptContext = 4 << 20

    private static let compressors = ContextPool(make: { ZSTD_createCCtx() }, free: { ZSTD_freeCCtx($0) })
    private static let decompressors = ContextPool(make: { ZSTD_createDCtx() }, free: { ZSTD_freeDCtx($0) })

    static var levels: ClosedRange<Int> { Int(ZSTD_minCLevel())...Int(ZSTD_maxCLevel()) }

    static func maximumCompressedSize(of size: Int) -> Int { ZSTD_compressBound(size) }

    static func compress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        level: Int?
    ) throws(CompressionError) {
        guard let context = compressors.take() else { throw CompressionError(.failed, "zstd has no memory") }
        var result = 0
        out.writeWithUnsafeMutableBytes(minimumWritableBytes: ZSTD_compressBound(bytes.count)) { room in
            result = ZSTD_compressCCtx(
                context,
                room.baseAddress,
                room.count,
                bytes.baseAddress,
                bytes.count,
                level.map(Int32.init) ?? ZSTD_defaultCLevel()
            )
            return ZSTD_isError(result) == 0 ? result : 0
        }
        let failed = ZSTD_isError(result) != 0
        compressors.put(context, keep: !failed && ZSTD_sizeof_CCtx(context) <= largestKeptContext)
        if failed { throw CompressionError(.failed, "zstd: \(String(cString: ZSTD_getErrorName(result)))") }
    }

    /// Streams of unknown size get a window as their header demands (at most 128 MiB, the library's own limit). The
    /// library only reserves that memory; no more of it is touched than comes out, which `limit` bounds.
    static func decompress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        limit: Int
    ) throws(CompressionError) {
        guard let context = decompressors.take() else { throw CompressionError(.failed, "zstd has no memory") }
        var finished = false
        defer {
            decompressors.put(context, keep: finished && ZSTD_sizeof_DCtx(context) <= largestKeptContext)
        }
        var input = ZSTD_inBuffer(src: bytes.baseAddress, size: bytes.count, pos: 0)
        var output = BoundedOutput(codec: .zstd, limit: limit, inputSize: bytes.count)
        while true {
            var hint = 0
            let before = (input.pos, output.produced)
            try output.write(to: &out) { room in
                var target = ZSTD_outBuffer(dst: room.baseAddress, size: room.count, pos: 0)
                hint = ZSTD_decompressStream(context, &target, &input)
                return target.pos
            }
            guard ZSTD_isError(hint) == 0 else {
                let why = String(cString: ZSTD_getErrorName(hint))
                throw CompressionError(.corrupt, "zstd data is corrupt near byte \(input.pos): \(why)")
            }
            // 0: a frame ended; another may follow.
            if hint == 0, input.pos == input.size {
                finished = true
                return
            }
            guard before != (input.pos, output.produced) else {
                throw CompressionError(.corrupt, "zstd data ends early, after \(output.produced) bytes came out")
            }
        }
    }
}
