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

        func living(_ milliseconds: Int) -> World {
            var world = self
            world.lifeMilliseconds = milliseconds
            return world
        }
    }

    private static let secret = "simulator-of-the-test"

    private static func number(_ name: String, _ preset: Int) -> Int {
        ProcessInfo.processInfo.environment[name].flatMap { Int($0) } ?? preset
    }

    @Test(
        "workers, store, listener and broker are killed at random: one end for each message, the sums agree",
        .timeLimit(.minutes(60))
    )
    func everythingDies() async throws {
        guard ProcessInfo.processInfo.environment["MDC_TEST_KAFKA"] == nil else {
            print("skipped: MDC_TEST_KAFKA names a broker that this test must not kill")
            return
        }
        guard let count = ProcessInfo.processInfo.environment["MDC_CRASH_MESSAGES"].flatMap({ Int($0) }) else {
            print("skipped: takes minutes; `make crash-proof` runs it")
            return
        }
        let seed = UInt64(Self.number("MDC_CRASH_SEED", 1))
        let started = ContinuousClock.now
        try await Bench.with { bench, broker in
            let broker = try #require(broker)
            let port = try LoopbackPort.free()
            let suite = try await Self.suite(bench, port: port, seed: seed)
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
            let kills = try await Self.flow(bench, world, broker, count: count, seed: seed)
            let settling = ContinuousClock.now
            try await Self.settle(bench, world, count, suite)
            await suite.shutdown()
            let seconds = (settling - started, ContinuousClock.now - settling)
            print("crash proof: killed \(kills); under fire \(seconds.0), then \(seconds.1)")
        }
    }

    /// Submits, and kills until most messages are at their end, or for a time that grows with their number. Says who died
    /// how often.
    private static func flow(_ bench: Bench, _ world: World, _ broker: BrokerProcess, count: Int, seed: UInt64)
        async throws -> String
    {
        let isCalm = StopFlag()
        /// Lives of one kind of process, at least two, until calm.
        @Sendable func lives(_ kind: UInt64, _ range: ClosedRange<Int>, _ live: (Int) async throws -> Void) async throws
            -> Int
        {
            var random = SeededGenerator(seed: seed &* 31 &+ kind)
            var dead = 0
            while dead < 2 || !isCalm.isSet {
                try await live(Int.random(in: range, using: &random))
                dead += 1
            }
            return dead
        }
        return try await withThrowingTaskGroup(of: (String, Int)?.self) { tasks in
            // A worker's first six seconds go by until its predecessor's session has ended.
            tasks.addTask { ("workers", try await lives(1, 3_000...14_000) { await killedWorker(world.living($0)) }) }
            tasks.addTask { ("stores", try await lives(2, 1_000...8_000) { await killedStore(world.living($0)) }) }
            tasks.addTask {
                ("listeners", try await lives(3, 1_000...6_000) { await killedListener(world.living($0)) })
            }
            tasks.addTask {
                let dead = try await lives(4, 6_000...15_000) { life in
                    try await Task.sleep(for: .milliseconds(life))
                    broker.kill()
                    try await broker.start()
                }
                return ("brokers", dead)
            }
            tasks.addTask {
                // By then at the latest, what is left is left to those that live.
                let deadline = ContinuousClock.now + .seconds(10 + count / 60)
                while ContinuousClock.now < deadline, ended(world) < count * 9 / 10 {
                    try await Task.sleep(for: .milliseconds(500))
                }
                isCalm.set()
                return nil
            }
            tasks.addTask {
                let start = ContinuousClock.now
                try await submit(bench, count)
                print("crash proof: all submitted after \(ContinuousClock.now - start)")
                return nil
            }
            var kills: [String] = []
            while let result = try await tasks.next() {
                if let (name, dead) = result { kills.append("\(dead) \(name)") }
            }
            return kills.sorted().joined(separator: ", ")
        }
    }

    private static var ends: MessageFilter {
        var ended = MessageFilter()
        ended.statuses = Set(MessageStatus.allCases.filter(\.isFinal))
        return ended
    }

    private static func storePath(_ world: World) -> String { world.folder + "/store.sqlite" }

    /// Messages at their end, as the store of another process knows them; 0 if it cannot be asked now.
    private static func ended(_ world: World) -> Int {
        guard let store = try? MessageStore(readingFrom: storePath(world)) else { return 0 }
        defer { store.close() }
        return (try? store.count(ends)) ?? 0
    }

    /// The last workers live: every message comes to its end, and the sums are checked.
    private static func settle(_ bench: Bench, _ world: World, _ count: Int, _ suite: SimulatorSuite) async throws {
        let listener = try await Listening(world, bench)
        let center = try center(world, bench, roles: Set(CenterRole.allCases))
        let run = Task { try await center.run() }
        do {
            try await center.whenReady()
            let store = try #require(center.store)
            let deadline = ContinuousClock.now + .seconds(120 + count / 20)
            while try store.count(ends) < count {
                let open = count - (try store.count(ends))
                try #require(ContinuousClock.now < deadline, "open: \(open) of \(count)")
                try await Task.sleep(for: .milliseconds(100))
            }
            // Late reports are still on their way; what is answered 200 must be in the log.
            while suite.sender.statistics.pending > 0, ContinuousClock.now < deadline {
                try await Task.sleep(for: .milliseconds(100))
            }
        } catch {
            center.stop()
            _ = try? await run.value
            await listener.close()
            throw error
        }
        // What is read from here on stands still.
        await listener.close()
        center.stop()
        try await run.value
        try await check(bench, world, count, suite)
    }

    private static func check(_ bench: Bench, _ world: World, _ count: Int, _ suite: SimulatorSuite) async throws {
        let records = try await bench.readAll(Topics.events)
        let (again, repeated) = try checkEnds(records, count)
        try await checkStore(bench, world, records, count)
        try await checkPublished(bench, records)
        // A provider took an attempt twice only where the timeline says that it was sent again.
        var doubled = 0
        for ledger in [suite.kaleyra.ledger, suite.smtp.ledger, suite.fcm.ledger] {
            for reference in ledger.doubledReferences {
                doubled += 1
                let known = try #require(MessageReference(reference))
                #expect(again.contains(known), "\(reference) was taken twice, and its timeline does not say so")
            }
        }
        let answered = try await checkCallbacks(bench, suite)
        print(
            "crash proof: \(count) messages, \(again.count) attempts marked as sent again, \(doubled) taken twice, "
                + "\(answered) callbacks answered 200 and in the log, \(repeated) final entries repeated"
        )
    }

    /// One final status for each message. Returns what was marked as sent again, and how many final entries are there twice.
    private static func checkEnds(_ records: [ConsumerRecord], _ count: Int) throws -> (Set<MessageReference>, Int) {
        var states: [String: MessageState] = [:]
        var ends: [String: [TimelineEvent]] = [:]
        var timelines: [String: [String]] = [:]
        var again: Set<MessageReference> = []
        for record in records {
            let event = try TimelineEvent(json: try #require(record.value))
            states[event.messageID, default: MessageState()].apply(event)
            timelines[event.messageID, default: []].append(
                "\(event.at) \(event.component) \(event.kind.rawValue) \(event.attempt) "
                    + "\(event.status?.rawValue ?? "-") \(event.detail ?? "")"
            )
            if event.status?.isFinal == true { ends[event.messageID, default: []].append(event) }
            if event.kind == .redelivered {
                again.insert(MessageReference(messageID: event.messageID, attempt: event.attempt))
            }
        }
        #expect(states.count == count, "messages that the log knows")
        #expect(states.values.allSatisfy { $0.status.isFinal && $0.message != nil })
        for (id, entries) in ends where Set(entries.map(\.status)).count > 1 {
            Issue.record("\(id) has several ends:\n\(timelines[id, default: []].joined(separator: "\n"))")
        }
        return (again, ends.values.reduce(0) { $0 + $1.count - 1 })
    }

    /// The store is the projection of the log, built anew from its first record.
    private static func checkStore(_ bench: Bench, _ world: World, _ records: [ConsumerRecord], _ count: Int)
        async throws
    {
        let rebuilt = try MessageStore(path: world.folder + "/rebuilt.sqlite")
        defer { rebuilt.close() }
        for start in stride(from: 0, to: records.count, by: 5_000) {
            let batch = try records[start..<min(records.count, start + 5_000)].map { record in
                let json = try #require(record.value)
                return MessageStore.ProjectedEvent(
                    position: EventPosition(
                        partition: record.topicPartition.partition.rawValue,
                        offset: record.offset.rawValue
                    ),
                    event: try TimelineEvent(json: json),
                    json: json
                )
            }
            try await rebuilt.apply(batch, next: [:])
        }
        let store = try MessageStore(path: storePath(world))
        defer { store.close() }
        #expect(try store.count() == count && rebuilt.count() == count)
        var differences = 0
        for page in 1...(count / 1_000 + 1) {
            for row in try rebuilt.list(page: page, pageSize: 1_000) {
                guard try store.get(row.id) != rebuilt.get(row.id) else { continue }
                differences += 1
                if differences < 5 {
                    Issue.record("in the store: \(try store.get(row.id) as Any)\nby the log: \(row)")
                }
            }
        }
        #expect(differences == 0, "rows that are not what the log says")
    }

    /// The last state on `mdc.messages` is the end that the timeline has.
    private static func checkPublished(_ bench: Bench, _ records: [ConsumerRecord]) async throws {
        var published: [String: String] = [:]
        for record in try await bench.readAll(Topics.messages) {
            guard let key = record.key.map({ String(buffer: $0) }), let value = record.value else { continue }
            let text = String(buffer: value)
            published[key] = MessageStatus.allCases.map(\.rawValue).first { text.hasPrefix("{\"status\":\"\($0)\"") }
        }
        var wrong = 0
        for record in records {
            let event = try TimelineEvent(json: try #require(record.value))
            guard let status = event.status, status.isFinal, published[event.messageID] != status.rawValue else {
                continue
            }
            wrong += 1
        }
        #expect(wrong == 0, "messages whose published state is missing or not their end")
    }

    /// Each callback that was answered 200 is in the log, as often as it was answered. Returns how many there were.
    private static func checkCallbacks(_ bench: Bench, _ suite: SimulatorSuite) async throws -> Int {
        struct Report: Hashable {
            var provider: String
            var id: String
            var reference: String?
            var status: ProviderReceipt.Status
            init(_ receipt: ProviderReceipt) {
                (provider, id) = (receipt.provider, receipt.providerMessageID)
                (reference, status) = (receipt.reference, receipt.status)
            }
        }
        var logged: [Report: Int] = [:]
        for channel in MDCPipeline.Channel.allCases {
            for record in try await bench.readAll(Topics.responses(channel)) {
                logged[Report(try ProviderReceipt(json: try #require(record.value))), default: 0] += 1
            }
        }
        let formats: [String: CallbackFormat] = ["kaleyra": .kaleyra, "smtp": .email, "fcm": .fcm]
        let answered = suite.sender.delivered
        var missing = 0
        for callback in answered {
            let parts = callback.url.split(separator: "?", maxSplits: 1)
            let provider = String(try #require(parts[0].split(separator: "/").dropLast().last))
            let receipts = try CallbackParser(format: try #require(formats[provider]), provider: provider).receipts(
                query: parts.count > 1 ? String(parts[1]) : nil,
                contentType: callback.contentType,
                body: ByteBuffer(string: callback.body),
                now: 0
            )
            for receipt in receipts {
                logged[Report(receipt), default: 0] -= 1
                if logged[Report(receipt), default: 0] < 0 { missing += 1 }
            }
        }
        #expect(answered.count == suite.sender.statistics.delivered)
        #expect(missing == 0, "callbacks that were answered 200 and are not in the log")
        return answered.count
    }

    // MARK: - What dies

    private static func killedWorker(_ world: World) async {
        await #expect(processExitsWith: .signal(SIGKILL)) { [world = world as World] in
            dieAfter(world.lifeMilliseconds + 15_000)
            // What ends by an error meanwhile (the broker is dead, too) is started again, as a supervisor does.
            while true {
                try? await Bench.with(bootstrap: world.bootstrap, folder: world.folder) { bench in
                    let center = try Self.center(world, bench, roles: [.dispatcher, .responses, .timers, .ingest])
                    Task {
                        try await center.whenReady()
                        dieAfter(world.lifeMilliseconds)
                    }
                    try await center.run()
                }
                try? await Task.sleep(for: .milliseconds(200))
            }
        }
    }

    private static func killedStore(_ world: World) async {
        await #expect(processExitsWith: .signal(SIGKILL)) { [world = world as World] in
            dieAfter(world.lifeMilliseconds + 15_000)
            while true {
                try? await Bench.with(bootstrap: world.bootstrap, folder: world.folder) { bench in
                    let center = try Self.center(world, bench, roles: [.store])
                    Task {
                        try await center.whenReady()
                        dieAfter(world.lifeMilliseconds)
                    }
                    try await center.run()
                }
                try? await Task.sleep(for: .milliseconds(200))
            }
        }
    }

    private static func killedListener(_ world: World) async {
        await #expect(processExitsWith: .signal(SIGKILL)) { [world = world as World] in
            dieAfter(world.lifeMilliseconds + 15_000)
            while true {
                try? await Bench.with(bootstrap: world.bootstrap, folder: world.folder) { bench in
                    let listener = try await Listening(world, bench)
                    dieAfter(world.lifeMilliseconds)
                    try await Task.sleep(for: .seconds(3_600))
                    await listener.close()
                }
                try? await Task.sleep(for: .milliseconds(200))
            }
        }
    }

    private static func center(_ world: World, _ bench: Bench, roles: Set<CenterRole>) throws -> MessageCenter {
        let policy = MessageCenterConfiguration.demoPolicy
        func callback(_ provider: String) -> String {
            "http://127.0.0.1:\(world.callbackPort)/callbacks/\(provider)/\(secret)"
        }
        return try MessageCenter(
            MessageCenterConfiguration(
                client: bench.client,
                roles: roles,
                storePath: storePath(world),
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
                callbacks: CallbackSender.Configuration(
                    attemptsMax: 1_000,
                    backoffMax: .milliseconds(500),
                    keepsDelivered: true
                )
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

/// SIGKILL to this process after a while: counted from when it is at work, but for one that never is.
private func dieAfter(_ milliseconds: Int) {
    Task.detached {
        try? await Task.sleep(for: .milliseconds(milliseconds))
        kill(getpid(), SIGKILL)
    }
}
