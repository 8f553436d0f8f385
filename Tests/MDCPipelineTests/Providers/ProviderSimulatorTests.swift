// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCModel
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Testing

@testable import MDCPipeline

/// Providers, simulators and the listener over real sockets.
@Suite(.serialized) struct ProviderSimulatorTests {
    private let group = MultiThreadedEventLoopGroup.singleton
    private let behavior = SimulatorBehavior(
        delays: SimulatorDelays(
            slowAnswer: .milliseconds(50),
            hang: .seconds(60),
            receipt: .milliseconds(1),
            lateReceipt: .milliseconds(100),
            retryAfter: .seconds(2)
        )
    )

    private func message(_ id: Int, _ channel: MDCPipeline.Channel, to: String, text: String = "Grüße 👋") -> Message {
        let sender = channel == .email ? "Shop <shop@example.com>" : "SHOP"
        return Message(
            id: "0199a000-0000-7000-8000-\(String(format: "%012d", id))",
            channel: channel,
            to: to,
            sender: sender,
            content: MessageContent(subject: "Hi", text: text),
            createdAt: 1_790_000_000_000
        )
    }

    private func recipient(_ channel: MDCPipeline.Channel, _ fate: SimulatedFate) -> String {
        switch channel {
        case .sms: "+3363998\(fate.phoneCode.map { "99" + String(format: "%02d", $0) } ?? "0000")"
        case .email: "a.sim-\(fate.rawValue)@example.com"
        case .push: "token-sim-\(fate.rawValue)"
        }
    }

    /// A provider, its simulator and a listener, for each channel. Only what tests a time-out waits for less than a
    /// busy machine may need.
    private func withProvider(
        _ channel: MDCPipeline.Channel,
        format: KaleyraProvider.BodyFormat = .form,
        timeout: Duration = .seconds(60),
        _ body: (any Provider, SimulatorLedger, TestSink, CallbackSender) async throws -> Void
    ) async throws {
        let sink = TestSink()
        try await withListener(sink, inFlightMax: 1_000) { _, base async throws in
            let sender = CallbackSender(group: MultiThreadedEventLoopGroup.singleton, logger: quietLogger())
            let provider: any Provider
            let ledger: SimulatorLedger
            let shutdown: () async -> Void
            switch channel {
            case .sms:
                let simulator = try await KaleyraSimulator.start(
                    .init(behavior: behavior),
                    group: group,
                    sender: sender,
                    logger: quietLogger()
                )
                provider = KaleyraProvider(
                    .init(
                        baseURL: simulator.baseURL,
                        accountID: "SIM",
                        apiKey: "simulator",
                        callbackURL: base + "/callbacks/kaleyra/s3cret",
                        format: format,
                        concurrency: 8,
                        requestTimeout: timeout
                    ),
                    group: group
                )
                (ledger, shutdown) = (simulator.ledger, { await simulator.shutdown() })
            case .email:
                let simulator = try await SMTPSimulator.start(
                    .init(callbackURL: base + "/callbacks/email/m4il", behavior: behavior),
                    group: group,
                    sender: sender,
                    logger: quietLogger()
                )
                provider = SMTPProvider(
                    .init(
                        host: simulator.host,
                        port: simulator.port,
                        connections: 8,
                        contentReplyTimeout: timeout
                    ),
                    group: group
                )
                (ledger, shutdown) = (simulator.ledger, { await simulator.shutdown() })
            case .push:
                let simulator = try await FCMSimulator.start(
                    .init(callbackURL: base + "/callbacks/fcm/fcm", behavior: behavior),
                    group: group,
                    sender: sender,
                    logger: quietLogger()
                )
                provider = FCMProvider(
                    .init(
                        baseURL: simulator.baseURL,
                        project: "sim",
                        concurrency: 8,
                        requestTimeout: timeout
                    ),
                    tokens: StaticAccessToken("simulator"),
                    group: group
                )
                (ledger, shutdown) = (simulator.ledger, { await simulator.shutdown() })
            }
            try await body(provider, ledger, sink, sender)
            await provider.shutdown()
            await shutdown()
            await sender.shutdown()
        }
    }

