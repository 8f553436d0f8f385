// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// A record of `__consumer_offsets`, read. Key and value start with the version of their layout as an int16; the key's
/// version also names the kind of record. Kinds that we do not know are skipped, so that a folder that a newer Kafka
/// wrote still opens.
enum GroupRecord: Equatable, Sendable {
    case offset(OffsetCommitKey, OffsetCommitValue?)
    case classicGroup(groupID: String, GroupMetadataValue?)
    case consumerGroup(groupID: String, ConsumerGroupMetadataValue?)
    case consumerMember(ConsumerGroupMemberMetadataKey, ConsumerGroupMemberMetadataValue?)
    case targetMetadata(groupID: String, ConsumerGroupTargetAssignmentMetadataValue?)
    case targetMember(ConsumerGroupTargetAssignmentMemberKey, ConsumerGroupTargetAssignmentMemberValue?)
    case currentMember(ConsumerGroupCurrentMemberAssignmentKey, ConsumerGroupCurrentMemberAssignmentValue?)
    case shareGroup(groupID: String, ShareGroupMetadataValue?)
    case shareMember(ShareGroupMemberMetadataKey, ShareGroupMemberMetadataValue?)
    case shareTargetMetadata(groupID: String, ShareGroupTargetAssignmentMetadataValue?)
    case shareTargetMember(ShareGroupTargetAssignmentMemberKey, ShareGroupTargetAssignmentMemberValue?)
    case shareCurrentMember(ShareGroupCurrentMemberAssignmentKey, ShareGroupCurrentMemberAssignmentValue?)
    case shareState(groupID: String, ShareGroupStatePartitionMetadataValue?)
    /// A kind that holds no state of ours (partition metadata, or newer than we are).
    case other(kind: Int16)
}

extension GroupRecord {
    /// Reads a record. Throws where the bytes do not fit the layout that they claim.
    init(_ record: CoordinatorRecord) throws(ProtocolError) {
        var key = record.key
        guard let kind = key.readInteger(as: Int16.self) else {
            throw ProtocolError(
                .truncated,
                field: "__consumer_offsets key",
                detail: "shorter than the two bytes of its version"
            )
        }
        var value = record.value
        var version: Int16 = 0
        if value != nil {
            guard let read = value?.readInteger(as: Int16.self) else {
                throw ProtocolError(
                    .truncated,
                    field: "__consumer_offsets value",
                    detail: "shorter than the two bytes of its version"
                )
            }
            version = read
        }
        switch kind {
        case 0, 1:
            self = .offset(try .init(reading: &key, version: kind), try Self.read(&value, version))
        case 2:
            self = .classicGroup(
                groupID: try GroupMetadataKey(reading: &key, version: 2).group,
                try Self.read(&value, version)
            )
        case 3:
            self = .consumerGroup(
                groupID: try ConsumerGroupMetadataKey(reading: &key, version: 3).groupId,
                try Self.read(&value, version)
            )
        case 5:
            self = .consumerMember(try .init(reading: &key, version: 5), try Self.read(&value, version))
        case 6:
            self = .targetMetadata(
                groupID: try ConsumerGroupTargetAssignmentMetadataKey(reading: &key, version: 6).groupId,
                try Self.read(&value, version)
            )
        case 7:
            self = .targetMember(try .init(reading: &key, version: 7), try Self.read(&value, version))
        case 8:
            self = .currentMember(try .init(reading: &key, version: 8), try Self.read(&value, version))
        case 10...15:
            self = try Self.share(kind, &key, &value, version)
        default:
            self = .other(kind: kind)
        }
    }

    /// The records of share groups.
    private static func share(
        _ kind: Int16,
        _ key: inout ByteBuffer,
        _ value: inout ByteBuffer?,
        _ version: Int16
    ) throws(ProtocolError) -> GroupRecord {
        switch kind {
        case 10: .shareMember(try .init(reading: &key, version: 10), try read(&value, version))
        case 11:
            .shareGroup(
                groupID: try ShareGroupMetadataKey(reading: &key, version: 11).groupId,
                try read(&value, version)
            )
        case 12:
            .shareTargetMetadata(
                groupID: try ShareGroupTargetAssignmentMetadataKey(reading: &key, version: 12).groupId,
                try read(&value, version)
            )
        case 13: .shareTargetMember(try .init(reading: &key, version: 13), try read(&value, version))
        case 14: .shareCurrentMember(try .init(reading: &key, version: 14), try read(&value, version))
        default:
            .shareState(
                groupID: try ShareGroupStatePartitionMetadataKey(reading: &key, version: 15).groupId,
                try read(&value, version)
            )
        }
    }

