// SPDX-License-Identifier: Apache-2.0

extension RaftNode {
    /// Asks for an index such that a state machine which has applied it may answer a linearizable read that starts now.
    /// The answer comes in `RaftReady.readStates`, or `failedReads` if there will be none.
    ///
    /// - Parameter context: names the read; different for each read of this node, also over restarts.
    /// - Throws: `RaftError` with `.notLeader` where no leader is known, or `.busy`.
    public mutating func readIndex(context: UInt64) throws(RaftError) {
        guard pendingReads.count + forwardedReads.count < options.maxPendingReads else {
            throw RaftError(.busy, "\(options.maxPendingReads) reads wait for a leader's answer; retry later")
        }
        if role == .leader { return startRead(from: replica, context: context) }
        guard let leader else {
            throw RaftError(.notLeader, "no leader of epoch \(epoch) is known yet; retry later")
        }
        forwardedReads.append((context, now))
        send(.readRequest(context: context), to: leader, durably: false)
    }

    mutating func handleReadRequest(_ context: UInt64, from sender: RaftReplica) {
        guard role == .leader, pendingReads.count < options.maxPendingReads else {
            return send(.readResponse(context: context, index: nil), to: sender, durably: true)
        }
        startRead(from: sender, context: context)
    }

    mutating func handleReadResponse(_ context: UInt64, index: RaftIndex?) {
        guard let position = forwardedReads.firstIndex(where: { $0.context == context }) else { return }
        forwardedReads.remove(at: position)
        if let index {
            outgoing.readStates.append(RaftReadState(context: context, index: index))
        } else {
            outgoing.failedReads.append(context)
        }
    }

    private mutating func startRead(from sender: RaftReplica, context: UInt64) {
        var read = PendingRead(from: sender, context: context, index: log.committed, round: nil)
        // Until an entry of its own epoch is committed, a leader's commit index may be behind what others answered.
        guard log.committed >= leaderStartIndex || has(.readBeforeLeaderEntry) else {
            pendingReads.append(read)
            return
        }
        if has(.readWithoutRound) || (options.readMode == .lease && holdsLease) { return answer(read) }
        read.round = openRound()
        pendingReads.append(read)
    }

    private mutating func openRound() -> UInt64 {
        if !isReadRoundOpen {
            readRound += 1
            isReadRoundOpen = true
        }
        return readRound
    }

    /// The leader has committed an entry of its epoch: reads that waited for it may start.
    mutating func startWaitingReads() {
        for position in pendingReads.indices where pendingReads[position].round == nil {
            pendingReads[position].index = log.committed
            pendingReads[position].round = openRound()
        }
    }

    /// One round of heartbeats for all reads that came since the last.
    mutating func flushReads() {
        guard isReadRoundOpen else { return }
        isReadRoundOpen = false
        broadcastHeartbeats()
        releaseReads()
    }

    /// Answers reads whose round a quorum has confirmed.
    mutating func releaseReads() {
        guard pendingReads.contains(where: { $0.round != nil }) else { return }
        let own = selfMember
        // A round that is still open was not sent to anyone.
        let sent = isReadRoundOpen ? readRound - 1 : readRound
        let confirmed = min(quorumValue { Int64($0.replica == own ? readRound : $0.ackedRound) }, Int64(sent))
        guard confirmed > 0 else { return }
        let ready = pendingReads.filter { $0.round.map { Int64($0) <= confirmed } ?? false }
        guard !ready.isEmpty else { return }
        pendingReads.removeAll { $0.round.map { Int64($0) <= confirmed } ?? false }
        for read in ready { answer(read) }
    }

    private mutating func answer(_ read: PendingRead) {
        if read.from == replica {
            outgoing.readStates.append(RaftReadState(context: read.context, index: read.index))
        } else {
            send(.readResponse(context: read.context, index: read.index), to: read.from, durably: false)
        }
    }

    /// Whether no other leader can have been elected yet: a quorum answered heartbeats that were sent so lately that all of
    /// it still refuses its votes.
    var holdsLease: Bool {
        if has(.leaseWithoutCheckQuorum) { return true }
        guard !didForfeitLease, transferTarget == nil else { return false }
        let own = selfMember
        let sentAt = quorumValue { peer in
            peer.replica == own ? Int64(now) : peer.ackedSentAt.map { Int64($0) } ?? -1
        }
        return sentAt >= 0 && Int64(now) < sentAt + Int64(options.electionTicks - options.leaseMarginTicks)
    }

    /// The leader of these reads is not the leader any more.
    mutating func failReads() {
        for read in pendingReads where read.from == replica { outgoing.failedReads.append(read.context) }
        outgoing.failedReads.append(contentsOf: forwardedReads.map(\.context))
        pendingReads = []
        forwardedReads = []
        isReadRoundOpen = false
    }

    /// A forwarded read or its answer may have been lost.
    mutating func expireForwardedReads() {
        let limit = UInt64(2 * options.electionTicks)
        while let first = forwardedReads.first, now - first.since > limit {
            outgoing.failedReads.append(first.context)
            forwardedReads.removeFirst()
        }
    }
}
