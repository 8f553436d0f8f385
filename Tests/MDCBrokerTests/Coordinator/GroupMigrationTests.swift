// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// A client of the classic protocol that does what it is told: joins, fetches its assignment, and joins again when a
/// heartbeat says so. As a leader it gives everyone a share of the topic `t`.
struct ClassicClient {
    /// Whether it keeps its partitions while it joins again (cooperative), or gives all up first (eager).
    var isCooperative = false
    var instance: String?
    var session: Int32 = 30_000
    var id = ""
    var generation: Int32 = -1
    var owned = PartitionSet()
    var error = ErrorCode.none
    var joinToken: RequestToken?
    var syncToken: RequestToken?
    var wantsJoin = true

    private var metadata: ByteBuffer {
        var subscription = ConsumerProtocolSubscription(topics: ["t"])
        if isCooperative {
            subscription.ownedPartitions = owned.sorted.map { .init(topic: "t", partitions: $0.partitions) }
        }
        var buffer = ByteBuffer()
        buffer.writeInteger(Int16(2))
        try? subscription.write(into: &buffer, version: 2)
        return buffer
    }

    var protocolName: String { isCooperative ? "cooperative-sticky" : "range" }

    /// Does the next thing there is to do.
    mutating func step(_ group: inout GroupHarness, partitions: Int32 = 4) {
        if let token = joinToken {
            if let response = group.joined(token) { take(response, &group, partitions) }
        } else if let token = syncToken {
            if let response = group.synced(token) { take(response) }
        } else if wantsJoin {
            join(&group)
            step(&group, partitions: partitions)
        } else {
            error = group.heartbeat(member: id, generation: generation, instance: instance)
            note(error)
        }
    }

    mutating func join(_ group: inout GroupHarness) {
        if !isCooperative { owned = PartitionSet() }
        let request = JoinGroupRequest(
            groupId: "g",
            sessionTimeoutMs: session,
            rebalanceTimeoutMs: 20_000,
            memberId: id,
            groupInstanceId: instance,
            protocolType: "consumer",
            protocols: [.init(name: protocolName, metadata: metadata)]
        )
        joinToken = group.send(.join(request, RequestOrigin(clientID: "classic", apiVersion: 7)))
    }

    private mutating func take(_ response: JoinGroupResponse, _ group: inout GroupHarness, _ partitions: Int32) {
        joinToken = nil
        error = ErrorCode(rawValue: response.errorCode)
        if error == .memberIdRequired {
            id = response.memberId
            return join(&group)
        }
        guard error == .none else { return note(error) }
        wantsJoin = false
        id = response.memberId
        generation = response.generationId
        var assignments: [SyncGroupRequest.SyncGroupRequestAssignment] = []
        if response.leader == id {
            let image = GroupTopicImage(version: 1, [.init(name: "t", id: topicT, partitionCount: partitions)])
            let members = response.members.map(\.memberId).sorted()
            for (index, member) in members.enumerated() {
                let share = (0..<partitions).filter { Int($0) % members.count == index }
                assignments.append(
                    .init(
                        memberId: member,
                        assignment: image.classicAssignment(PartitionSet([(topicT, share)]), version: 2)
                    )
                )
            }
        }
        let request = SyncGroupRequest(
            groupId: "g",
            generationId: generation,
            memberId: id,
            groupInstanceId: instance,
            protocolType: "consumer",
            protocolName: response.protocolName,
            assignments: assignments
        )
        syncToken = group.send(.sync(request, RequestOrigin(apiVersion: 5)))
        if let response = syncToken.flatMap({ group.synced($0) }) { take(response) }
    }

    private mutating func take(_ response: SyncGroupResponse) {
        syncToken = nil
        error = ErrorCode(rawValue: response.errorCode)
        guard error == .none else { return note(error) }
        let image = GroupTopicImage(version: 1, [.init(name: "t", id: topicT, partitionCount: 99)])
        let given = image.partitions(classic: response.assignment)
        // A cooperative client gives up what it lost and tells so by joining again.
        if isCooperative && !owned.isSubset(of: given) { wantsJoin = true }
        owned = given
    }

