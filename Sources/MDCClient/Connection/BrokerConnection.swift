// SPDX-License-Identifier: Apache-2.0

import Logging
import NIOCore
import NIOPosix

/// The way to one broker for one purpose: connects when it is needed, again after a loss, with growing pauses.
/// Confined to its event loop, hence unchecked.
final class BrokerConnection: @unchecked Sendable {
    typealias Waiter = (Result<ConnectionHandler, ClientError>) -> Void

    private enum State {
        case idle
        case connecting
        case ready(ConnectionHandler)
        case closed(ClientError)
    }

    let address: BrokerAddress
    private let configuration: ClientConfiguration
    private let backoff: Backoff
    private let eventLoop: any EventLoop
    private let logger: Logger
    private var state = State.idle
    private var waiters: [Waiter] = []
    private var generator = SeededGenerator()
    private var retryAt = NIODeadline.uptimeNanoseconds(0)
    /// Failed attempts in a row.
    private(set) var failures = 0
    /// The version of the first ApiVersions query; 0 where the broker closed on a newer one.
    private var queryVersion: Int16 = 3

    init(
        address: BrokerAddress,
        configuration: ClientConfiguration,
        backoff: Backoff,
        eventLoop: any EventLoop,
        logger: Logger
    ) {
        self.address = address
        self.configuration = configuration
        self.backoff = backoff
        self.eventLoop = eventLoop
        self.logger = logger
    }

    var isReady: Bool {
        if case .ready = state { return true }
        return false
    }

    /// Gives the connection once it is ready, or the error of the next attempt.
    func whenReady(_ body: @escaping Waiter) {
        switch state {
        case .ready(let handler): body(.success(handler))
        case .closed(let error): body(.failure(error))
        case .connecting: waiters.append(body)
        case .idle:
            waiters.append(body)
            state = .connecting
            if retryAt <= .now() {
                connect()
            } else {
                eventLoop.assumeIsolated().scheduleTask(deadline: retryAt) { self.connect() }
            }
        }
    }

    private func connect() {
        guard case .connecting = state else { return }
        let ready = eventLoop.makePromise(of: Void.self)
        let handler = ConnectionHandler(
            clientID: configuration.clientID,
            queryVersion: queryVersion,
            negotiationTimeout: TimeAmount(min(configuration.requestTimeout, .seconds(10))),
            maxResponseBytes: configuration.maxResponseBytes,
            ready: ready,
            logger: logger
        )
        handler.onClose = { [weak self] error in self?.lost(handler, error) }
        ClientBootstrap(group: eventLoop)
            .connectTimeout(TimeAmount(configuration.connectTimeout))
            .channelOption(.socketOption(.tcp_nodelay), value: 1)
            .channelOption(
                .recvAllocator,
                value: AdaptiveRecvByteBufferAllocator(minimum: 2048, initial: 16384, maximum: 1024 * 1024)
            )
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }
            .connect(host: address.host, port: address.port)
            .assumeIsolated()
            .whenComplete { result in
                if case .failure(let error) = result {
                    ready.fail(ClientError(.connection, "cannot connect to \(self.address)", cause: error))
                }
            }
        ready.futureResult.assumeIsolated().whenComplete { result in
            switch result {
            case .success: self.becameReady(handler)
            case .failure(let error):
                self.failed(error as? ClientError ?? ClientError(.connection, "cannot connect", cause: error))
            }
        }
    }

    private func becameReady(_ handler: ConnectionHandler) {
        guard case .connecting = state else {
            handler.close(ClientError(.closed, "the client is closed"))
            return
        }
        state = .ready(handler)
        failures = 0
        logger.debug("connected", metadata: [LogKey.broker: "\(address)"])
        let waiting = waiters
        waiters = []
        for waiter in waiting { waiter(.success(handler)) }
    }

    private func failed(_ error: ClientError) {
        guard case .connecting = state else { return }
        // Some brokers close on a query that they do not know, instead of answering: ask the oldest way next time.
        if error.code == .connection, error.cause == nil { queryVersion = queryVersion == 0 ? 3 : 0 }
        retryAt = .now() + backoff.delay(attempt: failures, using: &generator)
        failures += 1
        state = .idle
        logger.debug("no connection", metadata: [LogKey.broker: "\(address)", LogKey.error: "\(error)"])
        let waiting = waiters
        waiters = []
        for waiter in waiting { waiter(.failure(error)) }
    }

    private func lost(_ handler: ConnectionHandler, _ error: ClientError) {
        guard case .ready(let current) = state, current === handler else { return }
        state = .idle
        // At once, the first time: a broker that restarts refuses until it serves.
        retryAt = .now() + backoff.delay(attempt: 0, using: &generator)
        logger.debug("connection lost", metadata: [LogKey.broker: "\(address)", LogKey.error: "\(error)"])
    }

    /// Closes for good.
    func close(_ error: ClientError) {
        let old = state
        state = .closed(error)
        let waiting = waiters
        waiters = []
        if case .ready(let handler) = old { handler.close(error) }
        for waiter in waiting { waiter(.failure(error)) }
    }
}
