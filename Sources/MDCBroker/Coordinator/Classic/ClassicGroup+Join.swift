// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// Joining, and the gathering of a generation.
extension ClassicGroup {
    /// One JoinGroup on its way through the group.
    struct Join {
        var request: JoinGroupRequest
        var origin: RequestOrigin
        var token: RequestToken
        /// The id that the member gets if it has none.
        var newMemberID: String
        var now: CoordinatorTime
        var settings: GroupSettings

        var rebalanceTimeout: Int32 {
            // Version 0 has one timeout for both.
            origin.apiVersion == 0 || request.rebalanceTimeoutMs < 0
                ? request.sessionTimeoutMs : request.rebalanceTimeoutMs
        }
    }

    mutating func join(_ join: Join, _ out: inout CoordinatorResult) {
        let memberID = join.request.memberId
        guard accepts(memberID, maxSize: Int(join.settings.maxSize)) else {
            if let removed = remove(memberID) { settleParked(removed, .groupMaxSizeReached, &out) }
            return out.answer(join.token, .join(.error(.groupMaxSizeReached, memberID: memberID)))
        }
        guard supports(join.request.protocolType, join.request.protocols) else {
            return out.answer(join.token, .join(.error(.inconsistentGroupProtocol, memberID: memberID)))
        }
        if memberID.isEmpty {
            joinNew(join, &out)
        } else {
            joinExisting(join, &out)
        }
    }

    /// Whether there is room for `memberID`.
    private func accepts(_ memberID: String, maxSize: Int) -> Bool {
        switch state {
        case .empty: true
        // While gathering, those that come back first keep their places.
        case .preparingRebalance: members[memberID]?.joinToken != nil || awaitingJoin < maxSize
        case .completingRebalance, .stable: members[memberID] != nil || members.count < maxSize
        }
    }

    private mutating func joinNew(_ join: Join, _ out: inout CoordinatorResult) {
        if let instanceID = join.request.groupInstanceId {
            if let present = staticMembers[instanceID] {
                replaceStatic(present, join, &out)
            } else {
                addAndRebalance(join.newMemberID, join, &out)
            }
        } else if join.origin.apiVersion >= 4 {
            // A client that dies before it learns its id would leave a member behind that nobody speaks for. So it
            // learns the id first (KIP-394).
            let deadline = join.now.monotonic + Int64(join.request.sessionTimeoutMs)
            pendingJoins[join.newMemberID] = deadline
            note(deadline: deadline)
            out.answer(join.token, .join(.error(.memberIdRequired, memberID: join.newMemberID)))
        } else {
            addAndRebalance(join.newMemberID, join, &out)
        }
    }

    private mutating func joinExisting(_ join: Join, _ out: inout CoordinatorResult) {
        let request = join.request
        let memberID = request.memberId
        if pendingJoins[memberID] != nil && request.groupInstanceId == nil {
            return addAndRebalance(memberID, join, &out)
        }
        let error = validate(memberID, request.groupInstanceId)
        guard error == .none, let member = members[memberID] else {
            return out.answer(join.token, .join(.error(error, memberID: memberID)))
        }
        switch state {
        case .preparingRebalance:
            update(memberID, join, &out)
        case .completingRebalance:
            // The member lost the answer to its JoinGroup and asks again.
            guard member.offersSame(as: request.protocols) else { return update(memberID, join, &out) }
            renewSession(memberID, join.now)
            out.answer(join.token, .join(currentGeneration(memberID, withMembers: isLeader(memberID))))
        case .stable:
            // A leader rejoins to have the group assigned anew, for instance because a topic grew.
            guard !isLeader(memberID), member.offersSame(as: request.protocols) else {
                return update(memberID, join, &out)
            }
            renewSession(memberID, join.now)
            out.answer(join.token, .join(currentGeneration(memberID, withMembers: false)))
        case .empty:
            out.answer(join.token, .join(.error(.unknownMemberId, memberID: memberID)))
        }
    }

    private func currentGeneration(_ memberID: String, withMembers: Bool) -> JoinGroupResponse {
        JoinGroupResponse(
            errorCode: 0,
            generationId: generation,
            protocolType: protocolType,
            protocolName: protocolName,
            leader: leader ?? "",
            skipAssignment: false,
            memberId: memberID,
            members: withMembers ? memberList : []
        )
    }

    private mutating func addAndRebalance(_ memberID: String, _ join: Join, _ out: inout CoordinatorResult) {
        if members.isEmpty { protocolType = join.request.protocolType }
        if state == .preparingRebalance && previousState == .empty { hasNewMember = true }
        add(
            ClassicGroupMember(
                id: memberID,
                instanceID: join.request.groupInstanceId,
                clientID: join.origin.clientID,
                clientHost: join.origin.clientHost,
                rebalanceTimeout: join.rebalanceTimeout,
                sessionTimeout: join.request.sessionTimeoutMs,
                offers: join.request.protocols.map { .init(name: $0.name, metadata: $0.metadata) },
                isNew: true,
                joinToken: join.token,
                deadline: join.now.monotonic + join.settings.newMemberJoinTimeout,
                order: takeOrder()
            )
        )
        rebalanceOrComplete(join.now, join.settings, &out)
    }

    private mutating func update(_ memberID: String, _ join: Join, _ out: inout CoordinatorResult) {
        setOffers(memberID, join.request.protocols)
        members[memberID]?.rebalanceTimeout = join.rebalanceTimeout
        members[memberID]?.sessionTimeout = join.request.sessionTimeoutMs
        members[memberID]?.clientID = join.origin.clientID
        members[memberID]?.clientHost = join.origin.clientHost
        park(join: join.token, of: memberID, &out)
        rebalanceOrComplete(join.now, join.settings, &out)
    }

