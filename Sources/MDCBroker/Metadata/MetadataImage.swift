// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// A partition as the cluster sees it.
struct PartitionImage: Equatable, Sendable {
    /// The nodes that hold it; the first is the preferred leader.
    var replicas: [Int32]
    /// The replicas that have everything that was acknowledged.
    var isr: [Int32]
    /// Replicas out of `isr` that nevertheless have everything below the high watermark (KIP-966).
    var elr: [Int32] = []
    /// -1 for none.
    var leader: Int32
    /// Grows whenever a leader begins, be it the same node again.
    var leaderEpoch: Int32 = 0
    /// Grows with each change of this value.
    var partitionEpoch: Int32 = 0
    /// Replicas that a reassignment adds; they are in `replicas` too.
    var addingReplicas: [Int32] = []
    /// Replicas that a reassignment removes at its end; they are in `replicas` until then.
    var removingReplicas: [Int32] = []

    /// Whether a reassignment is under way.
    var isMoving: Bool { !addingReplicas.isEmpty || !removingReplicas.isEmpty }
}

extension PartitionImage {
    /// A replica's node is gone. It leaves the ISR unless it is the last there; where the ISR falls below `minInSync`,
    /// nothing is committed without it, so that it stays eligible (KIP-966). Who led leads no more.
    mutating func leave(_ node: Int32, losingData: Bool, minInSync: Int, isActive: (Int32) -> Bool) {
        guard replicas.contains(node) else { return }
        let before = self
        if isr.contains(node), losingData || isr.count > 1 {
            isr.removeAll { $0 == node }
            if !losingData && isr.count < minInSync && !elr.contains(node) { elr.append(node) }
        }
        if losingData { elr.removeAll { $0 == node } }
        if leader == node {
            leader = -1
            elect { $0 != node && isActive($0) }
        }
        if self != before { partitionEpoch = before.partitionEpoch + 1 }
    }

    /// As many are in sync as it takes to commit: whoever is not may lack what is committed from now on.
    mutating func forgetEligible(minInSync: Int) {
        guard !elr.isEmpty, isr.count >= minInSync else { return }
        elr = []
        partitionEpoch += 1
    }

    /// Chooses a leader where there is none: the first replica in sync, else one that is eligible. Each leadership has an
    /// epoch of its own.
    mutating func elect(among isCandidate: (Int32) -> Bool) {
        if let chosen = replicas.first(where: { isr.contains($0) && isCandidate($0) }) {
            leader = chosen
        } else if let chosen = replicas.first(where: { elr.contains($0) && isCandidate($0) }) {
            leader = chosen
            elr = (elr + isr).filter { $0 != chosen }
            isr = [chosen]
        } else if PlantedReplicationBugs.planted.contains(.electsAnybody),
            let chosen = replicas.first(where: isCandidate)
        {
            leader = chosen
            isr = [chosen]
        } else {
            return
        }
        leaderEpoch += 1
        partitionEpoch += 1
    }
}

/// A topic as the cluster sees it.
struct TopicImage: Equatable, Sendable {
    var name: String
    var id: TopicID
    var partitions: [PartitionImage]
    var configs: [String: String]

    /// Whether clients may only read it.
    var isInternal: Bool { InternalTopic.all.contains { $0.name == name } }

    /// Replicas of a partition. Those that a move adds count when it ends: until then other partitions have fewer.
    var replicationFactor: Int {
        partitions.first.map { $0.replicas.count - $0.addingReplicas.count } ?? 1
    }

    /// In-sync replicas below which nothing is committed: what was set, else a majority of the replicas. The controller
    /// must know it by the topic alone.
    var minInSync: Int {
        configs["min.insync.replicas"].flatMap { Int($0) } ?? replicationFactor / 2 + 1
    }

