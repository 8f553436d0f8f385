// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// A delivery status notification: a mail of type `multipart/report` with a part `message/delivery-status` (RFC 3464).
struct DeliveryReport: Sendable, Equatable {
    /// What happened to the mail for one recipient.
    struct Recipient: Sendable, Equatable {
        enum Action: String, Sendable { case failed, delayed, delivered, relayed, expanded }

        var action: Action
        /// `x.y.z` (RFC 3463).
        var status: String?
        /// `Final-Recipient`, without its type.
        var finalRecipient: String?
        /// `Original-Recipient`, without its type.
        var originalRecipient: String?
        /// `Diagnostic-Code`, without its type.
        var diagnostic: String?
        /// `Remote-MTA`, without its type.
        var remoteServer: String?
    }

    /// `Original-Envelope-Id`, decoded: our `ENVID`.
    var envelopeID: String?
    /// `Reporting-MTA`, without its type.
    var reportingServer: String?
    /// `Message-ID` of the returned mail or headers, without angle brackets.
    var messageID: String?
    /// `X-MDC-Reference` of the returned mail or headers.
    var reference: String?
    var recipients: [Recipient]

    /// Most parts of a report, fields of a block, and recipients.
    static let partsMax = 32
    static let fieldsMax = 256
    static let recipientsMax = 200

    /// Reads a mail; nil if it is no report. Never fails otherwise: what is missing is nil.
    init?(_ mail: ByteBuffer) {
        let whole = MailPart(Array(mail.readableBytesView)[...])
        let type = whole.contentType
        guard type.name == "multipart/report", let boundary = type.parameters["boundary"] else { return nil }
        if let kind = type.parameters["report-type"], kind.lowercased() != "delivery-status" { return nil }
        recipients = []
        var isReport = false
        for part in whole.parts(boundary: boundary) {
            switch part.contentType.name {
            case "message/delivery-status", "message/global-delivery-status":
                isReport = true
                readStatus(part)
            case "message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers":
                let returned = MailPart(part.decodedBody()[...])
                messageID = messageID ?? returned.header("message-id").map(Self.withoutBrackets)
                reference = reference ?? returned.header("x-mdc-reference")
            default: break
            }
        }
        guard isReport, !recipients.isEmpty else { return nil }
    }

    /// The first block is about the message, each further one about a recipient.
    private mutating func readStatus(_ part: MailPart) {
        let blocks = MailPart.blocks(part.decodedBody()[...])
        for (index, fields) in blocks.enumerated() {
            if index == 0 {
                envelopeID = fields["original-envelope-id"].map(Self.decodeXtext)
                reportingServer = fields["reporting-mta"].map(Self.withoutType)
            }
            guard let action = fields["action"].flatMap({ Recipient.Action(rawValue: Self.word($0).lowercased()) }),
                recipients.count < Self.recipientsMax
            else { continue }
            recipients.append(
                Recipient(
                    action: action,
                    status: fields["status"].map(Self.word),
                    finalRecipient: fields["final-recipient"].map(Self.withoutType),
                    originalRecipient: fields["original-recipient"].map(Self.withoutType).map(Self.decodeXtext),
                    diagnostic: fields["diagnostic-code"].map(Self.withoutType),
                    remoteServer: fields["remote-mta"].map(Self.withoutType)
                )
            )
        }
    }

    /// The receipts of our messages: one for each recipient, if the report names our reference or our Message-ID.
    func receipts(provider: String, now: Timestamp) -> [ProviderReceipt] {
        let named = [envelopeID, reference, messageID.map { String($0.prefix { $0 != "@" }) }]
        let ours = named.lazy.compactMap { $0 }.first { MessageReference($0) != nil }
        guard ours != nil || messageID != nil else { return [] }
        return recipients.map { recipient in
            let reason = [
                recipient.action.rawValue, recipient.finalRecipient ?? recipient.originalRecipient,
                recipient.diagnostic, recipient.remoteServer.map { "from \($0)" },
                reportingServer.map { "told by \($0)" },
            ]
            return ProviderReceipt(
                provider: provider,
                channel: .email,
                providerMessageID: messageID ?? "",
                status: Self.status(recipient),
                code: recipient.status,
                reason: String(
                    decoding: reason.compactMap { $0 }.joined(separator: "; ").utf8
                        .prefix(CallbackParser.reasonBytesMax),
                    as: UTF8.self
                ),
                at: now,
                reference: ours
            )
        }
    }

