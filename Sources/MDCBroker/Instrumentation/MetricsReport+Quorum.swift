// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCRaft

extension MetricsReport {
    /// What the leader of the quorum knows of the other copies of the metadata; nothing on other nodes.
    mutating func addQuorumReplicas(_ status: QuorumNode.Status) {
        let raft = status.raft
        add("mdc_quorum_voters", "gauge", "Voters of the metadata quorum.", raft.membership.voters.count)
        add("mdc_quorum_observers", "gauge", "Observers of the metadata.", raft.membership.observers.count)
        let isLeader = raft.softState.role == .leader
        let peers = isLeader ? raft.peers.sorted { $0.replica < $1.replica } : []
        begin("mdc_quorum_lag", "gauge", "Committed changes of the metadata that a node lacks; on the leader alone.")
        for peer in peers {
            series(
                "mdc_quorum_lag",
                [
                    ("node", String(peer.replica.node.rawValue)), ("directory", "\(peer.replica.directory)"),
                    ("role", peer.isVoter ? "voter" : "observer"),
                ],
                String(max(0, raft.commit - peer.match))
            )
        }
    }
}
