// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import MDCPipeline

/// Everything that can die dies, at times drawn from a seed, while messages flow through providers that fail, time out, report
/// early, late, twice and never. The simulated providers live in the test's own process: they are what the sums are checked
/// against. `MDC_CRASH_MESSAGES`, `MDC_CRASH_SEED` (`make crash-proof`) make it longer and other.
@Suite("crash proof", .serialized)
struct CrashProofTests {
    /// Where a child process finds the world.
    struct World: Codable, Sendable {
        var bootstrap: String
        var folder: String
        var sms: String
        var smtpPort: Int
        var push: String
        var callbackPort: Int
        /// The child kills itself then.
        var lifeMilliseconds: Int
    }

    private static let secret = "simulator-of-the-test"

    private static func number(_ name: String, _ preset: Int) -> Int {
        ProcessInfo.processInfo.environment[name].flatMap { Int($0) } ?? preset
    }

    @Test(
        "workers, listener and broker are killed at random: one end for each message, the sums agree",
        .timeLimit(.minutes(60))
    )
    func everythingDies() async throws {
        guard ProcessInfo.processInfo.environment["MDC_TEST_KAFKA"] == nil else {
            print("skipped: MDC_TEST_KAFKA names a broker that this test must not kill")
            return
        }
        guard let count = ProcessInfo.processInfo.environment["MDC_CRASH_MESSAGES"].flatMap({ Int($0) }) else {
            print("skipped: takes minutes, and is not yet green for every seed; `make crash-proof` runs it")
            return
        }
        let seed = UInt64(Self.number("MDC_CRASH_SEED", 1))
        let rounds = max(2, min(12, count / 300))
        try await Bench.with { bench, broker in
            let broker = try #require(broker)
            let port = try LoopbackPort.free()
            let suite = try await Self.suite(bench, port: port, seed: seed)
            var random = SeededGenerator(seed: seed)
            let world = World(
                bootstrap: bench.bootstrap,
                folder: bench.folder.path,
                sms: suite.kaleyra.baseURL,
                smtpPort: suite.smtp.port,
                push: suite.fcm.baseURL,
                callbackPort: port,
                lifeMilliseconds: 0
            )
            try await Self.createTopics(bench)
            let lives = (0..<rounds).map { _ in
                (Int.random(in: 1_500...6_000, using: &random), Int.random(in: 1_500...6_000, using: &random))
            }
            let brokerLives = (0..<rounds / 2).map { _ in Int.random(in: 3_000...8_000, using: &random) }
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                tasks.addTask { try await Self.submit(bench, count) }
                tasks.addTask {
                    for (life, _) in lives {
                        var world = world
                        world.lifeMilliseconds = life
                        await Self.killedWorker(world)
                    }
                }
                tasks.addTask {
                    for (_, life) in lives {
                        var world = world
                        world.lifeMilliseconds = life
                        await Self.killedListener(world)
                    }
                }
                tasks.addTask {
                    for life in brokerLives {
                        try await Task.sleep(for: .milliseconds(life))
                        broker.kill()
                        try await broker.start()
                    }
                }
                try await tasks.waitForAll()
            }
            try await Self.settle(bench, world, count, suite)
            await suite.shutdown()
        }
    }

    /// The last workers live: every message comes to its end, and the sums are checked.
    private static func settle(_ bench: Bench, _ world: World, _ count: Int, _ suite: SimulatorSuite) async throws {
        let listener = try await Listening(world, bench)
        let center = try center(world, bench)
        let run = Task { try await center.run() }
        do {
            try await center.whenReady()
            let store = try #require(center.store)
            var ended = MessageFilter()
            ended.statuses = Set(MessageStatus.allCases.filter(\.isFinal))
            let deadline = ContinuousClock.now + .seconds(60 + count / 20)
            while try store.count(ended) < count {
                let open = count - (try store.count(ended))
                try #require(ContinuousClock.now < deadline, "open: \(open) of \(count)")
                try await Task.sleep(for: .milliseconds(100))
            }
            // Late reports are still on their way; what is answered 200 must be in the log.
            while suite.sender.statistics.pending > 0, ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(100))
            }
            try await check(bench, store, count, suite)
        } catch {
            center.stop()
            _ = try? await run.value
            await listener.close()
            throw error
        }
        center.stop()
        try await run.value
        await listener.close()
    }

    private static func check(_ bench: Bench, _ store: MessageStore, _ count: Int, _ suite: SimulatorSuite) async throws
    {
        var states: [String: MessageState] = [:]
        var ends: [String: Set<String>] = [:]
        var again: Set<MessageReference> = []
        for record in try await bench.readAll(Topics.events) {
            let event = try TimelineEvent(json: try #require(record.value))
            states[event.messageID, default: MessageState()].apply(event)
            if let status = event.status, status.isFinal { ends[event.messageID, default: []].insert(status.rawValue) }
            if event.kind == .redelivered {
                again.insert(MessageReference(messageID: event.messageID, attempt: event.attempt))
            }
        }
        #expect(states.count == count, "messages that the log knows")
        #expect(states.values.allSatisfy { $0.status.isFinal && $0.message != nil })
        for (id, statuses) in ends where statuses.count > 1 {
            let kinds = (try store.get(id)?.timeline ?? []).map {
                "\($0.component) \($0.kind.rawValue) \($0.attempt) \($0.status?.rawValue ?? "-")"
            }
            Issue.record("\(id) has several ends: \(kinds.joined(separator: "; "))")
        }
        // The store is the projection of the log.
        #expect(try store.count() == count)
        var page = 1
        while true {
            let rows = try store.list(page: page, pageSize: 1_000)
            for row in rows {
                let state = try #require(states[row.id])
                #expect(row.status == state.status && row.message == state.message, "\(row.id)")
            }
            if rows.count < 1_000 { break }
            page += 1
        }
        // A provider took an attempt twice only where the timeline says that it was sent again.
        var doubled = 0
        for ledger in [suite.kaleyra.ledger, suite.smtp.ledger, suite.fcm.ledger] {
            for reference in ledger.doubledReferences {
                doubled += 1
                let known = try #require(MessageReference(reference))
                #expect(again.contains(known), "\(reference) was taken twice, and its timeline does not say so")
            }
        }
        // What was answered 200 is in the log.
        var reports = 0
        for channel in MDCPipeline.Channel.allCases {
            reports += try await bench.readAll(Topics.responses(channel)).count
        }
        let answered = suite.sender.statistics.delivered
        #expect(reports >= answered, "\(answered) callbacks were answered 200, \(reports) are in the log")
        print(
            "crash proof: \(count) messages, \(again.count) attempts marked as sent again, \(doubled) taken twice, "
                + "\(answered) callbacks answered 200, \(reports) in the log"
        )
    }

    // MARK: - What dies

    private static func killedWorker(_ world: World) async {
        await #expect(processExitsWith: .signal(SIGKILL)) { [world = world as World] in
            dieAfter(world.lifeMilliseconds)
            // What ends by an error meanwhile (the broker is dead, too) is started again, as a supervisor does.
            while true {
                try? await Bench.with(bootstrap: world.bootstrap, folder: world.folder) { bench in
                    try await Self.center(world, bench).run()
                }
                try? await Task.sleep(for: .milliseconds(200))
            }
        }
    }

    private static func killedListener(_ world: World) async {
        await #expect(processExitsWith: .signal(SIGKILL)) { [world = world as World] in
            dieAfter(world.lifeMilliseconds)
            while true {
                try? await Bench.with(bootstrap: world.bootstrap, folder: world.folder) { bench in
                    let listener = try await Listening(world, bench)
                    try await Task.sleep(for: .seconds(3_600))
                    await listener.close()
                }
                try? await Task.sleep(for: .milliseconds(200))
            }
        }
    }

    private static func center(_ world: World, _ bench: Bench) throws -> MessageCenter {
        let policy = MessageCenterConfiguration.demoPolicy
        func callback(_ provider: String) -> String {
            "http://127.0.0.1:\(world.callbackPort)/callbacks/\(provider)/\(secret)"
        }
        return try MessageCenter(
            MessageCenterConfiguration(
                client: bench.client,
                storePath: bench.folder.appendingPathComponent("store.sqlite").path,
                policies: [.sms: policy, .email: policy, .push: policy],
                sessionTimeout: .seconds(6)
            ),
            providers: [
                KaleyraProvider(
                    .init(
                        baseURL: world.sms,
                        accountID: "SIM",
                        apiKey: "simulator",
                        callbackURL: callback("kaleyra"),
                        concurrency: 32,
                        requestTimeout: .seconds(2)
                    ),
                    group: bench.group
                ),
                SMTPProvider(
                    .init(
                        host: "127.0.0.1",
                        port: world.smtpPort,
                        connections: 32,
                        replyTimeout: .seconds(2),
                        contentReplyTimeout: .seconds(2)
                    ),
                    group: bench.group
                ),
                FCMProvider(
                    .init(baseURL: world.push, project: "sim", concurrency: 32, requestTimeout: .seconds(2)),
                    tokens: StaticAccessToken("simulator"),
                    group: bench.group
                ),
            ],
            eventLoopGroup: bench.group,
            logger: bench.logger
        )
    }

    /// A callback listener on the port that the providers know.
    private struct Listening {
        let task: Task<Void, any Error>
        let producer: Producer

        init(_ world: World, _ bench: Bench) async throws {
            var settings = ProducerConfiguration(client: bench.client)
            settings.linger = .zero
            producer = try Producer(settings, eventLoopGroup: bench.group, logger: bench.logger)
            let listener = CallbackListener(
                CallbackListener.Configuration(
                    host: "127.0.0.1",
                    port: world.callbackPort,
                    routes: [
                        .init(provider: "kaleyra", secret: secret, format: .kaleyra),
                        .init(provider: "smtp", secret: secret, format: .email),
                        .init(provider: "fcm", secret: secret, format: .fcm),
                    ]
                ),
                sink: ProducerReceiptSink(producer: producer),
                group: bench.group,
                logger: bench.logger
            )
            task = Task { try await listener.run() }
            _ = try await listener.boundPort()
        }

        func close() async {
            task.cancel()
            _ = try? await task.value
            try? await producer.close()
        }
    }

    // MARK: - What lives

    private static func suite(_ bench: Bench, port: Int, seed: UInt64) async throws -> SimulatorSuite {
        try await SimulatorSuite.start(
            .init(
                emailCallbackURL: "http://127.0.0.1:\(port)/callbacks/smtp/\(secret)",
                pushCallbackURL: "http://127.0.0.1:\(port)/callbacks/fcm/\(secret)",
                behavior: SimulatorBehavior(
                    seed: seed,
                    shares: .usual,
                    delays: SimulatorDelays(
                        answer: .milliseconds(5),
                        hang: .seconds(4),
                        receipt: .milliseconds(50),
                        lateReceipt: .milliseconds(1_500)
                    )
                ),
                callbacks: CallbackSender.Configuration(attemptsMax: 1_000, backoffMax: .milliseconds(500))
            ),
            group: bench.group,
            logger: bench.logger
        )
    }

    private static func createTopics(_ bench: Bench) async throws {
        let admin = try Admin(bench.client, eventLoopGroup: bench.group, logger: bench.logger)
        try await Topics.create(lanes: LaneConfiguration(), admin: admin)
        await admin.close()
    }

    /// Submits until each message has its receipt; what is not known to be taken is submitted again under its key.
    private static func submit(_ bench: Bench, _ count: Int) async throws {
        var settings = ProducerConfiguration(client: bench.client)
        settings.linger = .zero
        let producer = try Producer(settings, eventLoopGroup: bench.group, logger: bench.logger)
        let keys = IdempotencyKeys(client: bench.client, eventLoopGroup: bench.group, logger: bench.logger)
        let client = MessageClient(producer: producer, keys: keys, logger: bench.logger)
        for start in stride(from: 0, to: count, by: 100) {
            var drafts = (start..<min(count, start + 100)).map(draft)
            while !drafts.isEmpty {
                var left: [MessageDraft] = []
                for (draft, result) in zip(drafts, await client.submit(drafts)) {
                    guard case .failure(let error) = result else { continue }
                    if error.code == .invalidMessage || error.code == .conflict { throw error }
                    left.append(draft)
                }
                drafts = left
                if !left.isEmpty { try await Task.sleep(for: .milliseconds(200)) }
            }
        }
        await keys.close()
        try await producer.close()
    }

    private static func draft(_ number: Int) -> MessageDraft {
        let lane = ["critical", "high", "normal", "bulk"][number % 4]
        let content = MessageContent(subject: number % 3 == 1 ? "Hello" : nil, text: "Message \(number)")
        let token = "dQw4w9WgXcQ:APA91b" + String(repeating: "x-Y_", count: 30)
        let (channel, to): (MDCPipeline.Channel, String) =
            switch number % 3 {
            case 0: (.sms, "+9198765" + String(format: "%05d", number % 90_000))
            case 1: (.email, "user\(number)@example.com")
            default: (.push, token + "\(number)")
            }
        return MessageDraft(channel: channel, lane: lane, to: to, content: content, idempotencyKey: "crash-\(number)")
    }
}

/// SIGKILL to this process after a while.
private func dieAfter(_ milliseconds: Int) {
    Task.detached {
        try? await Task.sleep(for: .milliseconds(milliseconds))
        kill(getpid(), SIGKILL)
    }
}
