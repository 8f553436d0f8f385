// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// Reads one batch.
///
/// For hot paths `forEachRecord` hands out pointers and allocates nothing per record; `records()` and
/// `makeRecordIterator()` give `Record` values whose keys and values are slices. Compressed records are decompressed
/// when they are walked, within `decompressionLimit`.
public struct RecordBatchReader: Sendable {
    /// The most bytes that a batch's records may have after decompression, unless told otherwise: 64 MiB.
    public static let defaultDecompressionLimit = 64 << 20

    /// The header.
    public let header: RecordBatchHeader
    /// The whole batch.
    public let bytes: ByteBuffer
    /// The most bytes that the decompressed records may have.
    public let decompressionLimit: Int

    /// Reads the batch at the head of `buffer`; bytes after it are left alone. Checks the magic, the length and the
    /// codec, and the checksum unless told not to, because it was checked before.
    public init(
        _ buffer: ByteBuffer,
        verifyChecksum: Bool = true,
        decompressionLimit: Int = Self.defaultDecompressionLimit
    ) throws(RecordBatchError) {
        let header = try Self.header(of: buffer)
        guard let batch = buffer.getSlice(at: buffer.readerIndex, length: header.sizeInBytes) else {
            throw RecordBatchError(
                .truncated,
                "batchLength \(header.batchLength) calls for \(header.sizeInBytes) bytes, there are "
                    + "\(buffer.readableBytes)"
            )
        }
        guard header.attributes.codec != nil else {
            throw RecordBatchError(
                .unsupportedCompression,
                "attributes name codec \(header.attributes.compressionNumber); 0 to 4 exist"
            )
        }
        guard header.recordCount >= 0 else {
            throw RecordBatchError(.invalidHeader, "recordCount is \(header.recordCount)")
        }
        if verifyChecksum {
            let crc = batch.withUnsafeReadableBytes { bytes in
                CRC32C.compute(UnsafeRawBufferPointer(rebasing: bytes[RecordBatchHeader.Layout.checksummedFrom...]))
            }
            guard crc == header.crc else { throw .checksumMismatch(header: header, computed: crc) }
        }
        self.header = header
        self.bytes = batch
        self.decompressionLimit = decompressionLimit
    }

    /// The header at the head of `buffer`, if it is one of format v2 with a possible length.
    static func header(of buffer: ByteBuffer) throws(RecordBatchError) -> RecordBatchHeader {
        guard buffer.readableBytes >= RecordBatchHeader.Layout.size else {
            throw RecordBatchError(
                .truncated,
                "a batch has at least \(RecordBatchHeader.Layout.size) bytes, there are "
                    + "\(buffer.readableBytes)"
            )
        }
        let header = buffer.withUnsafeReadableBytes { RecordBatchHeader(reading: $0) }
        try header.checkFormat()
        return header
    }

    /// The records as they stand in the batch, compressed or not.
    public var encodedRecords: ByteBuffer {
        let size = RecordBatchHeader.Layout.size
        return bytes.getSlice(at: bytes.readerIndex + size, length: bytes.readableBytes - size) ?? ByteBuffer()
    }

    /// The records, decompressed: a slice of the batch where it was not compressed, else a new buffer.
    public func decompressedRecords() throws(RecordBatchError) -> ByteBuffer {
        guard let codec = header.attributes.codec, codec != .none, header.recordCount > 0 else { return encodedRecords }
        var records = ByteBuffer()
        try decompress(codec, into: &records)
        return records
    }

    private func decompress(_ codec: CompressionCodec, into out: inout ByteBuffer) throws(RecordBatchError) {
        var failure: CompressionError?
        encodedRecords.withUnsafeReadableBytes { bytes in
            do throws(CompressionError) {
                try codec.decompress(bytes, into: &out, limit: decompressionLimit)
            } catch {
                failure = error
            }
        }
        if let failure { throw RecordBatchError(failure) }
    }

    /// Calls `body` with each record in place. The views are valid only inside `body`.
    public func forEachRecord(_ body: (RecordView) throws -> Void) throws {
        var scratch = ByteBuffer()
        try forEachRecord(scratch: &scratch, body)
    }

    /// The same, decompressing into `scratch`, which is emptied first: one buffer serves a whole run of batches.
    public func forEachRecord(scratch: inout ByteBuffer, _ body: (RecordView) throws -> Void) throws {
        scratch.clear()
        let records: ByteBuffer
        if let codec = header.attributes.codec, codec != .none, header.recordCount > 0 {
            try decompress(codec, into: &scratch)
            records = scratch
        } else {
            records = encodedRecords
        }
        try records.withUnsafeReadableBytes { bytes in
            var cursor = RecordCursor(bytes, header: header)
            while let record = try cursor.next() { try body(record) }
        }
    }

