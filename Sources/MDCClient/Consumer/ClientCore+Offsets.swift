// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// What stands for an offset in ListOffsets beside real times.
enum ListOffsetsTimestamp {
    static let latest: Int64 = -1
    static let earliest: Int64 = -2
}

/// Who commits: a member of a generation, or nobody in particular.
struct GroupMember: Sendable, Equatable {
    var generation: Int32
    var memberID: String
    var instanceID: String?

    /// Not a member: allowed while the group has none.
    static let none = GroupMember(generation: -1, memberID: "", instanceID: nil)
}

extension ClientCore {
    // MARK: Offsets of partitions

    /// Offsets by time (or -1, -2), each asked from its partition's leader; repeated until the deadline.
    func listOffsets(
        _ partitions: [(TopicPartition, Int64)],
        isolation: Int8,
        until deadline: NIODeadline
    ) async throws -> [TopicPartition: OffsetAndTimestamp] {
        var missing = Dictionary(partitions, uniquingKeysWith: { first, _ in first })
        var result: [TopicPartition: OffsetAndTimestamp] = [:]
        for topic in Set(partitions.map(\.0.topic)) { _ = try await waitForTopic(topic, until: deadline) }
        try await retrying(until: deadline) {
            do {
                let (found, failure) = try await listOffsetsOnce(missing, isolation: isolation)
                for (partition, offset) in found {
                    result[partition] = offset
                    missing[partition] = nil
                }
                if let failure { throw failure }
            } catch let error as ClientError where error.isRetriable {
                try? await eventLoop.flatSubmit { self.refreshMetadata() }.get()
                throw error
            }
        }
        return result
    }

    /// One round over the leaders; beside what was found, the first failure.
    private func listOffsetsOnce(
        _ wanted: [TopicPartition: Int64],
        isolation: Int8
    ) async throws -> ([TopicPartition: OffsetAndTimestamp], ClientError?) {
        var byLeader: [Int32: [TopicPartition: (time: Int64, epoch: Int32)]] = [:]
        var failure: ClientError?
        let leaders = try await onLoop {
            wanted.keys.reduce(into: [TopicPartition: (broker: Int32, epoch: Int32)]()) {
                $0[$1] = self.metadata.leader(of: $1)
            }
        }
        for (partition, time) in wanted {
            guard let leader = leaders[partition] else {
                failure = try await missingPartitionError(partition)
                continue
            }
            byLeader[leader.broker, default: [:]][partition] = (time, leader.epoch)
        }
        var found: [TopicPartition: OffsetAndTimestamp] = [:]
        for (leader, part) in byLeader {
            do {
                let response = try await request(ListOffsetsRequest.self, to: .broker(leader), versions: 1...9) {
                    version in
                    let topics = Dictionary(grouping: part) { $0.key.topic }
                    return ListOffsetsRequest(
                        replicaId: -1,
                        isolationLevel: version >= 2 ? isolation : 0,
                        topics: topics.map { topic, partitions in
                            .init(
                                name: topic,
                                partitions: partitions.map {
                                    .init(
                                        partitionIndex: $0.key.partition.rawValue,
                                        currentLeaderEpoch: $0.value.epoch,
                                        timestamp: $0.value.time
                                    )
                                }
                            )
                        }
                    )
                }
                for topic in response.topics {
                    for partition in topic.partitions {
                        let key = TopicPartition(topic: topic.name, partition: PartitionID(partition.partitionIndex))
                        if partition.errorCode == 0 {
                            found[key] = OffsetAndTimestamp(
                                offset: Offset(partition.offset),
                                timestamp: Timestamp(partition.timestamp)
                            )
                        } else {
                            failure = .broker(ErrorCode(rawValue: partition.errorCode), "asking for offsets of \(key)")
                        }
                    }
                }
            } catch let error as ClientError {
                failure = error
            }
        }
        return (found, failure)
    }

    private func missingPartitionError(_ partition: TopicPartition) async throws -> ClientError {
        let count = try await onLoop { self.metadata.topic(partition.topic)?.partitions.count }
        if let count, Int(partition.partition.rawValue) >= count {
            return ClientError(
                .unknownTopicOrPartition,
                "topic \(partition.topic) has \(count) partitions, no \(partition.partition)"
            )
        }
        return .broker(.leaderNotAvailable, "asking for offsets of \(partition)")
    }

