// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

@Suite struct GroupOffsetsTests {
    private func fetch(_ group: inout GroupHarness, _ id: String = "g", all: Bool = false) -> [String: Int64] {
        let token = group.send(
            .fetchOffsets(
                .init(groupId: id, topics: all ? nil : [.init(name: "t", partitionIndexes: [0, 1])]),
                requireStable: true
            )
        )
        guard case .fetchOffsets(let response)? = group.answers[token] else { return [:] }
        #expect(response.errorCode == 0)
        var found: [String: Int64] = [:]
        for topic in response.topics {
            for partition in topic.partitions {
                found["\(topic.name)-\(partition.partitionIndex)"] = partition.committedOffset
            }
        }
        return found
    }

    @Test func simpleConsumersCommitWithoutAGroup() {
        var group = GroupHarness()
        #expect(group.commit(offset: 42, metadata: "m") == .none)
        #expect(fetch(&group) == ["t-0": 42, "t-1": -1])
        #expect(fetch(&group, all: true) == ["t-0": 42])
        #expect(group.shard.offsets["g", "t", 0]?.leaderEpoch == 7)
        #expect(group.shard.offsets["g", "t", 0]?.metadata == "m")
        #expect(group.commit(offset: 43, member: "x", generation: 1) == .illegalGeneration)
        #expect(fetch(&group, "other") == ["t-0": -1, "t-1": -1])
        group.crash()
        #expect(fetch(&group, all: true) == ["t-0": 42])
    }

    @Test func aGroupWithMembersTakesCommitsOfItsMembersOnly() {
        var group = GroupHarness()
        let (ids, generation) = group.stableGroup(1)
        #expect(group.commit(offset: 1) == .unknownMemberId)
        #expect(group.commit(offset: 1, member: "x", generation: generation) == .unknownMemberId)
        #expect(group.commit(offset: 1, member: ids[0], generation: generation - 1) == .illegalGeneration)
        #expect(group.commit(offset: 1, member: ids[0], generation: generation) == .none)
        _ = group.leave([(ids[0], nil)])
        #expect(group.commit(offset: 0) == .none)
    }

    @Test func metadataIsLimited() {
        var group = GroupHarness()
        #expect(group.commit(offset: 1, metadata: String(repeating: "é", count: 2_048)) == .none)
        #expect(group.commit(offset: 2, metadata: String(repeating: "é", count: 2_049)) == .offsetMetadataTooLarge)
        #expect(fetch(&group, all: true) == ["t-0": 1])
    }

    @Test func offsetsExpireOnceTheGroupIsEmptyForTheRetention() {
        var group = GroupHarness()
        let (ids, generation) = group.stableGroup(1)
        #expect(group.commit(offset: 1, member: ids[0], generation: generation) == .none)
        // A living group keeps its offsets, however old.
        for _ in 0..<(8 * 24 * 60) {
            group.advance(60_000 / 12)
            _ = group.heartbeat(member: ids[0], generation: generation)
        }
        group.now.wall = group.now.wall + 30 * 24 * 3_600_000
        _ = group.heartbeat(member: ids[0], generation: generation)
        _ = group.leave([(ids[0], nil)])
        group.advance(7 * 24 * 3_600_000 - 1)
        #expect(fetch(&group, all: true) == ["t-0": 1])
        group.advance(601_000)
        #expect(fetch(&group, all: true) == [:])
        #expect(group.shard.classicGroups.isEmpty)
        #expect(group.replayed().classicGroups.isEmpty && group.replayed().offsets.groups.isEmpty)
    }

    @Test func aClientMayAskForItsOwnRetention() {
        var group = GroupHarness()
        #expect(group.commit(offset: 1, retention: 3_600_000) == .none)
        #expect(group.replayed().offsets["g", "t", 0]?.expireTimestamp == group.now.wall + 3_600_000)
        group.advance(4_300_000)
        #expect(fetch(&group, all: true) == [:])
    }

    @Test func deletedTopicsTakeTheirOffsetsAlong() {
        var group = GroupHarness()
        #expect(group.commit(offset: 1) == .none)
        #expect(group.commit(topic: "u", offset: 2) == .none)
        group.send(.topicsDeleted(["t"]))
        #expect(fetch(&group, all: true) == ["u-0": 2])
        #expect(group.replayed().offsets.groups["g"]?.count == 1)
    }

