// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Topics and settings.
extension ControllerState {
    func create(
        _ new: NewTopic,
        _ id: TopicID,
        isInternal: Bool,
        _ configuration: BrokerConfiguration
    ) throws(Refusal) -> [MetadataRecord] {
        if let problem = Controller.nameProblem(new.name) {
            throw Refusal(code: .invalidTopicException, message: problem)
        }
        let isKept =
            new.name == MetadataStore.topicPartition.topic || InternalTopic.all.contains { $0.name == new.name }
        if isKept && !isInternal {
            throw Refusal(code: .invalidTopicException, message: "\(new.name) is kept for the broker")
        }
        if image.topic(new.name) != nil {
            throw Refusal(code: .topicAlreadyExists, message: "the topic \(new.name) exists already")
        }
        // Names that differ in . and _ alone would collide in metrics.
        let folded = String(new.name.map { $0 == "." ? "_" : $0 })
        if folded.contains("_"),
            let other = image.topics.keys.first(where: { String($0.map { $0 == "." ? "_" : $0 }) == folded })
        {
            throw Refusal(
                code: .invalidTopicException,
                message: "the name \(new.name) collides with \(other): . and _ count as one"
            )
        }
        if let problem = TopicSettings.problem(new.configs, defaults: configuration.topicDefaults) {
            throw Refusal(code: .invalidConfig, message: problem)
        }
        let replicas = try replicas(of: new, id, configuration)
        if !isInternal, let problem = configuration.policyProblem(new.name, partitions: replicas.count) {
            throw Refusal(code: .policyViolation, message: problem)
        }
        return [.topicCreated(name: new.name, id: id, replicas: replicas, configs: new.configs)]
            + corrections(id, replicas, from: 0)
    }

    /// A new partition whose nodes do not all run begins with those that do.
    private func corrections(_ id: TopicID, _ replicas: [[Int32]], from first: Int) -> [MetadataRecord] {
        guard !image.brokers.isEmpty else { return [] }
        return replicas.enumerated().compactMap { index, nodes in
            let active = nodes.filter(image.isActive)
            guard active != nodes, let leader = active.first else { return nil }
            return .partitionState(
                id: id,
                partition: Int32(first + index),
                state: PartitionImage(replicas: nodes, isr: active, leader: leader)
            )
        }
    }

    func delete(_ id: TopicID) throws(Refusal) -> [MetadataRecord] {
        guard let topic = image.topic(id) else {
            throw Refusal(code: .unknownTopicId, message: "there is no such topic")
        }
        return [.topicDeleted(id: topic.id)]
    }

    func grow(_ name: String, to count: Int32, _ assignments: [[Int32]]?) throws(Refusal) -> [MetadataRecord] {
        guard let topic = image.topic(name) else {
            throw Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(name)")
        }
        let current = topic.partitions.count
        guard count > current, count <= 10_000 else {
            throw Refusal(
                code: .invalidPartitions,
                message: "\(name) has \(current) partitions; the new count must be more, and at most 10000"
            )
        }
        let added = Int(count) - current
        var replicas: [[Int32]]
        if let assignments {
            guard assignments.count == added else {
                throw Refusal(
                    code: .invalidReplicaAssignment,
                    message: "\(added) assignments are expected, not \(assignments.count)"
                )
            }
            for nodes in assignments { try check(nodes) }
            replicas = assignments
        } else {
            let factor = topic.replicationFactor
            replicas = try place(added, factor: factor, start: current + Self.start(topic.id), fallback: -1)
        }
        return [.partitionsAdded(id: topic.id, replicas: replicas)] + corrections(topic.id, replicas, from: current)
    }

    func configure(_ resource: ConfigResource, _ changes: [String: String?]) throws(Refusal) -> [MetadataRecord] {
        if case .topic(let name) = resource, image.topic(name) == nil {
            throw Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(name)")
        }
        return changes.sorted { $0.key < $1.key }.map { .configChanged(resource, key: $0.key, value: $0.value) }
    }

    // MARK: Placement

    private func check(_ nodes: [Int32]) throws(Refusal) {
        if nodes.isEmpty || Set(nodes).count != nodes.count {
            throw Refusal(code: .invalidReplicaAssignment, message: "a partition needs nodes, each named once")
        }
        if let unknown = nodes.first(where: { image.brokers[$0] == nil }) {
            throw Refusal(
                code: .invalidReplicaAssignment,
                message: "there is no node \(unknown); the nodes are \(image.brokers.keys.sorted())"
            )
        }
        if !nodes.contains(where: image.isActive) {
            throw Refusal(code: .invalidReplicaAssignment, message: "none of the nodes \(nodes) runs")
        }
    }

