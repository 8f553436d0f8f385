// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import MDCProtocol
import NIOCore

extension Admin {
    /// All groups, sorted by id: each broker is asked for those that it coordinates.
    public func listGroups() async throws -> [GroupListing] {
        try await core.retrying(until: core.apiDeadline) {
            try await core.eventLoop.flatSubmit { self.core.refreshMetadata() }.get()
            let brokers = try await core.onLoop { self.core.metadata.brokers.keys.sorted() }
            var groups: [GroupListing] = []
            for broker in brokers {
                let response = try await core.request(ListGroupsRequest.self, to: .broker(broker)) { _ in
                    ListGroupsRequest()
                }
                try Self.check(response.errorCode, "listing groups of broker \(broker)")
                groups += response.groups.map {
                    GroupListing(
                        id: $0.groupId,
                        protocolType: $0.protocolType,
                        state: $0.groupState,
                        type: $0.groupType
                    )
                }
            }
            return groups.sorted { $0.id < $1.id }
        }
    }

    /// Describes groups, classic ones and those of the consumer protocol (KIP-848). A group that does not exist is `Dead` and
    /// empty, or throws `ClientError` (`GROUP_ID_NOT_FOUND`), as the broker's version has it.
    public func describeGroups(_ ids: [String]) async throws -> [GroupDescription] {
        var result: [GroupDescription] = []
        for id in ids {
            do {
                let found = try await describeClassicGroup(id)
                // Older brokers say so of a group that is not classic.
                let other = found.state == "Dead" ? try await describeConsumerGroup(id) : nil
                result.append(other ?? found)
            } catch let error as ClientError where error.errorCode == .groupIdNotFound {
                guard let other = try await describeConsumerGroup(id) else { throw error }
                result.append(other)
            }
        }
        return result
    }

    private func describeClassicGroup(_ id: String) async throws -> GroupDescription {
        try await core.coordinatorRequest(group: id, DescribeGroupsRequest.self, until: core.apiDeadline) { _ in
            DescribeGroupsRequest(groups: [id])
        } read: { response in
            guard let group = response.groups.first else {
                throw ClientError(.protocolViolation, "the broker's answer leaves group '\(id)' out")
            }
            try Self.check(group.errorCode, "describing group '\(id)'", group.errorMessage)
            return Self.description(group)
        }
    }

    /// A group of the consumer protocol; nil where there is none of that name, or where the broker does not know the protocol.
    private func describeConsumerGroup(_ id: String) async throws -> GroupDescription? {
        do {
            return try await core.coordinatorRequest(
                group: id,
                ConsumerGroupDescribeRequest.self,
                until: core.apiDeadline
            ) { _ in
                ConsumerGroupDescribeRequest(groupIds: [id])
            } read: { response in
                guard let group = response.groups.first else {
                    throw ClientError(.protocolViolation, "the broker's answer leaves group '\(id)' out")
                }
                try Self.check(group.errorCode, "describing group '\(id)'", group.errorMessage)
                return Self.description(group)
            }
        } catch let error as ClientError where error.errorCode == .groupIdNotFound || error.code == .unsupportedVersion
        {
            return nil
        }
    }

    private static func description(_ group: ConsumerGroupDescribeResponse.DescribedGroup) -> GroupDescription {
        func partitions(_ assignment: ConsumerGroupDescribeResponse.Assignment) -> [TopicPartition] {
            assignment.topicPartitions.flatMap { topic in
                topic.partitions.map { TopicPartition(topic: topic.topicName, partition: PartitionID($0)) }
            }.sorted()
        }
        return GroupDescription(
            id: group.groupId,
            type: "consumer",
            epoch: group.groupEpoch,
            state: group.groupState,
            protocolType: "consumer",
            assignor: group.assignorName,
            members: group.members.map { member in
                GroupDescription.Member(
                    id: member.memberId,
                    instanceID: member.instanceId,
                    clientID: member.clientId,
                    clientHost: member.clientHost,
                    assignment: partitions(member.assignment),
                    epoch: member.memberEpoch,
                    target: partitions(member.targetAssignment)
                )
            }
        )
    }

    private static func description(_ group: DescribeGroupsResponse.DescribedGroup) -> GroupDescription {
        GroupDescription(
            id: group.groupId,
            type: "classic",
            epoch: nil,
            state: group.groupState,
            protocolType: group.protocolType,
            assignor: group.protocolData,
            members: group.members.map { member in
                let assignment = try? GroupProtocol.decodeAssignment(member.memberAssignment)
                return GroupDescription.Member(
                    id: member.memberId,
                    instanceID: member.groupInstanceId,
                    clientID: member.clientId,
                    clientHost: member.clientHost,
                    assignment: (assignment ?? []).sorted(),
                    epoch: nil,
                    target: nil
                )
            }
        )
    }

    /// Deletes groups without members, with their offsets. Throws `ClientError` for the first that cannot be deleted.
    public func deleteGroups(_ ids: [String]) async throws {
        for id in ids {
            try await core.coordinatorRequest(group: id, DeleteGroupsRequest.self, until: core.apiDeadline) { _ in
                DeleteGroupsRequest(groupsNames: [id])
            } read: { response in
                for group in response.results { try Self.check(group.errorCode, "deleting group '\(group.groupId)'") }
            }
        }
    }

    /// The committed offsets of a group; nil for all its partitions.
    public func groupOffsets(
        _ group: String,
        partitions: [TopicPartition]? = nil
    ) async throws -> [TopicPartition: OffsetAndMetadata] {
        try await core.fetchOffsets(group: group, partitions: partitions, until: core.apiDeadline)
    }

    /// Sets committed offsets of a group that has no members.
    public func alterGroupOffsets(_ group: String, _ offsets: [TopicPartition: OffsetAndMetadata]) async throws {
        try await core.commitOffsets(
            group: group,
            offsets,
            member: .none,
            until: core.apiDeadline
        )
    }

    /// Forgets committed offsets of a group. Throws `ClientError` for the first partition that refuses.
    public func deleteGroupOffsets(_ group: String, partitions: [TopicPartition]) async throws {
        let topics = Dictionary(grouping: partitions) { $0.topic }
        try await core.coordinatorRequest(group: group, OffsetDeleteRequest.self, until: core.apiDeadline) { _ in
            OffsetDeleteRequest(
                groupId: group,
                topics: topics.map { topic, partitions in
                    .init(name: topic, partitions: partitions.map { .init(partitionIndex: $0.partition.rawValue) })
                }
            )
        } read: { response in
            try Self.check(response.errorCode, "deleting offsets of group '\(group)'")
            for topic in response.topics {
                for partition in topic.partitions {
                    try Self.check(
                        partition.errorCode,
                        "deleting the offset of \(topic.name)-\(partition.partitionIndex)"
                    )
                }
            }
        }
    }

    /// The first (-2) or end (-1) offsets of partitions, or those at a time.
    private func offsets(_ partitions: [TopicPartition], _ time: Int64) async throws -> [TopicPartition: Offset] {
        try await core.listOffsets(partitions.map { ($0, time) }, isolation: 0, until: core.apiDeadline)
            .mapValues(\.offset)
    }

    /// The first offset of each partition.
    public func beginningOffsets(_ partitions: [TopicPartition]) async throws -> [TopicPartition: Offset] {
        try await offsets(partitions, ListOffsetsTimestamp.earliest)
    }

    /// The offset behind the last record of each partition.
    public func endOffsets(_ partitions: [TopicPartition]) async throws -> [TopicPartition: Offset] {
        try await offsets(partitions, ListOffsetsTimestamp.latest)
    }
}
