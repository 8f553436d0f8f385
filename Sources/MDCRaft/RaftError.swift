// SPDX-License-Identifier: Apache-2.0

/// Why a request to a `RaftNode` was refused: a code to act on and a message that says what to do.
public struct RaftError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kind of refusal. A struct over a private enum: a new kind breaks no caller's `switch`.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String, Hashable, Sendable {
            case notLeader, busy, tooLarge, transferring, changeInProgress, leaderNotReady, notCaughtUp, invalidChange
            case invalidTarget, invalidOptions, inconsistentStorage
        }
        private let kind: Kind
        private init(_ kind: Kind) { self.kind = kind }
        public var description: String { kind.rawValue }

        /// Another node leads, or none; `leader` says who. Retry there.
        public static let notLeader = Code(.notLeader)
        /// Too many bytes wait to be committed. Retry later.
        public static let busy = Code(.busy)
        /// One proposal is larger than `maxProposalBytes`.
        public static let tooLarge = Code(.tooLarge)
        /// The leader is handing over. Retry at the next leader.
        public static let transferring = Code(.transferring)
        /// An earlier change of the membership is not committed yet. Retry later.
        public static let changeInProgress = Code(.changeInProgress)
        /// The leader has not committed an entry of its epoch yet. Retry later.
        public static let leaderNotReady = Code(.leaderNotReady)
        /// The observer to promote, or to hand over to, does not have enough of the log yet. Retry later.
        public static let notCaughtUp = Code(.notCaughtUp)
        /// The change contradicts the membership.
        public static let invalidChange = Code(.invalidChange)
        /// The node to hand over to is not another voter.
        public static let invalidTarget = Code(.invalidTarget)
        /// An option is out of its range.
        public static let invalidOptions = Code(.invalidOptions)
        /// What storage holds contradicts itself; the node must not start from it.
        public static let inconsistentStorage = Code(.inconsistentStorage)
    }

    /// What kind of refusal this is.
    public let code: Code
    /// What went wrong and what to do.
    public let message: String
    /// The leader, where the error is that this node is not it and one is known.
    public let leader: RaftReplica?

    init(_ code: Code, _ message: String, leader: RaftReplica? = nil) {
        self.code = code
        self.message = message
        self.leader = leader
    }

    public var description: String { "\(code): \(message)" }
}
