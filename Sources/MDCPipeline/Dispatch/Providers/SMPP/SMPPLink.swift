// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import Synchronization

/// One bind that is kept alive: connects, binds, performs what ``SMPPSession`` decides, and begins anew when it ends.
final class SMPPLink: Sendable {
    struct Configuration: Sendable {
        var host: String
        var port: Int
        var session: SMPPSession.Configuration
        var connectTimeout: Duration
        var tls: NIOSSLContext?
        var serverName: String?
        /// The pause before connecting again, doubled up to the longest.
        var reconnect: Duration
        var reconnectMax: Duration
    }

    /// What came of a request.
    enum Result: Sendable, Equatable {
        case answered(status: UInt32, body: ByteBuffer)
        case unanswered(String)
        /// There was no bound session: it was not sent.
        case notSent(String)
    }

    typealias Delivery = @Sendable (SMPPShortMessage) async -> UInt32
    /// Told of an answer before anything that comes after it on the connection.
    typealias Answered = @Sendable (_ status: UInt32, _ body: ByteBuffer) -> Void

    private struct State {
        var handler: NIOLoopBound<SMPPHandler>?
        var isBound = false
        var problem = "not connected yet"
        var isClosed = false
        var inUse = 0
        var binds = 0
    }

    private let configuration: Configuration
    private let eventLoop: any EventLoop
    private let logger: Logger
    private let deliver: Delivery
    private let state = Mutex(State())

    init(
        _ configuration: Configuration,
        eventLoop: any EventLoop,
        logger: Logger,
        deliver: @escaping Delivery
    ) {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.logger = logger
        self.deliver = deliver
    }

    var isBound: Bool { state.withLock { $0.isBound } }
    /// Requests under way.
    var load: Int { state.withLock { $0.inUse } }
    /// Why there is no session.
    var problem: String { state.withLock { $0.problem } }
    /// Successful binds since the start.
    var binds: Int { state.withLock { $0.binds } }

    /// Keeps the bind until `close()`.
    func run() async {
        var pause = configuration.reconnect
        while !state.withLock({ $0.isClosed }), !Task.isCancelled {
            let ended = await connectOnce()
            if state.withLock({ $0.isClosed }) { return }
            if ended.wasBound { pause = configuration.reconnect }
            logger.warning(
                "the SMPP session ended",
                metadata: ["host": "\(configuration.host):\(configuration.port)", "reason": "\(ended.reason)"]
            )
            try? await Task.sleep(for: ended.isRefused ? max(pause, configuration.reconnectMax) : pause)
            pause = min(pause * 2, configuration.reconnectMax)
        }
    }

    private struct Ended {
        var reason: String
        var wasBound: Bool
        var isRefused: Bool
    }

    private func connectOnce() async -> Ended {
        let over = eventLoop.makePromise(of: Ended.self)
        let configuration = configuration
        let link = self
        do {
            let channel = try await ClientBootstrap(group: eventLoop)
                .connectTimeout(TimeAmount(configuration.connectTimeout))
                .channelOption(.tcpOption(.tcp_nodelay), value: 1)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        if let tls = configuration.tls {
                            try channel.pipeline.syncOperations.addHandler(
                                NIOSSLClientHandler(context: tls, serverHostname: configuration.serverName)
                            )
                        }
                        let handler = SMPPHandler(configuration.session, link: link)
                        try channel.pipeline.syncOperations.addHandler(handler)
                        let bound = NIOLoopBound(handler, eventLoop: channel.eventLoop)
                        link.state.withLock { $0.handler = bound }
                    }
                }
                .connect(host: configuration.host, port: configuration.port).get()
            channel.closeFuture.whenComplete { _ in
                let ended = link.state.withLock { state in
                    defer {
                        state.isBound = false
                        state.handler = nil
                    }
                    return Ended(
                        reason: state.problem,
                        wasBound: state.isBound,
                        isRefused: state.problem.hasPrefix("bind was")
                    )
                }
                over.succeed(ended)
            }
        } catch {
            let reason = "\(configuration.host):\(configuration.port): \(error)"
            state.withLock { state in
                state.problem = reason
                state.handler = nil
                state.isBound = false
            }
            over.succeed(Ended(reason: reason, wasBound: false, isRefused: false))
        }
        do {
            return try await over.futureResult.get()
        } catch {
            preconditionFailure("the promise of a connection's end was failed: \(error)")
        }
    }

    fileprivate func bound() {
        state.withLock { state in
            state.isBound = true
            state.binds += 1
        }
    }

    fileprivate func ended(_ reason: String) {
        state.withLock { $0.problem = reason }
    }

    fileprivate func stored(_ message: SMPPShortMessage, then: @escaping @Sendable (UInt32) -> Void) {
        let deliver = deliver
        Task { then(await deliver(message)) }
    }

    /// Sends a request on the session, waiting in line while the window is full.
    func request(_ command: UInt32, _ body: ByteBuffer, answered: Answered? = nil) async -> Result {
        let handler = state.withLock { state -> NIOLoopBound<SMPPHandler>? in
            guard state.isBound else { return nil }
            state.inUse += 1
            return state.handler
        }
        guard let handler else { return .notSent(problem) }
        defer { state.withLock { $0.inUse -= 1 } }
        let promise = eventLoop.makePromise(of: Result.self)
        eventLoop.execute {
            handler.value.request(SMPPRequest(command: command, body: body, promise: promise, answered: answered))
        }
        do {
            return try await promise.futureResult.get()
        } catch {
            preconditionFailure("the promise of a request was failed: \(error)")
        }
    }

    /// Unbinds; no further session is made.
    func close() async {
        let handler = state.withLock { state in
            state.isClosed = true
            return state.handler
        }
        guard let handler else { return }
        let promise = eventLoop.makePromise(of: Void.self)
        eventLoop.execute { handler.value.unbind(promise) }
        try? await promise.futureResult.get()
    }
}

