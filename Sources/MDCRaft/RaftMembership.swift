// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Who takes part: voters decide, observers receive the log only. Both are sorted.
public struct RaftMembership: Hashable, Sendable, CustomStringConvertible {
    /// The replicas whose durable copies and votes count. No two have the same node id.
    public private(set) var voters: [RaftReplica]
    /// The replicas that receive the log and do not count.
    public private(set) var observers: [RaftReplica]

    /// A membership. A replica in both lists counts as a voter.
    public init(voters: [RaftReplica] = [], observers: [RaftReplica] = []) {
        self.voters = Set(voters).sorted()
        self.observers = Set(observers).subtracting(voters).sorted()
    }

    /// How many voters make a quorum.
    public var quorum: Int { voters.count / 2 + 1 }

    /// The member that a message from `replica` counts for: that very replica, or a voter of its node id whose directory
    /// is not known yet.
    public func member(matching replica: RaftReplica) -> RaftReplica? {
        if voters.contains(replica) || observers.contains(replica) { return replica }
        let unpinned = RaftReplica(node: replica.node, directory: .zero)
        return voters.contains(unpinned) ? unpinned : nil
    }

    /// The voter that a message from `replica` counts for.
    public func voter(matching replica: RaftReplica) -> RaftReplica? {
        guard let member = member(matching: replica), voters.contains(member) else { return nil }
        return member
    }

    /// The membership after `change`, or why it is not possible.
    public func applying(_ change: RaftMembershipChange) throws(RaftError) -> RaftMembership {
        var voters = voters
        var observers = observers
        switch change {
        case .addObserver(let replica):
            guard !voters.contains(replica), !observers.contains(replica) else {
                throw RaftError(.invalidChange, "\(replica) is a member already")
            }
            observers.append(replica)
        case .removeObserver(let replica):
            guard observers.contains(replica) else {
                throw RaftError(.invalidChange, "\(replica) is not an observer; the observers are \(observers)")
            }
            observers.removeAll { $0 == replica }
        case .promote(let replica):
            guard observers.contains(replica) else {
                throw RaftError(.invalidChange, "\(replica) is not an observer; add it as one first")
            }
            if let former = voters.first(where: { $0.node == replica.node }) {
                throw RaftError(
                    .invalidChange,
                    "node \(replica.node) votes as \(former) already; remove that voter first"
                )
            }
            observers.removeAll { $0 == replica }
            voters.append(replica)
        case .removeVoter(let replica):
            guard voters.contains(replica) else {
                throw RaftError(.invalidChange, "\(replica) is not a voter; the voters are \(voters)")
            }
            guard voters.count > 1 else {
                throw RaftError(.invalidChange, "\(replica) is the last voter; add another one first")
            }
            voters.removeAll { $0 == replica }
        case .pinDirectory(let replica):
            guard replica.isPinned, voters.contains(RaftReplica(node: replica.node, directory: .zero)) else {
                throw RaftError(.invalidChange, "node \(replica.node) is not a voter without a directory id")
            }
            voters.removeAll { $0.node == replica.node }
            voters.append(replica)
        }
        return RaftMembership(voters: voters, observers: observers)
    }

    public var description: String { "voters \(voters) observers \(observers)" }
}

/// A change of the membership. Each changes at most one voter, so that any quorum before meets any quorum after.
public enum RaftMembershipChange: Hashable, Sendable {
    /// Lets a replica receive the log.
    case addObserver(RaftReplica)
    /// Stops sending the log to an observer.
    case removeObserver(RaftReplica)
    /// Makes a voter of an observer that has caught up.
    case promote(RaftReplica)
    /// Takes a voter out of the quorum; it becomes nothing.
    case removeVoter(RaftReplica)
    /// Writes down the directory of a voter that was configured without one.
    case pinDirectory(RaftReplica)
}
