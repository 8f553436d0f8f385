// SPDX-License-Identifier: Apache-2.0

extension RaftNode {
    /// What is to be done now; nil if there is nothing, or the last one is not advanced yet.
    ///
    /// The driver does what it says, in the order of docs/raft.md, and then calls `advance()`.
    public mutating func ready() -> RaftReady? {
        guard outstanding == nil else { return nil }
        flushAsLeader()
        var ready = outgoing
        ready.entries = log.unstable
        ready.snapshotToInstall = log.pendingSnapshot
        let hardState = hardState
        if hardState != writtenHardState { ready.hardState = hardState }
        ready.committed =
            has(.applyBeforeCommit) ? entriesBeforeCommit() : log.nextToApply(maxBytes: options.maxApplyBytes)
        if softState != reportedSoftState { ready.softState = softState }
        guard !ready.isEmpty || !selfMessages.isEmpty else { return nil }
        ready.mustSync =
            !ready.entries.isEmpty || ready.snapshotToInstall != nil || hardState.epoch != writtenHardState.epoch
            || hardState.vote != writtenHardState.vote
        outstanding = Outstanding(
            lastEntry: ready.entries.last,
            snapshot: ready.snapshotToInstall,
            hardState: ready.hardState,
            applied: ready.committed,
            selfMessages: selfMessages
        )
        outgoing = RaftReady()
        selfMessages = []
        if ready.softState != nil { reportedSoftState = softState }
        return ready
    }

    /// Messages that need not wait for the disk, for a driver that is still busy with the last `ready()`.
    public mutating func takeMessages() -> [RaftMessage] {
        flushAsLeader()
        defer { outgoing.messages = [] }
        return outgoing.messages
    }

    /// All that the last `ready()` asked for is done, and durable where it said so. Has no effect without one.
    public mutating func advance() {
        guard let done = outstanding else { return }
        outstanding = nil
        if let hardState = done.hardState {
            writtenHardState = hardState
            durableEpoch = hardState.epoch
        }
        if let snapshot = done.snapshot {
            log.installed(snapshot)
            appliedMembership = snapshot.membership
        }
        if let last = done.lastEntry { log.persisted(through: last) }
        if let last = done.applied.last { log.applied(through: last.index) }
        for entry in done.applied {
            if case .membership(let membership) = entry.payload { appliedMembership = membership }
        }
        for message in done.selfMessages where message.epoch == epoch && role == .candidate {
            if case .voteResponse(let granted) = message.body { countVote(granted, from: replica) }
        }
        guard role == .leader, let own = selfMember, let position = progress.firstIndex(where: { $0.replica == own })
        else { return }
        if progress[position].matched(log.stableIndex) { commitByQuorum() }
    }

    private func entriesBeforeCommit() -> [RaftEntry] {
        guard log.pendingSnapshot == nil, log.lastIndex > log.applied else { return [] }
        return log.entries(in: (log.applied + 1)..<(log.lastIndex + 1), maxBytes: options.maxApplyBytes)
    }
}