    private mutating func note(_ code: ErrorCode) {
        guard code != .none else { return }
        wantsJoin = true
        if code == .unknownMemberId || code == .fencedInstanceId { id = "" }
        if code != .rebalanceInProgress { owned = PartitionSet() }
    }
}

@Suite struct GroupMigrationTests {
    private func harness(_ policy: GroupMigrationPolicy = .bidirectional) -> GroupHarness {
        var settings = GroupSettings()
        settings.migrationPolicy = policy
        return GroupHarness(settings: settings, topics: topicImage())
    }

    private func stable(_ clients: inout [ClassicClient], _ group: inout GroupHarness) {
        for _ in 0..<8 {
            for index in clients.indices { clients[index].step(&group) }
            group.advance(500)
        }
    }

    private func isShared(_ classic: [ClassicClient], _ consumers: [ConsumerClient]) -> Bool {
        let parts = classic.map(\.owned) + consumers.map(\.owned)
        let all = parts.reduce(PartitionSet()) { $0.union($1) }
        return parts.reduce(0) { $0 + $1.count } == 4 && all.count == 4 && parts.allSatisfy { !$0.isEmpty }
    }

    @Test(arguments: [false, true]) func aLiveClassicGroupIsUpgradedAndDowngraded(cooperative: Bool) {
        var group = harness()
        var classic = [ClassicClient(isCooperative: cooperative), ClassicClient(isCooperative: cooperative)]
        stable(&classic, &group)
        #expect(isShared(classic, []))
        let generation = group.shard.classicGroups["g"]?.generation ?? 0
        #expect(group.commit(offset: 7, member: classic[0].id, generation: classic[0].generation) == .none)

        var consumer = ConsumerClient(id: "new")
        consumer.beat(&group, topics: ["t"])
        #expect(consumer.error == .none && consumer.epoch == generation + 1)
        // The classic members still hold everything.
        #expect(consumer.owned.isEmpty)
        #expect(group.shard.classicGroups["g"] == nil)
        #expect(group.heartbeat(member: classic[0].id, generation: classic[0].generation) == .rebalanceInProgress)
        for _ in 0..<8 {
            for index in classic.indices { classic[index].step(&group) }
            consumer.beat(&group)
            group.advance(500)
        }
        #expect(isShared(classic, [consumer]), "\(classic.map(\.owned)) \(consumer.owned)")
        let described = group.shard.consumerDescribe("g")
        #expect(described.groupState == "Stable" && described.members.map(\.memberType).sorted() == [0, 0, 1])
        #expect(group.commit(offset: 8, member: classic[0].id, generation: classic[0].generation) == .none)
        #expect(group.commit(offset: 8, member: classic[0].id, generation: 0) == .illegalGeneration)
        #expect(group.shard.list(ListGroupsRequest()).map(\.groupType) == ["consumer"])

        consumer.beat(&group, epoch: -1)
        #expect(group.shard.consumerGroups["g"] == nil)
        let epoch = group.shard.classicGroups["g"]?.generation ?? 0
        #expect(epoch > generation + 1)
        stable(&classic, &group)
        #expect(isShared(classic, []))
        #expect(group.shard.classicGroups["g"]?.state == .stable)
        #expect(group.shard.offsets["g", "t", 0]?.offset == 8)
    }

    @Test func aConsumerGroupTakesClassicMembersAndForgetsThemAfterTheirSession() {
        var group = harness()
        var consumer = ConsumerClient(id: "new")
        consumer.beat(&group, topics: ["t"])
        var classic = [ClassicClient(session: 6_000)]
        for _ in 0..<6 {
            classic[0].step(&group)
            consumer.beat(&group)
            group.advance(500)
        }
        #expect(isShared(classic, [consumer]))
        // It falls silent, and the broker is killed; what is left of its session counts from the load.
        group.crash()
        for _ in 0..<4 {
            group.advance(2_000)
            consumer.beat(&group)
        }
        #expect(consumer.owned.count == 4)
        classic[0].step(&group)
        #expect(classic[0].error == .unknownMemberId)
    }

