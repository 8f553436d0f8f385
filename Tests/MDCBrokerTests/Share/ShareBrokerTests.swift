// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// A member of a share group over a socket.
private final class RawMember {
    let connection: RawKafkaConnection
    let group: String
    let id: String
    private(set) var sessionEpoch: Int32 = 0
    private(set) var memberEpoch: Int32 = 0
    var topicID = TopicID.zero

    init(_ fixture: BrokerFixture, _ group: String, _ id: String) throws {
        connection = try fixture.connect()
        self.group = group
        self.id = id
    }

    func join(_ topic: String) throws {
        let metadata = try connection.call(MetadataRequest(topics: [.init(name: topic)]), version: 12)
        topicID = metadata.topics.first?.topicId ?? .zero
        let found = try connection.call(FindCoordinatorRequest(keyType: 0, coordinatorKeys: [group]), version: 4)
        #expect(found.coordinators.first?.errorCode == 0)
        let response = try beat(epoch: 0, topics: [topic])
        #expect(response.errorCode == 0)
        #expect(response.assignment?.topicPartitions.map(\.topicId) == [topicID])
        memberEpoch = response.memberEpoch
    }

    @discardableResult
    func beat(epoch: Int32, topics: [String]? = nil) throws -> ShareGroupHeartbeatResponse {
        try connection.call(
            ShareGroupHeartbeatRequest(
                groupId: group,
                memberId: id,
                memberEpoch: epoch,
                subscribedTopicNames: topics
            ),
            version: 1
        )
    }

    /// One ShareFetch; the session's epoch counts by itself.
    func request(
        max: Int32 = 100,
        wait: Int32 = 0,
        epoch: Int32? = nil,
        strict: Bool = false,
        renew: Bool = false,
        _ entries: [(first: Int64, last: Int64, types: [Int8])] = []
    ) -> ShareFetchRequest {
        let request = ShareFetchRequest(
            groupId: group,
            memberId: id,
            shareSessionEpoch: epoch ?? sessionEpoch,
            maxWaitMs: wait,
            minBytes: renew ? 0 : 1,
            maxBytes: renew ? 0 : 1 << 20,
            maxRecords: max,
            batchSize: max,
            shareAcquireMode: strict ? 1 : 0,
            isRenewAck: renew,
            topics: [
                .init(
                    topicId: topicID,
                    partitions: [
                        .init(
                            partitionIndex: 0,
                            acknowledgementBatches: entries.map {
                                .init(firstOffset: $0.first, lastOffset: $0.last, acknowledgeTypes: $0.types)
                            }
                        )
                    ]
                )
            ]
        )
        if epoch == nil { sessionEpoch += 1 }
        return request
    }

    func fetch(
        max: Int32 = 100,
        wait: Int32 = 0,
        epoch: Int32? = nil,
        strict: Bool = false,
        renew: Bool = false,
        _ entries: [(first: Int64, last: Int64, types: [Int8])] = []
    ) throws -> ShareFetchResponse {
        try connection.call(
            request(max: max, wait: wait, epoch: epoch, strict: strict, renew: renew, entries),
            version: 2
        )
    }

    /// Fetches until something came.
    func get(max: Int32 = 100, strict: Bool = false) throws -> [ShareFetchResponse.AcquiredRecords] {
        for _ in 0..<60 {
            let response = try fetch(max: max, wait: 1_000, strict: strict)
            guard response.errorCode == 0 else { throw RawKafkaConnection.Failure(description: "\(response)") }
            let acquired = response.responses.first?.partitions.first?.acquiredRecords ?? []
            if !acquired.isEmpty { return acquired }
        }
        return []
    }

    func acknowledge(
        _ first: Int64,
        _ last: Int64,
        _ types: [Int8],
        epoch: Int32? = nil,
        renew: Bool = false
    ) throws -> ShareAcknowledgeResponse {
        let response = try connection.call(
            ShareAcknowledgeRequest(
                groupId: group,
                memberId: id,
                shareSessionEpoch: epoch ?? sessionEpoch,
                isRenewAck: renew,
                topics: [
                    .init(
                        topicId: topicID,
                        partitions: [
                            .init(
                                partitionIndex: 0,
                                acknowledgementBatches: [
                                    .init(firstOffset: first, lastOffset: last, acknowledgeTypes: types)
                                ]
                            )
                        ]
                    )
                ]
            ),
            version: 2
        )
        if epoch == nil { sessionEpoch += 1 }
        return response
    }
}

