// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// What the client knows of the cluster. Pure: answers come in, questions are answered.
struct MetadataCache: Sendable {
    struct Partition: Sendable, Equatable {
        var leader: Int32
        var leaderEpoch: Int32
        var replicas: [Int32] = []
        var inSyncReplicas: [Int32] = []
        var error: ErrorCode = .none
    }

    struct Topic: Sendable, Equatable {
        var name: String
        var id: TopicID
        var isInternal = false
        var error: ErrorCode = .none
        /// By partition number; dense.
        var partitions: [Partition]

        var leaderlessPartitions: Bool { partitions.contains { $0.leader < 0 } }
    }

    struct Broker: Sendable, Equatable {
        let address: BrokerAddress
        let rack: String?
    }

    /// A metadata answer, freed from its version.
    struct Update: Sendable {
        var brokers: [Int32: Broker]
        var clusterID: String?
        var controllerID: Int32
        var topics: [Topic]
    }

    private(set) var brokers: [Int32: Broker] = [:]
    private(set) var clusterID: String?
    private(set) var controllerID: Int32 = -1
    private(set) var topics: [String: Topic] = [:]
    private(set) var lastUpdate: NIODeadline?

    /// Takes an answer in. Topics that were not asked for stay; `removed` names those to forget.
    ///
    /// A partition's leader epoch never goes back while the topic is the same: an answer from a broker that lags
    /// behind does not undo what is known (KIP-320).
    mutating func apply(_ update: Update, now: NIODeadline) {
        brokers = update.brokers
        clusterID = update.clusterID ?? clusterID
        controllerID = update.controllerID
        lastUpdate = now
        for var topic in update.topics {
            if topic.error != .none {
                // Keep what is known through errors that pass; forget a topic that is gone.
                if topic.error == .unknownTopicOrPartition || topic.error == .unknownTopicId
                    || topics[topic.name] == nil
                {
                    topics[topic.name] = topic
                }
                continue
            }
            if let known = topics[topic.name], known.error == .none, known.id == topic.id {
                for index in topic.partitions.indices where index < known.partitions.count {
                    let old = known.partitions[index]
                    if topic.partitions[index].leaderEpoch >= 0, topic.partitions[index].leaderEpoch < old.leaderEpoch {
                        topic.partitions[index].leader = old.leader
                        topic.partitions[index].leaderEpoch = old.leaderEpoch
                    }
                }
            }
            topics[topic.name] = topic
        }
    }

    /// A broker told the new leader beside an error (KIP-951). True where that is news.
    mutating func applyLeaderHint(
        _ partition: TopicPartition,
        leader: Int32,
        leaderEpoch: Int32,
        endpoint: Broker?
    ) -> Bool {
        guard leader >= 0, var topic = topics[partition.topic],
            topic.partitions.indices.contains(Int(partition.partition.rawValue))
        else { return false }
        let index = Int(partition.partition.rawValue)
        guard leaderEpoch > topic.partitions[index].leaderEpoch else { return false }
        if let endpoint { brokers[leader] = endpoint }
        guard brokers[leader] != nil else { return false }
        topic.partitions[index].leader = leader
        topic.partitions[index].leaderEpoch = leaderEpoch
        topic.partitions[index].error = .none
        topics[partition.topic] = topic
        return true
    }

    /// A coordinator's address from FindCoordinator, where the broker is not known yet.
    mutating func learn(broker id: Int32, _ address: BrokerAddress) {
        if brokers[id]?.address != address { brokers[id] = Broker(address: address, rack: brokers[id]?.rack) }
    }

    /// The topic, where it is known to exist.
    func topic(_ name: String) -> Topic? {
        guard let topic = topics[name], topic.error == .none else { return nil }
        return topic
    }

    /// The partition, where it is known.
    func partition(_ partition: TopicPartition) -> Partition? {
        guard let topic = topic(partition.topic), partition.partition.rawValue >= 0,
            Int(partition.partition.rawValue) < topic.partitions.count
        else { return nil }
        return topic.partitions[Int(partition.partition.rawValue)]
    }

    /// The leader of a partition, where there is one and its address is known.
    func leader(of partition: TopicPartition) -> (broker: Int32, epoch: Int32)? {
        guard let known = self.partition(partition), known.leader >= 0, brokers[known.leader] != nil else { return nil }
        return (known.leader, known.leaderEpoch)
    }

    /// The id of a topic; zero where the broker does not tell ids.
    func topicID(_ name: String) -> TopicID { topic(name)?.id ?? .zero }

    /// The name of a topic by its id.
    func topicName(_ id: TopicID) -> String? {
        id == .zero ? nil : topics.first { $0.value.id == id && $0.value.error == .none }?.key
    }
}
