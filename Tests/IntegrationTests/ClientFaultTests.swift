// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import Synchronization
import Testing

@Suite("The client when things break", .serialized)
struct ClientFaultTests {
    /// Collects what members consumed.
    final class Ledger: Sendable {
        private let seen = Mutex<[TopicPartition: [Int64]]>([:])
        func add(_ records: [ConsumerRecord]) {
            seen.withLock { seen in
                for record in records { seen[record.topicPartition, default: []].append(record.offset.rawValue) }
            }
        }
        var offsets: [TopicPartition: [Int64]] { seen.withLock { $0 } }
        var distinct: Int { offsets.values.reduce(0) { $0 + Set($1).count } }
        var total: Int { offsets.values.reduce(0) { $0 + $1.count } }
    }

    /// A member that polls, notes and commits until it is cancelled.
    static func run(_ consumer: Consumer, _ ledger: Ledger) async throws {
        while !Task.isCancelled {
            let records: [ConsumerRecord]
            do {
                records = try await consumer.poll(maxRecords: 50, timeout: .milliseconds(200))
            } catch is CancellationError {
                return
            }
            guard !records.isEmpty else { continue }
            ledger.add(records)
            var next: [TopicPartition: OffsetAndMetadata] = [:]
            for record in records { next[record.topicPartition] = OffsetAndMetadata(record.offset + 1) }
            do {
                try await consumer.commit(next)
            } catch let error as ClientError where error.code == .partitionNotAssigned {
                // Another member has it by now and reads on from the last commit.
            } catch is CancellationError {
                return
            }
        }
    }

