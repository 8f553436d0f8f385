// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// The log of one partition. Every method may be called from any thread.
public final class PartitionLog: Sendable {
    public let topicPartition: TopicPartition
    public let topicID: TopicID
    init(topicPartition: TopicPartition, topicID: TopicID) {
        self.topicPartition = topicPartition
        self.topicID = topicID
    }
    /// The settings; changed by `update(settings:)`.
    public var settings: LogSettings { landing() }
    public func update(settings: LogSettings) throws(LogError) { landing() }
    /// First offset that can be read.
    public var logStartOffset: Offset { landing() }
    /// Offset that the next record gets. All bytes before it are in the file.
    public var logEndOffset: Offset { landing() }
    /// Offset before which everything may be acknowledged under the durability policy: on stable storage with `.fsync`,
    /// the log end with `.interval` and `.os`.
    public var durableEndOffset: Offset { landing() }
    /// Offset before which everything is on stable storage, whatever the policy.
    public var syncedEndOffset: Offset { landing() }
    public var sizeInBytes: Int { landing() }
    /// The high watermark as the broker knows it; bounds retention, compaction and the last stable offset.
    public func updateHighWatermark(_ offset: Offset) { landing() }
    /// The last stable offset below the high watermark (set by `updateHighWatermark`, else the durable end).
    public var lastStableOffset: Offset { landing() }
    public func append(
        _ batches: ByteBuffer,
        as origin: AppendOrigin,
        leaderEpoch: LeaderEpoch,
        now: Timestamp
    ) throws(LogError) -> AppendResult { landing() }
    public func read(
        from offset: Offset,
        maxBytes: Int,
        minOneBatch: Bool,
        upTo limit: Offset
    ) throws(LogError) -> LogRead { landing() }
    public func offset(for lookup: OffsetLookup) throws(LogError) -> OffsetAndTimestamp? { landing() }
    public func abortedTransactions(in range: Range<Offset>) throws(LogError) -> [AbortedTransaction] { landing() }
    public var latestEpoch: LeaderEpoch { landing() }
    /// Records that a new leader epoch starts at the log's end, before anything is appended in it.
    public func beginEpoch(_ epoch: LeaderEpoch) throws(LogError) { landing() }
    public func endOffset(for epoch: LeaderEpoch) -> (LeaderEpoch, Offset) { landing() }
    /// Blocks on the disk.
    public func deleteRecords(before offset: Offset) throws(LogError) { landing() }
    /// Blocks on the disk.
    public func truncate(to offset: Offset) throws(LogError) { landing() }
    /// Empties the log and starts it anew at `offset`. Blocks on the disk.
    public func reset(to offset: Offset) throws(LogError) { landing() }
    public func whenDurable(upTo offset: Offset, _ done: @escaping @Sendable (Result<Void, LogError>) -> Void) {
        landing()
    }
    public var activeProducers: [ActiveProducer] { landing() }
    public var damage: [DamageReport] { landing() }
    /// Why no append is accepted (failed folder, damage, deletion); nil where appends are welcome.
    public var offlineReason: LogError? { landing() }
    /// The right to read without the right to append.
    public var reader: PartitionReader { landing() }
}

func landing() -> Never { fatalError("the storage engine's first cut follows within minutes") }

/// The right to read a partition.
public struct PartitionReader: Sendable {
    let log: PartitionLog
}