private func ranges(_ acquired: [ShareFetchResponse.AcquiredRecords]) -> [[Int64]] {
    acquired.map { [$0.firstOffset, $0.lastOffset, Int64($0.deliveryCount)] }
}

private func code(_ response: ShareAcknowledgeResponse) -> Int16 {
    response.errorCode != 0 ? response.errorCode : response.responses.first?.partitions.first?.errorCode ?? -1
}

/// Share groups over real sockets: what no client at hand asks for.
@Suite("Share groups over sockets", .serialized)
struct ShareBrokerTests {
    private static func with(
        _ configure: @escaping (inout BrokerConfiguration) -> Void = { _ in },
        _ body: (BrokerFixture, RawKafkaConnection) async throws -> Void
    ) async throws {
        try await BrokerFixture.with(configure) { fixture in
            let admin = try fixture.connect()
            try admin.createTopic("t")
            try Self.set(admin, "g", ["share.auto.offset.reset": "earliest"])
            try await body(fixture, admin)
        }
    }

    private static func set(_ admin: RawKafkaConnection, _ group: String, _ configs: [String: String]) throws {
        let response = try admin.call(
            IncrementalAlterConfigsRequest(
                resources: [
                    .init(
                        resourceType: 32,
                        resourceName: group,
                        configs: configs.map { .init(name: $0.key, configOperation: 0, value: $0.value) }
                    )
                ]
            ),
            version: 1
        )
        #expect(response.responses.first?.errorCode == 0)
    }

    private static func produce(_ admin: RawKafkaConnection, _ batches: Int, of size: Int = 5) throws {
        for _ in 0..<batches {
            let answer = try admin.produce("t", RawKafkaConnection.batch((0..<size).map { "v\($0)" }))
            #expect(answer.errorCode == 0)
        }
    }

    @Test("share.version is announced")
    func feature() async throws {
        try await Self.with { _, admin in
            let answer = try admin.call(
                ApiVersionsRequest(clientSoftwareName: "raw", clientSoftwareVersion: "1.0"),
                version: 4
            )
            #expect(answer.finalizedFeatures.contains { $0.name == "share.version" && $0.maxVersionLevel == 1 })
            #expect(answer.apiKeys.contains { $0.apiKey == 78 && $0.minVersion == 1 && $0.maxVersion == 2 })
        }
    }

    @Test("sessions: epochs are checked, a new one needs 0 and brings no acknowledgements")
    func sessions() async throws {
        try await Self.with { fixture, admin in
            try Self.produce(admin, 1)
            let member = try RawMember(fixture, "g", "m1")
            try member.join("t")
            #expect(try member.fetch(epoch: 3).errorCode == ErrorCode.shareSessionNotFound.rawValue)
            #expect(try member.fetch(epoch: 0, [(0, 1, [1])]).errorCode == ErrorCode.invalidRequest.rawValue)
            #expect(code(try member.acknowledge(0, 1, [1], epoch: 0)) == ErrorCode.invalidShareSessionEpoch.rawValue)
            #expect(ranges(try member.get()) == [[0, 4, 1]])
            #expect(try member.fetch(epoch: 77).errorCode == ErrorCode.invalidShareSessionEpoch.rawValue)
            #expect(code(try member.acknowledge(0, 4, [1])) == 0)
            let last = try member.fetch(epoch: -1)
            #expect(last.errorCode == 0)
            #expect(code(try member.acknowledge(0, 4, [1], epoch: -1)) == ErrorCode.shareSessionNotFound.rawValue)
        }
    }

    @Test("strict fetches take exactly what they ask for; others whole batches")
    func modes() async throws {
        try await Self.with { fixture, admin in
            try Self.produce(admin, 4)
            let one = try RawMember(fixture, "g", "m1")
            let two = try RawMember(fixture, "g", "m2")
            try one.join("t")
            try two.join("t")
            #expect(ranges(try one.get(max: 3, strict: true)) == [[0, 2, 1]])
            #expect(ranges(try two.get(max: 2)) == [[3, 4, 1]])
            let answer = try one.fetch(max: 2, wait: 1_000)
            let data = try #require(answer.responses.first?.partitions.first)
            #expect(answer.acquisitionLockTimeoutMs == 30_000)
            var batches = RecordBatchIterator(data.records ?? ByteBuffer())
            let first = try batches.next()
            #expect(first.map { $0.header.baseOffset.rawValue } == data.acquiredRecords.first?.firstOffset)
            #expect(try batches.next() == nil)
        }
    }

