// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Synchronization

/// The share partitions and share sessions of a node.
final class SharePartitionManager: Sendable {
    private let registry: PartitionRegistry
    private let states: ShareCoordinatorService
    private let access: any InternalTopicAccess
    let settings: @Sendable (String) -> ShareGroupSettings
    private let logger: Logger
    private let shares = Mutex<[String: [ShareTarget: SharePartition]]>([:])
    let sessions: Mutex<ShareSessionCache>

    init(
        registry: PartitionRegistry,
        states: ShareCoordinatorService,
        access: any InternalTopicAccess,
        settings: @escaping @Sendable (String) -> ShareGroupSettings,
        maxSessions: Int,
        logger: Logger
    ) {
        self.registry = registry
        self.states = states
        self.access = access
        self.settings = settings
        self.logger = logger
        sessions = Mutex(ShareSessionCache(capacity: maxSessions))
    }

    /// What a share group does with a partition; made where it is not there yet.
    func share(_ groupID: String, _ target: ShareTarget) -> ShareOutcome<SharePartition> {
        let partition: Partition
        switch registry.find(id: target.topicID, partition: target.partition) {
        case .found(let found): partition = found
        case .noSuchTopic: return .failure(.unknownTopicId)
        case .noSuchPartition: return .failure(.unknownTopicOrPartition)
        case .notLeader: return .failure(.notLeaderOrFollower)
        case .offline: return .failure(.kafkaStorageError)
        }
        if partition.isInternal { return .failure(.invalidTopicException) }
        return .success(
            shares.withLock { shares in
                if let known = shares[groupID]?[target], known.partition === partition, !known.isClosed {
                    return known
                }
                let settings = settings
                let new = SharePartition(
                    key: SharePartitionKey(groupID, target.topicID, target.partition),
                    partition: partition,
                    states: states,
                    access: access,
                    settings: { settings(groupID) },
                    logger: logger
                )
                shares[groupID, default: [:]][target] = new
                return new
            }
        )
    }

    /// Those of a group that are in memory.
    func shares(of groupID: String) -> [SharePartition] {
        shares.withLock { shares in shares[groupID].map { Array($0.values) } ?? [] }
    }

    /// How many are in memory.
    var count: Int { shares.withLock { $0.values.reduce(0) { $0 + $1.count } } }

    // MARK: Ends

    /// A member's session ended: what it has is taken back, and what nobody needs any more is forgotten.
    func sessionEnded(_ member: ShareMemberKey, isFarewell: Bool) {
        for share in shares(of: member.groupID) { share.release(by: member.memberID, wasDelivered: !isFarewell) }
        guard !sessions.withLock({ $0.hasSessions(of: member.groupID) }) else { return }
        let forgotten = shares.withLock { shares -> [SharePartition] in
            let idle = shares[member.groupID]?.filter { $0.value.isIdle } ?? [:]
            for target in idle.keys { shares[member.groupID]?[target] = nil }
            if shares[member.groupID]?.isEmpty == true { shares[member.groupID] = nil }
            return Array(idle.values)
        }
        for share in forgotten { share.close(.notLeaderOrFollower) }
    }

    /// A connection closed, and with it the sessions on it.
    func connectionClosed(_ id: UInt64) {
        for member in sessions.withLock({ $0.close(connection: id) }) { sessionEnded(member, isFarewell: false) }
    }

    /// The states of a group, or of some of its topics, are not what they were: they are read anew.
    func reset(_ groupID: String, topics: Set<TopicID>?) {
        let gone = shares.withLock { shares -> [SharePartition] in
            let gone = shares[groupID]?.filter { topics?.contains($0.key.topicID) ?? true } ?? [:]
            for target in gone.keys { shares[groupID]?[target] = nil }
            if shares[groupID]?.isEmpty == true { shares[groupID] = nil }
            return Array(gone.values)
        }
        for share in gone { share.close(.notLeaderOrFollower) }
    }

    /// Topics were deleted.
    func topicsDeleted() {
        let gone = shares.withLock { shares -> [SharePartition] in
            var gone: [SharePartition] = []
            for (groupID, list) in shares {
                let dead = list.filter { $0.value.partition.isDeleted }
                gone += dead.values
                for target in dead.keys { shares[groupID]?[target] = nil }
                if shares[groupID]?.isEmpty == true { shares[groupID] = nil }
            }
            return gone
        }
        for share in gone { share.close(.unknownTopicId) }
    }

    /// The broker stops: nobody waits any longer.
    func stop() {
        let all = shares.withLock { $0.values.flatMap { $0.values } }
        for share in all { share.endWaiting() }
    }
}
