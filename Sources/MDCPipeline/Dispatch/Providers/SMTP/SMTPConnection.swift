// SPDX-License-Identifier: Apache-2.0

import NIOCore
import NIOPosix
import NIOSSL
import NIOTLS

/// What came of one mail, and whether the connection can take another.
struct SMTPSendResult: Sendable, Equatable {
    var outcome: SendOutcome
    var isReusable: Bool
}

/// No session came about; the outcome is that of the mail that waited for it.
struct SMTPConnectFailure: Error, Sendable {
    var outcome: SendOutcome
}

/// One connection to a server: performs what ``SMTPSession`` decides.
final class SMTPConnection: Sendable {
    struct Limits: Sendable {
        var connect: Duration
        /// A reply to anything but the content.
        var reply: Duration
        /// The reply to the content: the server may check and store it first.
        var contentReply: Duration
    }

    /// How a connection is encrypted, with what is made once for all connections.
    struct Encryption: Sendable {
        /// From the first byte (port 465); else by `STARTTLS`.
        var isImplicit: Bool
        var context: NIOSSLContext
        /// The name that the certificate must have; nil: the address.
        var serverName: String?

        func makeHandler() throws -> NIOSSLClientHandler {
            try NIOSSLClientHandler(context: context, serverHostname: serverName)
        }
    }

    let channel: any NIOCore.Channel
    private let handler: NIOLoopBound<SMTPClientHandler>

    private init(channel: any NIOCore.Channel, handler: NIOLoopBound<SMTPClientHandler>) {
        self.channel = channel
        self.handler = handler
    }

    /// Connects, and waits until the session can take a mail. - Throws: ``SMTPConnectFailure``.
    static func open(
        host: String,
        port: Int,
        identity: SMTPSession.Identity,
        limits: Limits,
        encryption: Encryption? = nil,
        group: any EventLoopGroup
    ) async throws -> SMTPConnection {
        let eventLoop = group.next()
        let ready = eventLoop.makePromise(of: Void.self)
        let bootstrap = ClientBootstrap(group: eventLoop)
            .connectTimeout(TimeAmount(limits.connect))
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
        let connection: SMTPConnection
        do {
            connection = try await bootstrap.connect(host: host, port: port) { channel in
                channel.eventLoop.makeCompletedFuture {
                    let handler = SMTPClientHandler(
                        identity: identity,
                        limits: limits,
                        encryption: encryption,
                        ready: ready
                    )
                    if let encryption, encryption.isImplicit {
                        try channel.pipeline.syncOperations.addHandler(encryption.makeHandler())
                    }
                    try channel.pipeline.syncOperations.addHandler(handler)
                    return SMTPConnection(
                        channel: channel,
                        handler: NIOLoopBound(handler, eventLoop: channel.eventLoop)
                    )
                }
            }
        } catch {
            // If the handler was there, it has settled the promise already; a second outcome is ignored.
            ready.fail(error)
            throw SMTPConnectFailure(outcome: .retriable(code: "connect", reason: "\(host):\(port): \(error)"))
        }
        try await ready.futureResult.get()
        return connection
    }

    /// Sends a mail. One at a time.
    func send(_ mail: SMTPMail) async -> SMTPSendResult {
        let handler = handler
        let promise = channel.eventLoop.makePromise(of: SMTPSendResult.self)
        channel.eventLoop.execute { handler.value.send(mail, promise: promise) }
        do {
            return try await promise.futureResult.get()
        } catch {
            preconditionFailure("the promise of a mail was failed: \(error)")
        }
    }

    /// Says goodbye and closes.
    func quit() {
        let handler = handler
        channel.eventLoop.execute { handler.value.quit() }
    }
}