    @Test func theSecondProtocolIsRefusedWhereThePolicySaysSo() {
        for policy in [GroupMigrationPolicy.disabled, .downgrade] {
            var group = harness(policy)
            var classic = [ClassicClient()]
            stable(&classic, &group)
            var consumer = ConsumerClient(id: "new")
            consumer.beat(&group, topics: ["t"])
            #expect(consumer.error == .groupIdNotFound)
            #expect(group.heartbeat(member: classic[0].id, generation: classic[0].generation) == .none)
        }
    }

    @Test func withoutDowngradeTheGroupStaysAConsumerGroup() {
        var group = harness(.upgrade)
        var classic = [ClassicClient()]
        stable(&classic, &group)
        var consumer = ConsumerClient(id: "new")
        consumer.beat(&group, topics: ["t"])
        for _ in 0..<6 {
            classic[0].step(&group)
            consumer.beat(&group)
            group.advance(500)
        }
        #expect(isShared(classic, [consumer]))
        consumer.beat(&group, epoch: -1)
        for _ in 0..<6 {
            classic[0].step(&group)
            group.advance(500)
        }
        #expect(group.shard.consumerGroups["g"]?.members.count == 1)
        #expect(classic[0].owned.count == 4)
    }

    @Test func whoIsNoConsumerCannotBeUpgradedOrJoin() {
        var group = harness()
        // The metadata of these members is no subscription.
        _ = group.stableGroup(2)
        var consumer = ConsumerClient(id: "new")
        consumer.beat(&group, topics: ["t"])
        #expect(consumer.error == .groupIdNotFound)

        var other = harness()
        consumer.epoch = 0
        consumer.beat(&other, topics: ["t"])
        let token = other.join()
        #expect(other.error(token) == .inconsistentGroupProtocol)
    }

    @Test func theMembersThatWaitAreToldToJoinAgain() {
        var group = harness()
        var classic = ClassicClient()
        classic.step(&group)
        #expect(classic.joinToken != nil)
        var consumer = ConsumerClient(id: "new")
        consumer.beat(&group, topics: ["t"])
        #expect(consumer.error == .none && consumer.owned.count == 4)
        #expect(classic.joinToken.flatMap { group.error($0) } == .rebalanceInProgress)
        for _ in 0..<6 {
            classic.step(&group)
            consumer.beat(&group)
            group.advance(500)
        }
        #expect(isShared([classic], [consumer]))
    }

    @Test func aRefusedMemberUpgradesNothing() {
        var settings = GroupSettings()
        settings.consumerMaxSize = 2
        var group = GroupHarness(settings: settings, topics: topicImage())
        var classic = [ClassicClient(), ClassicClient()]
        stable(&classic, &group)
        let records = group.log.count
        var consumer = ConsumerClient(id: "third")
        consumer.beat(&group, topics: ["t"])
        #expect(consumer.error == .groupMaxSizeReached)
        #expect(group.shard.consumerGroups["g"] == nil && group.log.count == records)
        #expect(group.heartbeat(member: classic[0].id, generation: classic[0].generation) == .none)
        #expect(isShared(classic, []))
    }

    @Test func whoIsToldToJoinAndDoesNotIsFenced() {
        var group = harness()
        var classic = [ClassicClient()]
        stable(&classic, &group)
        var consumer = ConsumerClient(id: "new")
        consumer.beat(&group, topics: ["t"])
        // It goes on heartbeating, which keeps its session, but not its place.
        for _ in 0..<12 {
            _ = group.heartbeat(member: classic[0].id, generation: classic[0].generation)
            group.advance(2_000)
            consumer.beat(&group)
        }
        #expect(group.heartbeat(member: classic[0].id, generation: classic[0].generation) == .unknownMemberId)
        #expect(consumer.owned.count == 4)
    }

