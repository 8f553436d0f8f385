// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Synchronization
import Testing

/// What the client's integration tests share: a broker process and clients of it.
struct ClientFixture {
    let broker: BrokerProcess
    let group = MultiThreadedEventLoopGroup.singleton
    let logger: Logger

    init(settings: [String] = []) async throws {
        var logger = Logger(label: "mdc.test")
        logger.logLevel = .error
        self.logger = logger
        broker = try await BrokerProcess.started(settings: ["group.initial.rebalance.delay.ms=0"] + settings)
    }

    func producer(_ change: (inout ProducerConfiguration) -> Void = { _ in }) throws -> Producer {
        var configuration = ProducerConfiguration(bootstrapServers: [broker.address])
        change(&configuration)
        return try Producer(configuration, eventLoopGroup: group, logger: logger)
    }

    func consumer(
        _ groupID: String?,
        _ change: (inout ConsumerConfiguration) -> Void = { _ in }
    ) throws -> Consumer {
        var configuration = ConsumerConfiguration(bootstrapServers: [broker.address], groupID: groupID)
        configuration.heartbeatInterval = .milliseconds(200)
        configuration.sessionTimeout = .seconds(10)
        change(&configuration)
        return try Consumer(configuration, eventLoopGroup: group, logger: logger)
    }

    func admin() throws -> Admin {
        try Admin(
            ClientConfiguration(bootstrapServers: [broker.address]),
            eventLoopGroup: group,
            logger: logger
        )
    }

    func createTopic(_ name: String, partitions: Int32 = 1) async throws {
        let admin = try admin()
        try await admin.createTopics([NewTopic(name, partitions: partitions, replicationFactor: 1)])
        await admin.close()
    }

    /// Every partition of a topic from its first offset.
    static func start(of topic: String, _ partitions: Int32) -> [TopicPartition: Offset] {
        var offsets: [TopicPartition: Offset] = [:]
        for index in 0..<partitions { offsets[TopicPartition(topic: topic, partition: PartitionID(index))] = 0 }
        return offsets
    }

    /// Polls until `count` records came, or nothing more comes for a while.
    static func take(_ count: Int, from consumer: Consumer, patience: Duration = .seconds(30)) async throws
        -> [ConsumerRecord]
    {
        var records: [ConsumerRecord] = []
        let deadline = ContinuousClock.now + patience
        while records.count < count, ContinuousClock.now < deadline {
            records += try await consumer.poll(maxRecords: 1000, timeout: .milliseconds(500))
        }
        return records
    }
}

extension ConsumerRecord {
    var text: String { value.map { String(buffer: $0) } ?? "" }
}

@Suite("The client against a broker process", .serialized)
struct ClientTests {
    @Test("what is produced is consumed, with every codec", arguments: CompressionCodec.allCases)
    func codecs(codec: CompressionCodec) async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("codecs", partitions: 3)
        let producer = try fixture.producer { $0.compression = codec }
        let first = try await producer.send(
            ProducerRecord(
                topic: "codecs",
                partition: 0,
                key: ByteBuffer(string: "k"),
                value: nil,
                headers: [RecordHeader(key: "h", value: ByteBuffer(string: "v"))],
                timestamp: 1_234_567
            )
        )
        #expect(first.offset == 0 && first.partition == 0)
        let acknowledged = Mutex(0)
        for index in 0..<3000 {
            try await producer.enqueue(
                ProducerRecord(
                    topic: "codecs",
                    partition: Int32(index % 3),
                    value: ByteBuffer(string: "value \(index)")
                )
            ) { result in
                if case .success = result { acknowledged.withLock { $0 += 1 } }
            }
        }
        try await producer.flush()
        #expect(acknowledged.withLock { $0 } == 3000)
        try await producer.close()

