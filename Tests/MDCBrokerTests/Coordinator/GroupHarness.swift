// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

typealias GroupHarness = ShardHarness<GroupCoordinatorShard>

extension GroupHarness {
    init(settings: GroupSettings = GroupSettings(), seed: UInt64 = 1, topics: GroupTopicImage = GroupTopicImage()) {
        self.init {
            GroupCoordinatorShard(settings: settings, seed: seed, now: $0, topics: topics)
        } successor: { shard, now, token in
            // Its random numbers are others, or it would give the same ids twice.
            GroupCoordinatorShard(
                settings: settings,
                seed: seed ^ (UInt64(token) << 32),
                now: now,
                topics: shard.topics
            )
        } check: { mirror, shard, step in
            #expect(step.offsetChanges.count <= step.records.count)
            if !step.records.isEmpty { Self.check(mirror, shard) }
        }
    }

    private static func check(_ copy: GroupCoordinatorShard, _ shard: GroupCoordinatorShard) {
        #expect(copy.offsets == shard.offsets)
        for (groupID, group) in shard.classicGroups where group.generation > 0 {
            guard let stored = copy.classicGroups[groupID] else { continue }
            #expect(stored.generation <= group.generation)
            if group.state == .stable || group.state == .empty {
                #expect(stored.metadataValue == group.metadataValue)
            }
        }
        #expect(Set(copy.classicGroups.keys).isSubset(of: shard.classicGroups.keys))
        #expect(Set(copy.consumerGroups.keys) == Set(shard.consumerGroups.keys))
        #expect(Set(copy.shareGroups.keys) == Set(shard.shareGroups.keys))
        for (groupID, group) in shard.shareGroups {
            guard let stored = copy.shareGroups[groupID] else { continue }
            #expect(stored.epoch == group.epoch && stored.targetEpoch == group.targetEpoch)
            #expect(stored.target == group.target && stored.initialized == group.initialized)
            #expect(stored.members.mapValues(\.metadataValue) == group.members.mapValues(\.metadataValue))
            #expect(stored.members.mapValues(\.currentValue) == group.members.mapValues(\.currentValue))
        }
        for (groupID, group) in shard.consumerGroups {
            guard let stored = copy.consumerGroups[groupID] else { continue }
            #expect(stored.epoch == group.epoch && stored.targetEpoch == group.targetEpoch)
            #expect(stored.target == group.target)
            #expect(stored.owners == group.owners)
            #expect(stored.staticMembers == group.staticMembers)
            #expect(stored.members.mapValues(\.metadataValue) == group.members.mapValues(\.metadataValue))
            #expect(stored.members.mapValues(\.currentValue) == group.members.mapValues(\.currentValue))
        }
    }

    // MARK: Short forms

    mutating func join(
        _ group: String = "g",
        member: String = "",
        instance: String? = nil,
        client: String = "c",
        protocols: [String] = ["range"],
        session: Int32 = 10_000,
        rebalance: Int32 = 60_000,
        version: Int16 = 9,
        metadata: String = ""
    ) -> RequestToken {
        send(
            .join(
                JoinGroupRequest(
                    groupId: group,
                    sessionTimeoutMs: session,
                    rebalanceTimeoutMs: rebalance,
                    memberId: member,
                    groupInstanceId: instance,
                    protocolType: "consumer",
                    protocols: protocols.map { .init(name: $0, metadata: ByteBuffer(string: metadata)) }
                ),
                RequestOrigin(clientID: client, apiVersion: version)
            )
        )
    }

    /// Joins as a client of version 4 and later does: once for the id, once with it.
    mutating func joinTwice(_ group: String = "g", protocols: [String] = ["range"]) -> (id: String, token: RequestToken)
    {
        let first = join(group, protocols: protocols)
        let id = joined(first)?.memberId ?? ""
        return (id, join(group, member: id, protocols: protocols))
    }

