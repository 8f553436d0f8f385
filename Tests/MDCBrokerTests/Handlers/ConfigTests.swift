// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

@Suite("Settings that are changed while the node runs", .serialized)
struct ConfigTests {
    typealias Described = DescribeConfigsResponse.DescribeConfigsResourceResult

    private func describe(
        _ client: RawKafkaConnection,
        _ type: Int8,
        _ name: String,
        keys: [String]? = nil
    ) throws -> (code: Int16, configs: [String: Described]) {
        let result = try client.call(
            DescribeConfigsRequest(
                resources: [.init(resourceType: type, resourceName: name, configurationKeys: keys)],
                includeSynonyms: true,
                includeDocumentation: true
            ),
            version: 4
        ).results[0]
        return (result.errorCode, Dictionary(result.configs.map { ($0.name, $0) }, uniquingKeysWith: { $1 }))
    }

    private func alter(
        _ client: RawKafkaConnection,
        _ type: Int8,
        _ name: String,
        _ operation: Int8,
        _ key: String,
        _ value: String?,
        validateOnly: Bool = false
    ) throws -> Int16 {
        try client.call(
            IncrementalAlterConfigsRequest(
                resources: [
                    .init(
                        resourceType: type,
                        resourceName: name,
                        configs: [.init(name: key, configOperation: operation, value: value)]
                    )
                ],
                validateOnly: validateOnly
            ),
            version: 1
        ).responses[0].errorCode
    }

    @Test(
        "A topic's setting comes from the topic, the node, all nodes, the file or the default; synonyms tell in order"
    )
    func sources() async throws {
        let fixture = BrokerFixture { try? $0.set("log.retention.ms", to: "5000") }
        try await fixture.start()
        var client = try fixture.connect()
        try client.createTopic("t")
        func retention() throws -> Described? {
            try describe(client, 2, "t", keys: ["retention.ms"]).configs["retention.ms"]
        }
        #expect(try retention()?.configSource == 4)
        #expect(try alter(client, 4, "", 0, "log.retention.ms", "6000") == 0)
        #expect(try retention()?.value == "6000" && retention()?.configSource == 3)
        #expect(try alter(client, 4, "1", 0, "log.retention.ms", "7000") == 0)
        #expect(try retention()?.value == "7000" && retention()?.configSource == 2)
        #expect(try alter(client, 2, "t", 0, "retention.ms", "8000") == 0)
        let all = try retention()
        #expect(all?.value == "8000" && all?.configSource == 1 && all?.configType == SettingType.long.rawValue)
        #expect(all?.documentation?.isEmpty == false)
        #expect(all?.synonyms.map(\.source) == [1, 2, 3, 4, 5])
        #expect(all?.synonyms.map(\.value) == ["8000", "7000", "6000", "5000", "604800000"])
        #expect(all?.synonyms.map(\.name).dropFirst().allSatisfy { $0 == "log.retention.ms" } == true)
        // Everything is there after a restart, and in force.
        try await fixture.stop()
        try await fixture.start()
        client = try fixture.connect()
        #expect(try retention()?.synonyms.map(\.value) == ["8000", "7000", "6000", "5000", "604800000"])
        #expect(try alter(client, 2, "t", 1, "retention.ms", nil) == 0)
        #expect(try alter(client, 4, "1", 1, "log.retention.ms", nil) == 0)
        #expect(try alter(client, 4, "", 1, "log.retention.ms", nil) == 0)
        #expect(try retention()?.value == "5000" && retention()?.configSource == 4)
        try await fixture.stop()
    }