    @Test func staticMembersChangeTheProtocolOneByOne() {
        var group = harness()
        var classic = [ClassicClient(instance: "i-0"), ClassicClient(instance: "i-1")]
        stable(&classic, &group)
        #expect(isShared(classic, []))
        // The first is restarted with the new protocol: it takes its own place.
        var first = ConsumerClient(id: "first")
        first.beat(&group, topics: ["t"], instance: "i-0")
        #expect(first.error == .none)
        #expect(group.shard.consumerGroups["g"]?.members.count == 2)
        #expect(
            group.heartbeat(member: classic[0].id, generation: classic[0].generation, instance: "i-0")
                == .fencedInstanceId
        )
        for _ in 0..<6 {
            classic[1].step(&group)
            first.beat(&group, instance: "i-0")
            group.advance(500)
        }
        #expect(isShared([classic[1]], [first]))
        // And back again: now nobody speaks the new protocol.
        var back = ClassicClient(instance: "i-0")
        back.step(&group)
        #expect(back.error == .none)
        #expect(group.shard.consumerGroups["g"] == nil)
        var both = [back, classic[1]]
        stable(&both, &group)
        #expect(isShared(both, []))
        first.beat(&group, instance: "i-0")
        #expect(first.error == .groupIdNotFound)
    }

    /// Random comings and goings of members of both kinds, with restarts: in the end everything is owned once.
    @Test(arguments: UInt64(1)...24) func mixedGroupsComeToRest(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var group = GroupHarness(seed: seed, topics: topicImage())
        var classic: [ClassicClient] = []
        var consumers: [ConsumerClient] = []
        for round in 0..<300 {
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<4 where classic.count < 4:
                classic.append(ClassicClient(isCooperative: Bool.random(using: &random)))
            case 4..<8 where consumers.count < 4: consumers.append(ConsumerClient(id: "m\(round)"))
            case 8..<10 where !classic.isEmpty: classic.removeLast()
            case 10..<12 where !consumers.isEmpty: consumers.removeLast()
            case 12..<14 where !consumers.isEmpty:
                let leaving = consumers.removeFirst()
                var gone = leaving
                if leaving.epoch > 0 { gone.beat(&group, epoch: -1) }
            case 14..<16:
                group.crash()
                for index in classic.indices {
                    classic[index].joinToken = nil
                    classic[index].syncToken = nil
                    classic[index].wantsJoin = true
                }
            case 16..<30: group.advance(Int64.random(in: 1...4_000, using: &random))
            case 30..<65 where !classic.isEmpty:
                classic[Int.random(in: classic.indices, using: &random)].step(&group)
            default: Self.beat(&consumers, &group, &random)
            }
        }
        if classic.isEmpty && consumers.isEmpty { consumers.append(ConsumerClient(id: "last")) }
        for _ in 0..<80 {
            for index in classic.indices { classic[index].step(&group) }
            for index in consumers.indices { Self.beat(&consumers[index], &group) }
            group.advance(1_000)
        }
        let owners = classic.map(\.owned) + consumers.map(\.owned)
        // Classic members that all offer other assignors than the first cannot join it.
        let joined = owners.reduce(PartitionSet()) { $0.union($1) }
        #expect(joined.count == 4, "\(owners)")
        #expect(owners.reduce(0) { $0 + $1.count } == 4, "a partition has two owners: \(owners)")
        #expect(consumers.isEmpty || group.shard.classicGroups["g"] == nil)
    }

    private static func beat(
        _ consumers: inout [ConsumerClient],
        _ group: inout GroupHarness,
        _ random: inout SplitMix64
    ) {
        guard !consumers.isEmpty else { return }
        beat(&consumers[Int.random(in: consumers.indices, using: &random)], &group)
    }

    private static func beat(_ consumer: inout ConsumerClient, _ group: inout GroupHarness) {
        consumer.beat(&group, topics: consumer.epoch == 0 ? ["t"] : nil)
        guard consumer.error != .none else { return }
        consumer.epoch = 0
        consumer.owned = PartitionSet()
    }
}
