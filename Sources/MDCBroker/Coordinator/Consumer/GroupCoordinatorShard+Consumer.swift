// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Groups of the consumer protocol (KIP-848).
extension GroupCoordinatorShard {
    mutating func consumerHeartbeat(
        _ request: ConsumerGroupHeartbeatRequest,
        _ origin: RequestOrigin,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        let response: ConsumerGroupHeartbeatResponse
        let classic = request.memberEpoch == 0 ? classicGroups[request.groupId] : nil
        if let refusal = Self.refusal(of: request, origin) {
            response = refusal
        } else if request.memberEpoch < 0 {
            response = leaveConsumerGroup(request, now, &out)
        } else if let code = makeRoomForConsumerGroup(request, now, &out) {
            response = .refusal(code, "Group \(request.groupId) is not a consumer group.")
        } else {
            let memberID = request.memberId.isEmpty ? random.nextUUIDText() : request.memberId
            let beat = ConsumerGroup.Heartbeat(
                request: request,
                origin: origin,
                memberID: memberID,
                now: now,
                settings: settings.with(topics.groupConfigs[request.groupId]),
                image: topics
            )
            response =
                consumerGroups[request.groupId]?.heartbeat(beat, &out) ?? .refusal(.groupIdNotFound)
            // A group that only came to be for a heartbeat that was refused is none.
            if let group = consumerGroups[request.groupId], group.members.isEmpty, group.epoch == 0 {
                consumerGroups[request.groupId] = nil
            }
            // Nor is a classic group one that became one for it.
            if let classic, response.errorCode != 0 {
                consumerGroups[request.groupId] = nil
                classicGroups[request.groupId] = classic
                out = CoordinatorResult()
            }
        }
        // A heartbeat that changed nothing has nothing to wait for.
        out.answer(token, .consumerHeartbeat(response), waitsForCommit: !out.records.isEmpty)
        reschedule(request.groupId)
    }

    /// What is wrong with the request itself.
    private static func refusal(
        of request: ConsumerGroupHeartbeatRequest,
        _ origin: RequestOrigin
    ) -> ConsumerGroupHeartbeatResponse? {
        if request.groupId.isEmpty { return .refusal(.invalidRequest, "GroupId can't be empty.") }
        if request.memberId.isEmpty && (origin.apiVersion > 0 || request.memberEpoch != 0) {
            return .refusal(.invalidRequest, "MemberId can't be empty.")
        }
        if request.instanceId?.isEmpty == true { return .refusal(.invalidRequest, "InstanceId can't be empty.") }
        if request.rackId?.isEmpty == true { return .refusal(.invalidRequest, "RackId can't be empty.") }
        if request.memberEpoch < -2 { return .refusal(.invalidRequest, "MemberEpoch is invalid.") }
        if request.memberEpoch == -2 && request.instanceId == nil {
            return .refusal(.invalidRequest, "InstanceId can't be null.")
        }
        if request.memberEpoch == 0 {
            if request.rebalanceTimeoutMs < 0 {
                return .refusal(.invalidRequest, "RebalanceTimeoutMs must be provided in first request.")
            }
            if request.topicPartitions.map({ !$0.isEmpty }) ?? true {
                return .refusal(.invalidRequest, "TopicPartitions must be empty when (re-)joining.")
            }
            if request.subscribedTopicNames == nil && request.subscribedTopicRegex == nil {
                return .refusal(
                    .invalidRequest,
                    "SubscribedTopicNames or SubscribedTopicRegex must be set in first request."
                )
            }
        }
        if let name = request.serverAssignor, ServerAssignor(rawValue: name) == nil {
            let known = ServerAssignor.allCases.map(\.rawValue).joined(separator: ", ")
            return .refusal(
                .unsupportedAssignor,
                "ServerAssignor \(name) is not supported. Supported assignors: \(known)."
            )
        }
        if let text = request.subscribedTopicRegex, !text.isEmpty, TopicPattern(text) == nil {
            return .refusal(
                .invalidRegularExpression,
                "SubscribedTopicRegex `\(text)` is not a valid regular expression."
            )
        }
        return nil
    }

