// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import Synchronization

/// The log of one partition. Every method may be called from any thread.
///
/// Two locks: the appender lock is held by whoever changes the log's files (append, roll, truncation, retention,
/// compaction's swap), the state lock only for moments, to publish or look at what is there. The order is appender,
/// state, segment. A read takes no appender lock, so that it never waits for a write; it sees an offset only once its
/// bytes are in the file.
public final class PartitionLog: Sendable {
    /// What only the holder of the appender lock touches.
    struct Appender: Sendable {
        var producers = ProducerTable()
        /// Offset of the newest producer snapshot that is on disk; nil where there is none.
        var snapshotOffset: Offset?
        /// When the active segment got its first batch, by this node's clock.
        var segmentStart: Timestamp = .none
        var isClosed = false
        /// Whose appends are taken; nil for anyone's.
        var role: ReplicaRole?
    }

    /// What readers see.
    struct Published: Sendable {
        var settings: LogSettings
        /// Ordered by base offset; the last is the active one. Never empty.
        var segments: [Segment]
        var logStart: Offset
        var end: Offset
        /// Everything before it is on stable storage.
        var synced: Offset
        /// As the broker knows it.
        var highWatermark: Offset?
        var epochs = LeaderEpochs()
        var epochsChanged = false
        /// A full disk has kept a round from writing the epochs: nothing more is durable before they are.
        var epochsAreLate = false
        var directoryChanged = false
        /// First offset of the earliest open transaction.
        var firstOpenOffset: Offset?
        /// Ended transactions whose marker may be above the high watermark or not on disk, in order of the markers.
        var completed: [CompletedTransaction] = []
        /// Everything before it has been compacted.
        var cleanedTo: Offset = 0
        /// In order of their markers.
        var aborted: [AbortedTransaction] = []
        /// Segments with bytes that may not be on disk.
        var unsynced: [Segment] = []
        var isQueued = false
        var generation = 0
        var waiters: [DurabilityWaiter] = []
        var damage: [DamageReport] = []
        /// Why nothing is appended: damage, deletion, closure.
        var offline: LogError?
        /// Where a recovery may start, as of the last checkpoint; and one that holds once its offset is synced.
        var checkpoint: PartitionCheckpoint
        var nextCheckpoint: PartitionCheckpoint?
        /// Counts what makes a checkpoint that is on its way void.
        var revision = 0
        /// When the last sync was asked for under `DurabilityPolicy.interval`.
        var lastSyncRequest: Timestamp = .none
    }

    /// The partition.
    public let topicPartition: TopicPartition
    /// The topic's id, from the partition's folder.
    public let topicID: TopicID
    let directory: DataDirectory
    /// Path of the partition's folder.
    let path: String
    let environment: LogEnvironment
    let appender: Mutex<Appender>
    let published: Mutex<Published>

    init(
        topicPartition: TopicPartition,
        topicID: TopicID,
        directory: DataDirectory,
        path: String,
        environment: LogEnvironment,
        appender: Appender,
        published: Published
    ) {
        precondition(!published.segments.isEmpty, "a log has at least its active segment")
        self.topicPartition = topicPartition
        self.topicID = topicID
        self.directory = directory
        self.path = path
        self.environment = environment
        self.appender = Mutex(appender)
        self.published = Mutex(published)
    }

    var fileSystem: any FileSystem { environment.fileSystem }

    // MARK: What is there

