// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

extension RequestContext {
    /// Who asks, as the coordinator wants to know it.
    var origin: RequestOrigin {
        RequestOrigin(clientID: clientID ?? "", clientHost: clientHost, apiVersion: version)
    }
}

extension HandlerTable {
    /// The APIs of groups, classic and offsets.
    mutating func registerGroupHandlers(_ groups: GroupCoordinatorService) {
        register(FindCoordinatorRequest.self) { request, context in
            groups.findCoordinator(request, context.origin) { context.respond($0) }
        }
        register(JoinGroupRequest.self) { request, context in
            groups.joinGroup(request, context.origin) { context.respond($0) }
        }
        register(SyncGroupRequest.self) { request, context in
            groups.syncGroup(request, context.origin) { context.respond($0) }
        }
        register(HeartbeatRequest.self) { request, context in
            groups.heartbeat(request) { context.respond($0) }
        }
        register(LeaveGroupRequest.self) { request, context in
            groups.leaveGroup(request, context.origin) { context.respond($0) }
        }
        register(DescribeGroupsRequest.self) { request, context in
            groups.describeGroups(request, context.origin) { context.respond($0) }
        }
        register(ListGroupsRequest.self) { request, context in
            groups.listGroups(request) { context.respond($0) }
        }
        register(DeleteGroupsRequest.self) { request, context in
            groups.deleteGroups(request) { context.respond($0) }
        }
        register(OffsetCommitRequest.self) { request, context in
            groups.commitOffsets(request, context.origin) { context.respond($0) }
        }
        register(OffsetFetchRequest.self) { request, context in
            groups.fetchOffsets(request, context.origin) { context.respond($0) }
        }
        register(OffsetDeleteRequest.self) { request, context in
            groups.deleteOffsets(request) { context.respond($0) }
        }
        register(ConsumerGroupHeartbeatRequest.self) { request, context in
            groups.consumerGroupHeartbeat(request, context.origin) { context.respond($0) }
        }
        register(ConsumerGroupDescribeRequest.self) { request, context in
            groups.describeConsumerGroups(request) { context.respond($0) }
        }
    }
}