    mutating func sync(
        _ group: String = "g",
        member: String,
        generation: Int32,
        instance: String? = nil,
        assignments: [String: String] = [:]
    ) -> RequestToken {
        send(
            .sync(
                SyncGroupRequest(
                    groupId: group,
                    generationId: generation,
                    memberId: member,
                    groupInstanceId: instance,
                    assignments: assignments.sorted { $0.key < $1.key }.map {
                        .init(memberId: $0.key, assignment: ByteBuffer(string: $0.value))
                    }
                ),
                RequestOrigin(apiVersion: 5)
            )
        )
    }

    mutating func heartbeat(
        _ group: String = "g",
        member: String,
        generation: Int32,
        instance: String? = nil
    ) -> ErrorCode {
        let token = send(
            .heartbeat(
                HeartbeatRequest(
                    groupId: group,
                    generationId: generation,
                    memberId: member,
                    groupInstanceId: instance
                )
            )
        )
        guard case .heartbeat(let response)? = answers[token] else { return .unknownServerError }
        return ErrorCode(rawValue: response.errorCode)
    }

    mutating func leave(_ members: [(id: String, instance: String?)], of group: String = "g") -> [ErrorCode] {
        let token = send(
            .leave(
                LeaveGroupRequest(
                    groupId: group,
                    members: members.map { .init(memberId: $0.id, groupInstanceId: $0.instance) }
                )
            )
        )
        guard case .leave(let response)? = answers[token] else { return [] }
        return response.members.map { ErrorCode(rawValue: $0.errorCode) }
    }

    mutating func commit(
        _ group: String = "g",
        topic: String = "t",
        partition: Int32 = 0,
        offset: Int64,
        member: String = "",
        generation: Int32 = -1,
        instance: String? = nil,
        metadata: String? = nil,
        retention: Int64 = -1
    ) -> ErrorCode {
        let token = send(
            .commitOffsets(
                OffsetCommitRequest(
                    groupId: group,
                    generationIdOrMemberEpoch: generation,
                    memberId: member,
                    groupInstanceId: instance,
                    retentionTimeMs: retention,
                    topics: [
                        .init(
                            name: topic,
                            partitions: [
                                .init(
                                    partitionIndex: partition,
                                    committedOffset: offset,
                                    committedLeaderEpoch: 7,
                                    committedMetadata: metadata
                                )
                            ]
                        )
                    ]
                ),
                RequestOrigin(apiVersion: 9)
            )
        )
        guard case .commitOffsets(let response)? = answers[token] else { return .unknownServerError }
        return ErrorCode(rawValue: response.topics[0].partitions[0].errorCode)
    }

    func joined(_ token: RequestToken) -> JoinGroupResponse? {
        if case .join(let response)? = answers[token] { return response }
        return nil
    }

    func synced(_ token: RequestToken) -> SyncGroupResponse? {
        if case .sync(let response)? = answers[token] { return response }
        return nil
    }

    func error(_ token: RequestToken) -> ErrorCode? {
        switch answers[token] {
        case .join(let response)?: ErrorCode(rawValue: response.errorCode)
        case .sync(let response)?: ErrorCode(rawValue: response.errorCode)
        case .delete(let code)?: code
        case .deleteOffsets(let response)?: ErrorCode(rawValue: response.errorCode)
        default: nil
        }
    }

    /// A stable group of `count` members, the leader first, each with its own name as assignment.
    mutating func stableGroup(_ count: Int) -> (ids: [String], generation: Int32) {
        let joins = (0..<count).map { _ in joinTwice() }
        advance(shard.settings.initialRebalanceDelay * Int64(count + 2))
        let generation = joined(joins[0].token)?.generationId ?? -1
        let assignments = Dictionary(uniqueKeysWithValues: joins.map { ($0.id, $0.id) })
        for join in joins.dropFirst() { _ = sync(member: join.id, generation: generation) }
        _ = sync(member: joins[0].id, generation: generation, assignments: assignments)
        return (joins.map(\.id), generation)
    }
}
