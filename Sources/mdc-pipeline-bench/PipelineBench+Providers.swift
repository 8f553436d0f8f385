// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import MDCPipeline
import Synchronization

/// Providers, each alone.
extension PipelineBench {
    private static func message(_ channel: Channel, to: String, _ index: Int) -> Message {
        Message(
            id: "01934f5e-0000-7000-8000-" + String(format: "%012x", index),
            channel: channel,
            to: to,
            sender: channel == .email ? "news@example.org" : "MDC",
            content: MessageContent(subject: "Your order", text: "Your order \(index) is on its way.", title: "Order"),
            createdAt: Timestamp(Int64(Date().timeIntervalSince1970 * 1_000))
        )
    }

    func smtp() async throws {
        try await withSink("smtp") { port in
            let provider = SMTPProvider(.init(host: "127.0.0.1", port: port, sendsReceipts: false), group: group)
            try await sendAll(provider, scaled(2_000)) { Self.message(.email, to: "user\($0)@example.com", $0) }
            let (count, start) = (scaled(20_000), Moment(brokerPID))
            try await sendAll(provider, count) { Self.message(.email, to: "user\($0)@example.com", $0) }
            rate("smtp", count, of: "mails", since: start)
            await provider.shutdown()
        }
    }

    func push() async throws {
        try await withSink("http") { port in
            let provider = FCMProvider(
                .init(baseURL: "http://127.0.0.1:\(port)", project: "sim", appsReport: false),
                tokens: StaticAccessToken("simulator"),
                group: group
            )
            try await sendAll(provider, scaled(2_000)) { Self.message(.push, to: "token-\($0)-0123456789", $0) }
            let (count, start) = (scaled(20_000), Moment(brokerPID))
            try await sendAll(provider, count) { Self.message(.push, to: "token-\($0)-0123456789", $0) }
            rate("push", count, of: "requests", since: start)
            await provider.shutdown()
        }
    }

    /// Until the receipt of each message is durable on the log under the message's reference.
    func smpp() async throws {
        try await withSink("smpp") { port in
            let producer = try producer()
            let joined = JoinedReceipts(ProducerReceiptSink(producer: producer))
            let provider = try SMPPProvider(
                .init(host: "127.0.0.1", port: port, systemID: "bench", password: "bench", binds: 2, window: 200),
                receipts: joined,
                group: group,
                logger: logger
            )
            try await sendAll(provider, scaled(2_000)) { Self.message(.sms, to: "+919876\(100_000 + $0)", $0) }
            try await waitUntil("receipts: \(joined.description)") { joined.count == scaled(2_000) }
            let (count, start) = (scaled(50_000), Moment(brokerPID))
            try await sendAll(provider, count) { Self.message(.sms, to: "+919876\(100_000 + $0)", $0) }
            try await waitUntil("receipts: \(joined.description)") { joined.count == scaled(2_000) + count }
            rate("smpp_with_receipts", count, of: "messages", since: start)
            await provider.shutdown()
            try await producer.close()
        }
    }

    /// `wrk` posts to the listener; each answer means a durable record.
    func callbacks() async throws {
        let producer = try producer()
        let listener = CallbackListener(
            .init(routes: [.init(provider: "mail", secret: "secret", format: .email)]),
            sink: ProducerReceiptSink(producer: producer),
            group: group,
            logger: logger
        )
        let running = Task { try await listener.run() }
        let port = try await listener.boundPort()
        let script = FileManager.default.temporaryDirectory.appendingPathComponent("mdc-bench-\(UUID().uuidString).lua")
        defer { try? FileManager.default.removeItem(at: script) }
        try Data(
            """
            wrk.method = "POST"
            wrk.headers["content-type"] = "application/json"
            wrk.body = '{"event":"delivered","reference":"01934f5e-0000-7000-8000-000000000001.1","message_id":"1"}'
            """.utf8
        ).write(to: script)
        func post(seconds: Int) throws -> String {
            let process = Process()
            process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
            process.arguments = [
                "wrk", "-t1", "-c256", "-d\(seconds)s", "--latency", "-s", script.path,
                "http://127.0.0.1:\(port)/callbacks/mail/secret",
            ]
            let output = Pipe()
            process.standardOutput = output
            try process.run()
            let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            process.waitUntilExit()
            return text
        }
        _ = try post(seconds: 3)
        let (before, start) = (listener.statistics, Moment(brokerPID))
        let said = try post(seconds: max(2, Int(10 * scale)))
        let after = listener.statistics
        let durable = after.receipts - before.receipts
        let others = after.byStatus.filter { !(200..<300).contains($0.key) }
        guard durable > 0, others.isEmpty else {
            throw BenchError("answers of the listener: \(after.byStatus)\n\(said)")
        }
        rate("callbacks", durable, of: "posts", since: start)
        if let line = said.split(separator: "\n").first(where: { $0.contains("99%") }) {
            writeError("callbacks:\(line)")
        }
        running.cancel()
        _ = try? await running.value
        try await producer.close()
    }
}

/// Counts the receipts that name their message.
private final class JoinedReceipts: ReceiptSink {
    private let sink: ProducerReceiptSink
    private let joined = Mutex((named: 0, all: 0))
    init(_ sink: ProducerReceiptSink) { self.sink = sink }

    var count: Int { joined.withLock { $0.named } }
    var description: String { joined.withLock { "\($0.all) receipts, \($0.named) of them name their message" } }

    func append(_ receipts: [ProviderReceipt]) async throws {
        try await sink.append(receipts)
        joined.withLock { counts in
            counts.named += receipts.count { $0.reference != nil }
            counts.all += receipts.count
        }
    }
}
