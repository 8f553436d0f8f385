// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// Puts records into a batch. Each record is encoded once, straight into the batch's buffer; nothing is allocated for
/// a record beyond the growth of that buffer. Reusable: `reset()`, or `build` which resets by itself.
///
/// The base timestamp is that of the first record; later records may be older (their deltas are then negative).
public struct RecordBatchBuilder: Sendable {
    /// What the header says beside the records.
    public struct Settings: Hashable, Sendable {
        /// How the records are compressed.
        public var codec: CompressionCodec
        /// The codec's level; nil for its default. See `CompressionCodec.levels`.
        public var compressionLevel: Int?
        /// Offset of the first record. Producers leave it 0; the leader assigns it.
        public var baseOffset: Offset = 0
        /// Epoch of the leader; producers leave it unknown.
        public var partitionLeaderEpoch: LeaderEpoch = .unknown
        /// The idempotent producer, its epoch, and the sequence number of the first record.
        public var producerID: ProducerID = .none
        /// The epoch of the idempotent producer.
        public var producerEpoch: Int16 = -1
        /// The sequence number of the first record; -1 where the producer is not idempotent, and in control batches.
        public var baseSequence: Int32 = -1
        /// Whether the batch is part of a transaction.
        public var isTransactional = false
        /// Whether the batch holds a control record.
        public var isControl = false
        /// Set by a broker whose topic takes its own clock: the batch's timestamp type is then log append time, this.
        public var logAppendTime: Timestamp?
        /// Set by compaction: when tombstones and markers of this batch may go (KIP-534). It takes the place of the
        /// base timestamp, so all timestamp deltas are relative to it.
        public var deleteHorizon: Timestamp?

        /// Settings of a plain producer's batch.
        public init(codec: CompressionCodec = .none, compressionLevel: Int? = nil) {
            self.codec = codec
            self.compressionLevel = compressionLevel
        }
    }

    /// What goes into the header; may be changed until `build`.
    public var settings: Settings
    /// Number of records appended.
    public private(set) var recordCount: Int32 = 0
    /// Offset delta of the last record; -1 while there is none. Compaction may raise it before `build`, to keep the
    /// end of a batch whose last records are gone.
    public var lastOffsetDelta: Int32 = -1
    /// The largest timestamp appended; none while there is no record.
    public private(set) var maxTimestamp: Timestamp = .none
    /// How well the last batch compressed: compressed bytes per uncompressed byte of records. Kept over `reset()`,
    /// because the next batch is likely to be like the last.
    public private(set) var compressionRatio: Double = 1

    private var firstTimestamp: Timestamp = .none
    /// 61 bytes of room for the header, then the encoded records.
    private var buffer: ByteBuffer

    /// Makes an empty builder. `initialCapacity`: bytes that it reserves.
    public init(_ settings: Settings = Settings(), initialCapacity: Int = 0) {
        self.settings = settings
        buffer = ByteBufferAllocator().buffer(capacity: max(initialCapacity, 256))
        buffer.writeRepeatingByte(0, count: RecordBatchHeader.Layout.size)
    }

    /// Whether nothing has been appended.
    public var isEmpty: Bool { recordCount == 0 }

    /// Size of the batch without compression, header included. Exact.
    public var uncompressedSizeInBytes: Int { buffer.writerIndex }

    /// A size that the built batch surely does not pass, whatever the records are.
    public var maximumSizeInBytes: Int {
        let records = buffer.writerIndex - RecordBatchHeader.Layout.size
        return RecordBatchHeader.Layout.size + settings.codec.maximumCompressedSize(of: records)
    }

    /// The size to expect of the built batch: by the ratio of the last batch, with 5 % to spare. Without compression
    /// it is exact. Producers cut a batch when this plus the next record would pass `batch.size`.
    public var estimatedSizeInBytes: Int {
        guard settings.codec != .none else { return buffer.writerIndex }
        let records = buffer.writerIndex - RecordBatchHeader.Layout.size
        return RecordBatchHeader.Layout.size + Int(Double(records) * min(compressionRatio * 1.05, 1))
    }

    /// A size that the encoded record does not pass, wherever in a batch it comes to stand.
    public static func maximumRecordSize(keySize: Int, valueSize: Int, headers: [RecordHeader] = []) -> Int {
        let fixed = 2 * Varint.maxSize32 + Varint.maxSize64 + 1
        return fixed + 3 * Varint.maxSize32 + keySize + valueSize + sizeOfHeaders(headers)
    }

    /// Appends a record. `offsetDelta`: where it stands relative to the base offset, by default right after the last
    /// one; it must be larger than the last one's. The batch's records together must stay below 2 GiB, which callers
    /// ensure by their own, far smaller, limits.
    public mutating func append(
        key: ByteBuffer?,
        value: ByteBuffer?,
        headers: [RecordHeader] = [],
        timestamp: Timestamp,
        offsetDelta: Int32? = nil
    ) {
        Self.withBytes(of: key) { key in
            Self.withBytes(of: value) { value in
                append(
                    keyBytes: key,
                    valueBytes: value,
                    headers: headers,
                    timestamp: timestamp,
                    offsetDelta: offsetDelta
                )
            }
        }
    }

