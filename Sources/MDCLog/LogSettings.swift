// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// When an appended record counts as durable, which is when it may be acknowledged.
public enum DurabilityPolicy: Hashable, Sendable {
    /// Once it is on stable storage. The default (guarantee G1).
    case fsync
    /// Once it is in the page cache; the engine syncs every so many milliseconds. A power failure may lose that much.
    case interval(milliseconds: Int64)
    /// Once it is in the page cache; the operating system writes it back when it likes.
    case os
}

/// What happens to old records. Source: Kafka's `cleanup.policy`.
public struct CleanupPolicy: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    /// Segments are deleted by age and size.
    public static let delete = CleanupPolicy(rawValue: 1)
    /// The last record of each key is kept.
    public static let compact = CleanupPolicy(rawValue: 2)
}

/// Which timestamp a record carries. Source: Kafka's `message.timestamp.type`.
public enum TimestampType: Hashable, Sendable {
    /// The producer's.
    case createTime
    /// The broker's, at append.
    case logAppendTime
}

/// How the records of clients are stored. Source: Kafka's `compression.type` and its levels (KIP-390).
public struct StoredCompression: Hashable, Sendable {
    /// `compression.type`: the codec of every batch, `.none` for `uncompressed`; nil (`producer`) keeps each batch as its
    /// producer compressed it.
    public var codec: CompressionCodec?
    /// `compression.gzip.level`; nil for zlib's default.
    public var gzipLevel: Int8?
    /// `compression.lz4.level`; nil for the fast compressor.
    public var lz4Level: Int8?
    /// `compression.zstd.level`; nil for zstd's default.
    public var zstdLevel: Int32?

    /// Batches are kept as they come.
    public init() {}

    /// The level for the codec.
    public var level: Int? {
        switch codec {
        case .gzip: gzipLevel.map { Int($0) }
        case .lz4: lz4Level.map { Int($0) }
        case .zstd: zstdLevel.map { Int($0) }
        default: nil
        }
    }
}

/// The settings of one partition's log. Names and meanings are those of Kafka's topic settings, which the comments
/// give; sizes are in bytes, times in milliseconds, and -1 means unlimited where Kafka has it so.
public struct LogSettings: Hashable, Sendable {
    /// `segment.bytes`: a segment is sealed before it grows beyond this.
    public var segmentBytes: Int = 1 << 30
    /// `segment.ms`: a segment is sealed at this age even if it is small.
    public var segmentMilliseconds: Int64 = 7 * 24 * 3_600_000
    /// `index.interval.bytes`: at most one index entry per so many bytes of log.
    public var indexIntervalBytes: Int = 4096
    /// `segment.index.bytes`: a segment is sealed when an index would grow beyond this.
    public var segmentIndexBytes: Int = 10 << 20
    /// `max.message.bytes`: the largest batch that is accepted.
    public var maxMessageBytes: Int = 1_048_588
    /// `retention.bytes`: oldest segments are deleted while the log is larger by a segment or more; -1: no limit.
    public var retentionBytes: Int64 = -1
    /// `retention.ms`: segments whose newest record is older are deleted; -1: never.
    public var retentionMilliseconds: Int64 = 7 * 24 * 3_600_000
    /// `cleanup.policy`.
    public var cleanupPolicy: CleanupPolicy = .delete
    /// `min.cleanable.dirty.ratio`: compaction runs when this share of the log is uncompacted.
    public var minCleanableDirtyRatio: Double = 0.5
    /// `min.compaction.lag.ms`: younger records are not compacted.
    public var minCompactionLagMilliseconds: Int64 = 0
    /// `max.compaction.lag.ms`: compaction runs once uncompacted records are older, whatever the ratio.
    public var maxCompactionLagMilliseconds: Int64 = .max
    /// `delete.retention.ms`: how long tombstones and transaction markers outlive the compaction that first saw them.
    public var deleteRetentionMilliseconds: Int64 = 24 * 3_600_000
    /// `file.delete.delay.ms`: removed segments stay on disk so long, for readers that still send them.
    public var fileDeleteDelayMilliseconds: Int64 = 60_000
    /// `message.timestamp.type`.
    public var timestampType: TimestampType = .createTime
    /// `message.timestamp.before.max.ms`: how far a timestamp may lie in the past.
    public var timestampBeforeMaxMilliseconds: Int64 = .max
    /// `message.timestamp.after.max.ms`: how far a timestamp may lie in the future.
    public var timestampAfterMaxMilliseconds: Int64 = 3_600_000
    /// How the records of clients are stored.
    public var compression = StoredCompression()
    /// When a record may be acknowledged.
    public var durability: DurabilityPolicy = .fsync
    /// Whether the records inside a batch are decoded (and decompressed) before it is accepted. Without it a batch is
    /// judged by its header and checksum alone. Compacted topics always decode, for each record needs a key.
    public var validatesRecords: Bool = false
    /// Whether space is reserved ahead of the appends, which makes syncs cheaper.
    public var preallocates: Bool = true

    /// Kafka's defaults, with durable acknowledgements.
    public init() {}

    /// Whether records need keys and the log is compacted.
    public var isCompacted: Bool { cleanupPolicy.contains(.compact) }

    /// Why the settings make no sense; nil where they do.
    public var problem: String? {
        if segmentBytes < 14 { return "segment.bytes must be at least 14, is \(segmentBytes)" }
        if segmentBytes > Int(Int32.max) { return "segment.bytes must be below 2^31, is \(segmentBytes)" }
        if segmentMilliseconds < 1 { return "segment.ms must be at least 1, is \(segmentMilliseconds)" }
        if indexIntervalBytes < 0 { return "index.interval.bytes must not be negative, is \(indexIntervalBytes)" }
        if segmentIndexBytes < 12 { return "segment.index.bytes must be at least 12, is \(segmentIndexBytes)" }
        if maxMessageBytes < 0 { return "max.message.bytes must not be negative, is \(maxMessageBytes)" }
        if !(0...1).contains(minCleanableDirtyRatio) {
            return "min.cleanable.dirty.ratio must be between 0 and 1, is \(minCleanableDirtyRatio)"
        }
        if cleanupPolicy.isEmpty { return "cleanup.policy must name delete, compact or both" }
        if minCompactionLagMilliseconds > maxCompactionLagMilliseconds {
            return "min.compaction.lag.ms must not exceed max.compaction.lag.ms"
        }
        return nil
    }
}
