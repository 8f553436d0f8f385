// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// A client of the consumer protocol as the tests need it: it says what it has and takes what it is given.
struct ConsumerClient {
    let id: String
    var epoch: Int32 = 0
    var owned = PartitionSet()
    var error = ErrorCode.none

    mutating func beat(
        _ group: inout GroupHarness,
        topics: [String]? = nil,
        pattern: String? = nil,
        assignor: String? = nil,
        instance: String? = nil,
        rebalance: Int32 = -1,
        epoch sent: Int32? = nil,
        saysOwned: Bool = true
    ) {
        let isJoin = (sent ?? epoch) == 0
        let token = group.send(
            .consumerHeartbeat(
                ConsumerGroupHeartbeatRequest(
                    groupId: "g",
                    memberId: id,
                    memberEpoch: sent ?? epoch,
                    instanceId: instance,
                    rebalanceTimeoutMs: isJoin ? 30_000 : rebalance,
                    subscribedTopicNames: topics,
                    subscribedTopicRegex: pattern,
                    serverAssignor: assignor,
                    topicPartitions: saysOwned
                        ? owned.sorted.map { .init(topicId: $0.topic, partitions: $0.partitions) } : nil
                ),
                RequestOrigin(clientID: "c", apiVersion: 1)
            )
        )
        guard case .consumerHeartbeat(let response)? = group.answers[token] else {
            Issue.record("a consumer heartbeat is always answered at once")
            return
        }
        error = ErrorCode(rawValue: response.errorCode)
        guard error == .none else { return }
        epoch = response.memberEpoch
        if let assignment = response.assignment {
            owned = PartitionSet(assignment.topicPartitions.map { ($0.topicId, $0.partitions) })
        }
    }
}

let topicT = TopicID(high: 1, low: 1)
let topicU = TopicID(high: 2, low: 2)

func topicImage(_ version: UInt64 = 1, t: Int32 = 4, u: Int32 = 2) -> GroupTopicImage {
    GroupTopicImage(
        version: version,
        [.init(name: "t", id: topicT, partitionCount: t), .init(name: "u.x", id: topicU, partitionCount: u)]
    )
}

