// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

@Suite struct ClassicGroupTests {
    @Test func firstJoinIsTurnedBackWithAnID() {
        var group = GroupHarness()
        let first = group.join(client: "rdkafka")
        #expect(group.error(first) == .memberIdRequired)
        let id = group.joined(first)?.memberId ?? ""
        #expect(id.hasPrefix("rdkafka-") && id.utf8.count == 8 + 36)
        // Versions before 4 know nothing of that.
        let old = group.join("old", version: 3)
        #expect(group.joined(old) == nil)
        group.advance(200)
        #expect(group.joined(old)?.generationId == 1)
    }

    @Test func twoMembersGetOneGenerationAndTheLeadersAssignment() {
        var group = GroupHarness()
        let a = group.joinTwice()
        group.advance(100)
        let b = group.joinTwice()
        group.advance(199)
        #expect(group.joined(a.token) == nil)
        group.advance(400)
        #expect(group.joined(a.token)?.leader == a.id)
        #expect(group.joined(a.token)?.members.map(\.memberId) == [a.id, b.id])
        #expect(group.joined(b.token)?.members.isEmpty == true)
        #expect(group.joined(b.token)?.generationId == 1)
        let follower = group.sync(member: b.id, generation: 1)
        #expect(group.synced(follower) == nil)
        let leader = group.sync(member: a.id, generation: 1, assignments: [a.id: "0", b.id: "1"])
        #expect(group.synced(leader)?.assignment == ByteBuffer(string: "0"))
        #expect(group.synced(follower)?.assignment == ByteBuffer(string: "1"))
        #expect(group.heartbeat(member: b.id, generation: 1) == .none)
        #expect(group.log.count == 1)
    }

    @Test func aThirdMemberStartsTheNextGeneration() {
        var group = GroupHarness()
        let (ids, generation) = group.stableGroup(2)
        let c = group.joinTwice()
        #expect(group.heartbeat(member: ids[1], generation: generation) == .rebalanceInProgress)
        #expect(group.commit(offset: 5, member: ids[1], generation: generation) == .none)
        let b = group.join(member: ids[1])
        let a = group.join(member: ids[0])
        // No delay: all members that were known are here.
        #expect(group.joined(a)?.generationId == generation + 1)
        #expect(group.joined(a)?.members.count == 3)
        #expect(group.joined(b)?.leader == ids[0])
        #expect(group.joined(c.token)?.generationId == generation + 1)
        #expect(group.commit(offset: 6, member: ids[1], generation: generation) == .illegalGeneration)
        #expect(group.commit(offset: 6, member: ids[1], generation: generation + 1) == .rebalanceInProgress)
    }

    @Test func aSilentMemberIsDropped() {
        var group = GroupHarness()
        let (ids, generation) = group.stableGroup(2)
        for _ in 0..<5 {
            group.advance(3_000)
            let code = group.heartbeat(member: ids[0], generation: generation)
            #expect(code == .none || code == .rebalanceInProgress)
        }
        #expect(group.heartbeat(member: ids[1], generation: generation) == .unknownMemberId)
        #expect(group.shard.classicGroups["g"]?.state == .preparingRebalance)
        let again = group.join(member: ids[0])
        #expect(group.joined(again)?.generationId == generation + 1)
    }

    @Test func whoDoesNotRejoinInTimeIsDropped() {
        var group = GroupHarness()
        let (ids, generation) = group.stableGroup(2)
        let rejoin = group.join(member: ids[0])
        for _ in 0..<12 {
            group.advance(4_900)
            _ = group.heartbeat(member: ids[1], generation: generation)
        }
        #expect(group.joined(rejoin) == nil)
        group.advance(5_000)
        #expect(group.joined(rejoin)?.members.map(\.memberId) == [ids[0]])
    }

