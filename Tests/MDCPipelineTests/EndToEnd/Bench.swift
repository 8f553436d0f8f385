// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix

@testable import MDCPipeline

/// A broker, a folder, and centres that are started and stopped over them.
struct Bench: Sendable {
    let bootstrap: String
    let folder: URL
    let group: MultiThreadedEventLoopGroup
    let logger: Logger

    /// Runs the body over the broker named by `MDC_TEST_KAFKA`, or over a fresh `mdc-broker` process.
    static func with(_ body: (Bench, BrokerProcess?) async throws -> Void) async throws {
        if let named = ProcessInfo.processInfo.environment["MDC_TEST_KAFKA"] {
            return try await with(bootstrap: named) { try await body($0, nil) }
        }
        let broker = try await BrokerProcess.started()
        do {
            try await with(bootstrap: broker.address) { try await body($0, broker) }
        } catch {
            broker.discard()
            throw error
        }
        broker.discard()
    }

    static func with(bootstrap: String, folder given: String? = nil, _ body: (Bench) async throws -> Void) async throws
    {
        let made = FileManager.default.temporaryDirectory.appendingPathComponent("mdc-e2e-\(UUID().uuidString)")
        let folder = given.map { URL(fileURLWithPath: $0) } ?? made
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
        var logger = Logger(label: "e2e") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel =
            ProcessInfo.processInfo.environment["MDC_TEST_LOG"].flatMap { Logger.Level(rawValue: $0) } ?? .error
        let bench = Bench(bootstrap: bootstrap, folder: folder, group: group, logger: logger)
        do {
            try await body(bench)
        } catch {
            try? await group.shutdownGracefully()
            throw error
        }
        try await group.shutdownGracefully()
        if given == nil { try FileManager.default.removeItem(at: folder) }
    }

    var client: ClientConfiguration { ClientConfiguration(bootstrapServers: [bootstrap], clientID: "e2e") }

    /// Runs a centre with simulated providers, gives it to the body, and stops it in good order.
    func running<Result: Sendable>(
        behavior: SimulatorBehavior = SimulatorBehavior(
            seed: 7,
            shares: .usual,
            delays: SimulatorDelays(lateReceipt: .milliseconds(800))
        ),
        policy: RetryPolicy = MessageCenterConfiguration.demoPolicy,
        _ body: @Sendable (MessageCenter, SimulatedProviders) async throws -> Result
    ) async throws -> Result {
        var settings = ProducerConfiguration(client: client)
        settings.linger = .zero
        let producer = try Producer(settings, eventLoopGroup: group, logger: logger)
        let simulated = try await SimulatedProviders(
            .init(behavior: behavior, requestTimeout: .seconds(3)),
            receipts: ProducerReceiptSink(producer: producer),
            group: group,
            logger: logger
        )
        let center = try MessageCenter(
            MessageCenterConfiguration(
                client: client,
                storePath: folder.appendingPathComponent("store.sqlite").path,
                policies: [.sms: policy, .email: policy, .push: policy]
            ),
            providers: simulated.providers,
            producer: producer,
            eventLoopGroup: group,
            logger: logger
        )
        let run = Task { try await center.run() }
        do {
            try await center.whenReady()
            let result = try await body(center, simulated)
            center.stop()
            try await run.value
            await simulated.shutdown()
            return result
        } catch {
            center.stop()
            _ = try? await run.value
            await simulated.shutdown()
            throw error
        }
    }

    /// All records of a topic, from its start to its present end.
    func readAll(_ topic: String) async throws -> [ConsumerRecord] {
        let admin = try Admin(client, eventLoopGroup: group, logger: logger)
        let partitions = try await admin.describeTopics([topic]).flatMap(\.partitions).map {
            TopicPartition(topic: topic, partition: $0.id)
        }
        await admin.close()
        let consumer = try Consumer(
            ConsumerConfiguration(client: client, groupID: nil),
            eventLoopGroup: group,
            logger: logger
        )
        let ends = try await consumer.endOffsets(partitions)
        try await consumer.assign(try await consumer.beginningOffsets(partitions))
        var records: [ConsumerRecord] = []
        while try ends.contains(where: { try consumer.position($0.key) ?? 0 < $0.value }) {
            records += try await consumer.poll(timeout: .milliseconds(100))
        }
        await consumer.close()
        return records
    }

    /// Messages of all channels and lanes, some of which ask their simulator for trouble, and four that are no messages.
    func file(rows: Int) throws -> String {
        let fates = [
            "busy", "off", "timeout", "duplicate-receipt", "early-receipt", "late-receipt", "bounce", "reject",
            "timeout-accepted",
        ]
        let lanes = ["critical", "high", "normal", "bulk"]
        let token = "dQw4w9WgXcQ:APA91b" + String(repeating: "x-Y_", count: 30)
        var lines = ["channel,lane,to,sender,subject,text"]
        for row in 0..<rows {
            let lane = lanes[row % 4]
            let fate = row % 11 == 0 ? fates[row / 11 % fates.count] : nil
            switch row % 3 {
            case 0:
                let number =
                    SimulatedFate(rawValue: fate ?? "")?.phoneCode.map { String(format: "99%02d", $0) }
                    ?? String(format: "%04d", row % 9_000)
                lines.append("sms,\(lane),+9198765\(String(format: "%01d", row % 10))\(number),MDC,,Ваш код \(row)")
            case 1:
                lines.append(
                    "email,\(lane),user\(row).\(fate.map { "sim-" + $0 } ?? "x")@example.com,,Hello \(row),Text of \(row)"
                )
            default:
                lines.append("push,\(lane),\(token)\(row)\(fate.map { "sim-" + $0 } ?? ""),,,Push \(row)")
            }
        }
        lines += [
            "sms,normal,12345,MDC,,no number", "email,normal,nobody,,s,t", "push,normal,short,,,t",
            "sms,fast,+919876543210,MDC,,no lane",
        ]
        let path = folder.appendingPathComponent("messages.csv")
        try (lines.joined(separator: "\n") + "\n").write(to: path, atomically: true, encoding: .utf8)
        return path.path
    }
}
