// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import Synchronization
import Testing

@testable import MDCTopology

/// Topologies against a broker process.
@Suite(.serialized) struct TopologyRunTests {
    private struct Refusal: Error, CustomStringConvertible { let description: String }

    @Test(arguments: [Topology.Guarantee.atMostOnce, .atLeastOnce, .exactlyOnce])
    func orderOfAKeyIsKept(guarantee: Topology.Guarantee) async throws {
        let fixture = try await TopologyFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopics(["in", "out"])
        let records = (0..<600).map { (key: Optional("k\($0 % 7)"), value: "\($0)", time: Int64?.none) }
        try await fixture.produce("in", records)
        var topology = Topology("order", guarantee: guarantee)
        topology.source("in", topics: ["in"])
        topology.processor("first", from: ["in"], options: .init(grouping: .byKey, parallelism: 3)) { record, context in
            await Task.yield()
            context.emit(record)
        }
        topology.processor("second", from: ["first"], options: .init(grouping: .byKey, parallelism: 2)) {
            context_record,
            context in
            context.emit(context_record)
        }
        topology.sink("out", topic: "out", from: ["second"])
        let found = try await fixture.running(
            topology,
            {
                $0.queueCapacity = 4; $0.inFlightMax = 50
            }
        ) { runner in
            let found = try await fixture.read("out", 600)
            try await fixture.until("stages are counted") { runner.status.stages.allSatisfy { $0.emitted >= 600 } }
            #expect(
                runner.status.prometheus.contains(
                    "mdc_topology_stage_executed_total{topology=\"order\",stage=\"first\"} 600"
                )
            )
            return found
        }
        #expect(found.count == 600)
        for key in 0..<7 {
            let values = found.filter { $0.keyText == "k\(key)" }.map(\.text)
            #expect(values == (0..<600).filter { $0 % 7 == key }.map(String.init))
        }
        // What was committed is not read again.
        try await fixture.running(topology) { runner in
            try await fixture.produce("in", [("k0", "last", nil)])
            let all = try await fixture.read("out", 601)
            #expect(all.count == 601)
            #expect(runner.status.stages.first { $0.name == "first" }.map { $0.executed <= 1 } == true)
        }
    }

    @Test(arguments: [Topology.Guarantee.atLeastOnce, .exactlyOnce])
    func failuresAreRepeatedAndThenDeadLetters(guarantee: Topology.Guarantee) async throws {
        let fixture = try await TopologyFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopics(["in", "out"])
        try await fixture.produce("in", (0..<100).map { (key: "k\($0)", value: "\($0)", time: nil) })
        let attempts = Mutex<[String: Int]>([:])
        var topology = Topology("letters", guarantee: guarantee)
        topology.retries = 2
        topology.source("in", topics: ["in"])
        topology.processor("flaky", from: ["in"], options: .init(parallelism: 2)) { record, context in
            let attempt = attempts.withLock { attempts in
                attempts[record.text, default: 0] += 1
                return attempts[record.text] ?? 0
            }
            // Of a failed attempt nothing goes out.
            context.emit(record)
            if record.text == "50" { throw Refusal(description: "never") }
            if record.text == "20", attempt < 3 { throw Refusal(description: "not yet") }
        }
        topology.sink("out", topic: "out", from: ["flaky"])
        let letters = try await fixture.running(topology) { _ in
            try await fixture.read(TopologyNames.deadLetters(of: "letters"), 1, partitions: 1)
        }
        let found = try await fixture.read("out", 99)
        #expect(found.map(\.text).sorted() == (0..<100).filter { $0 != 50 }.map(String.init).sorted())
        let letter = try #require(letters.first)
        #expect(letters.count == 1)
        #expect(letter.text == "50")
        #expect(letter.keyText == "k50")
        #expect(letter.header("reason") == "never")
        #expect(letter.header("stage") == "flaky")
        let source = try #require(letter.header("source").flatMap { SourcePosition($0) })
        #expect(source.partition.topic == "in")
        #expect(attempts.withLock { $0["20"] } ?? 0 >= 3)
    }

    @Test(arguments: [Topology.Guarantee.atLeastOnce, .exactlyOnce])
    func windowsGoOnAfterARestart(guarantee: Topology.Guarantee) async throws {
        let fixture = try await TopologyFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopics(["in", "out"], partitions: 1)
        var topology = Topology("windows", guarantee: guarantee)
        topology.source("in", topics: ["in"])
        topology.window("count", from: ["in"], parallelism: 2, size: .seconds(10), reduce: Topology.count)
        topology.sink("out", topic: "out", from: ["count"])
        let admin = try Admin(fixture.settings.client, eventLoopGroup: fixture.group, logger: fixture.logger)
        func committed(_ offset: Int64) async throws {
            try await fixture.until("offset \(offset) is committed") {
                try await admin.groupOffsets(TopologyNames.group(of: "windows")).values.contains {
                    $0.offset.rawValue >= offset
                }
            }
        }
        let base: Int64 = 1_700_000_000_000
        for part in 0..<3 {
            // The third part closes the window of the first two.
            try await fixture.produce(
                "in",
                ["a", "b", "a"].map { (key: $0, value: "", time: base + Int64(part / 2 * 10_000)) }
            )
            try await fixture.running(topology) { _ in try await committed(Int64(3 * (part + 1))) }
        }
        let found = try await fixture.read("out", 2, partitions: 1)
        #expect(
            Set(found.map { "\($0.keyText) \($0.text) \($0.timestamp.rawValue - base)" }) == ["a 4 9999", "b 2 9999"]
        )
        #expect(found.count == 2)
        #expect(found.first?.header("window.start") == "\(base)")
        await admin.close()
    }

    @Test func partitionsMoveWithTheirState() async throws {
        let fixture = try await TopologyFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopics(["in", "out"], partitions: 4)
        var topology = Topology("moving", guarantee: .exactlyOnce)
        topology.source("in", topics: ["in"])
        topology.processor("sum", from: ["in"], options: .init(grouping: .byKey, parallelism: 2, isStateful: true)) {
            record,
            context in
            let sum = Topology.count(context.state, record)
            context.state = sum
            context.emit(StreamRecord(key: record.key, value: sum, timestamp: record.timestamp))
        }
        topology.sink("out", topic: "out", from: ["sum"])
        func part(_ count: Int) -> [(key: String?, value: String, time: Int64?)] {
            (0..<count).map { (key: "k\($0 % 20)", value: "", time: nil) }
        }
        try await fixture.produce("in", part(200))
        try await fixture.running(topology) { _ in
            _ = try await fixture.read("out", 200, partitions: 4)
            // A second worker takes half of the partitions; then the first is alone again.
            try await fixture.running(topology) { second in
                try await fixture.until("the second worker has partitions") { second.status.lag.count == 2 }
                try await fixture.produce("in", part(200))
                _ = try await fixture.read("out", 400, partitions: 4)
            }
            try await fixture.produce("in", part(200))
            _ = try await fixture.read("out", 600, partitions: 4)
        }
        let found = try await fixture.read("out", 600, partitions: 4)
        #expect(found.count == 600)
        for key in 0..<20 {
            #expect(found.filter { $0.keyText == "k\(key)" }.map(\.text) == (1...30).map(String.init))
        }
    }

    @Test func ticksAndStoresOfTheApplication() async throws {
        let fixture = try await TopologyFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopics(["in", "out"], partitions: 1)
        try await fixture.produce("in", (0..<10).map { (key: nil, value: "\($0)", time: nil) })
        // A store that has rows and offsets, as one database transaction writes them.
        let store = Mutex<(rows: [String], next: [TopicPartition: Offset])>(([], [:]))
        let first = TopicPartition(topic: "in", partition: 0)
        store.withLock { $0.next[first] = 4 }
        var topology = Topology("store")
        topology.startOffsets = { _ in store.withLock { $0.next } }
        topology.source("in", topics: ["in"])
        topology.processor(
            "store",
            from: ["in"],
            options: .init(grouping: .global, tickInterval: .milliseconds(50)),
            tick: { context in context.emit(key: nil, value: "tick") },
            process: { record, context in
                guard let source = context.source else { return }
                store.withLock { store in
                    store.rows.append(record.text)
                    store.next[source.partition] = source.offset + 1
                }
            }
        )
        topology.sink("out", topic: "out", from: ["store"])
        let ticks = try await fixture.running(topology) { _ in try await fixture.read("out", 3, partitions: 1) }
        #expect(ticks.count >= 3)
        #expect(ticks.allSatisfy { $0.text == "tick" && $0.timestamp.rawValue > 1_600_000_000_000 })
        #expect(store.withLock { $0.rows } == (4..<10).map(String.init))
    }

    @Test func missingTopicsAreNamed() async throws {
        let fixture = try await TopologyFixture()
        defer { fixture.broker.discard() }
        var topology = Topology("none")
        topology.source("in", topics: ["in"])
        topology.sink("out", topic: "out", from: ["in"])
        let runner = try TopologyRunner(
            topology,
            fixture.settings,
            eventLoopGroup: fixture.group,
            logger: fixture.logger
        )
        let error = await #expect(throws: TopologyError.self) { try await runner.run() }
        #expect(error?.message.contains("topic 'in' does not exist: create it with `mdc topic create in`") == true)
    }
}
