// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import MDCTesting
import MDCTopology
import NIOCore
import NIOPosix

/// A broker process, and what tests of topologies do with it.
struct TopologyFixture {
    let broker: BrokerProcess
    let group = MultiThreadedEventLoopGroup.singleton
    let logger: Logger

    init() async throws {
        var logger = Logger(label: "mdc.test")
        logger.logLevel = .error
        self.logger = logger
        broker = try await BrokerProcess.started(settings: [
            "group.initial.rebalance.delay.ms=0", "transaction.state.log.num.partitions=4",
        ])
    }

    var settings: TopologySettings {
        var settings = TopologySettings(bootstrapServers: [broker.address])
        settings.sessionTimeout = .seconds(10)
        settings.commitInterval = .milliseconds(100)
        settings.transactionInterval = .milliseconds(50)
        settings.retryBackoff = .milliseconds(1)
        return settings
    }

    func createTopics(_ names: [String], partitions: Int32 = 2) async throws {
        let admin = try Admin(settings.client, eventLoopGroup: group, logger: logger)
        try await admin.createTopics(names.map { NewTopic($0, partitions: partitions, replicationFactor: 1) })
        await admin.close()
    }

    func produce(_ topic: String, _ records: [(key: String?, value: String, time: Int64?)]) async throws {
        let producer = try Producer(
            ProducerConfiguration(bootstrapServers: [broker.address]),
            eventLoopGroup: group,
            logger: logger
        )
        for record in records {
            try await producer.enqueue(
                ProducerRecord(
                    topic: topic,
                    key: record.key.map { ByteBuffer(string: $0) },
                    value: ByteBuffer(string: record.value),
                    timestamp: record.time.map { Timestamp($0) }
                )
            )
        }
        try await producer.close()
    }

    /// Reads committed records until there are `count`, and then what comes within half a second.
    func read(_ topic: String, _ count: Int, partitions: Int32 = 2) async throws -> [ConsumerRecord] {
        var configuration = ConsumerConfiguration(bootstrapServers: [broker.address])
        configuration.isolation = .readCommitted
        let reader = try Consumer(configuration, eventLoopGroup: group, logger: logger)
        var starts: [TopicPartition: Offset] = [:]
        for number in 0..<partitions { starts[TopicPartition(topic: topic, partition: PartitionID(number))] = 0 }
        try await reader.assign(starts)
        var records: [ConsumerRecord] = []
        let deadline = ContinuousClock.now + .seconds(90)
        while records.count < count, ContinuousClock.now < deadline {
            records += try await reader.poll(timeout: .milliseconds(100))
        }
        records += try await reader.poll(timeout: .milliseconds(500))
        await reader.close()
        return records
    }

    /// Runs a worker while `body` does its work.
    func running<Value: Sendable>(
        _ topology: Topology,
        _ change: (inout TopologySettings) -> Void = { _ in },
        _ body: (TopologyRunner) async throws -> Value
    ) async throws -> Value {
        var settings = settings
        change(&settings)
        let runner = try TopologyRunner(topology, settings, eventLoopGroup: group, logger: logger)
        let work = Task { try await runner.run() }
        do {
            let value = try await body(runner)
            runner.stop()
            try await work.value
            return value
        } catch {
            runner.stop()
            try? await work.value
            throw error
        }
    }

    /// Waits for something to become true.
    func until(_ what: String, _ condition: () async throws -> Bool) async throws {
        let deadline = ContinuousClock.now + .seconds(90)
        while try await !condition() {
            guard ContinuousClock.now < deadline else { throw Missing(description: what) }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    struct Missing: Error, CustomStringConvertible { let description: String }
}

extension ConsumerRecord {
    var text: String { value.map { String(buffer: $0) } ?? "" }
    var keyText: String { key.map { String(buffer: $0) } ?? "" }
    func header(_ name: String) -> String? {
        headers.last { $0.key == name }?.value.map { String(buffer: $0) }
    }
}
