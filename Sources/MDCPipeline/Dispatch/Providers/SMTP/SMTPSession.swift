// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// A mail as the session sends it: envelope and finished content.
struct SMTPMail: Sendable, Equatable {
    /// Envelope sender; empty for `<>`.
    var from: String
    /// Envelope recipient.
    var to: String
    /// `ENVID` where the server offers DSN.
    var envelopeID: String
    /// The answer's id if the server takes it.
    var messageID: String
    /// RFC 5322 message with CRLF line ends, not dot-stuffed.
    var content: ByteBuffer

    /// Whether an address has to be written in UTF-8.
    var needsSMTPUTF8: Bool { !(from + to).utf8.allSatisfy { $0 < 0x80 } }
}

/// The client's side of one SMTP connection (RFC 5321), without I/O: events in, actions out.
struct SMTPSession: Sendable {
    /// Who we are to the server.
    struct Identity: Sendable, Equatable {
        /// The name in `EHLO`.
        var clientName: String
        var credentials: SMTPCredentials?
        /// Nothing but `EHLO` is said before the connection is encrypted by `STARTTLS`.
        var requiresStartTLS = false
    }

    enum Action: Sendable, Equatable {
        /// Send bytes.
        case write(ByteBuffer)
        /// Begin the TLS handshake, then call ``SMTPSession/encrypted()``.
        case startTLS
        /// A mail can be sent.
        case becomeReady
        /// What came of the mail under way.
        case finish(SendOutcome)
        /// No connection came about, or it is over; reason for those who wait for it.
        case fail(SendOutcome)
        /// Close the channel.
        case close
    }

    /// Where a mail is: replies to MAIL, RCPT and DATA are outstanding in this order.
    private struct Transaction {
        enum Step { case mail, recipient, data, content }
        var mail: SMTPMail
        var step = Step.mail
        /// MAIL, RCPT and DATA were written at once.
        var isPipelined: Bool
        /// The first refusal; what follows only brings the conversation back in step.
        var refusal: SendOutcome?
    }

    private enum State {
        case greeting, hello(isExtended: Bool)
        case startingTLS, handshake
        case authenticating(mechanism: String, step: Int)
        case ready
        case transaction(Transaction)
        case resetting
        case quitting, closed
    }

    private let identity: Identity
    private var state = State.greeting
    private var isEncrypted = false
    private(set) var capabilities = SMTPCapabilities()

    init(_ identity: Identity) { self.identity = identity }

    var isReady: Bool { if case .ready = state { true } else { false } }

    /// The content was written, and the server has not yet answered for it.
    var awaitsContentReply: Bool {
        if case .transaction(let transaction) = state { transaction.step == .content } else { false }
    }

    /// A reply arrived.
    mutating func received(_ reply: SMTPReply) -> [Action] {
        if reply.code == 421 { return shutDown(by: reply) }
        switch state {
        case .greeting: return greeted(reply)
        case .hello(let isExtended): return helloAnswered(reply, isExtended: isExtended)
        case .startingTLS: return startTLSAnswered(reply)
        case .handshake:
            // What came in the clear after the go-ahead may have been put there by another (CVE-2011-0411).
            return disconnect(.retriable(code: "tls", reason: "an unencrypted reply during the handshake"))
        case .authenticating(let mechanism, let step): return authAnswered(reply, mechanism: mechanism, step: step)
        case .transaction(let transaction): return transactionAnswered(reply, transaction)
        case .resetting:
            guard reply.isPositive else { return disconnect(Self.refusal(reply)) }
            state = .ready
            return [.becomeReady]
        case .quitting:
            state = .closed
            return [.close]
        case .ready:
            return disconnect(.retriable(code: "protocol", reason: "unasked reply: \(reply.text)"))
        case .closed: return []
        }
    }

    /// Begins a mail. - Precondition: the session is ready.
    mutating func send(_ mail: SMTPMail) -> [Action] {
        guard case .ready = state else { preconditionFailure("a mail was given to a session in state \(state)") }
        if mail.needsSMTPUTF8, !capabilities.smtpUTF8 {
            return [.finish(.rejected(code: "5.6.7", reason: "the server does not take addresses beyond ASCII"))]
        }
        if let sizeMax = capabilities.sizeMax, mail.content.readableBytes > sizeMax {
            let reason = "the mail has \(mail.content.readableBytes) bytes; the server takes \(sizeMax)"
            return [.finish(.rejected(code: "5.3.4", reason: reason))]
        }
        let isPipelined = capabilities.pipelining
        state = .transaction(Transaction(mail: mail, isPipelined: isPipelined))
        var commands = ByteBuffer()
        commands.writeString(mailCommand(mail))
        if isPipelined {
            commands.writeString(recipientCommand(mail))
            commands.writeString("DATA\r\n")
        }
        return [.write(commands)]
    }