    // MARK: Committed offsets

    /// The committed offsets of a group; all of them where `partitions` is nil.
    func fetchOffsets(
        group: String,
        partitions: [TopicPartition]?,
        until deadline: NIODeadline
    ) async throws -> [TopicPartition: OffsetAndMetadata] {
        if partitions?.isEmpty == true { return [:] }
        let topics = partitions.map { Dictionary(grouping: $0) { $0.topic }.sorted { $0.key < $1.key } }
        return try await coordinatorRequest(
            group: group,
            OffsetFetchRequest.self,
            versions: (partitions == nil ? 2 : 1)...9,
            until: deadline
        ) { version in
            if version >= 8 {
                return OffsetFetchRequest(
                    groups: [
                        .init(
                            groupId: group,
                            topics: topics?.map { name, partitions in
                                .init(name: name, partitionIndexes: partitions.map(\.partition.rawValue))
                            }
                        )
                    ],
                    requireStable: true
                )
            }
            return OffsetFetchRequest(
                groupId: group,
                topics: topics?.map { name, partitions in
                    .init(name: name, partitionIndexes: partitions.map(\.partition.rawValue))
                },
                requireStable: version >= 7
            )
        } read: { response in
            try Self.readOffsets(response, group: group)
        }
    }

    private static func readOffsets(
        _ response: OffsetFetchResponse,
        group: String
    ) throws -> [TopicPartition: OffsetAndMetadata] {
        let doing = "fetching the offsets of group '\(group)'"
        func check(_ code: Int16) throws {
            if code != 0 { throw ClientError.broker(ErrorCode(rawValue: code), doing) }
        }
        var result: [TopicPartition: OffsetAndMetadata] = [:]
        func take(_ topic: String, _ index: Int32, _ offset: Int64, _ epoch: Int32, _ metadata: String?) {
            guard offset >= 0 else { return }
            result[TopicPartition(topic: topic, partition: PartitionID(index))] = OffsetAndMetadata(
                Offset(offset),
                leaderEpoch: LeaderEpoch(epoch),
                metadata: metadata ?? ""
            )
        }
        try check(response.errorCode)
        for topic in response.topics {
            for partition in topic.partitions {
                try check(partition.errorCode)
                take(
                    topic.name,
                    partition.partitionIndex,
                    partition.committedOffset,
                    partition.committedLeaderEpoch,
                    partition.metadata
                )
            }
        }
        for group in response.groups {
            try check(group.errorCode)
            for topic in group.topics {
                for partition in topic.partitions {
                    try check(partition.errorCode)
                    take(
                        topic.name,
                        partition.partitionIndex,
                        partition.committedOffset,
                        partition.committedLeaderEpoch,
                        partition.metadata
                    )
                }
            }
        }
        return result
    }

    /// Commits offsets as a member, or as none.
    func commitOffsets(
        group: String,
        _ offsets: [TopicPartition: OffsetAndMetadata],
        member: GroupMember,
        until deadline: NIODeadline
    ) async throws {
        if offsets.isEmpty { return }
        let topics = Dictionary(grouping: offsets) { $0.key.topic }.sorted { $0.key < $1.key }
        try await coordinatorRequest(group: group, OffsetCommitRequest.self, versions: 2...9, until: deadline) {
            version in
            OffsetCommitRequest(
                groupId: group,
                generationIdOrMemberEpoch: member.generation,
                memberId: member.memberID,
                groupInstanceId: version >= 7 ? member.instanceID : nil,
                topics: topics.map { name, partitions in
                    .init(
                        name: name,
                        partitions: partitions.map { partition, offset in
                            .init(
                                partitionIndex: partition.partition.rawValue,
                                committedOffset: offset.offset.rawValue,
                                committedLeaderEpoch: offset.leaderEpoch.rawValue,
                                committedMetadata: offset.metadata
                            )
                        }
                    )
                }
            )
        } read: { response in
            for topic in response.topics {
                for partition in topic.partitions where partition.errorCode != 0 {
                    throw ClientError.broker(
                        ErrorCode(rawValue: partition.errorCode),
                        "committing the offset of \(topic.name)-\(partition.partitionIndex) in group '\(group)'"
                    )
                }
            }
        }
    }
}
