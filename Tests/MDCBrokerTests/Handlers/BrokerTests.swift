// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// A node in this process, over real sockets. Numbers of gotchas are those of docs/broker.md's rules for clients.
@Suite("Broker over sockets", .serialized)
struct BrokerTests {
    typealias Raw = RawKafkaConnection

    // MARK: ApiVersions

    @Test("An unknown version of ApiVersions gets error 35 in version 0, and the connection stays")
    func unknownAPIVersions() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            // Length 10, API 18, version 99, correlation 7, no client id.
            try client.send([0, 0, 0, 10, 0, 18, 0, 99, 0, 0, 0, 7, 0xFF, 0xFF])
            let answer = try client.receive(ApiVersionsResponse.self, version: 0, correlation: 7)
            #expect(answer.errorCode == 35)
            #expect(answer.apiKeys.contains { $0.apiKey == 18 && $0.maxVersion == 4 })
            let real = try client.call(
                ApiVersionsRequest(clientSoftwareName: "raw", clientSoftwareVersion: "1.0"),
                version: 4
            )
            #expect(real.errorCode == 0)
        }
    }

    @Test("Produce is announced from version 0, so that old clients compress; 0–2 are refused when used")
    func produceFloor() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            let versions = try client.call(
                ApiVersionsRequest(clientSoftwareName: "raw", clientSoftwareVersion: "1.0"),
                version: 3
            )
            #expect(versions.apiKeys.contains { $0.apiKey == 0 && $0.minVersion == 0 && $0.maxVersion == 13 })
            #expect(versions.apiKeys.contains { $0.apiKey == 1 && $0.maxVersion == 18 })
            #expect(versions.supportedFeatures.allSatisfy { $0.minVersion > 0 })
            try client.createTopic("t")
            let refused = try client.call(
                ProduceRequest(
                    acks: 1,
                    timeoutMs: 1000,
                    topicData: [.init(name: "t", partitionData: [.init(index: 0, records: try Raw.batch(["x"]))])]
                ),
                version: 2
            )
            #expect(refused.responses[0].partitionResponses[0].errorCode == 35)
        }
    }

    // MARK: Produce and fetch

    @Test("Every version of Produce and Fetch that is served works")
    func allVersions() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            let topic = try client.createTopic("t")
            for version in Int16(3)...12 {
                let answer = try client.produce("t", try Raw.batch(["v\(version)"]), version: version)
                #expect(answer.errorCode == 0 && answer.baseOffset == Int64(version - 3), "\(version)")
            }
            let byID = try client.call(
                ProduceRequest(
                    acks: -1,
                    timeoutMs: 1000,
                    topicData: [
                        .init(topicId: topic.topicId, partitionData: [.init(index: 0, records: try Raw.batch(["v13"]))])
                    ]
                ),
                version: 13
            )
            #expect(byID.responses[0].partitionResponses[0].baseOffset == 10)
            for version in Int16(4)...12 {
                let data = try client.fetch("t", from: 0, version: version)
                #expect(try Raw.values(data).count == 11, "\(version)")
            }
            for version in Int16(13)...18 {
                let response = try client.call(
                    FetchRequest(
                        maxWaitMs: 0,
                        minBytes: 1,
                        maxBytes: 1 << 20,
                        topics: [
                            .init(
                                topicId: topic.topicId,
                                partitions: [.init(partition: 0, fetchOffset: 10, partitionMaxBytes: 1 << 20)]
                            )
                        ]
                    ),
                    version: version
                )
                #expect(try Raw.values(response.responses[0].partitions[0]) == ["v13"], "\(version)")
            }
        }
    }

    @Test("acks=0 gets no answer: the next answer is the next request's")
    func acksZero() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            try client.send(
                ProduceRequest(
                    acks: 0,
                    timeoutMs: 1000,
                    topicData: [.init(name: "t", partitionData: [.init(index: 0, records: try Raw.batch(["x"]))])]
                ),
                version: 9
            )
            // Answered in order, with its own correlation id.
            let data = try client.fetch("t", from: 0, maxWait: 5000)
            #expect(try Raw.values(data) == ["x"])
        }
    }

    @Test("Errors of Produce stand with their partition")
    func produceErrors() async throws {
        try await BrokerFixture.with({ $0.minInSyncReplicas = 1 }) { fixture in
            let client = try fixture.connect()
            try client.createTopic("t", configs: ["max.message.bytes": "200"])
            #expect(try client.produce("nope", try Raw.batch(["x"])).errorCode == 3)
            #expect(try client.produce("t", try Raw.batch(["x"]), partition: 9).errorCode == 3)
            #expect(try client.produce("t", try Raw.batch(["x"]), acks: 5).errorCode == 21)
            #expect(try client.produce("t", try Raw.batch([String(repeating: "x", count: 300)])).errorCode == 10)
            var damaged = try Raw.batch(["abc"])
            damaged.setInteger(UInt8(0xEE), at: damaged.writerIndex - 2)
            #expect(try client.produce("t", damaged).errorCode == 2)
            #expect(try client.produce("t", nil).errorCode != 0)
            #expect(try client.produce("t", try Raw.batch(["fine"])).errorCode == 0)
        }
    }

    @Test(
        "Who waits longer for the disk than the request's timeout gets REQUEST_TIMED_OUT; the records stay",
        arguments: [
            Int16(9), 13,
        ]
    )
    func produceTimeout(_ version: Int16) async throws {
        let disk = SteppedFileSystem()
        let fixture = BrokerFixture(fileSystem: disk)
        try await fixture.start()
        let client = try fixture.connect()
        let id = try client.createTopic("t").topicId
        _ = try client.produce("t", try Raw.batch(["before"]))
        disk.holdSyncs()
        let request = ProduceRequest(
            acks: -1,
            timeoutMs: 50,
            topicData: [
                .init(
                    name: version >= 13 ? "" : "t",
                    topicId: version >= 13 ? id : .zero,
                    partitionData: [
                        .init(index: 0, records: try Raw.batch(["late"])),
                        .init(index: 7, records: try Raw.batch(["no"])),
                    ]
                )
            ]
        )
        let answer = try client.call(request, version: version).responses[0].partitionResponses
        disk.releaseSyncs()
        #expect(answer.map(\.errorCode) == [ErrorCode.requestTimedOut.rawValue, 3])
        #expect(answer[0].baseOffset == -1)
        let next = try client.produce("t", try Raw.batch(["after"]))
        #expect(next.errorCode == 0 && next.baseOffset == 2)
        try await fixture.stop()
    }

    @Test("An idempotent producer's repeated batch is stored once")
    func idempotence() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            let producer = try client.call(InitProducerIdRequest(transactionalId: nil), version: 4)
            #expect(producer.errorCode == 0)
            let batch = try Raw.batch(
                ["a", "b"],
                producerID: ProducerID(producer.producerId),
                producerEpoch: 0,
                sequence: 0
            )
            #expect(try client.produce("t", batch).baseOffset == 0)
            let again = try client.produce("t", batch)
            #expect(again.errorCode == 0 && again.baseOffset == 0)
            let gap = try Raw.batch(["c"], producerID: ProducerID(producer.producerId), producerEpoch: 0, sequence: 7)
            #expect(try client.produce("t", gap).errorCode == 45)
            #expect(try Raw.values(try client.fetch("t", from: 0)) == ["a", "b"])
        }
    }

    @Test("A long poll is answered by the append it waits for, and pipelined answers keep their order")
    func longPoll() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            let reader = try fixture.connect()
            let wait = FetchRequest(
                maxWaitMs: 15_000,
                minBytes: 1,
                maxBytes: 1 << 20,
                topics: [
                    .init(topic: "t", partitions: [.init(partition: 0, fetchOffset: 0, partitionMaxBytes: 1 << 20)])
                ]
            )
            let first = try reader.send(wait, version: 12)
            let second = try reader.send(MetadataRequest(topics: nil), version: 12)
            _ = try client.produce("t", try Raw.batch(["now"]))
            let answer = try reader.receive(FetchResponse.self, version: 12, correlation: first)
            #expect(try Raw.values(answer.responses[0].partitions[0]) == ["now"])
            _ = try reader.receive(MetadataResponse.self, version: 12, correlation: second)
        }
    }

    @Test("The first batch is returned whole, however small the limit")
    func firstBatchWhole() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            _ = try client.produce("t", try Raw.batch([String(repeating: "x", count: 5000)]))
            _ = try client.produce("t", try Raw.batch(["second"]))
            #expect(try Raw.values(try client.fetch("t", from: 0, maxBytes: 10)).count == 1)
        }
    }

    @Test("Large reads go from the file to the socket and are the same bytes")
    func largeFetch() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            var expected: [String] = []
            for number in 0..<20 {
                let value = String(repeating: Character(UnicodeScalar(UInt8(97 + number))), count: 20_000)
                expected.append(value)
                let answer = try client.produce("t", try Raw.batch([value]))
                #expect(answer.errorCode == 0 && answer.baseOffset == Int64(number), "\(answer)")
            }
            let found = try client.fetch("t", from: 0)
            let values = try Raw.values(found)
            let bytes = found.records?.readableBytes ?? 0
            #expect(values.count == 20, "error \(found.errorCode), end \(found.highWatermark), \(bytes) bytes")
            #expect(values == expected)
        }
    }

    @Test("Leader epochs are checked: FENCED below, UNKNOWN above; a restart raises the epoch (KIP-320)")
    func leaderEpochs() async throws {
        let fixture = BrokerFixture()
        try await fixture.start()
        let client = try fixture.connect()
        try client.createTopic("t")
        #expect(try client.fetch("t", from: 0, epoch: 0).errorCode == 0)
        #expect(try client.fetch("t", from: 0, epoch: 1).errorCode == 75)
        try await fixture.stop()
        try await fixture.start()
        let again = try fixture.connect()
        #expect(try again.fetch("t", from: 0, epoch: 0).errorCode == 74)
        #expect(try again.fetch("t", from: 0, epoch: 1).errorCode == 0)
        #expect(try again.fetch("t", from: 5).errorCode == 1)
        try await fixture.stop()
    }

    @Test("Sessions: unknown id 70, wrong epoch 71, an empty poll names nothing")
    func sessions() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            let topic = try client.createTopic("t")
            func request(_ id: Int32, _ epoch: Int32, named: Bool) -> FetchRequest {
                FetchRequest(
                    maxWaitMs: 0,
                    minBytes: 1,
                    maxBytes: 1 << 20,
                    sessionId: id,
                    sessionEpoch: epoch,
                    topics: named
                        ? [
                            .init(
                                topicId: topic.topicId,
                                partitions: [.init(partition: 0, fetchOffset: 0, partitionMaxBytes: 1 << 20)]
                            )
                        ] : []
                )
            }
            let made = try client.call(request(0, 0, named: true), version: 16)
            #expect(made.sessionId != 0 && made.responses.count == 1)
            let empty = try client.call(request(made.sessionId, 1, named: false), version: 16)
            #expect(empty.errorCode == 0 && empty.responses.isEmpty)
            #expect(try client.call(request(made.sessionId, 9, named: false), version: 16).errorCode == 71)
            #expect(try client.call(request(made.sessionId ^ 1, 2, named: false), version: 16).errorCode == 70)
            _ = try client.produce("t", try Raw.batch(["x"]))
            let news = try client.call(request(made.sessionId, 2, named: false), version: 16)
            #expect(news.responses.count == 1)
            #expect(try Raw.values(news.responses[0].partitions[0]) == ["x"])
        }
    }

    // MARK: Metadata

    @Test("Delete and create again gives a new id; the old one is unknown")
    func topicIDs() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            let old = try client.createTopic("t")
            #expect(old.errorCode == 0 && old.topicId != .zero)
            #expect(try client.createTopic("t").errorCode == 36)
            let deleted = try client.call(DeleteTopicsRequest(topics: [.init(name: "t")], timeoutMs: 1000), version: 6)
            #expect(deleted.responses[0].errorCode == 0)
            let new = try client.createTopic("t")
            #expect(new.errorCode == 0 && new.topicId != old.topicId)
            let metadata = try client.call(
                MetadataRequest(topics: [.init(topicId: old.topicId, name: nil)]),
                version: 12
            )
            #expect(metadata.topics[0].errorCode == 100)
            let produced = try client.call(
                ProduceRequest(
                    acks: -1,
                    timeoutMs: 1000,
                    topicData: [
                        .init(topicId: old.topicId, partitionData: [.init(index: 0, records: try Raw.batch(["x"]))])
                    ]
                ),
                version: 13
            )
            #expect(produced.responses[0].partitionResponses[0].errorCode == 100)
        }
    }

    @Test(
        "What cannot be created says why",
        arguments: [("a b", 17), ("..", 17), ("", 17), ("__consumer_offsets", 17)]
    )
    func badNames(_ name: String, _ code: Int) async throws {
        try await BrokerFixture.with { fixture in
            let result = try fixture.connect().createTopic(name)
            #expect(Int(result.errorCode) == code && result.errorMessage != nil)
        }
    }

    @Test("A bad setting or count is refused and nothing is made")
    func badTopics() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            #expect(try client.createTopic("a", configs: ["retention.sm": "1"]).errorCode == 40)
            #expect(try client.createTopic("a", configs: ["cleanup.policy": "burn"]).errorCode == 40)
            #expect(try client.createTopic("a", partitions: 0).errorCode == 37)
            let all = try client.call(MetadataRequest(topics: nil), version: 12)
            #expect(all.topics.isEmpty)
        }
    }

    @Test("Metadata makes a topic only where it is allowed to")
    func autoCreation() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            let asked = [MetadataRequest.MetadataRequestTopic(name: "t")]
            let no = try client.call(MetadataRequest(topics: asked, allowAutoTopicCreation: false), version: 12)
            #expect(no.topics[0].errorCode == 3)
            let yes = try client.call(MetadataRequest(topics: asked, allowAutoTopicCreation: true), version: 12)
            #expect(yes.topics[0].errorCode == 0 && yes.topics[0].partitions.count == 1)
        }
    }

    @Test("A restart keeps topics, ids, settings and records; producer ids are not given twice")
    func restart() async throws {
        let fixture = BrokerFixture()
        try await fixture.start()
        let client = try fixture.connect()
        let topic = try client.createTopic("t", partitions: 3, configs: ["retention.ms": "12345"])
        _ = try client.produce("t", try Raw.batch(["kept"]), partition: 2)
        let producer = try client.call(InitProducerIdRequest(transactionalId: nil), version: 4)
        try await fixture.stop()
        try await fixture.start()
        let again = try fixture.connect()
        let metadata = try again.call(MetadataRequest(topics: [.init(name: "t")]), version: 12)
        #expect(metadata.topics[0].topicId == topic.topicId && metadata.topics[0].partitions.count == 3)
        #expect(try Raw.values(try again.fetch("t", from: 0, partition: 2)) == ["kept"])
        let configs = try again.call(
            DescribeConfigsRequest(resources: [.init(resourceType: 2, resourceName: "t", configurationKeys: nil)]),
            version: 4
        )
        #expect(configs.results[0].configs.first { $0.name == "retention.ms" }?.value == "12345")
        let next = try again.call(InitProducerIdRequest(transactionalId: nil), version: 4)
        #expect(next.producerId > producer.producerId)
        try await fixture.stop()
    }

    @Test("A folder of another node is refused with advice")
    func otherNode() async throws {
        let fixture = BrokerFixture()
        try await fixture.start()
        try await fixture.stop()
        var configuration = BrokerConfiguration()
        configuration.dataDirectory = fixture.directory + "/data"
        configuration.nodeID = 2
        configuration.listen = HostPort(host: "127.0.0.1", port: 0)
        configuration.http = nil
        let broker = Broker(configuration: configuration, logger: .init(label: "other"))
        await #expect {
            try await broker.run()
        } throws: { error in
            (error as? BrokerError)?.message.contains("--node-id 1") == true
        }
    }
}
