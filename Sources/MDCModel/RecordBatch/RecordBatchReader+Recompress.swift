// SPDX-License-Identifier: Apache-2.0

public import NIOCore

extension RecordBatchReader {
    /// Writes the batch to the end of `out` with its records compressed by another codec. The records themselves, and
    /// every field of the header but codec, length and checksum, stay as they are: offsets, timestamps, the producer's
    /// sequence. On an error `out` is as before.
    ///
    /// - Parameters:
    ///   - codec: The codec to use. A batch without records has nothing to compress and says "no codec".
    ///   - level: One of the codec's `levels`; nil for its default.
    public func recompress(
        to codec: CompressionCodec,
        level: Int? = nil,
        into out: inout ByteBuffer
    ) throws(RecordBatchError) {
        let records = try decompressedRecords()
        let codec = header.recordCount == 0 ? CompressionCodec.none : codec
        let start = out.writerIndex
        out.writeRepeatingByte(0, count: RecordBatchHeader.Layout.size)
        var failure: CompressionError?
        records.withUnsafeReadableBytes { bytes in
            do throws(CompressionError) {
                try codec.compress(bytes, into: &out, level: codec.levels == nil ? nil : level)
            } catch {
                failure = error
            }
        }
        let length = out.writerIndex - start - RecordBatchHeader.Layout.logOverhead
        guard failure == nil, length <= Int(Int32.max) else {
            out.moveWriterIndex(to: start)
            throw failure.map { RecordBatchError($0) }
                ?? RecordBatchError(
                    .tooLarge,
                    "the records take \(length) bytes with \(codec), more than a batch can hold"
                )
        }
        var header = header
        header.batchLength = Int32(length)
        header.attributes = header.attributes.with(codec: codec)
        let position = start - out.readerIndex
        out.withUnsafeMutableReadableBytes { readable in
            let bytes = UnsafeMutableRawBufferPointer(rebasing: readable[position...])
            header.crc = header.checksum(
                records: UnsafeRawBufferPointer(rebasing: bytes[RecordBatchHeader.Layout.size...])
            )
            header.write(to: bytes)
        }
    }
}
