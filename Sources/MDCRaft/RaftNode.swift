// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// One replica of a Raft quorum, as a value: messages, ticks and requests go in, a `RaftReady` comes out.
///
/// It has no clock, disk, network or randomness of its own; docs/raft.md says what the driver owes it.
/// Source: Ongaro, "Consensus: Bridging Theory and Practice" (2014), with the correction of membership changes of 2015;
/// KIP-595, KIP-853, KIP-996 for the words and the identity of voters.
public struct RaftNode<Storage: RaftLogStorage> {
    /// Which replica this is.
    public let replica: RaftReplica
    /// Its settings.
    public let options: RaftOptions

    var log: RaftLog<Storage>
    var random: RaftRandom

    // Durable, once handed out and advanced.
    var epoch: RaftEpoch
    var vote: RaftReplica?
    var durableEpoch: RaftEpoch
    var writtenHardState: RaftHardState

    var role = RaftRole.follower
    var leader: RaftReplica?
    /// The memberships of the log, oldest first: the last committed one, or an older one, and all after it.
    var memberships: [(index: RaftIndex, membership: RaftMembership)]

    /// The membership as of the last applied entry; what a snapshot of the state machine is to be stored with.
    public internal(set) var appliedMembership: RaftMembership

    // Time, in ticks.
    var now: UInt64 = 0
    var electionElapsed = 0
    var heartbeatElapsed = 0
    var electionTimeout: Int
    /// Ticks since a leader was heard from; the lease that this node has promised.
    var ticksSinceLeader: Int

    // Candidates.
    var votes: [RaftReplica: Bool] = [:]

    // Leaders.
    var progress: [ReplicaProgress] = []
    var leaderStartIndex: RaftIndex = 0
    var uncommittedBytes = 0
    var transferTarget: RaftReplica?
    var transferElapsed = 0
    var didForfeitLease = false

    // Reads.
    var readRound: UInt64 = 0
    var isReadRoundOpen = false
    var pendingReads: [PendingRead] = []
    var forwardedReads: [(context: UInt64, since: UInt64)] = []

    // Followers.
    var incomingSnapshot: IncomingSnapshot?

    // What the next `ready()` hands out.
    var outgoing = RaftReady()
    var selfMessages: [RaftMessage] = []
    var reportedSoftState: RaftSoftState?
    var outstanding: Outstanding?

    #if DEBUG
        var plantedFault: RaftPlantedFault?
        package var violation: String?
    #endif

    /// A read that waits for its round.
    struct PendingRead {
        var from: RaftReplica
        var context: UInt64
        var index: RaftIndex
        /// Nil while the leader has not committed an entry of its epoch.
        var round: UInt64?
    }

    /// A snapshot that arrives.
    struct IncomingSnapshot {
        var snapshot: RaftSnapshotMetadata
        var epoch: RaftEpoch
        var nextPosition: Int64
    }

    /// What the driver is doing.
    struct Outstanding {
        var lastEntry: RaftEntry?
        var snapshot: RaftSnapshotMetadata?
        var hardState: RaftHardState?
        var applied: [RaftEntry]
        var selfMessages: [RaftMessage]
    }

