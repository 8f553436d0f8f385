// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// Judges a batch that came from outside: every header field by itself and against the others, and the checksum.
/// It allocates nothing, unless asked to look into compressed records.
public enum RecordBatchValidator {
    /// What is demanded beyond what makes a batch a batch.
    public struct Rules: Hashable, Sendable {
        /// Whether control batches may come.
        public var allowsControl: Bool
        /// Whether the batch must be as a producer makes it: at least one record, no gaps between offsets, the
        /// producer's own timestamps, no delete horizon. Batches in a log may have lost records to compaction.
        public var isFresh: Bool
        /// Whether each record is looked at: sizes, offset deltas, and nothing left over. Decompresses.
        public var checksRecords = false
        /// Whether records without a key are refused, as in a compacted topic. Implies looking at each record.
        public var requiresKeys = false
        /// Whether a maximum timestamp before the base one is passed. Some producers leave it out (sarama 1.22 does);
        /// who appends then puts in what ``RecordBatchValidator/maxTimestamp(of:decompressionLimit:)`` finds.
        public var allowsMissingMaxTimestamp = false
        /// The most bytes that a batch may have.
        public var maximumSizeInBytes = Int(Int32.max)
        /// The most bytes that its decompressed records may have, where they are looked at.
        public var decompressionLimit = RecordBatchReader.defaultDecompressionLimit

        /// Rules with the two choices that everything else hangs on.
        public init(allowsControl: Bool, isFresh: Bool) {
            self.allowsControl = allowsControl
            self.isFresh = isFresh
        }

        /// For what a producer sends.
        public static let client = Rules(allowsControl: false, isFresh: true)
        /// For what a node's own coordinators append.
        public static let coordinator = Rules(allowsControl: true, isFresh: true)
        /// For what stands in a log: recovery, and what a follower fetches.
        public static let log = Rules(allowsControl: true, isFresh: false)
    }

    /// Validates the batch at the head of `bytes`, which may be followed by others. Returns its header; the batch is
    /// the first `sizeInBytes` bytes. The header's arithmetic (`lastOffset`, `nextOffset`) cannot overflow afterwards.
    @discardableResult
    public static func validate(
        _ bytes: UnsafeRawBufferPointer,
        rules: Rules = .client
    ) throws(RecordBatchError) -> RecordBatchHeader {
        guard bytes.count >= RecordBatchHeader.Layout.size else {
            throw RecordBatchError(
                .truncated,
                "a batch has at least \(RecordBatchHeader.Layout.size) bytes, there are \(bytes.count)"
            )
        }
        let header = RecordBatchHeader(reading: bytes)
        try checkSize(header, available: bytes.count, rules)
        try checkAttributes(header, rules)
        try checkOffsets(header, rules)
        try checkTimestamps(header, rules)
        try checkProducer(header, rules)
        let batch = UnsafeRawBufferPointer(rebasing: bytes[..<header.sizeInBytes])
        let crc = CRC32C.compute(UnsafeRawBufferPointer(rebasing: batch[RecordBatchHeader.Layout.checksummedFrom...]))
        guard crc == header.crc else { throw .checksumMismatch(header: header, computed: crc) }
        if rules.checksRecords || rules.requiresKeys {
            try checkRecords(
                UnsafeRawBufferPointer(rebasing: batch[RecordBatchHeader.Layout.size...]),
                header,
                rules
            )
        }
        return header
    }