    /// Makes sure that a consumer group is there for a heartbeat; the error where it cannot be.
    private mutating func makeRoomForConsumerGroup(
        _ request: ConsumerGroupHeartbeatRequest,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) -> ErrorCode? {
        let groupID = request.groupId
        if consumerGroups[groupID] != nil { return nil }
        guard request.memberEpoch == 0 else { return .groupIdNotFound }
        if shareGroups[groupID] != nil { return .groupIdNotFound }
        if let classic = classicGroups[groupID] {
            guard classic.state == .empty else { return upgrade(groupID, now, &out) ? nil : .groupIdNotFound }
            // An empty group changes its protocol and keeps its offsets.
            classicGroups[groupID] = nil
            out.records.append(.classicGroup(groupID, nil))
            out.changesGroups = true
        }
        consumerGroups[groupID] = ConsumerGroup(id: groupID)
        return nil
    }

    /// Takes an empty consumer group out of the way of a JoinGroup.
    mutating func makeRoomForClassicGroup(_ groupID: String, _ out: inout CoordinatorResult) {
        guard let group = consumerGroups[groupID], group.members.isEmpty else { return }
        consumerGroups[groupID] = nil
        group.appendTombstones(&out)
        out.changesGroups = true
    }

    private mutating func leaveConsumerGroup(
        _ request: ConsumerGroupHeartbeatRequest,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) -> ConsumerGroupHeartbeatResponse {
        guard let group = consumerGroups[request.groupId] else { return .refusal(.groupIdNotFound) }
        if let instanceID = request.instanceId {
            guard let present = group.staticMembers[instanceID] else { return .refusal(.unknownMemberId) }
            if present != request.memberId { return .refusal(.fencedInstanceId) }
        }
        guard group.members[request.memberId] != nil else { return .refusal(.unknownMemberId) }
        if request.memberEpoch == -2 {
            consumerGroups[request.groupId]?.leaveForNow(request.memberId, now, &out)
        } else {
            consumerGroups[request.groupId]?.leave(request.memberId, &out)
            downgradeIfAllClassic(request.groupId, now, &out)
        }
        return ConsumerGroupHeartbeatResponse(memberId: request.memberId, memberEpoch: request.memberEpoch)
    }

    /// LeaveGroup on a consumer group: administrators take out members with it. Nil where there is no such group.
    mutating func leaveConsumerGroup(
        _ groupID: String,
        _ identities: [LeaveGroupRequest.MemberIdentity],
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) -> [LeaveGroupResponse.MemberResponse]? {
        guard consumerGroups[groupID] != nil else { return nil }
        let responses = identities.map { identity in
            var code = ErrorCode.none
            let present = identity.groupInstanceId.flatMap { consumerGroups[groupID]?.staticMembers[$0] }
            let memberID = identity.memberId.isEmpty ? present ?? "" : identity.memberId
            if identity.groupInstanceId != nil && present != nil && present != memberID {
                code = .fencedInstanceId
            } else if consumerGroups[groupID]?.members[memberID] == nil {
                code = .unknownMemberId
            } else {
                consumerGroups[groupID]?.leave(memberID, &out)
            }
            return LeaveGroupResponse.MemberResponse(
                memberId: identity.memberId,
                groupInstanceId: identity.groupInstanceId,
                errorCode: code.rawValue
            )
        }
        downgradeIfAllClassic(groupID, now, &out)
        return responses
    }

    func consumerCommitError(_ request: OffsetCommitRequest, _ origin: RequestOrigin) -> ErrorCode {
        consumerGroups[request.groupId]?.commitError(
            memberID: request.memberId,
            epoch: request.generationIdOrMemberEpoch,
            version: origin.apiVersion
        ) ?? .none
    }

    mutating func tickConsumer(_ groupID: String, _ now: CoordinatorTime, _ out: inout CoordinatorResult) {
        let countBefore = consumerGroups[groupID]?.members.count
        consumerGroups[groupID]?.tick(now, &out)
        if consumerGroups[groupID]?.members.count != countBefore { downgradeIfAllClassic(groupID, now, &out) }
    }

    mutating func dropConsumerGroupIfUnused(_ groupID: String, _ out: inout CoordinatorResult) {
        guard let group = consumerGroups[groupID], group.members.isEmpty else { return }
        consumerGroups[groupID] = nil
        group.appendTombstones(&out)
        out.changesGroups = true
    }

