// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel
import NIOCore

/// What the producer decides, without I/O: which batch a record joins, which batches go out together, in which order
/// they are repeated, and when they are given up.
///
/// Order and idempotence rest on one rule. A partition's batches that were sent and are not acknowledged stand in
/// `unacknowledged` in the order of their sequence numbers; the first `sent` of them are in flight. When one of them
/// fails in a way that may pass, nothing more of the partition is sent until the answers to all its batches in flight
/// are known; then those that are left go out again, in order, with the same sequence numbers.
struct ProducerStateMachine {
    struct Configuration {
        var isIdempotent = true
        var isTransactional = false
        var linger: TimeAmount = .milliseconds(5)
        var batchSize = 256 * 1024
        var maxRequestSize = 1_048_576
        var maxInFlight = 5
        var bufferMemory = 64 * 1024 * 1024
        var deliveryTimeout: TimeAmount = .seconds(120)
        var batchSettings = RecordBatchBuilder.Settings()
        var backoff = Backoff(first: .milliseconds(100), longest: .seconds(1))
    }

    struct PartitionState {
        var leader: Int32 = -1
        /// Batches that were never sent; records join the last one.
        var queue = Deque<ProducerBatch>()
        var unacknowledged = Deque<ProducerBatch>()
        /// How many of `unacknowledged` wait for an answer of this round, from the front.
        var sent = 0
        /// Requests that hold a batch of this partition.
        var inFlight = 0
        /// A batch failed: send nothing until `inFlight` is 0.
        var isSettling = false
        /// The numbering broke: take a new producer id once settled.
        var needsNewProducerID = false
        var producerID: Int64 = -1
        var producerEpoch: Int16 = -1
        var nextSequence: Int32 = 0
        var nextOrdinal = 0
        var retryAttempts = 0
        var mutedUntil = NIODeadline.uptimeNanoseconds(0)
        var isActive = false
        /// Size of the last batch, a guess at that of the next.
        var lastBatchSize = 1024

        var isEmpty: Bool { queue.isEmpty && unacknowledged.isEmpty }
    }

    struct TopicState {
        let name: String
        var partitions: [PartitionState]
        var partitioner = StickyPartitioner()
    }

    struct PartitionKey: Hashable {
        let topic: Int
        let partition: Int
    }

    /// How many batches of a producer a broker remembers for each partition.
    static let brokerMemory = 5

    let configuration: Configuration
    var topics: [TopicState] = []
    var topicIndex: [String: Int] = [:]
    /// Partitions that hold a batch.
    var active: [PartitionKey] = []
    var bufferedBytes = 0
    var inFlightByNode: [Int32: Int] = [:]
    var generator: SeededGenerator
    private var isClosed = false

    // Idempotence: the id for partitions that have none yet.
    var producerID: Int64 = -1
    var producerEpoch: Int16 = -1
    var producerIDIsRequested = false

    /// Only where the producer is transactional.
    var transaction = TransactionStateMachine()

    // Flushing.
    var generation = 0
    var incompleteByGeneration: [Int: Int] = [:]
    var flushUpTo = -1
    /// Someone waits for room, so lingering makes no sense.
    var isUnderPressure = false

    // Waking the event loop: whether it was told, and what it waits for by itself.
    var wakeIsPending = false
    var timer: NIODeadline?

    init(_ configuration: Configuration, generator: SeededGenerator = SeededGenerator()) {
        self.configuration = configuration
        self.generator = generator
    }

    // MARK: Appending

    enum AppendResult {
        /// The record is in a batch; with `wake`, the event loop should be told.
        case accepted(wake: Bool)
        case unknownTopic
        /// No room for this many bytes.
        case full(size: Int)
        case refused(ClientError)
    }

    mutating func append(
        _ record: ProducerRecord,
        timestamp: Timestamp,
        now: @autoclosure () -> NIODeadline,
        done: ProducerCompletion?
    ) -> AppendResult {
        if isClosed { return .refused(ClientError(.closed, "the producer is closed")) }
        if configuration.isTransactional, let error = transaction.appendError { return .refused(error) }
        let size = RecordBatchBuilder.maximumRecordSize(
            keySize: record.key?.readableBytes ?? 0,
            valueSize: record.value?.readableBytes ?? 0,
            headers: record.headers
        )
        guard size + RecordBatchHeader.Layout.size <= configuration.maxRequestSize else {
            return .refused(
                ClientError(
                    .recordTooLarge,
                    "the record takes up to \(size) bytes; maxRequestSize is \(configuration.maxRequestSize)"
                )
            )
        }
        guard let topic = topicIndex[record.topic] else { return .unknownTopic }
        guard bufferedBytes + size <= configuration.bufferMemory else { return .full(size: size) }
        let partition: Int
        switch choosePartition(record, topic: topic, size: size) {
        case .success(let chosen): partition = chosen
        case .failure(let error): return .refused(error)
        }
        bufferedBytes += size
        let wake = add(record, size: size, timestamp: timestamp, to: topic, partition, now: now(), done: done)
        return .accepted(wake: wake)
    }