    /// The same for the batch at the head of a buffer's readable bytes.
    @discardableResult
    public static func validate(
        _ buffer: ByteBuffer,
        rules: Rules = .client
    ) throws(RecordBatchError) -> RecordBatchHeader {
        let result = buffer.withUnsafeReadableBytes { bytes -> Result<RecordBatchHeader, RecordBatchError> in
            do throws(RecordBatchError) {
                return .success(try validate(bytes, rules: rules))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private static func checkSize(
        _ header: RecordBatchHeader,
        available: Int,
        _ rules: Rules
    ) throws(RecordBatchError) {
        try header.checkFormat()
        guard header.sizeInBytes <= rules.maximumSizeInBytes else {
            throw RecordBatchError(
                .tooLarge,
                "batchLength \(header.batchLength) makes \(header.sizeInBytes) bytes, the limit is "
                    + "\(rules.maximumSizeInBytes): lower the producer's batch or message size, or raise max.message.bytes"
            )
        }
        guard header.sizeInBytes <= available else {
            throw RecordBatchError(
                .truncated,
                "batchLength \(header.batchLength) calls for \(header.sizeInBytes) bytes, there are \(available)"
            )
        }
    }

    private static func checkAttributes(_ header: RecordBatchHeader, _ rules: Rules) throws(RecordBatchError) {
        let attributes = header.attributes
        guard attributes.codec != nil else {
            throw RecordBatchError(
                .unsupportedCompression,
                "attributes name codec \(attributes.compressionNumber); 0 to 4 exist"
            )
        }
        guard attributes.unknownBits == 0 else {
            let bits = String(UInt16(bitPattern: attributes.rawValue), radix: 16)
            throw RecordBatchError(.invalidHeader, "attributes 0x\(bits) have bits set that are not defined")
        }
        guard rules.allowsControl || !attributes.isControl else {
            throw RecordBatchError(
                .controlRefused,
                "attributes mark a control batch, which only the broker itself may write"
            )
        }
        guard !rules.isFresh || !attributes.hasDeleteHorizon else {
            throw RecordBatchError(.invalidHeader, "attributes give a delete horizon, which only compaction sets")
        }
        guard !rules.isFresh || rules.allowsControl || !attributes.isLogAppendTime else {
            throw RecordBatchError(
                .invalidTimestamp,
                "attributes say log append time, which only the broker sets; send create time"
            )
        }
    }

    private static func checkOffsets(_ header: RecordBatchHeader, _ rules: Rules) throws(RecordBatchError) {
        let (count, delta) = (header.recordCount, header.lastOffsetDelta)
        guard delta >= 0 else { throw RecordBatchError(.invalidHeader, "lastOffsetDelta is \(delta)") }
        if rules.isFresh {
            guard count > 0, Int64(count) == Int64(delta) + 1 else {
                throw RecordBatchError(
                    .invalidHeader,
                    "recordCount is \(count) and lastOffsetDelta \(delta); a batch of n records, "
                        + "at least one, has lastOffsetDelta n-1"
                )
            }
        } else {
            guard count >= 0, Int64(count) <= Int64(delta) + 1 else {
                throw RecordBatchError(
                    .invalidHeader,
                    "recordCount is \(count) and lastOffsetDelta \(delta); there is room for 0 to "
                        + "lastOffsetDelta + 1 records"
                )
            }
        }
        let least: Int64 = rules.isFresh ? -1 : 0
        guard header.baseOffset.rawValue >= least, header.baseOffset.rawValue < Int64.max - Int64(delta) else {
            throw RecordBatchError(
                .invalidHeader,
                "baseOffset is \(header.baseOffset), with lastOffsetDelta \(delta)"
            )
        }
        // A record takes seven bytes at least: length, attributes, two deltas, two sizes, a count.
        let room = header.sizeInBytes - RecordBatchHeader.Layout.size
        guard header.attributes.codec != CompressionCodec.none || Int(count) <= room / 7 else {
            throw RecordBatchError(.invalidHeader, "recordCount is \(count), but the records have only \(room) bytes")
        }
    }

    private static func checkTimestamps(_ header: RecordBatchHeader, _ rules: Rules) throws(RecordBatchError) {
        let (base, max) = (header.baseTimestamp.rawValue, header.maxTimestamp.rawValue)
        guard base >= -1, max >= -1 else {
            throw RecordBatchError(
                .invalidTimestamp,
                "baseTimestamp is \(base) and maxTimestamp \(max); the least is -1, none"
            )
        }
        // With a delete horizon, or the broker's clock, the two are not of one kind; and after compaction the record
        // that had the first timestamp may be gone.
        guard !rules.isFresh || header.attributes.isLogAppendTime || max >= base || rules.allowsMissingMaxTimestamp
        else {
            throw RecordBatchError(
                .invalidTimestamp,
                "maxTimestamp is \(max), before baseTimestamp \(base), that of the first record"
            )
        }
    }

    /// A plain producer's epoch and sequence are not looked at: clients put -1 or 0 there.
    private static func checkProducer(_ header: RecordBatchHeader, _ rules: Rules) throws(RecordBatchError) {
        let producer = header.producerID.rawValue
        guard producer >= -1 else { throw RecordBatchError(.invalidHeader, "producerId is \(producer)") }
        if producer == -1 {
            guard !header.attributes.isTransactional else {
                throw RecordBatchError(.invalidHeader, "attributes mark a transaction, but producerId is -1")
            }
            return
        }
        guard header.producerEpoch >= 0 else {
            throw RecordBatchError(
                .invalidHeader,
                "producerEpoch is \(header.producerEpoch) with producerId \(producer)"
            )
        }
        // Control batches, and offsets that a group coordinator commits inside a transaction, have no sequence.
        let needsSequence =
            !header.attributes.isControl && !(rules.allowsControl && header.attributes.isTransactional)
        guard header.baseSequence >= 0 || !needsSequence else {
            throw RecordBatchError(.invalidHeader, "baseSequence is \(header.baseSequence) with producerId \(producer)")
        }
    }

    /// The greatest timestamp of the records of a batch that has been validated. Decompresses.
    public static func maxTimestamp(
        of batch: UnsafeRawBufferPointer,
        decompressionLimit: Int = RecordBatchReader.defaultDecompressionLimit
    ) throws(RecordBatchError) -> Timestamp {
        let header = RecordBatchHeader(reading: batch)
        let records = UnsafeRawBufferPointer(rebasing: batch[RecordBatchHeader.Layout.size..<header.sizeInBytes])
        guard let codec = header.attributes.codec, codec != .none, header.recordCount > 0 else {
            return try greatest(records, header)
        }
        var buffer = ByteBuffer()
        do throws(CompressionError) {
            try codec.decompress(records, into: &buffer, limit: decompressionLimit)
        } catch {
            throw RecordBatchError(error)
        }
        let result = buffer.withUnsafeReadableBytes { bytes -> Result<Timestamp, RecordBatchError> in
            do throws(RecordBatchError) { return .success(try greatest(bytes, header)) } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private static func greatest(
        _ records: UnsafeRawBufferPointer,
        _ header: RecordBatchHeader
    ) throws(RecordBatchError) -> Timestamp {
        var cursor = RecordCursor(records, header: header)
        var greatest = Int64(-1)
        while let record = try cursor.next() {
            greatest = max(greatest, header.baseTimestamp.rawValue &+ record.timestampDelta)
        }
        return Timestamp(greatest)
    }

    private static func checkRecords(
        _ records: UnsafeRawBufferPointer,
        _ header: RecordBatchHeader,
        _ rules: Rules
    ) throws(RecordBatchError) {
        guard let codec = header.attributes.codec, codec != .none, header.recordCount > 0 else {
            return try walk(records, header, rules)
        }
        var buffer = ByteBuffer()
        do throws(CompressionError) {
            try codec.decompress(records, into: &buffer, limit: rules.decompressionLimit)
        } catch {
            throw RecordBatchError(error)
        }
        var failure: RecordBatchError?
        buffer.withUnsafeReadableBytes { bytes in
            do throws(RecordBatchError) { try walk(bytes, header, rules) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    private static func walk(
        _ records: UnsafeRawBufferPointer,
        _ header: RecordBatchHeader,
        _ rules: Rules
    ) throws(RecordBatchError) {
        // The cursor sees to it that deltas grow up to lastOffsetDelta; so many records leave no room for gaps in a
        // fresh batch.
        var cursor = RecordCursor(records, header: header)
        while let record = try cursor.next() {
            guard !rules.requiresKeys || record.key != nil || header.attributes.isControl else {
                throw RecordBatchError(
                    .invalidRecord,
                    "the record at offset delta \(record.offsetDelta) has no key; a compacted topic "
                        + "needs one on each record"
                )
            }
        }
    }
}
