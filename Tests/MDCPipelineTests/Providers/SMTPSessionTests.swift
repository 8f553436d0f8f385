// SPDX-License-Identifier: Apache-2.0

import NIOCore
import Testing

@testable import MDCPipeline

@Suite struct SMTPReplyTests {
    private func replies(_ text: String, portion: Int = .max) throws -> [SMTPReply] {
        var decoder = SMTPReplyDecoder()
        var replies: [SMTPReply] = []
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            var bytes = ByteBuffer(bytes: rest.prefix(portion))
            rest = rest.dropFirst(portion)
            decoder.feed(&bytes)
            while let reply = try decoder.next() { replies.append(reply) }
        }
        return replies
    }

    @Test(arguments: [1, 2, 3, 7, Int.max]) func anyPortions(portion: Int) throws {
        let text = "220 hi\r\n250-a\r\n250-SIZE 10\r\n250 DSN\r\n354\r\n550 5.1.1 no\n"
        #expect(
            try replies(text, portion: portion) == [
                SMTPReply(code: 220, lines: ["hi"]), SMTPReply(code: 250, lines: ["a", "SIZE 10", "DSN"]),
                SMTPReply(code: 354, lines: [""]), SMTPReply(code: 550, lines: ["5.1.1 no"]),
            ]
        )
    }

    @Test(arguments: ["hello\r\n", "2x0 a\r\n", "250-a\r\n251 b\r\n", "999 a\r\n", "25\r\n", "250+a\r\n"])
    func otherBytesAreRefused(text: String) {
        #expect(throws: SMTPProtocolError.self) { try replies(text) }
    }

    @Test func memoryIsBounded() {
        #expect(throws: SMTPProtocolError.self) { try replies(String(repeating: "2", count: 5_000), portion: 100) }
        #expect(throws: SMTPProtocolError.self) { try replies(String(repeating: "250-a\r\n", count: 200)) }
    }

    @Test func randomBytesNeverTrap() {
        var random = SplitMix64(seed: 11)
        for _ in 0..<2_000 {
            let alphabet = Array("250 -\r\n.4x\u{0}é".utf8)
            let bytes = (0..<Int.random(in: 0...80, using: &random)).map { _ in alphabet.randomElement(using: &random)!
            }
            _ = try? replies(String(decoding: bytes, as: UTF8.self), portion: Int.random(in: 1...9, using: &random))
        }
    }

    @Test func enhancedCodes() {
        #expect(SMTPReply(code: 550, lines: ["5.1.1 no"]).bestCode == "5.1.1")
        #expect(SMTPReply(code: 550, lines: ["5.1 no"]).bestCode == "550")
        #expect(SMTPReply(code: 250, lines: ["10.0.0.1 ok"]).enhancedCode == nil)
    }

    @Test func capabilities() {
        let reply = SMTPReply(
            code: 250,
            lines: ["mx PIPELINING", "pipelining", "SIZE 1000", "AUTH PLAIN LOGIN", "AUTH=XOAUTH2", "DSN", "STARTTLS"]
        )
        let found = SMTPCapabilities(reply)
        #expect(found.pipelining && found.dsn && found.startTLS && !found.smtpUTF8 && !found.eightBitMIME)
        #expect(found.sizeMax == 1000)
        #expect(found.authMechanisms == ["PLAIN", "LOGIN", "XOAUTH2"])
        #expect(SMTPCapabilities(SMTPReply(code: 250, lines: ["mx", "SIZE 0"])).sizeMax == nil)
    }
}

@Suite struct SMTPSessionTests {
    private typealias Action = SMTPSession.Action

    private let mail = SMTPMail(
        from: "a@example.com",
        to: "b@example.org",
        envelopeID: "m=1.1",
        messageID: "m.1@example.com",
        content: ByteBuffer(string: "Subject: x\r\n\r\n.dot\r\n")
    )

    private func reply(_ text: String) -> SMTPReply {
        let lines = text.split(separator: "\n").map(String.init)
        return SMTPReply(code: Int(lines[0].prefix(3))!, lines: lines.map { String($0.dropFirst(4)) })
    }

    private func write(_ text: String) -> Action { .write(ByteBuffer(string: text)) }

    private func ready(_ extensions: String..., credentials: SMTPCredentials? = nil) -> SMTPSession {
        var session = SMTPSession(.init(clientName: "me", credentials: credentials))
        #expect(session.received(reply("220 hi")) == [write("EHLO me\r\n")])
        let lines = (["250 mx"] + extensions.map { "250 \($0)" }).joined(separator: "\n")
        #expect(session.received(reply(lines)) == [.becomeReady])
        return session
    }

