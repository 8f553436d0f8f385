// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// A member of a share group as the tests need it. Partitions get their state as the service gives it to them.
private struct ShareClient {
    let id: String
    var epoch: Int32 = 0
    var assigned = PartitionSet()
    var error = ErrorCode.none

    mutating func beat(
        _ group: inout GroupHarness,
        topics: [String]? = nil,
        epoch sent: Int32? = nil,
        settings: ShareGroupSettings = ShareGroupSettings(),
        initializes: Bool = true
    ) {
        let response = send(&group, topics, sent ?? epoch, settings, initializes)
        error = ErrorCode(rawValue: response.errorCode)
        guard error == .none else { return }
        epoch = response.memberEpoch
        if let assignment = response.assignment {
            assigned = PartitionSet(assignment.topicPartitions.map { ($0.topicId, $0.partitions) })
        }
    }

    private func send(
        _ group: inout GroupHarness,
        _ topics: [String]?,
        _ epoch: Int32,
        _ settings: ShareGroupSettings,
        _ initializes: Bool
    ) -> ShareGroupHeartbeatResponse {
        let request = ShareGroupHeartbeatRequest(
            groupId: "s",
            memberId: id,
            memberEpoch: epoch,
            subscribedTopicNames: topics
        )
        let token = group.send(.shareHeartbeat(request, RequestOrigin(clientID: "c", apiVersion: 1), settings))
        guard case .shareHeartbeat(let response, let missing)? = group.answers[token] else {
            Issue.record("a share heartbeat is always answered at once")
            return ShareGroupHeartbeatResponse()
        }
        guard initializes, !missing.isEmpty else { return response }
        group.send(.shareInitialized(groupID: "s", missing))
        return send(&group, nil, response.memberEpoch, settings, false)
    }
}

struct ShareGroupTests {
    private var group = GroupHarness(topics: topicImage(1, t: 2, u: 2))
    private var a = ShareClient(id: "a")
    private var b = ShareClient(id: "b")
    private var c = ShareClient(id: "c")

    @Test("a member gets partitions only once they have a state")
    mutating func initialization() {
        a.beat(&group, topics: ["t"], initializes: false)
        #expect(a.error == .none && a.epoch == 1 && a.assigned.isEmpty)
        a.beat(&group)
        #expect(a.assigned.count == 2 && a.epoch == 2)
        #expect(group.shard.shareGroups["s"]?.initialized[topicT]?.partitions == [0, 1])
    }

    @Test("partitions are shared out, and shared when there are more members than partitions")
    mutating func balance() {
        a.beat(&group, topics: ["t"])
        b.beat(&group, topics: ["t"])
        a.beat(&group)
        #expect(a.assigned.count == 1 && b.assigned.count == 1 && a.assigned.intersection(b.assigned).isEmpty)
        let kept = a.assigned
        c.beat(&group, topics: ["t"])
        a.beat(&group)
        b.beat(&group)
        #expect([a, b, c].allSatisfy { $0.assigned.count == 1 })
        #expect(a.assigned == kept)
        b.beat(&group, epoch: -1)
        a.beat(&group)
        c.beat(&group)
        #expect(a.assigned.union(c.assigned).count == 2)
    }

    @Test("what is wrong is told as Kafka tells it")
    mutating func refusals() {
        a.beat(&group, topics: [])
        #expect(a.error == .invalidRequest)
        a.beat(&group, topics: nil, epoch: 5)
        #expect(a.error == .groupIdNotFound)
        a.beat(&group, topics: ["t"], epoch: 0)
        b.beat(&group, topics: ["t"], epoch: 4)
        #expect(b.error == .unknownMemberId)
        a.beat(&group, epoch: 77)
        #expect(a.error == .fencedMemberEpoch)
        var small = ShareGroupSettings()
        small.maxSize = 1
        b.beat(&group, topics: ["t"], epoch: 0, settings: small)
        #expect(b.error == .groupMaxSizeReached)
        #expect(group.commit("s", offset: 3) == .groupIdNotFound)
        let joined = group.join("s")
        #expect(group.error(joined) == .inconsistentGroupProtocol)
    }

    @Test("a group of another kind is no share group")
    mutating func otherKinds() {
        #expect(group.commit("s", offset: 3) == .none)
        a.beat(&group, topics: ["t"])
        #expect(a.error == .groupIdNotFound)
    }

    @Test("who falls silent is taken out; a restart starts sessions anew")
    mutating func sessions() {
        a.beat(&group, topics: ["t"])
        b.beat(&group, topics: ["t"])
        group.advance(40_000)
        a.beat(&group)
        group.crash()
        group.advance(10_000)
        #expect(group.shard.shareGroups["s"]?.members.count == 2)
        a.beat(&group)
        group.advance(36_000)
        #expect(group.shard.shareGroups["s"]?.members.keys.sorted() == ["a"])
        a.beat(&group)
        #expect(a.assigned.count == 2)
        b.beat(&group)
        #expect(b.error == .unknownMemberId)
    }

