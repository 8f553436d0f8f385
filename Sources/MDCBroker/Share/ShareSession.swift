// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// A partition as share requests name it.
struct ShareTarget: Hashable, Sendable {
    var topicID: TopicID
    var partition: Int32

    init(_ topicID: TopicID, _ partition: Int32) {
        self.topicID = topicID
        self.partition = partition
    }
}

/// A member of a share group, as share requests name it.
struct ShareMemberKey: Hashable, Sendable {
    var groupID: String
    var memberID: String
}

/// The share sessions of a node: which partitions a member fetches from, so that its requests name only what changes. A
/// member has at most one session, on one connection; when that closes the session ends. Pure.
struct ShareSessionCache: Sendable {
    private struct Session {
        /// The epoch that the next request must have.
        var nextEpoch: Int32 = 1
        var connection: UInt64
        var targets: [ShareTarget] = []
        /// Where the next fetch begins, so that no partition starves the ones behind it.
        var cursor = 0
    }

    /// How a request goes on.
    enum Verdict: Equatable, Sendable {
        case created
        case incremental
        /// The last request of the session, which has ended with it.
        case final
        /// `SHARE_SESSION_NOT_FOUND`, `INVALID_SHARE_SESSION_EPOCH`, `SHARE_SESSION_LIMIT_REACHED`.
        case failed(ErrorCode)
    }

    private let capacity: Int
    private var sessions: [ShareMemberKey: Session] = [:]
    private var byConnection: [UInt64: Set<ShareMemberKey>] = [:]

    init(capacity: Int) { self.capacity = capacity }

    var count: Int { sessions.count }

    /// Takes a fetch: epoch 0 begins a session, −1 ends it.
    mutating func fetch(
        _ member: ShareMemberKey,
        epoch: Int32,
        connection: UInt64,
        targets: [ShareTarget],
        forgotten: [ShareTarget]
    ) -> Verdict {
        if epoch == 0 {
            remove(member)
            guard sessions.count < capacity else { return .failed(.shareSessionLimitReached) }
            var session = Session(connection: connection)
            var known: Set<ShareTarget> = []
            for target in targets where known.insert(target).inserted { session.targets.append(target) }
            sessions[member] = session
            byConnection[connection, default: []].insert(member)
            return .created
        }
        let verdict = advance(member, epoch: epoch)
        guard verdict == .incremental, var session = sessions.removeValue(forKey: member) else { return verdict }
        var known = Set(session.targets)
        for target in targets where known.insert(target).inserted { session.targets.append(target) }
        if !forgotten.isEmpty {
            let gone = Set(forgotten)
            session.targets.removeAll { gone.contains($0) }
        }
        sessions[member] = session
        return .incremental
    }

    /// Takes an acknowledgement: it belongs to a session and cannot begin one.
    mutating func acknowledge(_ member: ShareMemberKey, epoch: Int32) -> Verdict {
        epoch == 0 ? .failed(.invalidShareSessionEpoch) : advance(member, epoch: epoch)
    }

    private mutating func advance(_ member: ShareMemberKey, epoch: Int32) -> Verdict {
        guard let session = sessions[member] else { return .failed(.shareSessionNotFound) }
        if epoch == -1 {
            remove(member)
            return .final
        }
        guard epoch == session.nextEpoch else { return .failed(.invalidShareSessionEpoch) }
        sessions[member]?.nextEpoch = epoch == Int32.max ? 1 : epoch + 1
        return .incremental
    }

    /// The partitions of a session, in the order to look at them this time.
    mutating func targets(of member: ShareMemberKey) -> [ShareTarget] {
        guard let session = sessions[member], !session.targets.isEmpty else { return [] }
        let from = session.cursor % session.targets.count
        sessions[member]?.cursor = from + 1
        return Array(session.targets[from...] + session.targets[..<from])
    }

    private mutating func remove(_ member: ShareMemberKey) {
        guard let session = sessions.removeValue(forKey: member) else { return }
        byConnection[session.connection]?.remove(member)
        if byConnection[session.connection]?.isEmpty == true { byConnection[session.connection] = nil }
    }

    /// Ends the sessions of a connection that closed; returns whose they were.
    mutating func close(connection: UInt64) -> [ShareMemberKey] {
        let members = byConnection[connection] ?? []
        for member in members { remove(member) }
        return Array(members)
    }

    /// Whether anyone of a group has a session.
    func hasSessions(of groupID: String) -> Bool { sessions.keys.contains { $0.groupID == groupID } }
}
