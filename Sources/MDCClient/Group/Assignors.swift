// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// A member of the group, as its leader sees it.
struct AssignableMember: Sendable, Equatable {
    var id: String
    var instanceID: String?
    var subscription: MemberSubscription
}

/// Shares out partitions among members. Pure: the same input gives the same output.
enum Assignors {
    /// The partitions of each member; every member has an entry. Topics without a count do not exist and are left out.
    static func assign(
        _ assignor: ConsumerConfiguration.Assignor,
        members: [AssignableMember],
        partitionCounts: [String: Int32]
    ) -> [String: [TopicPartition]] {
        // Static members keep their place by their name, which outlives the member id.
        let sorted = members.sorted { ($0.instanceID ?? $0.id, $0.id) < ($1.instanceID ?? $1.id, $1.id) }
        switch assignor {
        case .range: return range(sorted, partitionCounts)
        case .roundRobin: return roundRobin(sorted, partitionCounts)
        case .cooperativeSticky: return CooperativeStickyAssignment(sorted, partitionCounts).result()
        }
    }

    private static func subscribers(_ members: [AssignableMember], of topic: String) -> [AssignableMember] {
        members.filter { $0.subscription.topics.contains(topic) }
    }

    static func topics(of members: [AssignableMember]) -> [String] {
        Set(members.flatMap(\.subscription.topics)).sorted()
    }

    /// Each topic is cut into runs, one for each subscriber; the first ones get one more where it does not divide.
    private static func range(
        _ members: [AssignableMember],
        _ counts: [String: Int32]
    ) -> [String: [TopicPartition]] {
        var result = Dictionary(uniqueKeysWithValues: members.map { ($0.id, [TopicPartition]()) })
        for topic in topics(of: members) {
            guard let count = counts[topic] else { continue }
            let takers = subscribers(members, of: topic)
            let each = Int(count) / takers.count
            let more = Int(count) % takers.count
            var next = 0
            for (index, member) in takers.enumerated() {
                let size = each + (index < more ? 1 : 0)
                result[member.id, default: []] += (next..<next + size).map {
                    TopicPartition(topic: topic, partition: PartitionID(Int32($0)))
                }
                next += size
            }
        }
        return result
    }

    /// All partitions in a row; each goes to the next member in the circle that reads its topic.
    private static func roundRobin(
        _ members: [AssignableMember],
        _ counts: [String: Int32]
    ) -> [String: [TopicPartition]] {
        var result = Dictionary(uniqueKeysWithValues: members.map { ($0.id, [TopicPartition]()) })
        var turn = 0
        for topic in topics(of: members) {
            for partition in 0..<(counts[topic] ?? 0) {
                while !members[turn % members.count].subscription.topics.contains(topic) { turn += 1 }
                let taker = members[turn % members.count].id
                result[taker, default: []].append(TopicPartition(topic: topic, partition: PartitionID(partition)))
                turn += 1
            }
        }
        return result
    }
}

/// The cooperative sticky assignment (KIP-54, KIP-429): members keep what they hold as far as balance allows, and a
/// partition that moves is given to nobody in this round, so that its holder can give it up first.
private struct CooperativeStickyAssignment {
    private let members: [AssignableMember]
    private var partitions: [TopicPartition] = []
    /// Indices of the members that may have a topic.
    private var takers: [String: [Int]] = [:]
    private var load: [Int]
    private var owner: [TopicPartition: Int] = [:]
    /// Who says that he holds it, whatever the generation.
    private var claims: [TopicPartition: Set<Int>] = [:]

    init(_ members: [AssignableMember], _ counts: [String: Int32]) {
        self.members = members
        load = Array(repeating: 0, count: members.count)
        for topic in Assignors.topics(of: members) {
            takers[topic] = members.indices.filter { members[$0].subscription.topics.contains(topic) }
            for partition in 0..<(counts[topic] ?? 0) {
                partitions.append(TopicPartition(topic: topic, partition: PartitionID(partition)))
            }
        }
        keepWhatIsHeld()
        giveOutTheRest()
        balance()
    }

    /// The newest claim to a partition counts; two members that claim it in the same generation both lose it.
    private mutating func keepWhatIsHeld() {
        let existing = Set(partitions)
        var best: [TopicPartition: (member: Int, generation: Int32, isContested: Bool)] = [:]
        for (index, member) in members.enumerated() {
            for partition in member.subscription.owned where existing.contains(partition) {
                claims[partition, default: []].insert(index)
                guard takers[partition.topic]?.contains(index) == true else { continue }
                let generation = member.subscription.generation
                if let other = best[partition] {
                    if other.generation > generation { continue }
                    best[partition] = (index, generation, other.generation == generation && other.member != index)
                } else {
                    best[partition] = (index, generation, false)
                }
            }
        }
        for partition in partitions {
            guard let claim = best[partition], !claim.isContested else { continue }
            owner[partition] = claim.member
            load[claim.member] += 1
        }
    }

    private func leastLoaded(_ topic: String) -> Int? {
        takers[topic]?.min { (load[$0], $0) < (load[$1], $1) }
    }

    private mutating func giveOutTheRest() {
        // Those that few members may have go first.
        let free = partitions.filter { owner[$0] == nil }.sorted {
            (takers[$0.topic]?.count ?? 0, $0) < (takers[$1.topic]?.count ?? 0, $1)
        }
        for partition in free {
            guard let taker = leastLoaded(partition.topic) else { continue }
            owner[partition] = taker
            load[taker] += 1
        }
    }

    /// Moves partitions from members with much to members with little. Ends, because each move makes the sum of the
    /// squares of the loads smaller.
    private mutating func balance() {
        var moved = true
        while moved {
            moved = false
            for partition in partitions {
                guard let holder = owner[partition], let taker = leastLoaded(partition.topic),
                    load[holder] - load[taker] >= 2
                else { continue }
                owner[partition] = taker
                load[holder] -= 1
                load[taker] += 1
                moved = true
            }
        }
    }

    func result() -> [String: [TopicPartition]] {
        var result = Dictionary(uniqueKeysWithValues: members.map { ($0.id, [TopicPartition]()) })
        for partition in partitions {
            guard let taker = owner[partition] else { continue }
            // Somebody else still holds it: wait for the next round.
            if let claimants = claims[partition], !claimants.isSubset(of: [taker]) { continue }
            result[members[taker].id, default: []].append(partition)
        }
        return result
    }
}
