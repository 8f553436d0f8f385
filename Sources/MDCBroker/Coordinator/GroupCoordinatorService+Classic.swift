// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// The classic group APIs. Each takes a request of any version and calls `reply` once, from any thread, with a response
/// that the request's version can carry.
extension GroupCoordinatorService {
    /// Called once with the response.
    typealias Reply<Response> = @Sendable (Response) -> Void

    func joinGroup(_ request: JoinGroupRequest, _ origin: RequestOrigin, _ reply: @escaping Reply<JoinGroupResponse>) {
        submit(request.groupId, .join(request, origin)) { outcome in
            var response = JoinGroupResponse.error(.unknownServerError, memberID: request.memberId)
            switch outcome {
            case .response(.join(let joined)): response = joined
            case .failed(let code): response = .error(code, memberID: request.memberId)
            default: break
            }
            // Only from version 7 on may it be null.
            if origin.apiVersion < 7 && response.protocolName == nil { response.protocolName = "" }
            if origin.apiVersion < 9 { response.skipAssignment = false }
            reply(response)
        }
    }

    func syncGroup(_ request: SyncGroupRequest, _ origin: RequestOrigin, _ reply: @escaping Reply<SyncGroupResponse>) {
        submit(request.groupId, .sync(request, origin)) { outcome in
            switch outcome {
            case .response(.sync(let response)): reply(response)
            case .failed(let code): reply(.error(code))
            default: reply(.error(.unknownServerError))
            }
        }
    }

    func heartbeat(_ request: HeartbeatRequest, _ reply: @escaping Reply<HeartbeatResponse>) {
        submit(request.groupId, .heartbeat(request)) { outcome in
            switch outcome {
            case .response(.heartbeat(let response)): reply(response)
            case .failed(let code): reply(HeartbeatResponse(errorCode: code.rawValue))
            default: reply(HeartbeatResponse(errorCode: ErrorCode.unknownServerError.rawValue))
            }
        }
    }

    func leaveGroup(
        _ request: LeaveGroupRequest,
        _ origin: RequestOrigin,
        _ reply: @escaping Reply<LeaveGroupResponse>
    ) {
        submit(request.groupId, .leave(request)) { outcome in
            var response = LeaveGroupResponse(errorCode: ErrorCode.unknownServerError.rawValue)
            switch outcome {
            case .response(.leave(let left)): response = left
            case .failed(let code): response = LeaveGroupResponse(errorCode: code.rawValue)
            default: break
            }
            if origin.apiVersion < 3 {
                // Older versions speak of one member only.
                if response.errorCode == 0, let first = response.members.first { response.errorCode = first.errorCode }
                response.members = []
            }
            reply(response)
        }
    }

    // MARK: Administration

    func describeGroups(
        _ request: DescribeGroupsRequest,
        _ origin: RequestOrigin,
        _ reply: @escaping Reply<DescribeGroupsResponse>
    ) {
        let calls = request.groups.map { groupID in
            { (done: @escaping GroupCompletion) in
                if !self.hasShards { return done(.response(.describe(.init(groupId: groupID, groupState: "Dead")))) }
                self.submit(groupID, .describe(groupID: groupID, origin), done)
            }
        }
        gather(calls) { outcomes in
            var response = DescribeGroupsResponse()
            for (groupID, outcome) in zip(request.groups, outcomes) {
                var described = DescribeGroupsResponse.DescribedGroup(groupId: groupID, groupState: "Dead")
                switch outcome {
                case .response(.describe(let found)): described = found
                case .failed(let code): described.errorCode = code.rawValue
                default: described.errorCode = ErrorCode.unknownServerError.rawValue
                }
                if origin.apiVersion < 6 { described.errorMessage = nil }
                if request.includeAuthorizedOperations { described.authorizedOperations = Self.groupOperations }
                response.groups.append(described)
            }
            reply(response)
        }
    }

    /// Read, delete and describe: the bits of what may be done with a group where nothing is forbidden.
    static let groupOperations: Int32 = 1 << 3 | 1 << 6 | 1 << 8

