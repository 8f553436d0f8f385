// SPDX-License-Identifier: Apache-2.0

/// The attribute bits of a record batch. Source: Kafka message format v2.
public struct RecordBatchAttributes: RawRepresentable, Hashable, Sendable {
    /// The 16 bits as they stand in the header.
    public let rawValue: Int16
    /// Wraps the 16 bits.
    @inlinable public init(rawValue: Int16) { self.rawValue = rawValue }

    /// Puts the bits together.
    public init(
        codec: CompressionCodec,
        isLogAppendTime: Bool = false,
        isTransactional: Bool = false,
        isControl: Bool = false,
        hasDeleteHorizon: Bool = false
    ) {
        rawValue =
            Int16(codec.rawValue) | (isLogAppendTime ? 0x08 : 0) | (isTransactional ? 0x10 : 0)
            | (isControl ? 0x20 : 0) | (hasDeleteHorizon ? 0x40 : 0)
    }

    /// The codec; nil where the number names none.
    @inlinable public var codec: CompressionCodec? { CompressionCodec(rawValue: UInt8(compressionNumber)) }
    /// The same bits with another codec.
    @inlinable public func with(codec: CompressionCodec) -> RecordBatchAttributes {
        RecordBatchAttributes(rawValue: rawValue & ~0x07 | Int16(codec.rawValue))
    }
    /// Bits 7–15, none of which is defined.
    @inlinable public var unknownBits: Int16 { rawValue & ~0x7F }
    /// Bits 0–2: the number of the codec.
    @inlinable public var compressionNumber: Int { Int(rawValue & 0x07) }
    /// Bit 3: the batch carries the broker's append time instead of the producer's.
    @inlinable public var isLogAppendTime: Bool { rawValue & 0x08 != 0 }
    /// Bit 4: the batch is part of a transaction.
    @inlinable public var isTransactional: Bool { rawValue & 0x10 != 0 }
    /// Bit 5: the batch holds a control record (a transaction marker), which clients never see.
    @inlinable public var isControl: Bool { rawValue & 0x20 != 0 }
    /// Bit 6: the base timestamp is the time after which compaction may drop tombstones and markers (KIP-534).
    @inlinable public var hasDeleteHorizon: Bool { rawValue & 0x40 != 0 }
}

/// The fixed part of a record batch, format v2 (magic 2): 61 bytes before the records.
///
/// The checksum covers everything from `attributes` on, so that a broker may set `baseOffset` and
/// `partitionLeaderEpoch` without touching it.
public struct RecordBatchHeader: Hashable, Sendable {
    /// Byte positions within a batch.
    public enum Layout {
        /// Offset of the first record, int64.
        public static let baseOffset = 0
        /// Bytes after this field, int32.
        public static let batchLength = 8
        /// Epoch of the leader that appended it, int32.
        public static let partitionLeaderEpoch = 12
        /// The format's version, int8.
        public static let magic = 16
        /// CRC-32C, uint32.
        public static let crc = 17
        /// Attribute bits, int16.
        public static let attributes = 21
        /// Offset of the last record relative to the first, int32.
        public static let lastOffsetDelta = 23
        /// Timestamp of the first record, int64.
        public static let baseTimestamp = 27
        /// The largest timestamp, int64.
        public static let maxTimestamp = 35
        /// The idempotent producer, int64.
        public static let producerID = 43
        /// Its epoch, int16.
        public static let producerEpoch = 51
        /// Sequence number of the first record, int32.
        public static let baseSequence = 53
        /// Number of records, int32.
        public static let recordCount = 57
        /// The size of the header, where the records begin.
        public static let size = 61
        /// The bytes before what `batchLength` counts: base offset and the length itself.
        public static let logOverhead = 12
        /// Where the checksummed part begins.
        public static let checksummedFrom = attributes
    }

    /// Offset of the first record.
    public var baseOffset: Offset
    /// Bytes after this field: `sizeInBytes - 12`.
    public var batchLength: Int32
    /// Epoch of the leader that appended the batch.
    public var partitionLeaderEpoch: LeaderEpoch
    /// The format's version; 2 in everything MDC writes.
    public var magic: Int8
    /// CRC-32C over everything from `attributes` on.
    public var crc: UInt32
    /// What the batch is: codec, timestamp type, transactional, control.
    public var attributes: RecordBatchAttributes
    /// Offset of the last record, relative to the first. Compaction keeps it even where the last record is gone.
    public var lastOffsetDelta: Int32
    /// Timestamp of the first record, or the delete horizon.
    public var baseTimestamp: Timestamp
    /// The largest timestamp of a record, or the append time.
    public var maxTimestamp: Timestamp
    /// The idempotent producer; none for a plain one.
    public var producerID: ProducerID
    /// The producer's epoch; -1 for a plain one.
    public var producerEpoch: Int16
    /// Sequence number of the first record; -1 where the producer is not idempotent.
    public var baseSequence: Int32
    /// Number of records; compaction may lower it.
    public var recordCount: Int32

