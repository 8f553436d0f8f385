// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Testing

@testable import MDCPipeline

/// For simulators that report to no one.
private let idleSender = CallbackSender(group: MultiThreadedEventLoopGroup.singleton, logger: quietLogger())

/// The SMTP client over real sockets.
@Suite struct SMTPProviderTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func message(to: String = "b@example.org", text: String = "Hello\n.dot\n..two", html: String? = nil)
        -> Message
    {
        Message(
            id: "0199a000-0000-7000-8000-000000000001",
            channel: .email,
            to: to,
            sender: "Müller & Co <a@example.com>",
            content: MessageContent(subject: "Grüße – नमस्ते 👋", text: text, html: html),
            createdAt: 1_790_000_000_000
        )
    }

    private func simulator(_ extensions: [String]? = nil, port: Int = 0) async throws -> SMTPSimulator {
        var configuration = SMTPSimulator.Configuration(port: port, keptMails: 10)
        if let extensions { configuration.extensions = extensions }
        return try await SMTPSimulator.start(
            configuration,
            group: group,
            sender: idleSender,
            logger: quietLogger()
        )
    }

    @Test(arguments: [nil, [], ["PIPELINING"], ["DSN"]] as [[String]?])
    func mailArrivesAsMade(extensions: [String]?) async throws {
        let server = try await simulator(extensions)
        let provider = SMTPProvider(
            .init(host: "127.0.0.1", port: server.port, unsubscribeURL: "https://example.com/u/{reference}"),
            group: group
        )
        let message = message(html: "<p>.x</p>")
        let expected = try provider.makeMail(message, attempt: 2).get()
        guard case .accepted(let id, _) = await provider.send(message, attempt: 2) else {
            return #expect(Bool(false), "not accepted")
        }
        #expect(id == "0199a000-0000-7000-8000-000000000001.2@example.com")
        let mail = try #require(server.keptMails.first)
        #expect(String(buffer: mail.content) == String(buffer: expected.content))
        #expect(mail.from == "a@example.com")
        #expect(mail.to == ["b@example.org"])
        let offersDSN = extensions.map { $0.contains("DSN") } ?? true
        #expect(mail.envelopeID == (offersDSN ? message.reference(attempt: 2) : nil))
        #expect(mail.header("message-id") == "<\(id)>")
        #expect(mail.header("List-Unsubscribe") == "<https://example.com/u/\(message.reference(attempt: 2))>")
        // Without ENVID the header carries the reference.
        #expect(server.ledger.acceptedCount(reference: message.reference(attempt: 2)) == 1)
        await provider.shutdown()
        await server.shutdown()
    }

    @Test func connectionsAreReused() async throws {
        let server = try await simulator()
        let provider = SMTPProvider(
            .init(host: "127.0.0.1", port: server.port, connections: 4, messagesPerConnection: 7),
            group: group
        )
        for _ in 0..<6 { _ = await provider.send(message(), attempt: 1) }
        #expect(provider.pool.openedConnections == 1)
        _ = await provider.send(message(to: "x.sim-reject@example.org"), attempt: 1)
        #expect(provider.pool.idleConnections == 0)
        _ = await provider.send(message(), attempt: 2)
        #expect(provider.pool.openedConnections == 2)
        await provider.shutdown()
        #expect(provider.pool.idleConnections == 0)
        await server.shutdown()
    }

    @Test func idleConnectionsAreClosed() async throws {
        let server = try await simulator()
        let provider = SMTPProvider(
            .init(host: "127.0.0.1", port: server.port, idleTimeout: .milliseconds(30)),
            group: group
        )
        _ = await provider.send(message(), attempt: 1)
        #expect(try await eventually { provider.pool.idleConnections == 0 })
        await provider.shutdown()
        await server.shutdown()
    }

    @Test func aConnectionClosedWhileIdleCostsNothing() async throws {
        let port = try LoopbackPort.free()
        let first = try await simulator(port: port)
        let provider = SMTPProvider(.init(host: "127.0.0.1", port: port), group: group)
        _ = await provider.send(message(), attempt: 1)
        await first.shutdown()
        let second = try await simulator(port: port)
        let outcome = await provider.send(message(), attempt: 2)
        guard case .accepted = outcome else { return #expect(Bool(false), "\(outcome)") }
        await provider.shutdown()
        await second.shutdown()
    }

    @Test func addressesThatCannotStandInCommands() async throws {
        let provider = SMTPProvider(.init(host: "127.0.0.1", port: 1), group: group)
        for to in [
            "", "@", "a@", "@b", "a b@c.d", "a@b>\r\nRCPT TO:<x@y.z", "a@b\n", "<a@b>",
            String(repeating: "a", count: 400) + "@b.c",
        ] {
            guard case .rejected(code: "5.1.3", _) = await provider.send(message(to: to), attempt: 1) else {
                Issue.record("'\(to)' was sent")
                continue
            }
        }
    }

    @Test func noCredentialsInPlaintextToOthers() async {
        let provider = SMTPProvider(
            .init(host: "mail.example.com", port: 25, credentials: .init(user: "u", password: "p")),
            group: group
        )
        guard case .retriable(code: "config", _, _) = await provider.send(message(), attempt: 1) else {
            return #expect(Bool(false), "credentials must not leave this host without TLS")
        }
    }

    /// A server that follows a script: for each line it gets, what it writes; nil closes.
    private func scripted(_ script: @escaping @Sendable (String) -> String?) async throws -> any NIOCore.Channel {
        try await ServerBootstrap(group: group)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(ScriptedServer(script))
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    @Test(arguments: [
        ("DATA", "retriable"), (".", "inDoubt"), ("MAIL", "retriable"), ("EHLO", "retriable"), ("RCPT", "retriable"),
    ])
    func connectionLostAt(step: String, expected: String) async throws {
        let server = try await scripted { line in
            if line.hasPrefix(step), step != "." || line == "." { return nil }
            if line == "DATA" { return "354 go\r\n" }
            return ["EHLO", "MAIL", "RCPT"].contains { line.hasPrefix($0) } ? "250 ok\r\n" : ""
        }
        let provider = SMTPProvider(.init(host: "127.0.0.1", port: server.localAddress!.port!), group: group)
        let outcome = await provider.send(message(), attempt: 1)
        #expect("\(outcome)".hasPrefix(expected), "\(outcome)")
        await provider.shutdown()
        try await server.close()
    }

    @Test(arguments: [("MAIL", "retriable"), (".", "inDoubt"), ("EHLO", "retriable")])
    func silenceAt(step: String, expected: String) async throws {
        let server = try await scripted { line in
            if line.hasPrefix(step), step != "." || line == "." { return "" }
            if line == "DATA" { return "354 go\r\n" }
            return ["EHLO", "MAIL", "RCPT"].contains { line.hasPrefix($0) } ? "250 ok\r\n" : ""
        }
        let provider = SMTPProvider(
            .init(
                host: "127.0.0.1",
                port: server.localAddress!.port!,
                replyTimeout: step == "." ? .seconds(60) : .milliseconds(300),
                contentReplyTimeout: .milliseconds(300)
            ),
            group: group
        )
        let outcome = await provider.send(message(), attempt: 1)
        #expect("\(outcome)".hasPrefix(expected), "\(outcome)")
        await provider.shutdown()
        try await server.close()
    }

    @Test func otherProtocolsAreNoticed() async throws {
        let server = try await scripted { _ in "HTTP/1.1 400 Bad Request\r\n" }
        let provider = SMTPProvider(.init(host: "127.0.0.1", port: server.localAddress!.port!), group: group)
        let outcome = await provider.send(message(), attempt: 1)
        guard case .retriable = outcome else { return #expect(Bool(false), "\(outcome)") }
        await provider.shutdown()
        try await server.close()
    }
}

private final class ScriptedServer: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let script: @Sendable (String) -> String?
    private var text = ""

    init(_ script: @escaping @Sendable (String) -> String?) { self.script = script }

    func channelActive(context: ChannelHandlerContext) { write("220 scripted\r\n", context) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        text += String(buffer: unwrapInboundIn(data))
        while let end = text.range(of: "\r\n") {
            let line = String(text[..<end.lowerBound])
            text = String(text[end.upperBound...])
            guard let answer = script(line) else { return context.close(promise: nil) }
            if !answer.isEmpty { write(answer, context) }
        }
    }

    private func write(_ text: String, _ context: ChannelHandlerContext) {
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: text)), promise: nil)
    }
}
