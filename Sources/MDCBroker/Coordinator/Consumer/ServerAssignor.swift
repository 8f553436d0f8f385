// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Partitions by topic, each list ascending and not empty. One value of an assignment has one form.
struct PartitionSet: Equatable, Sendable {
    private(set) var topics: [TopicID: [Int32]] = [:]

    init() {}

    init(_ partitions: some Sequence<(TopicID, [Int32])>) {
        for (topic, list) in partitions where !list.isEmpty {
            topics[topic] = Set((topics[topic] ?? []) + list).sorted()
        }
    }

    var isEmpty: Bool { topics.isEmpty }
    var count: Int { topics.values.reduce(0) { $0 + $1.count } }

    func contains(_ topic: TopicID, _ partition: Int32) -> Bool { topics[topic]?.contains(partition) ?? false }

    mutating func insert(_ topic: TopicID, _ partition: Int32) {
        var list = topics[topic] ?? []
        guard !list.contains(partition) else { return }
        list.insert(partition, at: list.firstIndex { $0 > partition } ?? list.endIndex)
        topics[topic] = list
    }

    /// The partitions for which `condition` holds.
    func filter(_ condition: (TopicID, Int32) -> Bool) -> PartitionSet {
        var result = PartitionSet()
        for (topic, list) in topics {
            let kept = list.filter { condition(topic, $0) }
            if !kept.isEmpty { result.topics[topic] = kept }
        }
        return result
    }

    func intersection(_ other: PartitionSet) -> PartitionSet { filter { other.contains($0, $1) } }
    func subtracting(_ other: PartitionSet) -> PartitionSet { filter { !other.contains($0, $1) } }
    func isSubset(of other: PartitionSet) -> Bool { subtracting(other).isEmpty }

    func union(_ other: PartitionSet) -> PartitionSet {
        PartitionSet(topics.map { ($0.key, $0.value) } + other.topics.map { ($0.key, $0.value) })
    }

    /// In the order of the topics' ids.
    var sorted: [(topic: TopicID, partitions: [Int32])] {
        topics.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    /// Every single partition, in order.
    var all: [(topic: TopicID, partition: Int32)] {
        sorted.flatMap { topic, list in list.map { (topic, $0) } }
    }
}

/// How the coordinator shares partitions among the members of a consumer group.
enum ServerAssignor: String, Sendable, CaseIterable {
    /// Everyone gets the same number, give or take one, and keeps what it has as far as that allows.
    case uniform
    /// Partition n of each topic goes to the same member, so that topics with equal keys can be joined.
    case range

    /// One member as the assignor sees it.
    struct Subscriber: Equatable, Sendable {
        var memberID: String
        var instanceID: String?
        /// The topics that it reads.
        var topics: Set<TopicID>
        /// What it was meant to have until now.
        var previous: PartitionSet
    }

    /// Gives each partition of each topic that anyone reads to one member that reads it.
    func assign(_ members: [Subscriber], partitionCounts: [TopicID: Int32]) -> [String: PartitionSet] {
        switch self {
        case .uniform: Self.uniform(members, partitionCounts)
        case .range: Self.range(members, partitionCounts)
        }
    }

    // MARK: Range

    private static func range(_ members: [Subscriber], _ counts: [TopicID: Int32]) -> [String: PartitionSet] {
        var result = Dictionary(uniqueKeysWithValues: members.map { ($0.memberID, [(TopicID, [Int32])]()) })
        // Static members keep their place in the order across restarts.
        let ordered = members.sorted { ($0.instanceID ?? $0.memberID) < ($1.instanceID ?? $1.memberID) }
        for (topic, count) in counts {
            let readers = ordered.filter { $0.topics.contains(topic) }
            guard !readers.isEmpty, count > 0 else { continue }
            let (share, extra) = count.quotientAndRemainder(dividingBy: Int32(readers.count))
            var next: Int32 = 0
            for (index, reader) in readers.enumerated() {
                let size = share + (index < extra ? 1 : 0)
                result[reader.memberID]?.append((topic, Array(next..<(next + size))))
                next += size
            }
        }
        return result.mapValues { PartitionSet($0) }
    }