    /// The timestamp of a record of this batch: its own, or the broker's where the batch says log append time.
    public func timestamp(of record: RecordView) -> Timestamp { header.timestamp(delta: record.timestampDelta) }

    /// The offset of a record of this batch.
    public func offset(of record: RecordView) -> Offset {
        Offset(header.baseOffset.rawValue &+ Int64(record.offsetDelta))
    }

    /// All records.
    public func records() throws(RecordBatchError) -> [Record] {
        var iterator = try makeRecordIterator()
        var records: [Record] = []
        // A record takes seven bytes at least, so a hostile count cannot make this reserve more than the batch has.
        records.reserveCapacity(min(Int(header.recordCount), iterator.encodedSizeInBytes / 7))
        while let record = try iterator.next() { records.append(record) }
        return records
    }

    /// Decompresses, and walks the records one at a time.
    public func makeRecordIterator() throws(RecordBatchError) -> RecordIterator {
        RecordIterator(try decompressedRecords(), header: header)
    }

    /// The marker in a control batch; nil where the batch is not one. Throws where its record is malformed.
    public func controlRecord() throws(RecordBatchError) -> ControlRecord? {
        guard header.attributes.isControl else { return nil }
        var iterator = try makeRecordIterator()
        guard let record = try iterator.next() else { return nil }
        return try ControlRecord(key: record.key, value: record.value)
    }
}

/// Walks the records of one batch as `Record` values.
public struct RecordIterator: Sendable {
    private let buffer: ByteBuffer
    private let header: RecordBatchHeader
    private var state = RecordCursor.State()

    init(_ buffer: ByteBuffer, header: RecordBatchHeader) {
        self.buffer = buffer
        self.header = header
    }

    var encodedSizeInBytes: Int { buffer.readableBytes }

    /// The next record; nil after the last.
    public mutating func next() throws(RecordBatchError) -> Record? {
        var result: Result<Record?, RecordBatchError> = .success(nil)
        buffer.withUnsafeReadableBytes { bytes in
            var cursor = RecordCursor(bytes, header: header, state: state)
            do throws(RecordBatchError) {
                guard let view = try cursor.next() else { return }
                result = .success(record(of: view, in: bytes))
            } catch {
                result = .failure(error)
            }
            state = cursor.state
        }
        return try result.get()
    }

    private func record(of view: RecordView, in bytes: UnsafeRawBufferPointer) -> Record {
        var headers: [RecordHeader] = []
        if view.headerCount > 0 {
            headers.reserveCapacity(Int(view.headerCount))
            view.forEachHeader { name, value in
                headers.append(
                    RecordHeader(key: String(decoding: name, as: UTF8.self), value: slice(of: value, in: bytes))
                )
            }
        }
        return Record(
            offset: Offset(header.baseOffset.rawValue &+ Int64(view.offsetDelta)),
            timestamp: header.timestamp(delta: view.timestampDelta),
            key: slice(of: view.key, in: bytes),
            value: slice(of: view.value, in: bytes),
            headers: headers
        )
    }

    private func slice(of field: UnsafeRawBufferPointer?, in bytes: UnsafeRawBufferPointer) -> ByteBuffer? {
        guard let field else { return nil }
        guard let at = field.baseAddress, let start = bytes.baseAddress, field.count > 0 else { return ByteBuffer() }
        return buffer.getSlice(at: buffer.readerIndex + (at - start), length: field.count)
    }
}

extension RecordBatchHeader {
    /// The timestamp of a record with this delta.
    public func timestamp(delta: Int64) -> Timestamp {
        // Wrapping, because the numbers come from outside.
        attributes.isLogAppendTime ? maxTimestamp : Timestamp(baseTimestamp.rawValue &+ delta)
    }

    /// Throws unless this is format v2 and `batchLength` is possible.
    func checkFormat() throws(RecordBatchError) {
        guard magic == 2 else {
            throw RecordBatchError(
                .unsupportedMagic,
                "magic is \(magic); only message format 2 is supported (Kafka 0.11 and later), upgrade the client"
            )
        }
        let least = Layout.size - Layout.logOverhead
        guard batchLength >= least else {
            throw RecordBatchError(.invalidHeader, "batchLength is \(batchLength), the least is \(least)")
        }
    }
}

extension RecordBatchError {
    init(_ error: CompressionError) {
        self.init(error.code == .limitExceeded ? .decompressedTooLarge : .corruptCompression, error.message)
    }

    static func checksumMismatch(header: RecordBatchHeader, computed: UInt32) -> RecordBatchError {
        RecordBatchError(
            .checksumMismatch,
            "crc is 0x\(String(header.crc, radix: 16)), but that of the \(header.sizeInBytes) bytes is "
                + "0x\(String(computed, radix: 16))"
        )
    }
}
