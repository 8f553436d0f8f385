// SPDX-License-Identifier: Apache-2.0

public import Logging
import MDCModel
public import NIOCore
import NIOPosix
import Synchronization

/// A small mail server for the return path: takes delivery reports (RFC 3464), and says 250 only once their receipts are
/// durable. Mails that are no report, such as holiday notes, are taken and dropped.
///
/// It is meant to stand behind a mail server, which hands it the mails of one domain or address by SMTP; it knows no TLS
/// and no authentication, so it listens on this host.
public final class MailReportReceiver: ReceiptSource {
    /// Where and for whom it listens.
    public struct Configuration: Sendable {
        /// The provider's name in receipts.
        public var provider: String
        /// Where it listens.
        public var host: String
        /// Where it listens; port 0 picks a free one.
        public var port: Int
        /// Connections at once; more are told to come again.
        public var connectionsMax: Int
        /// A connection that says nothing is closed after this time.
        public var idleTimeout: Duration

        /// Makes a value from its parts.
        public init(
            provider: String,
            host: String = "127.0.0.1",
            port: Int = 0,
            connectionsMax: Int = 16,
            idleTimeout: Duration = .seconds(60)
        ) {
            self.provider = provider
            self.host = host
            self.port = port
            self.connectionsMax = connectionsMax
            self.idleTimeout = idleTimeout
        }
    }

    public var name: String { "mail-reports/\(configuration.provider)" }

    private let configuration: Configuration
    private let sink: any ReceiptSink
    private let logger: Logger
    private let server: NIOAsyncChannel<NIOAsyncChannel<ByteBuffer, ByteBuffer>, Never>
    private let connections = Mutex(0)
    /// The port it listens on.
    public let port: Int

    /// Binds; `run()` serves. - Throws: if the address cannot be bound.
    public init(_ configuration: Configuration, sink: any ReceiptSink, group: any EventLoopGroup, logger: Logger)
        async throws
    {
        self.configuration = configuration
        self.sink = sink
        self.logger = logger
        server = try await ServerBootstrap(group: group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .bind(host: configuration.host, port: configuration.port) { child in
                child.eventLoop.makeCompletedFuture {
                    try child.pipeline.syncOperations.addHandler(
                        IdleStateHandler(readTimeout: TimeAmount(configuration.idleTimeout))
                    )
                    try child.pipeline.syncOperations.addHandler(CloseWhenIdle())
                    return try NIOAsyncChannel(
                        wrappingChannelSynchronously: child,
                        configuration: .init(inboundType: ByteBuffer.self, outboundType: ByteBuffer.self)
                    )
                }
            }
        port = server.channel.localAddress?.port ?? configuration.port
    }

    public func run() async throws {
        try await server.executeThenClose { clients in
            try await withThrowingDiscardingTaskGroup { tasks in
                for try await client in clients {
                    tasks.addTask { await self.serve(client) }
                }
            }
        }
    }

    private func serve(_ client: NIOAsyncChannel<ByteBuffer, ByteBuffer>) async {
        let mayServe = connections.withLock { count in
            count += 1
            return count <= configuration.connectionsMax
        }
        defer { connections.withLock { $0 -= 1 } }
        do {
            try await client.executeThenClose { inbound, outbound in
                guard mayServe else {
                    return try await outbound.write(ByteBuffer(string: "421 4.3.2 Too many connections\r\n"))
                }
                try await converse(inbound, outbound)
            }
        } catch {
            logger.debug("a connection of the mail report receiver ended", metadata: ["error": "\(error)"])
        }
    }

    private func converse(
        _ inbound: NIOAsyncChannelInboundStream<ByteBuffer>,
        _ outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    ) async throws {
        var session = SMTPServerSession(extensions: ["PIPELINING", "8BITMIME", "SIZE \(SMTPServerSession.sizeMax)"])
        try await outbound.write(ByteBuffer(string: session.greeting()))
        var buffer = ByteBuffer()
        for try await var bytes in inbound {
            buffer.writeBuffer(&bytes)
            while let line = Self.nextLine(&buffer) {
                for action in session.received(line) {
                    guard try await perform(action, &session, outbound) else { return }
                }
            }
            buffer.discardReadBytes()
            guard buffer.readableBytes <= SMTPServerSession.lineBytesMax else { return }
        }
    }

    /// Returns false when the connection is to end.
    private func perform(
        _ action: SMTPServerSession.Action,
        _ session: inout SMTPServerSession,
        _ outbound: NIOAsyncChannelOutboundWriter<ByteBuffer>
    ) async throws -> Bool {
        switch action {
        case .reply(let text): try await outbound.write(ByteBuffer(string: text))
        case .close: return false
        case .decideRecipient(let recipient, _):
            for answer in session.recipientDecided(recipient, refusal: nil) {
                guard try await perform(answer, &session, outbound) else { return false }
            }
        case .decideMail(let mail): try await outbound.write(ByteBuffer(string: await take(mail)))
        }
        return true
    }

    private func take(_ mail: SimulatedMail) async -> String {
        guard let report = DeliveryReport(mail.content) else { return "250 2.0.0 Ok: not a report, dropped\r\n" }
        let receipts = report.receipts(provider: configuration.provider, now: Timestamp(wallClockMilliseconds()))
        guard !receipts.isEmpty else { return "250 2.0.0 Ok: a report about another's mail, dropped\r\n" }
        do {
            try await sink.append(receipts)
            return "250 2.0.0 Ok: \(receipts.count) receipts are durable\r\n"
        } catch {
            logger.warning("receipts of a mail report are not durable", metadata: ["error": "\(error)"])
            return "451 4.3.0 Not stored, try again\r\n"
        }
    }

    private static func nextLine(_ buffer: inout ByteBuffer) -> ByteBuffer? {
        let view = buffer.readableBytesView
        guard let end = view.firstIndex(of: UInt8(ascii: "\n")),
            var line = buffer.readSlice(length: end - view.startIndex)
        else { return nil }
        buffer.moveReaderIndex(forwardBy: 1)
        if line.readableBytesView.last == UInt8(ascii: "\r") {
            line = line.getSlice(at: line.readerIndex, length: line.readableBytes - 1) ?? line
        }
        return line
    }
}

private final class CloseWhenIdle: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if event is IdleStateHandler.IdleStateEvent {
            context.close(promise: nil)
        } else {
            context.fireUserInboundEventTriggered(event)
        }
    }
}