    @Test func oneByOneWithoutPipelining() {
        var session = ready()
        #expect(session.send(mail) == [write("MAIL FROM:<a@example.com>\r\n")])
        #expect(session.received(reply("250 ok")) == [write("RCPT TO:<b@example.org>\r\n")])
        #expect(session.received(reply("250 ok")) == [write("DATA\r\n")])
        #expect(!session.awaitsContentReply)
        #expect(session.received(reply("354 go")) == [write("Subject: x\r\n\r\n..dot\r\n.\r\n")])
        #expect(session.awaitsContentReply)
        #expect(
            session.received(reply("250 2.0.0 queued as 7"))
                == [
                    .finish(.accepted(providerMessageID: "m.1@example.com", detail: "250 2.0.0 queued as 7")),
                    .becomeReady,
                ]
        )
        #expect(session.isReady)
    }

    @Test func pipelinedWithDSNAndSize() {
        var session = ready("PIPELINING", "DSN", "SIZE 1000")
        #expect(
            session.send(mail) == [
                write(
                    "MAIL FROM:<a@example.com> SIZE=20 RET=HDRS ENVID=m+3D1.1\r\n"
                        + "RCPT TO:<b@example.org> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;b@example.org\r\nDATA\r\n"
                )
            ]
        )
        #expect(session.received(reply("250 ok")).isEmpty)
        #expect(session.received(reply("250 ok")).isEmpty)
        #expect(session.received(reply("354 go")).count == 1)
    }

    @Test func refusedRecipientPipelined() {
        var session = ready("PIPELINING")
        _ = session.send(mail)
        #expect(session.received(reply("250 ok")).isEmpty)
        #expect(session.received(reply("550 5.1.1 no")).isEmpty)
        // A server that refuses DATA:
        var refusing = session
        #expect(
            refusing.received(reply("503 5.5.1 no recipients"))
                == [.finish(.rejected(code: "5.1.1", reason: "550 5.1.1 no")), write("RSET\r\n")]
        )
        #expect(refusing.received(reply("250 ok")) == [.becomeReady])
        // One that asks for content all the same gets none:
        #expect(session.received(reply("354 go")) == [write(".\r\n")])
        #expect(
            session.received(reply("554 no recipients"))
                == [.finish(.rejected(code: "5.1.1", reason: "550 5.1.1 no")), write("RSET\r\n")]
        )
    }

    @Test func refusalsByStep() {
        for (step, replies) in [[], ["250 a"], ["250 a", "250 b"], ["250 a", "250 b", "354 c"]].enumerated() {
            for (refusal, expected) in [
                ("451 4.7.1 later", SendOutcome.retriable(code: "4.7.1", reason: "451 4.7.1 later")),
                ("552 5.3.4 big", .rejected(code: "5.3.4", reason: "552 5.3.4 big")),
                ("554 no", .rejected(code: "554", reason: "554 no")),
                (
                    "530 5.7.0 login",
                    .retriable(code: "5.7.0", reason: "authentication: 530 5.7.0 login", retryAfter: .seconds(60))
                ),
            ] {
                var session = ready()
                _ = session.send(mail)
                for text in replies { _ = session.received(reply(text)) }
                #expect(session.received(reply(refusal)) == [.finish(expected), write("RSET\r\n")], "step \(step)")
                #expect(session.received(reply("250 ok")) == [.becomeReady])
            }
        }
    }

    @Test func serverSaysGoodbye() {
        var session = ready("PIPELINING")
        _ = session.send(mail)
        _ = session.received(reply("250 ok"))
        #expect(
            session.received(reply("421 4.3.2 shutting down"))
                == [.finish(.retriable(code: "4.3.2", reason: "421 4.3.2 shutting down")), .close]
        )
    }

    @Test func lostConnections() {
        var idle = ready()
        #expect(idle.closed("gone").isEmpty)
        for (replies, expected) in [
            ([], SendOutcome.retriable(code: "connection", reason: "gone")),
            (["250 a", "250 b"], .retriable(code: "connection", reason: "gone")),
            (["250 a", "250 b", "354 c"], .inDoubt(reason: "after the content: gone")),
        ] {
            var session = ready()
            _ = session.send(mail)
            for text in replies { _ = session.received(reply(text)) }
            #expect(session.closed("gone") == [.finish(expected)])
        }
        // A refusal that was heard is worth more than the lost connection.
        var refused = ready("PIPELINING")
        _ = refused.send(mail)
        _ = refused.received(reply("250 a"))
        _ = refused.received(reply("550 no"))
        _ = refused.received(reply("354 go"))
        #expect(refused.closed("gone") == [.finish(.rejected(code: "550", reason: "550 no"))])
        var opening = SMTPSession(.init(clientName: "me"))
        #expect(opening.closed("gone") == [.fail(.retriable(code: "connect", reason: "gone"))])
    }

    @Test func refusedAtTheDoor() {
        var session = SMTPSession(.init(clientName: "me"))
        #expect(
            session.received(reply("554 go away")) == [.fail(.rejected(code: "554", reason: "554 go away")), .close]
        )
        var old = SMTPSession(.init(clientName: "me"))
        _ = old.received(reply("220 hi"))
        #expect(old.received(reply("502 what")) == [write("HELO me\r\n")])
        #expect(old.received(reply("250 hi")) == [.becomeReady])
        #expect(old.capabilities == SMTPCapabilities())
    }

    @Test func authentication() {
        let credentials = SMTPCredentials(user: "u", password: "p")
        var plain = SMTPSession(.init(clientName: "me", credentials: credentials))
        _ = plain.received(reply("220 hi"))
        #expect(plain.received(reply("250 mx\n250 AUTH LOGIN PLAIN")) == [write("AUTH PLAIN AHUAcA==\r\n")])
        var refused = plain
        #expect(plain.received(reply("235 ok")) == [.becomeReady])
        #expect(
            refused.received(reply("535 5.7.8 no"))
                == [
                    .fail(
                        .retriable(
                            code: "5.7.8",
                            reason: "our credentials were refused: 535 5.7.8 no",
                            retryAfter: .seconds(60)
                        )
                    ),
                    .close,
                ]
        )
        var login = SMTPSession(.init(clientName: "me", credentials: credentials))
        _ = login.received(reply("220 hi"))
        #expect(login.received(reply("250 mx\n250 AUTH LOGIN")) == [write("AUTH LOGIN\r\n")])
        #expect(login.received(reply("334 VXNlcm5hbWU6")) == [write("dQ==\r\n")])
        #expect(login.received(reply("334 UGFzc3dvcmQ6")) == [write("cA==\r\n")])
        #expect(login.received(reply("235 ok")) == [.becomeReady])
        var none = SMTPSession(.init(clientName: "me", credentials: credentials))
        _ = none.received(reply("220 hi"))
        #expect(none.received(reply("250 mx")).last == .close)
    }

    @Test func refusedByTheClientItself() {
        var session = ready("SIZE 10")
        #expect(
            session.send(mail) == [
                .finish(.rejected(code: "5.3.4", reason: "the mail has 20 bytes; the server takes 10"))
            ]
        )
        #expect(session.isReady)
        var beyond = mail
        beyond.to = "जॉन@example.org"
        guard case .finish(.rejected(code: "5.6.7", _)) = session.send(beyond).first else {
            return #expect(Bool(false), "an address beyond ASCII needs SMTPUTF8")
        }
        var modern = ready("SMTPUTF8", "DSN")
        #expect(modern.send(beyond) == [write("MAIL FROM:<a@example.com> SMTPUTF8 RET=HDRS ENVID=m+3D1.1\r\n")])
    }

    @Test func quits() {
        var session = ready()
        #expect(session.quit() == [write("QUIT\r\n")])
        #expect(session.received(reply("221 bye")) == [.close])
    }

    @Test func dotStuffing() {
        func stuffed(_ text: String) -> String { String(buffer: SMTPDotStuffing.stuff(ByteBuffer(string: text))) }
        #expect(stuffed("") == "\r\n.\r\n")
        #expect(stuffed(".\r\n") == "..\r\n.\r\n")
        #expect(stuffed("a\r\n.b\r\n..\r\nc.") == "a\r\n..b\r\n...\r\nc.\r\n.\r\n")
    }

    @Test func xtext() {
        #expect(SMTPSession.xtext("a+b=c é~") == "a+2Bb+3Dc+20+C3+A9~")
        var random = SplitMix64(seed: 5)
        for _ in 0..<300 {
            let text = randomText(&random)
            #expect(SMTPServerSession.fromXtext(SMTPSession.xtext(text)) == text)
        }
    }

    /// Random replies in every state: each mail ends exactly once, and nothing traps.
    @Test(arguments: [UInt64(1), 2, 3, 4]) func randomConversations(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let codes = [220, 221, 235, 250, 334, 354, 421, 450, 451, 530, 535, 550, 554]
        for _ in 0..<2_000 {
            var session = SMTPSession(
                .init(
                    clientName: "me",
                    credentials: Bool.random(using: &random) ? .init(user: "u", password: "p") : nil
                )
            )
            var begun = 0
            var ended = 0
            var isOver = false
            for _ in 0..<Int.random(in: 1...25, using: &random) where !isOver {
                var actions: [Action] = []
                if session.isReady, begun == ended {
                    begun += 1
                    actions = session.send(mail)
                } else {
                    let code = Bool.random(using: &random) ? 250 : codes.randomElement(using: &random)!
                    let lines = code == 250 ? ["mx", "PIPELINING", "AUTH PLAIN"] : ["x"]
                    actions = session.received(SMTPReply(code: code, lines: lines))
                }
                for action in actions {
                    if case .finish = action { ended += 1 }
                    if case .close = action { isOver = true }
                }
                #expect(ended <= begun)
            }
            for action in session.closed("end") { if case .finish = action { ended += 1 } }
            #expect(ended == begun)
        }
    }
}
