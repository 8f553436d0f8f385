// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// Visits the records of one batch in place, decompressing them first where need be.
enum RecordWalk {
    /// Calls `visit` with each record of `batch` until it returns false. The views are valid only inside the call.
    static func forEach(
        in batch: UnsafeRawBufferPointer,
        header: RecordBatchHeader,
        scratch: inout ByteBuffer,
        _ visit: (RecordView) throws(LogError) -> Bool
    ) throws(LogError) {
        let records = UnsafeRawBufferPointer(rebasing: batch[RecordBatchHeader.Layout.size..<header.sizeInBytes])
        guard let codec = CompressionCodec(rawValue: UInt8(header.attributes.compressionNumber)) else {
            throw LogError(
                .unsupportedCompression,
                "there is no compression codec \(header.attributes.compressionNumber)"
            )
        }
        if codec == .none || header.recordCount == 0 { return try walk(records, header, visit) }
        scratch.clear()
        do throws(CompressionError) {
            try codec.decompress(records, into: &scratch, limit: RecordBatchReader.defaultDecompressionLimit)
        } catch {
            throw LogError(.corruptBatch, "the records at offset \(header.baseOffset) do not decompress: \(error)")
        }
        try scratch.withUnsafeReadableBytes { bytes throws(LogError) in try walk(bytes, header, visit) }
    }

    /// The same over an array, with its own scratch space.
    static func forEach(
        in batch: [UInt8],
        header: RecordBatchHeader,
        _ visit: (RecordView) throws(LogError) -> Bool
    ) throws(LogError) {
        var failure: LogError?
        var scratch = ByteBuffer()
        batch.withUnsafeBytes { bytes in
            do throws(LogError) {
                try forEach(in: bytes, header: header, scratch: &scratch, visit)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    private static func walk(
        _ records: UnsafeRawBufferPointer,
        _ header: RecordBatchHeader,
        _ visit: (RecordView) throws(LogError) -> Bool
    ) throws(LogError) {
        var cursor = RecordCursor(records, header: header)
        while true {
            let record: RecordView?
            do throws(RecordBatchError) {
                record = try cursor.next()
            } catch {
                throw LogError(.corruptBatch, "the batch at offset \(header.baseOffset): \(error.message)")
            }
            guard let record else { return }
            if !(try visit(record)) { return }
        }
    }
}

extension RecordView {
    func offset(in header: RecordBatchHeader) -> Offset {
        Offset(header.baseOffset.rawValue &+ Int64(offsetDelta))
    }

    /// The record's timestamp: its own, or the broker's where the batch says so.
    func timestamp(in header: RecordBatchHeader) -> Timestamp {
        header.attributes.isLogAppendTime
            ? header.maxTimestamp : Timestamp(header.baseTimestamp.rawValue &+ timestampDelta)
    }
}
