// SPDX-License-Identifier: Apache-2.0

/// A node as it is now, for metrics and DescribeQuorum.
public struct RaftStatus: Hashable, Sendable {
    /// What a leader knows of a replica.
    public struct Peer: Hashable, Sendable {
        /// Which replica.
        public var replica: RaftReplica
        /// Whether it votes.
        public var isVoter: Bool
        /// What it has durably.
        public var match: RaftIndex
        /// Whether it gets a snapshot at the moment.
        public var isReceivingSnapshot: Bool
        /// Appends under way.
        public var inflight: Int
        /// Ticks since a heartbeat was sent that it answered; nil if it answered none in this epoch.
        public var ticksSinceAnswer: UInt64?
        /// It refused an append at an index that it had acknowledged: its disk lost what it reported durable, and its
        /// directory should be replaced.
        public var hasLostEntries: Bool
    }

    /// Role, epoch and leader.
    public var softState: RaftSoftState
    /// The last index that is known to be committed.
    public var commit: RaftIndex
    /// The last index that was applied.
    public var applied: RaftIndex
    /// The last index of the log.
    public var lastIndex: RaftIndex
    /// The membership in force.
    public var membership: RaftMembership
    /// Whether that membership is committed.
    public var isMembershipCommitted: Bool
    /// Bytes of proposals that wait for a quorum; 0 at others than the leader.
    public var uncommittedBytes: Int
    /// The replicas; empty at others than the leader.
    public var peers: [Peer]
}

extension RaftNode {
    /// The node as it is now.
    public var status: RaftStatus {
        RaftStatus(
            softState: softState,
            commit: log.committed,
            applied: log.applied,
            lastIndex: log.lastIndex,
            membership: membership,
            isMembershipCommitted: memberships[memberships.count - 1].index <= log.committed,
            uncommittedBytes: uncommittedBytes,
            peers: progress.map { peer in
                var isReceivingSnapshot = false
                if case .snapshotting = peer.state { isReceivingSnapshot = true }
                return RaftStatus.Peer(
                    replica: peer.observedDirectory ?? peer.replica,
                    isVoter: membership.voters.contains(peer.replica),
                    match: peer.match,
                    isReceivingSnapshot: isReceivingSnapshot,
                    inflight: peer.inflightCount,
                    ticksSinceAnswer: peer.ackedSentAt.map { now - $0 },
                    hasLostEntries: peer.hasLostEntries
                )
            }
        )
    }
}
