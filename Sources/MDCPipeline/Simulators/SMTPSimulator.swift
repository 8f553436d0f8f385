// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Foundation
public import Logging
import MDCModel
public import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// A mail server on a real socket that delivers nothing, but reports as if it had.
public final class SMTPSimulator: Sendable {
    /// How the server behaves.
    public struct Configuration: Sendable {
        /// Where it listens.
        public var host: String
        /// Where it listens; port 0 picks a free one.
        public var port: Int
        /// Where delivery and bounce events are sent to; nil: nowhere.
        public var callbackURL: String?
        /// What is offered after `EHLO`.
        public var extensions: [String]
        /// What happens to mails.
        public var behavior: SimulatorBehavior
        /// Keeps this many of the mails last taken, for tests.
        public var keptMails: Int

        public init(
            host: String = "127.0.0.1",
            port: Int = 0,
            callbackURL: String? = nil,
            extensions: [String] = [
                "PIPELINING", "SIZE 10485760", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN",
            ],
            behavior: SimulatorBehavior = SimulatorBehavior(),
            keptMails: Int = 0
        ) {
            self.host = host
            self.port = port
            self.callbackURL = callbackURL
            self.extensions = extensions
            self.behavior = behavior
            self.keptMails = keptMails
        }
    }

    /// What it took.
    public let ledger: SimulatorLedger
    /// Where it listens.
    public let port: Int
    /// Where it listens.
    public var host: String { configuration.host }

    private let configuration: Configuration
    private let channel: any NIOCore.Channel
    private let connections: SimulatorConnections
    private let desk: SMTPSimulatorDesk

    private init(
        configuration: Configuration,
        desk: SMTPSimulatorDesk,
        channel: any NIOCore.Channel,
        connections: SimulatorConnections
    ) {
        self.configuration = configuration
        self.desk = desk
        self.ledger = desk.engine.ledger
        self.channel = channel
        self.connections = connections
        self.port = channel.localAddress?.port ?? configuration.port
    }

    /// Binds and serves. - Throws: if the address cannot be bound.
    public static func start(
        _ configuration: Configuration,
        group: any EventLoopGroup,
        sender: CallbackSender,
        logger: Logger
    ) async throws -> SMTPSimulator {
        let engine = SimulatorEngine(behavior: configuration.behavior, ledger: SimulatorLedger(), sender: sender)
        let desk = SMTPSimulatorDesk(
            engine: engine,
            callbackURL: configuration.callbackURL,
            keptMailsMax: configuration.keptMails
        )
        let connections = SimulatorConnections()
        let channel = try await ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { child in
                child.eventLoop.makeCompletedFuture {
                    connections.add(child)
                    let handler = SMTPServerHandler(desk: desk, extensions: configuration.extensions)
                    try child.pipeline.syncOperations.addHandler(handler)
                }
            }
            .bind(host: configuration.host, port: configuration.port).get()
        logger.info("smtp simulator listens", metadata: ["port": "\(channel.localAddress?.port ?? 0)"])
        return SMTPSimulator(configuration: configuration, desk: desk, channel: channel, connections: connections)
    }

    /// The mails last taken, oldest first, at most `keptMails`.
    var keptMails: [SimulatedMail] { desk.keptMails }

    /// Stops listening and closes all connections.
    public func shutdown() async {
        try? await channel.close()
        await connections.closeAll()
    }
}

/// Decides about mails and phrases reports.
private final class SMTPSimulatorDesk: Sendable {
    let engine: SimulatorEngine
    let callbackURL: String?
    private let keptMailsMax: Int
    private let kept = Mutex<Deque<SimulatedMail>>([])

    init(engine: SimulatorEngine, callbackURL: String?, keptMailsMax: Int) {
        self.engine = engine
        self.callbackURL = callbackURL
        self.keptMailsMax = keptMailsMax
    }

    struct Event: Encodable {
        var event: String
        var message_id: String
        var reference: String?
        var recipient: String
        var status: String
        var reason: String
        var at: Int64
    }

    var keptMails: [SimulatedMail] { kept.withLock { Array($0) } }

    /// The reply with which a recipient is refused; nil: taken. What is refused here counts as a request.
    func refusal(recipient: String, envelopeID: String?) -> String? {
        let attempt = envelopeID.flatMap(MessageReference.init)?.attempt ?? 1
        let answer = engine.behavior.plan(recipient: recipient, attempt: attempt).answer
        guard answer == .reject || answer == .busy else { return nil }
        engine.process(recipient: recipient, reference: envelopeID, callback: nil) { _ in }
        return answer == .reject ? "550 5.1.1 No such mailbox" : "451 4.7.1 Greylisted, try again"
    }