    /// A node that goes on from what `storage` has. A new cluster's storage has the first membership in an empty snapshot at
    /// index 0; a node that is to join one has nothing.
    ///
    /// - Parameters:
    ///   - replica: which replica this is; its directory must be known.
    ///   - options: its settings.
    ///   - storage: the durable part of the log.
    ///   - applied: the last index that the state machine has; the snapshot's if it is loaded from there.
    ///   - seed: where the election timeouts come from; different for each node and start.
    /// - Throws: `RaftError` with `.invalidOptions` or `.inconsistentStorage`.
    public init(
        replica: RaftReplica,
        options: RaftOptions = RaftOptions(),
        storage: Storage,
        applied: RaftIndex? = nil,
        seed: UInt64
    ) throws(RaftError) {
        try options.validate()
        guard replica.isPinned else {
            throw RaftError(.invalidOptions, "node \(replica.node) needs the id of its own directory")
        }
        let snapshot = storage.snapshot
        let lastIndex = storage.lastIndex
        guard storage.firstIndex <= snapshot.index + 1, lastIndex >= snapshot.index,
            let lastEpoch = lastIndex == snapshot.index ? snapshot.epoch : storage.epoch(at: lastIndex)
        else {
            throw RaftError(
                .inconsistentStorage,
                "the log (\(storage.firstIndex) to \(lastIndex)) does not continue the snapshot of \(snapshot.index);"
                    + " start the node with an empty directory and a new directory id, and add it as an observer"
            )
        }
        var hardState = storage.hardState
        if lastEpoch > hardState.epoch {
            // Power failed between the two writes of one `RaftReady`; nothing of it was answered.
            hardState.epoch = lastEpoch
            hardState.vote = nil
        }
        let committed = max(snapshot.index, min(hardState.commit, lastIndex))
        let start = applied ?? snapshot.index
        guard start >= snapshot.index, start <= lastIndex else {
            throw RaftError(
                .inconsistentStorage,
                "the state machine is at \(start), the log has \(snapshot.index) to \(lastIndex); load the snapshot"
            )
        }
        self.replica = replica
        self.options = options
        self.log = RaftLog(storage: storage, committed: max(committed, start), applied: start)
        self.random = RaftRandom(seed: seed)
        self.epoch = hardState.epoch
        self.vote = hardState.vote
        self.durableEpoch = storage.hardState.epoch
        self.writtenHardState = storage.hardState
        self.electionTimeout = 0
        // It may have promised a leader's lease just before it fell.
        self.ticksSinceLeader = hardState.epoch > 0 ? 0 : options.electionTicks
        var memberships = [(index: snapshot.index, membership: snapshot.membership)]
        memberships += Self.memberships(in: storage, after: snapshot.index)
        self.memberships = memberships
        self.appliedMembership = memberships.last { $0.index <= start }!.membership
        resetElectionTimer()
        if membership.voters.count == 1, isVoter { electionElapsed = electionTimeout - 1 }
    }

    private static func memberships(
        in storage: Storage,
        after index: RaftIndex
    ) -> [(index: RaftIndex, membership: RaftMembership)] {
        var found: [(RaftIndex, RaftMembership)] = []
        var next = index + 1
        while next <= storage.lastIndex {
            let entries = storage.entries(in: next..<(storage.lastIndex + 1), maxBytes: 1 << 20)
            for entry in entries {
                if case .membership(let membership) = entry.payload { found.append((entry.index, membership)) }
            }
            next += RaftIndex(entries.count)
        }
        return found
    }

    // MARK: - Reading

    /// The durable log; the driver may keep it here or hold a reference to it.
    public var storage: Storage {
        get { log.storage }
        set { log.storage = newValue }
    }

    /// The membership in force: the latest in the log.
    public var membership: RaftMembership { memberships[memberships.count - 1].membership }

    var isVoter: Bool { membership.voter(matching: replica) != nil }
    var softState: RaftSoftState { RaftSoftState(role: role, epoch: epoch, leader: leader) }
    var hardState: RaftHardState {
        RaftHardState(epoch: epoch, vote: has(.forgetVote) ? nil : vote, commit: log.committed)
    }

    // MARK: - Time

    /// One tick has passed.
    public mutating func tick() {
        now += 1
        if ticksSinceLeader < Int.max { ticksSinceLeader += 1 }
        expireForwardedReads()
        if role == .leader { tickLeader() } else { tickElection() }
    }

    private mutating func tickElection() {
        electionElapsed += 1
        guard electionElapsed >= electionTimeout else { return }
        guard isVoter, log.pendingSnapshot == nil else { return resetElectionTimer() }
        if has(.skipPreVote) { campaign(isTransfer: false) } else { askForPreVotes() }
    }

    private mutating func tickLeader() {
        electionElapsed += 1
        heartbeatElapsed += 1
        if transferTarget != nil {
            transferElapsed += 1
            if transferElapsed >= options.electionTicks { transferTarget = nil }
        }
        if electionElapsed >= options.electionTicks {
            electionElapsed = 0
            if !hasActiveQuorum(), !has(.leaseWithoutCheckQuorum), !has(.noCheckQuorum) {
                return becomeFollower(epoch: epoch, leader: nil)
            }
        }
        if heartbeatElapsed >= options.heartbeatTicks { broadcastHeartbeats() }
    }

    // MARK: - Messages

