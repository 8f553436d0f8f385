// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

#if GROUP_HANDLERS
/// The group APIs: decode, ask the coordinator, answer. Everything else is in the coordinator.
extension HandlerTable {
    /// Registers the handlers of the group APIs.
    mutating func registerGroupHandlers(_ service: GroupCoordinatorService) {
        register(FindCoordinatorRequest.self) { request, context in
            service.findCoordinator(request, context.origin) { context.respond($0) }
        }
        register(JoinGroupRequest.self) { request, context in
            service.joinGroup(request, context.origin) { context.respond($0) }
        }
        register(SyncGroupRequest.self) { request, context in
            service.syncGroup(request, context.origin) { context.respond($0) }
        }
        register(HeartbeatRequest.self) { request, context in
            service.heartbeat(request) { context.respond($0) }
        }
        register(LeaveGroupRequest.self) { request, context in
            service.leaveGroup(request, context.origin) { context.respond($0) }
        }
        register(OffsetCommitRequest.self) { request, context in
            service.commitOffsets(request, context.origin) { context.respond($0) }
        }
        register(OffsetFetchRequest.self) { request, context in
            service.fetchOffsets(request, context.origin) { context.respond($0) }
        }
        register(OffsetDeleteRequest.self) { request, context in
            service.deleteOffsets(request) { context.respond($0) }
        }
        register(DescribeGroupsRequest.self) { request, context in
            service.describeGroups(request, context.origin) { context.respond($0) }
        }
        register(ListGroupsRequest.self) { request, context in
            service.listGroups(request) { context.respond($0) }
        }
        register(DeleteGroupsRequest.self) { request, context in
            service.deleteGroups(request) { context.respond($0) }
        }
        register(ConsumerGroupHeartbeatRequest.self) { request, context in
            service.consumerGroupHeartbeat(request, context.origin) { context.respond($0) }
        }
        register(ConsumerGroupDescribeRequest.self) { request, context in
            service.describeConsumerGroups(request) { context.respond($0) }
        }
    }
}

extension RequestContext {
    /// What a coordinator wants to know of the client.
    fileprivate var origin: RequestOrigin {
        RequestOrigin(clientID: clientID ?? "", clientHost: clientHost, apiVersion: version)
    }
}
#endif
