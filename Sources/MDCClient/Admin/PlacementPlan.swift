// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// Where partitions should go: decided from what is, without asking anybody.
public struct PlacementPlan: Sendable, Hashable {
    /// A node that takes replicas.
    public struct Node: Sendable, Hashable {
        /// Its id.
        public var id: BrokerID
        /// Its rack; nodes without one count as racks of their own.
        public var rack: String?

        /// Names a node.
        public init(_ id: BrokerID, rack: String? = nil) {
            self.id = id
            self.rack = rack
        }
    }

    /// A partition as it is.
    public struct Partition: Sendable, Hashable {
        /// Which.
        public var name: TopicPartition
        /// Its nodes; the first is the preferred leader.
        public var replicas: [BrokerID]

        /// Describes one.
        public init(_ name: TopicPartition, _ replicas: [BrokerID]) {
            self.name = name
            self.replicas = replicas
        }
    }

    /// A partition that should be elsewhere, or have another preferred leader.
    public struct Move: Sendable, Hashable {
        /// Which.
        public var partition: TopicPartition
        /// Its nodes now.
        public var from: [BrokerID]
        /// Its nodes then.
        public var to: [BrokerID]
        /// Whether records are copied; else only the preferred leader is another, or a copy is dropped.
        public var copies: Bool { to.contains { !from.contains($0) } }

        /// Describes one.
        public init(partition: TopicPartition, from: [BrokerID], to: [BrokerID]) {
            self.partition = partition
            self.from = from
            self.to = to
        }
    }

    /// What is to be done, sorted by partition.
    public private(set) var moves: [Move]
    /// Partitions that cannot keep their number of replicas: there are too few other nodes.
    public private(set) var stuck: [TopicPartition] = []

    private init(_ before: [Partition], _ after: [Partition]) {
        moves = zip(before, after).filter { $0.replicas != $1.replicas }.map {
            Move(partition: $0.name, from: $0.replicas, to: $1.replicas)
        }.sorted { $0.partition < $1.partition }
    }

    /// Moves as few replicas as it takes that no node holds two more than another, then evens out preferred leaders.
    /// - Parameter leadersOnly: whether replicas stay where they are.
    public static func rebalance(_ partitions: [Partition], over nodes: [Node], leadersOnly: Bool = false)
        -> PlacementPlan
    {
        var state = Placement(partitions, nodes)
        if !leadersOnly { while state.evenOutReplicas() {} }
        while state.evenOutLeaders() {}
        return PlacementPlan(partitions, state.partitions)
    }

    /// Moves everything off a node to the others.
    /// - Parameter allowsFewer: whether a partition for which there is no other node goes on with one replica less.
    public static func drain(
        _ node: BrokerID,
        _ partitions: [Partition],
        to nodes: [Node],
        allowsFewer: Bool = false
    ) -> PlacementPlan {
        var state = Placement(partitions, nodes.filter { $0.id != node })
        var stuck: [TopicPartition] = []
        for index in partitions.indices where partitions[index].replicas.contains(node) {
            if let target = state.best(for: index, insteadOf: node) {
                state.replace(node, by: target, in: index)
            } else if allowsFewer, partitions[index].replicas.count > 1 {
                state.remove(node, from: index)
            } else {
                stuck.append(partitions[index].name)
            }
        }
        while state.evenOutLeaders(where: { partitions[$0].replicas.first == node }) {}
        var plan = PlacementPlan(partitions, state.partitions)
        plan.stuck = stuck.sorted()
        return plan
    }
}

/// Partitions and how many replicas and preferred leaderships each node has of them.
private struct Placement {
    private(set) var partitions: [PlacementPlan.Partition]
    private let racks: [BrokerID: String]
    private var held: [BrokerID: Int] = [:]
    private var preferred: [BrokerID: Int] = [:]

    init(_ partitions: [PlacementPlan.Partition], _ nodes: [PlacementPlan.Node]) {
        self.partitions = partitions
        racks = Dictionary(nodes.map { ($0.id, $0.rack ?? "node \($0.id)") }, uniquingKeysWith: { first, _ in first })
        for node in nodes { (held[node.id], preferred[node.id]) = (0, 0) }
        for partition in partitions {
            for node in partition.replicas { held[node]? += 1 }
            if let first = partition.replicas.first { preferred[first]? += 1 }
        }
    }

    mutating func replace(_ old: BrokerID, by new: BrokerID, in index: Int) {
        guard let position = partitions[index].replicas.firstIndex(of: old) else { return }
        partitions[index].replicas[position] = new
        held[old]? -= 1
        held[new]? += 1
        if position == 0 {
            preferred[old]? -= 1
            preferred[new]? += 1
        }
    }

    mutating func remove(_ node: BrokerID, from index: Int) {
        let wasPreferred = partitions[index].replicas.first == node
        partitions[index].replicas.removeAll { $0 == node }
        held[node]? -= 1
        guard wasPreferred else { return }
        preferred[node]? -= 1
        if let first = partitions[index].replicas.first { preferred[first]? += 1 }
    }

    /// How many replicas share a rack with another one.
    private func crowding(_ replicas: [BrokerID]) -> Int {
        let names = replicas.compactMap { racks[$0] }
        return names.count - Set(names).count
    }

    private func replicas(of index: Int, _ old: BrokerID, _ new: BrokerID) -> [BrokerID] {
        partitions[index].replicas.map { $0 == old ? new : $0 }
    }

    /// The node that should take a replica: in another rack first, then the one with fewest.
    func best(for index: Int, insteadOf node: BrokerID) -> BrokerID? {
        held.keys.filter { !partitions[index].replicas.contains($0) }.min {
            let left = (crowding(replicas(of: index, node, $0)), held[$0] ?? 0, $0)
            let right = (crowding(replicas(of: index, node, $1)), held[$1] ?? 0, $1)
            return left < right
        }
    }

    /// One replica goes from the fullest node to the emptiest that may take it; false where nothing is gained any more.
    mutating func evenOutReplicas() -> Bool {
        let order = held.keys.sorted { (held[$0] ?? 0, $0) < (held[$1] ?? 0, $1) }
        for full in order.reversed() {
            for empty in order {
                guard (held[full] ?? 0) - (held[empty] ?? 0) >= 2 else { break }
                let found = partitions.indices.first { index in
                    let now = partitions[index].replicas
                    return now.contains(full) && !now.contains(empty)
                        && crowding(replicas(of: index, full, empty)) <= crowding(now)
                }
                if let found {
                    replace(full, by: empty, in: found)
                    return true
                }
            }
        }
        return false
    }

    /// One preferred leadership goes to a node that has at least two less; false where there is none.
    mutating func evenOutLeaders(where isAllowed: (Int) -> Bool = { _ in true }) -> Bool {
        let order = preferred.keys.sorted { (preferred[$0] ?? 0, $0) < (preferred[$1] ?? 0, $1) }
        for full in order.reversed() {
            for empty in order {
                guard (preferred[full] ?? 0) - (preferred[empty] ?? 0) >= 2 else { break }
                let found = partitions.indices.first {
                    partitions[$0].replicas.first == full && partitions[$0].replicas.contains(empty) && isAllowed($0)
                }
                guard let found, let position = partitions[found].replicas.firstIndex(of: empty) else { continue }
                partitions[found].replicas.swapAt(0, position)
                preferred[full]? -= 1
                preferred[empty]? += 1
                return true
            }
        }
        return false
    }
}