    @Test(
        "G5: three members come and go without a record lost, each partition with one owner",
        arguments: [
            ConsumerConfiguration.Assignor.cooperativeSticky, .range, .roundRobin,
        ]
    )
    func rebalance(assignor: ConsumerConfiguration.Assignor) async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("shared", partitions: 6)
        let ledger = Ledger()
        let producer = try fixture.producer()
        let total = 6000
        let producing = Task {
            for index in 0..<total {
                try await producer.enqueue(
                    ProducerRecord(topic: "shared", partition: Int32(index % 6), value: ByteBuffer(string: "\(index)"))
                )
                if index % 100 == 99 { try await Task.sleep(for: .milliseconds(20)) }
            }
            try await producer.close()
        }
        var members: [(consumer: Consumer, task: Task<Void, any Error>)] = []
        for _ in 0..<3 {
            let consumer = try fixture.consumer("team") { $0.assignors = [assignor] }
            try await consumer.subscribe(["shared"])
            members.append((consumer, Task { try await Self.run(consumer, ledger) }))
            try await Task.sleep(for: .milliseconds(300))
        }
        // All three have their share at some point.
        let deadline = ContinuousClock.now + .seconds(30)
        while ContinuousClock.now < deadline, members.map({ $0.consumer.assignment.count }) != [2, 2, 2] {
            try await Task.sleep(for: .milliseconds(20))
        }
        #expect(members.map { $0.consumer.assignment.count } == [2, 2, 2])
        let owned = members.flatMap { $0.consumer.assignment }
        #expect(Set(owned).count == 6)
        // One leaves in the middle of it.
        let leaver = members.removeFirst()
        leaver.task.cancel()
        _ = await leaver.task.result
        await leaver.consumer.close()
        try await producing.value
        let end = ContinuousClock.now + .seconds(60)
        while ledger.distinct < total, ContinuousClock.now < end { try await Task.sleep(for: .milliseconds(50)) }
        for member in members {
            member.task.cancel()
            _ = await member.task.result
            await member.consumer.close()
        }
        #expect(ledger.distinct == total)
        for (partition, offsets) in ledger.offsets {
            #expect(Set(offsets) == Set(0..<Int64(total / 6)), "\(partition)")
        }
        // At least once: what was read and not committed at a hand-over is read again, and not more.
        #expect(ledger.total - total <= 50 * 6 * 4)
    }

    @Test("G1, G4: a broker killed under load: each accepted record is there once, in order")
    func killed() async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("load", partitions: 3)
        let producer = try fixture.producer { $0.linger = .milliseconds(1) }
        let acknowledged = Mutex<[Int: (partition: Int32, offset: Int64)]>([:])
        let failed = Mutex<[String]>([])
        let total = 9000
        let producing = Task {
            for index in 0..<total {
                try await producer.enqueue(
                    ProducerRecord(topic: "load", partition: Int32(index % 3), value: ByteBuffer(string: "\(index)"))
                ) { result in
                    switch result {
                    case .success(let metadata):
                        acknowledged.withLock { $0[index] = (metadata.partition, metadata.offset) }
                    case .failure(let error): failed.withLock { $0.append(error.description) }
                    }
                }
                if index % 50 == 49 { try await Task.sleep(for: .milliseconds(10)) }
            }
            try await producer.flush()
        }
        for _ in 0..<3 {
            try await Task.sleep(for: .milliseconds(400))
            fixture.broker.kill()
            try await Task.sleep(for: .milliseconds(200))
            try await fixture.broker.start()
        }
        try await producing.value
        try await producer.close()
        #expect(failed.withLock { $0 }.isEmpty)
        #expect(acknowledged.withLock { $0.count } == total)

        let consumer = try fixture.consumer(nil)
        try await consumer.assign(
            ClientFixture.start(of: "load", 3)
        )
        let records = try await ClientFixture.take(total, from: consumer)
        let more = try await consumer.poll(timeout: .milliseconds(500))
        #expect(more.isEmpty, "duplicates")
        await consumer.close()
        for partition in 0..<3 {
            let values = records.filter { Int($0.topicPartition.partition.rawValue) == partition }.map(\.text)
            #expect(values == (0..<total).filter { $0 % 3 == partition }.map(String.init))
        }
        // Offsets that were told are those where the records are.
        let offsets = acknowledged.withLock { $0 }
        for record in records {
            let index = Int(record.text) ?? -1
            if let told = offsets[index], told.offset >= 0 { #expect(told.offset == record.offset.rawValue) }
        }
    }

    @Test("a consumer reads on when its broker comes back")
    func consumerSurvives() async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("again")
        let producer = try fixture.producer()
        let consumer = try fixture.consumer("survivors")
        try await consumer.subscribe(["again"])
        for round in 0..<3 {
            for index in 0..<100 {
                try await producer.send(
                    ProducerRecord(topic: "again", value: ByteBuffer(string: "\(round)-\(index)")),
                    unless: index > 5
                )
            }
            try await producer.flush()
            let records = try await ClientFixture.take(100, from: consumer)
            #expect(records.map(\.text) == (0..<100).map { "\(round)-\($0)" })
            try await consumer.commit()
            if round == 0 {
                fixture.broker.kill()
                try await fixture.broker.start()
            } else if round == 1 {
                fixture.broker.terminate()
                try await fixture.broker.start()
            }
        }
        try await producer.close()
        await consumer.close()
    }

    @Test("a topic that is made after the subscription is found")
    func lateTopic() async throws {
        let fixture = try await ClientFixture(settings: ["auto.create.topics.enable=false"])
        defer { fixture.broker.discard() }
        let consumer = try fixture.consumer("early")
        try await consumer.subscribe(["late"])
        #expect(try await consumer.poll(timeout: .milliseconds(200)).isEmpty)
        try await fixture.createTopic("late", partitions: 2)
        let producer = try fixture.producer()
        try await producer.send(ProducerRecord(topic: "late", partition: 1, value: ByteBuffer(string: "here")))
        #expect(try await ClientFixture.take(1, from: consumer).map(\.text) == ["here"])
        try await producer.close()
        await consumer.close()
    }

    @Test("records that cannot be delivered fail in time, with a reason")
    func deliveryTimeout() async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("gone")
        let producer = try fixture.producer { $0.deliveryTimeout = .seconds(10) }
        try await producer.send(ProducerRecord(topic: "gone", value: ByteBuffer(string: "first")))
        fixture.broker.kill()
        do {
            try await producer.send(ProducerRecord(topic: "gone", value: ByteBuffer(string: "second")))
            Issue.record("delivered to a dead broker")
        } catch let error as ClientError {
            #expect(error.code == .deliveryTimeout)
        }
        try await fixture.broker.start()
        let metadata = try await producer.send(ProducerRecord(topic: "gone", value: ByteBuffer(string: "third")))
        #expect(metadata.offset >= 1)
        try await producer.close()
    }
}

extension Producer {
    /// Waits for the acknowledgement, or only for the acceptance.
    fileprivate func send(_ record: ProducerRecord, unless isFast: Bool) async throws {
        if isFast { try await enqueue(record) } else { try await send(record) }
    }
}