    private func replicas(
        of new: NewTopic,
        _ id: TopicID,
        _ configuration: BrokerConfiguration
    ) throws(Refusal) -> [[Int32]] {
        if !new.assignments.isEmpty {
            guard new.partitions == -1, new.replicationFactor == -1 else {
                throw Refusal(
                    code: .invalidRequest,
                    message: "give either an assignment, or counts of partitions and replicas"
                )
            }
            var result: [[Int32]] = []
            for index in 0..<Int32(new.assignments.count) {
                guard let nodes = new.assignments[index] else {
                    throw Refusal(
                        code: .invalidReplicaAssignment,
                        message: "the assignment has no partition \(index); number them from 0"
                    )
                }
                try check(nodes)
                result.append(nodes)
            }
            return result
        }
        let count = new.partitions == -1 ? configuration.defaultPartitions : new.partitions
        guard (1...10_000).contains(count) else {
            throw Refusal(code: .invalidPartitions, message: "\(count) partitions; a topic has 1 to 10000")
        }
        var factor = Int(new.replicationFactor == -1 ? configuration.defaultReplicationFactor : new.replicationFactor)
        // What the node was told is a wish, what the creator says a demand.
        if new.replicationFactor == -1 { factor = min(factor == -1 ? 3 : factor, max(1, image.brokers.count)) }
        return try place(Int(count), factor: factor, start: Self.start(id), fallback: configuration.nodeID)
    }

    /// Where a topic's first partition goes: by its id, so that topics spread and every node would choose the same.
    private static func start(_ id: TopicID) -> Int { Int(truncatingIfNeeded: id.low & 0xFFFF) }

    /// Nodes for `count` partitions: leaders in turn, the others of a partition behind it, in other racks first.
    private func place(_ count: Int, factor: Int, start: Int, fallback: Int32) throws(Refusal) -> [[Int32]] {
        let known = image.brokers.values.sorted { $0.id < $1.id }
        let nodes = known.count
        guard factor >= 1, factor <= max(1, nodes) else {
            throw Refusal(
                code: .invalidReplicationFactor,
                message: "the replication factor is \(factor), but the cluster has \(max(1, nodes)) "
                    + "\(nodes <= 1 ? "node; use 1" : "nodes; use 1 to \(nodes)") or -1"
            )
        }
        // Without brokers it is a node of its own.
        if known.isEmpty { return Array(repeating: [fallback], count: count) }
        let active = known.filter { !$0.isFenced }
        // Those that do not run take part only where the others are too few.
        let ring = Self.alternatingRacks(active.count >= factor ? active : known)
        let leaders = Self.alternatingRacks(active.isEmpty ? known : active)
        return (0..<count).map { index in
            let leader = leaders[(start + index) % leaders.count]
            let position = ring.firstIndex { $0.id == leader.id } ?? 0
            // A shift that grows once a round spreads the followers of one leader over the others.
            let shift = (start + index) / leaders.count
            var others = (0..<(ring.count - 1)).map {
                ring[(position + 1 + ($0 + shift) % max(1, ring.count - 1)) % ring.count]
            }
            var chosen = [leader]
            while chosen.count < factor, !others.isEmpty {
                let used = Set(chosen.compactMap(\.rack))
                let next = others.firstIndex { $0.rack.map { !used.contains($0) } ?? true } ?? 0
                chosen.append(others.remove(at: next))
            }
            return chosen.map(\.id)
        }
    }

    /// One of each rack, then the next of each.
    private static func alternatingRacks(_ brokers: [BrokerImage]) -> [BrokerImage] {
        let racks = Dictionary(grouping: brokers) { $0.rack ?? "" }.sorted { $0.key < $1.key }.map(\.value)
        let longest = racks.map(\.count).max() ?? 0
        return (0..<longest).flatMap { round in racks.compactMap { round < $0.count ? $0[round] : nil } }
    }
}

extension BrokerConfiguration {
    /// Why the policies refuse a topic; nil where they allow it.
    func policyProblem(_ name: String, partitions: Int) -> String? {
        if partitions > Int(policyMaxPartitions) {
            return "\(partitions) partitions; topic.policy.max.partitions allows \(policyMaxPartitions)"
        }
        if !policyNamePattern.isEmpty, TopicPattern(policyNamePattern)?.matches(name) != true {
            return "the name \(name) does not match topic.policy.name.pattern, \(policyNamePattern)"
        }
        return nil
    }
}