    /// `relayed` proves no delivery: the next server does not report.
    static func status(_ recipient: Recipient) -> ProviderReceipt.Status {
        switch recipient.action {
        case .delivered, .expanded: return .delivered
        case .relayed, .delayed: return .sent
        case .failed:
            // A relay that gave up after days says so with 4.4.7, and no further attempt of ours changes it soon.
            if let status = recipient.status, status == "4.4.7" || status == "5.4.7" { return .expired }
            return MailEventMapping.status(event: "failed", code: recipient.status)
        }
    }

    private static func word(_ text: String) -> String {
        String(text.prefix { $0 != " " && $0 != "(" && $0 != "\t" })
    }

    private static func withoutType(_ text: String) -> String {
        guard let semicolon = text.firstIndex(of: ";") else { return text }
        return String(text[text.index(after: semicolon)...].drop { $0 == " " })
    }

    private static func withoutBrackets(_ text: String) -> String {
        String(text.drop { $0 == " " || $0 == "<" }.prefix { $0 != ">" })
    }

    /// RFC 3461, 4: `+XX` is a byte.
    static func decodeXtext(_ text: String) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "+"), rest.count >= 2,
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            else {
                bytes.append(byte)
                continue
            }
            rest = rest.dropFirst(2)
            bytes.append(value)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// A part of a mail: fields and body.