    /// The settings; changed by `update(settings:)`.
    public var settings: LogSettings { published.withLock { $0.settings } }
    /// Changes the settings from the next append or maintenance on. Throws `.invalidConfiguration`.
    public func update(settings: LogSettings) throws(LogError) {
        if let problem = settings.problem { throw LogError(.invalidConfiguration, problem) }
        published.withLock { $0.settings = settings }
    }
    /// First offset that can be read.
    public var logStartOffset: Offset { published.withLock { $0.logStart } }
    /// Offset that the next record gets. The bytes of all before it are in the file.
    public var logEndOffset: Offset { published.withLock { $0.end } }
    /// Offset before which everything may be acknowledged under the durability policy: what is on stable storage with
    /// `.fsync`, the log end with `.interval` and `.os`.
    public var durableEndOffset: Offset { published.withLock { $0.durable } }
    /// Offset before which everything is on stable storage, whatever the policy.
    public var syncedEndOffset: Offset { published.withLock { $0.synced } }
    /// Bytes of record batches.
    public var sizeInBytes: Int { published.withLock { $0.segments }.reduce(0) { $0 + $1.size } }
    /// Number of segments.
    public var segmentCount: Int { published.withLock { $0.segments.count } }
    /// Epoch of the last leader that is known here; `.unknown` where none is.
    public var latestEpoch: LeaderEpoch { published.withLock { $0.epochs.latest } }
    /// Damage below the durable point that has been found. Reads of it fail, and nothing is appended until it is dealt
    /// with.
    public var damage: [DamageReport] { published.withLock { $0.damage } }
    /// Why no append is accepted (failed or full folder, damage, deletion); nil where appends are welcome.
    public var offlineReason: LogError? {
        // Its own first: a full disk ends by itself, remains of a failed write only with the next start.
        published.withLock { $0.offline } ?? directory.refusal
    }
    /// Whether its data folder has failed, so that nothing is appended until the next start.
    public var isFolderOffline: Bool { directory.offlineReason != nil }
    /// The right to read without the right to append.
    public var reader: PartitionReader { PartitionReader(log: self) }
    /// The data folder that holds the partition.
    public var dataDirectory: String { directory.path }

    /// Tells the log the broker's high watermark. It bounds retention, compaction and the last stable offset; until it is
    /// told, the durable end stands in for it.
    ///
    /// What a follower hears of its leader may be beyond its own log: then it is the log's end as of now, for nothing that
    /// is appended later is committed by that. One before the log's start is the start. A negative one is the caller's
    /// mistake and traps.
    public func updateHighWatermark(_ offset: Offset) {
        precondition(offset >= 0, "a high watermark is not negative")
        published.withLock { state in
            let offset = min(max(offset, state.logStart), state.end)
            state.highWatermark = offset
            state.forgetDecided()
        }
    }

    /// The high watermark as last told, else the durable end.
    public var highWatermark: Offset { published.withLock { $0.committed } }

    /// The last stable offset: before it, every transaction is decided. At most the high watermark.
    public var lastStableOffset: Offset { published.withLock { $0.lastStable } }

    /// What a fetch is told of the log, as of one moment.
    public var fetchMarks: (highWatermark: Offset, lastStable: Offset, logStart: Offset, end: Offset) {
        published.withLock { ($0.committed, $0.lastStable, $0.logStart, $0.end) }
    }

    /// The transactions that were aborted and have records in `range`: what a read-committed consumer of that range
    /// must be told.
    public func abortedTransactions(in range: Range<Offset>) -> [AbortedTransaction] {
        published.withLock { state in
            var found: [AbortedTransaction] = []
            let first = state.aborted.partitionPoint { $0.lastOffset >= range.lowerBound }
            for entry in state.aborted[first...] {
                if entry.firstOffset < range.upperBound { found.append(entry) }
                if entry.lastStableOffset >= range.upperBound { break }
            }
            return found
        }
    }

    /// The producers that have a state here, by id.
    public var activeProducers: [ActiveProducer] {
        appender.withLock { appender in
            appender.producers.entries.sorted { $0.key < $1.key }.map { ActiveProducer($0, $1) }
        }
    }

    /// The state of one producer; nil where nothing is known of it.
    public func activeProducer(_ id: ProducerID) -> ActiveProducer? {
        appender.withLock { appender in appender.producers[id].map { ActiveProducer(id, $0) } }
    }

    // MARK: Leader epochs

    /// Records that `epoch` begins at the log's end, before anything is appended in it (KIP-279). Durable with the next
    /// sync round.
    public func beginEpoch(_ epoch: LeaderEpoch) {
        appender.withLock { _ in
            let isQueued = published.withLock { state -> Bool in
                guard state.epochs.begin(epoch, at: state.end) else { return true }
                state.epochsChanged = true
                return state.queue()
            }
            if !isQueued { environment.groupCommit.enqueue(self) }
        }
    }

