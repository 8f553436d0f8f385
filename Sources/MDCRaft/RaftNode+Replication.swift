// SPDX-License-Identifier: Apache-2.0

import MDCModel

extension RaftNode {
    // MARK: - Proposals

    /// Appends `bytes` to the log of the leader, to be committed later; returns the index it will have if it is.
    ///
    /// Whether it was committed shows only when an entry of this index *and* the current epoch is handed out for applying: a
    /// new leader may replace it.
    ///
    /// - Throws: `RaftError` with `.notLeader`, `.transferring`, `.tooLarge` or `.busy`.
    @discardableResult
    public mutating func propose(_ bytes: [UInt8]) throws(RaftError) -> RaftIndex {
        try requireLeadership()
        try requireNoTransfer()
        guard bytes.count <= options.maxProposalBytes else {
            throw RaftError(
                .tooLarge,
                "the proposal has \(bytes.count) bytes, at most \(options.maxProposalBytes) are allowed; split it"
            )
        }
        guard uncommittedBytes == 0 || uncommittedBytes + bytes.count + 16 <= options.maxUncommittedBytes else {
            throw RaftError(
                .busy,
                "\(uncommittedBytes) bytes wait for a quorum, at most \(options.maxUncommittedBytes) may; retry later"
            )
        }
        return appendOwn(.data(bytes))
    }

    func requireLeadership() throws(RaftError) {
        guard role == .leader else {
            let who = leader.map { "\($0) does" } ?? "nobody does yet"
            throw RaftError(
                .notLeader,
                "\(replica) does not lead epoch \(epoch), \(who); ask the leader",
                leader: leader
            )
        }
    }

    func requireNoTransfer() throws(RaftError) {
        guard let transferTarget else { return }
        throw RaftError(.transferring, "leadership is being handed to \(transferTarget); ask there soon")
    }

    /// Appends an entry as the leader.
    mutating func appendOwn(_ payload: RaftEntry.Payload) -> RaftIndex {
        let entry = RaftEntry(index: log.lastIndex + 1, epoch: epoch, payload: payload)
        log.append(CollectionOfOne(entry))
        uncommittedBytes += entry.size
        if case .membership(let membership) = payload {
            memberships.append((entry.index, membership))
            updateProgress()
        }
        return entry.index
    }

    // MARK: - Progress

    /// The member that this node is.
    var selfMember: RaftReplica? { membership.member(matching: replica) }

    /// Brings the list of replicas in line with the membership.
    mutating func updateProgress() {
        let own = selfMember
        let members = (membership.voters + membership.observers).sorted()
        progress = members.map { member in
            if var known = progress.first(where: { $0.replica == member }) {
                if member == own { _ = known.matched(log.stableIndex) }
                return known
            }
            let unpinned = RaftReplica(node: member.node, directory: .zero)
            if let former = progress.first(where: { $0.replica == unpinned }), former.observedDirectory == member {
                return former.renamed(member)
            }
            var new = ReplicaProgress(replica: member, next: log.lastIndex + 1)
            new.isRecentlyActive = true
            if member == own {
                _ = new.matched(log.stableIndex)
                new.observedDirectory = replica
            }
            return new
        }
    }

    /// Where the progress of a message's sender is; nil if it does not count for any member.
    mutating func progressPosition(of sender: RaftReplica) -> Int? {
        guard role == .leader else { return nil }
        if has(.ignoreDirectory) { return progress.firstIndex { $0.replica.node == sender.node } }
        guard let member = membership.member(matching: sender),
            let position = progress.firstIndex(where: { $0.replica == member })
        else { return nil }
        if !member.isPinned {
            if progress[position].observedDirectory == nil { progress[position].observedDirectory = sender }
            guard progress[position].observedDirectory == sender else { return nil }
        }
        return position
    }

    /// The highest value that a quorum of voters has reached.
    func quorumValue(_ value: (ReplicaProgress) -> Int64) -> Int64 {
        let counted =
            has(.countObservers) ? progress : progress.filter { membership.voters.contains($0.replica) }
        let values = counted.map(value).sorted(by: >)
        return values.count >= quorum ? values[quorum - 1] : -1
    }

    /// Whether a quorum was heard from since the last time this was asked.
    mutating func hasActiveQuorum() -> Bool {
        let own = selfMember
        let isActive = quorumValue { $0.replica == own || $0.isRecentlyActive ? 1 : 0 } == 1
        for position in progress.indices { progress[position].isRecentlyActive = false }
        return isActive
    }

