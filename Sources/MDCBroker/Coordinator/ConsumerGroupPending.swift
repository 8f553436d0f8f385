// SPDX-License-Identifier: Apache-2.0
import MDCModel
import MDCProtocol

struct ConsumerGroup: Equatable, Sendable {
    enum State: String { case empty = "Empty" }
    var state = State.empty
    var members: [String: Int] = [:]
    var nextDeadline: Int64? { nil }
    func isSubscribed(to topic: String) -> Bool { false }
    func fetchError(memberID: String?, epoch: Int32) -> ErrorCode { .none }
    func appendTombstones(_ out: inout CoordinatorResult) {}
    mutating func renewAllSessions(_ now: CoordinatorTime, _ settings: GroupSettings) {}
}
extension GroupCoordinatorShard {
    mutating func consumerHeartbeat(
        _ request: ConsumerGroupHeartbeatRequest,
        _ origin: RequestOrigin,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        out.answer(token, .consumerHeartbeat(.init(errorCode: ErrorCode.unsupportedVersion.rawValue)))
    }
    func consumerDescribe(_ groupID: String) -> ConsumerGroupDescribeResponse.DescribedGroup {
        .init(errorCode: ErrorCode.groupIdNotFound.rawValue, groupId: groupID)
    }
    mutating func tickConsumer(_ groupID: String, _ now: CoordinatorTime, _ out: inout CoordinatorResult) {}
    mutating func leaveConsumerGroup(
        _ groupID: String,
        _ members: [LeaveGroupRequest.MemberIdentity],
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) -> [LeaveGroupResponse.MemberResponse]? { nil }
    func consumerCommitError(_ request: OffsetCommitRequest, _ origin: RequestOrigin) -> ErrorCode { .none }
    mutating func dropConsumerGroupIfUnused(_ groupID: String, _ out: inout CoordinatorResult) {}
    mutating func makeRoomForClassicGroup(_ groupID: String, _ out: inout CoordinatorResult) -> Bool { true }
    mutating func replayGroup(_ groupID: String, _ value: ConsumerGroupMetadataValue?, _ now: CoordinatorTime) {}
    mutating func replayMember(
        _ key: ConsumerGroupMemberMetadataKey,
        _ value: ConsumerGroupMemberMetadataValue?,
        _ now: CoordinatorTime
    ) {}
    mutating func replayTargetEpoch(
        _ groupID: String,
        _ value: ConsumerGroupTargetAssignmentMetadataValue?,
        _ now: CoordinatorTime
    ) {}
    mutating func replayTarget(
        _ key: ConsumerGroupTargetAssignmentMemberKey,
        _ value: ConsumerGroupTargetAssignmentMemberValue?,
        _ now: CoordinatorTime
    ) {}
    mutating func replayCurrent(
        _ key: ConsumerGroupCurrentMemberAssignmentKey,
        _ value: ConsumerGroupCurrentMemberAssignmentValue?,
        _ now: CoordinatorTime
    ) {}
}
