// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel

/// What a partition's leader asks the active controller for.
protocol PartitionChangeProposing: Sendable {
    /// Asks for another ISR, with compare-and-set: refused with FENCED_LEADER_EPOCH or INVALID_UPDATE_VERSION where the
    /// epochs are not those of now. Asks again by itself while the quorum has no leader. `done` comes once, from any
    /// thread, with the partition as it is after the change; the change also comes as metadata.
    ///
    /// With each member comes the broker epoch of the run whose progress vouches for it, -1 where the leader has not heard
    /// of one: refused with INELIGIBLE_REPLICA where a member has been started since, or is new and nobody knows which run
    /// of it has the records (KIP-903).
    ///
    /// A leader that is not in the ISR that it asks for resigns: another member leads from then on.
    func alterPartition(
        topicID: TopicID,
        partition: Int32,
        leaderEpoch: Int32,
        partitionEpoch: Int32,
        newISR: [(node: Int32, brokerEpoch: Int64)],
        _ done: @escaping @Sendable (Result<PartitionImage, Refusal>) -> Void
    )
}

/// Carries out on this node what the metadata say of partitions; on one thread.
protocol ReplicaApplying: Sendable {
    /// The state of a partition of which this node has, or had, a replica: to lead it, to follow, or neither. Nothing
    /// happens where leader epoch and partition epoch are those of the last time. `isNew`: the topic was made in this run of
    /// the node.
    func apply(topic: TopicImage, partition: Int32, state: PartitionImage, isNew: Bool) throws(LogError)
    /// The settings of a topic, or the node's defaults for it, have changed.
    func configure(_ topic: TopicImage)
    /// A topic is deleted, with its logs.
    func remove(topicID: TopicID)
}

/// What makes a node one of several.
struct ClusterMembership: Sendable {
    var proposing: any PartitionChangeProposing
    var directory: any BrokerDirectory
    /// Called once the node serves, with its replicas, to which metadata is applied from then on, and its address.
    var whenServing: @Sendable (ReplicaManager, HostPort) -> Void
}

/// Where the nodes of the cluster are.
protocol BrokerDirectory: Sendable {
    /// Where clients and followers connect to a node; nil where it is unknown.
    func endpoint(of node: Int32) -> (host: String, port: Int)?
    /// The epoch of this node's present run, which its fetches carry; -1 before it is registered.
    var ownBrokerEpoch: Int64 { get }
    /// Whether that run of a node (-1: any) is alive, not fenced and not on its way out, so that it may be in sync.
    func isInService(_ node: Int32, brokerEpoch: Int64) -> Bool
}

extension BrokerDirectory {
    var ownBrokerEpoch: Int64 { -1 }
    func isInService(_: Int32, brokerEpoch _: Int64) -> Bool { true }
}