    private func isAccepted(_ outcome: SendOutcome) -> Bool { if case .accepted = outcome { true } else { false } }

    @Test(arguments: MDCPipeline.Channel.allCases) func everyFate(channel: MDCPipeline.Channel) async throws {
        try await withProvider(channel) { provider, ledger, sink, sender async throws in
            var expectedReceipts: [String: [ProviderReceipt.Status]] = [:]
            for (index, fate) in SimulatedFate.allCases.enumerated() {
                if [.timeout, .timeoutAccepted].contains(fate) { continue }
                let message = message(index, channel, to: recipient(channel, fate))
                let outcome = await provider.send(message, attempt: 1)
                let reference = message.reference(attempt: 1)
                switch fate {
                case .deliver, .slow, .lateReceipt, .earlyReceipt, .duplicateReceipt, .lostReceipt, .bounce, .off,
                    .alwaysOff:
                    #expect(isAccepted(outcome), "\(fate): \(outcome)")
                    #expect(ledger.acceptedCount(reference: reference) == 1)
                case .reject:
                    guard case .rejected = outcome else { Issue.record("\(fate): \(outcome)"); continue }
                case .busy, .alwaysBusy:
                    guard case .retriable(_, _, let retryAfter) = outcome else {
                        Issue.record("\(fate): \(outcome)"); continue
                    }
                    #expect(retryAfter == (channel == .email ? nil : .seconds(2)))
                case .timeout, .timeoutAccepted: Issue.record("\(fate) has its own test")
                }
                switch fate {
                case .deliver, .slow, .lateReceipt, .earlyReceipt:
                    expectedReceipts[reference] = [.delivered]
                case .duplicateReceipt: expectedReceipts[reference] = [.delivered, .delivered]
                case .bounce: expectedReceipts[reference] = [.failed]
                case .off, .alwaysOff: expectedReceipts[reference] = [.undelivered]
                default: break
                }
            }
            let count = expectedReceipts.values.reduce(0) { $0 + $1.count }
            #expect(try await eventually { sink.receipts.count >= count && sender.statistics.pending == 0 })
            let found = Dictionary(grouping: sink.receipts) { $0.reference ?? "?" }.mapValues { $0.map(\.status) }
            #expect(found == expectedReceipts)
            #expect(sink.receipts.allSatisfy { $0.channel == channel })
            #expect(ledger.doubledReferences.isEmpty)
        }
    }