    @Test func groupsAndOffsetsAreDeletedOnRequest() {
        var group = GroupHarness()
        let missing = group.send(.delete(groupID: "g"))
        #expect(group.error(missing) == .groupIdNotFound)
        let (ids, generation) = group.stableGroup(1)
        #expect(group.commit(offset: 1, member: ids[0], generation: generation) == .none)
        let busy = group.send(.delete(groupID: "g"))
        #expect(group.error(busy) == .nonEmptyGroup)
        _ = group.leave([(ids[0], nil)])
        let offsets = group.send(
            .deleteOffsets(
                OffsetDeleteRequest(groupId: "g", topics: [.init(name: "t", partitions: [.init(partitionIndex: 0)])])
            )
        )
        #expect(group.error(offsets) == ErrorCode.none)
        #expect(fetch(&group, all: true) == [:])
        let gone = group.send(.delete(groupID: "g"))
        #expect(group.error(gone) == ErrorCode.none)
        #expect(group.replayed().classicGroups.isEmpty)
    }

    @Test func offsetsOfASubscribedTopicStay() {
        var group = GroupHarness()
        var subscription = ByteBuffer()
        subscription.writeInteger(Int16(1))
        do {
            try ConsumerProtocolSubscription(topics: ["t"]).write(into: &subscription, version: 1)
        } catch {
            Issue.record("\(error)")
        }
        let request = JoinGroupRequest(
            groupId: "g",
            sessionTimeoutMs: 10_000,
            rebalanceTimeoutMs: 10_000,
            memberId: "",
            protocolType: "consumer",
            protocols: [.init(name: "range", metadata: subscription)]
        )
        let token = group.send(.join(request, RequestOrigin(clientID: "c", apiVersion: 1)))
        group.advance(200)
        #expect(group.joined(token)?.generationId == 1)
        let delete = group.send(
            .deleteOffsets(
                OffsetDeleteRequest(
                    groupId: "g",
                    topics: ["t", "u"].map { .init(name: $0, partitions: [.init(partitionIndex: 0)]) }
                )
            )
        )
        guard case .deleteOffsets(let response)? = group.answers[delete] else {
            Issue.record("no answer")
            return
        }
        #expect(
            response.topics.map { ErrorCode(rawValue: $0.partitions[0].errorCode) } == [.groupSubscribedToTopic, .none]
        )
    }

    @Test func groupsAreListedAndDescribedByState() {
        var group = GroupHarness()
        let (ids, _) = group.stableGroup(1)
        _ = group.commit("simple", offset: 1)
        func list(_ states: [String] = [], _ types: [String] = []) -> [String] {
            group.shard.list(ListGroupsRequest(statesFilter: states, typesFilter: types)).map(\.groupId)
        }
        #expect(list() == ["g", "simple"])
        #expect(list(["stable"]) == ["g"])
        #expect(list(["Empty"]) == ["simple"])
        #expect(list([], ["Classic"]) == ["g", "simple"])
        #expect(list([], ["consumer"]) == [])
        let described = group.shard.describe("g", RequestOrigin(apiVersion: 6))
        #expect(described.groupState == "Stable" && described.protocolData == "range")
        #expect(described.members.map(\.memberId) == ids)
        #expect(described.members[0].memberAssignment == ByteBuffer(string: ids[0]))
        #expect(group.shard.describe("none", RequestOrigin(apiVersion: 5)).groupState == "Dead")
        #expect(
            group.shard.describe("none", RequestOrigin(apiVersion: 6)).errorCode
                == ErrorCode.groupIdNotFound.rawValue
        )
    }

    @Test func groupsLieWhereKafkaPutsThem() {
        // Java: "my-group".hashCode() = 1539043391, "".hashCode() = 0, "é" = 233.
        #expect(GroupCoordinatorService.partition(of: "", count: 16) == 0)
        #expect(GroupCoordinatorService.partition(of: "é", count: 50) == 33)
        #expect(GroupCoordinatorService.partition(of: "polygenelubricants", count: 50) == 0)
    }

    @Test func recordsHaveKafkasBytes() {
        let offset = CoordinatorRecord.offset(
            group: "g",
            topic: "t",
            partition: 2,
            CommittedOffset(offset: 3, leaderEpoch: 4, metadata: "m", commitTimestamp: 5)
        )
        #expect(hex(offset.key) == "0001" + "000167" + "000174" + "00000002")
        #expect(hex(offset.value) == "0003" + "0000000000000003" + "00000004" + "00016d" + "0000000000000005")
        let group = CoordinatorRecord.classicGroup(
            "g",
            GroupMetadataValue(protocolType: "consumer", generation: 1, currentStateTimestamp: 2)
        )
        #expect(hex(group.key) == "0002" + "000167")
        #expect(
            hex(group.value)
                == "0003" + "0008636f6e73756d6572" + "00000001" + "ffff" + "ffff" + "0000000000000002" + "00000000"
        )
    }

    private func hex(_ buffer: ByteBuffer?) -> String {
        (buffer?.readableBytesView ?? ByteBuffer().readableBytesView).map {
            let text = String($0, radix: 16)
            return text.count == 1 ? "0" + text : text
        }.joined()
    }
}
