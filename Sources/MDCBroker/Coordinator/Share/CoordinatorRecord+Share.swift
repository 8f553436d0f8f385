// SPDX-License-Identifier: Apache-2.0

import MDCProtocol

/// The records of share groups in `__consumer_offsets`. A nil value is a tombstone.
extension CoordinatorRecord {
    /// What a member wants.
    static func shareMember(
        _ groupID: String,
        _ memberID: String,
        _ value: ShareGroupMemberMetadataValue?
    ) -> CoordinatorRecord {
        CoordinatorRecord(10, ShareGroupMemberMetadataKey(groupId: groupID, memberId: memberID), 0, value)
    }

    /// The epoch of a group.
    static func shareGroup(_ groupID: String, epoch: Int32?) -> CoordinatorRecord {
        CoordinatorRecord(
            11,
            ShareGroupMetadataKey(groupId: groupID),
            0,
            epoch.map { ShareGroupMetadataValue(epoch: $0) }
        )
    }

    /// The epoch of a group's target assignment.
    static func shareTargetMetadata(_ groupID: String, epoch: Int32?) -> CoordinatorRecord {
        CoordinatorRecord(
            12,
            ShareGroupTargetAssignmentMetadataKey(groupId: groupID),
            0,
            epoch.map { ShareGroupTargetAssignmentMetadataValue(assignmentEpoch: $0) }
        )
    }

    /// What a member shall have.
    static func shareTargetMember(
        _ groupID: String,
        _ memberID: String,
        _ value: ShareGroupTargetAssignmentMemberValue?
    ) -> CoordinatorRecord {
        CoordinatorRecord(13, ShareGroupTargetAssignmentMemberKey(groupId: groupID, memberId: memberID), 0, value)
    }

    /// What a member has.
    static func shareCurrentMember(
        _ groupID: String,
        _ memberID: String,
        _ value: ShareGroupCurrentMemberAssignmentValue?
    ) -> CoordinatorRecord {
        CoordinatorRecord(14, ShareGroupCurrentMemberAssignmentKey(groupId: groupID, memberId: memberID), 0, value)
    }

    /// The partitions that have a state at the share coordinator.
    static func shareState(_ groupID: String, _ value: ShareGroupStatePartitionMetadataValue?) -> CoordinatorRecord {
        CoordinatorRecord(15, ShareGroupStatePartitionMetadataKey(groupId: groupID), 0, value)
    }
}