    /// Appends a record whose key and value are somewhere in memory; nil is null. Otherwise as above.
    public mutating func append(
        keyBytes: UnsafeRawBufferPointer?,
        valueBytes: UnsafeRawBufferPointer?,
        headers: [RecordHeader] = [],
        timestamp: Timestamp,
        offsetDelta: Int32? = nil
    ) {
        let headerBytes = headers.isEmpty ? 0 : Self.sizeOfHeaders(headers)
        appendRecord(
            key: keyBytes,
            value: valueBytes,
            headerCount: headers.count,
            headerBytes: headerBytes,
            timestamp: timestamp,
            offsetDelta: offsetDelta
        ) { bytes, position in
            for header in headers {
                var name = header.key
                name.withUTF8 { Self.writeField(UnsafeRawBufferPointer($0), to: bytes, at: &position) }
                Self.withBytes(of: header.value) { Self.writeField($0, to: bytes, at: &position) }
            }
        }
    }

    /// Appends a record of another batch as it is, without decoding its headers: what compaction does.
    /// `baseTimestamp` is what the view's timestamp delta is relative to.
    public mutating func append(_ record: RecordView, baseTimestamp: Timestamp, offsetDelta: Int32? = nil) {
        appendRecord(
            key: record.key,
            value: record.value,
            headerCount: Int(record.headerCount),
            headerBytes: record.encodedHeaders.count,
            timestamp: Timestamp(baseTimestamp.rawValue &+ record.timestampDelta),
            offsetDelta: offsetDelta
        ) { bytes, position in
            let end = position + record.encodedHeaders.count
            UnsafeMutableRawBufferPointer(rebasing: bytes[position..<end]).copyMemory(from: record.encodedHeaders)
            position = end
        }
    }

    /// Forgets the records; settings, ratio and the buffer's room stay.
    public mutating func reset() {
        buffer.clear()
        buffer.writeRepeatingByte(0, count: RecordBatchHeader.Layout.size)
        recordCount = 0
        lastOffsetDelta = -1
        maxTimestamp = .none
        firstTimestamp = .none
    }

    /// Writes the batch to the end of `out` and resets the builder. A batch without records (compaction keeps such,
    /// for a producer's last sequence) needs `lastOffsetDelta` set.
    @discardableResult
    public mutating func build(into out: inout ByteBuffer) throws(CompressionError) -> RecordBatchHeader {
        let header: RecordBatchHeader
        let start = out.writerIndex
        let recordBytes = buffer.writerIndex - RecordBatchHeader.Layout.size
        if settings.codec == .none || recordCount == 0 {
            header = finishHeader(of: &buffer, at: 0)
            out.writeImmutableBuffer(buffer)
        } else {
            out.writeRepeatingByte(0, count: RecordBatchHeader.Layout.size)
            do {
                try compressRecords(into: &out)
            } catch {
                out.moveWriterIndex(to: start)
                throw error
            }
            header = finishHeader(of: &out, at: start)
            let compressed = out.writerIndex - start - RecordBatchHeader.Layout.size
            compressionRatio = Double(compressed) / Double(recordBytes)
        }
        reset()
        return header
    }

    /// The batch as a buffer of its own, and a reset builder. Without compression this copies nothing: the caller
    /// gets the builder's buffer, and the builder a new one.
    public mutating func build() throws(CompressionError) -> ByteBuffer {
        if settings.codec == .none || recordCount == 0 {
            finishHeader(of: &buffer, at: 0)
            let batch = buffer
            buffer = ByteBufferAllocator().buffer(capacity: batch.readableBytes)
            reset()
            return batch
        }
        var batch = ByteBufferAllocator().buffer(capacity: estimatedSizeInBytes)
        try build(into: &batch)
        return batch
    }
}

