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
}

/// A topic as the cluster sees it.
struct TopicImage: Equatable, Sendable {
    var name: String
    var id: TopicID
    var partitions: [PartitionImage]
    var configs: [String: String]

    /// Whether clients may only read it.
    var isInternal: Bool { InternalTopic.all.contains { $0.name == name } }
}

/// The cluster's metadata at one point of its log. A value: whoever holds one sees no change.
struct MetadataImage: Sendable {
    /// Grows with each change.
    private(set) var version: UInt64 = 0
    private(set) var clusterID = ""
    /// Of this node's present run.
    private(set) var brokerEpochs: [Int32: Int64] = [:]
    private(set) var topics: [String: TopicImage] = [:]
    private(set) var names: [TopicID: String] = [:]
    /// Topics that were deleted: folders with these ids are leftovers.
    private(set) var deleted: Set<TopicID> = []
    private(set) var brokerConfigs: [Int32?: [String: String]] = [:]
    /// Settings of groups, by name.
    private(set) var groupConfigs: [String: [String: String]] = [:]
    private(set) var nextProducerID: Int64 = 0
    private(set) var quotas = QuotaTable()

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
        case .configChanged(.topic(let name), let key, let value): topics[name]?.configs[key] = value
        case .configChanged(.broker(let id), let key, let value): brokerConfigs[id, default: [:]][key] = value
        case .configChanged(.group(let name), let key, let value):
            groupConfigs[name, default: [:]][key] = value
            if groupConfigs[name]?.isEmpty == true { groupConfigs[name] = nil }
        case .quotaChanged(let entity, let key, let value): quotas.set(entity, key, value)
        case .snapshotEnd: break
        case .producerIDsReserved(let next): nextProducerID = max(nextProducerID, next)
        }
    }

    private mutating func change(_ id: TopicID, _ body: (inout TopicImage) -> Void) {
        guard let name = names[id], var topic = topics[name] else { return }
        body(&topic)
        topics[name] = topic
    }

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
