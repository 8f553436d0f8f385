// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Logging
import MDCClient
import MDCModel
import NIOCore
import NIOHTTP1
import Synchronization

/// Posts the reports of `mdc.feedback` to their webhooks.
///
/// What fails goes on a timer that brings it back to the topic. Offsets are committed when everything before them is
/// answered or on a timer: a crash in between posts again, with the same `webhook-id`.
final class FeedbackSender: Role {
    let name = "feedback sender"
    private let webhooks: TopicTable<WebhookEntry>
    private let policy: WebhookPolicy
    private let consumer: Consumer
    private let writer: RecordWriter
    private let client: HTTPClient
    private let logger: Logger
    private let stopFlag = StopFlag()
    private let monitor: Mutex<WebhookMonitor>
    /// For tests: what happens between posting and committing.
    private let beforeCommit: (@Sendable () throws -> Void)?

    init(
        webhooks: TopicTable<WebhookEntry>,
        policy: WebhookPolicy,
        consumer: Consumer,
        writer: RecordWriter,
        client: HTTPClient,
        logger: Logger,
        beforeCommit: (@Sendable () throws -> Void)? = nil
    ) {
        self.webhooks = webhooks
        self.policy = policy
        self.consumer = consumer
        self.writer = writer
        self.client = client
        self.logger = logger
        self.beforeCommit = beforeCommit
        monitor = Mutex(WebhookMonitor(policy))
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
        try await consumer.subscribe([Topics.feedback])
        while !stopFlag.isSet {
            let records = try await consumer.poll(maxRecords: policy.concurrency * 2, timeout: .milliseconds(200))
            if records.isEmpty { continue }
            let written = await post(records)
            if !written.isEmpty { try await writer.write(written) }
            try beforeCommit?()
            var offsets: [TopicPartition: OffsetAndMetadata] = [:]
            for record in records { offsets[record.topicPartition] = OffsetAndMetadata(record.offset + 1) }
            do {
                try await consumer.commit(offsets)
            } catch {
                logger.warning("committing reports failed; they are posted again", metadata: ["error": "\(error)"])
            }
        }
    }

    /// Posts at most `concurrency` at once. - Returns: what is to be written before the records are done.
    private func post(_ records: [ConsumerRecord]) async -> [ProducerRecord] {
        await withTaskGroup(of: [ProducerRecord].self) { tasks in
            var written: [ProducerRecord] = []
            for (index, record) in records.enumerated() {
                if index >= policy.concurrency, let done = await tasks.next() { written += done }
                tasks.addTask { await self.handle(record) }
            }
            for await done in tasks { written += done }
            return written
        }
    }

    private func handle(_ record: ConsumerRecord) async -> [ProducerRecord] {
        guard let delivery = record.value.flatMap({ try? FeedbackDelivery(json: $0) }) else {
            return [Records.deadLetter(record, reason: "this is no report to a webhook")]
        }
        let entries = webhooks.values
        guard let webhook = entries[delivery.webhookID]?.webhook, FeedbackPlanner.isActive(webhook, entries) else {
            return [Records.deadLetter(record, reason: "webhook \(delivery.webhookID) is disabled or gone")]
        }
        if let until = monitor.withLock({ $0.rest(webhook.id, now: SystemTime.now()) }) {
            return [delivery.timer(due: until + Int64.random(in: 0...1_000))]
        }
        let outcome = await Self.post(delivery, to: webhook, client, timeout: policy.timeout)
        let health = entries[WebhookEntry.healthKey(webhook.id)]?.health ?? WebhookHealth()
        var generator = SystemRandomNumberGenerator()
        let (decision, changed) = monitor.withLock {
            $0.note(outcome, delivery, health, now: SystemTime.now(), using: &generator)
        }
        var written: [ProducerRecord] = []
        if let changed {
            let key = WebhookEntry.healthKey(webhook.id)
            written.append(TopicTable.record(Topics.webhooks, key: key, WebhookEntry(health: changed)))
            if changed.disabledAt != nil {
                logger.warning("a webhook is disabled", metadata: ["webhook": "\(webhook.id)"])
            }
        }
        switch decision {
        case .done: break
        case .again(let next, let due): written.append(next.timer(due: due))
        case .giveUp(let reason):
            written.append(Records.deadLetter(record, reason: "webhook \(webhook.id): \(reason)"))
        }
        return written
    }

    /// Posts one report, signed.
    static func post(_ delivery: FeedbackDelivery, to webhook: Webhook, _ client: HTTPClient, timeout: Duration) async
        -> WebhookMonitor.Outcome
    {
        await post(delivery.body, id: delivery.id, to: webhook, client, timeout: timeout)
    }

    static func post(_ body: String, id: String, to webhook: Webhook, _ client: HTTPClient, timeout: Duration) async
        -> WebhookMonitor.Outcome
    {
        let now = SystemTime.now()
        var request = HTTPClientRequest(url: webhook.url)
        request.method = .POST
        request.headers.add(name: "content-type", value: "application/json")
        request.headers.add(name: "user-agent", value: "mdc")
        for (name, value) in StandardWebhook.headers(id: id, now: now, body: body, keys: webhook.keys(at: now)) {
            request.headers.add(name: name, value: value)
        }
        request.body = .bytes(ByteBuffer(string: body))
        switch await HTTPExchange(client: client, timeout: timeout).perform(request) {
        case .answered(let answer) where (200..<300).contains(answer.status): return .delivered
        case .answered(let answer) where answer.status == 410: return .gone
        case .answered(let answer):
            let pause = answer.retryAfter.map { $0.components.seconds * 1_000 }
            return .failed(reason: "it answered \(answer.status)", retryAfterMilliseconds: pause)
        case .notSent(let reason), .unanswered(let reason):
            return .failed(reason: String(reason.prefix(200)), retryAfterMilliseconds: nil)
        }
    }
}
