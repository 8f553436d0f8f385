// SPDX-License-Identifier: Apache-2.0

import MDCJSON
import MDCModel
import NIOCore
import Testing

@testable import MDCTopology

@Suite struct MultilangTests {
    @Test(arguments: [1, 2, 3, 7, 1_000])
    func messagesAreCutWhateverThePieces(size: Int) throws {
        let messages = ["{\"a\": 1}", "{\n \"end\": \"end\"\n}", "[1, 2]", "\"frontend\""]
        let bytes = Array(messages.map { $0 + "\nend\n" }.joined().utf8)
        var framing = MultilangFraming(maxBytes: 100)
        var found: [JSONValue] = []
        for start in stride(from: 0, to: bytes.count, by: size) {
            framing.append(ByteBuffer(bytes: bytes[start..<min(start + size, bytes.count)]))
            while let message = try framing.next() { found.append(try JSONValue(parsing: message.readableBytesView)) }
        }
        #expect(found == (try messages.map { try JSONValue(parsing: $0.utf8) }))
    }

    @Test func manyMessagesPassThroughTheSameMemory() throws {
        var framing = MultilangFraming(maxBytes: 1_000)
        let text = String(repeating: "x", count: 900)
        for number in 0..<500 {
            // Always with the beginning of the next behind it.
            framing.append(ByteBuffer(string: number == 0 ? "\"\(text)\"\nend\n\"" : "\(text)\"\nend\n\""))
            let message = try framing.next()
            #expect(message?.readableBytes == 903)
            #expect(try framing.next() == nil)
        }
    }

    @Test func messagesWithoutAnEndAreRefused() {
        var framing = MultilangFraming(maxBytes: 10)
        framing.append(ByteBuffer(string: "0123456789\n"))
        #expect(throws: TopologyError.self) { try framing.next() }
    }

    private func command(_ text: String) throws -> MultilangCommand {
        try MultilangCommand(try JSONValue(parsing: text.utf8))
    }

    @Test func commandsAreRead() throws {
        #expect(try command("{\"pid\": 12}") == .pid(12))
        #expect(try command("{\"command\": \"ack\", \"id\": \"5\"}") == .ack("5"))
        #expect(try command("{\"command\": \"fail\", \"id\": 5}") == .fail("5"))
        #expect(try command("{\"command\": \"log\", \"msg\": \"m\", \"level\": 3}") == .log("m", level: 3))
        #expect(try command("{\"command\": \"sync\"}") == .sync)
        #expect(
            try command("{\"command\": \"emit\", \"tuple\": [\"a\", 1], \"anchors\": [\"1\", 2]}")
                == .emit(
                    .init(
                        values: [.text("a"), .integer(1)],
                        stream: "default",
                        anchors: ["1", "2"],
                        task: nil,
                        needsTaskIDs: true
                    )
                )
        )
        #expect(
            try command(
                "{\"command\": \"emit\", \"tuple\": [], \"stream\": \"s\", \"task\": 3, \"need_task_ids\": false}"
            )
                == .emit(.init(values: [], stream: "s", anchors: [], task: 3, needsTaskIDs: false))
        )
        for text in ["{}", "[]", "{\"command\": \"dance\"}", "{\"command\": \"emit\"}", "{\"command\": \"ack\"}", "7"] {
            #expect(throws: TopologyError.self) { try command(text) }
        }
    }

    @Test func tuplesAndRecordsBecomeEachOther() throws {
        let record = StreamRecord(key: ByteBuffer(string: "k"), value: ByteBuffer(string: "{\"n\": 1}"), timestamp: 0)
        #expect(try MultilangTuple.values(record, .text) == .array([.text("k"), .text("{\"n\": 1}")]))
        #expect(try MultilangTuple.values(record, .json) == .array([.text("k"), .object(["n": .integer(1)])]))
        let bytes = StreamRecord(value: ByteBuffer(bytes: [0xFF, 0xFE]), timestamp: 0)
        #expect(throws: TopologyError.self) { try MultilangTuple.values(bytes, .text) }
        #expect(throws: TopologyError.self) { try MultilangTuple.values(bytes, .json) }

        func text(_ values: [JSONValue]) throws -> [String?] {
            let (key, value) = try MultilangTuple.keyAndValue(values)
            return [key.map { String(buffer: $0) }, value.map { String(buffer: $0) }]
        }
        #expect(try text([]) == [nil, nil])
        #expect(try text([.text("v")]) == [nil, "v"])
        #expect(try text([.text("k"), .integer(3)]) == ["k", "3"])
        #expect(try text([.null, .null]) == [nil, nil])
        #expect(try text([.text("k"), .bool(true), .array([.number(0.5)])]) == ["k", "[true,[0.5]]"])
    }

    @Test func silenceIsNoticed() {
        func at(_ milliseconds: Int64) -> NIODeadline { .uptimeNanoseconds(0) + .milliseconds(milliseconds) }
        var watch = MultilangWatch(
            interval: .milliseconds(100),
            timeout: .milliseconds(500),
            tupleTimeout: .milliseconds(2_000),
            now: at(0)
        )
        #expect(watch.check(now: at(50), oldest: nil) == .fine)
        #expect(watch.check(now: at(100), oldest: nil) == .sendHeartbeat)
        // One at a time.
        #expect(watch.check(now: at(300), oldest: nil) == .fine)
        watch.heard()
        #expect(watch.check(now: at(310), oldest: nil) == .sendHeartbeat)
        #expect(watch.check(now: at(810), oldest: nil) == .fine)
        #expect(watch.check(now: at(811), oldest: nil) == .hung("it said nothing for 500 ms"))
        watch.heard()
        #expect(watch.check(now: at(2_900), oldest: at(1_000)) == .sendHeartbeat)
        watch.heard()
        #expect(watch.check(now: at(3_001), oldest: at(1_000)) == .hung("it kept a tuple for more than 2000 ms"))
    }
}
