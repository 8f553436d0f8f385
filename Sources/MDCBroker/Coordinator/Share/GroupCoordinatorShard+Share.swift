// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// What others need to know of a share group: offsets are kept by the share coordinator, not here.
struct ShareGroupSummary: Equatable, Sendable {
    var isEmpty: Bool
    /// The topics that have a state, with their partitions.
    var initialized: [TopicID: ShareGroup.InitializedTopic]
}

/// Share groups (KIP-932): heartbeats, descriptions, and rebuilding them from the log.
extension GroupCoordinatorShard {
    mutating func shareHeartbeat(
        _ request: ShareGroupHeartbeatRequest,
        _ origin: RequestOrigin,
        _ settings: ShareGroupSettings,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        let response: ShareGroupHeartbeatResponse
        var missing = PartitionSet()
        if let refusal = Self.refusal(of: request) {
            response = refusal
        } else if request.memberEpoch < 0 {
            response = leaveShareGroup(request, &out)
        } else if let code = makeRoomForShareGroup(request) {
            response = .refusal(code, "Group \(request.groupId) is not a share group.")
        } else {
            let beat = ShareGroup.Heartbeat(
                request: request,
                origin: origin,
                now: now,
                settings: settings,
                image: topics
            )
            response = shareGroups[request.groupId]?.heartbeat(beat, &out) ?? .refusal(.groupIdNotFound)
            if let group = shareGroups[request.groupId] {
                if group.members.isEmpty && group.epoch == 0 {
                    // A group that only came to be for a heartbeat that was refused is none.
                    shareGroups[request.groupId] = nil
                } else if response.errorCode == 0 {
                    missing = group.uninitialized(topics)
                }
            }
        }
        out.answer(token, .shareHeartbeat(response, uninitialized: missing), waitsForCommit: !out.records.isEmpty)
        reschedule(request.groupId)
    }

    /// What is wrong with the request itself.
    private static func refusal(of request: ShareGroupHeartbeatRequest) -> ShareGroupHeartbeatResponse? {
        if request.groupId.isEmpty { return .refusal(.invalidRequest, "GroupId can't be empty.") }
        if request.memberId.isEmpty { return .refusal(.invalidRequest, "MemberId can't be empty.") }
        if request.rackId?.isEmpty == true { return .refusal(.invalidRequest, "RackId can't be empty.") }
        if request.memberEpoch < -1 { return .refusal(.invalidRequest, "MemberEpoch is invalid.") }
        if request.memberEpoch == 0 && request.subscribedTopicNames?.isEmpty ?? true {
            return .refusal(.invalidRequest, "SubscribedTopicNames must be set in first request.")
        }
        return nil
    }

    private mutating func makeRoomForShareGroup(_ request: ShareGroupHeartbeatRequest) -> ErrorCode? {
        let groupID = request.groupId
        if shareGroups[groupID] != nil { return nil }
        if exists(groupID) || request.memberEpoch != 0 { return .groupIdNotFound }
        shareGroups[groupID] = ShareGroup(id: groupID)
        return nil
    }

    private mutating func leaveShareGroup(
        _ request: ShareGroupHeartbeatRequest,
        _ out: inout CoordinatorResult
    ) -> ShareGroupHeartbeatResponse {
        guard let group = shareGroups[request.groupId] else { return .refusal(.groupIdNotFound) }
        guard group.members[request.memberId] != nil else { return .refusal(.unknownMemberId) }
        shareGroups[request.groupId]?.leave(request.memberId, topics, &out)
        return ShareGroupHeartbeatResponse(memberId: request.memberId, memberEpoch: -1)
    }

    mutating func shareInitialized(
        _ groupID: String,
        _ partitions: PartitionSet,
        _ token: RequestToken,
        _ out: inout CoordinatorResult
    ) {
        shareGroups[groupID]?.noteInitialized(partitions, topics, &out)
        out.answer(token, .done(shareGroups[groupID] == nil ? .groupIdNotFound : .none))
    }

    mutating func shareForgotten(
        _ groupID: String,
        _ gone: [TopicID],
        _ token: RequestToken,
        _ out: inout CoordinatorResult
    ) {
        shareGroups[groupID]?.forgetTopics(gone, &out)
        out.answer(token, .done(shareGroups[groupID] == nil ? .groupIdNotFound : .none))
    }