    @Test func whoDoesNotSyncInTimeIsDropped() {
        var group = GroupHarness()
        let a = group.joinTwice()
        let b = group.joinTwice()
        group.advance(600)
        let sync = group.sync(member: b.id, generation: 1)
        // The leader heartbeats, but never assigns.
        for _ in 0..<13 {
            group.advance(4_900)
            _ = group.heartbeat(member: a.id, generation: 1)
        }
        #expect(group.error(sync) == .rebalanceInProgress)
        #expect(group.heartbeat(member: a.id, generation: 1) == .unknownMemberId)
        let rejoin = group.join(member: b.id)
        #expect(group.joined(rejoin)?.leader == b.id)
    }

    @Test func leavingStartsARebalanceAndTheLastOneEmptiesTheGroup() {
        var group = GroupHarness()
        let (ids, generation) = group.stableGroup(2)
        #expect(group.leave([(ids[0], nil), ("nobody", nil)]) == [.none, .unknownMemberId])
        #expect(group.heartbeat(member: ids[1], generation: generation) == .rebalanceInProgress)
        #expect(group.leave([(ids[1], nil)]) == [.none])
        #expect(group.shard.classicGroups["g"]?.state == .empty)
        #expect(group.shard.classicGroups["g"]?.generation == generation + 1)
        #expect(group.replayed().classicGroups["g"]?.state == .empty)
    }

    @Test func protocolIsWhatAllOfferAndMostPrefer() {
        var group = GroupHarness()
        let a = group.joinTwice(protocols: ["range", "roundrobin"])
        let b = group.joinTwice(protocols: ["roundrobin", "range"])
        let c = group.joinTwice(protocols: ["roundrobin", "range", "sticky"])
        let d = group.join(protocols: ["sticky"])
        #expect(group.error(d) == .inconsistentGroupProtocol)
        group.advance(1_000)
        for token in [a.token, b.token, c.token] { #expect(group.joined(token)?.protocolName == "roundrobin") }
        let wrong = group.send(
            .sync(
                SyncGroupRequest(
                    groupId: "g",
                    generationId: 1,
                    memberId: a.id,
                    protocolType: "consumer",
                    protocolName: "range"
                ),
                RequestOrigin(apiVersion: 5)
            )
        )
        #expect(group.error(wrong) == .inconsistentGroupProtocol)
    }

    @Test func aLostAnswerIsGivenAgain() {
        var group = GroupHarness()
        let a = group.joinTwice()
        let b = group.joinTwice()
        group.advance(1_000)
        let again = group.join(member: b.id)
        #expect(group.joined(again)?.generationId == 1)
        let leaderAgain = group.join(member: a.id)
        #expect(group.joined(leaderAgain)?.members.count == 2)
        _ = group.sync(member: a.id, generation: 1, assignments: [b.id: "x"])
        for _ in 0..<2 {
            let sync = group.sync(member: b.id, generation: 1)
            #expect(group.synced(sync)?.assignment == ByteBuffer(string: "x"))
        }
        let follower = group.join(member: b.id)
        #expect(group.joined(follower)?.generationId == 1)
        // The leader's means: assign anew.
        let leader = group.join(member: a.id)
        #expect(group.joined(leader) == nil)
        #expect(group.heartbeat(member: b.id, generation: 1) == .rebalanceInProgress)
    }

    @Test func sizesAndTimeoutsAreLimited() {
        var settings = GroupSettings()
        settings.maxSize = 1
        var group = GroupHarness(settings: settings)
        _ = group.stableGroup(1)
        let second = group.join()
        #expect(group.error(second) == .groupMaxSizeReached)
        for session: Int32 in [0, 5_999, 1_800_001] {
            let token = group.join("h", session: session)
            #expect(group.error(token) == .invalidSessionTimeout)
        }
        let nameless = group.join("")
        #expect(group.error(nameless) == .invalidGroupId)
        let stranger = group.join("h", member: "who")
        #expect(group.error(stranger) == .unknownMemberId)
    }

    @Test func anIDThatNobodyUsesHoldsUpARebalanceForOneSessionAtMost() {
        var group = GroupHarness()
        let (ids, _) = group.stableGroup(1)
        let lost = group.join()
        #expect(group.error(lost) == .memberIdRequired)
        let rejoin = group.join(member: ids[0])
        #expect(group.joined(rejoin) == nil)
        group.advance(10_000)
        #expect(group.joined(rejoin)?.members.count == 1)
    }
}

@Suite struct StaticMemberTests {
    private func group() -> (GroupHarness, a: String, b: String) {
        var group = GroupHarness()
        let a = group.join(instance: "i-a")
        let b = group.join(instance: "i-b")
        group.advance(1_000)
        let idA = group.joined(a)?.memberId ?? ""
        let idB = group.joined(b)?.memberId ?? ""
        _ = group.sync(member: idA, generation: 1, instance: "i-a", assignments: [idA: "0", idB: "1"])
        return (group, idA, idB)
    }