    @Test("topics that grow and go change the assignment")
    mutating func topicChanges() {
        a.beat(&group, topics: ["t", "u.x"])
        #expect(a.assigned.count == 4)
        group.shard.topics = topicImage(9, t: 3, u: 3)
        a.beat(&group)
        #expect(a.assigned.count == 6)
        group.shard.topics = GroupTopicImage(
            version: 10,
            [.init(name: "t", id: topicT, partitionCount: 3)]
        )
        group.send(.topicsDeleted(["u.x"]))
        a.beat(&group)
        #expect(a.assigned.count == 3)
        #expect(group.shard.shareGroups["s"]?.initialized.keys.sorted() == [topicT])
    }

    @Test("listed, described and deleted as a share group")
    mutating func administration() {
        a.beat(&group, topics: ["t"])
        let list = group.shard.list(ListGroupsRequest(typesFilter: ["share"]))
        #expect(list.map(\.groupId) == ["s"] && list.map(\.groupState) == ["Stable"])
        let described = group.shard.shareDescribe("s")
        #expect(described.assignorName == "simple" && described.members.count == 1)
        #expect(described.members.first?.assignment.topicPartitions.first?.partitions == [0, 1])
        #expect(group.shard.shareDescribe("none").errorCode == ErrorCode.groupIdNotFound.rawValue)
        let refused = group.send(.delete(groupID: "s"))
        #expect(group.error(refused) == .nonEmptyGroup)
        a.beat(&group, epoch: -1)
        #expect(group.shard.list(ListGroupsRequest()).map(\.groupState) == ["Empty"])
        let deleted = group.send(.delete(groupID: "s"))
        #expect(group.error(deleted) == ErrorCode.none)
        #expect(group.replayed().shareGroups.isEmpty)
    }

    @Test("an answer that was lost may be asked for again")
    mutating func lostAnswer() {
        a.beat(&group, topics: ["t"])
        b.beat(&group, topics: ["t"])
        let old = a.epoch
        a.beat(&group)
        #expect(a.epoch > old)
        a.beat(&group, epoch: old)
        #expect(a.error == .none)
    }
}

struct ShareAssignorTests {
    @Test("everyone has something, nothing is left over, and the difference is one", arguments: 1...60)
    func properties(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let topics = [topicT, topicU]
        var previous: [String: PartitionSet] = [:]
        for _ in 0..<6 {
            let partitions = PartitionSet(
                topics.map { ($0, Array(0..<Int32.random(in: 1...7, using: &random))) }
            )
            let members = (0..<Int.random(in: 1...9, using: &random)).map { index in
                ShareAssignor.Subscriber(
                    memberID: "m\(index)",
                    topics: Set(topics.filter { _ in Int.random(in: 0..<4, using: &random) != 0 }),
                    previous: previous["m\(index)"] ?? PartitionSet()
                )
            }
            let result = ShareAssignor.assign(members, partitions: partitions)
            for topic in topics {
                let readers = members.filter { $0.topics.contains(topic) }
                let all = partitions.topics[topic] ?? []
                let shares = readers.map { result[$0.memberID]?.topics[topic] ?? [] }
                for other in members where !other.topics.contains(topic) {
                    #expect(result[other.memberID]?.topics[topic] == nil)
                }
                guard !readers.isEmpty else { continue }
                #expect(Set(shares.flatMap { $0 }) == Set(all))
                let sizes = shares.map(\.count)
                #expect((sizes.max() ?? 0) - (sizes.min() ?? 0) <= 1 && (sizes.min() ?? 0) >= 1)
                let loads = all.map { partition in shares.count { $0.contains(partition) } }
                #expect((loads.max() ?? 0) - (loads.min() ?? 0) <= 1)
            }
            // The same again changes nothing.
            let again = members.map {
                ShareAssignor.Subscriber(
                    memberID: $0.memberID,
                    topics: $0.topics,
                    previous: result[$0.memberID] ?? PartitionSet()
                )
            }
            #expect(ShareAssignor.assign(again, partitions: partitions) == result)
            previous = result
        }
    }
}

struct ShareSettingsTests {
    @Test("where to begin is read as Kafka writes it")
    func offsetReset() {
        #expect(ShareOffsetReset("earliest") == .earliest)
        #expect(ShareOffsetReset("latest") == .latest)
        #expect(ShareOffsetReset("by_duration:PT1H30M") == .byDuration(5_400_000))
        #expect(ShareOffsetReset("by_duration:P2DT0.5S") == .byDuration(172_800_500))
        for bad in [
            "", "none", "by_duration:", "by_duration:1h", "by_duration:PT", "by_duration:P1M", "by_duration:PT5",
        ] {
            #expect(ShareOffsetReset(bad) == nil, "\(bad)")
        }
    }

    @Test("a group's settings override the node's, within the node's limits")
    func overrides() throws {
        var configuration = BrokerConfiguration()
        try configuration.set("group.share.delivery.count.limit", to: "7")
        #expect(configuration.shareGroupSettings([:]).deliveryCountLimit == 7)
        let settings = configuration.shareGroupSettings([
            "share.delivery.count.limit": "3", "share.isolation.level": "read_committed",
        ])
        #expect(settings.deliveryCountLimit == 3 && settings.readCommitted)
        let lock = try #require(GroupConfigSettings.byName["share.record.lock.duration.ms"])
        #expect(lock.problem(configuration, "1000") != nil && lock.problem(configuration, "20000") == nil)
    }
}
