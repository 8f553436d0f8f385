// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// The APIs of the consumer protocol (KIP-848).
extension GroupCoordinatorService {
    func consumerGroupHeartbeat(
        _ request: ConsumerGroupHeartbeatRequest,
        _ origin: RequestOrigin,
        _ reply: @escaping Reply<ConsumerGroupHeartbeatResponse>
    ) {
        submit(request.groupId, .consumerHeartbeat(request, origin)) { outcome in
            switch outcome {
            case .response(.consumerHeartbeat(let response)): reply(response)
            case .failed(let code): reply(.refusal(code))
            default: reply(.refusal(.unknownServerError))
            }
        }
    }

    func describeConsumerGroups(
        _ request: ConsumerGroupDescribeRequest,
        _ reply: @escaping Reply<ConsumerGroupDescribeResponse>
    ) {
        let calls = request.groupIds.map { groupID in
            { (done: @escaping GroupCompletion) in
                if !self.hasShards { return done(.failed(.groupIdNotFound)) }
                self.submit(groupID, .consumerDescribe(groupID: groupID), done)
            }
        }
        gather(calls) { outcomes in
            var response = ConsumerGroupDescribeResponse()
            for (groupID, outcome) in zip(request.groupIds, outcomes) {
                var described = ConsumerGroupDescribeResponse.DescribedGroup(groupId: groupID)
                switch outcome {
                case .response(.consumerDescribe(let found)): described = found
                case .failed(let code): described.errorCode = code.rawValue
                default: described.errorCode = ErrorCode.unknownServerError.rawValue
                }
                if request.includeAuthorizedOperations { described.authorizedOperations = Self.groupOperations }
                response.groups.append(described)
            }
            reply(response)
        }
    }
}