@Suite struct ConsumerGroupTests {
    @Test func oneMemberGetsEverythingAtOnce() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        a.beat(&group, topics: ["t", "missing"])
        #expect(a.error == .none && a.epoch == 1)
        #expect(a.owned == PartitionSet([(topicT, [0, 1, 2, 3])]))
        let described = group.shard.consumerDescribe("g")
        #expect(described.groupState == "Stable" && described.assignorName == "uniform")
        #expect(described.members[0].assignment.topicPartitions[0].topicName == "t")
    }

    @Test func aPartitionMovesOnlyAfterItsOwnerLetGo() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        var b = ConsumerClient(id: "b")
        a.beat(&group, topics: ["t"])
        b.beat(&group, topics: ["t"])
        // Two of the four are b's now, but a has not let go.
        #expect(b.epoch == 2 && b.owned.isEmpty)
        #expect(group.shard.consumerGroups["g"]?.state == .reconciling)
        let before = a.owned
        a.beat(&group)
        #expect(a.owned.count == 2 && a.epoch == 1)
        b.beat(&group)
        #expect(b.owned.isEmpty)
        // Now a says that it has let go.
        a.beat(&group)
        #expect(a.epoch == 2)
        b.beat(&group)
        #expect(b.owned == before.subtracting(a.owned))
        #expect(group.shard.consumerGroups["g"]?.state == .stable)
    }

    @Test func whoDoesNotLetGoIsFenced() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        var b = ConsumerClient(id: "b")
        a.beat(&group, topics: ["t"])
        b.beat(&group, topics: ["t"])
        let stubborn = a.owned
        for _ in 0..<7 {
            a.owned = stubborn
            a.beat(&group)
            b.beat(&group)
            group.advance(5_000)
        }
        a.beat(&group)
        #expect(a.error == .unknownMemberId)
        b.beat(&group)
        b.beat(&group)
        #expect(b.owned.count == 4)
    }

    @Test func aSilentMemberIsFenced() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        a.beat(&group, topics: ["t"])
        group.advance(44_999)
        a.beat(&group)
        #expect(a.error == .none)
        group.advance(45_000)
        a.beat(&group)
        #expect(a.error == .unknownMemberId)
        #expect(group.shard.consumerGroups["g"]?.state == .empty)
        a.epoch = 0
        a.owned = PartitionSet()
        a.beat(&group, topics: ["t"])
        #expect(a.owned.count == 4)
    }

    @Test func epochsFenceAndForgive() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        a.beat(&group, topics: ["t"])
        a.beat(&group, epoch: 9)
        #expect(a.error == .fencedMemberEpoch)
        // The answer that raised the epoch was lost: with the previous epoch and no more than it was given, all is well.
        group.shard.topics = topicImage(2, t: 6)
        a.beat(&group)
        #expect(a.epoch == 2 && a.owned.count == 6)
        a.beat(&group, epoch: 1)
        #expect(a.error == .none && a.epoch == 2)
        a.owned.insert(topicU, 0)
        a.beat(&group, epoch: 1)
        #expect(a.error == .fencedMemberEpoch)
        var stranger = ConsumerClient(id: "x", epoch: 3)
        stranger.beat(&group)
        #expect(stranger.error == .unknownMemberId)
    }

    @Test func grownTopicsAreGivenOut() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        a.beat(&group, topics: ["t"])
        group.shard.topics = topicImage(2, t: 5)
        a.beat(&group)
        #expect(a.epoch == 2 && a.owned.contains(topicT, 4))
    }

    @Test func patternsAreResolvedHere() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        a.beat(&group, pattern: "u\\..*")
        #expect(a.owned == PartitionSet([(topicU, [0, 1])]))
        var b = ConsumerClient(id: "b")
        b.beat(&group, pattern: "(")
        #expect(b.error == .invalidRegularExpression)
    }

    @Test func staticMembersKeepTheirPlace() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        var b = ConsumerClient(id: "b")
        a.beat(&group, topics: ["t"], instance: "i-a")
        b.beat(&group, topics: ["t"], instance: "i-b")
        for _ in 0..<3 {
            a.beat(&group, instance: "i-a")
            b.beat(&group, instance: "i-b")
        }
        let had = a.owned
        var thief = ConsumerClient(id: "a2")
        thief.beat(&group, topics: ["t"], instance: "i-a")
        #expect(thief.error == .unreleasedInstanceId)
        a.beat(&group, instance: "i-a", epoch: -2)
        #expect(a.error == .none)
        b.beat(&group, instance: "i-b")
        #expect(b.owned.count == 2)
        var again = ConsumerClient(id: "a2")
        again.beat(&group, topics: ["t"], instance: "i-a")
        #expect(again.error == .none && again.owned == had)
        a.beat(&group, instance: "i-a", epoch: 2)
        #expect(a.error == .fencedInstanceId)
    }

    @Test func requestsAreChecked() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        a.beat(&group)
        #expect(a.error == .invalidRequest)
        a.beat(&group, topics: ["t"], assignor: "best")
        #expect(a.error == .unsupportedAssignor)
        a.beat(&group, epoch: 3)
        #expect(a.error == .groupIdNotFound)
        var nameless = ConsumerClient(id: "")
        nameless.beat(&group, topics: ["t"])
        #expect(nameless.error == .invalidRequest)
        #expect(group.shard.consumerGroups.isEmpty && group.log.isEmpty)
    }

    @Test func commitsFollowTheMemberEpoch() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        a.beat(&group, topics: ["t"])
        #expect(group.commit(offset: 5, member: "a", generation: 1) == .none)
        #expect(group.commit(offset: 5, member: "a", generation: 0) == .staleMemberEpoch)
        #expect(group.commit(offset: 5, member: "x", generation: 1) == .unknownMemberId)
        #expect(group.commit(offset: 5) == .unknownMemberId)
        a.beat(&group, epoch: -1)
        #expect(group.commit(offset: 4) == .none)
    }

    @Test func anEmptyGroupChangesItsProtocol() {
        var group = GroupHarness(topics: topicImage())
        let (ids, generation) = group.stableGroup(1)
        #expect(group.commit(offset: 9, member: ids[0], generation: generation) == .none)
        var a = ConsumerClient(id: "a")
        a.beat(&group, topics: ["t"])
        #expect(a.error == .groupIdNotFound)
        _ = group.leave([(ids[0], nil)])
        a.beat(&group, topics: ["t"])
        #expect(a.error == .none)
        #expect(group.shard.offsets["g", "t", 0]?.offset == 9)
        let classic = group.join()
        #expect(group.error(classic) == .inconsistentGroupProtocol)
        a.beat(&group, epoch: -1)
        let back = group.join()
        #expect(group.error(back) == .memberIdRequired)
        #expect(group.replayed().consumerGroups.isEmpty)
    }

    @Test func aRestartInTheMiddleOfAMoveLosesNothing() {
        var group = GroupHarness(topics: topicImage())
        var a = ConsumerClient(id: "a")
        var b = ConsumerClient(id: "b")
        a.beat(&group, topics: ["t"])
        b.beat(&group, topics: ["t"])
        a.beat(&group)
        group.crash()
        b.beat(&group)
        #expect(b.owned.isEmpty)
        for _ in 0..<3 {
            a.beat(&group)
            b.beat(&group)
        }
        #expect(a.owned.count == 2 && b.owned.count == 2 && a.owned.intersection(b.owned).isEmpty)
    }
}

