// SPDX-License-Identifier: Apache-2.0

/// What one replica tells another. The network may lose, double, delay and reorder messages.
public struct RaftMessage: Hashable, Sendable {
    /// Who sends it.
    public var from: RaftReplica
    /// Whom it is for. A node of another directory drops it; without a directory it is for any of that node.
    public var to: RaftReplica
    /// The sender's epoch.
    public var epoch: RaftEpoch
    /// What it says.
    public var body: Body

    /// Makes a message.
    public init(from: RaftReplica, to: RaftReplica, epoch: RaftEpoch, body: Body) {
        self.from = from
        self.to = to
        self.epoch = epoch
        self.body = body
    }

    /// The kinds of messages.
    public enum Body: Hashable, Sendable {
        /// Would you vote for me in the epoch after mine?
        case preVoteRequest(VoteRequest)
        /// Answer to a pre-vote for the epoch `candidacy`.
        case preVoteResponse(granted: Bool, candidacy: RaftEpoch)
        /// Vote for me in this epoch.
        case voteRequest(VoteRequest)
        /// Answer to a vote request.
        case voteResponse(granted: Bool)
        /// Entries to append, possibly none.
        case append(Append)
        /// Answer to an append, a snapshot that is installed, or anything from a leader whose epoch is over.
        case appendResponse(AppendResponse)
        /// The leader leads.
        case heartbeat(Heartbeat)
        /// Answer to a heartbeat, with its numbers.
        case heartbeatResponse(Heartbeat)
        /// A piece of a snapshot.
        case snapshotChunk(SnapshotChunk)
        /// Where in the snapshot of `index` the receiver wants to go on.
        case snapshotResponse(index: RaftIndex, nextPosition: Int64)
        /// Campaign at once: the leader hands over.
        case timeoutNow
        /// A follower asks for a read index.
        case readRequest(context: UInt64)
        /// The answer; without an index if the receiver does not lead.
        case readResponse(context: UInt64, index: RaftIndex?)
    }

    /// A candidate's log, for votes of both kinds.
    public struct VoteRequest: Hashable, Sendable {
        /// The index of its last entry.
        public var lastIndex: RaftIndex
        /// The epoch of its last entry.
        public var lastEpoch: RaftEpoch
        /// Whether the leader asked for this election, so that leases do not count.
        public var isTransfer: Bool

        /// Describes a candidate's log.
        public init(lastIndex: RaftIndex, lastEpoch: RaftEpoch, isTransfer: Bool) {
            self.lastIndex = lastIndex
            self.lastEpoch = lastEpoch
            self.isTransfer = isTransfer
        }
    }

    /// Entries, and the one that they follow.
    public struct Append: Hashable, Sendable {
        /// The index before the first entry.
        public var previousIndex: RaftIndex
        /// The epoch of the entry there.
        public var previousEpoch: RaftEpoch
        /// What to append.
        public var entries: [RaftEntry]
        /// The leader's commit index.
        public var commit: RaftIndex

        /// Makes an append.
        public init(previousIndex: RaftIndex, previousEpoch: RaftEpoch, entries: [RaftEntry], commit: RaftIndex) {
            self.previousIndex = previousIndex
            self.previousEpoch = previousEpoch
            self.entries = entries
            self.commit = commit
        }
    }

    /// What became of an append.
    public enum AppendResponse: Hashable, Sendable {
        /// Everything up to `matchIndex` is durable and as the leader has it.
        case matched(RaftIndex)
        /// The entry before the append is missing or differs. `hintIndex` is the highest index that may match, and
        /// `hintEpoch` the epoch of the refuser's entry there.
        case refused(previousIndex: RaftIndex, hintIndex: RaftIndex, hintEpoch: RaftEpoch)
        /// The leader's epoch is over; the message's epoch is the current one.
        case staleEpoch
    }

    /// Sign of life of a leader.
    public struct Heartbeat: Hashable, Sendable {
        /// The commit index, as far as the receiver is known to have it.
        public var commit: RaftIndex
        /// The round of reads that an answer confirms.
        public var round: UInt64
        /// The leader's tick count when it was sent, for its lease.
        public var sentAt: UInt64

        /// Makes a heartbeat.
        public init(commit: RaftIndex, round: UInt64, sentAt: UInt64) {
            self.commit = commit
            self.round = round
            self.sentAt = sentAt
        }
    }

    /// A piece of a snapshot.
    public struct SnapshotChunk: Hashable, Sendable {
        /// Which snapshot.
        public var snapshot: RaftSnapshotMetadata
        /// Where the bytes belong.
        public var position: Int64
        /// The bytes.
        public var bytes: [UInt8]
        /// Whether the snapshot ends with them.
        public var isLast: Bool

        /// Makes a chunk.
        public init(snapshot: RaftSnapshotMetadata, position: Int64, bytes: [UInt8], isLast: Bool) {
            self.snapshot = snapshot
            self.position = position
            self.bytes = bytes
            self.isLast = isLast
        }
    }
}
