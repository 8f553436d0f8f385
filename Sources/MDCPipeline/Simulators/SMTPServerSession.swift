// SPDX-License-Identifier: Apache-2.0

import Foundation
import NIOCore

/// A mail that a simulated server was given.
struct SimulatedMail: Sendable, Equatable {
    var from: String
    var to: [String]
    /// Decoded `ENVID`.
    var envelopeID: String?
    /// As received, dots removed.
    var content: ByteBuffer

    /// The value of a header, unfolded.
    func header(_ name: String) -> String? {
        let text = String(buffer: content)
        let head = text.range(of: "\r\n\r\n").map { text[..<$0.lowerBound] } ?? text[...]
        var value: String?
        for line in head.split(separator: "\r\n") {
            if let begun = value {
                guard line.hasPrefix(" ") || line.hasPrefix("\t") else { return begun }
                value = begun + line
            } else if line.lowercased().hasPrefix(name.lowercased() + ":") {
                value = String(line.dropFirst(name.count + 1).drop { $0 == " " })
            }
        }
        return value
    }
}

/// The server's side of one SMTP connection, without I/O: lines in, actions out.
struct SMTPServerSession: Sendable {
    enum Action: Sendable, Equatable {
        /// Send a reply; with the line end.
        case reply(String)
        /// Ask what to do with this recipient, then call ``recipientDecided(_:)``.
        case decideRecipient(String, envelopeID: String?)
        /// Ask what to do with this mail, then call ``mailDecided(_:)``.
        case decideMail(SimulatedMail)
        case close
    }

    /// The largest mail, in bytes.
    static let sizeMax = 10 << 20
    /// The longest command line, in bytes.
    static let lineBytesMax = 4_096

    /// What is offered after `EHLO`.
    var extensions: [String]
    private var mail: SimulatedMail?
    private var isInContent = false
    private var isTooLarge = false

    init(extensions: [String]) { self.extensions = extensions }

    func greeting() -> String { "220 simulator ESMTP\r\n" }

    /// A line without its end.
    mutating func received(_ line: ByteBuffer) -> [Action] {
        isInContent ? contentLine(line) : command(String(buffer: line))
    }

    /// The recipient is taken, or refused with this reply.
    mutating func recipientDecided(_ recipient: String, refusal: String?) -> [Action] {
        if let refusal { return [.reply(refusal + "\r\n")] }
        mail?.to.append(recipient)
        return [.reply("250 2.1.5 Ok\r\n")]
    }

    private mutating func contentLine(_ line: ByteBuffer) -> [Action] {
        guard var mail else { preconditionFailure("content without a mail") }
        let view = line.readableBytesView
        if view.elementsEqual([UInt8(ascii: ".")]) {
            isInContent = false
            self.mail = nil
            if isTooLarge { return [.reply("552 5.3.4 Message too big\r\n")] }
            return [.decideMail(mail)]
        }
        guard mail.content.readableBytes + view.count + 2 <= Self.sizeMax else {
            isTooLarge = true
            return []
        }
        mail.content.writeBytes(view.first == UInt8(ascii: ".") ? view.dropFirst() : view)
        mail.content.writeStaticString("\r\n")
        self.mail = mail
        return []
    }

    private mutating func command(_ line: String) -> [Action] {
        let verb = line.prefix { $0 != " " && $0 != ":" }.uppercased()
        switch verb {
        case "EHLO":
            let lines = ["simulator"] + extensions
            let reply = lines.enumerated().map { index, text in
                "250\(index == lines.count - 1 ? " " : "-")\(text)\r\n"
            }
            return [.reply(reply.joined())]
        case "HELO": return [.reply("250 simulator\r\n")]
        case "MAIL": return mailFrom(line)
        case "RCPT": return recipient(line)
        case "DATA": return data()
        case "RSET":
            mail = nil
            return [.reply("250 2.0.0 Ok\r\n")]
        case "NOOP": return [.reply("250 2.0.0 Ok\r\n")]
        case "QUIT": return [.reply("221 2.0.0 Bye\r\n"), .close]
        default: return [.reply("502 5.5.2 Unknown command\r\n")]
        }
    }

    private mutating func mailFrom(_ line: String) -> [Action] {
        guard mail == nil else { return [.reply("503 5.5.1 Nested MAIL\r\n")] }
        guard let path = Self.path(line) else { return [.reply("501 5.1.7 MAIL FROM:<address>\r\n")] }
        let envelopeID = line.split(separator: " ").lazy
            .first { $0.uppercased().hasPrefix("ENVID=") }
            .flatMap { Self.fromXtext(String($0.dropFirst(6))) }
        mail = SimulatedMail(from: path, to: [], envelopeID: envelopeID, content: ByteBuffer())
        isTooLarge = false
        return [.reply("250 2.1.0 Ok\r\n")]
    }

    private mutating func recipient(_ line: String) -> [Action] {
        guard let mail else { return [.reply("503 5.5.1 MAIL first\r\n")] }
        guard let path = Self.path(line), !path.isEmpty else { return [.reply("501 5.1.3 RCPT TO:<address>\r\n")] }
        guard mail.to.count < 100 else { return [.reply("452 4.5.3 Too many recipients\r\n")] }
        return [.decideRecipient(path, envelopeID: mail.envelopeID)]
    }

    private mutating func data() -> [Action] {
        guard let mail, !mail.to.isEmpty else { return [.reply("503 5.5.1 RCPT first\r\n")] }
        isInContent = true
        return [.reply("354 End with <CR><LF>.<CR><LF>\r\n")]
    }

    private static func path(_ line: String) -> String? {
        guard let open = line.firstIndex(of: "<"), let close = line[open...].firstIndex(of: ">") else { return nil }
        return String(line[line.index(after: open)..<close])
    }

    static func fromXtext(_ text: String) -> String? {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "+") else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else {
                return nil
            }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