    private mutating func choosePartition(
        _ record: ProducerRecord,
        topic: Int,
        size: Int
    ) -> Result<Int, ClientError> {
        let count = Int32(topics[topic].partitions.count)
        if let wanted = record.partition {
            guard (0..<count).contains(wanted) else {
                return .failure(
                    ClientError(
                        .unknownTopicOrPartition,
                        "topic \(record.topic) has partitions 0 to \(count - 1), not \(wanted)"
                    )
                )
            }
            return .success(Int(wanted))
        }
        if let key = record.key { return .success(Int(StickyPartitioner.partition(of: key, count: count))) }
        let partitions = topics[topic].partitions
        let chosen = topics[topic].partitioner.next(
            size: size,
            count: count,
            stickyBytes: configuration.batchSize,
            isAvailable: { partitions[Int($0)].leader >= 0 },
            using: &generator
        )
        return .success(Int(chosen))
    }

    /// Puts the record into the partition's last batch, or a new one. True where the event loop must be told.
    private mutating func add(
        _ record: ProducerRecord,
        size: Int,
        timestamp: Timestamp,
        to topic: Int,
        _ index: Int,
        now: NIODeadline,
        done: ProducerCompletion?
    ) -> Bool {
        let batchSize = configuration.batchSize
        if let open = topics[topic].partitions[index].queue.last {
            if open.estimatedSize + size <= batchSize, open.generation == generation {
                open.append(record, size: size, timestamp: timestamp, done: done)
                return open.estimatedSize >= batchSize ? tellLoop() : false
            }
        }
        let isFirst = topics[topic].partitions[index].queue.isEmpty
        let batch = ProducerBatch(
            topic: topics[topic].name,
            partition: Int32(index),
            created: now,
            generation: generation,
            settings: configuration.batchSettings,
            capacity: max(size, min(batchSize, topics[topic].partitions[index].lastBatchSize))
        )
        batch.append(record, size: size, timestamp: timestamp, done: done)
        topics[topic].partitions[index].queue.append(batch)
        incompleteByGeneration[generation, default: 0] += 1
        if !topics[topic].partitions[index].isActive {
            topics[topic].partitions[index].isActive = true
            active.append(PartitionKey(topic: topic, partition: index))
        }
        // A batch before this one is full now; or this is the first, and its lingering must end some time.
        if !isFirst || batch.estimatedSize >= batchSize || isUnderPressure { return tellLoop() }
        if let timer, timer <= now + configuration.linger { return false }
        return tellLoop()
    }

    private mutating func tellLoop() -> Bool {
        if wakeIsPending { return false }
        wakeIsPending = true
        return true
    }

    // MARK: Metadata

    /// The partitions' leaders of a topic, by partition number; -1 where there is none.
    mutating func updateTopic(_ name: String, leaders: [Int32]) {
        guard let index = topicIndex[name] else {
            guard !leaders.isEmpty else { return }
            topicIndex[name] = topics.count
            topics.append(
                TopicState(name: name, partitions: leaders.map { leader in PartitionState(leader: leader) })
            )
            return
        }
        for (partition, leader) in leaders.enumerated() {
            if partition < topics[index].partitions.count {
                topics[index].partitions[partition].leader = leader
            } else {
                topics[index].partitions.append(PartitionState(leader: leader))
            }
        }
    }

    /// The topics that the producer writes to.
    var knownTopics: [String] { topics.map(\.name) }

    // MARK: Flush and close

    /// Begins a flush: all batches up to the returned generation are sent without lingering.
    mutating func startFlush() -> Int {
        let upTo = generation
        generation += 1
        flushUpTo = upTo
        return upTo
    }

    /// Whether every batch up to this generation is done.
    func isFlushed(upTo limit: Int) -> Bool {
        !incompleteByGeneration.contains { $0.key <= limit && $0.value > 0 }
    }

    /// Refuses records from now on.
    mutating func close() { isClosed = true }

    /// Takes every batch that is left, for failing it at the very end.
    mutating func abandonAll() -> [ProducerBatch] {
        var all: [ProducerBatch] = []
        for topic in topics.indices {
            for partition in topics[topic].partitions.indices {
                all += topics[topic].partitions[partition].unacknowledged
                all += topics[topic].partitions[partition].queue
                topics[topic].partitions[partition].unacknowledged.removeAll()
                topics[topic].partitions[partition].queue.removeAll()
            }
        }
        all.forEach { released($0) }
        return all
    }

    /// A batch is done: its memory is free.
    mutating func released(_ batch: ProducerBatch) {
        bufferedBytes -= batch.reservedBytes
        let left = (incompleteByGeneration[batch.generation] ?? 1) - 1
        incompleteByGeneration[batch.generation] = left > 0 ? left : nil
    }
}
