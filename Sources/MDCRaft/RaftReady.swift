// SPDX-License-Identifier: Apache-2.0

/// What the driver must do before it calls `RaftNode.advance()`. The order is in docs/raft.md.
public struct RaftReady: Sendable {
    /// Messages that may be sent at once.
    public internal(set) var messages: [RaftMessage] = []
    /// Pieces of a snapshot to write, in order, each at its position, to a file of their own. A piece at position 0 starts
    /// a new file.
    public internal(set) var snapshotChunks: [RaftMessage.SnapshotChunk] = []
    /// The snapshot whose file is complete with the last piece: to be made current, in place of the whole log.
    public internal(set) var snapshotToInstall: RaftSnapshotMetadata?
    /// Entries to append. Storage drops what it has from the first one's index on.
    public internal(set) var entries: [RaftEntry] = []
    /// The state to write, if it changed.
    public internal(set) var hardState: RaftHardState?
    /// Whether the writes must be durable before `messagesAfterPersistence` are sent.
    public internal(set) var mustSync = false
    /// Messages that may be sent only when all of the above is durable.
    public internal(set) var messagesAfterPersistence: [RaftMessage] = []
    /// Entries to apply, in order. They are durable on this node already.
    public internal(set) var committed: [RaftEntry] = []
    /// Reads that may be answered once the state machine has applied their index.
    public internal(set) var readStates: [RaftReadState] = []
    /// Reads that will not be answered; they may be asked again.
    public internal(set) var failedReads: [UInt64] = []
    /// Role, epoch and leader, if one of them changed.
    public internal(set) var softState: RaftSoftState?

    var isEmpty: Bool {
        messages.isEmpty && snapshotChunks.isEmpty && snapshotToInstall == nil && entries.isEmpty && hardState == nil
            && messagesAfterPersistence.isEmpty && committed.isEmpty && readStates.isEmpty && failedReads.isEmpty
            && softState == nil
    }
}

/// The answer to `RaftNode.readIndex(context:)`.
public struct RaftReadState: Hashable, Sendable {
    /// What the read was asked for with.
    public var context: UInt64
    /// What must be applied before the read is answered.
    public var index: RaftIndex

    /// Makes an answer.
    public init(context: UInt64, index: RaftIndex) {
        self.context = context
        self.index = index
    }
}

/// What a node is in its epoch.
public enum RaftRole: String, Sendable {
    /// Follows the leader of the epoch, if there is one; observers do as well.
    case follower
    /// Asks whether it would be elected.
    case preCandidate
    /// Asks to be elected.
    case candidate
    /// Leads.
    case leader
}

/// What a driver wants to know of a node and need not store.
public struct RaftSoftState: Hashable, Sendable {
    /// The node's role.
    public var role: RaftRole
    /// Its epoch.
    public var epoch: RaftEpoch
    /// The leader of that epoch, if known.
    public var leader: RaftReplica?

    /// Makes a state.
    public init(role: RaftRole, epoch: RaftEpoch, leader: RaftReplica?) {
        self.role = role
        self.epoch = epoch
        self.leader = leader
    }
}