    /// Reads the 61 bytes at the start of `bytes`. The caller has made sure that they are there; nothing is
    /// judged, see `RecordBatchValidator`.
    public init(reading bytes: UnsafeRawBufferPointer) {
        precondition(bytes.count >= Layout.size, "a batch header has \(Layout.size) bytes, not \(bytes.count)")
        func load<T: FixedWidthInteger>(_ position: Int, _: T.Type) -> T {
            T(bigEndian: bytes.loadUnaligned(fromByteOffset: position, as: T.self))
        }
        baseOffset = Offset(load(Layout.baseOffset, Int64.self))
        batchLength = load(Layout.batchLength, Int32.self)
        partitionLeaderEpoch = LeaderEpoch(load(Layout.partitionLeaderEpoch, Int32.self))
        magic = load(Layout.magic, Int8.self)
        crc = load(Layout.crc, UInt32.self)
        attributes = RecordBatchAttributes(rawValue: load(Layout.attributes, Int16.self))
        lastOffsetDelta = load(Layout.lastOffsetDelta, Int32.self)
        baseTimestamp = Timestamp(load(Layout.baseTimestamp, Int64.self))
        maxTimestamp = Timestamp(load(Layout.maxTimestamp, Int64.self))
        producerID = ProducerID(load(Layout.producerID, Int64.self))
        producerEpoch = load(Layout.producerEpoch, Int16.self)
        baseSequence = load(Layout.baseSequence, Int32.self)
        recordCount = load(Layout.recordCount, Int32.self)
    }

    /// Makes a header of its fields; `magic` is 2.
    public init(
        baseOffset: Offset = 0,
        batchLength: Int32,
        partitionLeaderEpoch: LeaderEpoch = .unknown,
        crc: UInt32 = 0,
        attributes: RecordBatchAttributes,
        lastOffsetDelta: Int32,
        baseTimestamp: Timestamp,
        maxTimestamp: Timestamp,
        producerID: ProducerID = .none,
        producerEpoch: Int16 = -1,
        baseSequence: Int32 = -1,
        recordCount: Int32
    ) {
        self.baseOffset = baseOffset
        self.batchLength = batchLength
        self.partitionLeaderEpoch = partitionLeaderEpoch
        self.magic = 2
        self.crc = crc
        self.attributes = attributes
        self.lastOffsetDelta = lastOffsetDelta
        self.baseTimestamp = baseTimestamp
        self.maxTimestamp = maxTimestamp
        self.producerID = producerID
        self.producerEpoch = producerEpoch
        self.baseSequence = baseSequence
        self.recordCount = recordCount
    }

    /// Writes the 61 bytes to the start of `bytes`, `crc` as it stands in the field.
    public func write(to bytes: UnsafeMutableRawBufferPointer) {
        precondition(bytes.count >= Layout.size, "a batch header takes \(Layout.size) bytes, not \(bytes.count)")
        func store(_ value: some FixedWidthInteger, _ position: Int) {
            bytes.storeBytes(of: value.bigEndian, toByteOffset: position, as: type(of: value))
        }
        store(baseOffset.rawValue, Layout.baseOffset)
        store(batchLength, Layout.batchLength)
        store(partitionLeaderEpoch.rawValue, Layout.partitionLeaderEpoch)
        store(magic, Layout.magic)
        store(crc, Layout.crc)
        store(attributes.rawValue, Layout.attributes)
        store(lastOffsetDelta, Layout.lastOffsetDelta)
        store(baseTimestamp.rawValue, Layout.baseTimestamp)
        store(maxTimestamp.rawValue, Layout.maxTimestamp)
        store(producerID.rawValue, Layout.producerID)
        store(producerEpoch, Layout.producerEpoch)
        store(baseSequence, Layout.baseSequence)
        store(recordCount, Layout.recordCount)
    }

    /// The checksum of a batch with this header and these (compressed) records after it. For a broker that changes
    /// a checksummed field, such as the timestamp type: `header.crc = header.checksum(records: …)`, then `write`.
    public func checksum(records: UnsafeRawBufferPointer) -> UInt32 {
        withUnsafeTemporaryAllocation(byteCount: Layout.size, alignment: 8) { bytes in
            write(to: bytes)
            let own = UnsafeRawBufferPointer(rebasing: bytes[Layout.checksummedFrom...])
            return CRC32C.extend(CRC32C.compute(own), records)
        }
    }

    /// The size of the whole batch.
    @inlinable public var sizeInBytes: Int { Int(batchLength) + Layout.logOverhead }
    /// Offset of the last record (or of where it was before compaction).
    @inlinable public var lastOffset: Offset { baseOffset + Int64(lastOffsetDelta) }
    /// Offset after the last record.
    @inlinable public var nextOffset: Offset { baseOffset + Int64(lastOffsetDelta) + 1 }
    /// Whether the producer numbered its records.
    @inlinable public var isIdempotent: Bool { producerID.rawValue >= 0 }
    /// Sequence number of the last record; sequences wrap from 2^31-1 to 0.
    @inlinable public var lastSequence: Int32 {
        baseSequence < 0 ? -1 : (baseSequence &+ lastOffsetDelta) & Int32.max
    }
}
