// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import Logging
import MDCLog
import MDCModel
import MDCProtocol
import NIOCore

@testable import MDCBroker

/// A node in this process, on a free port, with a folder that goes away.
final class BrokerFixture {
    struct NotReady: Error {}

    let directory: String
    private let configure: (inout BrokerConfiguration) -> Void
    private let fileSystem: any FileSystem
    private let cluster: ClusterMembership?
    private var task: Task<Void, any Error>?
    private(set) var addresses: Broker.Addresses!
    private(set) var broker: Broker!

    init(
        fileSystem: any FileSystem = POSIXFileSystem(),
        cluster: ClusterMembership? = nil,
        _ configure: @escaping (inout BrokerConfiguration) -> Void = { _ in }
    ) {
        self.fileSystem = fileSystem
        self.cluster = cluster
        var template = Array("/tmp/mdc-broker-test-XXXXXX".utf8CString)
        directory = String(cString: mkdtemp(&template))
        self.configure = configure
    }

    func start() async throws {
        var configuration = BrokerConfiguration()
        configuration.dataDirectory = directory + "/data"
        configuration.listen = HostPort(host: "127.0.0.1", port: 0)
        configuration.http = HostPort(host: "127.0.0.1", port: 0)
        configure(&configuration)
        var logger = Logger(label: "broker")
        logger.logLevel = .error
        let broker = Broker(configuration: configuration, logger: logger, fileSystem: fileSystem, cluster: cluster)
        self.broker = broker
        let task = Task { try await broker.run() }
        self.task = task
        guard let addresses = await broker.whenReady() else {
            try await task.value
            throw NotReady()
        }
        self.addresses = addresses
    }

    func stop() async throws {
        task?.cancel()
        try await task?.value
        task = nil
    }

    /// Empties the data folder of a node that is stopped.
    func wipe() throws { Self.remove(directory + "/data") }

    deinit { Self.remove(directory) }

    /// Removes a folder of our own making with all that is in it.
    static func remove(_ path: String) {
        final class Names {
            var entries: [(name: String, kind: Int32)] = []
        }
        let names = Names()
        _ = mdc_list(path, Unmanaged.passUnretained(names).toOpaque()) { context, name, kind in
            guard let context else { return }
            Unmanaged<Names>.fromOpaque(context).takeUnretainedValue().entries.append((String(cString: name), kind))
        }
        for (name, kind) in names.entries {
            if kind == 2 { remove("\(path)/\(name)") } else { _ = mdc_unlink("\(path)/\(name)") }
        }
        _ = mdc_rmdir(path)
    }

    func connect() throws -> RawKafkaConnection { try RawKafkaConnection(port: addresses.listen.port) }

    /// Runs `body` with a node.
    static func with(
        _ configure: @escaping (inout BrokerConfiguration) -> Void = { _ in },
        _ body: (BrokerFixture) async throws -> Void
    ) async throws {
        let fixture = BrokerFixture(configure)
        try await fixture.start()
        do {
            try await body(fixture)
        } catch {
            try? await fixture.stop()
            throw error
        }
        try await fixture.stop()
    }
}

extension RawKafkaConnection {
    @discardableResult
    func createTopic(_ name: String, partitions: Int32 = 1, configs: [String: String] = [:]) throws
        -> CreateTopicsResponse.CreatableTopicResult
    {
        let response = try call(
            CreateTopicsRequest(
                topics: [
                    .init(
                        name: name,
                        numPartitions: partitions,
                        replicationFactor: -1,
                        configs: configs.map { .init(name: $0.key, value: $0.value) }
                    )
                ],
                timeoutMs: 10_000
            ),
            version: 7
        )
        return response.topics[0]
    }

    static func batch(
        _ values: [String],
        producerID: ProducerID = .none,
        producerEpoch: Int16 = -1,
        sequence: Int32 = -1
    ) throws -> ByteBuffer {
        var settings = RecordBatchBuilder.Settings()
        settings.producerID = producerID
        settings.producerEpoch = producerEpoch
        settings.baseSequence = sequence
        var builder = RecordBatchBuilder(settings)
        // Records of another year would fall to retention while a slow test still reads them.
        let now = Timestamp(mdc_wall_clock_ms())
        for value in values {
            builder.append(key: nil, value: ByteBuffer(string: value), headers: [], timestamp: now)
        }
        return try builder.build()
    }

    func produce(
        _ topic: String,
        _ records: ByteBuffer?,
        partition: Int32 = 0,
        acks: Int16 = -1,
        version: Int16 = 9
    ) throws -> ProduceResponse.PartitionProduceResponse {
        let response = try call(
            ProduceRequest(
                acks: acks,
                timeoutMs: 10_000,
                topicData: [.init(name: topic, partitionData: [.init(index: partition, records: records)])]
            ),
            version: version
        )
        return response.responses[0].partitionResponses[0]
    }

    func fetch(
        _ topic: String,
        from offset: Int64,
        partition: Int32 = 0,
        maxWait: Int32 = 0,
        minBytes: Int32 = 1,
        epoch: Int32 = -1,
        maxBytes: Int32 = 1 << 20,
        version: Int16 = 12
    ) throws -> FetchResponse.PartitionData {
        let response = try call(
            FetchRequest(
                maxWaitMs: maxWait,
                minBytes: minBytes,
                maxBytes: 1 << 22,
                topics: [
                    .init(
                        topic: topic,
                        partitions: [
                            .init(
                                partition: partition,
                                currentLeaderEpoch: epoch,
                                fetchOffset: offset,
                                partitionMaxBytes: maxBytes
                            )
                        ]
                    )
                ]
            ),
            version: version
        )
        return response.responses[0].partitions[0]
    }

    static func values(_ data: FetchResponse.PartitionData) throws -> [String] {
        var values: [String] = []
        var batches = RecordBatchIterator(data.records ?? ByteBuffer())
        while let batch = try batches.next() {
            values += try batch.reader().records().map { String(buffer: $0.value ?? ByteBuffer()) }
        }
        return values
    }
}