    // MARK: Describe

    func consumerDescribe(_ groupID: String) -> ConsumerGroupDescribeResponse.DescribedGroup {
        guard let group = consumerGroups[groupID] else {
            let isClassic = exists(groupID)
            return .init(
                errorCode: ErrorCode.groupIdNotFound.rawValue,
                errorMessage: isClassic
                    ? "Group \(groupID) is not a consumer group." : "Group \(groupID) not found.",
                groupId: groupID
            )
        }
        return .init(
            groupId: groupID,
            groupState: group.state.rawValue,
            groupEpoch: group.epoch,
            assignmentEpoch: group.targetEpoch,
            assignorName: group.assignor.rawValue,
            members: group.members.values.sorted { $0.id < $1.id }.map { member in
                .init(
                    memberId: member.id,
                    instanceId: member.instanceID,
                    rackId: member.rackID,
                    memberEpoch: member.epoch,
                    clientId: member.clientID,
                    clientHost: member.clientHost,
                    subscribedTopicNames: member.subscribedNames,
                    subscribedTopicRegex: member.subscribedPattern,
                    assignment: described(member.assigned),
                    targetAssignment: described(group.target[member.id] ?? PartitionSet()),
                    memberType: member.classic == nil ? 1 : 0
                )
            }
        )
    }

    private func described(_ partitions: PartitionSet) -> ConsumerGroupDescribeResponse.Assignment {
        .init(
            topicPartitions: partitions.sorted.compactMap { topic, list in
                topics.byID[topic].map { .init(topicId: topic, topicName: $0.name, partitions: list) }
            }
        )
    }

    // MARK: Replay

    private mutating func change(_ groupID: String, _ body: (inout ConsumerGroup) -> Void) {
        var group = consumerGroups.removeValue(forKey: groupID) ?? ConsumerGroup(id: groupID)
        body(&group)
        consumerGroups[groupID] = group
    }

    mutating func replayGroup(_ groupID: String, _ value: ConsumerGroupMetadataValue?, _ now: CoordinatorTime) {
        guard let value else {
            consumerGroups[groupID] = nil
            return
        }
        change(groupID) { $0.epoch = value.epoch }
    }

    mutating func replayMember(
        _ key: ConsumerGroupMemberMetadataKey,
        _ value: ConsumerGroupMemberMetadataValue?,
        _ now: CoordinatorTime
    ) {
        guard let value else {
            consumerGroups[key.groupId]?.remove(key.memberId)
            return
        }
        change(key.groupId) { group in
            var member = group.members[key.memberId] ?? ConsumerMember(id: key.memberId)
            member.apply(value)
            group.put(member)
        }
    }

    mutating func replayTargetEpoch(
        _ groupID: String,
        _ value: ConsumerGroupTargetAssignmentMetadataValue?,
        _ now: CoordinatorTime
    ) {
        guard let value else {
            consumerGroups[groupID]?.targetEpoch = 0
            return
        }
        change(groupID) { $0.targetEpoch = value.assignmentEpoch }
    }

    mutating func replayTarget(
        _ key: ConsumerGroupTargetAssignmentMemberKey,
        _ value: ConsumerGroupTargetAssignmentMemberValue?,
        _ now: CoordinatorTime
    ) {
        guard let value else {
            consumerGroups[key.groupId]?.target[key.memberId] = nil
            return
        }
        change(key.groupId) {
            $0.target[key.memberId] = PartitionSet(value.topicPartitions.map { ($0.topicId, $0.partitions) })
        }
    }

    mutating func replayCurrent(
        _ key: ConsumerGroupCurrentMemberAssignmentKey,
        _ value: ConsumerGroupCurrentMemberAssignmentValue?,
        _ now: CoordinatorTime
    ) {
        // Compaction may have left this record before the one that describes the member.
        if value == nil && consumerGroups[key.groupId]?.members[key.memberId] == nil { return }
        change(key.groupId) { group in
            var member = group.members[key.memberId] ?? ConsumerMember(id: key.memberId)
            if let value {
                member.apply(value)
            } else {
                member.assigned = PartitionSet()
                member.pendingRevocation = PartitionSet()
                member.epoch = 0
            }
            group.put(member)
        }
    }
}
