// SPDX-License-Identifier: Apache-2.0

public import Logging
public import MDCClient
public import MDCModel
public import NIOCore

/// What a person does to a topology from outside: look, pause, resume, put dead letters back.
public struct TopologyAdmin: Sendable {
    /// A partition of a source, as the cluster knows it.
    public struct Place: Sendable, Hashable {
        /// The partition.
        public var partition: TopicPartition
        /// What the group reads next; nil before its first commit.
        public var position: Offset?
        /// Where the partition ends.
        public var end: Offset
        /// The worker that has it; nil for none.
        public var worker: String?

        /// Records that are not done.
        public var lag: Int64 { max(end - (position ?? 0), 0) }
    }

    /// How a topology is, whether workers run or not.
    public struct Standing: Sendable, Hashable {
        /// Whether it is paused.
        public var isPaused: Bool
        /// How many workers its group has.
        public var workers: Int
        /// The partitions that were read, or that a worker has.
        public var places: [Place]
        /// Dead letters that are there.
        public var deadLetters: Int64
        /// Of these, those that were not put back.
        public var waitingLetters: Int64
    }

    /// A dead letter.
    public struct Letter: Sendable, Hashable {
        /// Where it lies in the dead letters.
        public var offset: Offset
        /// Where it came from; nil where it does not say so, and cannot be put back.
        public var source: SourcePosition?
        /// The stage that gave it up.
        public var stage: String
        /// Why.
        public var reason: String
    }

    /// What ``redrive(_:limit:isDryRun:)`` did.
    public struct Redriven: Sendable, Hashable {
        /// The letters that were (or would be) put back.
        public var letters: [Letter]
        /// Letters without a source: passed over.
        public var skipped: [Letter]
        /// Letters that wait behind these.
        public var left: Int64
    }

    private let client: ClientConfiguration
    private let eventLoopGroup: any EventLoopGroup
    private let logger: Logger

    /// For the cluster of `client`.
    public init(_ client: ClientConfiguration, eventLoopGroup: any EventLoopGroup, logger: Logger) {
        self.client = client
        self.eventLoopGroup = eventLoopGroup
        self.logger = logger
    }

    private func withAdmin<Value>(_ body: (Admin) async throws -> Value) async throws -> Value {
        let admin = try Admin(client, eventLoopGroup: eventLoopGroup, logger: logger)
        do {
            let value = try await body(admin)
            await admin.close()
            return value
        } catch {
            await admin.close()
            throw error
        }
    }

    private func withConsumer<Value>(_ group: String?, _ body: (Consumer) async throws -> Value) async throws -> Value {
        var configuration = ConsumerConfiguration(client: client, groupID: group)
        configuration.isolation = .readCommitted
        let consumer = try Consumer(configuration, eventLoopGroup: eventLoopGroup, logger: logger)
        do {
            let value = try await body(consumer)
            await consumer.close()
            return value
        } catch {
            await consumer.close()
            throw error
        }
    }

    private func missing(_ name: String) -> TopologyError {
        TopologyError(
            .configuration,
            "topology '\(name)' is not known here: no worker of it has run yet. Start one with `mdc topology run FILE`"
        )
    }

    private func check(_ name: String, _ admin: Admin) async throws {
        let topics = try await admin.listTopics()
        guard topics.contains(TopologyNames.deadLetters(of: name)) else { throw missing(name) }
    }

    // MARK: Pausing

    /// Tells all workers of a topology, those to come too, to read nothing (or to read on). Throws ``TopologyError`` where it is not known,
    /// and `ClientError`.
    public func setPaused(_ name: String, _ isPaused: Bool) async throws {
        try await withAdmin { try await check(name, $0) }
        let producer = try Producer(
            ProducerConfiguration(client: client),
            eventLoopGroup: eventLoopGroup,
            logger: logger
        )
        do {
            // Gone and resumed are the same.
            try await producer.send(
                ProducerRecord(
                    topic: TopologyNames.control,
                    partition: 0,
                    key: ByteBuffer(string: name),
                    value: isPaused ? ByteBuffer(string: ControlFollower.paused) : nil
                )
            )
            try await producer.close()
        } catch {
            try? await producer.close()
            throw error
        }
    }

    private func isPaused(_ name: String) async throws -> Bool {
        var isPaused = false
        try await readAll(ControlFollower.partition) { record in
            if record.key.map({ String(buffer: $0) }) == name { isPaused = record.value != nil }
        }
        return isPaused
    }

    // MARK: Looking

