// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import NIOCore
import Synchronization
import Testing

@testable import MDCPipeline

/// A provider that does what the test says and keeps what it was asked for.
private final class StubProvider: Provider {
    let name: String
    let channel = Channel.sms
    let sendsReceipts = false
    let concurrency: Int
    private let answer: @Sendable (Message) async -> SendOutcome
    private let asked = Mutex<[Message]>([])

    init(_ name: String, concurrency: Int = 8, answer: @escaping @Sendable (Message) async -> SendOutcome) {
        self.name = name
        self.concurrency = concurrency
        self.answer = answer
    }

    var messages: [Message] { asked.withLock { $0 } }

    func send(_ message: Message, attempt: Int) async -> SendOutcome {
        asked.withLock { $0.append(message) }
        return await answer(message)
    }

    static func accepting(_ name: String) -> StubProvider {
        StubProvider(name) { .accepted(providerMessageID: "\(name)-\($0.id)") }
    }

    static func failing(_ name: String) -> StubProvider {
        StubProvider(name) { _ in .retriable(code: "DOWN", reason: "it is down") }
    }
}

@Suite("dispatch over several providers", .serialized)
struct RoutedDispatchTests {
    private static func running<Result: Sendable>(
        _ bench: Bench,
        _ providers: [any Provider],
        routing: RoutingConfiguration = RoutingConfiguration(),
        _ body: @Sendable (MessageCenter) async throws -> Result
    ) async throws -> Result {
        let center = try MessageCenter(
            MessageCenterConfiguration(
                client: bench.client,
                storePath: bench.folder.appendingPathComponent("store.sqlite").path,
                routing: routing
            ),
            providers: providers,
            eventLoopGroup: bench.group,
            logger: bench.logger
        )
        let run = Task { try await center.run() }
        do {
            try await center.whenReady()
            let result = try await body(center)
            center.stop()
            try await run.value
            return result
        } catch {
            center.stop()
            _ = try? await run.value
            throw error
        }
    }

    private static func draft(_ number: Int, to: String = "+919876500000", sendAt: Timestamp? = nil) -> MessageDraft {
        MessageDraft(channel: .sms, to: to, content: MessageContent(text: "Hello \(number)"), sendAt: sendAt)
    }