extension RecordBatchBuilder {
    private func compressRecords(into out: inout ByteBuffer) throws(CompressionError) {
        let records = buffer.getSlice(
            at: RecordBatchHeader.Layout.size,
            length: buffer.writerIndex - RecordBatchHeader.Layout.size
        )
        guard let records else { preconditionFailure("the builder's buffer is shorter than a header") }
        // ByteBuffer's closures rethrow untyped errors, so the result is carried out by hand.
        var failure: CompressionError?
        records.withUnsafeReadableBytes { bytes in
            do throws(CompressionError) {
                try settings.codec.compress(bytes, into: &out, level: settings.compressionLevel)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    /// Fills in the header at `start` of `batch`, which ends with the batch.
    @discardableResult
    private func finishHeader(of batch: inout ByteBuffer, at start: Int) -> RecordBatchHeader {
        precondition(lastOffsetDelta >= 0, "a batch without records needs lastOffsetDelta set")
        // A batch without records has nothing to decompress, so it says "no codec".
        let codec = recordCount == 0 ? CompressionCodec.none : settings.codec
        var header = RecordBatchHeader(
            baseOffset: settings.baseOffset,
            batchLength: Int32(batch.writerIndex - start - RecordBatchHeader.Layout.logOverhead),
            partitionLeaderEpoch: settings.partitionLeaderEpoch,
            attributes: RecordBatchAttributes(
                codec: codec,
                isLogAppendTime: settings.logAppendTime != nil,
                isTransactional: settings.isTransactional,
                isControl: settings.isControl,
                hasDeleteHorizon: settings.deleteHorizon != nil
            ),
            lastOffsetDelta: lastOffsetDelta,
            baseTimestamp: baseTimestamp,
            maxTimestamp: settings.logAppendTime ?? maxTimestamp,
            producerID: settings.producerID,
            producerEpoch: settings.producerEpoch,
            baseSequence: settings.baseSequence,
            recordCount: recordCount
        )
        let position = start - batch.readerIndex
        batch.withUnsafeMutableReadableBytes { readable in
            let bytes = UnsafeMutableRawBufferPointer(rebasing: readable[position...])
            header.write(to: bytes)
            header.crc = CRC32C.compute(
                UnsafeRawBufferPointer(rebasing: bytes[RecordBatchHeader.Layout.checksummedFrom...])
            )
            header.write(to: bytes)
        }
        return header
    }
}

extension RecordBatchBuilder {
    private var baseTimestamp: Timestamp { settings.deleteHorizon ?? firstTimestamp }

    /// Encodes one record: the size first, then the fields, in one go. `writeHeaders` fills `headerBytes` bytes.
    private mutating func appendRecord(
        key: UnsafeRawBufferPointer?,
        value: UnsafeRawBufferPointer?,
        headerCount: Int,
        headerBytes: Int,
        timestamp: Timestamp,
        offsetDelta: Int32?,
        writeHeaders: (UnsafeMutableRawBufferPointer, inout Int) -> Void
    ) {
        let delta = offsetDelta ?? lastOffsetDelta + 1
        precondition(delta > lastOffsetDelta, "offset delta \(delta) does not follow \(lastOffsetDelta)")
        if recordCount == 0 {
            firstTimestamp = timestamp
            maxTimestamp = timestamp
        }
        let timestampDelta = timestamp.rawValue &- baseTimestamp.rawValue
        let length =
            1 + Varint.size(timestampDelta) + Varint.size(Int64(delta)) + Self.sizeOfField(key)
            + Self.sizeOfField(value) + Varint.size(headerCount) + headerBytes
        let size = Varint.size(length) + length
        precondition(buffer.writerIndex + size <= Int(Int32.max), "a record batch stays below 2 GiB")
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: size) { bytes in
            var position = 0
            Varint.write(Int64(length), to: bytes, at: &position)
            bytes[position] = 0
            position += 1
            Varint.write(timestampDelta, to: bytes, at: &position)
            Varint.write(Int64(delta), to: bytes, at: &position)
            Self.writeField(key, to: bytes, at: &position)
            Self.writeField(value, to: bytes, at: &position)
            Varint.write(Int64(headerCount), to: bytes, at: &position)
            writeHeaders(bytes, &position)
            assert(position == size, "a record of \(size) bytes took \(position)")
            return size
        }
        recordCount += 1
        lastOffsetDelta = delta
        maxTimestamp = max(maxTimestamp, timestamp)
    }

    @inline(__always)
    private static func sizeOfField(_ field: UnsafeRawBufferPointer?) -> Int {
        guard let field else { return 1 }
        return Varint.size(field.count) + field.count
    }

    private static func sizeOfHeaders(_ headers: [RecordHeader]) -> Int {
        var size = 0
        for header in headers {
            let name = header.key.utf8.count
            size += Varint.size(name) + name
            if let value = header.value {
                size += Varint.size(value.readableBytes) + value.readableBytes
            } else {
                size += 1
            }
        }
        return size
    }

    @inline(__always)
    private static func writeField(
        _ field: UnsafeRawBufferPointer?,
        to bytes: UnsafeMutableRawBufferPointer,
        at position: inout Int
    ) {
        guard let field else {
            Varint.write(-1, to: bytes, at: &position)
            return
        }
        Varint.write(Int64(field.count), to: bytes, at: &position)
        let end = position + field.count
        UnsafeMutableRawBufferPointer(rebasing: bytes[position..<end]).copyMemory(from: field)
        position = end
    }

    @inline(__always)
    private static func withBytes(of buffer: ByteBuffer?, _ body: (UnsafeRawBufferPointer?) -> Void) {
        guard let buffer else { return body(nil) }
        buffer.withUnsafeReadableBytes { body($0) }
    }
}