@Suite struct ServerAssignorTests {
    private func subscriber(_ id: String, _ topics: [TopicID], _ previous: PartitionSet = .init())
        -> ServerAssignor.Subscriber
    {
        .init(memberID: id, topics: Set(topics), previous: previous)
    }

    @Test func rangeKeepsPartitionsOfTheSameNumberTogether() {
        let result = ServerAssignor.range.assign(
            [subscriber("b", [topicT, topicU]), subscriber("a", [topicT, topicU])],
            partitionCounts: [topicT: 3, topicU: 3]
        )
        #expect(result["a"] == PartitionSet([(topicT, [0, 1]), (topicU, [0, 1])]))
        #expect(result["b"] == PartitionSet([(topicT, [2]), (topicU, [2])]))
    }

    @Test(arguments: UInt64(0)..<200) func uniformIsCompleteBalancedAndKeepsWhatItCan(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let topics = (1...UInt64.random(in: 1...4, using: &random)).map { TopicID(high: 0, low: $0) }
        let counts = Dictionary(uniqueKeysWithValues: topics.map { ($0, Int32.random(in: 0...9, using: &random)) })
        let isAlike = Bool.random(using: &random)
        var previous: [String: PartitionSet] = [:]
        var last: [String: PartitionSet] = [:]
        for _ in 0..<4 {
            let names = (0..<Int.random(in: 1...6, using: &random)).map { "m\($0)" }
            let members = names.map { name in
                subscriber(
                    name,
                    isAlike ? topics : topics.filter { _ in Bool.random(using: &random) },
                    previous[name] ?? .init()
                )
            }
            let result = ServerAssignor.uniform.assign(members, partitionCounts: counts)
            var owners: [TopicID: [Int32: String]] = [:]
            for member in members {
                for (topic, partition) in result[member.memberID]?.all ?? [] {
                    #expect(member.topics.contains(topic) && partition < counts[topic] ?? 0)
                    #expect(owners[topic, default: [:]].updateValue(member.memberID, forKey: partition) == nil)
                }
            }
            for topic in topics where members.contains(where: { $0.topics.contains(topic) }) {
                #expect(owners[topic]?.count ?? 0 == Int(counts[topic] ?? 0))
            }
            // Nobody could take one from another and both be better off.
            for giver in members {
                for taker in members {
                    let (more, less) = (result[giver.memberID]?.count ?? 0, result[taker.memberID]?.count ?? 0)
                    guard more > less + 1 else { continue }
                    let movable = result[giver.memberID]?.all.contains { taker.topics.contains($0.topic) } ?? false
                    #expect(!movable, "\(giver.memberID) has \(more), \(taker.memberID) \(less)")
                }
            }
            let unchanged = members.map { subscriber($0.memberID, Array($0.topics), result[$0.memberID] ?? .init()) }
            #expect(ServerAssignor.uniform.assign(unchanged, partitionCounts: counts) == result)
            previous = result
            last = result
        }
        #expect(!last.isEmpty)
    }
}

@Suite struct TopicPatternTests {
    @Test(arguments: [
        ("foo.*", "foobar", true), ("^foo.*$", "foo", true), ("foo", "foobar", false), ("foo|bar", "bar", true),
        ("(foo|ba[rz])-\\d+", "baz-17", true), ("(foo|ba[rz])-\\d+", "baz-", false), ("a{2,3}", "aaaa", false),
        ("a{2,}", "aaaa", true), ("[^.]+", "a.b", false), ("a\\.b", "a.b", true), ("a\\.b", "axb", false),
        ("(?:x|y)?z", "z", true), (".+?", "", false), ("[a-c_-]+", "a_-c", true), ("\\w+", "a_9", true), ("", "", true),
    ]) func matches(_ pattern: String, _ name: String, _ expected: Bool) {
        #expect(TopicPattern(pattern)?.matches(name) == expected)
    }

    @Test(arguments: [
        "(", ")", "a**", "[", "[b-a]", "*", "a{3,2}", "\\", "\\q", "a{100000}", "(?=a)", "a^b", "((a{99}){99}){99}",
    ])
    func malformedIsRefused(_ pattern: String) {
        #expect(TopicPattern(pattern) == nil)
    }

    @Test func theWorstPatternTakesLinearTime() {
        // A matcher that goes back would need 2^200 steps.
        #expect(TopicPattern("(a+)+b")?.matches(String(repeating: "a", count: 200)) == false)
        #expect(TopicPattern("(a?){60}a{60}")?.matches(String(repeating: "a", count: 60)) == true)
    }
}
