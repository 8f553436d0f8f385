// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

extension BatchCheck {
    /// A client's batches with their records compressed by the topic's codec; nil where they are already. They are judged
    /// before, records included, so that a fresh checksum never covers what came damaged; who appends judges the result
    /// again, because it may have grown.
    func recompress(_ batches: ByteBuffer, _ codec: CompressionCodec) throws(LogError) -> ByteBuffer? {
        guard differs(batches, from: codec) else { return nil }
        var check = self
        check.settings.validatesRecords = true
        _ = try batches.withUnsafeReadableBytes { bytes throws(LogError) in try check.validate(bytes) }
        var rest = batches
        var out = ByteBufferAllocator().buffer(capacity: batches.readableBytes)
        do throws(RecordBatchError) {
            while rest.readableBytes > 0 {
                // The checksum was verified a moment ago.
                let batch = try RecordBatchReader(rest, verifyChecksum: false)
                rest.moveReaderIndex(forwardBy: batch.header.sizeInBytes)
                if batch.header.attributes.codec == codec || batch.header.recordCount == 0 {
                    out.writeImmutableBuffer(batch.bytes)
                } else {
                    try batch.recompress(to: codec, level: settings.compression.level, into: &out)
                }
            }
        } catch {
            throw LogError(error)
        }
        return out
    }

    /// Whether a batch has another codec. What cannot be read as a batch has none: the append refuses it.
    private func differs(_ batches: ByteBuffer, from codec: CompressionCodec) -> Bool {
        batches.withUnsafeReadableBytes { bytes in
            var position = 0
            while bytes.count - position >= RecordBatchHeader.Layout.size {
                let header = RecordBatchHeader(reading: UnsafeRawBufferPointer(rebasing: bytes[position...]))
                if header.attributes.codec != codec && header.recordCount > 0 { return true }
                guard header.batchLength > 0 else { return false }
                position += header.sizeInBytes
            }
            return false
        }
    }
}
