// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Groups that change their protocol while they have members, and requests of the classic protocol to consumer groups.
extension GroupCoordinatorShard {
    /// Makes a consumer group of a classic group that has members; false where it must stay what it is.
    mutating func upgrade(_ groupID: String, _ now: CoordinatorTime, _ out: inout CoordinatorResult) -> Bool {
        guard var classic = classicGroups[groupID], settings.migrationPolicy.allowsUpgrade,
            classic.protocolType == "consumer", classic.members.count <= Int(settings.consumerMaxSize),
            classic.members.values.allSatisfy({ $0.offers.allSatisfy { $0.metadata.subscription != nil } })
        else { return false }
        // Whoever waits here joins again, then as a member of the consumer group.
        classic.drain(.rebalanceInProgress, &out)
        classicGroups[groupID] = nil
        out.records.append(.classicGroup(groupID, nil))
        let group = ConsumerGroup(upgrading: classic, topics, now: now)
        group.appendAll(&out)
        consumerGroups[groupID] = group
        out.changesGroups = true
        return true
    }

    /// Makes a classic group of a consumer group whose last member of the consumer protocol has gone. The members then
    /// elect a leader among them in a rebalance.
    mutating func downgradeIfAllClassic(
        _ groupID: String,
        _ now: CoordinatorTime,
        rebalancing: Bool = true,
        _ out: inout CoordinatorResult
    ) {
        guard let group = consumerGroups[groupID], !group.members.isEmpty, group.hasOnlyClassicMembers,
            settings.migrationPolicy.allowsDowngrade, group.members.count <= Int(settings.maxSize)
        else { return }
        var classic = group.downgraded(topics, now: now)
        consumerGroups[groupID] = nil
        group.appendTombstones(&out)
        classic.persist(&out)
        if rebalancing { classic.prepareRebalance(now, settings, &out) }
        classicGroups[groupID] = classic
        reschedule(groupID)
    }

    // MARK: Requests of the classic protocol

    mutating func joinConsumerGroup(
        _ request: JoinGroupRequest,
        _ origin: RequestOrigin,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        let groupID = request.groupId
        let join = ClassicGroup.Join(
            request: request,
            origin: origin,
            token: token,
            newMemberID: request.memberId.isEmpty
                ? newMemberID(prefix: request.groupInstanceId ?? origin.clientID) : "",
            now: now,
            settings: settings
        )
        let hadOthers = consumerGroups[groupID]?.hasOnlyClassicMembers == false
        var response =
            consumerGroups[groupID]?.classicJoin(join, topics, &out) ?? .error(.unknownMemberId, memberID: "")
        // A static member that came back with the classic protocol was the last of the other.
        if response.errorCode == 0, hadOthers, consumerGroups[groupID]?.hasOnlyClassicMembers == true {
            downgradeIfAllClassic(groupID, now, rebalancing: false, &out)
            if let group = classicGroups[groupID] {
                response.generationId = group.generation
                response.protocolName = group.protocolName
            }
        }
        out.answer(token, .join(response))
        reschedule(groupID)
    }

    mutating func syncConsumerGroup(
        _ request: SyncGroupRequest,
        _ token: RequestToken,
        _ out: inout CoordinatorResult,
        _ now: CoordinatorTime
    ) {
        let response = consumerGroups[request.groupId]?.classicSync(request, topics, now) ?? .error(.unknownMemberId)
        out.answer(token, .sync(response))
        reschedule(request.groupId)
    }

    mutating func heartbeatConsumerGroup(_ request: HeartbeatRequest, _ now: CoordinatorTime) -> ErrorCode {
        let code = consumerGroups[request.groupId]?.classicHeartbeat(request, now) ?? .unknownMemberId
        reschedule(request.groupId)
        return code
    }
}
