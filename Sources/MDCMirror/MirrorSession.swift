// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// One life of a mirror, from finding its position to the first failure; then another one begins.
actor MirrorSession {
    let configuration: MirrorConfiguration
    let logger: Logger
    let report: @Sendable ((inout MirrorStatus) -> Void) -> Void
    private let eventLoopGroup: any EventLoopGroup

    private(set) var source: Admin!
    private(set) var target: Admin!
    private var producer: Producer!
    private var consumer: Consumer!

    /// Identity of the clusters.
    var sourceID: String?
    var targetID: String?
    /// What is mirrored, by the source's partition.
    var maps: [TopicPartition: OffsetMap] = [:]
    /// What the mirror brought that this one leads back, by its source's partition, which is a partition of our target.
    var brought: [TopicPartition: OffsetMap] = [:]
    /// What was committed at the target: the next offset at the source.
    var positions: [TopicPartition: Offset] = [:]
    /// The topics that are copied, with their ids at the source.
    var topics: [String: TopicID] = [:]
    /// Settings that the target refused, not tried again.
    var refused: Set<String> = []
    private var nextTopics = ContinuousClock.now
    private var nextGroups = ContinuousClock.now

    init(
        _ configuration: MirrorConfiguration,
        _ eventLoopGroup: any EventLoopGroup,
        _ logger: Logger,
        report: @escaping @Sendable ((inout MirrorStatus) -> Void) -> Void
    ) {
        self.configuration = configuration
        self.eventLoopGroup = eventLoopGroup
        self.logger = logger
        self.report = report
    }

    var group: String { MirrorConfiguration.group(of: configuration.name) }
    var offsetsTopic: String { MirrorConfiguration.offsetsTopic(of: configuration.name) }

    /// The name at the target of a topic of the source.
    func renamed(_ topic: String) -> String { configuration.prefix + topic }
    func renamed(_ partition: TopicPartition) -> TopicPartition {
        TopicPartition(topic: renamed(partition.topic), partition: partition.partition)
    }

    // MARK: Life

    /// Connects, takes over, and finds out where to go on.
    func start() async throws {
        source = try Admin(configuration.source, eventLoopGroup: eventLoopGroup, logger: logger)
        target = try Admin(configuration.target, eventLoopGroup: eventLoopGroup, logger: logger)
        sourceID = try await source.describeCluster().clusterID
        targetID = try await target.describeCluster().clusterID
        try await checkDirection()
        try await makeOffsetsTopic()
        // Before the position is read: what the last process left open is decided by this.
        var settings = ProducerConfiguration(client: configuration.target)
        settings.transactionalID = group
        settings.maxRequestSize = 128 << 20
        settings.bufferMemory = 192 << 20
        settings.allowAutoTopicCreation = false
        producer = try Producer(settings, eventLoopGroup: eventLoopGroup, logger: logger)
        try await producer.initTransactions()
        maps = try await readMaps(of: configuration.name, at: configuration.target)
        brought = try await readBrought()
        var reading = ConsumerConfiguration(client: configuration.source)
        reading.isolation = .readCommitted
        // Where records are gone is looked at below, and said.
        reading.autoOffsetReset = .none
        consumer = try Consumer(reading, eventLoopGroup: eventLoopGroup, logger: logger)
        try await followTopics()
        report { $0.isRunning = true }
        logger.info("mirroring", metadata: ["mirror": "\(configuration.name)", "topics": "\(topics.count)"])
    }

    func close() async {
        await consumer?.close()
        // What is open is aborted by whoever comes next; waiting for deliveries here would only delay it.
        try? await producer?.close()
        await source?.close()
        await target?.close()
    }

    // MARK: Copying

    /// Copies what comes within the interval as one transaction, and looks after topics and groups when it is time to.
    func round() async throws {
        if ContinuousClock.now >= nextTopics {
            try await followTopics()
            nextTopics = .now + configuration.topicInterval
        }
        if !positions.isEmpty {
            let records = try await collect()
            if !records.isEmpty { try await write(records) }
        } else {
            try await Task.sleep(for: .milliseconds(500))
        }
        if ContinuousClock.now >= nextGroups {
            try await followGroups()
            try await measure()
            nextGroups = .now + configuration.groupInterval
        }
    }

    private func collect() async throws -> [ConsumerRecord] {
        var records = try await consumer.poll(maxRecords: 2_000, timeout: .seconds(1))
        if records.isEmpty { return [] }
        let end = ContinuousClock.now + configuration.interval
        var bytes = records.reduce(0) { $0 + $1.size }
        while records.count < configuration.maxRecords, bytes < 32 << 20 {
            let left = end - .now
            if left <= .zero { break }
            let more = try await consumer.poll(maxRecords: 2_000, timeout: left)
            bytes += more.reduce(0) { $0 + $1.size }
            records += more
        }
        return records
    }

    /// Writes records, their runs and the new positions in one transaction.
    private func write(_ records: [ConsumerRecord]) async throws {
        try producer.beginTransaction()
        let places = Placements(count: records.count)
        for (index, record) in records.enumerated() {
            let copy = ProducerRecord(
                topic: renamed(record.topicPartition.topic),
                partition: record.topicPartition.partition.rawValue,
                key: record.key,
                value: record.value,
                headers: record.headers,
                timestamp: record.timestamp
            )
            try await producer.enqueue(copy) { result in places.set(index, result) }
        }
        try await producer.flush()
        let offsets = try places.all()
        var placed: [TopicPartition: [(source: Offset, target: Offset)]] = [:]
        for (index, record) in records.enumerated() {
            placed[record.topicPartition, default: []].append((record.offset, Offset(offsets[index])))
        }
        for (partition, places) in placed {
            let entries = maps[partition, default: OffsetMap()].append(OffsetMap.runs(places))
            for entry in entries {
                let line = OffsetMapRecord(
                    topic: partition.topic,
                    partition: partition.partition.rawValue,
                    entry: entry
                )
                try await producer.enqueue(
                    ProducerRecord(topic: offsetsTopic, partition: 0, key: line.key, value: line.value)
                )
            }
        }
        var next = advanced()
        for (partition, places) in placed {
            let behind = (places.last?.source ?? 0) + 1
            next[partition] = max(next[partition] ?? behind, behind)
        }
        try await commit(next)
        report { status in
            status.records += Int64(records.count)
            status.bytes += Int64(records.reduce(0) { $0 + $1.size })
        }
    }

    /// The positions that have moved, also past what is no record (markers, aborted transactions).
    private func advanced() -> [TopicPartition: Offset] {
        var next: [TopicPartition: Offset] = [:]
        for (partition, committed) in positions {
            if let position = try? consumer.position(partition), position > committed { next[partition] = position }
        }
        return next
    }

    /// Commits positions alone.
    func keep(_ next: [TopicPartition: Offset]) async throws {
        try producer.beginTransaction()
        try await commit(next)
    }

    private func commit(_ next: [TopicPartition: Offset]) async throws {
        var offsets: [TopicPartition: OffsetAndMetadata] = [:]
        for (partition, offset) in next {
            guard let id = topics[partition.topic] else { continue }
            offsets[renamed(partition)] = OffsetAndMetadata(
                offset,
                metadata: MirrorOrigin(clusterID: sourceID, topicID: id).text
            )
        }
        try await producer.sendOffsets(offsets, group: ConsumerGroupMetadata(groupID: group))
        while true {
            do {
                try await producer.commitTransaction()
                break
            } catch let error as ClientError where error.code == .timeout || error.code == .connection {
                // The outcome is open; only the same call finds it out.
                try Task.checkCancellation()
                logger.warning("the commit is repeated", metadata: ["error": "\(error)"])
            }
        }
        for (partition, offset) in next { positions[partition] = offset }
        report { $0.transactions += 1 }
    }

    // MARK: Reading

    /// Reads from these partitions from now on.
    func read(_ next: [TopicPartition: Offset]) async throws {
        try await consumer.assign(next)
        positions = next
    }

    /// Where reading is now, for partitions that go on.
    func current() -> [TopicPartition: Offset] { positions }

    private func measure() async throws {
        let moved = advanced()
        if !moved.isEmpty {
            // Only markers were read: nothing to write, and no lag that would stay for ever.
            try await keep(moved)
        }
        let ends = try await source.endOffsets(Array(positions.keys))
        let partitions = positions.map { partition, position in
            MirrorStatus.Partition(partition: partition, position: position, end: ends[partition] ?? position)
        }.sorted { $0.partition < $1.partition }
        report { $0.partitions = partitions }
    }

    /// The offset maps that a mirror keeps at a cluster; none where it never ran.
    func readMaps(of name: String, at cluster: ClientConfiguration) async throws -> [TopicPartition: OffsetMap] {
        let topic = MirrorConfiguration.offsetsTopic(of: name)
        var settings = ConsumerConfiguration(client: cluster)
        settings.isolation = .readCommitted
        let reader = try Consumer(settings, eventLoopGroup: eventLoopGroup, logger: logger)
        do {
            let partition = TopicPartition(topic: topic, partition: 0)
            let end = try await reader.endOffsets([partition])[partition] ?? 0
            try await reader.assign([partition: 0])
            var maps: [TopicPartition: OffsetMap] = [:]
            while try (reader.position(partition) ?? 0) < end {
                for record in try await reader.poll(maxRecords: 10_000, timeout: .seconds(1)) {
                    guard let line = OffsetMapRecord(key: record.key, value: record.value) else { continue }
                    let place = TopicPartition(topic: line.topic, partition: PartitionID(line.partition))
                    maps[place, default: OffsetMap()].insert(line.entry)
                }
                try Task.checkCancellation()
            }
            await reader.close()
            return maps
        } catch {
            await reader.close()
            throw error
        }
    }
}

/// Target offsets of the records of a transaction, as the answers come.
private final class Placements: Sendable {
    private struct State {
        var offsets: [Int64]
        var failure: ClientError?
    }

    private let state: Mutex<State>

    init(count: Int) { state = Mutex(State(offsets: Array(repeating: -1, count: count))) }

    func set(_ index: Int, _ result: Result<RecordMetadata, ClientError>) {
        state.withLock { state in
            switch result {
            case .success(let metadata): state.offsets[index] = metadata.offset
            case .failure(let error): state.failure = state.failure ?? error
            }
        }
    }

    /// The offsets, -1 where one is not known. Throws the first failure.
    func all() throws -> [Int64] {
        try state.withLock { state in
            if let failure = state.failure { throw failure }
            return state.offsets
        }
    }
}

extension ConsumerRecord {
    /// Bytes of key and value.
    fileprivate var size: Int { (key?.readableBytes ?? 0) + (value?.readableBytes ?? 0) }
}