private final class SMTPClientHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var session: SMTPSession
    private var decoder = SMTPReplyDecoder()
    private let limits: SMTPConnection.Limits
    private let encryption: SMTPConnection.Encryption?
    private var ready: EventLoopPromise<Void>?
    private var current: EventLoopPromise<SMTPSendResult>?
    private var outcome: SendOutcome?
    private var context: ChannelHandlerContext?
    private var timeout: Scheduled<Void>?

    init(
        identity: SMTPSession.Identity,
        limits: SMTPConnection.Limits,
        encryption: SMTPConnection.Encryption?,
        ready: EventLoopPromise<Void>
    ) {
        self.session = SMTPSession(identity)
        self.limits = limits
        self.encryption = encryption
        self.ready = ready
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        end(context, reason: "connection closed")
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) { expectReply(context, within: limits.reply) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        decoder.feed(&bytes)
        do {
            while let reply = try decoder.next() { perform(session.received(reply), context) }
        } catch {
            end(context, reason: error.description)
            context.close(promise: nil)
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case TLSUserEvent.handshakeCompleted = event {
            // Half a line that came in the clear is no beginning of what comes encrypted.
            if encryption?.isImplicit == false { decoder = SMTPReplyDecoder() }
            perform(session.encrypted(), context)
        }
        context.fireUserInboundEventTriggered(event)
    }

    private func startTLS(_ context: ChannelHandlerContext) {
        do {
            guard let encryption else { preconditionFailure("a session asked for TLS that was made without it") }
            try context.pipeline.syncOperations.addHandler(encryption.makeHandler(), position: .first)
            expectReply(context, within: limits.reply)
        } catch {
            end(context, reason: "TLS: \(error)")
            context.close(promise: nil)
        }
    }

    func channelInactive(context: ChannelHandlerContext) { end(context, reason: "the server closed the connection") }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        end(context, reason: "\(error)")
        context.close(promise: nil)
    }

    func send(_ mail: SMTPMail, promise: EventLoopPromise<SMTPSendResult>) {
        guard let context, session.isReady, current == nil else {
            let outcome = SendOutcome.retriable(code: "connection", reason: "the connection was closed while idle")
            promise.succeed(SMTPSendResult(outcome: outcome, isReusable: false))
            return
        }
        current = promise
        perform(session.send(mail), context)
        // A mail that the session refuses by itself leaves it ready.
        if session.isReady { settle(isReusable: true) }
    }

    func quit() {
        guard let context else { return }
        perform(session.quit(), context)
    }

    private func perform(_ actions: [SMTPSession.Action], _ context: ChannelHandlerContext) {
        for action in actions {
            switch action {
            case .write(let bytes):
                context.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
                expectReply(context, within: session.awaitsContentReply ? limits.contentReply : limits.reply)
            case .becomeReady:
                timeout?.cancel()
                ready?.succeed()
                ready = nil
                settle(isReusable: true)
            case .finish(let outcome): self.outcome = outcome
            case .fail(let outcome):
                ready?.fail(SMTPConnectFailure(outcome: outcome))
                ready = nil
                if self.outcome == nil { self.outcome = outcome }
                settle(isReusable: false)
            case .startTLS: startTLS(context)
            case .close:
                settle(isReusable: false)
                context.close(promise: nil)
            }
        }
    }

    private func settle(isReusable: Bool) {
        guard let current, let outcome else { return }
        self.current = nil
        self.outcome = nil
        current.succeed(SMTPSendResult(outcome: outcome, isReusable: isReusable))
    }

    private func end(_ context: ChannelHandlerContext, reason: String) {
        timeout?.cancel()
        perform(session.closed(reason), context)
        settle(isReusable: false)
        ready?.fail(SMTPConnectFailure(outcome: .retriable(code: "connect", reason: reason)))
        ready = nil
    }

    private func expectReply(_ context: ChannelHandlerContext, within limit: Duration) {
        timeout?.cancel()
        timeout = context.eventLoop.assumeIsolated().scheduleTask(in: TimeAmount(limit)) {
            self.end(context, reason: "no reply within \(limit)")
            context.close(promise: nil)
        }
    }
}
