// SPDX-License-Identifier: Apache-2.0

extension RaftNode {
    /// Whether this node has promised a leader not to help elect another yet.
    var hasPromisedLease: Bool {
        if has(.ignoreLease) || has(.skipPreVote) { return false }
        return role == .leader || ticksSinceLeader < options.electionTicks
    }

    mutating func resetElectionTimer() {
        electionElapsed = 0
        electionTimeout = options.electionTicks + 1 + random.below(options.electionTicks)
    }

    /// Campaigns without waiting for the timeout. Has no effect at a leader or a node that does not vote.
    public mutating func campaign() {
        guard role != .leader, isVoter, log.pendingSnapshot == nil else { return }
        askForPreVotes()
    }

    mutating func becomeFollower(epoch: RaftEpoch, leader: RaftReplica?) {
        // Its own lease ended with its leadership.
        if role == .leader { ticksSinceLeader = options.electionTicks }
        if epoch != self.epoch {
            self.epoch = epoch
            vote = nil
            incomingSnapshot = nil
        }
        if role == .leader || self.leader != leader { failReads() }
        role = .follower
        self.leader = leader
        votes = [:]
        progress = []
        transferTarget = nil
        uncommittedBytes = 0
        resetElectionTimer()
    }

    mutating func askForPreVotes() {
        failReads()
        role = .preCandidate
        leader = nil
        votes = [:]
        resetElectionTimer()
        let request = RaftMessage.VoteRequest(
            lastIndex: log.lastIndex,
            lastEpoch: log.lastEpoch,
            isTransfer: false
        )
        for voter in membership.voters where voter.node != replica.node {
            send(.preVoteRequest(request), to: voter, durably: false)
        }
        countVote(true, from: replica)
    }

    mutating func campaign(isTransfer: Bool) {
        failReads()
        role = .candidate
        leader = nil
        epoch += 1
        vote = replica
        votes = [:]
        resetElectionTimer()
        let request = RaftMessage.VoteRequest(
            lastIndex: log.lastIndex,
            lastEpoch: log.lastEpoch,
            isTransfer: isTransfer
        )
        // Requests wait for the disk as well: without its own vote on disk, a restarted candidate could run in this epoch
        // once more, with a shorter log, and win by the votes for the longer one.
        for voter in membership.voters where voter.node != replica.node {
            send(.voteRequest(request), to: voter, durably: true)
        }
        send(.voteResponse(granted: true), to: replica, durably: true)
    }

    mutating func handlePreVoteRequest(_ request: RaftMessage.VoteRequest, from message: RaftMessage) {
        let candidacy = message.epoch + 1
        let granted =
            !hasPromisedLease && candidacy > epoch
            && (log.isUpToDate(lastIndex: request.lastIndex, lastEpoch: request.lastEpoch) || has(.voteForStaleLog))
        // A refusal tells the candidate a higher epoch, which must not be forgotten; a grant promises nothing.
        send(.preVoteResponse(granted: granted, candidacy: candidacy), to: message.from, durably: !granted)
    }

    mutating func handleVoteRequest(_ request: RaftMessage.VoteRequest, from candidate: RaftReplica) {
        let isFree = vote == candidate || (vote == nil && leader == nil)
        let isUpToDate =
            log.isUpToDate(lastIndex: request.lastIndex, lastEpoch: request.lastEpoch) || has(.voteForStaleLog)
        let granted = isFree && isUpToDate && role != .candidate && role != .leader
        if granted {
            if role == .preCandidate { becomeFollower(epoch: epoch, leader: nil) }
            vote = candidate
            electionElapsed = 0
        }
        send(.voteResponse(granted: granted), to: candidate, durably: true)
    }

    mutating func countVote(_ granted: Bool, from sender: RaftReplica) {
        var voter = membership.voter(matching: sender)
        if has(.ignoreDirectory) { voter = membership.voters.first { $0.node == sender.node } }
        if has(.countObservers), voter == nil { voter = membership.member(matching: sender) }
        guard let voter, votes[voter] == nil else { return }
        votes[voter] = granted
        let grants = votes.values.count { $0 }
        if grants >= quorum {
            if role == .preCandidate { campaign(isTransfer: false) } else { becomeLeader() }
        } else if votes.count - grants > membership.voters.count - quorum {
            becomeFollower(epoch: epoch, leader: nil)
        }
    }

    var quorum: Int { membership.quorum }

    private mutating func becomeLeader() {
        guard require(role == .candidate, "only a candidate is elected") else { return }
        role = .leader
        leader = replica
        votes = [:]
        electionElapsed = 0
        heartbeatElapsed = 0
        transferTarget = nil
        didForfeitLease = false
        pendingReads = []
        isReadRoundOpen = false
        progress = []
        uncommittedBytes = 0
        if log.committed < log.lastIndex {
            let tail = log.entries(in: (log.committed + 1)..<(log.lastIndex + 1), maxBytes: .max)
            uncommittedBytes = tail.reduce(0) { $0 + $1.size }
        }
        updateProgress()
        leaderStartIndex = appendOwn(.leaderChange)
        broadcastHeartbeats()
    }

    // MARK: - Transfer

    /// Hands leadership over to another voter. Proposals are refused until it is done, or has failed after `electionTicks`.
    ///
    /// - Throws: `RaftError` with `.notLeader`, `.transferring`, `.invalidTarget` or `.notCaughtUp`.
    public mutating func transferLeadership(to target: RaftReplica) throws(RaftError) {
        try requireLeadership()
        guard transferTarget == nil else {
            throw RaftError(.transferring, "leadership is being handed to \(transferTarget!); wait until that is over")
        }
        guard let voter = membership.voter(matching: target), voter.node != replica.node,
            let position = progress.firstIndex(where: { $0.replica == voter })
        else {
            throw RaftError(.invalidTarget, "\(target) is not another voter; the voters are \(membership.voters)")
        }
        if case .snapshotting = progress[position].state {
            throw RaftError(.notCaughtUp, "\(target) is still receiving a snapshot; hand over to another voter or wait")
        }
        transferTarget = voter
        transferElapsed = 0
        progress[position].shouldProbe = true
        completeTransferIfReady(position)
    }

    /// The voter that a leader should hand over to: the one that has most of the log; nil at others or alone.
    public var transferCandidate: RaftReplica? {
        guard role == .leader else { return nil }
        return progress.filter { membership.voters.contains($0.replica) && $0.replica.node != replica.node }
            .max { ($0.match, $0.isRecentlyActive ? 1 : 0) < ($1.match, $1.isRecentlyActive ? 1 : 0) }?.replica
    }

    mutating func completeTransferIfReady(_ position: Int) {
        guard progress[position].replica == transferTarget, progress[position].match == log.lastIndex else { return }
        // From here on another node may be elected within the lease, at any later time.
        didForfeitLease = true
        send(.timeoutNow, to: progress[position].replica, durably: false)
    }
}