    @Test("What is changed for the node takes effect at once: size of messages, partitions of new topics, sessions")
    func effects() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            #expect(try alter(client, 4, "1", 0, "message.max.bytes", "100") == 0)
            let large = try RawKafkaConnection.batch([String(repeating: "x", count: 500)])
            #expect(try client.produce("t", large).errorCode == ErrorCode.messageTooLarge.rawValue)
            #expect(try alter(client, 4, "1", 1, "message.max.bytes", nil) == 0)
            #expect(try client.produce("t", large).errorCode == 0)
            #expect(try alter(client, 4, "", 0, "num.partitions", "3") == 0)
            #expect(try client.createTopic("u", partitions: -1).numPartitions == 3)
            #expect(try alter(client, 4, "", 0, "min.insync.replicas", "2") == 0)
            #expect(try client.produce("t", large).errorCode == ErrorCode.notEnoughReplicas.rawValue)
            #expect(try alter(client, 4, "", 1, "min.insync.replicas", nil) == 0)
            #expect(try alter(client, 4, "", 0, "group.max.session.timeout.ms", "7000") == 0)
            #expect(try describe(client, 4, "1").configs["group.max.session.timeout.ms"]?.value == "7000")
        }
    }

    @Test("A node's settings: read-only ones and unknown ones are refused, validate_only changes nothing")
    func brokerRefusals() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            #expect(try alter(client, 4, "1", 0, "node.id", "2") == ErrorCode.invalidRequest.rawValue)
            #expect(try alter(client, 4, "1", 0, "log.retention.mss", "2") == ErrorCode.invalidConfig.rawValue)
            #expect(try alter(client, 4, "1", 0, "log.retention.ms", "many") == ErrorCode.invalidConfig.rawValue)
            #expect(try alter(client, 4, "7", 0, "log.retention.ms", "1") == ErrorCode.invalidRequest.rawValue)
            #expect(try alter(client, 4, "x", 0, "log.retention.ms", "1") == ErrorCode.invalidRequest.rawValue)
            #expect(try alter(client, 8, "1", 0, "root", "DEBUG") == ErrorCode.invalidRequest.rawValue)
            #expect(try alter(client, 4, "1", 0, "log.retention.ms", nil) == ErrorCode.invalidRequest.rawValue)
            #expect(try alter(client, 4, "1", 0, "log.retention.ms", "9", validateOnly: true) == 0)
            let own = try describe(client, 4, "1").configs
            #expect(own["log.retention.ms"]?.configSource == 5 && own["log.retention.ms"]?.readOnly == false)
            #expect(own["node.id"]?.readOnly == true)
            #expect(try describe(client, 4, "").configs.isEmpty)
            #expect(try describe(client, 4, "7").code == ErrorCode.invalidRequest.rawValue)
            #expect(try describe(client, 2, "nothing").code == ErrorCode.unknownTopicOrPartition.rawValue)
        }
    }

    @Test("APPEND and SUBTRACT change lists alone, and begin with the value in force")
    func lists() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            #expect(try alter(client, 2, "t", 2, "cleanup.policy", "compact") == 0)
            #expect(try describe(client, 2, "t").configs["cleanup.policy"]?.value == "delete,compact")
            #expect(try alter(client, 2, "t", 2, "cleanup.policy", "compact") == 0)
            #expect(try alter(client, 2, "t", 3, "cleanup.policy", "delete") == 0)
            #expect(try describe(client, 2, "t").configs["cleanup.policy"]?.value == "compact")
            #expect(try alter(client, 2, "t", 2, "retention.ms", "1") == ErrorCode.invalidConfig.rawValue)
            #expect(try alter(client, 4, "1", 2, "log.cleanup.policy", "compact") == 0)
            #expect(try describe(client, 4, "1").configs["log.cleanup.policy"]?.value == "compact,delete")
        }
    }

    @Test("The old AlterConfigs replaces everything that was set")
    func legacy() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t", configs: ["retention.ms": "1000", "segment.bytes": "65536"])
            func replace(_ type: Int8, _ name: String, _ configs: [String: String?]) throws -> Int16 {
                try client.call(
                    AlterConfigsRequest(
                        resources: [
                            .init(
                                resourceType: type,
                                resourceName: name,
                                configs: configs.map { .init(name: $0.key, value: $0.value) }
                            )
                        ]
                    ),
                    version: 2
                ).responses[0].errorCode
            }
            #expect(try replace(2, "t", ["retention.ms": "2000"]) == 0)
            let configs = try describe(client, 2, "t").configs
            #expect(configs["retention.ms"]?.value == "2000" && configs["retention.ms"]?.configSource == 1)
            #expect(configs["segment.bytes"]?.configSource == 5)
            #expect(try replace(2, "t", ["retention.ms": nil]) == ErrorCode.invalidRequest.rawValue)
            #expect(try replace(4, "1", ["log.retention.ms": "3000", "num.partitions": "2"]) == 0)
            #expect(try replace(4, "1", ["log.retention.ms": "4000"]) == 0)
            let node = try describe(client, 4, "1").configs
            #expect(node["log.retention.ms"]?.value == "4000" && node["num.partitions"]?.configSource == 5)
        }
    }

    @Test("A group's settings have a default of the node and reach its members")
    func groups() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            #expect(try alter(client, 32, "g", 0, "consumer.heartbeat.interval.ms", "1234") == 0)
            #expect(try alter(client, 32, "g", 0, "share.auto.offset.reset", "earliest") == 0)
            #expect(
                try alter(client, 32, "g", 0, "share.auto.offset.reset", "middle") == ErrorCode.invalidConfig.rawValue
            )
            #expect(try alter(client, 32, "g", 0, "speed", "1") == ErrorCode.invalidConfig.rawValue)
            let configs = try describe(client, 32, "g").configs
            #expect(configs["consumer.heartbeat.interval.ms"]?.configSource == 8)
            #expect(configs["consumer.session.timeout.ms"]?.value == "45000")
            _ = try client.call(FindCoordinatorRequest(keyType: 0, coordinatorKeys: ["g"]), version: 4)
            var answer: ConsumerGroupHeartbeatResponse?
            for _ in 0..<200 where answer?.errorCode != 0 {
                answer = try client.call(
                    ConsumerGroupHeartbeatRequest(
                        groupId: "g",
                        memberId: "m",
                        memberEpoch: 0,
                        rebalanceTimeoutMs: 30_000,
                        subscribedTopicNames: ["t"],
                        topicPartitions: []
                    ),
                    version: 1
                )
                if answer?.errorCode != 0 { try await Task.sleep(for: .milliseconds(50)) }
            }
            #expect(answer?.heartbeatIntervalMs == 1234)
            let listed = try client.call(ListConfigResourcesRequest(resourceTypes: [32]), version: 1)
            #expect(listed.configResources == [.init(resourceName: "g", resourceType: 32)])
            let metrics = try client.call(ListConfigResourcesRequest(), version: 0)
            #expect(metrics.errorCode == 0 && metrics.configResources.isEmpty)
        }
    }

    @Test("Policies limit the topics that clients make: partitions and names")
    func policies() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            #expect(try alter(client, 4, "", 0, "topic.policy.max.partitions", "4") == 0)
            #expect(try alter(client, 4, "", 0, "topic.policy.name.pattern", "[") == ErrorCode.invalidConfig.rawValue)
            #expect(try alter(client, 4, "", 0, "topic.policy.name.pattern", "team-[a-z]+") == 0)
            let violation = ErrorCode.policyViolation.rawValue
            #expect(try client.createTopic("other").errorCode == violation)
            #expect(try client.createTopic("team-a", partitions: 5).errorCode == violation)
            #expect(try client.createTopic("team-a", partitions: 4).errorCode == 0)
            let grown = try client.call(
                CreatePartitionsRequest(topics: [.init(name: "team-a", count: 5, assignments: nil)], timeoutMs: 1000),
                version: 3
            )
            #expect(grown.results[0].errorCode == violation)
            // The broker's own topics are beyond its policies.
            let found = try client.call(FindCoordinatorRequest(keyType: 0, coordinatorKeys: ["g"]), version: 4)
            #expect(found.coordinators[0].errorCode == 0 || found.coordinators[0].errorCode == 15)
        }
    }
}
