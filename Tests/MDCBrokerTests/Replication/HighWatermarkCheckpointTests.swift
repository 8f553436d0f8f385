// SPDX-License-Identifier: Apache-2.0

import Glibc
import Logging
import MDCLog
import MDCModel
import Testing

@testable import MDCBroker

@Suite("High watermarks over restarts")
struct HighWatermarkCheckpointTests {
    private static let first = TopicPartition(topic: "a", partition: 0)
    private static let second = TopicPartition(topic: "b.c-d", partition: 11)

    private static func quiet() -> Logger {
        var logger = Logger(label: "checkpoint")
        logger.logLevel = .critical
        return logger
    }

    private func inFolder(_ body: (String) throws -> Void) rethrows {
        var template = Array("/tmp/mdc-checkpoint-test-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template))
        defer { BrokerFixture.remove(folder) }
        try body(folder)
    }

    private func open(_ folder: String) -> HighWatermarkCheckpoint {
        HighWatermarkCheckpoint(directory: folder, fileSystem: POSIXFileSystem(), logger: Self.quiet())
    }

    @Test("the format is Kafka's, and what is no such file says nothing")
    func format() {
        let marks = [Self.first: Int64(5), Self.second: 0]
        let bytes = HighWatermarkCheckpoint.encode(marks)
        #expect(String(decoding: bytes, as: UTF8.self) == "0\n2\na 0 5\nb.c-d 11 0\n")
        #expect(HighWatermarkCheckpoint.decode(bytes) == marks)
        for length in 0..<bytes.count where length != bytes.count - 1 {
            #expect(HighWatermarkCheckpoint.decode(Array(bytes[..<length])) != marks, "cut at \(length)")
        }
        for text in ["", "0\n", "1\n0\n", "0\n1\n", "0\n1\na 0\n", "0\n1\na 0 -1\n", "0\n1\na -1 0\n", "0\n2\na 0 1\n"]
        {
            #expect(HighWatermarkCheckpoint.decode(Array(text.utf8)) == nil, "\(text)")
        }
        #expect(HighWatermarkCheckpoint.decode(Array("0\n0\n".utf8)) == [:])
    }

    @Test("what was saved is there after a restart; what was cut is not")
    func saves() {
        inFolder { folder in
            let checkpoint = open(folder)
            #expect(checkpoint[Self.first] == nil)
            checkpoint.save { [Self.first: 100, Self.second: 7] }
            #expect(open(folder)[Self.first] == 100)
            // A cut below it counts at once, one above it changes nothing.
            checkpoint.lower(Self.first, to: 80)
            checkpoint.lower(Self.second, to: 9)
            let reopened = open(folder)
            #expect(reopened[Self.first] == 80)
            #expect(reopened[Self.second] == 7)
            // Partitions that are gone are forgotten.
            checkpoint.save { [Self.second: 8] }
            #expect(open(folder)[Self.first] == nil)
            #expect(open(folder)[Self.second] == 8)
        }
    }
}

@Suite("Replicas for consumers in racks")
struct ReplicaSelectorTests {
    private typealias Candidate = ReplicaSelector.Candidate

    private static let followers = [
        Candidate(node: 2, rack: "b", start: 0, end: 90), Candidate(node: 3, rack: "b", start: 50, end: 100),
        Candidate(node: 4, rack: "c", start: 0, end: 100), Candidate(node: 5, rack: nil, start: 0, end: 100),
    ]

    private static func choose(_ rack: String, _ offset: Int64) -> Int32? {
        ReplicaSelector.choose(rack: rack, offset: offset, leaderRack: "a", followers)
    }

    @Test("one in the consumer's rack that has what is asked for, the one that has most; else the leader")
    func chooses() {
        #expect(Self.choose("a", 60) == nil)
        #expect(Self.choose("d", 60) == nil)
        #expect(Self.choose("b", 60) == 3)
        #expect(Self.choose("b", 10) == 2)
        #expect(Self.choose("b", 100) == 3)
        #expect(Self.choose("b", 101) == nil)
        #expect(Self.choose("c", 0) == 4)
        // The leader's own rack is as near, whoever else is there.
        #expect(ReplicaSelector.choose(rack: "b", offset: 60, leaderRack: "b", Self.followers) == nil)
    }
}
