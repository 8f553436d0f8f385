// SPDX-License-Identifier: Apache-2.0

import HTTPTypes
import Hummingbird
import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// `GET /v1/events`: the events of the timeline as server-sent events, straight from `mdc.events`.
///
/// Each stream has a consumer of its own that reads only as fast as its client does. The id of an event is the place after
/// it, so a client that comes back with `Last-Event-ID` misses nothing.
final class EventStreams: Sendable {
    /// Which events a client wants.
    private struct Selection: Sendable {
        var channel: Channel?
        var kinds: Set<TimelineEvent.Kind>
        var key: APIKey
    }

    private static let heartbeatNanoseconds: Int64 = 10_000_000_000
    /// How long the store is waited for to learn whose an event is.
    private static let tenantNanoseconds: Int64 = 10_000_000_000

    private let keys: TopicTable<APIKey>
    private let store: MessageStore
    private let consumer: ConsumerConfiguration
    private let max: Int
    private let group: any EventLoopGroup
    private let logger: Logger
    private let open = Mutex(0)
    private let stopFlag = StopFlag()

    init(
        keys: TopicTable<APIKey>,
        store: MessageStore,
        consumer: ConsumerConfiguration,
        max: Int,
        group: any EventLoopGroup,
        logger: Logger
    ) {
        self.keys = keys
        self.store = store
        self.consumer = consumer
        self.max = max
        self.group = group
        self.logger = logger
    }

    /// Ends all streams; clients come back elsewhere or later.
    func stop() { stopFlag.set() }

    func response(to request: Request, for key: APIKey) async throws -> APIDesk.Answer {
        let parameters = try QueryParameters(request, known: ["channel", "kind", "from"])
        let selection = Selection(
            channel: try Self.choice("channel", parameters["channel"]),
            kinds: try Self.kinds(parameters["kind"]),
            key: key
        )
        let resumed = try Self.lastEventID(request)
        let from = parameters["from"] ?? "latest"
        guard from == "latest" || from == "earliest" else {
            throw APIProblem.parameter("from", "write latest or earliest")
        }
        let isFull = open.withLock { count in
            guard count < max else { return true }
            count += 1
            return false
        }
        guard !isFull else {
            throw APIProblem(503, "Not possible now", "\(max) event streams are open already", retryAfter: 5)
        }
        let consumer: Consumer
        let start: EventCursor
        do {
            consumer = try Consumer(self.consumer, eventLoopGroup: group, logger: logger)
            start = try await begin(consumer, resumed, from)
        } catch {
            open.withLock { $0 -= 1 }
            throw PipelineError(.log, "cannot read the events", cause: error)
        }
        let body = ResponseBody { [self] writer in
            do {
                try await follow(consumer, from: start, selection, &writer)
                try await writer.finish(nil)
            } catch {
                logger.debug("an event stream ended", metadata: ["error": "\(error)"])
                await end(consumer)
                throw error
            }
            await end(consumer)
        }
        let headers: HTTPFields = [.contentType: "text/event-stream", .cacheControl: "no-store"]
        return APIDesk.Answer(response: Response(status: .ok, headers: headers, body: body))
    }

    private func end(_ consumer: Consumer) async {
        await consumer.close()
        open.withLock { $0 -= 1 }
    }

    // MARK: - Parameters

    private static func choice<Value: RawRepresentable<String> & CaseIterable>(_ name: String, _ text: String?)
        throws(APIProblem) -> Value?
    {
        guard let text else { return nil }
        guard let value = Value(rawValue: text) else {
            throw .parameter(name, "'\(text)' is not one of \(Value.allCases.names)")
        }
        return value
    }

    private static func kinds(_ text: String?) throws(APIProblem) -> Set<TimelineEvent.Kind> {
        var kinds: Set<TimelineEvent.Kind> = []
        for name in (text ?? "").split(separator: ",").map(\.trimmed) {
            if let kind: TimelineEvent.Kind = try choice("kind", name) { kinds.insert(kind) }
        }
        return kinds
    }

    private static func lastEventID(_ request: Request) throws(APIProblem) -> EventCursor? {
        guard let name = HTTPField.Name("Last-Event-ID"), let text = request.headers[name], !text.isEmpty else {
            return nil
        }
        guard let cursor = EventCursor(text) else {
            throw APIProblem(400, "Not understood", "Last-Event-ID: send back the id of an event as it was received")
        }
        return cursor
    }

