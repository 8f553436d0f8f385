// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// A position in the replicated log. The first entry is 1; 0 stands for "before the first".
public typealias RaftIndex = Int64

/// A number that grows with each election (Raft's term; `LeaderEpoch` of the metadata log). 0 before the first.
///
/// It differs in width from `RaftIndex`, so that mixing the two does not compile.
public typealias RaftEpoch = Int32

/// One copy of the log: a node *and* the directory that its log lives in.
///
/// A node whose disk was emptied comes back with another directory, and is another replica: nothing that its former self
/// promised may be expected of it. Source: KIP-853.
public struct RaftReplica: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The node's id; messages are routed by it.
    public var node: BrokerID
    /// The id that was written when the log's directory was made; `.zero` where it is not known yet.
    public var directory: KafkaUUID

    /// Names a replica.
    public init(node: BrokerID, directory: KafkaUUID) {
        self.node = node
        self.directory = directory
    }

    /// Whether the directory is known.
    public var isPinned: Bool { directory != .zero }

    public static func < (lhs: RaftReplica, rhs: RaftReplica) -> Bool {
        lhs.node == rhs.node ? lhs.directory < rhs.directory : lhs.node < rhs.node
    }

    public var description: String { "\(node)@\(isPinned ? directory.description : "?")" }
}

/// What a node must remember over a restart, beside its log.
public struct RaftHardState: Hashable, Sendable {
    /// The latest epoch that the node has seen.
    public var epoch: RaftEpoch
    /// Whom it voted for in that epoch.
    public var vote: RaftReplica?
    /// The highest index known to be committed. A hint only: it need not be synced.
    public var commit: RaftIndex

    /// A state; without arguments that of a node which has seen nothing.
    public init(epoch: RaftEpoch = 0, vote: RaftReplica? = nil, commit: RaftIndex = 0) {
        self.epoch = epoch
        self.vote = vote
        self.commit = commit
    }
}

/// One entry of the replicated log.
public struct RaftEntry: Hashable, Sendable {
    /// What an entry holds.
    public enum Payload: Hashable, Sendable {
        /// The empty entry that a new leader starts with.
        case leaderChange
        /// The voters and observers from this entry on.
        case membership(RaftMembership)
        /// What the driver proposed.
        case data([UInt8])
    }

    /// Its position.
    public var index: RaftIndex
    /// The epoch of the leader that created it.
    public var epoch: RaftEpoch
    /// What it holds.
    public var payload: Payload

    /// Makes an entry.
    public init(index: RaftIndex, epoch: RaftEpoch, payload: Payload) {
        self.index = index
        self.epoch = epoch
        self.payload = payload
    }

    /// What the entry counts for in limits, in bytes: its payload and a fixed share for the rest.
    public var size: Int {
        switch payload {
        case .leaderChange: 16
        case .membership(let membership): 16 + 24 * (membership.voters.count + membership.observers.count)
        case .data(let bytes): 16 + bytes.count
        }
    }
}

/// What a snapshot stands for.
public struct RaftSnapshotMetadata: Hashable, Sendable {
    /// The last entry that the snapshot includes.
    public var index: RaftIndex
    /// The epoch of that entry.
    public var epoch: RaftEpoch
    /// The membership at that entry.
    public var membership: RaftMembership

    /// Describes a snapshot; without arguments the empty one that stands before the first entry.
    public init(index: RaftIndex = 0, epoch: RaftEpoch = 0, membership: RaftMembership = RaftMembership()) {
        self.index = index
        self.epoch = epoch
        self.membership = membership
    }
}
