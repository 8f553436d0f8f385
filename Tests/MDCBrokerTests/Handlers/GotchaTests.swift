// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// Where brokers that speak Kafka's protocol have broken real clients. The numbers are those of the table in
/// docs/testing.md, which names the tests of the others too.
@Suite("Gotchas", .serialized)
struct GotchaTests {
    typealias Raw = RawKafkaConnection

    private func versions(_ client: Raw, _ version: Int16) throws -> ApiVersionsResponse {
        try client.call(ApiVersionsRequest(clientSoftwareName: "raw", clientSoftwareVersion: "1.0"), version: version)
    }

    @Test(
        "Gotcha 1: ApiVersions is answered with header 0 in every version; an unknown one gets 35 and stays connected"
    )
    func gotcha01APIVersionsHeader() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            for version in Int16(0)...4 {
                let correlation = try client.send(
                    ApiVersionsRequest(clientSoftwareName: "raw", clientSoftwareVersion: "1.0"),
                    version: version
                )
                guard var frame = try client.receiveFrame() else { throw Raw.Failure(description: "closed") }
                // Correlation id, and then at once the error code: no byte of tagged fields in between.
                #expect(frame.readInteger(as: Int32.self) == correlation)
                #expect(frame.readInteger(as: Int16.self) == 0)
                if version >= 3 {
                    #expect(frame.readInteger(as: UInt8.self) ?? 0 > 20, "the number of APIs, plus one")
                } else {
                    #expect(frame.readInteger(as: Int32.self) ?? 0 > 20)
                }
            }
            try client.send([0, 0, 0, 10, 0, 18, 0, 99, 0, 0, 0, 7, 0xFF, 0xFF])
            guard var frame = try client.receiveFrame() else { throw Raw.Failure(description: "closed") }
            #expect(frame.readInteger(as: Int32.self) == 7)
            #expect(frame.readInteger(as: Int16.self) == 35)
            // The range that would have been served, as version 0 says it: not an array of -1.
            let count = frame.readInteger(as: Int32.self) ?? -1
            #expect(count > 0 && frame.readableBytes == Int(count) * 6)
            #expect(try versions(client, 4).errorCode == 0)
        }
    }

    @Test(
        "Gotcha 2: features whose least level is 0 are left out of ApiVersions 3, which old Java clients cannot parse"
    )
    func gotcha02FeaturesOfLevelZero() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            let three = try versions(client, 3)
            let four = try versions(client, 4)
            #expect(three.supportedFeatures.contains { $0.name == "metadata.version" })
            #expect(three.supportedFeatures.allSatisfy { $0.minVersion > 0 })
            let all = Set(four.supportedFeatures.map(\.name))
            #expect(Set(three.supportedFeatures.map(\.name)).isSubset(of: all))
            // There are such features, or nothing would be shown.
            #expect(four.supportedFeatures.contains { $0.minVersion == 0 })
        }
    }

    @Test("Gotcha 3: the versions that clients use without asking are served; Produce 0–2 is announced and refused")
    func gotcha03OldVersions() async throws {
        try await BrokerFixture.with({ $0.groupInitialRebalanceDelay = 0 }) { fixture in
            let client = try fixture.connect()
            let announced = try versions(client, 3).apiKeys
            #expect(announced.contains { $0.apiKey == 0 && $0.minVersion == 0 && $0.maxVersion == 13 })
            try client.createTopic("t")
            for version in Int16(0)...2 {
                let refused = try client.call(
                    ProduceRequest(
                        acks: 1,
                        timeoutMs: 1000,
                        topicData: [.init(name: "t", partitionData: [.init(index: 0, records: try Raw.batch(["x"]))])]
                    ),
                    version: version
                )
                #expect(refused.responses[0].partitionResponses[0].errorCode == 35)
            }
            let end = try client.call(
                ListOffsetsRequest(topics: [.init(name: "t", partitions: [.init(partitionIndex: 0, timestamp: -1)])]),
                version: 1
            )
            #expect(end.topics[0].partitions[0].offset == 0, "what was refused was not stored")
            for version in [Int16(1), 2, 0] { try Self.groupRound(client, joinVersion: version) }
        }
    }

    /// A whole life of a member in the versions that kafka-go has built in.
    private static func groupRound(_ client: Raw, joinVersion: Int16) throws {
        let group = "old-\(joinVersion)"
        var found = try client.call(FindCoordinatorRequest(key: group), version: 0)
        for _ in 0..<100 where found.errorCode == ErrorCode.coordinatorNotAvailable.rawValue {
            found = try client.call(FindCoordinatorRequest(key: group), version: 0)
        }
        #expect(found.errorCode == 0)
        var joined = JoinGroupResponse()
        for _ in 0..<2_000 {
            joined = try client.call(
                JoinGroupRequest(
                    groupId: group,
                    sessionTimeoutMs: 10_000,
                    rebalanceTimeoutMs: 10_000,
                    memberId: "",
                    protocolType: "consumer",
                    protocols: [.init(name: "range", metadata: ByteBuffer(string: "m"))]
                ),
                version: joinVersion
            )
            let code = ErrorCode(rawValue: joined.errorCode)
            guard code == .coordinatorLoadInProgress || code == .notCoordinator else { break }
        }
        #expect(joined.errorCode == 0 && joined.leader == joined.memberId)
        let synced = try client.call(
            SyncGroupRequest(
                groupId: group,
                generationId: joined.generationId,
                memberId: joined.memberId,
                assignments: [.init(memberId: joined.memberId, assignment: ByteBuffer(string: "all"))]
            ),
            version: 0
        )
        #expect(synced.errorCode == 0 && synced.assignment == ByteBuffer(string: "all"))
        let alive = try client.call(
            HeartbeatRequest(groupId: group, generationId: joined.generationId, memberId: joined.memberId),
            version: 0
        )
        #expect(alive.errorCode == 0)
        let committed = try client.call(
            OffsetCommitRequest(
                groupId: group,
                generationIdOrMemberEpoch: joined.generationId,
                memberId: joined.memberId,
                topics: [.init(name: "t", partitions: [.init(partitionIndex: 0, committedOffset: 9)])]
            ),
            version: 2
        )
        #expect(committed.topics[0].partitions[0].errorCode == 0)
        let fetched = try client.call(
            OffsetFetchRequest(groupId: group, topics: [.init(name: "t", partitionIndexes: [0])]),
            version: 1
        )
        #expect(fetched.topics[0].partitions[0].committedOffset == 9)
        let left = try client.call(LeaveGroupRequest(groupId: group, memberId: joined.memberId), version: 0)
        #expect(left.errorCode == 0)
    }

    @Test("Gotcha 5: topic ids are never zero, survive a restart, and a topic that is made again has another")
    func gotcha05TopicIDs() async throws {
        let fixture = BrokerFixture()
        try await fixture.start()
        let client = try fixture.connect()
        let old = try client.createTopic("t").topicId
        #expect(old != .zero)
        // By a client that asks for metadata without ids and then speaks versions that need them.
        #expect(try Self.produceByID(client, .zero) == ErrorCode.unknownTopicId.rawValue)
        #expect(try Self.fetchByID(client, .zero) == ErrorCode.unknownTopicId.rawValue)
        #expect(try Self.produceByID(client, old) == 0)
        try await fixture.stop()
        try await fixture.start()
        let again = try fixture.connect()
        let metadata = try again.call(MetadataRequest(topics: [.init(name: "t")]), version: 10)
        #expect(metadata.topics[0].topicId == old)
        _ = try again.call(DeleteTopicsRequest(topics: [.init(name: "t")], timeoutMs: 1000), version: 6)
        let new = try again.createTopic("t").topicId
        #expect(new != old && new != .zero)
        #expect(try Self.produceByID(again, old) == ErrorCode.unknownTopicId.rawValue)
        #expect(try Self.fetchByID(again, old) == ErrorCode.unknownTopicId.rawValue)
        #expect(try Self.produceByID(again, new) == 0)
        try await fixture.stop()
    }

    private static func produceByID(_ client: Raw, _ id: TopicID) throws -> Int16 {
        try client.call(
            ProduceRequest(
                acks: -1,
                timeoutMs: 1000,
                topicData: [.init(topicId: id, partitionData: [.init(index: 0, records: try Raw.batch(["x"]))])]
            ),
            version: 13
        ).responses[0].partitionResponses[0].errorCode
    }

    private static func fetchByID(_ client: Raw, _ id: TopicID, epoch: Int32 = -1) throws -> Int16 {
        try fetchAnswer(client, id, epoch: epoch, version: 16).responses[0].partitions[0].errorCode
    }

    private static func fetchAnswer(_ client: Raw, _ id: TopicID, epoch: Int32, version: Int16) throws -> FetchResponse
    {
        try client.call(
            FetchRequest(
                maxWaitMs: 0,
                minBytes: 1,
                maxBytes: 1 << 20,
                topics: [
                    .init(
                        topicId: id,
                        partitions: [
                            .init(partition: 0, currentLeaderEpoch: epoch, fetchOffset: 0, partitionMaxBytes: 1 << 20)
                        ]
                    )
                ]
            ),
            version: version
        )
    }

    @Test(
        "Gotcha 6: leader epochs are real; stale ones are fenced everywhere, and the answer names the leader (KIP-951)"
    )
    func gotcha06LeaderEpochs() async throws {
        let fixture = BrokerFixture()
        try await fixture.start()
        var client = try fixture.connect()
        let id = try client.createTopic("t").topicId
        _ = try client.produce("t", try Raw.batch(["x"]))
        try await fixture.stop()
        try await fixture.start()
        client = try fixture.connect()
        let epoch = try client.call(MetadataRequest(topics: [.init(name: "t")]), version: 12)
            .topics[0].partitions[0].leaderEpoch
        #expect(epoch > 0, "a restart raises the epoch")
        let expected: [(Int32, ErrorCode)] = [
            (epoch - 1, .fencedLeaderEpoch), (epoch, .none), (epoch + 1, .unknownLeaderEpoch), (-1, .none),
        ]
        for (asked, code) in expected {
            let fetched = try Self.fetchAnswer(client, id, epoch: asked, version: 18)
            #expect(fetched.responses[0].partitions[0].errorCode == code.rawValue, "Fetch with \(asked)")
            let leader = fetched.responses[0].partitions[0].currentLeader
            if code == .fencedLeaderEpoch {
                #expect(leader.leaderEpoch == epoch)
                let node = fetched.nodeEndpoints.first { $0.nodeId == leader.leaderId }
                #expect(node.map { Int($0.port) } == fixture.addresses.listen.port)
            } else {
                #expect(leader.leaderId == -1 && fetched.nodeEndpoints.isEmpty)
            }
            let listed = try client.call(
                ListOffsetsRequest(
                    topics: [
                        .init(
                            name: "t",
                            partitions: [.init(partitionIndex: 0, currentLeaderEpoch: asked, timestamp: -1)]
                        )
                    ]
                ),
                version: 7
            )
            #expect(listed.topics[0].partitions[0].errorCode == code.rawValue, "ListOffsets with \(asked)")
            let ended = try client.call(
                OffsetForLeaderEpochRequest(
                    topics: [
                        .init(
                            topic: "t",
                            partitions: [.init(partition: 0, currentLeaderEpoch: asked, leaderEpoch: 0)]
                        )
                    ]
                ),
                version: 4
            )
            #expect(ended.topics[0].partitions[0].errorCode == code.rawValue, "OffsetForLeaderEpoch with \(asked)")
        }
        // Before version 16 there is no room for the address, and clients do not look for the leader.
        let old = try Self.fetchAnswer(client, id, epoch: epoch - 1, version: 15)
        #expect(old.responses[0].partitions[0].currentLeader.leaderId == -1)
        try await fixture.stop()
    }

    @Test(
        "Gotcha 7: fetch sessions count their epochs: 70 for an unknown one, 71 for a wrong epoch; epoch 0 starts anew"
    )
    func gotcha07FetchSessions() async throws {
        try await BrokerFixture.with({ $0.fetchSessionSlots = 2 }) { fixture in
            let client = try fixture.connect()
            let topic = try client.createTopic("t").topicId
            func fetch(_ id: Int32, _ epoch: Int32, named: Bool = true) throws -> FetchResponse {
                let partition = FetchRequest.FetchPartition(partition: 0, fetchOffset: 0, partitionMaxBytes: 1 << 20)
                return try client.call(
                    FetchRequest(
                        maxWaitMs: 0,
                        minBytes: 1,
                        maxBytes: 1 << 20,
                        sessionId: id,
                        sessionEpoch: epoch,
                        topics: named ? [.init(topicId: topic, partitions: [partition])] : []
                    ),
                    version: 18
                )
            }
            let made = try fetch(0, 0)
            #expect(made.sessionId > 0 && made.responses.count == 1)
            #expect(try fetch(made.sessionId, 1, named: false).responses.isEmpty)
            #expect(try fetch(made.sessionId, 1, named: false).errorCode == 71)
            #expect(try fetch(made.sessionId &+ 1, 1, named: false).errorCode == 70)
            let anew = try fetch(made.sessionId, 0)
            #expect(anew.sessionId > 0 && anew.sessionId != made.sessionId && anew.responses.count == 1)
            #expect(try fetch(made.sessionId, 2, named: false).errorCode == 70)
            #expect(try fetch(0, -1).sessionId == 0)
            // More clients than slots: some go without a session, all are answered.
            for _ in 0..<5 { #expect(try fetch(0, 0).responses.count == 1) }
        }
    }

    @Test("Gotcha 10: acks=0 is never answered, not even with an error")
    func gotcha10AcksZero() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            func send(_ topic: String) throws {
                try client.send(
                    ProduceRequest(
                        acks: 0,
                        timeoutMs: 1000,
                        topicData: [.init(name: topic, partitionData: [.init(index: 0, records: try Raw.batch(["x"]))])]
                    ),
                    version: 9
                )
            }
            for _ in 0..<3 { try send("t") }
            // The next answer is that of the next request; and the records are there once they are durable.
            var end = Int64(-1)
            for _ in 0..<3_000 where end < 3 {
                end = try client.call(
                    ListOffsetsRequest(
                        topics: [.init(name: "t", partitions: [.init(partitionIndex: 0, timestamp: -1)])]
                    ),
                    version: 5
                ).topics[0].partitions[0].offset
                if end < 3 { try await Task.sleep(for: .milliseconds(10)) }
            }
            #expect(end == 3)
            try send("nowhere")
            #expect(try client.isClosedByPeer())
        }
    }

    @Test("Gotcha 11: a producer whose state is gone is accepted with any sequence; a gap in known state is not")
    func gotcha11ForgottenProducers() async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            try client.createTopic("t")
            let producer = try client.call(InitProducerIdRequest(transactionalId: nil), version: 4)
            func batch(_ sequence: Int32, epoch: Int16 = 0) throws -> ByteBuffer {
                try Raw.batch(
                    ["x"],
                    producerID: ProducerID(producer.producerId),
                    producerEpoch: epoch,
                    sequence: sequence
                )
            }
            // Idle for longer than its state is kept, or its records were deleted: it goes on where it was.
            #expect(try client.produce("t", try batch(17)).errorCode == 0)
            #expect(try client.produce("t", try batch(18)).errorCode == 0)
            #expect(try client.produce("t", try batch(20)).errorCode == ErrorCode.outOfOrderSequenceNumber.rawValue)
            // A new epoch starts at 0 (KIP-360).
            let next = try client.produce("t", try batch(5, epoch: 1)).errorCode
            #expect(next == ErrorCode.outOfOrderSequenceNumber.rawValue)
            #expect(try client.produce("t", try batch(0, epoch: 1)).errorCode == 0)
            #expect(try client.produce("t", try batch(19)).errorCode == ErrorCode.invalidProducerEpoch.rawValue)
        }
    }

    @Test("Gotcha 12: from version 4 on JoinGroup first gives an id; the first rebalance waits 200 ms, not 3 s")
    func gotcha12FirstJoin() {
        #expect(BrokerConfiguration().groupInitialRebalanceDelay == 200)
        for version in Int16(0)...9 {
            var group = GroupHarness()
            let first = group.join(version: version)
            guard version >= 4 else {
                group.advance(200)
                #expect(group.joined(first)?.errorCode == 0)
                continue
            }
            #expect(group.error(first) == .memberIdRequired)
            let id = group.joined(first)?.memberId ?? ""
            #expect(!id.isEmpty)
            let second = group.join(member: id, version: version)
            group.advance(200)
            #expect(group.joined(second)?.memberId == id && group.joined(second)?.errorCode == 0)
        }
    }

    @Test("Gotcha 13: old tools see a consumer group as Dead, newer ones are told; lists filter by type and by state")
    func gotcha13TypesOfGroups() {
        var group = GroupHarness(topics: topicImage())
        var member = ConsumerClient(id: "a")
        member.beat(&group, topics: ["t"])
        let old = group.shard.describe("g", RequestOrigin(apiVersion: 5))
        #expect(old.groupState == "Dead" && old.errorCode == 0 && old.members.isEmpty)
        let new = group.shard.describe("g", RequestOrigin(apiVersion: 6))
        #expect(new.groupState == "Dead" && new.errorCode == ErrorCode.groupIdNotFound.rawValue)
        _ = group.join("classic", version: 0)
        func list(_ types: [String], _ states: [String] = []) -> [String] {
            group.shard.list(ListGroupsRequest(statesFilter: states, typesFilter: types)).map(\.groupId)
        }
        #expect(list([]) == ["classic", "g"])
        #expect(list(["consumer"]) == ["g"])
        #expect(list(["Classic"]) == ["classic"])
        #expect(list(["share"]) == [])
        #expect(list([], ["stable"]) == ["g"])
        #expect(list(["classic"], ["stable"]) == [])
    }

    @Test(
        "Gotcha 14: an array that claims more than it can hold is refused before anything is allocated for it",
        arguments: [Int32(0x7FFF_FFFF), 1_000_001, -2]
    )
    func gotcha14Allocations(count: Int32) async throws {
        try await BrokerFixture.with { fixture in
            let client = try fixture.connect()
            // Metadata version 1: the number of topics, and then nothing.
            var frame: [UInt8] = [0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xFF, 0xFF]
            frame += withUnsafeBytes(of: count.bigEndian) { Array($0) }
            try client.send(frame)
            #expect(try client.isClosedByPeer())
            // Others are served.
            #expect(try versions(try fixture.connect(), 4).errorCode == 0)
        }
    }
}
