// SPDX-License-Identifier: Apache-2.0

import Foundation
public import Logging
public import MDCClient
public import MDCModel
public import NIOCore

/// What people do to a message centre at work: cancel, suppress, pause, look at timers and dead letters. All of it is
/// records on the log, so it needs nothing but the broker.
public final class CenterAdmin: Sendable {
    private let client: ClientConfiguration
    private let group: any EventLoopGroup
    private let logger: Logger
    private let producer: Producer
    private let writer: RecordWriter

    /// Makes a connection. - Throws: what is wrong with the configuration.
    public init(client: ClientConfiguration, eventLoopGroup: any EventLoopGroup, logger: Logger) throws {
        self.client = client
        group = eventLoopGroup
        self.logger = logger
        var settings = ProducerConfiguration(client: client)
        settings.linger = .zero
        producer = try Producer(settings, eventLoopGroup: eventLoopGroup, logger: logger)
        writer = RecordWriter(producer: producer, logger: logger)
    }

    /// Ends the connection.
    public func close() async throws { try await producer.close() }

    // MARK: - Messages

    /// Asks for a message not to be sent. What came of it stands in its timeline: the final status `cancelled`, or
    /// `cancelRefused` with the reason.
    public func cancel(_ messageID: String, channel: Channel) async throws(PipelineError) {
        guard MessageID.isValid(messageID) else {
            throw PipelineError(.invalidMessage, "'\(messageID)' is no message id; `mdc send` prints them")
        }
        let event = TimelineEvent(
            messageID: messageID,
            channel: channel,
            at: SystemTime.now(),
            component: "client",
            kind: .cancelRequested
        )
        try await writer.write([Records.event(event, writer: "client")])
    }

    // MARK: - Providers

    /// What is known of the providers, by provider and kind.
    public func providerNotices() async throws -> [ProviderNotice] {
        try await latest(Topics.providers).compactMap { $0.value.flatMap { try? ProviderNotice(json: $0) } }
            .sorted { ($0.provider, $0.kind.rawValue) < ($1.provider, $1.kind.rawValue) }
    }

    /// What the latest pulls found, by provider.
    public func providerDrifts() async throws -> [ProviderDrift] {
        try await providerNotices().compactMap { notice in
            guard notice.kind == .drift, let text = notice.reason else { return nil }
            return try? JSONDecoder().decode(ProviderDrift.self, from: Data(text.utf8))
        }
    }

    /// Pauses a provider, or lets it run again. Workers follow at once.
    public func setPaused(_ provider: String, _ isPaused: Bool, reason: String?) async throws(PipelineError) {
        let notice = ProviderNotice(
            provider: provider,
            kind: .pause,
            state: isPaused ? "paused" : "running",
            reason: reason,
            at: SystemTime.now(),
            by: "operator"
        )
        try await writer.write([Records.notice(notice)])
    }

    // MARK: - Suppressions

    /// Recipients that are not written to.
    public func suppressions() async throws -> [Suppression] {
        try await latest(Topics.suppressions).compactMap { $0.value.flatMap { try? Suppression(json: $0) } }
            .sorted { $0.key < $1.key }
    }

    /// Holds back messages to a recipient from now on.
    public func suppress(_ suppression: Suppression) async throws(PipelineError) {
        try await writer.write([
            ProducerRecord(
                topic: Topics.suppressions,
                key: ByteBuffer(string: suppression.key),
                value: suppression.json()
            )
        ])
    }

    /// Lets messages to a recipient go again.
    public func unsuppress(_ recipient: String, channel: Channel, tenant: String?) async throws(PipelineError) {
        let key = Suppression.key(channel, recipient, tenant: tenant)
        try await writer.write([
            ProducerRecord(topic: Topics.suppressions, key: ByteBuffer(string: key), value: nil)
        ])
    }

    // MARK: - Templates

