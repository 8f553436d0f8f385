// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import MDCPipeline
import NIOCore
import Synchronization

extension PipelineBench {
    /// Accepts everything at once and never reports.
    private final class NullProvider: Provider {
        let name = "null"
        let channel = Channel.sms
        let sendsReceipts = false
        let concurrency = 512
        func send(_ message: Message, attempt: Int) async -> SendOutcome { .accepted(providerMessageID: message.id) }
    }

    private func running(
        roles: Set<CenterRole>,
        providers: [any Provider],
        _ body: (MessageCenter) async throws -> Void
    ) async throws {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("mdc-bench-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let center = try MessageCenter(
            MessageCenterConfiguration(
                client: client,
                roles: roles,
                storePath: folder.appendingPathComponent("store.sqlite").path
            ),
            providers: providers,
            eventLoopGroup: group,
            logger: logger
        )
        let run = Task { try await center.run() }
        try await center.whenReady()
        try await body(center)
        center.stop()
        try await run.value
    }

    /// From submission to the final status in the store: all roles in this process.
    func centre() async throws {
        try await running(roles: Set(CenterRole.allCases), providers: [NullProvider()]) { center in
            guard let store = center.store else { return }
            var filter = MessageFilter()
            filter.statuses = [.sent]
            let ends = filter
            func ended() throws -> Int { try store.count(ends) }
            func submit(_ count: Int) async throws {
                // A few submitters, each with many messages at once, as an HTTP bulk submission has them.
                try await withThrowingTaskGroup(of: Void.self) { tasks in
                    for submitter in 0..<4 {
                        tasks.addTask {
                            for first in stride(from: submitter * 500, to: count, by: 2_000) {
                                let drafts = (first..<min(first + 500, count)).map {
                                    MessageDraft(
                                        channel: .sms,
                                        to: "+919876\(100_000 + $0 % 900_000)",
                                        content: MessageContent(text: "Your order \($0) is on its way.")
                                    )
                                }
                                for result in await center.messages.submit(drafts) { _ = try result.get() }
                            }
                        }
                    }
                    try await tasks.waitForAll()
                }
            }
            let warmUp = scaled(5_000)
            try await submit(warmUp)
            try await waitUntil("ends") { try ended() == warmUp }
            let (count, start) = (scaled(50_000), Moment(brokerPID))
            try await submit(count)
            let accepted = Moment(brokerPID)
            try await waitUntil("ends", seconds: 600) {
                // Counting reads the whole store: not often.
                try await Task.sleep(for: .milliseconds(250))
                return try ended() == warmUp + count
            }
            figure("centre_submit_rate", Double(count) / (accepted.clock - start.clock), "messages/s")
            rate("centre_submit_to_final", count, of: "messages", since: start)
            figure("centre_rss", Moment.memory, "MB")
        }
    }

    /// A million timers that wait, and some that fire: the time from when one is due until its record can be read.
    func timers() async throws {
        let (waiting, firing, topic) = (scaled(1_000_000), scaled(20_000), "bench.fired")
        let admin = try Admin(client, eventLoopGroup: group, logger: logger)
        _ = try? await admin.createTopics([NewTopic(topic, partitions: 1)])
        await admin.close()
        try await running(roles: [.timers], providers: []) { _ in
            var settings = ProducerConfiguration(client: client)
            settings.bufferMemory = 8 << 20
            let producer = try Producer(settings, eventLoopGroup: group, logger: logger)
            func set(_ id: String, due: Int64) async throws {
                try await producer.enqueue(
                    ProducerRecord(
                        topic: "mdc.timers",
                        key: ByteBuffer(string: id),
                        value: ByteBuffer(
                            string: "{\"id\":\"\(id)\",\"to\":\"+919876500000\",\"text\":\"Your order is on its way.\"}"
                        ),
                        headers: [
                            RecordHeader(key: "due", value: ByteBuffer(string: "\(due)")),
                            RecordHeader(key: "topic", value: ByteBuffer(string: topic)),
                            RecordHeader(key: "key", value: ByteBuffer(string: "\(due)")),
                        ]
                    )
                )
            }
            func now() -> Int64 { Int64(Date().timeIntervalSince1970 * 1_000) }
            let (before, start) = (Moment.memory, Moment(brokerPID))
            let later = now() + 3_600_000
            for index in 0..<waiting { try await set("wait-\(index)", due: later + Int64(index)) }
            try await producer.flush()
            // A probe behind them all: when it has fired, all are in memory.
            let consumer = try Consumer(
                ConsumerConfiguration(client: client, groupID: nil),
                eventLoopGroup: group,
                logger: logger
            )
            try await consumer.assign([TopicPartition(topic: topic, partition: 0): 0])
            for probe in 0..<64 { try await set("probe-\(probe)", due: now()) }
            try await producer.flush()
            var probes = 0
            while probes < 64 { probes += try await consumer.poll(timeout: .milliseconds(100)).count }
            rate("timers_set", waiting, of: "timers", since: start)
            figure("timers_memory", Moment.memory - before, "MB")
            let first = now() + 2_000
            // Twenty seconds' worth, at even distances.
            for index in 0..<firing {
                try await set("fire-\(index)", due: first + Int64(index) * 20_000 / Int64(firing))
            }
            try await producer.flush()
            var late: [Int64] = []
            while late.count < firing {
                let records = try await consumer.poll(timeout: .milliseconds(100))
                let time = now()
                for record in records {
                    if let key = record.key, let due = Int64(String(buffer: key)) { late.append(time - due) }
                }
            }
            late.sort()
            figure("timers_late_p50", Double(late.percentile(50)), "ms")
            figure("timers_late_p99", Double(late.percentile(99)), "ms")
            if late[0] < 0 { throw BenchError("a timer fired \(-late[0]) ms before its time") }
            await consumer.close()
            try await producer.close()
        }
    }
}
