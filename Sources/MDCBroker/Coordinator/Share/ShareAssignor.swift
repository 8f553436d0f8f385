// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// How the coordinator shares partitions among the members of a share group. Several members may have the same partition,
/// so this is about balance only: while there are at least as many partitions as readers each partition goes to one
/// reader; with more readers than partitions each reader gets one partition, and partitions get equally many readers.
/// Topic by topic; what a member had it keeps as far as balance allows.
enum ShareAssignor {
    /// The name that is shown to administrators, as in Kafka.
    static let name = "simple"

    /// One member as the assignor sees it.
    struct Subscriber: Equatable, Sendable {
        var memberID: String
        /// The topics that it reads.
        var topics: Set<TopicID>
        /// What it was meant to have until now.
        var previous: PartitionSet
    }

    /// Gives each member partitions of the topics that it reads. `partitions` lists those that may be given out.
    static func assign(_ members: [Subscriber], partitions: PartitionSet) -> [String: PartitionSet] {
        let ordered = members.sorted { $0.memberID < $1.memberID }
        var lists = [[(TopicID, Int32)]](repeating: [], count: ordered.count)
        for (topic, list) in partitions.sorted {
            let readers = ordered.indices.filter { ordered[$0].topics.contains(topic) }
            guard !readers.isEmpty else { continue }
            let previous = readers.map { ordered[$0].previous.topics[topic]?.filter { list.contains($0) } ?? [] }
            let shares =
                readers.count <= list.count
                ? split(list, previous, loads: readers.map { lists[$0].count })
                : double(list, previous)
            for (reader, share) in zip(readers, shares) { lists[reader] += share.map { (topic, $0) } }
        }
        var result: [String: PartitionSet] = [:]
        for (index, member) in ordered.enumerated() {
            result[member.memberID] = PartitionSet(
                Dictionary(grouping: lists[index], by: \.0).map { ($0.key, $0.value.map(\.1)) }
            )
        }
        return result
    }

    /// At least as many partitions as readers: each partition goes to one.
    private static func split(_ partitions: [Int32], _ previous: [[Int32]], loads: [Int]) -> [[Int32]] {
        var shares = [[Int32]](repeating: [], count: previous.count)
        let (floor, extra) = partitions.count.quotientAndRemainder(dividingBy: previous.count)
        var extrasLeft = extra
        var taken: Set<Int32> = []
        for reader in previous.indices {
            for partition in previous[reader] where !taken.contains(partition) {
                if shares[reader].count >= floor {
                    guard shares[reader].count == floor, extrasLeft > 0 else { break }
                    extrasLeft -= 1
                }
                shares[reader].append(partition)
                taken.insert(partition)
            }
        }
        for partition in partitions where !taken.contains(partition) {
            // Fewest of this topic first, then fewest of all.
            let least = shares.indices.min {
                (shares[$0].count, loads[$0], $0) < (shares[$1].count, loads[$1], $1)
            }
            if let least { shares[least].append(partition) }
        }
        return shares
    }

    /// More readers than partitions: each reader gets one.
    private static func double(_ partitions: [Int32], _ previous: [[Int32]]) -> [[Int32]] {
        var shares = [[Int32]](repeating: [], count: previous.count)
        guard !partitions.isEmpty else { return shares }
        let (floor, extra) = previous.count.quotientAndRemainder(dividingBy: partitions.count)
        var extrasLeft = extra
        var counts = Dictionary(uniqueKeysWithValues: partitions.map { ($0, 0) })
        for reader in previous.indices {
            for partition in previous[reader] {
                let count = counts[partition] ?? 0
                if count >= floor {
                    guard count == floor, extrasLeft > 0 else { continue }
                    extrasLeft -= 1
                }
                counts[partition] = count + 1
                shares[reader] = [partition]
                break
            }
        }
        for reader in previous.indices where shares[reader].isEmpty {
            guard let least = partitions.min(by: { (counts[$0] ?? 0, $0) < (counts[$1] ?? 0, $1) }) else { continue }
            counts[least, default: 0] += 1
            shares[reader] = [least]
        }
        return shares
    }
}