    func shareSummary(_ groupID: String) -> ShareGroupSummary? {
        shareGroups[groupID].map { ShareGroupSummary(isEmpty: $0.members.isEmpty, initialized: $0.initialized) }
    }

    /// Forgets the states of topics that are gone; the share coordinator removes them by itself.
    mutating func forgetDeletedTopics(_ out: inout CoordinatorResult) {
        for groupID in shareGroups.keys.sorted() {
            let gone = shareGroups[groupID]?.initialized.keys.filter { topics.byID[$0] == nil } ?? []
            if !gone.isEmpty { shareGroups[groupID]?.forgetTopics(gone, &out) }
        }
    }

    // MARK: Describe

    func shareDescribe(_ groupID: String) -> ShareGroupDescribeResponse.DescribedGroup {
        guard let group = shareGroups[groupID] else {
            return .init(
                errorCode: ErrorCode.groupIdNotFound.rawValue,
                errorMessage: exists(groupID)
                    ? "Group \(groupID) is not a share group." : "Group \(groupID) not found.",
                groupId: groupID
            )
        }
        return .init(
            groupId: groupID,
            groupState: group.state.rawValue,
            groupEpoch: group.epoch,
            assignmentEpoch: group.targetEpoch,
            assignorName: ShareAssignor.name,
            members: group.members.values.sorted { $0.id < $1.id }.map { member in
                .init(
                    memberId: member.id,
                    rackId: member.rackID,
                    memberEpoch: member.epoch,
                    clientId: member.clientID,
                    clientHost: member.clientHost,
                    subscribedTopicNames: member.subscribedNames,
                    assignment: .init(
                        topicPartitions: member.assigned.sorted.compactMap { topic, list in
                            topics.byID[topic].map { .init(topicId: topic, topicName: $0.name, partitions: list) }
                        }
                    )
                )
            }
        )
    }

    // MARK: Replay

    private mutating func change(_ groupID: String, _ body: (inout ShareGroup) -> Void) {
        var group = shareGroups.removeValue(forKey: groupID) ?? ShareGroup(id: groupID)
        body(&group)
        shareGroups[groupID] = group
    }

    mutating func replayShareGroup(_ groupID: String, _ value: ShareGroupMetadataValue?) {
        guard let value else {
            shareGroups[groupID] = nil
            return
        }
        change(groupID) { $0.epoch = value.epoch }
    }

    mutating func replayShareMember(_ key: ShareGroupMemberMetadataKey, _ value: ShareGroupMemberMetadataValue?) {
        guard let value else {
            shareGroups[key.groupId]?.members[key.memberId] = nil
            shareGroups[key.groupId]?.target[key.memberId] = nil
            return
        }
        change(key.groupId) { $0.members[key.memberId, default: ShareMember(id: key.memberId)].apply(value) }
    }

    mutating func replayShareTargetEpoch(_ groupID: String, _ value: ShareGroupTargetAssignmentMetadataValue?) {
        guard let value else {
            shareGroups[groupID]?.targetEpoch = 0
            return
        }
        change(groupID) { $0.targetEpoch = value.assignmentEpoch }
    }

    mutating func replayShareTarget(
        _ key: ShareGroupTargetAssignmentMemberKey,
        _ value: ShareGroupTargetAssignmentMemberValue?
    ) {
        guard let value else {
            shareGroups[key.groupId]?.target[key.memberId] = nil
            return
        }
        change(key.groupId) {
            $0.target[key.memberId] = PartitionSet(value.topicPartitions.map { ($0.topicId, $0.partitions) })
        }
    }

    mutating func replayShareCurrent(
        _ key: ShareGroupCurrentMemberAssignmentKey,
        _ value: ShareGroupCurrentMemberAssignmentValue?
    ) {
        guard let value else { return }
        change(key.groupId) { $0.members[key.memberId, default: ShareMember(id: key.memberId)].apply(value) }
    }

    mutating func replayShareState(_ groupID: String, _ value: ShareGroupStatePartitionMetadataValue?) {
        if value == nil && shareGroups[groupID] == nil { return }
        change(groupID) { $0.apply(value) }
    }
}
