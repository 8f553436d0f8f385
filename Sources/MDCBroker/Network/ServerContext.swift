// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import NIOCore
import Synchronization

/// What all connections share.
final class ServerContext: Sendable {
    let live: LiveConfiguration
    let handlers: HandlerTable
    let memory: RequestMemory
    let limiter: ConnectionLimiter
    let quotas: QuotaManager
    let logger: Logger
    private let nextID = Atomic<UInt64>(1)
    private let connections = Mutex<[UInt64: Connection]>([:])
    /// Closures in locks are in structures (`GroupCommit.Handlers` tells why).
    private struct Callbacks: Sendable {
        var closed: (@Sendable (Connection) -> Void)?
    }
    private let callbacks = Mutex(Callbacks())

    init(live: LiveConfiguration, handlers: HandlerTable, quotas: QuotaManager, logger: Logger) {
        self.quotas = quotas
        self.live = live
        let configuration = live.current
        self.handlers = handlers
        self.logger = logger
        memory = RequestMemory(limit: configuration.queuedMaxRequestBytes)
        limiter = ConnectionLimiter(
            maximum: configuration.maxConnections,
            maximumPerHost: configuration.maxConnectionsPerIP
        )
        live.observe { [limiter] in limiter.set(maximum: $0.maxConnections, maximumPerHost: $0.maxConnectionsPerIP) }
    }

    /// A connection from `host`; nil where there are too many.
    func open(host: String, worker: LoopWorker) -> Connection? {
        guard limiter.admit(host) else { return nil }
        let connection = Connection(
            id: nextID.wrappingAdd(1, ordering: .relaxed).oldValue,
            clientHost: "/\(host)",
            worker: worker
        )
        connections.withLock { $0[connection.id] = connection }
        return connection
    }

    func connectionClosed(_ connection: Connection) {
        let known = connections.withLock { $0.removeValue(forKey: connection.id) != nil }
        guard known else { return }
        connection.isClosed = true
        limiter.release(String(connection.clientHost.dropFirst()))
        callbacks.withLock { $0 }.closed?(connection)
    }

    /// Sets what is told of each connection that closes, on its loop. It must not block.
    func whenConnectionCloses(_ handler: @escaping @Sendable (Connection) -> Void) {
        callbacks.withLock { $0.closed = handler }
    }

    /// The connections there are now.
    var allConnections: [Connection] { connections.withLock { Array($0.values) } }
}