    /// The channel closed, or will be closed for this reason (a time-out, bytes that are no SMTP).
    mutating func closed(_ reason: String) -> [Action] {
        defer { state = .closed }
        switch state {
        case .transaction(let transaction):
            if let refusal = transaction.refusal { return [.finish(refusal)] }
            if transaction.step == .content { return [.finish(.inDoubt(reason: "after the content: \(reason)"))] }
            return [.finish(.retriable(code: "connection", reason: reason))]
        case .greeting, .hello, .startingTLS, .handshake, .authenticating:
            return [.fail(.retriable(code: "connect", reason: reason))]
        case .ready, .resetting, .quitting, .closed: return []
        }
    }

    /// Ends an idle session politely.
    mutating func quit() -> [Action] {
        switch state {
        case .ready:
            state = .quitting
            return [.write(ByteBuffer(string: "QUIT\r\n"))]
        default:
            return closed("shut down") + [.close]
        }
    }

    // MARK: Opening

    private mutating func greeted(_ reply: SMTPReply) -> [Action] {
        guard reply.code == 220 else { return disconnect(Self.refusal(reply)) }
        state = .hello(isExtended: true)
        return [.write(ByteBuffer(string: "EHLO \(identity.clientName)\r\n"))]
    }

    private mutating func helloAnswered(_ reply: SMTPReply, isExtended: Bool) -> [Action] {
        if isExtended, reply.isPermanentFailure {
            state = .hello(isExtended: false)
            return [.write(ByteBuffer(string: "HELO \(identity.clientName)\r\n"))]
        }
        guard reply.code == 250 else { return disconnect(Self.refusal(reply)) }
        capabilities = isExtended ? SMTPCapabilities(reply) : SMTPCapabilities()
        if identity.requiresStartTLS, !isEncrypted {
            guard capabilities.startTLS else {
                let reason = "the server does not offer STARTTLS; use security = \"tls\" or \"none\", or another server"
                return disconnect(.retriable(code: "tls", reason: reason, retryAfter: SMTPSession.operatorPause))
            }
            state = .startingTLS
            return [.write(ByteBuffer(string: "STARTTLS\r\n"))]
        }
        guard let credentials = identity.credentials else {
            state = .ready
            return [.becomeReady]
        }
        return authenticate(credentials)
    }

    private mutating func startTLSAnswered(_ reply: SMTPReply) -> [Action] {
        guard reply.code == 220 else { return disconnect(Self.refusal(reply)) }
        state = .handshake
        return [.startTLS]
    }

    /// The handshake is over. What the server said before it counts for nothing (RFC 3207, 4.2).
    mutating func encrypted() -> [Action] {
        guard case .handshake = state else { return [] }
        isEncrypted = true
        capabilities = SMTPCapabilities()
        state = .hello(isExtended: true)
        return [.write(ByteBuffer(string: "EHLO \(identity.clientName)\r\n"))]
    }

    private mutating func authenticate(_ credentials: SMTPCredentials) -> [Action] {
        if capabilities.authMechanisms.contains("PLAIN") {
            state = .authenticating(mechanism: "PLAIN", step: 0)
            let token = Base64.encode("\0\(credentials.user)\0\(credentials.password)".utf8)
            return [.write(ByteBuffer(string: "AUTH PLAIN \(token)\r\n"))]
        }
        if capabilities.authMechanisms.contains("LOGIN") {
            state = .authenticating(mechanism: "LOGIN", step: 0)
            return [.write(ByteBuffer(string: "AUTH LOGIN\r\n"))]
        }
        return disconnect(
            .retriable(
                code: "auth",
                reason: "the server offers neither AUTH PLAIN nor LOGIN; remove the credentials or use another",
                retryAfter: SMTPSession.operatorPause
            )
        )
    }

    private mutating func authAnswered(_ reply: SMTPReply, mechanism: String, step: Int) -> [Action] {
        if reply.code == 334, mechanism == "LOGIN", step < 2, let credentials = identity.credentials {
            state = .authenticating(mechanism: mechanism, step: step + 1)
            let token = Base64.encode((step == 0 ? credentials.user : credentials.password).utf8)
            return [.write(ByteBuffer(string: token + "\r\n"))]
        }
        guard reply.code == 235 else {
            return disconnect(
                .retriable(
                    code: reply.bestCode,
                    reason: "our credentials were refused: \(reply.text)",
                    retryAfter: SMTPSession.operatorPause
                )
            )
        }
        state = .ready
        return [.becomeReady]
    }

    // MARK: Transaction

    private mutating func transactionAnswered(_ reply: SMTPReply, _ transaction: Transaction) -> [Action] {
        var transaction = transaction
        switch transaction.step {
        case .mail, .recipient:
            if !reply.isPositive, transaction.refusal == nil { transaction.refusal = Self.refusal(reply) }
            return nextStep(transaction)
        case .data: return dataAnswered(reply, transaction)
        case .content:
            guard reply.isPositive else {
                return conclude(transaction.refusal ?? Self.refusal(reply), needsReset: true)
            }
            if let refusal = transaction.refusal { return conclude(refusal, needsReset: false) }
            return conclude(
                .accepted(providerMessageID: transaction.mail.messageID, detail: reply.text),
                needsReset: false
            )
        }
    }

