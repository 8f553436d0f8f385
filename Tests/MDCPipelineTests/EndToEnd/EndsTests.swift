// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import NIOCore
import Testing

@testable import MDCPipeline

/// Does what the message's text says.
private struct ObedientProvider: Provider {
    let name = "obedient"
    let channel: MDCPipeline.Channel
    let sendsReceipts: Bool
    let receipts: any ReceiptSink

    func send(_ message: Message, attempt: Int) async -> SendOutcome {
        let status: ProviderReceipt.Status
        switch message.content.text {
        case "refuse": return .rejected(code: "NO", reason: "not to this one")
        case "busy": return .retriable(code: "BUSY", reason: "come back")
        case "deliver": status = .delivered
        case "bounce": status = .failed
        default: return .accepted(providerMessageID: "p-\(message.id)")
        }
        try? await receipts.append([
            ProviderReceipt(
                provider: name,
                channel: channel,
                providerMessageID: "p-\(message.id)",
                status: status,
                at: SystemTime.now(),
                reference: message.reference(attempt: attempt).description
            )
        ])
        return .accepted(providerMessageID: "p-\(message.id)")
    }
}

@Suite("ends", .serialized)
struct EndsTests {
    /// Every way to end, and the end.
    private static let ways: [(text: String, end: MessageStatus)] = [
        ("deliver", .delivered), ("bounce", .failed), ("refuse", .failed), ("busy", .failed), ("silent", .expired),
        ("suppressed", .failed), ("stale", .expired), ("cancelled", .cancelled), ("push", .sent),
    ]

    private static func draft(_ way: String, now: Timestamp) -> MessageDraft {
        let isPush = way == "push"
        let token = "dQw4w9WgXcQ:APA91b" + String(repeating: "x-Y_", count: 30)
        return MessageDraft(
            tenant: "shop",
            channel: isPush ? .push : .sms,
            to: isPush ? token : way == "suppressed" ? "+919876500001" : "+919876500000",
            content: MessageContent(text: way),
            sendAt: way == "cancelled" ? now + 3_600_000 : nil,
            expiresAt: way == "stale" ? now + 2_000 : nil,
            retryPolicy: RetryPolicy(attemptsMax: 1, receiptTimeoutMilliseconds: 1_000)
        )
    }

    @Test(
        "each way to end: one final entry, the state on mdc.messages, a report to the tenant's webhook",
        .timeLimit(.minutes(4))
    )
    func everyWay() async throws {
        try await Bench.with { bench, _ in
            var settings = ProducerConfiguration(client: bench.client)
            settings.linger = .zero
            let producer = try Producer(settings, eventLoopGroup: bench.group, logger: bench.logger)
            let sink = ProducerReceiptSink(producer: producer)
            let admin = try Admin(bench.client, eventLoopGroup: bench.group, logger: bench.logger)
            try await Topics.create(lanes: LaneConfiguration(), admin: admin)
            await admin.close()
            let registry = ClientRegistry(bench.client, eventLoopGroup: bench.group, logger: bench.logger)
            // Nobody is there: what is to be told stays on the log.
            let webhook = try Webhook(
                tenant: "shop",
                url: "http://127.0.0.1:9/hook",
                events: Webhook.finalTypes,
                now: SystemTime.now()
            )
            try await registry.put(webhook, action: "webhook create")
            let people = try CenterAdmin(client: bench.client, eventLoopGroup: bench.group, logger: bench.logger)
            try await people.suppress(
                Suppression(channel: .sms, recipient: "+919876500001", tenant: "shop", at: SystemTime.now())
            )
            // Before the dispatcher works, so that one expires in its lane.
            let client = MessageClient(producer: producer, logger: bench.logger)
            var ids: [String: MessageStatus] = [:]
            for (way, end) in Self.ways {
                let id = try await client.submit(Self.draft(way, now: SystemTime.now())).messageID
                ids[id] = end
                if way == "cancelled" { try await people.cancel(id, channel: .sms) }
            }
            try await people.close()
            try await Task.sleep(for: .milliseconds(2_200))
            let center = try MessageCenter(
                MessageCenterConfiguration(
                    client: bench.client,
                    storePath: bench.folder.appendingPathComponent("store.sqlite").path
                ),
                providers: [
                    ObedientProvider(channel: .sms, sendsReceipts: true, receipts: sink),
                    StubPush(),
                ],
                producer: producer,
                eventLoopGroup: bench.group,
                logger: bench.logger
            )
            let run = Task { try await center.run() }
            try await center.whenReady()
            let feedback = try FeedbackService(
                center: center,
                client: bench.client,
                group: bench.group,
                logger: bench.logger
            )
            let telling = Task { try await feedback.run() }
            let deadline = ContinuousClock.now + .seconds(90)
            var told: [String: MessageStatus] = [:]
            while told.count < ids.count, ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(200))
                for record in try await bench.readAll(Topics.feedback) {
                    let report = try FeedbackDelivery(json: try #require(record.value)).report.data
                    told[report.id] = report.status
                }
            }
            #expect(told == ids, "reports to the webhook")
            for (id, end) in ids {
                let stored = try #require(try center.store?.get(id))
                #expect(stored.status == end, "\(stored)")
                let finals = (stored.timeline ?? []).filter { $0.status?.isFinal == true }
                #expect(finals.count == 1 && finals.first?.component == "responses", "\(finals)")
            }
            var published: [String: String] = [:]
            for record in try await bench.readAll(Topics.messages) {
                published[String(buffer: try #require(record.key))] = String(buffer: try #require(record.value))
            }
            #expect(Set(published.keys) == Set(ids.keys))
            for (id, end) in ids {
                #expect(published[id]?.hasPrefix("{\"status\":\"\(end.rawValue)\"") == true, "\(published[id] ?? "-")")
            }
            feedback.stop()
            _ = try? await telling.value
            center.stop()
            try await run.value
        }
    }
}

/// Takes everything and proves nothing.
private struct StubPush: Provider {
    let name = "push"
    let channel = MDCPipeline.Channel.push
    let sendsReceipts = false
    func send(_ message: Message, attempt: Int) async -> SendOutcome { .accepted(providerMessageID: "p-\(message.id)") }
}