    // MARK: - Sending

    mutating func broadcastHeartbeats() {
        heartbeatElapsed = 0
        let own = selfMember
        for peer in progress where peer.replica != own {
            let heartbeat = RaftMessage.Heartbeat(
                commit: min(peer.match, log.committed),
                round: readRound,
                sentAt: now
            )
            send(.heartbeat(heartbeat), to: peer.observedDirectory ?? peer.replica, durably: false)
        }
    }

    /// Sends what has gathered since the last time.
    mutating func flushAsLeader() {
        guard role == .leader else { return }
        flushReads()
        let own = selfMember
        for position in progress.indices where progress[position].replica != own { sendAppends(to: position) }
        handOverIfRemoved()
    }

    private mutating func sendAppends(to position: Int) {
        while true {
            let peer = progress[position]
            if case .snapshotting = peer.state { return sendSnapshotChunk(to: position) }
            guard let previousEpoch = log.epoch(at: peer.next - 1) else {
                startSnapshot(to: position)
                continue
            }
            let hasEntries = peer.next <= log.lastIndex
            let isProbing = peer.state == .probing
            if isProbing ? peer.isWaiting : hasEntries && peer.isWindowFull(options) { return }
            guard hasEntries || peer.shouldProbe || peer.sentCommit < log.committed else { return }
            let entries = log.entries(in: peer.next..<(log.lastIndex + 1), maxBytes: options.maxAppendBytes)
            let append = RaftMessage.Append(
                previousIndex: peer.next - 1,
                previousEpoch: previousEpoch,
                entries: entries,
                commit: log.committed
            )
            send(.append(append), to: peer.observedDirectory ?? peer.replica, durably: false)
            progress[position].sentCommit = log.committed
            progress[position].shouldProbe = false
            progress[position].lastSentAt = now
            if isProbing || !entries.isEmpty {
                let bytes = entries.reduce(0) { $0 + $1.size }
                progress[position].sent(through: entries.last?.index ?? peer.next - 1, bytes: bytes)
            }
            if isProbing || entries.isEmpty { return }
        }
    }

    /// The connection to a replica broke: what was under way may be lost.
    public mutating func reportUnreachable(_ peer: RaftReplica) {
        guard let position = progressPosition(of: peer), progress[position].state == .replicating else { return }
        progress[position].becomeProbing(next: progress[position].match + 1)
    }

    // MARK: - Receiving

    mutating func handleAppend(_ append: RaftMessage.Append, from leader: RaftReplica) {
        let isOrdered = append.entries.enumerated().allSatisfy { offset, entry in
            entry.index == append.previousIndex + 1 + RaftIndex(offset) && entry.epoch <= epoch
        }
        guard isOrdered, append.previousIndex >= 0 else { return }
        if append.previousIndex < log.committed, !has(.truncateOnEveryAppend) {
            return send(.appendResponse(.matched(log.committed)), to: leader, durably: true)
        }
        guard log.matches(append.previousIndex, append.previousEpoch) || canSkipMatch(append) else {
            let hint = log.lastPossibleMatch(upTo: append.previousIndex, epoch: append.previousEpoch)
            let refusal = RaftMessage.AppendResponse.refused(
                previousIndex: append.previousIndex,
                hintIndex: hint.index,
                hintEpoch: hint.epoch
            )
            return send(.appendResponse(refusal), to: leader, durably: true)
        }
        if let first = append.entries.firstIndex(where: { !log.matches($0.index, $0.epoch) }) {
            guard replaceEnd(with: append.entries[first...]) else { return }
        } else if has(.truncateOnEveryAppend), let first = append.entries.first {
            guard first.index > log.committed, replaceEnd(with: append.entries[...]) else { return }
        }
        let lastNew = append.previousIndex + RaftIndex(append.entries.count)
        commit(to: min(append.commit, lastNew))
        send(.appendResponse(.matched(lastNew)), to: leader, durably: true)
    }

    private func canSkipMatch(_ append: RaftMessage.Append) -> Bool {
        has(.appendWithoutMatch) && append.previousIndex <= log.lastIndex
    }

    private mutating func replaceEnd(with entries: ArraySlice<RaftEntry>) -> Bool {
        guard let first = entries.first?.index else { return true }
        guard require(first > log.committed, "an append of the leader replaces what is committed") else { return false }
        log.append(entries)
        memberships.removeAll { $0.index >= first }
        for entry in entries {
            if case .membership(let membership) = entry.payload { memberships.append((entry.index, membership)) }
        }
        return true
    }