    @Test(arguments: MDCPipeline.Channel.allCases) func silenceLeavesDoubt(channel: MDCPipeline.Channel) async throws {
        try await withProvider(channel, timeout: .seconds(5)) { provider, ledger, sink, _ async throws in
            for (index, fate) in [SimulatedFate.timeout, .timeoutAccepted].enumerated() {
                let message = message(index, channel, to: recipient(channel, fate))
                let outcome = await provider.send(message, attempt: 1)
                guard case .inDoubt = outcome else { Issue.record("\(fate): \(outcome)"); continue }
                let accepted = fate == .timeout ? 0 : 1
                #expect(
                    try await eventually { ledger.acceptedCount(reference: message.reference(attempt: 1)) == accepted }
                )
            }
            #expect(try await eventually { sink.receipts.map(\.status) == [.delivered] })
        }
    }

    @Test(arguments: MDCPipeline.Channel.allCases) func laterAttemptsSucceed(channel: MDCPipeline.Channel) async throws
    {
        try await withProvider(channel) { provider, ledger, _, _ async throws in
            let message = message(1, channel, to: recipient(channel, .busy))
            for attempt in 1...2 {
                guard case .retriable = await provider.send(message, attempt: attempt) else {
                    Issue.record("attempt \(attempt) was not refused")
                    continue
                }
            }
            #expect(isAccepted(await provider.send(message, attempt: 3)))
            #expect(ledger.acceptedByReference == [message.reference(attempt: 3): 1])
            #expect(ledger.acceptedCount(messageID: message.id) == 1)
        }
    }

    @Test(arguments: MDCPipeline.Channel.allCases) func providerIDsMatchTheReceipts(channel: MDCPipeline.Channel)
        async throws
    {
        try await withProvider(channel, format: .json) { provider, ledger, sink, _ async throws in
            guard
                case .accepted(let id, _) = await provider.send(
                    message(7, channel, to: recipient(channel, .deliver)),
                    attempt: 1
                )
            else { return #expect(Bool(false), "not accepted") }
            #expect(try await eventually { !sink.receipts.isEmpty })
            #expect(sink.receipts.first?.providerMessageID == id)
            #expect(ledger.totals.malformed == 0)
        }
    }

    @Test(arguments: MDCPipeline.Channel.allCases) func manyAtOnce(channel: MDCPipeline.Channel) async throws {
        try await withProvider(channel) { provider, ledger, sink, _ async throws in
            let outcomes = await withTaskGroup(of: SendOutcome.self) { group in
                for index in 0..<300 {
                    let to = channel == .sms ? "+44770090\(1000 + index)" : "user\(index)@example.com"
                    let message = message(index, channel, to: to)
                    group.addTask { await provider.send(message, attempt: 1) }
                }
                return await group.reduce(into: []) { $0.append($1) }
            }
            #expect(outcomes.count { isAccepted($0) } == 300)
            #expect(ledger.totals.accepted == 300)
            #expect(ledger.doubledReferences.isEmpty)
            #expect(try await eventually { sink.receipts.count == 300 })
        }
    }

    @Test(arguments: MDCPipeline.Channel.allCases) func nobodyListens(channel: MDCPipeline.Channel) async throws {
        let provider: any Provider =
            switch channel {
            case .sms: KaleyraProvider(.init(baseURL: "http://127.0.0.1:1", accountID: "x", apiKey: "k"), group: group)
            case .email: SMTPProvider(.init(host: "127.0.0.1", port: 1), group: group)
            case .push:
                FCMProvider(
                    .init(baseURL: "http://127.0.0.1:1", project: "p"),
                    tokens: StaticAccessToken("t"),
                    group: group
                )
            }
        let outcome = await provider.send(message(1, channel, to: recipient(channel, .deliver)), attempt: 1)
        guard case .retriable(code: "connect", _, _) = outcome else {
            return #expect(Bool(false), "\(outcome)")
        }
        await provider.shutdown()
    }

    @Test func wrongKeysAreRetriable() async throws {
        let sender = CallbackSender(group: MultiThreadedEventLoopGroup.singleton, logger: quietLogger())
        let sms = try await KaleyraSimulator.start(.init(), group: group, sender: sender, logger: quietLogger())
        let kaleyra = KaleyraProvider(.init(baseURL: sms.baseURL, accountID: "SIM", apiKey: "wrong"), group: group)
        guard
            case .retriable(code: "RBC-401", _, .some(.seconds(60))) = await kaleyra.send(
                message(1, .sms, to: "+1"),
                attempt: 1
            )
        else { return #expect(Bool(false), "a wrong key must not fail messages") }
        let push = try await FCMSimulator.start(.init(), group: group, sender: sender, logger: quietLogger())
        let fcm = FCMProvider(
            .init(baseURL: push.baseURL, project: "sim"),
            tokens: StaticAccessToken("wrong"),
            group: group
        )
        guard
            case .retriable(code: "UNAUTHENTICATED", _, .some(.seconds(60))) = await fcm.send(
                message(1, .push, to: "t"),
                attempt: 1
            )
        else { return #expect(Bool(false), "a wrong token must not fail messages") }
        for shutdown in [kaleyra.shutdown, fcm.shutdown, sms.shutdown, push.shutdown, sender.shutdown] {
            await shutdown()
        }
    }

    @Test func connectionCutAfterTheRequestIsInDoubt() async throws {
        let server = try await SimulatorHTTPServer.start(host: "127.0.0.1", port: 0, group: group) { _, responder in
            responder.hang(for: .milliseconds(1))
        }
        let base = "http://127.0.0.1:\(server.port)"
        let kaleyra = KaleyraProvider(.init(baseURL: base, accountID: "x", apiKey: "k"), group: group)
        let fcm = FCMProvider(.init(baseURL: base, project: "p"), tokens: StaticAccessToken("t"), group: group)
        for (provider, channel) in [(kaleyra as any Provider, MDCPipeline.Channel.sms), (fcm, .push)] {
            let outcome = await provider.send(message(1, channel, to: "+1"), attempt: 1)
            guard case .inDoubt = outcome else { Issue.record("\(outcome)"); continue }
            await provider.shutdown()
        }
        await server.shutdown()
    }

    @Test func suiteOfAllThree() async throws {
        let sink = TestSink()
        try await withListener(sink) { _, base async throws in
            let suite = try await SimulatorSuite.start(
                .init(
                    emailCallbackURL: base + "/callbacks/email/m4il",
                    pushCallbackURL: base + "/callbacks/fcm/fcm",
                    behavior: behavior
                ),
                group: group,
                logger: quietLogger()
            )
            let providers: [any Provider] = [
                KaleyraProvider(
                    suite.kaleyraConfiguration(callbackURL: base + "/callbacks/kaleyra/s3cret"),
                    group: group
                ),
                SMTPProvider(suite.smtpConfiguration(), group: group),
                FCMProvider(suite.fcmConfiguration(), tokens: StaticAccessToken("simulator"), group: group),
            ]
            for provider in providers {
                let message = message(1, provider.channel, to: recipient(provider.channel, .deliver))
                #expect(isAccepted(await provider.send(message, attempt: 1)), "\(provider.name)")
            }
            #expect(try await eventually { sink.receipts.count == 3 })
            for provider in providers { await provider.shutdown() }
            await suite.shutdown()
            // A taken port leaves nothing behind.
            let other = try await KaleyraSimulator.start(
                .init(),
                group: group,
                sender: suite.sender,
                logger: quietLogger()
            )
            await #expect(throws: (any Error).self) {
                try await SimulatorSuite.start(.init(fcmPort: other.port), group: group, logger: quietLogger())
            }
            await other.shutdown()
        }
    }

    @Test func retryAfterHeaders() throws {
        let now = Date(timeIntervalSince1970: 1_790_000_000)
        #expect(HTTPExchange.retryAfter("120", now: now) == .seconds(120))
        #expect(HTTPExchange.retryAfter(" 7 ", now: now) == .seconds(7))
        #expect(HTTPExchange.retryAfter("-5", now: now) == .zero)
        #expect(HTTPExchange.retryAfter("999999", now: now) == .seconds(3_600))
        #expect(HTTPExchange.retryAfter("Mon, 21 Sep 2026 14:13:30 GMT", now: now) == .seconds(10))
        #expect(HTTPExchange.retryAfter("Mon, 21 Sep 2020 14:13:30 GMT", now: now) == .zero)
        #expect(HTTPExchange.retryAfter("soon", now: now) == nil)
    }

    @Test func gateBoundsConcurrency() async {
        let gate = ConcurrencyGate(limit: 3)
        let running = Running()
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<50 {
                group.addTask {
                    await gate.pass {
                        running.begin()
                        await Task.yield()
                        running.end()
                    }
                }
            }
        }
        #expect(running.most <= 3)
        #expect(running.now == 0)
    }

    @Test(arguments: [UInt16(1), 2, 3]) func ledgerSeesADoubledSend(attempt: UInt16) async throws {
        try await withProvider(.sms) { provider, ledger, _, _ async throws in
            let message = message(1, .sms, to: "+447700900001")
            for _ in 0..<2 { _ = await provider.send(message, attempt: Int(attempt)) }
            #expect(ledger.doubledReferences == [message.reference(attempt: Int(attempt))])
            #expect(ledger.acceptedCount(messageID: message.id) == 2)
        }
    }
}

/// Counts operations under way.
private final class Running: Sendable {
    private let state = Mutex((now: 0, most: 0))

    var now: Int { state.withLock { $0.now } }
    var most: Int { state.withLock { $0.most } }

    func begin() {
        state.withLock { state in
            state.now += 1
            state.most = max(state.most, state.now)
        }
    }

    func end() { state.withLock { $0.now -= 1 } }
}