    @Test func aRestartCausesNoRebalance() {
        var (group, a, b) = group()
        #expect(a.hasPrefix("i-a-"))
        let again = group.join(instance: "i-b")
        let joined = group.joined(again)
        #expect(joined?.errorCode == 0 && joined?.generationId == 1 && joined?.memberId != b)
        let newB = joined?.memberId ?? ""
        let sync = group.sync(member: newB, generation: 1, instance: "i-b")
        #expect(group.synced(sync)?.assignment == ByteBuffer(string: "1"))
        #expect(group.heartbeat(member: a, generation: 1, instance: "i-a") == .none)
        // Whoever still runs under the old id is fenced.
        #expect(group.heartbeat(member: b, generation: 1, instance: "i-b") == .fencedInstanceId)
        #expect(group.commit(offset: 1, member: b, generation: 1, instance: "i-b") == .fencedInstanceId)
        #expect(group.replayed().classicGroups["g"]?.staticMembers["i-b"] == newB)
    }

    @Test func aRestartedLeaderIsToldToSkipTheAssignment() {
        var (group, a, _) = group()
        let again = group.join(instance: "i-a", version: 9)
        #expect(group.joined(again)?.skipAssignment == true)
        #expect(group.joined(again)?.members.count == 2)
        #expect(group.joined(again)?.leader == group.joined(again)?.memberId)
        // Before version 9 it cannot be told, so it must not see itself as the leader.
        let older = group.join(instance: "i-a", version: 8)
        #expect(group.joined(older)?.leader == group.joined(again)?.memberId)
        #expect(group.joined(older)?.memberId != group.joined(again)?.memberId)
        #expect(group.joined(older)?.members.isEmpty == true)
        #expect(a != group.joined(again)?.memberId)
    }

    @Test func aChangedProtocolRebalances() {
        var (group, a, _) = group()
        let again = group.join(instance: "i-b", protocols: ["range", "sticky"])
        #expect(group.joined(again)?.generationId == 1)
        let changed = group.join(instance: "i-b", protocols: ["sticky"])
        #expect(group.error(changed) == .inconsistentGroupProtocol)
        #expect(group.heartbeat(member: a, generation: 1, instance: "i-a") == .none)
    }

    @Test func absenceIsToleratedForASession() {
        var (group, a, b) = group()
        let rejoin = group.join(member: a, instance: "i-a", rebalance: 5_000)
        group.advance(9_000)
        #expect(group.joined(rejoin) == nil)
        group.advance(60_000)
        #expect(group.joined(rejoin)?.members.map(\.memberId) == [a])
        #expect(group.heartbeat(member: b, generation: 2, instance: "i-b") == .unknownMemberId)
    }

    @Test func anAdministratorRemovesByInstance() {
        var (group, _, b) = group()
        #expect(
            group.leave([("", "i-b"), ("", "i-c"), ("wrong", "i-a")]) == [.none, .unknownMemberId, .fencedInstanceId]
        )
        #expect(group.heartbeat(member: b, generation: 1, instance: "i-b") == .unknownMemberId)
    }

    @Test func aParkedJoinOfTheOldIDIsFenced() {
        var (group, _, b) = group()
        let parked = group.join(member: b, instance: "i-b", metadata: "new")
        #expect(group.joined(parked) == nil)
        let again = group.join(instance: "i-b")
        #expect(group.error(parked) == .fencedInstanceId)
        #expect(group.joined(again) == nil)
    }
}
