// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import MDCProtocol

/// A share group (KIP-932).
public struct ShareGroupDescription: Sendable, Hashable {
    /// One member.
    public struct Member: Sendable, Hashable {
        /// Its id.
        public let id: String
        /// The client id of its connection.
        public let clientID: String
        /// Where it connects from.
        public let clientHost: String
        /// Its epoch.
        public let epoch: Int32
        /// The partitions that it asks; others may ask the same.
        public let assignment: [TopicPartition]
    }

    /// Its id.
    public let id: String
    /// Its state: `Empty` or `Stable`.
    public let state: String
    /// Its epoch.
    public let epoch: Int32
    /// The assignor in use.
    public let assignor: String
    /// The members.
    public let members: [Member]
}

/// How far a share group is in one partition.
public struct ShareGroupOffset: Sendable, Hashable {
    /// The first record that is not done; nil before the group has begun to read.
    public let start: Offset?
    /// Records that are not done; nil where the broker does not know.
    public let lag: Int64?
}

extension Admin {
    /// Describes a share group; nil where there is none of that name, or where the broker does not know such groups.
    public func describeShareGroup(_ id: String) async throws -> ShareGroupDescription? {
        do {
            return try await core.coordinatorRequest(
                group: id,
                ShareGroupDescribeRequest.self,
                until: core.apiDeadline
            ) { _ in
                ShareGroupDescribeRequest(groupIds: [id])
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

    private static func description(_ group: ShareGroupDescribeResponse.DescribedGroup) -> ShareGroupDescription {
        ShareGroupDescription(
            id: group.groupId,
            state: group.groupState,
            epoch: group.groupEpoch,
            assignor: group.assignorName,
            members: group.members.map { member in
                ShareGroupDescription.Member(
                    id: member.memberId,
                    clientID: member.clientId,
                    clientHost: member.clientHost,
                    epoch: member.memberEpoch,
                    assignment: member.assignment.topicPartitions.flatMap { topic in
                        topic.partitions.map { TopicPartition(topic: topic.topicName, partition: PartitionID($0)) }
                    }.sorted()
                )
            }
        )
    }

    /// How far a share group is in each partition that it has read.
    public func shareGroupOffsets(_ group: String) async throws -> [TopicPartition: ShareGroupOffset] {
        try await core.coordinatorRequest(
            group: group,
            DescribeShareGroupOffsetsRequest.self,
            until: core.apiDeadline
        ) { _ in
            DescribeShareGroupOffsetsRequest(groups: [.init(groupId: group, topics: nil)])
        } read: { response in
            guard let found = response.groups.first else {
                throw ClientError(.protocolViolation, "the broker's answer leaves group '\(group)' out")
            }
            try Self.check(found.errorCode, "reading the offsets of group '\(group)'", found.errorMessage)
            var offsets: [TopicPartition: ShareGroupOffset] = [:]
            for topic in found.topics {
                for partition in topic.partitions where partition.errorCode == 0 {
                    let key = TopicPartition(topic: topic.topicName, partition: PartitionID(partition.partitionIndex))
                    offsets[key] = ShareGroupOffset(
                        start: partition.startOffset >= 0 ? Offset(partition.startOffset) : nil,
                        lag: partition.lag >= 0 ? partition.lag : nil
                    )
                }
            }
            return offsets
        }
    }
}
