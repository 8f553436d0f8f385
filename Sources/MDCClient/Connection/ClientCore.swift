// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore
import NIOPosix

/// What producer, consumer and admin client share: connections to brokers, metadata, coordinators.
///
/// Confined to one event loop, hence unchecked: everything not marked otherwise must be called on it, and says so by
/// a precondition where it matters. The `async` functions may be called from anywhere.
final class ClientCore: @unchecked Sendable {
    /// Requests of one purpose share a connection; those that may wait long at the broker have their own, because a
    /// broker answers a connection in order.
    enum Purpose: Hashable {
        case general
        case coordinator
        /// Joining and heartbeats: a join waits for the other members, and commits must not wait with it.
        case membership
        case fetch(slot: Int)
    }

    enum Target: Hashable {
        /// Whichever answers.
        case any
        case controller
        case broker(Int32)
    }

    /// A known address: a broker by its id, or a bootstrap server, whose id is not known.
    enum NodeKey: Hashable {
        case broker(Int32)
        case bootstrap(Int)
    }

    struct ConnectionKey: Hashable {
        let node: NodeKey
        let purpose: Purpose
    }

    let configuration: ClientConfiguration
    let eventLoop: any EventLoop
    let logger: Logger
    let bootstrap: [BrokerAddress]
    let retryBackoff: Backoff
    let reconnectBackoff: Backoff
    var generator = SeededGenerator()
    var connections: [ConnectionKey: BrokerConnection] = [:]
    var metadata = MetadataCache()
    var isClosed = false

    // Metadata, see ClientCore+Metadata.
    /// Topics that every refresh asks for.
    var topicsOfInterest: Set<String> = []
    var allowAutoTopicCreation = false
    var refresh: EventLoopFuture<Void>?
    var refreshEndedAt: NIODeadline?
    var refreshFailures = 0
    var periodicRefresh: Scheduled<Void>?
    var scheduledRefresh: Scheduled<Void>?
    var metadataListeners: [() -> Void] = []
    // Coordinators, see ClientCore+Coordinator.
    var coordinators: [CoordinatorKey: Int32] = [:]
    var coordinatorLookups: [CoordinatorKey: EventLoopFuture<Int32>] = [:]
    /// The level of the feature `transaction.version` that the cluster is at, as far as a broker told.
    var transactionVersion: Int16 = 0

    init(_ configuration: ClientConfiguration, eventLoop: any EventLoop, logger: Logger) throws {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.logger = logger
        bootstrap = try configuration.bootstrapAddresses()
        retryBackoff = Backoff(first: configuration.retryBackoff, longest: configuration.retryBackoffMax)
        reconnectBackoff = Backoff(first: configuration.reconnectBackoff, longest: configuration.reconnectBackoffMax)
    }

    static let closedError = ClientError(.closed, "the client is closed")

    // MARK: Requests

    /// Sends a request and gives its answer. On the event loop.
    ///
    /// `versions` narrows what the generated message knows to what the caller understands; `make` builds the request
    /// for the version that was chosen. `unanswered` is the result of a request that gets no answer (`acks=0`).
    func send<Request: RequestMessage>(
        _ type: Request.Type,
        to target: Target,
        purpose: Purpose = .general,
        versions: ClosedRange<Int16> = Request.validVersions,
        timeout: Duration? = nil,
        unanswered: Request.Response? = nil,
        make: @escaping (Int16) -> Request
    ) -> EventLoopFuture<Request.Response> {
        eventLoop.preconditionInEventLoop()
        let promise = eventLoop.makePromise(of: Request.Response.self)
        let request = TypedRequest(
            promise: promise,
            versions: versions,
            timeout: TimeAmount(timeout ?? configuration.requestTimeout),
            unanswered: unanswered,
            make: make
        )
        withConnection(to: target, purpose: purpose) { result in
            switch result {
            case .success(let handler):
                self.transactionVersion = handler.transactionVersion
                handler.send(request)
            case .failure(let error): request.fail(error)
            }
        }
        return promise.futureResult
    }

    /// Sends a request from anywhere.
    func request<Request: RequestMessage>(
        _ type: Request.Type,
        to target: Target,
        purpose: Purpose = .general,
        versions: ClosedRange<Int16> = Request.validVersions,
        timeout: Duration? = nil,
        make: @escaping @Sendable (Int16) -> Request
    ) async throws -> Request.Response {
        try await eventLoop.flatSubmit {
            self.send(type, to: target, purpose: purpose, versions: versions, timeout: timeout, make: make)
        }.get()
    }

