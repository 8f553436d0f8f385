// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import Testing

/// Transactions with our own client against a broker process.
@Suite(.serialized) struct ClientTransactionTests {
    private func producer(_ fixture: ClientFixture, _ id: String = "id") throws -> Producer {
        try fixture.producer {
            $0.transactionalID = id
            $0.linger = .milliseconds(1)
        }
    }

    /// All values that a reader of committed records sees.
    private func committed(_ fixture: ClientFixture, _ topic: String, _ partitions: Int32 = 1) async throws -> [String]
    {
        let reader = try fixture.consumer(nil) { $0.isolation = .readCommitted }
        let start = ClientFixture.start(of: topic, partitions)
        try await reader.assign(start)
        let ends = try await reader.endOffsets(Array(start.keys))
        var values: [String] = []
        for _ in 0..<600 {
            var isDone = true
            for (partition, end) in ends where (try reader.position(partition) ?? 0) < end { isDone = false }
            if isDone { break }
            values += try await reader.poll(timeout: .milliseconds(50)).map(\.text)
        }
        await reader.close()
        return values
    }

    @Test func commitsAreSeenAndAbortsAreNot() async throws {
        let fixture = try await ClientFixture(settings: ["transaction.state.log.num.partitions=4"])
        defer { fixture.broker.discard() }
        try await fixture.createTopic("t")
        let producer = try producer(fixture)
        try await producer.initTransactions()
        for round in 0..<6 {
            try producer.beginTransaction()
            for index in 0..<5 {
                try await producer.enqueue(ProducerRecord(topic: "t", value: ByteBuffer(string: "\(round).\(index)")))
            }
            if round % 2 == 0 {
                try await producer.commitTransaction()
            } else {
                if round == 3 { try await producer.flush() }
                try await producer.abortTransaction()
            }
        }
        // One without records, either way.
        try producer.beginTransaction()
        try await producer.commitTransaction()
        try producer.beginTransaction()
        try await producer.abortTransaction()
        let wanted = [0, 2, 4].flatMap { round in (0..<5).map { "\(round).\($0)" } }
        #expect(try await committed(fixture, "t") == wanted)
        try await producer.close()
    }

    @Test func secondProducerFencesTheFirst() async throws {
        let fixture = try await ClientFixture(settings: ["transaction.state.log.num.partitions=4"])
        defer { fixture.broker.discard() }
        try await fixture.createTopic("t")
        let zombie = try producer(fixture)
        try await zombie.initTransactions()
        try zombie.beginTransaction()
        try await zombie.send(ProducerRecord(topic: "t", value: ByteBuffer(string: "zombie")))
        let successor = try producer(fixture)
        try await successor.initTransactions()
        await #expect(throws: ClientError.self) { try await zombie.commitTransaction() }
        let error = await #expect(throws: ClientError.self) { try await zombie.abortTransaction() }
        #expect(error?.code == .fenced)
        try successor.beginTransaction()
        try await successor.send(ProducerRecord(topic: "t", value: ByteBuffer(string: "successor")))
        try await successor.commitTransaction()
        #expect(try await committed(fixture, "t") == ["successor"])
        try? await zombie.close()
        try await successor.close()
    }

    /// Read, transform, write, and commit the offsets with it; the broker is killed in between.
    @Test func copyIsExactlyOnce() async throws {
        let fixture = try await ClientFixture(settings: ["transaction.state.log.num.partitions=4"])
        defer { fixture.broker.discard() }
        try await fixture.createTopic("source")
        try await fixture.createTopic("target")
        let plain = try fixture.producer()
        for index in 0..<300 {
            try await plain.enqueue(ProducerRecord(topic: "source", value: ByteBuffer(string: "\(index)")))
        }
        try await plain.close()
        var copied = 0
        var rounds = 0
        while copied < 300 {
            rounds += 1
            try #require(rounds < 20)
            let producer = try producer(fixture, "copier")
            try await producer.initTransactions()
            let consumer = try fixture.consumer("copiers") {
                $0.isolation = .readCommitted
                $0.enableAutoCommit = false
                $0.autoOffsetReset = .earliest
            }
            try await consumer.subscribe(["source"])
            for step in 0..<3 where copied < 300 {
                var records: [ConsumerRecord] = []
                for _ in 0..<600 where records.isEmpty {
                    records = try await consumer.poll(maxRecords: 25, timeout: .milliseconds(100))
                }
                try producer.beginTransaction()
                var next: [TopicPartition: OffsetAndMetadata] = [:]
                for record in records {
                    try await producer.enqueue(ProducerRecord(topic: "target", value: record.value))
                    next[record.topicPartition] = OffsetAndMetadata(record.offset + 1)
                }
                try await producer.sendOffsets(next, group: try await consumer.groupMetadata())
                if step == 2 && rounds % 2 == 1 {
                    // It gives this transaction up, and a successor reads the records again.
                    try await producer.abortTransaction()
                    break
                }
                if rounds == 2 && step == 0 {
                    fixture.broker.kill()
                    try await fixture.broker.start()
                }
                try await producer.commitTransaction()
                copied += records.count
            }
            await consumer.close()
            try await producer.close()
        }
        #expect(try await committed(fixture, "target") == (0..<300).map(String.init))
    }
}