    /// How a topology is. Throws ``TopologyError`` where it is not known, and `ClientError`.
    public func standing(_ name: String) async throws -> Standing {
        let group = TopologyNames.group(of: name)
        let letters = TopicPartition(topic: TopologyNames.deadLetters(of: name), partition: 0)
        let paused = try await withAdmin { admin in
            try await check(name, admin)
            return try await isPaused(name)
        }
        return try await withAdmin { admin in
            let positions = try await admin.groupOffsets(group)
            let members =
                try await admin.listGroups().contains { $0.id == group }
                ? admin.describeGroups([group]).first?.members ?? [] : []
            var workers: [TopicPartition: String] = [:]
            for member in members {
                for partition in member.assignment { workers[partition] = member.instanceID ?? member.id }
            }
            let partitions = Set(positions.keys).union(workers.keys).sorted()
            let ends = partitions.isEmpty ? [:] : try await admin.endOffsets(partitions)
            let next = try await admin.groupOffsets(TopologyNames.redriveGroup(of: name))[letters]?.offset ?? 0
            // Counted one by one: offsets are also taken by the ends of transactions.
            var (all, waiting) = (Int64(0), Int64(0))
            try await readAll(letters) { record in
                all += 1
                if record.offset >= next { waiting += 1 }
            }
            return Standing(
                isPaused: paused,
                workers: members.count,
                places: partitions.map {
                    Place(partition: $0, position: positions[$0]?.offset, end: ends[$0] ?? 0, worker: workers[$0])
                },
                deadLetters: all,
                waitingLetters: waiting
            )
        }
    }

    /// Reads the committed records of a partition up to its end.
    private func readAll(
        _ partition: TopicPartition,
        from first: Offset? = nil,
        _ body: (ConsumerRecord) throws -> Void
    ) async throws {
        try await withConsumer(nil) { reader in
            let start = try await reader.beginningOffsets([partition])[partition] ?? 0
            let end = try await reader.endOffsets([partition])[partition] ?? 0
            try await reader.assign([partition: max(first ?? start, start)])
            while try (reader.position(partition) ?? start) < end {
                for record in try await reader.poll(maxRecords: 1_000, timeout: .milliseconds(200)) {
                    try body(record)
                }
            }
        }
    }

    // MARK: Redrive

    /// Puts dead letters back to the partitions that they came from, the oldest first, each once: records and the place up to which this was
    /// done are one transaction.
    ///
    /// - Parameters:
    ///   - limit: How many at most; at least 1.
    ///   - isDryRun: Only tell what would be done.
    /// - Throws: ``TopologyError`` where the topology is not known, and `ClientError`.
    public func redrive(_ name: String, limit: Int, isDryRun: Bool) async throws -> Redriven {
        guard limit >= 1 else { throw TopologyError(.configuration, "the limit is \(limit); it must be at least 1") }
        let group = TopologyNames.redriveGroup(of: name)
        let partition = TopicPartition(topic: TopologyNames.deadLetters(of: name), partition: 0)
        try await withAdmin { try await check(name, $0) }
        let producer = try isDryRun ? nil : transactional(group)
        do {
            // Before the place is read: it is then the last word of whoever did this before.
            try await producer?.initTransactions()
            let next = try await withAdmin { try await $0.groupOffsets(group)[partition]?.offset ?? 0 }
            var result = Redriven(letters: [], skipped: [], left: 0)
            var records: [ProducerRecord] = []
            var behind = next
            try await readAll(partition, from: next) { record in
                guard result.letters.count + result.skipped.count < limit else {
                    result.left += 1
                    return
                }
                let letter = Self.letter(record)
                if let source = letter.source {
                    result.letters.append(letter)
                    records.append(Self.original(record, source))
                } else {
                    result.skipped.append(letter)
                }
                behind = record.offset + 1
            }
            if let producer, behind > next {
                try producer.beginTransaction()
                for record in records { try await producer.enqueue(record) }
                try await producer.sendOffsets(
                    [partition: OffsetAndMetadata(behind)],
                    group: ConsumerGroupMetadata(groupID: group)
                )
                try await producer.commitTransaction()
            }
            try await producer?.close()
            return result
        } catch {
            try? await producer?.abortTransaction()
            try? await producer?.close()
            throw error
        }
    }

    private func transactional(_ id: String) throws -> Producer {
        var configuration = ProducerConfiguration(client: client)
        configuration.transactionalID = id
        configuration.allowAutoTopicCreation = false
        return try Producer(configuration, eventLoopGroup: eventLoopGroup, logger: logger)
    }

    private static func letter(_ record: ConsumerRecord) -> Letter {
        func header(_ name: String) -> String? {
            record.headers.last { $0.key == name }?.value.map { String(buffer: $0) }
        }
        return Letter(
            offset: record.offset,
            source: header(DeadLetter.sourceHeader).flatMap { SourcePosition($0) },
            stage: header(DeadLetter.stageHeader) ?? "",
            reason: header(DeadLetter.reasonHeader) ?? ""
        )
    }

    /// The record as it was before it became a dead letter.
    private static func original(_ record: ConsumerRecord, _ source: SourcePosition) -> ProducerRecord {
        var headers = record.headers
        let added: Set<String> = [DeadLetter.reasonHeader, DeadLetter.sourceHeader, DeadLetter.stageHeader]
        for _ in added { if let last = headers.last, added.contains(last.key) { headers.removeLast() } }
        return ProducerRecord(
            topic: source.partition.topic,
            partition: source.partition.partition.rawValue,
            key: record.key,
            value: record.value,
            headers: headers,
            timestamp: record.timestamp
        )
    }
}