struct MailPart: Sendable {
    /// Names in lower case; the first of each name counts.
    private(set) var fields: [String: String]
    private(set) var body: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) {
        (fields, body) = Self.readFields(bytes)
    }

    func header(_ name: String) -> String? { fields[name] }

    /// The value of `Content-Type`, in lower case, with its parameters.
    var contentType: (name: String, parameters: [String: String]) {
        guard let value = fields["content-type"] else { return ("text/plain", [:]) }
        var parameters: [String: String] = [:]
        var pieces = Self.splitOutsideQuotes(value)[...]
        let name = pieces.popFirst().map { String($0).trimmed.lowercased() } ?? ""
        for piece in pieces {
            guard let equals = piece.firstIndex(of: "=") else { continue }
            var text = String(piece[piece.index(after: equals)...]).trimmed
            if text.count >= 2, text.hasPrefix("\""), text.hasSuffix("\"") {
                text = String(text.dropFirst().dropLast())
            }
            parameters[String(piece[..<equals]).trimmed.lowercased()] = text
        }
        return (name, parameters)
    }

    /// The body without its transfer encoding.
    func decodedBody() -> [UInt8] {
        switch fields["content-transfer-encoding"]?.trimmed.lowercased() {
        case "base64": Self.decodeBase64(body)
        case "quoted-printable": Self.decodeQuotedPrintable(body)
        default: Array(body)
        }
    }

    /// The parts between lines `--boundary`, up to `--boundary--`.
    func parts(boundary: String) -> [MailPart] {
        let mark = Array("--\(boundary)".utf8)
        var parts: [MailPart] = []
        var start: Int?
        var at = body.startIndex
        while at < body.endIndex {
            let end = body[at...].firstIndex(of: 10).map { $0 + 1 } ?? body.endIndex
            if body[at..<end].starts(with: mark) {
                if let start, parts.count < DeliveryReport.partsMax { parts.append(MailPart(body[start..<at])) }
                if body[at..<end].dropFirst(mark.count).starts(with: [0x2D, 0x2D]) { return parts }
                start = end
            }
            at = end
        }
        if let start, parts.count < DeliveryReport.partsMax { parts.append(MailPart(body[start...])) }
        return parts
    }

    /// Blocks of fields that empty lines separate.
    static func blocks(_ bytes: ArraySlice<UInt8>) -> [[String: String]] {
        var blocks: [[String: String]] = []
        var rest = bytes
        while !rest.isEmpty, blocks.count <= DeliveryReport.recipientsMax {
            let (fields, body) = readFields(rest)
            if !fields.isEmpty { blocks.append(fields) }
            guard body.count < rest.count else { break }
            rest = body
        }
        return blocks
    }

    /// Fields up to an empty line, unfolded; and what follows it.
    private static func readFields(_ bytes: ArraySlice<UInt8>) -> ([String: String], ArraySlice<UInt8>) {
        var fields: [String: String] = [:]
        var name: String?
        var at = bytes.startIndex
        while at < bytes.endIndex {
            let end = bytes[at...].firstIndex(of: 10) ?? bytes.endIndex
            var line = bytes[at..<end]
            if line.last == 13 { line = line.dropLast() }
            at = min(end + 1, bytes.endIndex)
            if line.isEmpty { return (fields, bytes[at...]) }
            if line.first == 0x20 || line.first == 9 {
                if let name, fields[name]!.utf8.count < 8_192 {
                    fields[name]! += " " + String(decoding: line, as: UTF8.self).trimmed
                }
                continue
            }
            guard let colon = line.firstIndex(of: UInt8(ascii: ":")), fields.count < DeliveryReport.fieldsMax else {
                name = nil
                continue
            }
            let field = String(decoding: line[..<colon], as: UTF8.self).trimmed.lowercased()
            guard fields[field] == nil else {
                name = nil
                continue
            }
            fields[field] = String(decoding: line[(colon + 1)...].prefix(8_192), as: UTF8.self).trimmed
            name = field
        }
        return (fields, bytes[bytes.endIndex...])
    }

    private static func splitOutsideQuotes(_ text: String) -> [Substring] {
        var isQuoted = false
        return text.split(whereSeparator: { character in
            if character == "\"" { isQuoted.toggle() }
            return character == ";" && !isQuoted
        })
    }

    static func decodeBase64(_ bytes: some Sequence<UInt8>) -> [UInt8] {
        var out: [UInt8] = []
        var group: UInt32 = 0
        var bits = 0
        for byte in bytes {
            let value: UInt32
            switch byte {
            case 0x41...0x5A: value = UInt32(byte) - 0x41
            case 0x61...0x7A: value = UInt32(byte) - 0x61 + 26
            case 0x30...0x39: value = UInt32(byte) - 0x30 + 52
            case UInt8(ascii: "+"), UInt8(ascii: "-"): value = 62
            case UInt8(ascii: "/"), UInt8(ascii: "_"): value = 63
            default: continue
            }
            group = group << 6 | value
            bits += 6
            if bits >= 8 {
                bits -= 8
                out.append(UInt8(truncatingIfNeeded: group >> UInt32(bits)))
            }
        }
        return out
    }

    private static func decodeQuotedPrintable(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        var out: [UInt8] = []
        var rest = bytes
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "=") else {
                out.append(byte)
                continue
            }
            if rest.starts(with: [13, 10]) {
                rest = rest.dropFirst(2)
            } else if rest.first == 10 {
                rest = rest.dropFirst()
            } else if let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) {
                out.append(value)
                rest = rest.dropFirst(2)
            } else {
                out.append(byte)
            }
        }
        return out
    }
}

extension String {
    /// Without spaces and tabs at both ends.
    fileprivate var trimmed: String {
        var text = self[...]
        while text.first == " " || text.first == "\t" { text = text.dropFirst() }
        while text.last == " " || text.last == "\t" { text = text.dropLast() }
        return String(text)
    }
}