    private static func read<Value: ProtocolMessage>(
        _ buffer: inout ByteBuffer?,
        _ version: Int16
    ) throws(ProtocolError) -> Value? {
        guard var bytes = buffer else { return nil }
        return try Value(reading: &bytes, version: version)
    }
}

extension CoordinatorRecord {
    /// Encodes a record. A failure is a programmer's error: what is encoded here was bounded when it came in.
    init<Key: ProtocolMessage, Value: ProtocolMessage>(
        _ kind: Int16,
        _ key: Key,
        _ version: Int16,
        _ value: Value?
    ) {
        self.init(key: Self.encode(key, kind), value: value.map { Self.encode($0, version) })
    }

    private static func encode(_ message: some ProtocolMessage, _ version: Int16) -> ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeInteger(version)
        do {
            try message.write(into: &buffer, version: version)
        } catch {
            preconditionFailure("a coordinator record cannot be encoded: \(error)")
        }
        return buffer
    }

    /// A committed offset, or its removal.
    static func offset(
        group: String,
        topic: String,
        partition: Int32,
        _ value: CommittedOffset?
    ) -> CoordinatorRecord {
        // Version 1 alone carries an expiry; version 3 carries the leader epoch. As Kafka chooses.
        CoordinatorRecord(
            1,
            OffsetCommitKey(group: group, topic: topic, partition: partition),
            value?.expireTimestamp == nil ? 3 : 1,
            value.map {
                OffsetCommitValue(
                    offset: $0.offset,
                    leaderEpoch: $0.leaderEpoch,
                    metadata: $0.metadata,
                    commitTimestamp: $0.commitTimestamp.rawValue,
                    expireTimestamp: $0.expireTimestamp?.rawValue ?? -1
                )
            }
        )
    }

    /// The state of a classic group, or its removal.
    static func classicGroup(_ groupID: String, _ value: GroupMetadataValue?) -> CoordinatorRecord {
        CoordinatorRecord(2, GroupMetadataKey(group: groupID), 3, value)
    }

    /// The epoch of a consumer group, or its removal.
    static func consumerGroup(_ groupID: String, epoch: Int32?) -> CoordinatorRecord {
        CoordinatorRecord(
            3,
            ConsumerGroupMetadataKey(groupId: groupID),
            0,
            epoch.map { ConsumerGroupMetadataValue(epoch: $0) }
        )
    }

    /// What a member of a consumer group wants, or its removal.
    static func consumerMember(
        _ groupID: String,
        _ memberID: String,
        _ value: ConsumerGroupMemberMetadataValue?
    ) -> CoordinatorRecord {
        CoordinatorRecord(5, ConsumerGroupMemberMetadataKey(groupId: groupID, memberId: memberID), 0, value)
    }

    /// The epoch of a group's target assignment, or its removal.
    static func targetMetadata(_ groupID: String, epoch: Int32?) -> CoordinatorRecord {
        CoordinatorRecord(
            6,
            ConsumerGroupTargetAssignmentMetadataKey(groupId: groupID),
            0,
            epoch.map { ConsumerGroupTargetAssignmentMetadataValue(assignmentEpoch: $0) }
        )
    }

    /// What a member shall have, or its removal.
    static func targetMember(
        _ groupID: String,
        _ memberID: String,
        _ value: ConsumerGroupTargetAssignmentMemberValue?
    ) -> CoordinatorRecord {
        CoordinatorRecord(7, ConsumerGroupTargetAssignmentMemberKey(groupId: groupID, memberId: memberID), 0, value)
    }

    /// What a member has, or its removal.
    static func currentMember(
        _ groupID: String,
        _ memberID: String,
        _ value: ConsumerGroupCurrentMemberAssignmentValue?
    ) -> CoordinatorRecord {
        CoordinatorRecord(8, ConsumerGroupCurrentMemberAssignmentKey(groupId: groupID, memberId: memberID), 0, value)
    }
}
