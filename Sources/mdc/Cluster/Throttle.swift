// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCModel

/// The throttle of moves (KIP-73): a rate for each node and direction, and for each topic the replicas that it applies to.
struct Throttle {
    let admin: Admin
    /// The settings of all nodes.
    private static let nodes = ConfigResource(.broker, "")
    private static let rates = ["leader.replication.throttled.rate", "follower.replication.throttled.rate"]
    private static let leaders = "leader.replication.throttled.replicas"
    private static let followers = "follower.replication.throttled.replicas"

    /// Puts a rate into force for what `moves` copy: the replicas there are send no more, those that are added take no more.
    func set(_ bytesPerSecond: Int64, for moves: [PlacementPlan.Move]) async throws {
        var changes: [ConfigResource: [String: ConfigChange]] = [:]
        for (topic, moves) in Dictionary(grouping: moves.filter(\.copies), by: \.partition.topic) {
            let sources = moves.flatMap { move in move.from.map { "\(move.partition.partition):\($0)" } }
            let targets = moves.flatMap { move in
                move.to.filter { !move.from.contains($0) }.map { "\(move.partition.partition):\($0)" }
            }
            changes[.topic(topic)] = [
                Self.leaders: .set(sources.joined(separator: ",")),
                Self.followers: .set(targets.joined(separator: ",")),
            ]
        }
        guard !changes.isEmpty else { return }
        changes[Self.nodes] = Dictionary(
            uniqueKeysWithValues: Self.rates.map { ($0, ConfigChange.set("\(bytesPerSecond)")) }
        )
        try await admin.alterConfigs(changes)
    }

    /// Takes the throttle away from topics. The rates stay where others are still throttled by them.
    func remove(from topics: Set<String>, keepsRates: Bool = false) async throws {
        guard !topics.isEmpty else { return }
        var changes: [ConfigResource: [String: ConfigChange]] = [:]
        for topic in topics { changes[.topic(topic)] = [Self.leaders: .delete, Self.followers: .delete] }
        if !keepsRates {
            changes[Self.nodes] = Dictionary(uniqueKeysWithValues: Self.rates.map { ($0, ConfigChange.delete) })
        }
        try await admin.alterConfigs(changes)
    }

    /// Takes all throttles away; gives the topics that had one.
    func removeAll() async throws -> [String] {
        let all = try await admin.describeTopics().map { ConfigResource.topic($0.name) }
        let throttled = try await admin.describeConfigs(all).filter { _, entries in
            entries.contains { ($0.name == Self.leaders || $0.name == Self.followers) && $0.value?.isEmpty == false }
        }
        let topics = throttled.keys.map(\.name)
        try await remove(from: Set(topics))
        if topics.isEmpty {
            try await admin.alterConfigs([
                Self.nodes: Dictionary(uniqueKeysWithValues: Self.rates.map { ($0, ConfigChange.delete) })
            ])
        }
        return topics.sorted()
    }
}