    /// Waits for a final status and gives the timeline.
    private static func ended(_ center: MessageCenter, _ id: String) async throws -> StoredMessage {
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            if let stored = try center.store?.get(id), stored.status.isFinal { return stored }
            try #require(ContinuousClock.now < deadline, "message \(id) does not come to its end")
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    @Test("messages wait for the end of quiet hours, over a restart, unless they expire first", .timeLimit(.minutes(4)))
    func quietHours() async throws {
        try await Bench.with { bench, _ in
            // By the clocks of Greenwich it has been quiet for an hour, and is for another one.
            let until = SystemTime.now() + 3_600_000
            let minutes = Int(until.rawValue / 60_000 % 1_440)
            let rule = QuietHours(
                name: "now",
                tenants: ["night"],
                from: (minutes + 1_320) % 1_440,
                until: minutes,
                zone: "Etc/UTC"
            )
            let end = Timestamp(until.rawValue / 60_000 * 60_000)
            let routing = RoutingConfiguration(quietHours: [rule])
            let provider = StubProvider.accepting("one")
            @Sendable func draft(_ number: Int, tenant: String = "night", lane: String? = nil) -> MessageDraft {
                var draft = Self.draft(number)
                (draft.tenant, draft.lane, draft.timeZone) = (tenant, lane, "Etc/UTC")
                return draft
            }
            let held = try await Self.running(bench, [provider], routing: routing) { center in
                var ids: [String] = []
                for number in 0..<5 { ids.append(try await center.messages.submit(draft(number)).messageID) }
                var short = draft(5)
                short.expiresAt = SystemTime.now() + 5_000
                let expired = try await Self.ended(center, try await center.messages.submit(short).messageID)
                #expect(expired.status == .expired && expired.timeline?.last?.code == "quiet-hours", "\(expired)")
                for other in [draft(6, tenant: "day"), draft(7, lane: "critical")] {
                    let sent = try await Self.ended(center, try await center.messages.submit(other).messageID)
                    #expect(sent.status == .sent)
                }
                let cancelled = try await center.messages.submit(draft(8)).messageID
                for id in ids + [cancelled] {
                    let deadline = ContinuousClock.now + .seconds(60)
                    while try center.store?.get(id)?.dueAt == nil {
                        try #require(ContinuousClock.now < deadline, "message \(id) is not set aside")
                        try await Task.sleep(for: .milliseconds(20))
                    }
                    let stored = try #require(try center.store?.get(id))
                    #expect(stored.status == .scheduled && (stored.dueAt ?? 0) >= end, "\(stored)")
                }
                let admin = try CenterAdmin(client: bench.client, eventLoopGroup: bench.group, logger: bench.logger)
                #expect(try await admin.timers().count { $0.id.hasPrefix("quiet:") } == 6)
                try await admin.cancel(cancelled, channel: .sms)
                #expect(try await Self.ended(center, cancelled).status == .cancelled)
                #expect(try await admin.timers().count { $0.id.hasPrefix("quiet:") } == 5)
                try await admin.close()
                #expect(!provider.messages.contains { ids.contains($0.id) })
                return ids
            }
            // The hour is over: each timer is set anew, for now. A next start knows them, and sends each message once.
            let producer = try Producer(
                ProducerConfiguration(client: bench.client),
                eventLoopGroup: bench.group,
                logger: bench.logger
            )
            for record in try await bench.readAll(Topics.timers) {
                guard let key = record.key, held.contains(where: { String(buffer: key).hasPrefix("quiet:\($0):") }),
                    var headers = TimerHeaders(record.headers)
                else { continue }
                headers.due = SystemTime.now()
                _ = try await producer.send(
                    ProducerRecord(topic: Topics.timers, key: key, value: record.value, headers: headers.records)
                )
            }
            try await producer.close()
            try await Self.running(bench, [provider]) { center in
                let deadline = ContinuousClock.now + .seconds(60)
                for id in held {
                    while try center.store?.get(id)?.status.isFinal != true {
                        try #require(ContinuousClock.now < deadline, "message \(id) is not sent")
                        try await Task.sleep(for: .milliseconds(50))
                    }
                    let kinds = try await center.store?.timeline(of: id).map(\.kind)
                    #expect(kinds == [.submitted, .scheduled, .accepted, .final], "\(kinds ?? [])")
                }
                for id in held { #expect(provider.messages.count { $0.id == id } == 1) }
            }
        }
    }

    @Test(
        "a provider that fails is passed over, its circuit opens, and a next start knows of it",
        .timeLimit(.minutes(4))
    )
    func failover() async throws {
        try await Bench.with { bench, _ in
            let routing = RoutingConfiguration(
                rules: [
                    RouteRule(
                        name: "india",
                        channel: .sms,
                        countries: ["91"],
                        providers: ["a", "b"],
                        senders: ["BANK"]
                    )
                ],
                breaker: .init(window: 20, answersMin: 10, failureShare: 0.5, pauseMilliseconds: 600_000)
            )
            let (down, up) = (StubProvider.failing("a"), StubProvider.accepting("b"))
            try await Self.running(bench, [down, up], routing: routing) { center in
                var routes: [String] = []
                for number in 0..<30 {
                    let receipt = try await center.messages.submit(Self.draft(number))
                    let stored = try await Self.ended(center, receipt.messageID)
                    #expect(stored.status == .sent && stored.provider == "b" && stored.attempt == 1)
                    let timeline = stored.timeline ?? []
                    let moves = timeline.filter { $0.kind == .rerouted }
                    #expect(moves.count <= 1 && moves.allSatisfy { $0.provider == "a" && $0.code == "DOWN" })
                    routes += timeline.compactMap { $0.kind == .accepted ? $0.route : nil }
                }
                #expect(down.messages.count == 10, "the circuit opens with the tenth failure")
                #expect(up.messages.count == 30 && up.messages.allSatisfy { $0.sender == "BANK" })
                #expect(routes.count == 30 && routes.allSatisfy { $0.hasPrefix("rule 'india': b, of 2 by list") })
                #expect(routes.last?.contains("passed over: a has an open circuit") == true)
            }
            // Another process, or this one again: the state is on the log.
            let (downAgain, upAgain) = (StubProvider.failing("a"), StubProvider.accepting("b"))
            try await Self.running(bench, [downAgain, upAgain], routing: routing) { center in
                let receipt = try await center.messages.submit(Self.draft(100))
                #expect(try await Self.ended(center, receipt.messageID).provider == "b")
            }
            #expect(downAgain.messages.isEmpty && upAgain.messages.count == 1)
        }
    }

    @Test("an operator's pause holds: messages go elsewhere, or wait until it ends", .timeLimit(.minutes(4)))
    func pause() async throws {
        try await Bench.with { bench, _ in
            let only = StubProvider.accepting("a")
            try await Self.running(bench, [only]) { center in
                let admin = try CenterAdmin(client: bench.client, eventLoopGroup: bench.group, logger: bench.logger)
                let first = try await center.messages.submit(Self.draft(0))
                _ = try await Self.ended(center, first.messageID)
                try await admin.setPaused("a", true, reason: "maintenance")
                #expect(try await admin.providerNotices().map(\.state) == ["paused"])
                // The pause reaches the dispatcher by the log: at the latest after its next turn.
                try await Task.sleep(for: .seconds(2))
                let second = try await center.messages.submit(Self.draft(1))
                try await Task.sleep(for: .seconds(1))
                #expect(only.messages.count == 1)
                try await admin.setPaused("a", false, reason: nil)
                #expect(try await Self.ended(center, second.messageID).status == .sent)
                try await admin.close()
            }
        }
    }

    @Test("cancelled while queued or scheduled; refused once a provider was asked; suppressed", .timeLimit(.minutes(4)))
    func cancel() async throws {
        try await Bench.with { bench, _ in
            let gate = AsyncSignal()
            let slow = StubProvider("a", concurrency: 1) { message in
                if message.content.text == "Hello 0" { await gate.wait() }
                return .accepted(providerMessageID: message.id)
            }
            try await Self.running(bench, [slow]) { center in
                let admin = try CenterAdmin(client: bench.client, eventLoopGroup: bench.group, logger: bench.logger)
                let first = try await center.messages.submit(Self.draft(0))
                let deadline = ContinuousClock.now + .seconds(60)
                while slow.messages.isEmpty {
                    try #require(ContinuousClock.now < deadline, "the first message is not sent")
                    try await Task.sleep(for: .milliseconds(10))
                }
                let second = try await center.messages.submit(Self.draft(1))
                let later = try await center.messages.submit(Self.draft(2, sendAt: SystemTime.now() + 3_600_000))
                #expect(try await admin.timers().map(\.id) == ["send-at:\(later.messageID)"])
                for receipt in [first, second, later] { try await admin.cancel(receipt.messageID, channel: .sms) }
                #expect(try await Self.ended(center, second.messageID).status == .cancelled)
                #expect(try await Self.ended(center, later.messageID).status == .cancelled)
                #expect(try await admin.timers().isEmpty)
                while try center.store?.get(first.messageID)?.timeline?.contains(where: { $0.kind == .cancelRefused })
                    != true
                {
                    try #require(ContinuousClock.now < deadline, "the wish is not answered")
                    try await Task.sleep(for: .milliseconds(20))
                }
                gate.notify()
                #expect(try await Self.ended(center, first.messageID).status == .sent)
                try await admin.suppress(
                    Suppression(channel: .sms, recipient: "+919876511111", reason: "unsubscribed", at: 0)
                )
                #expect(try await admin.suppressions().map(\.recipient) == ["+919876511111"])
                try await Task.sleep(for: .seconds(2))
                let held = try await center.messages.submit(Self.draft(3, to: "+919876511111"))
                let stored = try await Self.ended(center, held.messageID)
                #expect(stored.status == .failed && stored.code == "suppressed")
                #expect(stored.detail?.contains("unsubscribed") == true)
                try await admin.unsuppress("+919876511111", channel: .sms, tenant: nil)
                #expect(try await admin.suppressions().isEmpty)
                try await admin.close()
            }
            #expect(slow.messages.map(\.content.text) == ["Hello 0"])
        }
    }

    @Test("dead letters can be put back; lanes say what waits", .timeLimit(.minutes(4)))
    func deadLetters() async throws {
        try await Bench.with { bench, _ in
            let only = StubProvider.accepting("a")
            try await Self.running(bench, [only]) { center in
                var settings = ProducerConfiguration(client: bench.client)
                settings.linger = .zero
                let producer = try Producer(settings, eventLoopGroup: bench.group, logger: bench.logger)
                _ = try await producer.send(
                    ProducerRecord(topic: Topics.inbox, key: nil, value: ByteBuffer(string: "no message"))
                )
                try await producer.close()
                let admin = try CenterAdmin(client: bench.client, eventLoopGroup: bench.group, logger: bench.logger)
                let deadline = ContinuousClock.now + .seconds(60)
                func letters(_ count: Int) async throws -> [CenterAdmin.DeadLetter] {
                    while true {
                        let found = try await admin.deadLetters()
                        if found.count >= count { return found }
                        try #require(ContinuousClock.now < deadline, "the dead letter does not come")
                        try await Task.sleep(for: .milliseconds(50))
                    }
                }
                let first = try await letters(1)[0]
                #expect(first.value == "no message" && first.source.hasPrefix("mdc.inbox:"))
                _ = try await admin.redrive(offset: first.offset)
                #expect(try await letters(2).allSatisfy { $0.value == "no message" })
                await #expect(throws: PipelineError.self) { try await admin.redrive(offset: 99) }
                let receipt = try await center.messages.submit(Self.draft(1))
                _ = try await Self.ended(center, receipt.messageID)
                let lanes = try await admin.lanes().filter { $0.channel == .sms }
                #expect(lanes.map(\.lane) == ["critical", "high", "normal", "bulk"])
                #expect(lanes.map(\.total) == [0, 0, 1, 0] && abs(lanes[0].share - 800.0 / 15) < 0.01)
                try await admin.close()
            }
        }
    }
}
