// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// Describing, listing and deleting groups.
extension GroupCoordinatorShard {
    /// A group exists if it has a state or only offsets (a simple group).
    func exists(_ groupID: String) -> Bool {
        classicGroups[groupID] != nil || consumerGroups[groupID] != nil || shareGroups[groupID] != nil
            || offsets.hasOffsets(groupID)
    }

    /// Members of all groups.
    var memberCount: Int {
        let classic = classicGroups.values.reduce(0) { $0 + $1.members.count }
        let consumer = consumerGroups.values.reduce(0) { $0 + $1.members.count }
        return shareGroups.values.reduce(classic + consumer) { $0 + $1.members.count }
    }

    func describe(_ groupID: String, _ origin: RequestOrigin) -> DescribeGroupsResponse.DescribedGroup {
        var described = DescribeGroupsResponse.DescribedGroup(groupId: groupID, groupState: "Dead")
        guard let group = classicGroups[groupID] else {
            if consumerGroups[groupID] == nil && offsets.hasOffsets(groupID) {
                described.groupState = ClassicGroup.State.empty.rawValue
            } else if origin.apiVersion >= 6 {
                described.errorCode = ErrorCode.groupIdNotFound.rawValue
                described.errorMessage =
                    consumerGroups[groupID] == nil && shareGroups[groupID] == nil
                    ? "Group \(groupID) not found." : "Group \(groupID) is not a classic group."
            }
            return described
        }
        described.groupState = group.state.rawValue
        described.protocolType = group.protocolType ?? ""
        described.protocolData = group.state == .stable ? group.protocolName ?? "" : ""
        described.members = group.membersInOrder.map { member in
            .init(
                memberId: member.id,
                groupInstanceId: member.instanceID,
                clientId: member.clientID,
                clientHost: member.clientHost,
                memberMetadata: group.state == .stable ? member.metadata(for: group.protocolName ?? "") : ByteBuffer(),
                memberAssignment: group.state == .stable ? member.assignment : ByteBuffer()
            )
        }
        return described
    }

    func list(_ request: ListGroupsRequest) -> [ListGroupsResponse.ListedGroup] {
        let states = Set(request.statesFilter.map { $0.lowercased() })
        let types = Set(request.typesFilter.map { $0.lowercased() })
        var groups: [ListGroupsResponse.ListedGroup] = []
        for (groupID, group) in classicGroups {
            groups.append(
                .init(
                    groupId: groupID,
                    protocolType: group.protocolType ?? "",
                    groupState: group.state.rawValue,
                    groupType: "classic"
                )
            )
        }
        for (groupID, group) in consumerGroups {
            groups.append(
                .init(
                    groupId: groupID,
                    protocolType: "consumer",
                    groupState: group.state.rawValue,
                    groupType: "consumer"
                )
            )
        }
        for (groupID, group) in shareGroups {
            groups.append(
                .init(
                    groupId: groupID,
                    protocolType: "share",
                    groupState: group.state.rawValue,
                    groupType: "share"
                )
            )
        }
        for groupID in offsets.pending.groups.union(offsets.groups.keys)
        where classicGroups[groupID] == nil && consumerGroups[groupID] == nil {
            groups.append(
                .init(
                    groupId: groupID,
                    protocolType: "",
                    groupState: ClassicGroup.State.empty.rawValue,
                    groupType: "classic"
                )
            )
        }
        return groups.filter {
            (states.isEmpty || states.contains($0.groupState.lowercased()))
                && (types.isEmpty || types.contains($0.groupType.lowercased()))
        }.sorted { $0.groupId < $1.groupId }
    }

    mutating func delete(_ groupID: String, _ token: RequestToken, _ out: inout CoordinatorResult) {
        guard exists(groupID) else { return out.answer(token, .delete(.groupIdNotFound)) }
        if let group = classicGroups[groupID], group.state != .empty || !group.pendingJoins.isEmpty {
            return out.answer(token, .delete(.nonEmptyGroup))
        }
        if let group = consumerGroups[groupID], !group.members.isEmpty {
            return out.answer(token, .delete(.nonEmptyGroup))
        }
        if let group = shareGroups[groupID] {
            guard group.members.isEmpty else { return out.answer(token, .delete(.nonEmptyGroup)) }
            group.appendTombstones(&out)
            shareGroups[groupID] = nil
            out.changesGroups = true
        }
        remove(offsets.removals(of: groupID) + offsets.pendingRemovals(of: groupID), &out)
        if classicGroups.removeValue(forKey: groupID) != nil {
            out.records.append(.classicGroup(groupID, nil))
            out.changesGroups = true
        }
        if let group = consumerGroups.removeValue(forKey: groupID) {
            group.appendTombstones(&out)
            out.changesGroups = true
        }
        out.answer(token, .delete(.none))
    }
}