    /// Runs the body with the templates on the log.
    public func withTemplates<Value>(_ body: (TemplateBook) async throws -> Value) async throws -> Value {
        let admin = try Admin(client, eventLoopGroup: group, logger: logger)
        let topics: Set<String>
        do {
            topics = Set(try await admin.listTopics())
            await admin.close()
        } catch {
            await admin.close()
            throw error
        }
        guard topics.contains(Topics.templates) else {
            throw PipelineError(
                .log,
                "there is no topic \(Topics.templates): start a message centre with `mdc up` first"
            )
        }
        let book = TemplateBook(client: client, writer: writer, eventLoopGroup: group, logger: logger)
        do {
            let value = try await body(book)
            await book.close()
            return value
        } catch {
            await book.close()
            throw error
        }
    }

    // MARK: - Timers

    /// A timer that is set.
    public struct TimerEntry: Sendable, Codable, Hashable {
        /// Its id: `send-at:<message id>`, `retry:<message id>:<attempt>`.
        public var id: String
        /// When its record is delivered.
        public var due: Timestamp
        /// Where to.
        public var topic: String
        /// The key of the record, that is the message id.
        public var key: String
    }

    /// The timers that are set, by their time.
    public func timers() async throws -> [TimerEntry] {
        try await latest(Topics.timers)
            .compactMap { record in
                guard let key = record.key, record.value != nil, let headers = TimerHeaders(record.headers) else {
                    return nil
                }
                return TimerEntry(id: String(buffer: key), due: headers.due, topic: headers.topic, key: headers.key)
            }
            .sorted { ($0.due, $0.id) < ($1.due, $1.id) }
    }

    /// Cancels a timer: its record is not delivered. A message that waited for it waits for ever; see ``cancel(_:channel:)``.
    public func cancelTimer(_ id: String) async throws(PipelineError) {
        try await writer.write([Records.timerEnd(id)])
    }

    // MARK: - Dead letters

    /// A record that could not be used.
    public struct DeadLetter: Sendable, Codable, Hashable {
        /// Its place among the dead letters.
        public var offset: Int64
        /// When it was put there.
        public var at: Timestamp
        /// Where it was: a topic, or topic, partition and offset.
        public var source: String
        /// Why it could not be used.
        public var reason: String
        /// Its key.
        public var key: String?
        /// Its value, as text.
        public var value: String?
    }

    /// The dead letters, the oldest first.
    public func deadLetters() async throws -> [DeadLetter] {
        try await records(Topics.deadLetter).map { record in
            DeadLetter(
                offset: record.offset.rawValue,
                at: record.timestamp,
                source: record.header("source") ?? "?",
                reason: record.header("reason") ?? "?",
                key: record.key.map { String(buffer: $0) },
                value: record.value.map { String(buffer: $0) }
            )
        }
    }

    /// Puts a dead letter back to where it came from, to be tried again.
    ///
    /// - Throws: ``PipelineError`` if there is none at that offset, or it does not say where it came from.
    public func redrive(offset: Int64) async throws -> DeadLetter {
        guard let record = try await records(Topics.deadLetter).first(where: { $0.offset.rawValue == offset }) else {
            throw PipelineError(.invalidDocument, "there is no dead letter at offset \(offset): see `mdc dlq list`")
        }
        guard let source = record.header("source"), let topic = source.split(separator: ":").first else {
            throw PipelineError(.invalidDocument, "the dead letter at offset \(offset) does not say where it came from")
        }
        let own: Set<String> = ["reason", "source"]
        try await writer.write([
            ProducerRecord(
                topic: String(topic),
                key: record.key,
                value: record.value,
                headers: record.headers.filter { !own.contains($0.key) }
            )
        ])
        return DeadLetter(
            offset: offset,
            at: record.timestamp,
            source: source,
            reason: record.header("reason") ?? "?",
            key: record.key.map { String(buffer: $0) },
            value: record.value.map { String(buffer: $0) }
        )
    }

    // MARK: - Lanes

