// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// Assignments, heartbeats, leaving, and time.
extension ClassicGroup {
    mutating func sync(
        _ request: SyncGroupRequest,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        let error = syncError(request)
        if error != .none { return out.answer(token, .sync(.error(error))) }
        let memberID = request.memberId
        if let older = members[memberID]?.syncToken {
            out.answer(older, .sync(.error(.rebalanceInProgress)))
            members[memberID]?.syncToken = nil
        }
        pendingSyncs.remove(memberID)
        if pendingSyncs.isEmpty, case .sync = wait { wait = .nothing }
        renewSession(memberID, now)
        guard state == .completingRebalance else {
            return out.answer(token, .sync(assignmentResponse(memberID)))
        }
        members[memberID]?.syncToken = token
        guard isLeader(memberID) else { return }
        for entry in request.assignments where members[entry.memberId] != nil {
            members[entry.memberId]?.assignment = entry.assignment
        }
        move(to: .stable, now)
        persist(&out)
        for member in membersInOrder where member.syncToken != nil {
            answerSync(member.id, assignmentResponse(member.id), &out)
            renewSession(member.id, now)
        }
    }

    private func syncError(_ request: SyncGroupRequest) -> ErrorCode {
        let error = validate(request.memberId, request.groupInstanceId)
        if error != .none { return error }
        if request.generationId != generation { return .illegalGeneration }
        if let type = request.protocolType, type != protocolType { return .inconsistentGroupProtocol }
        if let name = request.protocolName, name != protocolName { return .inconsistentGroupProtocol }
        switch state {
        case .empty: return .unknownMemberId
        case .preparingRebalance: return .rebalanceInProgress
        case .completingRebalance, .stable: return .none
        }
    }

    private func assignmentResponse(_ memberID: String) -> SyncGroupResponse {
        SyncGroupResponse(
            errorCode: 0,
            protocolType: protocolType,
            protocolName: protocolName,
            assignment: members[memberID]?.assignment ?? ByteBuffer()
        )
    }

    /// Forgets the assignments of this generation and answers those who wait for one.
    mutating func dropAssignments(_ code: ErrorCode, _ now: CoordinatorTime, _ out: inout CoordinatorResult) {
        for member in membersInOrder {
            members[member.id]?.assignment = ByteBuffer()
            if member.syncToken != nil { renewSession(member.id, now) }
            answerSync(member.id, .error(code), &out)
        }
        pendingSyncs = []
    }

    mutating func heartbeat(_ request: HeartbeatRequest, _ now: CoordinatorTime) -> ErrorCode {
        let error = validate(request.memberId, request.groupInstanceId)
        if error != .none { return error }
        if request.generationId != generation { return .illegalGeneration }
        if state == .empty { return .unknownMemberId }
        renewSession(request.memberId, now)
        return state == .preparingRebalance ? .rebalanceInProgress : .none
    }

    mutating func leave(
        _ identities: [LeaveGroupRequest.MemberIdentity],
        _ now: CoordinatorTime,
        _ settings: GroupSettings,
        _ out: inout CoordinatorResult
    ) -> [LeaveGroupResponse.MemberResponse] {
        var hasLeft = false
        let responses = identities.map { identity in
            let code = leave(identity, &hasLeft, &out)
            return LeaveGroupResponse.MemberResponse(
                memberId: identity.memberId,
                groupInstanceId: identity.groupInstanceId,
                errorCode: code.rawValue
            )
        }
        if hasLeft {
            out.changesGroups = true
            afterRemoval(now, settings, &out)
        }
        return responses
    }