    func listGroups(_ request: ListGroupsRequest, _ reply: @escaping Reply<ListGroupsResponse>) {
        submitToAll(.list(request)) { outcomes in
            var response = ListGroupsResponse()
            for outcome in outcomes {
                switch outcome {
                case .response(.list(let groups)): response.groups += groups
                // Another node has it, and is asked as well.
                case .failed(.notCoordinator): break
                // An incomplete list must not pass for a complete one.
                case .failed(let code): response.errorCode = code.rawValue
                default: response.errorCode = ErrorCode.unknownServerError.rawValue
                }
            }
            if response.errorCode != 0 { response.groups = [] }
            reply(response)
        }
    }

    func deleteGroups(_ request: DeleteGroupsRequest, _ reply: @escaping Reply<DeleteGroupsResponse>) {
        let calls = request.groupsNames.map { groupID in
            { (done: @escaping GroupCompletion) in
                if !self.hasShards { return done(.response(.delete(.groupIdNotFound))) }
                self.removeShareStates(groupID) { self.submit(groupID, .delete(groupID: groupID), done) }
            }
        }
        gather(calls) { outcomes in
            var response = DeleteGroupsResponse()
            for (groupID, outcome) in zip(request.groupsNames, outcomes) {
                var code = ErrorCode.unknownServerError
                switch outcome {
                case .response(.delete(let answered)): code = answered
                case .failed(let failure): code = failure
                default: break
                }
                response.results.append(.init(groupId: groupID, errorCode: code.rawValue))
            }
            reply(response)
        }
    }

    // MARK: Finding coordinators

    func findCoordinator(
        _ request: FindCoordinatorRequest,
        _ origin: RequestOrigin,
        _ reply: @escaping Reply<FindCoordinatorResponse>
    ) {
        let keys = origin.apiVersion >= 4 ? request.coordinatorKeys : [request.key]
        let answer = { @Sendable (code: ErrorCode, message: String?) in
            let coordinators = keys.map { self.coordinator(for: $0, type: request.keyType, code, message) }
            guard origin.apiVersion < 4 else { return reply(FindCoordinatorResponse(coordinators: coordinators)) }
            let first = coordinators.first ?? .init(nodeId: -1, port: -1, errorCode: code.rawValue)
            reply(
                FindCoordinatorResponse(
                    errorCode: first.errorCode,
                    errorMessage: first.errorMessage,
                    nodeId: first.nodeId,
                    host: first.host,
                    port: first.port
                )
            )
        }
        switch request.keyType {
        case 0: prepare { answer($0, nil) }
        case 1:
            guard let prepareTransactions else { return answer(.coordinatorNotAvailable, nil) }
            prepareTransactions { answer($0, nil) }
        case 2:
            if let bad = keys.first(where: { SharePartitionKey($0) == nil }) {
                return answer(.invalidRequest, "\(bad) is not of the form group:topic-id:partition.")
            }
            guard let shareStates else { return answer(.invalidRequest, "This node has no share coordinator.") }
            shareStates.prepare { answer($0, nil) }
        default:
            answer(
                .invalidRequest,
                "Coordinator key type \(request.keyType) is not supported; use 0 (group), 1 (transaction) or 2 (share)."
            )
        }
    }

    private func coordinator(
        for key: String,
        type: Int8,
        _ code: ErrorCode,
        _ message: String?
    ) -> FindCoordinatorResponse.Coordinator {
        var found = FindCoordinatorResponse.Coordinator(
            key: key,
            nodeId: -1,
            host: "",
            port: -1,
            errorCode: code.rawValue,
            errorMessage: message
        )
        guard code == .none else { return found }
        let topic: InternalTopic =
            switch type {
            case 0: .consumerOffsets
            case 1: .transactionState
            default: .shareGroupState
            }
        guard let count = access.partitionCount(of: topic),
            let endpoint = access.endpoint(of: topic, partition: Self.partition(of: key, count: count))
        else {
            found.errorCode = ErrorCode.coordinatorNotAvailable.rawValue
            return found
        }
        found.nodeId = endpoint.nodeID
        found.host = endpoint.host
        found.port = endpoint.port
        return found
    }
}
