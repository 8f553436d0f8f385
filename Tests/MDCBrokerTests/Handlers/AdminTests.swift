// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

@Suite("Requests of administrators", .serialized)
struct AdminTests {
    @Test("Partitions may be assigned by hand, to the node alone, numbered from 0")
    func assignment() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            func create(_ name: String, _ assignments: [(Int32, [Int32])], partitions: Int32 = -1) throws -> Int16 {
                try client.call(
                    CreateTopicsRequest(
                        topics: [
                            .init(
                                name: name,
                                numPartitions: partitions,
                                replicationFactor: -1,
                                assignments: assignments.map { .init(partitionIndex: $0.0, brokerIds: $0.1) }
                            )
                        ],
                        timeoutMs: 1000
                    ),
                    version: 7
                ).topics[0].errorCode
            }
            #expect(try create("a", [(0, [1]), (1, [1])]) == 0)
            #expect(try create("b", [(0, [1]), (2, [1])]) == ErrorCode.invalidReplicaAssignment.rawValue)
            #expect(try create("b", [(0, [2])]) == ErrorCode.invalidReplicaAssignment.rawValue)
            #expect(try create("b", [(0, [1]), (0, [1])]) == ErrorCode.invalidReplicaAssignment.rawValue)
            #expect(try create("b", [(0, [1])], partitions: 1) == ErrorCode.invalidRequest.rawValue)
            func grow(_ count: Int32, _ nodes: [[Int32]]?) throws -> Int16 {
                try client.call(
                    CreatePartitionsRequest(
                        topics: [
                            .init(name: "a", count: count, assignments: nodes?.map { .init(brokerIds: $0) })
                        ],
                        timeoutMs: 1000
                    ),
                    version: 3
                ).results[0].errorCode
            }
            #expect(try grow(2, nil) == ErrorCode.invalidPartitions.rawValue)
            #expect(try grow(4, [[1]]) == ErrorCode.invalidReplicaAssignment.rawValue)
            #expect(try grow(4, [[1], [1]]) == 0)
            #expect(try grow(5, nil) == 0)
        }
    }

    @Test("Pages of DescribeTopicPartitions follow one another by the cursor")
    func pages() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("a", partitions: 3)
            try client.createTopic("b", partitions: 2)
            var seen: [String] = []
            var cursor: DescribeTopicPartitionsRequest.Cursor?
            for _ in 0..<10 {
                let page = try client.call(
                    DescribeTopicPartitionsRequest(
                        topics: [.init(name: "b"), .init(name: "a"), .init(name: "missing")],
                        responsePartitionLimit: 2,
                        cursor: cursor
                    ),
                    version: 0
                )
                for topic in page.topics {
                    if topic.errorCode != 0 { seen.append("\(topic.name ?? ""):\(topic.errorCode)") }
                    seen += topic.partitions.map { "\(topic.name ?? "")-\($0.partitionIndex)" }
                }
                #expect(page.topics.reduce(0) { $0 + $1.partitions.count } <= 2)
                guard let next = page.nextCursor else { break }
                cursor = .init(topicName: next.topicName, partitionIndex: next.partitionIndex)
            }
            #expect(seen == ["a-0", "a-1", "a-2", "b-0", "b-1", "missing:3"])
            let bad = try client.call(
                DescribeTopicPartitionsRequest(
                    topics: [.init(name: "a")],
                    responsePartitionLimit: 2,
                    cursor: .init(topicName: "a", partitionIndex: -1)
                ),
                version: 0
            )
            #expect(bad.topics[0].errorCode == ErrorCode.invalidRequest.rawValue)
        }
    }

    @Test("On a node of its own leaders are the preferred ones, and replicas have nowhere else to go")
    func replicas() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            let elected = try client.call(
                ElectLeadersRequest(
                    electionType: 0,
                    topicPartitions: [.init(topic: "t", partitions: [0, 9])],
                    timeoutMs: 1000
                ),
                version: 2
            )
            #expect(
                elected.replicaElectionResults[0].partitionResult.map(\.errorCode) == [
                    ErrorCode.electionNotNeeded.rawValue, ErrorCode.unknownTopicOrPartition.rawValue,
                ]
            )
            let all = try client.call(ElectLeadersRequest(electionType: 1, topicPartitions: nil), version: 2)
            #expect(all.errorCode == 0 && all.replicaElectionResults.isEmpty)
            #expect(
                try client.call(ElectLeadersRequest(electionType: 9), version: 2).errorCode
                    == ErrorCode.invalidRequest.rawValue
            )
            func move(_ index: Int32, _ nodes: [Int32]?) throws -> Int16 {
                try client.call(
                    AlterPartitionReassignmentsRequest(
                        timeoutMs: 1000,
                        topics: [.init(name: "t", partitions: [.init(partitionIndex: index, replicas: nodes)])]
                    ),
                    version: 1
                ).responses[0].partitions[0].errorCode
            }
            #expect(try move(0, [1]) == 0)
            #expect(try move(0, [2]) == ErrorCode.invalidReplicaAssignment.rawValue)
            #expect(try move(0, []) == ErrorCode.invalidReplicaAssignment.rawValue)
            #expect(try move(0, [1, 1]) == ErrorCode.invalidReplicaAssignment.rawValue)
            #expect(try move(0, nil) == ErrorCode.noReassignmentInProgress.rawValue)
            #expect(try move(4, [1]) == ErrorCode.unknownTopicOrPartition.rawValue)
            let moving = try client.call(ListPartitionReassignmentsRequest(timeoutMs: 1000, topics: nil), version: 0)
            #expect(moving.errorCode == 0 && moving.topics.isEmpty)
        }
    }

    @Test("Nobody is asked for telemetry, and what is pushed all the same is refused")
    func telemetry() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            let subscriptions = try client.call(GetTelemetrySubscriptionsRequest(), version: 0)
            #expect(subscriptions.errorCode == 0 && subscriptions.requestedMetrics.isEmpty)
            #expect(subscriptions.clientInstanceId != .zero && subscriptions.pushIntervalMs > 0)
            let again = try client.call(
                GetTelemetrySubscriptionsRequest(clientInstanceId: subscriptions.clientInstanceId),
                version: 0
            )
            #expect(again.clientInstanceId == subscriptions.clientInstanceId)
            let push = try client.call(
                PushTelemetryRequest(clientInstanceId: subscriptions.clientInstanceId, subscriptionId: 1),
                version: 0
            )
            #expect(push.errorCode == ErrorCode.unknownSubscriptionId.rawValue)
        }
    }

    @Test("DeleteRecords moves the start; not beyond the high watermark, not of a compacted topic")
    func deleteRecords() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            try client.createTopic("c", configs: ["cleanup.policy": "compact"])
            _ = try client.produce("t", try RawKafkaConnection.batch(["a", "b", "c"]))
            func delete(_ topic: String, _ offset: Int64, partition: Int32 = 0) throws
                -> DeleteRecordsResponse.DeleteRecordsPartitionResult
            {
                try client.call(
                    DeleteRecordsRequest(
                        topics: [
                            .init(name: topic, partitions: [.init(partitionIndex: partition, offset: offset)])
                        ],
                        timeoutMs: 1000
                    ),
                    version: 2
                ).topics[0].partitions[0]
            }
            #expect(try delete("t", 2).lowWatermark == 2)
            #expect(try delete("t", 1).lowWatermark == 2)
            #expect(try delete("t", 4).errorCode == ErrorCode.offsetOutOfRange.rawValue)
            #expect(try delete("t", -2).errorCode == ErrorCode.offsetOutOfRange.rawValue)
            #expect(try delete("t", -1).lowWatermark == 3)
            #expect(try client.fetch("t", from: 2).errorCode == ErrorCode.offsetOutOfRange.rawValue)
            #expect(try delete("c", 0).errorCode == ErrorCode.policyViolation.rawValue)
            #expect(try delete("t", 0, partition: 5).errorCode == ErrorCode.unknownTopicOrPartition.rawValue)
        }
    }

    @Test("DescribeLogDirs tells sizes of what is asked for; DescribeCluster who is here")
    func places() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t", partitions: 2)
            _ = try client.produce("t", try RawKafkaConnection.batch(["a"]))
            let all = try client.call(DescribeLogDirsRequest(topics: nil), version: 5)
            #expect(all.errorCode == 0 && all.results.count == 1)
            #expect(all.results[0].totalBytes > 0 && all.results[0].usableBytes > 0)
            let partitions = all.results[0].topics.first { $0.name == "t" }?.partitions ?? []
            #expect(partitions.map(\.partitionIndex).sorted() == [0, 1])
            #expect(partitions.first { $0.partitionIndex == 0 }?.partitionSize ?? 0 > 0)
            let one = try client.call(
                DescribeLogDirsRequest(topics: [.init(topic: "t", partitions: [1])]),
                version: 5
            )
            #expect(one.results[0].topics.flatMap(\.partitions).map(\.partitionIndex) == [1])
            let cluster = try client.call(DescribeClusterRequest(), version: 2)
            #expect(cluster.errorCode == 0 && cluster.brokers.map(\.brokerId) == [1] && cluster.controllerId == 1)
            let controllers = try client.call(DescribeClusterRequest(endpointType: 2), version: 2)
            #expect(controllers.errorCode == ErrorCode.mismatchedEndpointType.rawValue)
        }
    }
}