    /// The same for a leader, never less: on a node whose own setting is `setting`, which counts for topics with one replica that
    /// say nothing themselves. Nobody is ever eligible besides that replica, so that the controller need not know.
    func minInSync(onNode setting: Int32) -> Int32 {
        let own = Int32(clamping: minInSync)
        return replicationFactor == 1 && configs["min.insync.replicas"] == nil ? max(own, setting) : own
    }
}

/// A broker that has registered.
struct BrokerImage: Equatable, Sendable {
    var id: Int32
    /// Grows with each registration of any broker; what an earlier run of the broker asks for is refused by it.
    var epoch: Int64
    /// Drawn anew at each start.
    var incarnation: KafkaUUID
    /// The id of its data folder: another one means that its disk was emptied.
    var directory: KafkaUUID
    /// Where clients and followers connect.
    var host: String
    var port: Int32
    var rack: String?
    /// Leads nothing and counts for nothing until it has caught up.
    var isFenced = true
    /// The levels of features that its release has; empty for the base levels.
    var features: [String: ClosedRange<Int16>] = [:]
}

/// Where a controller listens.
struct ControllerEndpoint: Equatable, Sendable {
    var host: String
    var port: Int32
}

/// The cluster's metadata at one point of its log. A value: whoever holds one sees no change.
struct MetadataImage: Sendable {
    /// Grows with each change.
    private(set) var version: UInt64 = 0
    private(set) var clusterID = ""
    /// Of this node's present run.
    private(set) var brokerEpochs: [Int32: Int64] = [:]
    /// By id.
    private(set) var brokers: [Int32: BrokerImage] = [:]
    private(set) var topics: [String: TopicImage] = [:]
    private(set) var names: [TopicID: String] = [:]
    /// Topics that were deleted: folders with these ids are leftovers.
    private(set) var deleted: Set<TopicID> = []
    private(set) var brokerConfigs: [Int32?: [String: String]] = [:]
    /// Settings of groups, by name.
    private(set) var groupConfigs: [String: [String: String]] = [:]
    private(set) var nextProducerID: Int64 = 0
    private(set) var quotas = QuotaTable()
    /// Levels of features that were decided upon; for others the initial ones are in force.
    private(set) var features: [String: Int16] = [:]
    /// How many such decisions there were.
    private(set) var featuresEpoch: Int64 = 0
    /// The controllers of nodes that joined at run time, by node.
    private(set) var controllers: [Int32: ControllerEndpoint] = [:]

    func topic(_ name: String) -> TopicImage? { topics[name] }
    func topic(_ id: TopicID) -> TopicImage? { names[id].flatMap { topics[$0] } }

    /// Forgets deleted topics but those in `kept`.
    mutating func forgetDeleted(keeping kept: Set<TopicID>) { deleted.formIntersection(kept) }

