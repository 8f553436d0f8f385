// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCTopology

@Suite struct DefinitionTests {
    private func message(_ topology: Topology) -> String {
        do {
            try topology.validate()
            return ""
        } catch {
            return error.message
        }
    }

    @Test func mistakesAreNamed() {
        var topology = Topology("t")
        #expect(message(topology).contains("no source"))
        topology.source("lines", topics: ["lines"])
        topology.sink("out", topic: "out", from: ["lines"])
        #expect(message(topology) == "")

        var twice = topology
        twice.sink("lines", topic: "x", from: ["out"])
        #expect(message(twice).contains("two stages are called 'lines'"))

        var unknown = topology
        unknown.processor("p", from: ["nowhere"]) { _, _ in }
        #expect(message(unknown).contains("'nowhere', which does not exist"))

        var behindSink = topology
        behindSink.processor("p", from: ["out"]) { _, _ in }
        #expect(message(behindSink).contains("reads from the sink 'out'"))

        var circle = topology
        circle.processor("a", from: ["b"]) { _, _ in }
        circle.processor("b", from: ["a", "lines"]) { _, _ in }
        #expect(message(circle).contains("in a circle"))

        var shuffled = topology
        shuffled.processor("s", from: ["lines"], options: .init(parallelism: 2, isStateful: true)) { _, _ in }
        #expect(message(shuffled).contains("keeps state and shuffles"))

        #expect(message(Topology("a b")).contains("the topology's name 'a b'"))
    }

    @Test func groupingsChooseTasks() {
        let keys = (0..<1_000).map { ByteBuffer(string: "key-\($0)") }
        let tasks = keys.map { Grouping.byKey.task(for: $0, turn: 0, of: 4) }
        #expect(tasks == keys.map { Grouping.byKey.task(for: $0, turn: 7, of: 4) })
        for task in 0..<4 { #expect(tasks.count { $0 == task } > 150) }
        // Keys of one partition of a source do not all meet in one task.
        let neighbours = keys.filter { key in
            key.withUnsafeReadableBytes { Murmur2.partition(of: $0, partitionCount: 4).rawValue == 0 }
        }
        #expect(Set(neighbours.map { Grouping.byKey.task(for: $0, turn: 0, of: 4) }) == [0, 1, 2, 3])
        #expect((0..<6).map { Grouping.shuffle.task(for: nil, turn: $0, of: 3) } == [0, 1, 2, 0, 1, 2])
        #expect((0..<6).allSatisfy { Grouping.global.task(for: keys[$0], turn: $0, of: 3) == 0 })
        #expect((0..<4).contains(Grouping.byKey.task(for: nil, turn: 0, of: 4)))
    }

    @Test func positionsAreReadBack() {
        let position = SourcePosition(partition: TopicPartition(topic: "a.b", partition: 3), offset: 42)
        #expect(position.description == "a.b:3:42")
        #expect(SourcePosition("a.b:3:42") == position)
        for text in ["", "a", "a:1", "a:b:1", "a:1:b", "a:-1:2", ":1:2", "a:1:2:3"] {
            #expect(SourcePosition(text) == nil)
        }
    }

    @Test func stateKeysAreReadBack() throws {
        for owner in [nil, ByteBuffer(), ByteBuffer(string: "k")] {
            for suffix in [ByteBuffer(), ByteBuffer(integer: Int64(5))] {
                let key = StateKey(owner: owner, suffix: suffix)
                let found = try #require(StateRecord.decode(StateRecord.encode(key, topic: "topic")))
                #expect(found.key == key)
                #expect(found.topic == "topic")
            }
        }
        #expect(StateRecord.decode(ByteBuffer(string: "x")) == nil)
        #expect(StateRecord.decode(ByteBuffer(bytes: [0, 1, 65, 0, 0, 0, 9, 1])) == nil)
    }
}

@Suite struct TumblingWindowsTests {
    private func put(_ windows: inout TumblingWindows, _ key: String, _ time: Int64) -> [String]? {
        if windows.isLate(Timestamp(time)) { return nil }
        let slot = TumblingWindows.Slot(start: windows.start(of: Timestamp(time)), key: ByteBuffer(string: key))
        let aggregate = Topology.count(windows.aggregate(slot), StreamRecord(value: nil, timestamp: 0))
        return windows.put(slot, aggregate, at: Timestamp(time)).map {
            "\($0.slot.start) \(String(buffer: $0.slot.key ?? ByteBuffer())) \(String(buffer: $0.aggregate))"
        }
    }

    @Test func windowsCloseBehindTheirGrace() {
        var windows = TumblingWindows(size: 10, grace: 5)
        #expect(put(&windows, "a", 1) == [])
        #expect(put(&windows, "b", 9) == [])
        #expect(put(&windows, "a", 12) == [])
        // Out of order, within the grace.
        #expect(put(&windows, "a", 3) == [])
        #expect(put(&windows, "a", 14) == [])
        #expect(put(&windows, "a", 15) == ["0 a 2", "0 b 1"])
        #expect(put(&windows, "a", 9) == nil)
        #expect(windows.count == 1)
        #expect(put(&windows, "c", 100) == ["10 a 3"])
        #expect(windows.watermark == 100)
    }

    @Test func timesBeforeTheEpochHaveWindowsToo() {
        let windows = TumblingWindows(size: 10, grace: 0)
        #expect(windows.start(of: -1) == -10)
        #expect(windows.start(of: -10) == -10)
        #expect(windows.start(of: -11) == -20)
        #expect(windows.start(of: 0) == 0)
    }

    /// What is kept and restored goes on as if nothing had been.
    @Test(arguments: 0..<10) func restoredWindowsGoOn(seed: Int) {
        var random = SeededRandom(seed: UInt64(seed))
        var whole = TumblingWindows(size: 10, grace: 7)
        var parts = whole
        var kept: [TumblingWindows.Slot: ByteBuffer] = [:]
        for step in 0..<400 {
            let time = Int64(step / 4) + Int64.random(in: -12...3, using: &random)
            let key = "k\(Int.random(in: 0..<3, using: &random))"
            let slot = TumblingWindows.Slot(start: parts.start(of: Timestamp(time)), key: ByteBuffer(string: key))
            let expected = put(&whole, key, time)
            let before = parts
            #expect(put(&parts, key, time) == expected)
            if expected != nil {
                kept[slot] = Topology.count(before.aggregate(slot), StreamRecord(value: nil, timestamp: 0))
                for gone in kept.keys where gone.start + 10 + 7 <= parts.watermark { kept[gone] = nil }
            }
            if step % 50 == 49 {
                var restored = TumblingWindows(size: 10, grace: 7)
                for (slot, aggregate) in kept { restored.restore(slot, aggregate) }
                restored.restore(watermark: parts.watermark)
                #expect(restored.count == parts.count)
                parts = restored
            }
        }
    }
}
