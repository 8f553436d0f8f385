// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// Serves one API. Runs on the event loop of the connection and must not block; it finishes the request, then or later.
typealias RequestHandler = @Sendable (RequestContext) -> Void

/// Which handler serves which API.
struct HandlerTable: Sendable {
    private var handlers: [RequestHandler?] = []
    /// What there are handlers for: what ApiVersions announces.
    private(set) var implemented: Set<APIKey> = []

    /// Registers a handler that reads the body itself.
    mutating func register(_ key: APIKey, _ handler: @escaping RequestHandler) {
        let index = Int(key.rawValue)
        if handlers.count <= index {
            handlers += Array(repeating: nil, count: index + 1 - handlers.count)
        }
        handlers[index] = handler
        implemented.insert(key)
    }

    /// Registers a handler of a decoded request. A body that cannot be decoded closes the connection.
    mutating func register<Request: RequestMessage>(
        _ type: Request.Type,
        _ handler: @escaping @Sendable (Request, RequestContext) -> Void
    ) {
        register(Request.apiKey) { context in
            do throws(ProtocolError) {
                handler(try context.decode(Request.self), context)
            } catch {
                context.closeConnection("malformed \(Request.apiKey) request: \(error)")
            }
        }
    }

    /// Serves a request, or refuses it as its API and version demand.
    func handle(_ context: RequestContext) {
        switch APIVersions.verdict(context.apiKey, version: context.version, implemented: implemented) {
        case .serve:
            guard let handler = handlers[Int(context.apiKey.rawValue)] else {
                return context.closeConnection("\(context.apiKey) has no handler")
            }
            handler(context)
        case .answerInVersionZero:
            context.respond(APIVersions.unsupportedAnswer, version: 0)
        case .refuse where context.apiKey == .produce:
            ProduceHandler.refuseVersion(context)
        case .refuse, .close:
            context.closeConnection("\(context.apiKey) version \(context.version) is not supported")
        }
    }
}