    private mutating func nextStep(_ transaction: Transaction) -> [Action] {
        var transaction = transaction
        if let refusal = transaction.refusal, !transaction.isPipelined { return conclude(refusal, needsReset: true) }
        let command: String
        if transaction.step == .mail {
            transaction.step = .recipient
            command = recipientCommand(transaction.mail)
        } else {
            transaction.step = .data
            command = "DATA\r\n"
        }
        state = .transaction(transaction)
        return transaction.isPipelined ? [] : [.write(ByteBuffer(string: command))]
    }

    private mutating func dataAnswered(_ reply: SMTPReply, _ transaction: Transaction) -> [Action] {
        var transaction = transaction
        guard reply.code == 354 else {
            return conclude(transaction.refusal ?? Self.refusal(reply), needsReset: true)
        }
        transaction.step = .content
        state = .transaction(transaction)
        // DATA was already on its way when the refusal came: an empty content ends it (RFC 2920, 3.1).
        guard transaction.refusal == nil else { return [.write(ByteBuffer(string: ".\r\n"))] }
        return [.write(SMTPDotStuffing.stuff(transaction.mail.content))]
    }

    private mutating func conclude(_ outcome: SendOutcome, needsReset: Bool) -> [Action] {
        guard needsReset else {
            state = .ready
            return [.finish(outcome), .becomeReady]
        }
        state = .resetting
        return [.finish(outcome), .write(ByteBuffer(string: "RSET\r\n"))]
    }

    // MARK: Endings

    /// 421: the server closes the connection; a mail under way was not taken.
    private mutating func shutDown(by reply: SMTPReply) -> [Action] {
        let outcome = SendOutcome.retriable(code: reply.bestCode, reason: reply.text)
        if case .transaction(let transaction) = state {
            state = .closed
            return [.finish(transaction.refusal ?? outcome), .close]
        }
        return disconnect(outcome)
    }

    private mutating func disconnect(_ outcome: SendOutcome) -> [Action] {
        state = .closed
        return [.fail(outcome), .close]
    }

    // MARK: Words

    /// The pause before another attempt when our configuration is wrong.
    static let operatorPause: Duration = .seconds(60)

    private static func refusal(_ reply: SMTPReply) -> SendOutcome {
        SMTPStatusMapping.refusal(reply)
    }

    private func mailCommand(_ mail: SMTPMail) -> String {
        var command = "MAIL FROM:<\(mail.from)>"
        if capabilities.sizeMax != nil { command += " SIZE=\(mail.content.readableBytes)" }
        if mail.needsSMTPUTF8 { command += " SMTPUTF8" }
        if capabilities.dsn { command += " RET=HDRS ENVID=\(SMTPSession.xtext(mail.envelopeID))" }
        return command + "\r\n"
    }

    private func recipientCommand(_ mail: SMTPMail) -> String {
        var command = "RCPT TO:<\(mail.to)>"
        if capabilities.dsn {
            command += " NOTIFY=SUCCESS,FAILURE,DELAY"
            // ORCPT of an address beyond ASCII needs the type utf-8 (RFC 6533); the report carries our ENVID anyway.
            if !mail.needsSMTPUTF8 { command += " ORCPT=rfc822;\(SMTPSession.xtext(mail.to))" }
        }
        return command + "\r\n"
    }

    /// RFC 3461, 4: printable ASCII but `+` and `=`; the rest as `+XX`.
    static func xtext(_ text: String) -> String {
        var encoded = ""
        for byte in text.utf8 {
            if (0x21...0x7E).contains(byte), byte != UInt8(ascii: "+"), byte != UInt8(ascii: "=") {
                encoded.unicodeScalars.append(Unicode.Scalar(byte))
            } else {
                encoded += "+" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
        return encoded
    }
}

/// User and password for `AUTH`.
public struct SMTPCredentials: Sendable, Hashable, CustomStringConvertible {
    /// The user.
    public var user: String
    /// The password.
    public var password: String

    public init(user: String, password: String) {
        self.user = user
        self.password = password
    }

    /// Without the password.
    public var description: String { "\(user):<secret>" }
}

/// A line that begins with a dot gets a second one, and a line with a dot alone ends the content (RFC 5321, 4.5.2).
enum SMTPDotStuffing {
    static func stuff(_ content: ByteBuffer) -> ByteBuffer {
        var stuffed = ByteBuffer()
        stuffed.reserveCapacity(content.readableBytes + content.readableBytes / 64 + 8)
        let view = content.readableBytesView
        var lineStart = view.startIndex
        while lineStart < view.endIndex {
            let rest = view[lineStart...]
            let lineEnd = rest.firstIndex(of: UInt8(ascii: "\n")).map { $0 + 1 } ?? view.endIndex
            if view[lineStart] == UInt8(ascii: ".") { stuffed.writeInteger(UInt8(ascii: ".")) }
            stuffed.writeBytes(view[lineStart..<lineEnd])
            lineStart = lineEnd
        }
        if !view.suffix(2).elementsEqual([13, 10]) { stuffed.writeStaticString("\r\n") }
        stuffed.writeStaticString(".\r\n")
        return stuffed
    }
}