    mutating func handleHeartbeat(_ heartbeat: RaftMessage.Heartbeat, from leader: RaftReplica) {
        guard require(heartbeat.commit <= log.lastIndex, "the leader counts on entries that this log does not have")
        else { return }
        commit(to: heartbeat.commit)
        send(.heartbeatResponse(heartbeat), to: leader, durably: epoch != durableEpoch)
    }

    mutating func handleHeartbeatResponse(_ heartbeat: RaftMessage.Heartbeat, from sender: RaftReplica) {
        guard let position = progressPosition(of: sender) else { return }
        progress[position].isRecentlyActive = true
        progress[position].ackedRound = max(progress[position].ackedRound, min(heartbeat.round, readRound))
        progress[position].ackedSentAt = max(progress[position].ackedSentAt ?? 0, min(heartbeat.sentAt, now))
        let isBehind = progress[position].match < log.lastIndex && heartbeat.sentAt > progress[position].lastSentAt
        switch progress[position].state {
        case .probing:
            guard isBehind else { break }
            progress[position].isWaiting = false
            progress[position].shouldProbe = true
        case .replicating:
            guard isBehind else { break }
            if progress[position].isWindowFull(options) { progress[position].freeOne() }
            progress[position].shouldProbe = true
        case .snapshotting:
            progress[position].heartbeatsSinceChunk += 1
            if progress[position].heartbeatsSinceChunk >= 2 { progress[position].isWaiting = false }
        }
        releaseReads()
    }

    mutating func handleAppendResponse(_ response: RaftMessage.AppendResponse, from sender: RaftReplica) {
        guard let position = progressPosition(of: sender) else { return }
        progress[position].isRecentlyActive = true
        switch response {
        case .staleEpoch: break
        case .matched(let index):
            guard index <= log.lastIndex else { return }
            handleMatch(index, position: position)
        case .refused(let previous, let hintIndex, let hintEpoch):
            let peer = progress[position]
            if hintIndex < peer.match { progress[position].hasLostEntries = previous <= peer.match }
            guard previous > peer.match else { return }
            if case .snapshotting = peer.state { return }
            if peer.state == .probing, previous != peer.next - 1 { return }
            let possible = log.lastPossibleMatch(upTo: hintIndex, epoch: hintEpoch)
            progress[position].becomeProbing(next: min(previous, possible.index + 1))
            progress[position].shouldProbe = true
        }
    }

    private mutating func handleMatch(_ index: RaftIndex, position: Int) {
        let isNews = progress[position].matched(index)
        switch progress[position].state {
        case .probing: progress[position].becomeReplicating()
        case .snapshotting(let snapshot, _):
            if index >= snapshot.index { progress[position].becomeReplicating() }
        case .replicating: break
        }
        if isNews { commitByQuorum() }
        completeTransferIfReady(position)
    }

    // MARK: - Commit

    /// The leader commits what a quorum of voters has durably.
    mutating func commitByQuorum() {
        let index = quorumValue { $0.match }
        guard index > log.committed else { return }
        // An older entry may be on a quorum and still be replaced; it is committed with the first of this epoch.
        guard log.epoch(at: index) == epoch || has(.commitOldEpochByCounting) else { return }
        let committedBefore = log.committed
        commit(to: index)
        let entries = log.entries(in: (committedBefore + 1)..<(index + 1), maxBytes: .max)
        uncommittedBytes = max(0, uncommittedBytes - entries.reduce(0) { $0 + $1.size })
        if log.committed >= leaderStartIndex { startWaitingReads() }
    }

    mutating func commit(to index: RaftIndex) {
        guard index > log.committed else { return }
        guard require(index <= log.lastIndex, "commit index \(index) lies beyond the log's end") else { return }
        log.commit(to: index)
        while memberships.count > 1, memberships[1].index <= index { memberships.removeFirst() }
    }

    /// Stops the process when an invariant is broken; under a planted fault, notes it for the checker instead.
    mutating func require(_ condition: Bool, _ message: @autoclosure () -> String) -> Bool {
        if condition { return true }
        #if DEBUG
            if plantedFault != nil {
                violation = "\(replica.node): \(message())"
                return false
            }
        #endif
        preconditionFailure("\(replica), epoch \(epoch): \(message())")
    }
}