    /// Applies one change. Changes of topics that are gone have no effect.
    mutating func apply(_ record: MetadataRecord) {
        version += 1
        switch record {
        case .clusterCreated(let id): clusterID = id
        case .nodeStarted(let id, let brokerEpoch):
            brokerEpochs[id] = brokerEpoch
            for name in topics.keys { bumpEpochs(of: name, ledBy: id) }
        case .topicCreated(let name, let id, let replicas, let configs):
            topics[name] = TopicImage(
                name: name,
                id: id,
                partitions: replicas.map(Self.newPartition),
                configs: configs
            )
            names[id] = name
        case .partitionsAdded(let id, let replicas):
            change(id) { $0.partitions += replicas.map(Self.newPartition) }
        case .partitionChanged(let id, let partition, let leader, let leaderEpoch, let inSync):
            change(id) { topic in
                let index = Int(partition)
                guard topic.partitions.indices.contains(index) else { return }
                topic.partitions[index].leader = leader
                topic.partitions[index].leaderEpoch = leaderEpoch
                topic.partitions[index].isr = inSync
            }
        case .topicDeleted(let id):
            if let name = names.removeValue(forKey: id) { topics[name] = nil }
            deleted.insert(id)
        case .configChanged(.topic(let name), let key, let value):
            guard let id = topics[name]?.id else { break }
            change(id) { $0.configs[key] = value }
        case .configChanged(.broker(let id), let key, let value): brokerConfigs[id, default: [:]][key] = value
        case .configChanged(.group(let name), let key, let value):
            groupConfigs[name, default: [:]][key] = value
            if groupConfigs[name]?.isEmpty == true { groupConfigs[name] = nil }
        case .quotaChanged(let entity, let key, let value): quotas.set(entity, key, value)
        case .partitionState(let id, let partition, let state):
            change(id) { topic in
                guard topic.partitions.indices.contains(Int(partition)) else { return }
                topic.partitions[Int(partition)] = state
            }
        case .brokerRegistered(let broker): register(broker)
        case .brokerFencing(let id, let epoch, let isFenced):
            guard brokers[id]?.epoch == epoch else { return }
            brokers[id]?.isFenced = isFenced
            if isFenced { leavePartitions(id) } else { enterPartitions(id) }
        case .brokerUnregistered(let id):
            leavePartitions(id)
            brokers[id] = nil
        case .quorum, .snapshotEnd: break
        case .featureLevel(let name, let level, let epoch):
            features[name] = level
            featuresEpoch = max(featuresEpoch, epoch)
        case .controllerEndpoint(let node, let host, let port):
            controllers[node] = port == 0 ? nil : ControllerEndpoint(host: host, port: port)
        case .producerIDsReserved(let next): nextProducerID = max(nextProducerID, next)
        }
    }

    private mutating func change(_ id: TopicID, _ body: (inout TopicImage) -> Void) {
        guard let name = names[id], var topic = topics[name] else { return }
        let floor = topic.minInSync
        body(&topic)
        if topic.minInSync != floor {
            // Who is eligible is so by the former number.
            for index in topic.partitions.indices { topic.partitions[index].forgetEligible(minInSync: topic.minInSync) }
        }
        topics[name] = topic
    }

    // MARK: Brokers

    /// One record changes every partition of a broker, by rules that are the same on every node: the log stays short
    /// however many there are.
    private mutating func register(_ broker: BrokerImage) {
        let former = brokers[broker.id]
        brokers[broker.id] = broker
        brokerEpochs[broker.id] = broker.epoch
        let isEmptied =
            former.map { $0.directory != broker.directory } ?? false
            && !PlantedReplicationBugs.planted.contains(.emptyDiskIsTrusted)
        let keeps = PlantedReplicationBugs.planted.contains(.restartedLeaderKeepsItsEpoch) && !isEmptied
        if broker.isFenced, !keeps {
            leavePartitions(broker.id, losingData: isEmptied)
        }
    }

    private mutating func leavePartitions(_ node: Int32, losingData: Bool = false) {
        for name in topics.keys {
            guard var topic = topics[name], topic.partitions.contains(where: { $0.replicas.contains(node) }) else {
                continue
            }
            let floor = topic.minInSync
            for index in topic.partitions.indices {
                topic.partitions[index].leave(node, losingData: losingData, minInSync: floor) { isActive($0) }
            }
            topics[name] = topic
        }
    }

    private mutating func enterPartitions(_ node: Int32) {
        for name in topics.keys {
            guard let count = topics[name]?.partitions.count else { continue }
            for index in 0..<count where topics[name]?.partitions[index].leader == -1 {
                topics[name]?.partitions[index].elect { $0 == node }
            }
        }
    }

    /// Whether a broker is registered and not fenced.
    func isActive(_ node: Int32) -> Bool { brokers[node].map { !$0.isFenced } ?? false }

    private mutating func bumpEpochs(of name: String, ledBy node: Int32) {
        guard let count = topics[name]?.partitions.count else { return }
        for index in 0..<count where topics[name]?.partitions[index].leader == node {
            topics[name]?.partitions[index].leaderEpoch += 1
        }
    }

    private static func newPartition(_ replicas: [Int32]) -> PartitionImage {
        PartitionImage(replicas: replicas, isr: replicas, leader: replicas.first ?? -1)
    }
}