    @Test("acknowledgements are taken whole or not at all; renewal only where it is announced")
    func acknowledgements() async throws {
        try await Self.with { fixture, admin in
            try Self.produce(admin, 2)
            let member = try RawMember(fixture, "g", "m1")
            try member.join("t")
            #expect(ranges(try member.get(max: 10)) == [[0, 9, 1]])
            #expect(code(try member.acknowledge(5, 30, [1])) == ErrorCode.invalidRecordState.rawValue)
            #expect(code(try member.acknowledge(5, 6, [1, 1, 1])) == ErrorCode.invalidRequest.rawValue)
            #expect(code(try member.acknowledge(0, .max, [1])) == ErrorCode.invalidRecordState.rawValue)
            #expect(code(try member.acknowledge(0, .max, [1, 2])) == ErrorCode.invalidRequest.rawValue)
            #expect(code(try member.acknowledge(0, 4, [4])) == ErrorCode.invalidRequest.rawValue)
            #expect(code(try member.acknowledge(0, 4, [4], renew: true)) == 0)
            // Renewal within a fetch that fetches nothing.
            let renewed = try member.fetch(max: 0, renew: true, [(0, 4, [4])])
            #expect(renewed.responses.first?.partitions.first?.acknowledgeErrorCode == 0)
            #expect(try member.fetch(max: 5, renew: true, [(0, 4, [4])]).errorCode == 42)
        }
    }

    @Test("a fetch that waits is woken by new records and by records that were given back")
    func wakes() async throws {
        try await Self.with { fixture, admin in
            let one = try RawMember(fixture, "g", "m1")
            let two = try RawMember(fixture, "g", "m2")
            try one.join("t")
            try two.join("t")
            // Far longer than the test may take: only a wake answers these.
            let waiting = one.request(wait: 600_000)
            let correlation = try one.connection.send(waiting, version: 2)
            try Self.produce(admin, 1)
            let woken = try one.connection.receive(ShareFetchResponse.self, version: 2, correlation: correlation)
            #expect(ranges(woken.responses.first?.partitions.first?.acquiredRecords ?? []) == [[0, 4, 1]])
            let next = try two.connection.send(two.request(wait: 600_000), version: 2)
            #expect(code(try one.acknowledge(1, 2, [2])) == 0)
            let given = try two.connection.receive(ShareFetchResponse.self, version: 2, correlation: next)
            #expect(ranges(given.responses.first?.partitions.first?.acquiredRecords ?? []) == [[1, 2, 2]])
        }
    }

    @Test("a lock that ends wakes a waiting fetch; a connection that closes gives back at once")
    func locks() async throws {
        try await Self.with({ $0.shareRecordLockDuration = 300 }) { fixture, admin in
            try Self.produce(admin, 1)
            let one = try RawMember(fixture, "g", "m1")
            try one.join("t")
            #expect(ranges(try one.get()) == [[0, 4, 1]])
            let two = try RawMember(fixture, "g", "m2")
            try two.join("t")
            let next = try two.connection.send(two.request(wait: 600_000), version: 2)
            let given = try two.connection.receive(ShareFetchResponse.self, version: 2, correlation: next)
            #expect(ranges(given.responses.first?.partitions.first?.acquiredRecords ?? []) == [[0, 4, 2]])
        }
        try await Self.with({ $0.shareRecordLockDuration = 3_600_000 }) { fixture, admin in
            try Self.produce(admin, 1)
            var one: RawMember? = try RawMember(fixture, "g", "m1")
            try one?.join("t")
            #expect(ranges(try one?.get() ?? []) == [[0, 4, 1]])
            one = nil
            let two = try RawMember(fixture, "g", "m2")
            try two.join("t")
            #expect(ranges(try two.get()) == [[0, 4, 2]])
            // A farewell: what was not looked at was not delivered.
            _ = try two.fetch(epoch: -1)
            let three = try RawMember(fixture, "g", "m3")
            try three.join("t")
            #expect(ranges(try three.get()) == [[0, 4, 2]])
        }
    }