    // MARK: Uniform

    private static func uniform(_ members: [Subscriber], _ counts: [TopicID: Int32]) -> [String: PartitionSet] {
        guard let first = members.first else { return [:] }
        var sharing = Sharing(members.sorted { $0.memberID < $1.memberID }, counts)
        let isAlike = members.allSatisfy { $0.topics == first.topics }
        sharing.keepPrevious(limited: isAlike)
        sharing.giveOutRest()
        if !isAlike { sharing.balance() }
        return sharing.result
    }

    /// A sharing under way. Members go by their index.
    private struct Sharing {
        let members: [Subscriber]
        var lists: [[(topic: TopicID, partition: Int32)]]
        var free: [(topic: TopicID, partition: Int32)] = []
        let counts: [TopicID: Int32]
        let total: Int

        init(_ members: [Subscriber], _ counts: [TopicID: Int32]) {
            self.members = members
            lists = Array(repeating: [], count: members.count)
            let read = members.reduce(into: Set<TopicID>()) { $0.formUnion($1.topics) }
            self.counts = counts.filter { read.contains($0.key) }
            total = self.counts.values.reduce(0) { $0 + Int($1) }
        }

        /// Lets members keep what they had: all of it, or, where all read the same, no more than their share.
        mutating func keepPrevious(limited: Bool) {
            let (share, extra) = total.quotientAndRemainder(dividingBy: members.count)
            var extrasLeft = extra
            var taken: [TopicID: Set<Int32>] = [:]
            for (index, member) in members.enumerated() {
                for (topic, partition) in member.previous.all
                where member.topics.contains(topic) && partition < counts[topic] ?? 0
                    && !(taken[topic]?.contains(partition) ?? false)
                {
                    if limited && lists[index].count >= share {
                        guard lists[index].count == share && extrasLeft > 0 else { break }
                        extrasLeft -= 1
                    }
                    lists[index].append((topic, partition))
                    taken[topic, default: []].insert(partition)
                }
            }
            for (topic, count) in counts.sorted(by: { $0.key < $1.key }) {
                for partition in 0..<count where !(taken[topic]?.contains(partition) ?? false) {
                    free.append((topic, partition))
                }
            }
        }

        /// Gives each free partition to the reader that has least; topics with few readers first.
        mutating func giveOutRest() {
            var readers: [TopicID: [Int]] = [:]
            for topic in counts.keys {
                readers[topic] = members.indices.filter { members[$0].topics.contains(topic) }
            }
            let order = free.indices.sorted {
                let (left, right) = (readers[free[$0].topic]?.count ?? 0, readers[free[$1].topic]?.count ?? 0)
                return left == right ? $0 < $1 : left < right
            }
            for index in order {
                let item = free[index]
                guard let least = readers[item.topic]?.min(by: { lists[$0].count < lists[$1].count }) else { continue }
                lists[least].append(item)
            }
            free = []
        }

        /// Moves partitions from those with many to those with few, while that evens things out. Ends: each move makes
        /// the sum of squares smaller.
        mutating func balance() {
            var hasMoved = true
            while hasMoved {
                hasMoved = false
                for giver in members.indices.sorted(by: { lists[$0].count > lists[$1].count }) {
                    for position in lists[giver].indices.reversed() {
                        let item = lists[giver][position]
                        let taker = members.indices.filter { members[$0].topics.contains(item.topic) }
                            .min { lists[$0].count < lists[$1].count }
                        guard let taker, lists[taker].count + 1 < lists[giver].count else { continue }
                        lists[taker].append(lists[giver].remove(at: position))
                        hasMoved = true
                    }
                }
            }
        }

        var result: [String: PartitionSet] {
            var result: [String: PartitionSet] = [:]
            for (index, member) in members.enumerated() {
                result[member.memberID] = PartitionSet(
                    Dictionary(grouping: lists[index], by: \.topic).map { ($0.key, $0.value.map(\.partition)) }
                )
            }
            return result
        }
    }
}
