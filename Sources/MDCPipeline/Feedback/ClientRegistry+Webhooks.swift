// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import MDCClient
import MDCModel
import NIOCore

extension ClientRegistry {
    /// A webhook and how it fares.
    public struct WebhookStatus: Sendable, Hashable {
        /// The webhook.
        public var webhook: Webhook
        /// How it fares.
        public var health: WebhookHealth
    }

    /// All webhooks, the oldest first.
    public func webhooks() async throws -> [WebhookStatus] {
        let entries: [String: WebhookEntry] = try await values(Topics.webhooks)
        return entries.values.compactMap(\.webhook)
            .map {
                WebhookStatus(webhook: $0, health: entries[WebhookEntry.healthKey($0.id)]?.health ?? WebhookHealth())
            }
            .sorted { ($0.webhook.createdAt, $0.webhook.id) < ($1.webhook.createdAt, $1.webhook.id) }
    }

    /// Keeps a webhook; returns when it is durable.
    public func put(_ webhook: Webhook, action: String) async throws {
        let record = TopicTable.record(Topics.webhooks, key: webhook.id, WebhookEntry(webhook: webhook))
        try await write(record, action: "\(action) \(webhook.id)", webhook.tenant)
    }

    /// Forgets that a webhook failed, so that it is posted to again.
    public func clearHealth(of webhook: Webhook, action: String) async throws {
        let key = WebhookEntry.healthKey(webhook.id)
        let record = TopicTable.record(Topics.webhooks, key: key, WebhookEntry(health: WebhookHealth()))
        try await write(record, action: "\(action) \(webhook.id)", webhook.tenant)
    }

    /// Posts a report of type `webhook.test`, once.
    ///
    /// - Returns: nil if it was taken, else what went wrong.
    public func test(_ webhook: Webhook) async throws -> String? {
        let client = HTTPExchange.makeClient(group: group, connections: 1, connectTimeout: .seconds(10))
        var generator = SystemRandomNumberGenerator()
        let now = SystemTime.now()
        let outcome = await FeedbackSender.post(
            encodeJSON(["type": "webhook.test", "timestamp": QueryTime.text(now)]),
            id: "msg_test_" + MessageID.random(at: now, using: &generator),
            to: webhook,
            client,
            timeout: .seconds(10)
        )
        try await client.shutdown()
        switch outcome {
        case .delivered: return nil
        case .gone: return "it answered 410: it wants no posts"
        case .failed(let reason, _): return reason
        }
    }
}