/// A request with those who wait for its answer.
private struct SMPPRequest {
    var command: UInt32
    var body: ByteBuffer
    var promise: EventLoopPromise<SMPPLink.Result>
    var answered: SMPPLink.Answered?
}

/// Performs a session's actions on a channel.
private final class SMPPHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let configuration: SMPPSession.Configuration
    private let link: SMPPLink
    private var session: SMPPSession
    private var buffer = ByteBuffer()
    private var context: ChannelHandlerContext?
    private var waiting: [UInt64: SMPPRequest] = [:]
    private var queue: Deque<SMPPRequest> = []
    private var token: UInt64 = 0
    private var ticker: Scheduled<Void>?
    private var closing: EventLoopPromise<Void>?
    private var needsFlush = false

    init(_ configuration: SMPPSession.Configuration, link: SMPPLink) {
        self.configuration = configuration
        self.link = link
        session = SMPPSession(configuration, now: Self.now)
    }

    private static var now: Int64 { Int64(clamping: NIODeadline.now().uptimeNanoseconds) }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        perform(session.end("the connection was closed"))
        finish()
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        session = SMPPSession(configuration, now: Self.now)
        scheduleTick(context.eventLoop)
        perform(session.opened())
    }

    private func scheduleTick(_ eventLoop: any EventLoop) {
        ticker = eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(100)) {
            guard self.context != nil else { return }
            self.perform(self.session.tick(now: Self.now))
            self.drain()
            if self.ticker != nil { self.scheduleTick(eventLoop) }
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        perform(session.end("the SMSC closed the connection"))
        finish()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        perform(session.end("\(error)"))
        context.close(promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        buffer.writeBuffer(&bytes)
        do {
            while let unit = try SMPPPDU.decode(&buffer) { perform(session.received(unit, now: Self.now)) }
        } catch {
            perform(session.end(error.description))
        }
        buffer.discardReadBytes()
        drain()
    }

    func request(_ request: SMPPRequest) {
        guard context != nil, session.isBound else { return request.promise.succeed(.notSent(link.problem)) }
        queue.append(request)
        drain()
    }

    func unbind(_ promise: EventLoopPromise<Void>) {
        guard context != nil else { return promise.succeed() }
        closing = promise
        perform(session.unbind(now: Self.now))
        flush()
    }

    private func drain() {
        while session.canSend, let next = queue.popFirst() {
            token += 1
            waiting[token] = next
            perform(session.send(next.command, next.body, token: token, now: Self.now))
        }
        flush()
    }

    private func flush() {
        guard needsFlush else { return }
        needsFlush = false
        context?.flush()
    }

    private func perform(_ actions: [SMPPSession.Action]) {
        for action in actions {
            switch action {
            case .write(let unit):
                guard let context else { continue }
                var bytes = context.channel.allocator.buffer(capacity: 16 + unit.body.readableBytes)
                unit.encode(into: &bytes)
                context.write(wrapOutboundOut(bytes), promise: nil)
                needsFlush = true
                if unit.command != SMPPCommand.submitSM { flush() }
            case .bound: link.bound()
            case .refused(let status): link.ended("bind was refused: \(SMPPStatus.name(status))")
            case .finish(let token, let answer):
                let request = waiting.removeValue(forKey: token)
                switch answer {
                case .answered(let status, let body):
                    request?.answered?(status, body)
                    request?.promise.succeed(.answered(status: status, body: body))
                case .unanswered(let reason): request?.promise.succeed(.unanswered(reason))
                }
            case .deliver(let sequence, let command, let message): deliver(sequence, command, message)
            case .close(let reason):
                link.ended(reason)
                flush()
                context?.close(promise: nil)
            }
        }
    }

    private func deliver(_ sequence: UInt32, _ command: UInt32, _ message: SMPPShortMessage) {
        guard let eventLoop = context?.eventLoop else { return }
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        link.stored(message) { status in
            eventLoop.execute {
                let handler = bound.value
                handler.perform(handler.session.delivered(sequence: sequence, command: command, status: status))
                handler.flush()
            }
        }
    }

    private func finish() {
        ticker?.cancel()
        ticker = nil
        let unsent = queue
        queue = []
        for entry in unsent { entry.promise.succeed(.notSent(link.problem)) }
        closing?.succeed()
        closing = nil
    }
}
