// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import Synchronization
import Testing

/// A Python with confluent-kafka (`MDC_PYTHON`, or `python3`); nil where there is none.
private let python: String? = {
    let name = ProcessInfo.processInfo.environment["MDC_PYTHON"] ?? "python3"
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [name, "-c", "import confluent_kafka"]
    process.standardError = FileHandle.nullDevice
    guard (try? process.run()) != nil else { return nil }
    process.waitUntilExit()
    return process.terminationStatus == 0 ? name : nil
}()

@Suite(
    "The client beside librdkafka",
    .serialized,
    .enabled(if: python != nil, "needs Python with confluent-kafka (pip install confluent-kafka, or MDC_PYTHON)")
)
struct ClientInteropTests {
    /// A member of a group in a process of its own; it writes how many partitions it has to a file.
    final class ForeignMember: Sendable {
        private static let script = """
            import sys
            from confluent_kafka import Consumer
            consumer = Consumer({'bootstrap.servers': sys.argv[1], 'group.id': sys.argv[2],
                'partition.assignment.strategy': sys.argv[3], 'auto.offset.reset': 'earliest',
                'heartbeat.interval.ms': 200, 'session.timeout.ms': 10000})
            consumer.subscribe([sys.argv[4]])
            count = -1
            while True:
                consumer.poll(0.05)
                now = len(consumer.assignment())
                if now != count:
                    count = now
                    open(sys.argv[5], 'w').write(str(count))
            """
        private let process = Mutex(Process())
        private let file = FileManager.default.temporaryDirectory.appendingPathComponent(
            "mdc-member-\(UUID().uuidString)"
        ).path

        init(_ broker: String, group: String, assignor: String, topic: String) throws {
            try process.withLock { process in
                process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
                process.arguments = [python ?? "python3", "-c", Self.script, broker, group, assignor, topic, file]
                try process.run()
            }
        }

        /// Partitions that it has.
        var count: Int {
            FileManager.default.contents(atPath: file).flatMap { Int(String(decoding: $0, as: UTF8.self)) } ?? 0
        }

        /// Ends it without goodbye; the group notices by its session timeout.
        func stop() {
            process.withLock {
                // The child inherits a signal mask that blocks SIGTERM.
                kill($0.processIdentifier, SIGKILL)
                $0.waitUntilExit()
            }
        }
    }

    @Test(
        "a group of both shares out its partitions, whoever leads",
        arguments: [
            ConsumerConfiguration.Assignor.cooperativeSticky, .range, .roundRobin,
        ],
        [true, false]
    )
    func mixedGroup(assignor: ConsumerConfiguration.Assignor, foreignFirst: Bool) async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("mixed", partitions: 6)
        func foreign() throws -> ForeignMember {
            try ForeignMember(fixture.broker.address, group: "both", assignor: assignor.rawValue, topic: "mixed")
        }
        func eventually(_ condition: () -> Bool) async throws -> Bool {
            let deadline = ContinuousClock.now + .seconds(30)
            while !condition() {
                guard ContinuousClock.now < deadline else { return false }
                try await Task.sleep(for: .milliseconds(50))
            }
            return true
        }
        let consumer = try fixture.consumer("both") { $0.assignors = [assignor] }
        let member: ForeignMember
        if foreignFirst {
            member = try foreign()
            #expect(try await eventually { member.count == 6 })
            try await consumer.subscribe(["mixed"])
        } else {
            try await consumer.subscribe(["mixed"])
            #expect(try await eventually { consumer.assignment.count == 6 })
            member = try foreign()
        }
        #expect(try await eventually { member.count == 3 && consumer.assignment.count == 3 })
        if foreignFirst {
            member.stop()
            #expect(try await eventually { consumer.assignment.count == 6 })
            await consumer.close()
        } else {
            await consumer.close()
            #expect(try await eventually { member.count == 6 })
            member.stop()
        }
    }
}
