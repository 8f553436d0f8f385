// SPDX-License-Identifier: Apache-2.0

import MDCModel

extension RaftNode {
    /// Appends a changed membership to the log of the leader; returns its index. It is in force at once, and final when
    /// that index is applied.
    ///
    /// - Throws: `RaftError` with `.notLeader`, `.transferring`, `.leaderNotReady`, `.changeInProgress`, `.notCaughtUp` or
    ///   `.invalidChange`.
    @discardableResult
    public mutating func proposeChange(_ change: RaftMembershipChange) throws(RaftError) -> RaftIndex {
        try requireLeadership()
        try requireNoTransfer()
        guard log.committed >= leaderStartIndex || has(.changeBeforeLeaderEntry) else {
            throw RaftError(.leaderNotReady, "\(replica) has not committed an entry of epoch \(epoch) yet; retry soon")
        }
        let latest = memberships[memberships.count - 1].index
        guard latest <= log.committed || has(.concurrentChanges) else {
            throw RaftError(.changeInProgress, "the change at index \(latest) is not committed yet; retry later")
        }
        let changed = try membership.applying(change)
        try checkReadiness(for: change)
        let index = appendOwn(.membership(changed))
        commitByQuorum()
        return index
    }

    private func checkReadiness(for change: RaftMembershipChange) throws(RaftError) {
        switch change {
        case .promote(let candidate):
            let match = progress.first { $0.replica == candidate }?.match ?? 0
            guard match > 0, match + options.promotionLagEntries >= log.committed else {
                throw RaftError(
                    .notCaughtUp,
                    "\(candidate) has the log up to \(match) of \(log.committed); promote it when it has caught up"
                )
            }
        case .pinDirectory(let voter):
            let unpinned = RaftReplica(node: voter.node, directory: .zero)
            let observed = progress.first { $0.replica == unpinned }?.observedDirectory
            guard observed == voter else {
                let known = observed.map { "\($0) answers for it" } ?? "nothing was heard from it"
                throw RaftError(.invalidChange, "\(voter) is not the directory of node \(voter.node): \(known)")
            }
        case .addObserver, .removeObserver, .removeVoter: break
        }
    }

    /// A leader that has removed itself goes when that is committed, and lets the best voter succeed it at once.
    mutating func handOverIfRemoved() {
        guard !isVoter, memberships[memberships.count - 1].index <= log.committed else { return }
        if let successor = transferCandidate, let peer = progress.first(where: { $0.replica == successor }) {
            send(.timeoutNow, to: peer.observedDirectory ?? peer.replica, durably: false)
        }
        becomeFollower(epoch: epoch, leader: nil)
    }
}