    @Test("what was accepted stays accepted through a restart, what was held comes again, counts go on")
    func restart() async throws {
        let fixture = BrokerFixture()
        try await fixture.start()
        let admin = try fixture.connect()
        try admin.createTopic("t")
        try Self.set(admin, "g", ["share.auto.offset.reset": "earliest"])
        try Self.produce(admin, 2)
        let member = try RawMember(fixture, "g", "m1")
        try member.join("t")
        #expect(ranges(try member.get(max: 10)) == [[0, 9, 1]])
        #expect(code(try member.acknowledge(0, 9, [1, 1, 3, 2, 1, 1, 1, 1, 2, 1])) == 0)
        try await fixture.stop()
        try await fixture.start()
        let again = try RawMember(fixture, "g", "m2")
        try again.join("t")
        #expect(ranges(try again.get(max: 10)) == [[3, 3, 2], [8, 8, 2]])
        let late = try fixture.connect()
        let offsets = try late.call(
            DescribeShareGroupOffsetsRequest(groups: [.init(groupId: "g", topics: nil)]),
            version: 1
        )
        let partition = try #require(offsets.groups.first?.topics.first?.partitions.first)
        #expect(partition.startOffset == 3 && partition.lag == 2)
        try await fixture.stop()
    }

    @Test("offsets are moved and forgotten while nobody is there")
    func offsets() async throws {
        try await Self.with { fixture, admin in
            try Self.produce(admin, 4)
            let member = try RawMember(fixture, "g", "m1")
            try member.join("t")
            #expect(ranges(try member.get(max: 5)) == [[0, 4, 1]])
            let alter = AlterShareGroupOffsetsRequest(
                groupId: "g",
                topics: [
                    .init(
                        topicName: "t",
                        partitions: [
                            .init(partitionIndex: 0, startOffset: 15), .init(partitionIndex: 9, startOffset: 1),
                        ]
                    )
                ]
            )
            #expect(try admin.call(alter, version: 0).errorCode == ErrorCode.nonEmptyGroup.rawValue)
            _ = try member.fetch(epoch: -1)
            try member.beat(epoch: -1)
            let altered = try admin.call(alter, version: 0)
            #expect(altered.errorCode == 0)
            #expect(altered.responses.first?.partitions.map(\.errorCode) == [0, 3])
            let two = try RawMember(fixture, "g", "m2")
            try two.join("t")
            #expect(ranges(try two.get()) == [[15, 19, 1]])
            _ = try two.fetch(epoch: -1)
            try two.beat(epoch: -1)
            let gone = try admin.call(
                DeleteShareGroupOffsetsRequest(groupId: "g", topics: [.init(topicName: "t"), .init(topicName: "x")]),
                version: 0
            )
            #expect(gone.responses.map(\.errorCode) == [0, 3])
            let three = try RawMember(fixture, "g", "m3")
            try three.join("t")
            #expect(ranges(try three.get()) == [[0, 19, 1]])
            let none = try admin.call(
                DescribeShareGroupOffsetsRequest(groups: [.init(groupId: "none", topics: nil)]),
                version: 1
            )
            #expect(none.groups.first?.errorCode == ErrorCode.groupIdNotFound.rawValue)
        }
    }

