// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import Synchronization
import Testing

@testable import MDCPipeline

@Suite("ids that other workers know")
struct SharedLedgerTests {
    private static let receipt = ProviderReceipt(
        provider: "gateway",
        channel: .sms,
        providerMessageID: "p1",
        status: .delivered,
        at: 1
    )
    private static let key = ProviderKey(provider: "gateway", id: "p1")

    private func token(_ offset: Int64) -> ReceiptToken {
        ReceiptToken(topicPartition: TopicPartition(topic: "r", partition: 0), offset: offset)
    }

    @Test("a report whose message is elsewhere goes on with its reference; done only after that")
    func forward() {
        var ledger = MessageLedger(MessageLedger.Configuration(holdMilliseconds: 100))
        ledger.setSharing(.up, now: 0)
        #expect(ledger.receive(Self.receipt, token: token(0), now: 10).isEmpty)
        #expect(ledger.unknownIDs(most: 10) == [Self.key])
        var known = Self.receipt
        known.reference = "m1.2"
        let actions = ledger.resolve(Self.key, as: MessageReference(messageID: "m1", attempt: 2), now: 20)
        #expect(actions == [.forward(known), .finish(token(0))])
        #expect(ledger.heldReceipts == 0 && ledger.unknownIDs(most: 10).isEmpty)
        #expect(ledger.tick(now: 1_000).isEmpty)
    }

    @Test("while nobody can be asked nothing is given up; afterwards it waits its whole time again")
    func away() {
        var ledger = MessageLedger(MessageLedger.Configuration(holdMilliseconds: 100, heldMax: 2))
        ledger.setSharing(.away, now: 0)
        for offset in 0..<5 { #expect(ledger.receive(Self.receipt, token: token(Int64(offset)), now: 10).isEmpty) }
        #expect(ledger.nextDue == nil && ledger.tick(now: 100_000).isEmpty && ledger.heldReceipts == 5)
        ledger.setSharing(.up, now: 200_000)
        // More than may wait go at once, as ever; the others have their time.
        let surplus = ledger.tick(now: 200_000)
        #expect(surplus.filter { if case .deadLetter = $0 { true } else { false } }.count == 3)
        #expect(ledger.tick(now: 200_099).isEmpty)
        #expect(ledger.tick(now: 200_100).count == 4 && ledger.heldReceipts == 0)
    }

    @Test("what is learned is told once; a report is joined here if its message is here")
    func learned() {
        var ledger = MessageLedger()
        ledger.setSharing(.up, now: 0)
        _ = ledger.receive(Self.receipt, token: token(0), now: 10)
        _ = ledger.apply(Make.submitted(Make.message()), at: EventPosition(partition: 0, offset: 0), now: 10)
        let actions = ledger.resolve(Self.key, as: MessageReference(messageID: "m1", attempt: 1), now: 20)
        #expect(actions.contains(.finish(token(0))))
        #expect(!actions.contains { if case .forward = $0 { true } else { false } })
        var accepted = Make.accepted()
        (accepted.messageID, accepted.providerMessageID) = ("m2", "p2")
        _ = ledger.apply(
            Make.submitted(Make.message("m2")),
            at: EventPosition(partition: 0, offset: 1),
            now: 20
        )
        _ = ledger.apply(accepted, at: EventPosition(partition: 0, offset: 2), now: 20)
        let told = ledger.takeLearned()
        #expect(told.map(\.key.id) == ["p2"] && told.first?.reference.description == "m2.1")
        #expect(ledger.takeLearned().isEmpty && ledger.knownIDs.count == 1)
    }

    @Test(
        "addresses of a cache",
        arguments: [
            ("redis://127.0.0.1:6380/2", "127.0.0.1", 6_380, 2), ("redis://cache", "cache", 6_379, 0),
            ("redis://cache/", "cache", 6_379, 0),
        ]
    )
    func addresses(url: String, host: String, port: Int, database: Int) throws {
        let settings = try SharedIndexSettings(url: url)
        #expect(settings.host == host && settings.port == port && settings.database == database)
    }

    @Test(
        "addresses that are none",
        arguments: ["127.0.0.1:6379", "redis://:x", "redis://u:p@h/0", "redis://h:0", "redis://h/x", "redis://h:1:2/0"]
    )
    func wrongAddresses(url: String) {
        let error = #expect(throws: PipelineError.self) { try SharedIndexSettings(url: url) }
        #expect(error?.message.contains("redis://host:port/0") == true)
    }
}

#if Redis
    /// Two response workers over a real broker and a real Redis, with a provider that knows nothing of our references.
    @Suite("shared index", .timeLimit(.minutes(5)))
    struct SharedIndexTests {
        /// Takes everything under an id of its own.
        private struct SilentProvider: Provider {
            let name = "gateway"
            let channel = MDCPipeline.Channel.sms
            func send(_ message: Message, attempt: Int) async -> SendOutcome {
                .accepted(providerMessageID: "gw-\(message.id)")
            }
        }

