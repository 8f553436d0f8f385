// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import Testing

@testable import MDCPipeline

/// A key is remembered on the log: it outlives every process.
@Suite("idempotency over restarts", .serialized)
struct IdempotencyTests {
    private static func draft(_ number: Int, text: String = "Hello") -> MessageDraft {
        MessageDraft(
            channel: .sms,
            lane: "high",
            to: "+91987650000\(number % 10)",
            content: MessageContent(text: "\(text) \(number)"),
            idempotencyKey: "key-\(number)"
        )
    }

    /// A submitter as `mdc send` is one: it has no store.
    private static func submitting<Result>(
        _ bench: Bench,
        _ body: (MessageClient, Producer) async throws -> Result
    ) async throws -> Result {
        var settings = ProducerConfiguration(client: bench.client)
        settings.linger = .zero
        let producer = try Producer(settings, eventLoopGroup: bench.group, logger: bench.logger)
        let keys = IdempotencyKeys(client: bench.client, eventLoopGroup: bench.group, logger: bench.logger)
        do {
            let result = try await body(MessageClient(producer: producer, keys: keys, logger: bench.logger), producer)
            await keys.close()
            try await producer.close()
            return result
        } catch {
            await keys.close()
            try? await producer.close()
            throw error
        }
    }

    private static func untilFinal(_ center: MessageCenter, _ count: Int) async throws {
        let deadline = ContinuousClock.now + .seconds(90)
        var filter = MessageFilter(channel: .sms)
        filter.statuses = Set(MessageStatus.allCases.filter(\.isFinal))
        while try center.store?.count(filter) ?? 0 < count {
            try #require(ContinuousClock.now < deadline, "the messages do not come to their end")
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    private static func acceptances(_ bench: Bench) async throws -> [String: Int] {
        var sends: [String: Int] = [:]
        for record in try await bench.readAll(Topics.events) {
            let event = try TimelineEvent(json: try #require(record.value))
            if event.kind == .accepted { sends[event.messageID, default: 0] += 1 }
        }
        return sends
    }

    @Test(
        "submitted, killed (SIGKILL), submitted again: one send, the same answer; other words are refused",
        .timeLimit(.minutes(4))
    )
    func killed() async throws {
        try await Bench.with { bench, _ in
            let (bootstrap, folder) = (bench.bootstrap, bench.folder.path)
            await #expect(processExitsWith: .signal(SIGKILL)) {
                [bootstrap = bootstrap as String, folder = folder as String] in
                try await Bench.with(bootstrap: bootstrap, folder: folder) { bench in
                    try await bench.running(behavior: SimulatorBehavior(shares: .none)) { center, _ in
                        try await Self.submitting(bench) { client, _ in
                            for number in 0..<20 { try await client.submit(Self.draft(number)) }
                        }
                        try await Self.untilFinal(center, 20)
                        kill(getpid(), SIGKILL)
                    }
                }
            }
            // Without the store, so that the log alone remembers.
            for name in try FileManager.default.contentsOfDirectory(atPath: folder) {
                try FileManager.default.removeItem(at: bench.folder.appendingPathComponent(name))
            }
            try await bench.running(behavior: SimulatorBehavior(shares: .none)) { center, _ in
                try await Self.submitting(bench) { client, _ in
                    for number in 0..<20 {
                        let receipt = try await client.submit(Self.draft(number))
                        #expect(receipt.isDuplicate && receipt.lane == "high")
                        #expect(receipt.messageID == MessageID.derived(tenant: "default", key: "key-\(number)"))
                    }
                    let mixed = await client.submit([Self.draft(3, text: "Other"), Self.draft(20), Self.draft(4)])
                    #expect(throws: PipelineError.self) { try mixed[0].get() }
                    if case .failure(let error) = mixed[0] {
                        #expect(error.code == .conflict && error.message.contains("take a new key"))
                    }
                    #expect(try mixed[1].get().isDuplicate == false && mixed[2].get().isDuplicate)
                }
                try await Self.untilFinal(center, 21)
            }
            let sends = try await Self.acceptances(bench)
            #expect(sends.count == 21 && sends.values.allSatisfy { $0 == 1 }, "\(sends)")
        }
    }

    @Test("a submission that was cut off before it was marked is looked up, not sent twice", .timeLimit(.minutes(4)))
    func cutOff() async throws {
        try await Bench.with { bench, _ in
            try await bench.running(behavior: SimulatorBehavior(shares: .none)) { center, _ in
                // What a submitter leaves that dies after the lane record, and one that dies before it.
                try await Self.submitting(bench) { client, producer in
                    let start = SystemTime.now()
                    for number in 0..<2 {
                        let checked = MessageValidator().validate(Self.draft(number), now: start).draft
                        let claim = KeyRecord.claim(digest: checked.contentDigest, at: start, by: 1)
                        _ = try await producer.send(
                            ProducerRecord(
                                topic: Topics.keys,
                                key: ByteBuffer(string: MessageID.derived(tenant: "default", key: "key-\(number)")),
                                value: ByteBuffer(string: claim.text)
                            )
                        )
                    }
                    try await MessageClient(producer: producer, logger: bench.logger).submit(Self.draft(0))
                }
                try await Self.untilFinal(center, 1)
            }
            try await bench.running(behavior: SimulatorBehavior(shares: .none)) { center, _ in
                try await Self.submitting(bench) { client, _ in
                    for number in 0..<2 { try await client.submit(Self.draft(number)) }
                    // A message after them in the same lanes, so that all before it is worked off.
                    for number in 100..<140 { try await client.submit(Self.draft(number)) }
                }
                try await Self.untilFinal(center, 42)
            }
            let sends = try await Self.acceptances(bench)
            #expect(sends.count == 42 && sends.values.allSatisfy { $0 == 1 }, "\(sends)")
        }
    }
}