    /// Runs `body` on the event loop and gives its result.
    func onLoop<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value {
        try await eventLoop.submit(body).get()
    }

    /// Repeats `body` while it fails with what may pass, with back-off, until the deadline. From anywhere.
    func retrying<Value: Sendable>(
        until deadline: NIODeadline,
        _ body: () async throws -> Value
    ) async throws -> Value {
        var attempt = 0
        var generator = SeededGenerator()
        while true {
            do {
                return try await body()
            } catch let error as ClientError where error.isRetriable {
                let pause = retryBackoff.delay(attempt: attempt, using: &generator)
                attempt += 1
                guard NIODeadline.now() + pause < deadline else { throw error }
                try await Task.sleep(for: .nanoseconds(pause.nanoseconds))
            }
        }
    }

    var apiDeadline: NIODeadline { .now() + TimeAmount(configuration.apiTimeout) }

    // MARK: Connections

    private func withConnection(
        to target: Target,
        purpose: Purpose,
        _ body: @escaping (Result<ConnectionHandler, ClientError>) -> Void
    ) {
        if isClosed { return body(.failure(Self.closedError)) }
        switch resolve(target, purpose) {
        case .failure(let error): body(.failure(error))
        case .success(let key): connection(key).whenReady(body)
        }
    }

    private func resolve(_ target: Target, _ purpose: Purpose) -> Result<ConnectionKey, ClientError> {
        switch target {
        case .any:
            return .success(ConnectionKey(node: anyNode(purpose), purpose: purpose))
        case .controller:
            guard metadata.controllerID >= 0, metadata.brokers[metadata.controllerID] != nil else {
                return .success(ConnectionKey(node: anyNode(purpose), purpose: purpose))
            }
            return .success(ConnectionKey(node: .broker(metadata.controllerID), purpose: purpose))
        case .broker(let id):
            guard metadata.brokers[id] != nil else {
                return .failure(ClientError(.connection, "broker \(id) is not known, or gone"))
            }
            return .success(ConnectionKey(node: .broker(id), purpose: purpose))
        }
    }

    /// A node that answers, as far as one can tell: one with an open connection, else the one that may be tried first.
    /// Bootstrap servers count while no broker is known, or none of them can be reached.
    private func anyNode(_ purpose: Purpose) -> NodeKey {
        let brokers = metadata.brokers.keys.map(NodeKey.broker)
        let ready = brokers.filter { connections[ConnectionKey(node: $0, purpose: purpose)]?.isReady == true }
        if let node = ready.randomElement(using: &generator) { return node }
        func failures(_ node: NodeKey) -> Int {
            connections[ConnectionKey(node: node, purpose: purpose)]?.failures ?? 0
        }
        var candidates = brokers
        if brokers.allSatisfy({ failures($0) > 0 }) { candidates += bootstrap.indices.map(NodeKey.bootstrap) }
        let fewest = candidates.map(failures).min() ?? 0
        return candidates.filter { failures($0) == fewest }.randomElement(using: &generator) ?? .bootstrap(0)
    }

    private func connection(_ key: ConnectionKey) -> BrokerConnection {
        let address: BrokerAddress
        switch key.node {
        case .bootstrap(let index): address = bootstrap[index]
        case .broker(let id): address = metadata.brokers[id]?.address ?? bootstrap[0]
        }
        if let known = connections[key] {
            if known.address == address { return known }
            known.close(ClientError(.connection, "the broker moved to \(address)"))
        }
        let connection = BrokerConnection(
            address: address,
            configuration: configuration,
            backoff: reconnectBackoff,
            eventLoop: eventLoop,
            logger: logger
        )
        connections[key] = connection
        return connection
    }

    /// Closes everything; what waits fails with `closed`.
    func close() async {
        try? await onLoop { self.closeOnLoop() }
    }

    func closeOnLoop() {
        guard !isClosed else { return }
        isClosed = true
        periodicRefresh?.cancel()
        scheduledRefresh?.cancel()
        let open = connections.values
        connections = [:]
        for connection in open { connection.close(Self.closedError) }
        metadataListeners = []
    }
}
