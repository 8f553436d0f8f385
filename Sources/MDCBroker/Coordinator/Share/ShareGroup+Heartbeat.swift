// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// The one request of share group membership.
extension ShareGroup {
    /// One heartbeat on its way through the group.
    struct Heartbeat {
        var request: ShareGroupHeartbeatRequest
        var origin: RequestOrigin
        var now: CoordinatorTime
        var settings: ShareGroupSettings
        var image: GroupTopicImage

        var isJoin: Bool { request.memberEpoch == 0 }
    }

    mutating func heartbeat(_ beat: Heartbeat, _ out: inout CoordinatorResult) -> ShareGroupHeartbeatResponse {
        let before = members[beat.request.memberId]
        if let code = refusal(of: beat, before) { return .refusal(code) }
        var member = before ?? ShareMember(id: beat.request.memberId)
        if beat.isJoin {
            member.epoch = 0
            member.previousEpoch = 0
            member.assigned = PartitionSet()
        }
        if let names = beat.request.subscribedTopicNames { member.subscribedNames = Set(names).sorted() }
        if let rack = beat.request.rackId { member.rackID = rack }
        member.clientID = beat.origin.clientID
        member.clientHost = beat.origin.clientHost
        member.sessionDeadline = beat.now.monotonic + Int64(beat.settings.sessionTimeout)
        if before?.metadataValue != member.metadataValue {
            out.records.append(.shareMember(id, member.id, member.metadataValue))
            out.changesGroups = true
        }
        let resubscribed = before == nil || before?.subscribedNames != member.subscribedNames
        members[member.id] = member
        note(deadline: member.sessionDeadline)
        assignAnew(beat.image, force: resubscribed, &out)
        // A member takes its target as it is: nobody has to let go of anything first.
        if member.epoch != targetEpoch {
            member.previousEpoch = member.epoch
            member.epoch = targetEpoch
            member.assigned = target[member.id] ?? PartitionSet()
        }
        if before?.currentValue != member.currentValue {
            out.records.append(.shareCurrentMember(id, member.id, member.currentValue))
            out.changesGroups = true
        }
        members[member.id] = member
        var response = ShareGroupHeartbeatResponse(
            memberId: member.id,
            memberEpoch: member.epoch,
            heartbeatIntervalMs: beat.settings.heartbeatInterval
        )
        if beat.isJoin || beat.request.subscribedTopicNames != nil || before?.assigned != member.assigned {
            response.assignment = .init(
                topicPartitions: member.assigned.sorted.map { .init(topicId: $0.topic, partitions: $0.partitions) }
            )
        }
        return response
    }

    private func refusal(of beat: Heartbeat, _ member: ShareMember?) -> ErrorCode? {
        guard let member else {
            guard beat.isJoin else { return .unknownMemberId }
            return members.count >= Int(beat.settings.maxSize) ? .groupMaxSizeReached : nil
        }
        if beat.isJoin || beat.request.memberEpoch == member.epoch { return nil }
        // The answer that raised the epoch may have been lost.
        return beat.request.memberEpoch == member.previousEpoch ? nil : .fencedMemberEpoch
    }
}

extension ShareGroupHeartbeatResponse {
    static func refusal(_ code: ErrorCode, _ message: String? = nil) -> ShareGroupHeartbeatResponse {
        ShareGroupHeartbeatResponse(errorCode: code.rawValue, errorMessage: message)
    }
}
