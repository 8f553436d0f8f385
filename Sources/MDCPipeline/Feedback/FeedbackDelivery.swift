// SPDX-License-Identifier: Apache-2.0

import Crypto
import Foundation
import MDCClient
import MDCModel
import NIOCore

/// What a client is told: the body of a post.
struct FeedbackReport: Codable, Sendable, Hashable {
    struct Subject: Codable, Sendable, Hashable {
        var id: String
        var tenant: String
        var channel: Channel
        var status: MessageStatus
        var attempt: Int
        var to: String
        var idempotencyKey: String?
        var provider: String?
        var providerMessageID: String?
        var code: String?
        var detail: String?
    }

    /// Such as `message.delivered`.
    var type: String
    /// When it happened, ISO 8601.
    var timestamp: String
    var data: Subject

    init(_ event: TimelineEvent, status: MessageStatus, message: Message) {
        type = Self.type(status)
        timestamp = QueryTime.text(event.at)
        data = Subject(
            id: message.id,
            tenant: message.tenant,
            channel: message.channel,
            status: status,
            attempt: event.attempt,
            to: message.to,
            idempotencyKey: message.idempotencyKey,
            provider: event.provider,
            providerMessageID: event.providerMessageID,
            code: event.code,
            detail: event.detail
        )
    }

    static func type(_ status: MessageStatus) -> String { "message.\(status.rawValue)" }
}

/// One record of `mdc.feedback`: a report on its way to a webhook.
struct FeedbackDelivery: Codable, Sendable, Hashable {
    /// The value of `webhook-id`. It is made of what is reported, so a crash does not make another of it.
    var id: String
    var webhookID: String
    /// From 1.
    var attempt: Int
    var report: FeedbackReport

    init(to webhook: Webhook, _ report: FeedbackReport) {
        let subject = report.data
        let name = "\(webhook.id)|\(subject.id)|\(subject.attempt)|\(subject.status.rawValue)"
        id = "msg_" + hexadecimal(Crypto.SHA256.hash(data: Data(name.utf8)).prefix(16))
        webhookID = webhook.id
        attempt = 1
        self.report = report
    }

    /// The body of the post: the same bytes each time.
    var body: String { encodeJSON(report) }

    private var json: ByteBuffer { ByteBuffer(string: encodeJSON(self)) }

    /// To be posted now.
    var record: ProducerRecord {
        ProducerRecord(topic: Topics.feedback, key: ByteBuffer(string: report.data.id), value: json)
    }

    /// To be posted later.
    func timer(due: Timestamp) -> ProducerRecord {
        ProducerRecord(
            topic: Topics.timers,
            key: ByteBuffer(string: "webhook:\(id):\(attempt)"),
            value: json,
            headers: TimerHeaders(due: due, topic: Topics.feedback, key: report.data.id).records
        )
    }

    init(json: ByteBuffer) throws {
        self = try JSONDecoder().decode(Self.self, from: Data(json.readableBytesView))
    }
}