    /// A lane as it stands.
    public struct LaneStanding: Sendable, Codable, Hashable {
        /// The channel.
        public var channel: Channel
        /// The lane.
        public var lane: String
        /// Partitions of its topic: its weight.
        public var weight: Int
        /// Its part of its channel's capacity while all lanes have something waiting, in hundredths.
        public var share: Double
        /// Records that its dispatchers have not done.
        public var waiting: Int64
        /// Records that were put into it, ever.
        public var total: Int64
    }

    /// All lanes, the heaviest of each channel first.
    public func lanes() async throws -> [LaneStanding] {
        let admin = try Admin(client, eventLoopGroup: group, logger: logger)
        do {
            let standing = try await Self.lanes(admin)
            await admin.close()
            return standing
        } catch {
            await admin.close()
            throw error
        }
    }

    private static func lanes(_ admin: Admin) async throws -> [LaneStanding] {
        var standing: [LaneStanding] = []
        for channel in Channel.allCases {
            let prefix = Topics.dispatch(channel, "")
            let names = try await admin.listTopics().filter { $0.hasPrefix(prefix) }
            guard !names.isEmpty else { continue }
            let committed = try await admin.groupOffsets("mdc.dispatch.\(channel)")
            var lanes: [LaneStanding] = []
            for topic in try await admin.describeTopics(names) {
                let partitions = topic.partitions.map { TopicPartition(topic: topic.name, partition: $0.id) }
                let ends = try await admin.endOffsets(partitions)
                let starts = try await admin.beginningOffsets(partitions)
                var lane = LaneStanding(
                    channel: channel,
                    lane: String(topic.name.dropFirst(prefix.count)),
                    weight: partitions.count,
                    share: 0,
                    waiting: 0,
                    total: 0
                )
                for partition in partitions {
                    let end = ends[partition]?.rawValue ?? 0
                    let done = max(committed[partition]?.offset.rawValue ?? 0, starts[partition]?.rawValue ?? 0)
                    lane.total += end
                    lane.waiting += max(0, end - done)
                }
                lanes.append(lane)
            }
            let weights = lanes.reduce(0) { $0 + $1.weight }
            for index in lanes.indices { lanes[index].share = Double(lanes[index].weight * 100) / Double(weights) }
            standing += lanes.sorted { ($1.weight, $0.lane) < ($0.weight, $1.lane) }
        }
        return standing
    }

    // MARK: - Reading

    /// The last record of each key, without those that were deleted.
    private func latest(_ topic: String) async throws -> [ConsumerRecord] {
        var latest: [ByteBuffer: ConsumerRecord] = [:]
        for record in try await records(topic) {
            guard let key = record.key else { continue }
            latest[key] = record.value == nil ? nil : record
        }
        return Array(latest.values)
    }

    /// What is in a topic now.
    private func records(_ topic: String) async throws -> [ConsumerRecord] {
        let admin = try Admin(client, eventLoopGroup: group, logger: logger)
        let consumer: Consumer
        let partitions: [TopicPartition]
        do {
            guard try await admin.listTopics().contains(topic) else {
                throw PipelineError(.log, "there is no topic \(topic): start a message centre with `mdc up` first")
            }
            partitions = try await admin.describeTopics([topic]).flatMap(\.partitions)
                .map { TopicPartition(topic: topic, partition: $0.id) }
            consumer = try Consumer(
                ConsumerConfiguration(client: client, groupID: nil),
                eventLoopGroup: group,
                logger: logger
            )
            await admin.close()
        } catch {
            await admin.close()
            throw error
        }
        do {
            let ends = try await consumer.endOffsets(partitions)
            try await consumer.assign(try await consumer.beginningOffsets(partitions))
            var records: [ConsumerRecord] = []
            while try ends.contains(where: { try consumer.position($0.key) ?? 0 < $0.value }) {
                records += try await consumer.poll(maxRecords: 2_000, timeout: .milliseconds(100))
            }
            await consumer.close()
            return records
        } catch {
            await consumer.close()
            throw error
        }
    }
}