        let consumer = try fixture.consumer(nil)
        try await consumer.assign(
            ClientFixture.start(of: "codecs", 3)
        )
        let records = try await ClientFixture.take(3001, from: consumer)
        #expect(records.count == 3001)
        for partition in 0..<3 {
            let values = records.filter { Int($0.topicPartition.partition.rawValue) == partition && $0.value != nil }
            #expect(values.map(\.text) == (0..<3000).filter { $0 % 3 == partition }.map { "value \($0)" })
        }
        let special = try #require(records.first { $0.value == nil })
        #expect(special.key.map { String(buffer: $0) } == "k")
        #expect(special.timestamp == 1_234_567)
        #expect(special.headers == [RecordHeader(key: "h", value: ByteBuffer(string: "v"))])
        await consumer.close()
    }

    @Test("keys keep their partition; records without keys spread")
    func partitioning() async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("keys", partitions: 4)
        let producer = try fixture.producer()
        for index in 0..<40 {
            let key = "key \(index % 10)"
            let metadata = try await producer.send(
                ProducerRecord(topic: "keys", key: ByteBuffer(string: key), value: ByteBuffer(string: "\(index)"))
            )
            let expected = Array(key.utf8).withUnsafeBytes { Murmur2.partition(of: $0, partitionCount: 4) }
            #expect(metadata.partition == expected.rawValue)
        }
        try await producer.close()
        await #expect(throws: ClientError.self) {
            try await producer.send(ProducerRecord(topic: "keys", value: ByteBuffer(string: "late")))
        }
    }

    @Test("seek, pause and resume")
    func seekAndPause() async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("seek", partitions: 2)
        let producer = try fixture.producer()
        for index in 0..<200 {
            try await producer.enqueue(
                ProducerRecord(topic: "seek", partition: Int32(index % 2), value: ByteBuffer(string: "\(index / 2)"))
            )
        }
        try await producer.close()
        let (zero, one) = (TopicPartition(topic: "seek", partition: 0), TopicPartition(topic: "seek", partition: 1))
        let consumer = try fixture.consumer(nil)
        try await consumer.assign([zero: 0, one: 0])
        #expect(try await ClientFixture.take(200, from: consumer).count == 200)
        #expect(try consumer.position(zero) == 100)
        #expect(try await consumer.beginningOffsets([zero, one]) == [zero: 0, one: 0])
        #expect(try await consumer.endOffsets([zero, one]) == [zero: 100, one: 100])

        try await consumer.seek(zero, to: 90)
        try await consumer.seekToBeginning([one])
        try consumer.pause([one])
        #expect(consumer.paused == [one])
        let onlyZero = try await ClientFixture.take(10, from: consumer)
        #expect(onlyZero.map(\.text) == (90..<100).map(String.init))
        #expect(onlyZero.allSatisfy { $0.topicPartition == zero })
        #expect(try await consumer.poll(timeout: .milliseconds(300)).isEmpty)
        try consumer.resume([one])
        #expect(try await ClientFixture.take(100, from: consumer).map(\.text) == (0..<100).map(String.init))
        try await consumer.seekToEnd([zero, one])
        #expect(try await consumer.poll(timeout: .milliseconds(300)).isEmpty)
        await #expect(throws: ClientError.self) {
            try await consumer.seek(TopicPartition(topic: "seek", partition: 7), to: 0)
        }
        await consumer.close()
    }

    @Test("committed offsets are where a group goes on")
    func commits() async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        try await fixture.createTopic("commits")
        let producer = try fixture.producer()
        for index in 0..<100 {
            try await producer.enqueue(ProducerRecord(topic: "commits", value: ByteBuffer(string: "\(index)")))
        }
        try await producer.close()
        let partition = TopicPartition(topic: "commits", partition: 0)
        let first = try fixture.consumer("readers")
        try await first.subscribe(["commits"])
        var taken: [ConsumerRecord] = []
        while taken.count < 40 { taken += try await first.poll(maxRecords: 40 - taken.count, timeout: .seconds(10)) }
        try await first.commit([partition: OffsetAndMetadata(40, metadata: "forty")])
        #expect(try await first.committed([partition])[partition]?.metadata == "forty")
        await first.close()

        let second = try fixture.consumer("readers")
        try await second.subscribe(["commits"])
        let rest = try await ClientFixture.take(60, from: second)
        #expect(rest.map(\.text) == (40..<100).map(String.init))
        try await second.commit()
        await second.close()

        let admin = try fixture.admin()
        #expect(try await admin.groupOffsets("readers")[partition]?.offset == 100)
        #expect(try await admin.listGroups().contains { $0.id == "readers" })
        #expect(try await admin.describeGroups(["readers"]).first?.state == "Empty")
        await admin.close()
    }

    @Test("administers topics and tells the cluster")
    func administration() async throws {
        let fixture = try await ClientFixture()
        defer { fixture.broker.discard() }
        let admin = try fixture.admin()
        try await admin.createTopics([
            NewTopic("a", partitions: 3, replicationFactor: 1, configuration: ["retention.ms": "3600000"]),
            NewTopic("b"),
        ])
        #expect(try await admin.listTopics() == ["a", "b"])
        let described = try await admin.describeTopics(["a"])
        #expect(described.first?.partitions.count == 3)
        let configs = try await admin.describeConfigs([.topic("a")])[.topic("a")] ?? []
        #expect(configs.first { $0.name == "retention.ms" }?.value == "3600000")
        do {
            try await admin.createTopics([NewTopic("a", partitions: 1, replicationFactor: 1)])
            Issue.record("a topic was made twice")
        } catch let error as ClientError {
            #expect(error.errorCode == .topicAlreadyExists)
        }
        let cluster = try await admin.describeCluster()
        #expect(cluster.brokers.map(\.port) == [fixture.broker.port])
        #expect(cluster.controllerID != nil)
        #expect(try await admin.apiVersions().contains { $0.apiKey == 0 })
        try await admin.deleteTopics(["b"])
        #expect(try await admin.listTopics() == ["a"])
        do {
            _ = try await admin.describeTopics(["b"])
            Issue.record("a deleted topic was described")
        } catch let error as ClientError {
            #expect(error.code == .unknownTopicOrPartition)
        }
        await admin.close()
    }
}
