// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// A server's reply (RFC 5321, 4.2): a code and one or more lines of text.
struct SMTPReply: Sendable, Equatable {
    /// 200…599.
    var code: Int
    /// The texts behind the code, one per line.
    var lines: [String]

    /// The enhanced status code at the head of the text (RFC 2034), such as `5.1.1`.
    var enhancedCode: String? {
        guard let word = lines.first?.split(separator: " ").first else { return nil }
        let parts = word.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 3, parts.allSatisfy({ Int($0) != nil && $0.count <= 3 }), "245".contains(parts[0]) else {
            return nil
        }
        return String(word)
    }

    /// The reply in one line, for timelines.
    var text: String { "\(code) \(lines.joined(separator: " / "))" }

    /// The most specific code there is.
    var bestCode: String { enhancedCode ?? String(code) }
    /// 2xx.
    var isPositive: Bool { (200..<300).contains(code) }
    /// 5xx.
    var isPermanentFailure: Bool { (500..<600).contains(code) }
}

/// What makes a server's bytes unacceptable.
struct SMTPProtocolError: Error, Sendable, Equatable, CustomStringConvertible {
    var description: String
}

/// Puts replies together from bytes in any portions, with bounded memory.
struct SMTPReplyDecoder: Sendable {
    /// RFC 5321 allows 512; some servers write longer lines.
    static let lineBytesMax = 4_096
    /// The most lines of one reply.
    static let linesMax = 128

    private var buffer = ByteBuffer()
    private var partial: SMTPReply?

    mutating func feed(_ bytes: inout ByteBuffer) { buffer.writeBuffer(&bytes) }

    /// The next whole reply, if there is one. - Throws: if the bytes cannot be a reply.
    mutating func next() throws(SMTPProtocolError) -> SMTPReply? {
        while let line = try nextLine() {
            let (code, isLast, text) = try Self.parse(line)
            var reply = partial ?? SMTPReply(code: code, lines: [])
            guard reply.code == code else {
                throw SMTPProtocolError(description: "a reply that begins with \(reply.code) goes on with \(code)")
            }
            reply.lines.append(text)
            guard !isLast else {
                partial = nil
                return reply
            }
            guard reply.lines.count < Self.linesMax else {
                throw SMTPProtocolError(description: "a reply of more than \(Self.linesMax) lines")
            }
            partial = reply
        }
        return nil
    }

    private mutating func nextLine() throws(SMTPProtocolError) -> ByteBufferView? {
        let view = buffer.readableBytesView
        guard let end = view.prefix(Self.lineBytesMax).firstIndex(of: UInt8(ascii: "\n")) else {
            guard view.count < Self.lineBytesMax else {
                throw SMTPProtocolError(description: "a line of more than \(Self.lineBytesMax) bytes")
            }
            return nil
        }
        var line = view[view.startIndex..<end]
        if line.last == UInt8(ascii: "\r") { line = line.dropLast() }
        buffer.moveReaderIndex(forwardBy: end - view.startIndex + 1)
        buffer.discardReadBytes()
        return line
    }

    private static func parse(_ line: ByteBufferView) throws(SMTPProtocolError) -> (Int, Bool, String) {
        let digits = line.prefix(3)
        guard digits.count == 3, digits.allSatisfy({ (48...57).contains($0) }) else {
            throw SMTPProtocolError(
                description: "'\(String(decoding: line.prefix(40), as: UTF8.self))' is no SMTP reply"
            )
        }
        let code = digits.reduce(0) { $0 * 10 + Int($1) - 48 }
        let separator = line.dropFirst(3).first
        guard (200..<600).contains(code), separator == nil || separator == 0x20 || separator == UInt8(ascii: "-") else {
            throw SMTPProtocolError(
                description: "'\(String(decoding: line.prefix(40), as: UTF8.self))' is no SMTP reply"
            )
        }
        return (code, separator != UInt8(ascii: "-"), String(decoding: line.dropFirst(4), as: UTF8.self))
    }
}

/// What a server offers in its answer to `EHLO`.
struct SMTPCapabilities: Sendable, Equatable {
    var pipelining = false
    var dsn = false
    var smtpUTF8 = false
    var eightBitMIME = false
    var startTLS = false
    /// The largest message, in bytes; nil: not said, or no limit.
    var sizeMax: Int?
    /// Upper case.
    var authMechanisms: Set<String> = []

    init() {}

    /// Reads the lines of the reply; the first is the server's name.
    init(_ reply: SMTPReply) {
        for line in reply.lines.dropFirst() {
            // `AUTH=PLAIN` is an old way of writing `AUTH PLAIN`.
            let words = line.uppercased().split { $0 == " " || $0 == "=" }
            switch words.first {
            case "PIPELINING": pipelining = true
            case "DSN": dsn = true
            case "SMTPUTF8": smtpUTF8 = true
            case "8BITMIME": eightBitMIME = true
            case "STARTTLS": startTLS = true
            case "SIZE": sizeMax = words.dropFirst().first.flatMap { Int($0) }.flatMap { $0 > 0 ? $0 : nil }
            case "AUTH": authMechanisms.formUnion(words.dropFirst().map(String.init))
            default: break
            }
        }
    }
}

/// What a refusal means: the reply code says for how long, the enhanced status code (RFC 3463) says whose fault it is.
enum SMTPStatusMapping {
    /// What a reply other than 2xx and 3xx makes of a mail.
    static func refusal(_ reply: SMTPReply) -> SendOutcome {
        let code = reply.bestCode
        if isOurs(reply) {
            return .retriable(
                code: code,
                reason: "authentication: \(reply.text)",
                retryAfter: SMTPSession.operatorPause
            )
        }
        if isThrottle(reply) {
            return .retriable(code: code, reason: reply.text, retryAfter: throttlePause)
        }
        guard reply.isPermanentFailure else { return .retriable(code: code, reason: reply.text) }
        return isCurable(reply.enhancedCode)
            ? .retriable(code: code, reason: reply.text, retryAfter: SMTPSession.operatorPause)
            : .rejected(code: code, reason: reply.text)
    }

    /// The pause after "too fast".
    static let throttlePause: Duration = .seconds(10)

    /// Authentication (5.7.8, 5.7.0 with 530, 5.7.9, 5.7.11): someone on our side must act.
    private static func isOurs(_ reply: SMTPReply) -> Bool {
        switch reply.code {
        case 530, 534, 535, 538: true
        default: ["5.7.8", "5.7.9", "5.7.11"].contains(reply.enhancedCode)
        }
    }

    /// 450/451/452/454 with 4.7.x or 4.3.2, or words such as "throttl": the server wants us to be slower.
    private static func isThrottle(_ reply: SMTPReply) -> Bool {
        guard (400..<500).contains(reply.code) else { return false }
        let text = reply.text.lowercased()
        return text.contains("throttl") || text.contains("rate") && text.contains("exceeded")
            || text.contains("too many")
    }

    /// 5xx that time cures: mailbox full (x.2.2), system full or not accepting (x.3.1, x.3.2), network (x.4.x).
    private static func isCurable(_ enhanced: String?) -> Bool {
        guard let parts = enhanced?.split(separator: "."), parts.count == 3 else { return false }
        switch (parts[1], parts[2]) {
        case ("2", "2"), ("3", "1"), ("3", "2"): return true
        case ("4", _): return true
        default: return false
        }
    }
}