    /// A message has arrived. Messages for another directory, of an earlier epoch or of no use have no effect.
    public mutating func step(_ message: RaftMessage) {
        guard isForMe(message) else { return }
        if message.epoch > epoch {
            guard raisesEpoch(message) else { return handleVoteOfHigherEpoch(message) }
            becomeFollower(epoch: message.epoch, leader: message.isFromLeader ? message.from : nil)
        } else if message.epoch < epoch {
            return handleStale(message)
        }
        switch message.body {
        case .preVoteRequest(let request): handlePreVoteRequest(request, from: message)
        case .preVoteResponse(let granted, let candidacy):
            if role == .preCandidate, candidacy == epoch + 1 { countVote(granted, from: message.from) }
        case .voteRequest(let request): handleVoteRequest(request, from: message.from)
        case .voteResponse(let granted): if role == .candidate { countVote(granted, from: message.from) }
        case .append(let append):
            if follow(message.from) { handleAppend(append, from: message.from) }
        case .heartbeat(let heartbeat):
            if follow(message.from) { handleHeartbeat(heartbeat, from: message.from) }
        case .snapshotChunk(let chunk):
            if follow(message.from) { handleSnapshotChunk(chunk, from: message.from) }
        case .appendResponse(let response): handleAppendResponse(response, from: message.from)
        case .heartbeatResponse(let heartbeat): handleHeartbeatResponse(heartbeat, from: message.from)
        case .snapshotResponse(let index, let position):
            handleSnapshotResponse(index: index, nextPosition: position, from: message.from)
        case .timeoutNow:
            if role != .leader, isVoter, log.pendingSnapshot == nil { campaign(isTransfer: true) }
        case .readRequest(let context): handleReadRequest(context, from: message.from)
        case .readResponse(let context, let index): handleReadResponse(context, index: index)
        }
    }

    private func isForMe(_ message: RaftMessage) -> Bool {
        guard message.to.node == replica.node, message.from.node != replica.node else { return false }
        return message.to == replica || !message.to.isPinned || has(.ignoreDirectory)
    }

    /// Whether a message of a higher epoch makes this node go there.
    private func raisesEpoch(_ message: RaftMessage) -> Bool {
        switch message.body {
        case .preVoteRequest: false
        case .preVoteResponse(let granted, _): !granted
        case .voteRequest(let request): request.isTransfer || !hasPromisedLease
        default: true
        }
    }

    private mutating func handleVoteOfHigherEpoch(_ message: RaftMessage) {
        if case .preVoteRequest(let request) = message.body { handlePreVoteRequest(request, from: message) }
    }

    private mutating func handleStale(_ message: RaftMessage) {
        switch message.body {
        case .append, .heartbeat, .snapshotChunk:
            send(.appendResponse(.staleEpoch), to: message.from, durably: true)
        case .preVoteRequest:
            send(.preVoteResponse(granted: false, candidacy: message.epoch + 1), to: message.from, durably: true)
        case .voteRequest:
            send(.voteResponse(granted: false), to: message.from, durably: true)
        case .preVoteResponse(let granted, let candidacy):
            // A voter of a lower epoch grants without going to a higher one.
            if granted, role == .preCandidate, candidacy == epoch + 1 { countVote(true, from: message.from) }
        case .voteResponse(let granted):
            if has(.countStaleVotes), role == .candidate { countVote(granted, from: message.from) }
        default: break
        }
    }

    /// A message of the leader of this epoch has arrived.
    private mutating func follow(_ leader: RaftReplica) -> Bool {
        guard require(role != .leader, "\(leader) leads the same epoch") else { return false }
        if role != .follower || self.leader != leader { becomeFollower(epoch: epoch, leader: leader) }
        electionElapsed = 0
        ticksSinceLeader = 0
        return true
    }

    /// Sends a message; to the node itself, it arrives when all that is not durable yet is.
    mutating func send(_ body: RaftMessage.Body, to target: RaftReplica, durably: Bool) {
        let message = RaftMessage(from: replica, to: target, epoch: epoch, body: body)
        if target == replica {
            selfMessages.append(message)
        } else if durably, !has(.answerBeforePersist) {
            outgoing.messagesAfterPersistence.append(message)
        } else {
            outgoing.messages.append(message)
        }
    }

    func has(_ fault: RaftPlantedFault) -> Bool {
        #if DEBUG
            return plantedFault == fault
        #else
            return false
        #endif
    }
}

extension RaftNode: Sendable where Storage: Sendable {}

#if DEBUG
    extension RaftNode {
        /// Switches one rule off, for tests of the checkers.
        package mutating func plant(_ fault: RaftPlantedFault?) { plantedFault = fault }
    }
#endif

extension RaftMessage {
    /// Whether only the leader of the epoch sends such a message.
    var isFromLeader: Bool {
        switch body {
        case .append, .heartbeat, .snapshotChunk: true
        default: false
        }
    }
}