    private mutating func leave(
        _ identity: LeaveGroupRequest.MemberIdentity,
        _ hasLeft: inout Bool,
        _ out: inout CoordinatorResult
    ) -> ErrorCode {
        var memberID = identity.memberId
        if memberID.isEmpty {
            // An administrator takes out a static member by its instance id alone.
            guard let instanceID = identity.groupInstanceId, let present = staticMembers[instanceID] else {
                return .unknownMemberId
            }
            memberID = present
        } else if pendingJoins.removeValue(forKey: memberID) != nil {
            hasLeft = true
            return .none
        } else {
            let error = validate(memberID, identity.groupInstanceId)
            if error != .none { return error }
        }
        if let member = remove(memberID) { settleParked(member, .unknownMemberId, &out) }
        hasLeft = true
        return .none
    }

    /// Answers what a member that is gone still waits for.
    func settleParked(_ member: ClassicGroupMember, _ code: ErrorCode, _ out: inout CoordinatorResult) {
        out.answer(member.joinToken, .join(.error(code, memberID: member.id)))
        out.answer(member.syncToken, .sync(.error(code)))
    }

    mutating func afterRemoval(_ now: CoordinatorTime, _ settings: GroupSettings, _ out: inout CoordinatorResult) {
        switch state {
        case .stable, .completingRebalance: prepareRebalance(now, settings, &out)
        case .preparingRebalance:
            if members.isEmpty { wait = .nothing }
            completeJoinIfAllHere(now, settings, &out)
        case .empty: break
        }
    }

    // MARK: Time

    /// Does what is due at `now`.
    mutating func tick(_ now: CoordinatorTime, _ settings: GroupSettings, _ out: inout CoordinatorResult) {
        if earliestMemberDeadline <= now.monotonic { expireMembers(now, settings, &out) }
        switch wait {
        case .initialDelay(let at, let remaining) where at <= now.monotonic:
            guard hasNewMember && remaining > 0 else { return completeJoin(now, settings, &out) }
            hasNewMember = false
            let delay = min(settings.initialRebalanceDelay, remaining)
            wait = .initialDelay(at: now.monotonic + delay, remaining: remaining - delay)
        case .join(let at) where at <= now.monotonic:
            completeJoin(now, settings, &out)
        case .sync(let at) where at <= now.monotonic:
            wait = .nothing
            dropUnsynced(now, settings, &out)
        default: break
        }
    }

    private mutating func expireMembers(
        _ now: CoordinatorTime,
        _ settings: GroupSettings,
        _ out: inout CoordinatorResult
    ) {
        earliestMemberDeadline = .max
        var expired: [ClassicGroupMember] = []
        for member in members.values {
            if member.deadline > now.monotonic {
                note(deadline: member.deadline)
            } else if member.canExpire {
                expired.append(member)
            } else {
                // One whose request waits here is alive: its session begins anew, not to be forgotten when it is answered.
                renewSession(member.id, now)
            }
        }
        let countBefore = pendingJoins.count
        pendingJoins = pendingJoins.filter { $0.value > now.monotonic }
        for deadline in pendingJoins.values { note(deadline: deadline) }
        for member in expired.sorted(by: { $0.order < $1.order }) {
            remove(member.id)
            settleParked(member, .unknownMemberId, &out)
        }
        if !expired.isEmpty || pendingJoins.count < countBefore {
            out.changesGroups = true
            if expired.isEmpty {
                completeJoinIfAllHere(now, settings, &out)
            } else {
                afterRemoval(now, settings, &out)
            }
        }
    }

    /// Drops the members that did not fetch their assignment in time.
    private mutating func dropUnsynced(
        _ now: CoordinatorTime,
        _ settings: GroupSettings,
        _ out: inout CoordinatorResult
    ) {
        let late = membersInOrder.filter { pendingSyncs.contains($0.id) }
        guard !late.isEmpty else { return }
        for member in late { remove(member.id) }
        prepareRebalance(now, settings, &out)
    }

    /// Answers everyone who waits, because this node is no longer the coordinator or its state is being loaded anew.
    mutating func drain(_ code: ErrorCode, _ out: inout CoordinatorResult) {
        for member in membersInOrder {
            answerJoin(member.id, .error(code, memberID: member.id), &out)
            answerSync(member.id, .error(code), &out)
        }
    }
}
