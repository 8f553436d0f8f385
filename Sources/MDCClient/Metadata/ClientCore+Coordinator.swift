// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// What has a coordinator.
enum CoordinatorKey: Hashable, Sendable, CustomStringConvertible {
    case group(String)
    case transaction(String)

    var name: String {
        switch self {
        case .group(let name), .transaction(let name): name
        }
    }
    /// As FindCoordinator numbers it.
    var type: Int8 {
        switch self {
        case .group: 0
        case .transaction: 1
        }
    }
    var description: String {
        switch self {
        case .group(let name): "group '\(name)'"
        case .transaction(let name): "transactional id '\(name)'"
        }
    }
}

/// Coordinators: looked up once, again when one says that it is none.
extension ClientCore {
    /// The broker that coordinates a group; one attempt. On the event loop.
    func coordinator(of group: String) -> EventLoopFuture<Int32> { coordinator(of: .group(group)) }

    /// The broker that coordinates a group or a transactional id; one attempt. On the event loop.
    func coordinator(of key: CoordinatorKey) -> EventLoopFuture<Int32> {
        eventLoop.preconditionInEventLoop()
        if let known = coordinators[key] { return eventLoop.makeSucceededFuture(known) }
        if let lookup = coordinatorLookups[key] { return lookup }
        let versions: ClosedRange<Int16> = key.type == 0 ? 0...6 : 1...6
        let lookup = send(FindCoordinatorRequest.self, to: .any, versions: versions) { version in
            version >= 4
                ? FindCoordinatorRequest(keyType: key.type, coordinatorKeys: [key.name])
                : FindCoordinatorRequest(key: key.name, keyType: key.type)
        }.flatMapThrowing { response -> Int32 in
            let found: (error: Int16, message: String?, node: Int32, host: String, port: Int32)
            if let first = response.coordinators.first {
                found = (first.errorCode, first.errorMessage, first.nodeId, first.host, first.port)
            } else {
                found = (response.errorCode, response.errorMessage, response.nodeId, response.host, response.port)
            }
            guard found.error == 0 else {
                throw ClientError.broker(
                    ErrorCode(rawValue: found.error),
                    "looking up the coordinator of \(key)",
                    detail: found.message
                )
            }
            self.metadata.learn(
                broker: found.node,
                BrokerAddress(host: found.host, port: Int(found.port))
            )
            self.coordinators[key] = found.node
            return found.node
        }
        coordinatorLookups[key] = lookup
        lookup.assumeIsolated().whenComplete { _ in self.coordinatorLookups[key] = nil }
        return lookup
    }

    /// The broker is not, or no longer, the coordinator.
    func forgetCoordinator(of group: String) { forgetCoordinator(of: .group(group)) }

    /// The broker is not, or no longer, the coordinator.
    func forgetCoordinator(of key: CoordinatorKey) {
        coordinators[key] = nil
    }

    /// Errors after which the coordinator should be looked up again.
    static func showsStaleCoordinator(_ error: ClientError) -> Bool {
        switch error.errorCode {
        case .notCoordinator?, .coordinatorNotAvailable?: true
        case nil: error.code == .connection || error.code == .timeout
        default: false
        }
    }

    /// Sends a request to the coordinator of a group, looks at its errors, and repeats while they may pass.
    func coordinatorRequest<Request: RequestMessage, Value: Sendable>(
        group: String,
        _ type: Request.Type,
        versions: ClosedRange<Int16> = Request.validVersions,
        until deadline: NIODeadline,
        make: @escaping @Sendable (Int16) -> Request,
        read: @escaping @Sendable (Request.Response) throws -> Value
    ) async throws -> Value {
        try await coordinatorRequest(
            of: .group(group),
            type,
            versions: versions,
            until: deadline,
            make: make,
            read: read
        )
    }

    /// Sends a request to a coordinator, looks at its errors, and repeats while they may pass.
    func coordinatorRequest<Request: RequestMessage, Value: Sendable>(
        of key: CoordinatorKey,
        _ type: Request.Type,
        versions: ClosedRange<Int16> = Request.validVersions,
        until deadline: NIODeadline,
        make: @escaping @Sendable (Int16) -> Request,
        read: @escaping @Sendable (Request.Response) throws -> Value
    ) async throws -> Value {
        try await retrying(until: deadline) {
            do {
                let response = try await eventLoop.flatSubmit {
                    self.coordinator(of: key).flatMap { node in
                        self.send(type, to: .broker(node), purpose: .coordinator, versions: versions, make: make)
                    }
                }.get()
                return try read(response)
            } catch let error as ClientError {
                if Self.showsStaleCoordinator(error) {
                    try await self.onLoop { self.forgetCoordinator(of: key) }
                }
                throw error
            }
        }
    }
}
