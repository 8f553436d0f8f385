// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// From which replica a consumer should read (KIP-392): one in its own rack, if there is one that has what it asks for; else
/// from the leader. Pure.
enum ReplicaSelector {
    struct Candidate: Equatable, Sendable {
        var node: Int32
        var rack: String?
        /// The replica has the log from `start` up to `end`, on disk.
        var start: Int64
        var end: Int64
    }

    /// The node to read from; nil for the leader, which asks.
    ///
    /// - Parameters:
    ///   - leaderRack: The rack of the leader, which is preferred where it is the consumer's.
    ///   - candidates: Followers that run and are in sync.
    static func choose(rack: String, offset: Int64, leaderRack: String?, _ candidates: [Candidate]) -> Int32? {
        guard leaderRack != rack else { return nil }
        // Who has most; where several do, the same for all consumers.
        return candidates.filter { $0.rack == rack && $0.start <= offset && offset <= $0.end }
            .max { ($0.end, $1.node) < ($1.end, $0.node) }?.node
    }
}

extension BrokerServices {
    /// Where a consumer in `rack` should read a partition that this node leads; nil for here.
    func preferredReplica(_ partition: Partition, rack: String, offset: Int64) -> Int32? {
        guard let replication = partition.replication, !replication.isAlone, let directory = replicas?.directory
        else { return nil }
        let image = metadata.image
        let leader = replication.replica
        let candidates = leader.inSync.compactMap { node -> ReplicaSelector.Candidate? in
            guard let follower = leader.followers[node], let end = follower.end,
                directory.isInService(node, brokerEpoch: follower.brokerEpoch)
            else { return nil }
            return ReplicaSelector.Candidate(
                node: node,
                rack: image.brokers[node]?.rack,
                start: follower.logStart.rawValue,
                end: end.rawValue
            )
        }
        return ReplicaSelector.choose(rack: rack, offset: offset, leaderRack: configuration.rack, candidates)
    }
}