    @Test("records that the log gave up are passed over; a topic made anew is another topic")
    func logChanges() async throws {
        try await Self.with { fixture, admin in
            try Self.produce(admin, 4)
            let member = try RawMember(fixture, "g", "m1")
            try member.join("t")
            #expect(ranges(try member.get(max: 5)) == [[0, 4, 1]])
            _ = try admin.call(
                DeleteRecordsRequest(
                    topics: [.init(name: "t", partitions: [.init(partitionIndex: 0, offset: 10)])],
                    timeoutMs: 10_000
                ),
                version: 2
            )
            #expect(ranges(try member.get(max: 5)) == [[10, 14, 1]])
            #expect(code(try member.acknowledge(0, 4, [1])) == 0)
            let old = member.topicID
            _ = try admin.call(DeleteTopicsRequest(topics: [.init(name: "t")], timeoutMs: 10_000), version: 6)
            let error = try member.fetch(wait: 20_000)
            #expect(
                error.responses.first?.partitions.first?.errorCode == ErrorCode.unknownTopicId.rawValue
            )
            try admin.createTopic("t")
            try Self.produce(admin, 1)
            let two = try RawMember(fixture, "g", "m2")
            try two.join("t")
            #expect(two.topicID != old)
            #expect(ranges(try two.get()) == [[0, 4, 1]])
        }
    }

    @Test("a deleted group begins anew")
    func deletedGroup() async throws {
        try await Self.with { fixture, admin in
            try Self.produce(admin, 1)
            let member = try RawMember(fixture, "g", "m1")
            try member.join("t")
            #expect(ranges(try member.get()) == [[0, 4, 1]])
            #expect(code(try member.acknowledge(0, 4, [1])) == 0)
            let busy = try admin.call(DeleteGroupsRequest(groupsNames: ["g"]), version: 2)
            #expect(busy.results.first?.errorCode == ErrorCode.nonEmptyGroup.rawValue)
            _ = try member.fetch(epoch: -1)
            try member.beat(epoch: -1)
            let listed = try admin.call(ListGroupsRequest(typesFilter: ["share"]), version: 5)
            #expect(listed.groups.map(\.groupType) == ["share"])
            let gone = try admin.call(DeleteGroupsRequest(groupsNames: ["g"]), version: 2)
            #expect(gone.results.first?.errorCode == 0)
            let stale = try RawMember(fixture, "g", "m9")
            stale.topicID = member.topicID
            let refused = try stale.fetch(wait: 5_000)
            #expect(
                refused.responses.first?.partitions.first?.errorCode == ErrorCode.groupIdNotFound.rawValue
            )
            let two = try RawMember(fixture, "g", "m2")
            try two.join("t")
            #expect(ranges(try two.get()) == [[0, 4, 1]])
        }
    }

    @Test("the share coordinator answers others, and refuses what cannot be meant")
    func stateAPIs() async throws {
        try await Self.with { _, admin in
            let metadata = try admin.call(MetadataRequest(topics: [.init(name: "t")]), version: 12)
            let id = try #require(metadata.topics.first?.topicId)
            let found = try admin.call(
                FindCoordinatorRequest(keyType: 2, coordinatorKeys: ["g:\(id):0", "nonsense"]),
                version: 6
            )
            #expect(found.coordinators.map(\.errorCode) == [42, 42])
            let good = try admin.call(FindCoordinatorRequest(keyType: 2, coordinatorKeys: ["g:\(id):0"]), version: 6)
            #expect(good.coordinators.map(\.errorCode) == [0])
            let made = try admin.call(
                InitializeShareGroupStateRequest(
                    groupId: "g",
                    topics: [
                        .init(
                            topicId: id,
                            partitions: [
                                .init(partition: 0, stateEpoch: 1, startOffset: 2),
                                .init(partition: 7, stateEpoch: 1, startOffset: 2),
                            ]
                        )
                    ]
                ),
                version: 0
            )
            #expect(made.results.first?.partitions.map(\.errorCode) == [0, 3])
            func write(_ leader: Int32, _ last: Int64) throws -> Int16? {
                try admin.call(
                    WriteShareGroupStateRequest(
                        groupId: "g",
                        topics: [
                            .init(
                                topicId: id,
                                partitions: [
                                    .init(
                                        partition: 0,
                                        stateEpoch: 1,
                                        leaderEpoch: leader,
                                        startOffset: -1,
                                        deliveryCompleteCount: 2,
                                        stateBatches: [
                                            .init(firstOffset: 4, lastOffset: last, deliveryState: 2, deliveryCount: 1)
                                        ]
                                    )
                                ]
                            )
                        ]
                    ),
                    version: 1
                ).results.first?.partitions.first?.errorCode
            }
            #expect(try write(0, 5) == 0)
            #expect(try write(0, .max) == ErrorCode.invalidRequest.rawValue)
            #expect(try write(.max, 5) == ErrorCode.unknownLeaderEpoch.rawValue)
            let read = try admin.call(
                ReadShareGroupStateRequest(
                    groupId: "g",
                    topics: [.init(topicId: id, partitions: [.init(partition: 0, leaderEpoch: 0)])]
                ),
                version: 0
            )
            let state = try #require(read.results.first?.partitions.first)
            #expect(state.startOffset == 2 && state.stateBatches.map(\.lastOffset) == [5])
            let summary = try admin.call(
                ReadShareGroupStateSummaryRequest(
                    groupId: "g",
                    topics: [.init(topicId: id, partitions: [.init(partition: 0, leaderEpoch: 0)])]
                ),
                version: 1
            )
            #expect(summary.results.first?.partitions.first?.deliveryCompleteCount == 2)
            let deleted = try admin.call(
                DeleteShareGroupStateRequest(
                    groupId: "g",
                    topics: [.init(topicId: id, partitions: [.init(partition: 0)])]
                ),
                version: 0
            )
            #expect(deleted.results.first?.partitions.first?.errorCode == 0)
        }
    }
}
