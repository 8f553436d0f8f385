// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel

/// Reads the timeline and puts into `mdc.feedback` what webhooks want to know. It commits only what is durable there.
final class FeedbackPlanner: Role {
    let name = "feedback planner"
    /// How long the document of a message is waited for. A message without one was never accepted.
    private static let documentNanoseconds: Int64 = 30_000_000_000

    private let webhooks: TopicTable<WebhookEntry>
    private let store: MessageStore
    private let consumer: Consumer
    private let writer: RecordWriter
    private let logger: Logger
    private let stopFlag = StopFlag()

    init(
        webhooks: TopicTable<WebhookEntry>,
        store: MessageStore,
        consumer: Consumer,
        writer: RecordWriter,
        logger: Logger
    ) {
        self.webhooks = webhooks
        self.store = store
        self.consumer = consumer
        self.writer = writer
        self.logger = logger
    }

    func stop() { stopFlag.set() }

    func run() async throws {
        do {
            try await work()
        } catch {
            // Else the group would wait for a member that does nothing more.
            await consumer.close()
            throw error
        }
        await consumer.close()
    }

    private func work() async throws {
        try await consumer.subscribe([Topics.events])
        while !stopFlag.isSet {
            let records = try await consumer.poll(maxRecords: 1_000, timeout: .milliseconds(200))
            if records.isEmpty { continue }
            let planned = try await plan(records)
            if !planned.isEmpty { try await writer.write(planned) }
            var offsets: [TopicPartition: OffsetAndMetadata] = [:]
            for record in records { offsets[record.topicPartition] = OffsetAndMetadata(record.offset + 1) }
            do {
                try await consumer.commit(offsets)
            } catch {
                logger.warning("committing the events failed; it is tried again", metadata: ["error": "\(error)"])
            }
        }
    }

    private func plan(_ records: [ConsumerRecord]) async throws -> [ProducerRecord] {
        let wanted = Self.active(webhooks.values)
        guard !wanted.isEmpty else { return [] }
        var events: [(event: TimelineEvent, status: MessageStatus)] = []
        for record in records {
            guard let event = record.value.flatMap({ try? TimelineEvent(json: $0) }), let status = event.status,
                event.kind != .receiptIgnored,
                wanted.contains(where: { $0.createdAt <= event.at && $0.wants(FeedbackReport.type(status)) })
            else { continue }
            events.append((event, status))
        }
        let documents = try await documents(of: events.map(\.event))
        var planned: [ProducerRecord] = []
        for (event, status) in events {
            guard let message = documents[event.messageID] else { continue }
            for webhook in wanted
            where webhook.tenant == message.tenant && webhook.createdAt <= event.at
                && webhook.wants(FeedbackReport.type(status))
            {
                let report = FeedbackReport(event, status: status, message: message)
                planned.append(FeedbackDelivery(to: webhook, report).record)
            }
        }
        return planned
    }

    /// The webhooks that are posted to.
    static func active(_ entries: [String: WebhookEntry]) -> [Webhook] {
        entries.values.compactMap(\.webhook).filter { isActive($0, entries) }.sorted { $0.id < $1.id }
    }

    static func isActive(_ webhook: Webhook, _ entries: [String: WebhookEntry]) -> Bool {
        webhook.disabledAt == nil && entries[WebhookEntry.healthKey(webhook.id)]?.health?.disabledAt == nil
    }

    /// A store that cannot be reached knows nothing for now.
    private func known(_ id: String, _ channel: Channel) async throws -> MessageStore.Knowledge {
        do {
            return try await store.known(id, channel: channel)
        } catch  where error.code == .unavailable {
            return .nothing
        }
    }

    /// The store follows the same events, and may be a little behind.
    private func documents(of events: [TimelineEvent]) async throws -> [String: Message] {
        var documents: [String: Message] = [:]
        var missing: [String: Channel] = [:]
        for event in events {
            if let message = event.message { documents[event.messageID] = message }
            missing[event.messageID] = event.channel
        }
        let deadline = SystemTime.monotonicNanoseconds() + Self.documentNanoseconds
        while true {
            for (id, channel) in missing where documents[id] == nil {
                if case .document(let message) = try await known(id, channel) {
                    documents[id] = message
                }
            }
            missing = missing.filter { documents[$0.key] == nil }
            if missing.isEmpty { return documents }
            if stopFlag.isSet { throw PipelineError(.closed, "stopped while documents were waited for") }
            guard SystemTime.monotonicNanoseconds() < deadline else {
                logger.warning("messages without a document are not reported", metadata: ["count": "\(missing.count)"])
                return documents
            }
            try await Task.sleep(for: .milliseconds(50))
        }
    }
}