    /// A static member came back under a new id: it takes the place of `oldID`, and whoever still speaks for that is fenced.
    private mutating func replaceStatic(_ oldID: String, _ join: Join, _ out: inout CoordinatorResult) {
        guard let old = members[oldID] else { return }
        let newID = join.newMemberID
        let oldLeader = leader
        settleParked(old, .fencedInstanceId, &out)
        remove(oldID)
        var member = ClassicGroupMember(
            id: newID,
            instanceID: old.instanceID,
            clientID: join.origin.clientID,
            clientHost: join.origin.clientHost,
            rebalanceTimeout: join.rebalanceTimeout,
            sessionTimeout: join.request.sessionTimeoutMs,
            offers: join.request.protocols.map { .init(name: $0.name, metadata: $0.metadata) },
            assignment: old.assignment,
            isNew: false,
            deadline: join.now.monotonic + Int64(join.request.sessionTimeoutMs),
            order: old.order
        )
        switch state {
        case .stable:
            let chosen = protocolName
            add(member)
            if oldLeader == oldID { leader = newID }
            guard selectProtocol() == chosen else {
                park(join: join.token, of: newID, &out)
                return prepareRebalance(join.now, join.settings, &out)
            }
            // Nothing changes for the others: the member goes on with the assignment that it had.
            persist(&out)
            var response = currentGeneration(newID, withMembers: false)
            if join.origin.apiVersion >= 9 {
                response.skipAssignment = isLeader(newID)
                response.members = isLeader(newID) ? memberList : []
            } else {
                // Older clients cannot be told to skip the assignment, so this one must not take itself for the leader.
                response.leader = oldLeader ?? ""
            }
            out.answer(join.token, .join(response))
        case .completingRebalance, .preparingRebalance, .empty:
            member.joinToken = join.token
            add(member)
            if oldLeader == oldID { leader = newID }
            if state == .completingRebalance {
                prepareRebalance(join.now, join.settings, &out)
            } else {
                completeJoinIfAllHere(join.now, join.settings, &out)
            }
        }
    }

    // MARK: Rebalance

    mutating func rebalanceOrComplete(
        _ now: CoordinatorTime,
        _ settings: GroupSettings,
        _ out: inout CoordinatorResult
    ) {
        if state == .preparingRebalance {
            completeJoinIfAllHere(now, settings, &out)
        } else {
            prepareRebalance(now, settings, &out)
        }
    }

    mutating func prepareRebalance(
        _ now: CoordinatorTime,
        _ settings: GroupSettings,
        _ out: inout CoordinatorResult
    ) {
        out.changesGroups = true
        if state == .completingRebalance { dropAssignments(.rebalanceInProgress, now, &out) }
        let isInitial = state == .empty
        move(to: .preparingRebalance, now)
        guard isInitial else {
            wait = .join(at: now.monotonic + rebalanceTimeout)
            return completeJoinIfAllHere(now, settings, &out)
        }
        hasNewMember = false
        let delay = min(settings.initialRebalanceDelay, rebalanceTimeout)
        guard delay > 0 else { return completeJoin(now, settings, &out) }
        wait = .initialDelay(at: now.monotonic + delay, remaining: rebalanceTimeout - delay)
    }

    /// Ends the gathering early when nobody is missing. The first gathering of a group always takes its delay: who is
    /// missing then is not known.
    mutating func completeJoinIfAllHere(
        _ now: CoordinatorTime,
        _ settings: GroupSettings,
        _ out: inout CoordinatorResult
    ) {
        if case .initialDelay = wait, !members.isEmpty { return }
        if state == .preparingRebalance && hasAllMembersJoined { completeJoin(now, settings, &out) }
    }

    /// Starts the next generation with those who came.
    mutating func completeJoin(_ now: CoordinatorTime, _ settings: GroupSettings, _ out: inout CoordinatorResult) {
        out.changesGroups = true
        wait = .nothing
        // Static members may be away for as long as their session lasts.
        for member in membersInOrder where member.joinToken == nil && member.instanceID == nil { remove(member.id) }
        if !members.isEmpty && !electJoinedLeader() {
            // Only absent static members are left: wait until they come or expire.
            wait = .join(at: now.monotonic + rebalanceTimeout)
            return
        }
        generation = generation == .max ? 1 : generation + 1
        pendingSyncs = []
        guard !members.isEmpty else {
            protocolName = nil
            leader = nil
            move(to: .empty, now)
            return persist(&out)
        }
        protocolName = selectProtocol()
        move(to: .completingRebalance, now)
        wait = .sync(at: now.monotonic + rebalanceTimeout)
        for member in membersInOrder {
            members[member.id]?.isNew = false
            members[member.id]?.assignment = ByteBuffer()
            pendingSyncs.insert(member.id)
            answerJoin(member.id, currentGeneration(member.id, withMembers: isLeader(member.id)), &out)
            renewSession(member.id, now)
        }
    }

    /// Makes sure that the leader is one who joined this time; false where nobody did.
    private mutating func electJoinedLeader() -> Bool {
        if let leader, members[leader]?.joinToken != nil { return true }
        guard let next = membersInOrder.first(where: { $0.joinToken != nil }) else { return false }
        leader = next.id
        return true
    }
}