    // MARK: - Following

    private static let partitions = (0..<Int32(Topics.keyedPartitions)).map {
        TopicPartition(topic: Topics.events, partition: PartitionID($0))
    }

    private func begin(_ consumer: Consumer, _ resumed: EventCursor?, _ from: String) async throws -> EventCursor {
        do {
            let starts = try await consumer.beginningOffsets(Self.partitions)
            let ends = try await consumer.endOffsets(Self.partitions)
            var positions: [TopicPartition: Offset] = [:]
            for (index, partition) in Self.partitions.enumerated() {
                let (first, last) = (starts[partition] ?? 0, ends[partition] ?? 0)
                // What retention has taken cannot be shown; what was never written is no place to wait at.
                let given = resumed.map { Offset($0.offsets[index]) } ?? (from == "earliest" ? first : last)
                positions[partition] = min(Swift.max(given, first), last)
            }
            try await consumer.assign(positions)
            return EventCursor(offsets: Self.partitions.map { positions[$0]?.rawValue ?? 0 })
        } catch {
            await consumer.close()
            throw error
        }
    }

    private func follow(
        _ consumer: Consumer,
        from start: EventCursor,
        _ selection: Selection,
        _ writer: inout any ResponseBodyWriter
    ) async throws {
        var cursor = start
        // Says at once that the stream is open, and where it begins.
        try await writer.write(ByteBuffer(string: "retry: 2000\nid: \(cursor)\n\n"))
        var spokenAt = SystemTime.monotonicNanoseconds()
        // A key that is revoked ends its streams, too.
        while !stopFlag.isSet, let key = keys[selection.key.id], key.revokedAt == nil {
            let records = try await consumer.poll(maxRecords: 200, timeout: .milliseconds(250))
            let text = try await self.text(records, selection, &cursor)
            let now = SystemTime.monotonicNanoseconds()
            if text.readableBytes > 0 {
                try await writer.write(text)
                spokenAt = now
            } else if now - spokenAt > Self.heartbeatNanoseconds {
                // Keeps the connection open, and finds out that a client is gone.
                try await writer.write(ByteBuffer(string: ": \(cursor)\n\n"))
                spokenAt = now
            }
        }
    }

    private func text(_ records: [ConsumerRecord], _ selection: Selection, _ cursor: inout EventCursor) async throws
        -> ByteBuffer
    {
        var events: [TimelineEvent?] = records.map { record in
            guard let event = record.value.flatMap({ try? TimelineEvent(json: $0) }) else { return nil }
            guard selection.channel == nil || selection.channel == event.channel else { return nil }
            return selection.kinds.isEmpty || selection.kinds.contains(event.kind) ? event : nil
        }
        if let tenant = selection.key.tenant {
            let tenants = try await tenants(of: events.compactMap { $0 })
            events = events.map { event in event.flatMap { tenants[$0.messageID] == tenant ? $0 : nil } }
        }
        var text = ByteBuffer()
        for (record, event) in zip(records, events) {
            cursor.offsets[Int(record.topicPartition.partition.rawValue)] = record.offset.rawValue + 1
            guard let event else { continue }
            text.writeString("id: \(cursor)\nevent: \(event.kind.rawValue)\ndata: ")
            text.writeImmutableBuffer(event.json())
            text.writeString("\n\n")
        }
        return text
    }

    /// Only the document says whose a message is, so the store is waited for a while. An event whose owner stays unknown is
    /// shown to no tenant.
    private func tenants(of events: [TimelineEvent]) async throws -> [String: String] {
        var tenants: [String: String] = [:]
        for event in events { tenants[event.messageID] = event.message?.tenant ?? tenants[event.messageID] }
        let deadline = SystemTime.monotonicNanoseconds() + Self.tenantNanoseconds
        while true {
            let unknown = events.filter { tenants[$0.messageID] == nil }.map { (id: $0.messageID, channel: $0.channel) }
            if unknown.isEmpty { return tenants }
            tenants.merge(try await store.tenants(of: unknown)) { $1 }
            guard unknown.contains(where: { tenants[$0.id] == nil }), !stopFlag.isSet,
                SystemTime.monotonicNanoseconds() < deadline
            else { return tenants }
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}