    /// The largest epoch up to `epoch` that is known here, and the offset where it ended; (-1, -1) where nothing is
    /// known of it. Source: OffsetForLeaderEpoch.
    public func endOffset(for epoch: LeaderEpoch) -> (LeaderEpoch, Offset) {
        published.withLock { $0.epochs.end(of: epoch, logEnd: $0.end) }
    }

    /// The epoch in which the record at `offset` was appended; `.unknown` where it is not known.
    public func epoch(at offset: Offset) -> LeaderEpoch { published.withLock { $0.epochs.epoch(at: offset) } }
}

extension ActiveProducer {
    init(_ id: ProducerID, _ entry: ProducerEntry) {
        self.init(
            producerID: id,
            producerEpoch: entry.epoch,
            lastSequence: entry.lastSequence,
            lastTimestamp: entry.lastTimestamp,
            coordinatorEpoch: entry.coordinatorEpoch,
            currentTransactionFirstOffset: entry.currentTransactionFirstOffset
        )
    }
}

extension PartitionLog.Published {
    var active: Segment { segments[segments.count - 1] }

    var durable: Offset {
        if case .fsync = settings.durability { return synced }
        return end
    }

    var committed: Offset { min(highWatermark ?? durable, end) }

    var lastStable: Offset { lastStable(below: committed) }

    /// The last stable offset if nothing from `limit` on were there.
    func lastStable(below limit: Offset) -> Offset {
        var stable = limit
        if let firstOpenOffset { stable = min(stable, firstOpenOffset) }
        for transaction in completed where transaction.lastOffset >= limit {
            stable = min(stable, transaction.firstOffset)
        }
        return stable
    }

    /// Forgets the ended transactions whose markers neither a change of leaders nor a crash takes back.
    mutating func forgetDecided() {
        let limit = min(committed, synced)
        if let first = completed.first, first.lastOffset < limit { completed.removeAll { $0.lastOffset < limit } }
    }

    /// Marks the log as queued for the next sync round; tells whether it was already.
    mutating func queue() -> Bool {
        defer { isQueued = true }
        return isQueued
    }

    /// The index of the segment that holds `offset`.
    func segmentIndex(for offset: Offset) -> Int {
        max(segments.partitionPoint { $0.baseOffset > offset } - 1, 0)
    }
}

/// The right to read a partition without the right to change it.
public struct PartitionReader: Sendable {
    private let log: PartitionLog
    init(log: PartitionLog) { self.log = log }

    public var topicPartition: TopicPartition { log.topicPartition }
    public var topicID: TopicID { log.topicID }
    public var logStartOffset: Offset { log.logStartOffset }
    public var logEndOffset: Offset { log.logEndOffset }
    public var durableEndOffset: Offset { log.durableEndOffset }
    public var highWatermark: Offset { log.highWatermark }
    public var lastStableOffset: Offset { log.lastStableOffset }

    /// See `PartitionLog.read(from:maxBytes:minOneBatch:upTo:)`.
    public func read(
        from offset: Offset,
        maxBytes: Int,
        minOneBatch: Bool,
        upTo limit: Offset
    ) throws(LogError) -> LogRead {
        try log.read(from: offset, maxBytes: maxBytes, minOneBatch: minOneBatch, upTo: limit)
    }
    /// See `PartitionLog.offset(for:)`.
    public func offset(for lookup: OffsetLookup) throws(LogError) -> OffsetAndTimestamp? {
        try log.offset(for: lookup)
    }
    /// See `PartitionLog.abortedTransactions(in:)`.
    public func abortedTransactions(in range: Range<Offset>) -> [AbortedTransaction] {
        log.abortedTransactions(in: range)
    }
    /// See `PartitionLog.endOffset(for:)`.
    public func endOffset(for epoch: LeaderEpoch) -> (LeaderEpoch, Offset) { log.endOffset(for: epoch) }
}