        private static func redis(_ port: Int, _ folder: URL) async throws -> Process {
            let process = try RealServers.start(
                try RealServers.program("/usr/bin/redis-server"),
                ["--port", "\(port)", "--bind", "127.0.0.1", "--save", "", "--dir", folder.path]
            )
            try await RealServers.waitForPort(port)
            return process
        }

        private static func submit(_ client: MessageClient, _ count: Int) async throws -> [String] {
            var ids: [String] = []
            for number in 0..<count {
                let draft = MessageDraft(
                    channel: .sms,
                    to: "+9198765432\(10 + number % 80)",
                    sender: "MDC",
                    content: MessageContent(text: "Hello")
                )
                ids.append(try await client.submit(draft).messageID)
            }
            return ids
        }

        private static func report(_ ids: [String], _ sink: ProducerReceiptSink) async throws {
            try await sink.append(
                ids.map {
                    ProviderReceipt(
                        provider: "gateway",
                        channel: .sms,
                        providerMessageID: "gw-\($0)",
                        status: .delivered,
                        at: SystemTime.now()
                    )
                }
            )
        }

        private static func statuses(_ center: MessageCenter, _ ids: [String]) throws -> [MessageStatus?] {
            try ids.map { try center.store?.get($0)?.status }
        }

        @Test("reports find their messages at the other worker, after Redis was emptied, and after it was away")
        func twoWorkers() async throws {
            let folder = try RealServers.folder("redis")
            defer { try? FileManager.default.removeItem(at: folder) }
            let port = try LoopbackPort.free()
            var redis = try await Self.redis(port, folder)
            defer { RealServers.kill(redis) }
            try await Bench.with { bench, _ in
                let settings = try SharedIndexSettings(url: "redis://127.0.0.1:\(port)/1")
                func center(_ roles: Set<CenterRole>, _ providers: [any Provider]) throws -> MessageCenter {
                    try MessageCenter(
                        MessageCenterConfiguration(
                            client: bench.client,
                            roles: roles,
                            storePath: bench.folder.appendingPathComponent("store.sqlite").path,
                            sharedIndex: settings
                        ),
                        providers: providers,
                        eventLoopGroup: bench.group,
                        logger: bench.logger
                    )
                }
                let first = try center([.dispatcher, .responses, .timers, .store], [SilentProvider()])
                let second = try center([.responses], [])
                let runs = [Task { try await first.run() }, Task { try await second.run() }]
                try await first.whenReady()
                try await second.whenReady()
                let sink = try #require(first.receipts as? ProducerReceiptSink)
                func all(_ ids: [String], are status: MessageStatus) async throws -> Bool {
                    try await waitUntil(seconds: 120) {
                        try Self.statuses(first, ids).allSatisfy { $0 == status }
                    }
                }

                // Partitions are dealt out among two: about half of the reports come to the wrong one.
                let early = try await Self.submit(first.messages, 60)
                #expect(try await all(early, are: .accepted))
                try await Self.report(early, sink)
                #expect(try await all(early, are: .delivered))

                // Emptied: told anew, without anything happening to the messages.
                let connection = try RedisConnection("127.0.0.1", port, seconds: 5)
                let emptied = try await Self.submit(first.messages, 30)
                #expect(try await all(emptied, are: .accepted))
                _ = try connection.run([["FLUSHALL"]])
                try await Self.report(emptied, sink)
                #expect(try await all(emptied, are: .delivered))

                // Away: what can be joined is joined, the rest waits, and nothing goes to the dead letters.
                RealServers.kill(redis)
                redis.waitUntilExit()
                let late = try await Self.submit(first.messages, 40)
                #expect(try await all(late, are: .accepted))
                try await Self.report(late, sink)
                let isSplit = try await waitUntil(seconds: 60) {
                    try Self.statuses(first, late).contains { $0 == .delivered }
                }
                #expect(isSplit)
                redis = try await Self.redis(port, folder)
                #expect(try await all(late, are: .delivered))
                #expect(try await bench.readAll(Topics.deadLetter).isEmpty)

                // Reports that found their way by the index carry the reference that they came without.
                let records = try await bench.readAll(Topics.responses(.sms))
                let forwarded = try records.filter { record in
                    try ProviderReceipt(json: try #require(record.value)).reference != nil
                }
                #expect(!forwarded.isEmpty)
                first.stop()
                second.stop()
                for run in runs { try await run.value }
            }
        }
    }
#endif
