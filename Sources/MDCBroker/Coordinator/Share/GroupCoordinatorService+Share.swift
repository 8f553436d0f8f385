// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// The APIs of share groups: membership, and what administrators ask of their offsets.
extension GroupCoordinatorService {
    func shareGroupHeartbeat(
        _ request: ShareGroupHeartbeatRequest,
        _ origin: RequestOrigin,
        _ reply: @escaping Reply<ShareGroupHeartbeatResponse>
    ) {
        let settings = shareSettings(request.groupId)
        submit(request.groupId, .shareHeartbeat(request, origin, settings)) { [self] outcome in
            switch outcome {
            case .response(.shareHeartbeat(let response, let missing)):
                if missing.isEmpty { return reply(response) }
                initialize(request.groupId, missing) { isDone in
                    guard isDone else { return reply(response) }
                    self.repeatHeartbeat(request, response, origin, settings, reply)
                }
            case .failed(let code): reply(.refusal(code))
            default: reply(.refusal(.unknownServerError))
            }
        }
    }

    /// The member gets the partitions that have a state only now with the same answer, not with its next heartbeat.
    private func repeatHeartbeat(
        _ request: ShareGroupHeartbeatRequest,
        _ first: ShareGroupHeartbeatResponse,
        _ origin: RequestOrigin,
        _ settings: ShareGroupSettings,
        _ reply: @escaping Reply<ShareGroupHeartbeatResponse>
    ) {
        var again = request
        again.memberEpoch = first.memberEpoch
        submit(request.groupId, .shareHeartbeat(again, origin, settings)) { outcome in
            guard case .response(.shareHeartbeat(var response, _)) = outcome, response.errorCode == 0 else {
                return reply(first)
            }
            if response.assignment == nil { response.assignment = first.assignment }
            reply(response)
        }
    }

    /// Has the share coordinator begin states, and tells the group.
    private func initialize(
        _ groupID: String,
        _ partitions: PartitionSet,
        _ done: @escaping @Sendable (Bool) -> Void
    ) {
        guard let shareStates else { return done(false) }
        // A state that is there stays: the group may just have forgotten that it made it.
        let events = partitions.all.map { topic, partition in
            (SharePartitionKey(groupID, topic, partition), ShareStateEvent.summary(leaderEpoch: -1))
        }
        shareStates.askAll(events) { [self] answers in
            var missing: [(key: SharePartitionKey, event: ShareStateEvent)] = []
            // What may be there must not be begun anew.
            guard answers.allSatisfy({ $0.code == .none }) else { return done(false) }
            for (event, answer) in zip(events, answers) where answer.state == .absent {
                // Epoch 0 means on the wire that there is no state.
                missing.append((event.0, .initialize(stateEpoch: 1, startOffset: -1)))
            }
            shareStates.askAll(missing) { answers in
                guard answers.allSatisfy({ $0.code == .none }) else { return done(false) }
                self.submit(groupID, .shareInitialized(groupID: groupID, partitions)) { outcome in
                    if case .response(.done(.none)) = outcome { done(true) } else { done(false) }
                }
            }
        }
    }

    func describeShareGroups(
        _ request: ShareGroupDescribeRequest,
        _ reply: @escaping Reply<ShareGroupDescribeResponse>
    ) {
        let calls = request.groupIds.map { groupID in
            { (done: @escaping GroupCompletion) in
                if !self.hasShards { return done(.failed(.groupIdNotFound)) }
                self.submit(groupID, .shareDescribe(groupID: groupID), done)
            }
        }
        gather(calls) { outcomes in
            var response = ShareGroupDescribeResponse()
            for (groupID, outcome) in zip(request.groupIds, outcomes) {
                var described = ShareGroupDescribeResponse.DescribedGroup(groupId: groupID)
                switch outcome {
                case .response(.shareDescribe(let found)): described = found
                case .failed(let code): described.errorCode = code.rawValue
                default: described.errorCode = ErrorCode.unknownServerError.rawValue
                }
                if request.includeAuthorizedOperations { described.authorizedOperations = Self.groupOperations }
                response.groups.append(described)
            }
            reply(response)
        }
    }

    // MARK: What the offsets APIs need

    /// What is known of a share group; the error where it is none.
    func shareSummary(_ groupID: String, _ done: @escaping @Sendable (ShareOutcome<ShareGroupSummary>) -> Void) {
        if groupID.isEmpty { return done(.failure(.invalidGroupId)) }
        if !hasShards { return done(.failure(.groupIdNotFound)) }
        submit(groupID, .shareSummary(groupID: groupID)) { outcome in
            switch outcome {
            case .response(.shareSummary(let summary?)): done(.success(summary))
            case .response(.shareSummary(nil)): done(.failure(.groupIdNotFound))
            case .failed(let code): done(.failure(code))
            default: done(.failure(.unknownServerError))
            }
        }
    }

    /// Removes the states of an empty share group before the group itself is deleted; does nothing for other groups.
    func removeShareStates(_ groupID: String, _ done: @escaping @Sendable () -> Void) {
        guard let shareStates, hasShards else { return done() }
        shareSummary(groupID) { result in
            guard case .success(let summary) = result, summary.isEmpty, !summary.initialized.isEmpty else {
                return done()
            }
            let events = summary.initialized.flatMap { topic, entry in
                entry.partitions.map { (SharePartitionKey(groupID, topic, $0), ShareStateEvent.delete) }
            }
            shareStates.askAll(events) { [self] _ in
                whenShareStatesGo(groupID)
                done()
            }
        }
    }
}