    /// Handles a whole mail, recipient by recipient; `answer` gets the plan of the first.
    func take(_ mail: SimulatedMail, answer: @escaping @Sendable (SimulatorPlan) -> Void) {
        let reference = mail.envelopeID ?? mail.header("X-MDC-Reference")
        let messageID =
            mail.header("Message-ID").map { $0.trimmingCharacters(in: CharacterSet(charactersIn: "<> ")) } ?? ""
        if keptMailsMax > 0 {
            kept.withLock { kept in
                kept.append(mail)
                if kept.count > keptMailsMax { kept.removeFirst() }
            }
        }
        for (index, recipient) in mail.to.enumerated() {
            let callback = callbackURL.map { url -> (@Sendable (SimulatorPlan.Report) -> CallbackSender.Callback) in
                { report in
                    let event = Self.event(report, messageID: messageID, reference: reference, recipient: recipient)
                    return CallbackSender.Callback(
                        url: url,
                        method: .POST,
                        contentType: "application/json",
                        body: encodeJSON(event)
                    )
                }
            }
            engine.process(recipient: recipient, reference: reference, callback: callback) { plan in
                if index == 0 { answer(plan) }
            }
        }
    }

    private static func event(
        _ report: SimulatorPlan.Report,
        messageID: String,
        reference: String?,
        recipient: String
    ) -> Event {
        var event = Event(
            event: "delivered",
            message_id: messageID,
            reference: reference,
            recipient: recipient,
            status: "2.0.0",
            reason: "250 2.0.0 delivered",
            at: wallClockMilliseconds()
        )
        switch report {
        case .delivered: break
        case .failed:
            (event.event, event.status, event.reason) = ("bounced", "5.1.1", "550 5.1.1 user unknown")
        case .undelivered:
            (event.event, event.status, event.reason) = ("bounced", "4.2.2", "452 4.2.2 mailbox full")
        }
        return event
    }
}

private final class SMTPServerHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let desk: SMTPSimulatorDesk
    private var session: SMTPServerSession
    private var buffer = ByteBuffer()
    /// A mail is being decided: later lines wait, so that replies keep their order.
    private var isWaiting = false

    init(desk: SMTPSimulatorDesk, extensions: [String]) {
        self.desk = desk
        self.session = SMTPServerSession(extensions: extensions)
    }

    func channelActive(context: ChannelHandlerContext) { write(session.greeting(), context) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        buffer.writeBuffer(&bytes)
        work(context)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func work(_ context: ChannelHandlerContext) {
        while !isWaiting, let line = nextLine() { perform(session.received(line), context) }
        buffer.discardReadBytes()
        // While a mail is decided a client may send what it likes, but not without bound.
        let limit = isWaiting ? SMTPServerSession.sizeMax : SMTPServerSession.lineBytesMax
        if buffer.readableBytes > limit { context.close(promise: nil) }
    }

    private func nextLine() -> ByteBuffer? {
        let view = buffer.readableBytesView
        guard let end = view.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
        guard var line = buffer.readSlice(length: end - view.startIndex) else { return nil }
        buffer.moveReaderIndex(forwardBy: 1)
        if line.readableBytesView.last == UInt8(ascii: "\r") {
            line = line.getSlice(at: line.readerIndex, length: line.readableBytes - 1) ?? line
        }
        return line
    }

    private func perform(_ actions: [SMTPServerSession.Action], _ context: ChannelHandlerContext) {
        for action in actions {
            switch action {
            case .reply(let text): write(text, context)
            case .close: context.close(promise: nil)
            case .decideRecipient(let recipient, let envelopeID):
                let refusal = desk.refusal(recipient: recipient, envelopeID: envelopeID)
                perform(session.recipientDecided(recipient, refusal: refusal), context)
            case .decideMail(let mail): decide(mail, context)
            }
        }
    }

    private func decide(_ mail: SimulatedMail, _ context: ChannelHandlerContext) {
        isWaiting = true
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        let eventLoop = context.eventLoop
        desk.take(mail) { plan in
            let conclude: @Sendable () -> Void = {
                let (handler, context) = bound.value
                handler.conclude(plan, context)
            }
            if plan.answerDelay > .zero {
                eventLoop.scheduleTask(in: TimeAmount(plan.answerDelay), conclude)
            } else {
                eventLoop.execute(conclude)
            }
        }
    }

    private func conclude(_ plan: SimulatorPlan, _ context: ChannelHandlerContext) {
        guard context.channel.isActive else { return }
        switch plan.answer {
        case .hang: return context.close(promise: nil)
        case .accept: write("250 2.0.0 Ok: queued as \(UInt32.random(in: 0...UInt32.max))\r\n", context)
        // Without our ENVID the recipient's answer was found for another attempt than the content's.
        case .reject: write("554 5.1.1 No such mailbox\r\n", context)
        case .busy: write("451 4.7.1 Try again\r\n", context)
        }
        isWaiting = false
        work(context)
    }

    private func write(_ text: String, _ context: ChannelHandlerContext) {
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: text)), promise: nil)
    }
}
