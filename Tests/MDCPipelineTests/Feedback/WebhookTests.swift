// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import Testing

@testable import MDCPipeline

@Suite("webhooks")
struct WebhookTests {
    private static func webhook(_ url: String = "https://client.example/hook", events: Set<String> = ["message.*"])
        throws
        -> Webhook
    {
        try Webhook(tenant: "shop", url: url, events: events, now: 1_000)
    }

    private static func delivery(_ webhook: Webhook, _ id: String = "m1") -> FeedbackDelivery {
        var event = Make.accepted(id)
        event.status = .delivered
        return FeedbackDelivery(to: webhook, FeedbackReport(event, status: .delivered, message: Make.message(id)))
    }

    @Test("the signature is the one that the specification's example has")
    func signature() {
        let signature = StandardWebhook.signature(
            key: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
            seconds: "1614265330",
            body: #"{"test": 2432232314}"#
        )
        #expect(signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        #expect(StandardWebhook.signature(key: "MfKQ9r8G", id: "a", seconds: "1", body: "") == nil)
        #expect(StandardWebhook.signature(key: "whsec_?", id: "a", seconds: "1", body: "") == nil)
    }

    @Test("while a key is renewed both sign; then the new one alone")
    func rotation() throws {
        var webhook = try Self.webhook()
        let old = webhook.keys[0].value
        webhook.rotate(now: 10_000, overlapMilliseconds: 5_000)
        #expect(webhook.keys(at: 14_999).count == 2 && webhook.keys(at: 14_999).last == old)
        #expect(webhook.keys(at: 15_000).count == 1 && !webhook.keys(at: 15_000).contains(old))
        let headers = StandardWebhook.headers(id: "m", now: 12_000, body: "{}", keys: webhook.keys(at: 12_000))
        #expect(headers.map(\.name) == ["webhook-id", "webhook-timestamp", "webhook-signature"])
        #expect(headers[1].value == "12" && headers[2].value.split(separator: " ").count == 2)
        webhook.rotate(now: 11_000, overlapMilliseconds: 5_000)
        #expect(webhook.keys.count == 2 && !webhook.keys.contains { $0.value == old })
    }

    @Test("addresses and events that cannot be meant are refused with the fix")
    func refusals() throws {
        for url in [
            "client.example", "ftp://client.example/", "https://user:pw@client.example/", "http://client.example/", "",
        ] {
            let error = try #require(throws: PipelineError.self) { try Self.webhook(url) }
            #expect(error.message.hasPrefix("url: "))
        }
        #expect(try Self.webhook("http://127.0.0.1:8080/hook").wants("message.failed"))
        #expect(try !Self.webhook(events: ["message.failed"]).wants("message.delivered"))
        #expect(throws: PipelineError.self) { try Self.webhook(events: ["message.lost"]) }
        #expect(throws: PipelineError.self) { try Self.webhook(events: []) }
    }

    @Test("a report keeps its id and its bytes, whatever becomes of it; another one has another id")
    func identity() throws {
        let webhook = try Self.webhook()
        let delivery = Self.delivery(webhook)
        #expect(Self.delivery(webhook) == delivery && Self.delivery(webhook, "m2").id != delivery.id)
        #expect(Self.delivery(try Self.webhook()).id != delivery.id)
        let timer = delivery.timer(due: 9_000)
        let value = try #require(timer.value)
        let back = try FeedbackDelivery(json: value)
        #expect(back == delivery && back.body == delivery.body)
        #expect(TimerHeaders(timer.headers) == TimerHeaders(due: 9_000, topic: Topics.feedback, key: "m1"))
        #expect(delivery.body.contains(#""type":"message.delivered""#))
    }

    private static let failure = WebhookMonitor.Outcome.failed(reason: "it answered 500", retryAfterMilliseconds: nil)

    @Test("pauses grow, and after the last one the report is given up")
    func backoff() throws {
        var generator = SeededGenerator(seed: 1)
        var monitor = WebhookMonitor(WebhookPolicy(backoffMilliseconds: [100, 1_000], failuresBeforeRest: 100))
        var delivery = Self.delivery(try Self.webhook())
        for pause in [Int64(100), 1_000] {
            let (decision, _) = monitor.note(Self.failure, delivery, WebhookHealth(), now: 5_000, using: &generator)
            guard case .again(let next, let due) = decision else {
                Issue.record("given up too early: \(decision)")
                return
            }
            #expect((pause...pause + pause / 10).contains(due - 5_000))
            #expect(next.attempt == delivery.attempt + 1 && next.id == delivery.id && next.body == delivery.body)
            delivery = next
        }
        let (decision, _) = monitor.note(Self.failure, delivery, WebhookHealth(), now: 5_000, using: &generator)
        #expect(decision == .giveUp(reason: "gave up after 3 posts: it answered 500"))
    }

    @Test("Retry-After is kept, and holds back the others, too")
    func retryAfter() throws {
        var generator = SeededGenerator(seed: 2)
        var monitor = WebhookMonitor(WebhookPolicy(backoffMilliseconds: [100]))
        let webhook = try Self.webhook()
        let outcome = WebhookMonitor.Outcome.failed(reason: "it answered 429", retryAfterMilliseconds: 60_000)
        let (decision, _) = monitor.note(outcome, Self.delivery(webhook), WebhookHealth(), now: 0, using: &generator)
        guard case .again(_, let due) = decision else {
            Issue.record("given up: \(decision)")
            return
        }
        #expect(due >= 60_000)
        #expect(monitor.rest(webhook.id, now: 59_999) == 60_000 && monitor.rest(webhook.id, now: 60_000) == nil)
    }

    @Test("who keeps failing is left alone for a while, and after days for good; one success mends all")
    func health() throws {
        var generator = SeededGenerator(seed: 3)
        let policy = WebhookPolicy(
            backoffMilliseconds: [100, 200],
            failuresBeforeRest: 2,
            disableAfterMilliseconds: 10_000
        )
        var monitor = WebhookMonitor(policy)
        let webhook = try Self.webhook()
        let delivery = Self.delivery(webhook)
        let first = monitor.note(Self.failure, delivery, WebhookHealth(), now: 1_000, using: &generator)
        let health = try #require(first.health)
        #expect(health.failingSince == 1_000 && health.disabledAt == nil)
        #expect(monitor.rest(webhook.id, now: 1_000) == nil)
        let second = monitor.note(Self.failure, delivery, health, now: 2_000, using: &generator)
        #expect(second.health == nil && monitor.rest(webhook.id, now: 2_050) == 2_100)
        let mended = monitor.note(.delivered, delivery, health, now: 3_000, using: &generator)
        #expect(mended.decision == .done && mended.health == WebhookHealth())
        #expect(monitor.note(.delivered, delivery, WebhookHealth(), now: 3_000, using: &generator).health == nil)
        let last = monitor.note(Self.failure, delivery, health, now: 11_000, using: &generator)
        #expect(last.health?.disabledAt == 11_000)
        let gone = monitor.note(.gone, delivery, WebhookHealth(), now: 4_000, using: &generator)
        #expect(gone.health?.disabledAt == 4_000)
    }
}
