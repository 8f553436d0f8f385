// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// A part of a mail: a text, a file, or parts in a container (RFC 2046).
indirect enum MIMEPart: Sendable, Equatable {
    case text(String, type: String)
    case file(MessageAttachment, isInline: Bool)
    case container(Container, [MIMEPart])

    enum Container: String, Sendable {
        /// The same in several forms, the best one last.
        case alternative
        /// HTML with the images that it names (RFC 2387).
        case related
        /// A mail and the files that come with it.
        case mixed
    }

    /// The parts of a mail: images that the HTML names stand beside it, within the alternative; files come after the whole.
    init(text: String, html: String?, attachments: [MessageAttachment]) {
        let inline = html == nil ? [] : attachments.filter { $0.contentID != nil }
        let files = html == nil ? attachments : attachments.filter { $0.contentID == nil }
        var body = MIMEPart.text(text, type: "text/plain")
        if let html {
            var best = MIMEPart.text(html, type: "text/html")
            if !inline.isEmpty { best = .container(.related, [best] + inline.map { .file($0, isInline: true) }) }
            body = .container(.alternative, [body, best])
        }
        self = files.isEmpty ? body : .container(.mixed, [body] + files.map { .file($0, isInline: false) })
    }

    /// Writes headers and body. - Parameter name: what boundaries are made of; no line of a body begins so.
    func write(into out: inout ByteBuffer, boundary name: String) {
        switch self {
        case .text(let content, let type):
            let (encoding, body) = MIMEBody.encode(content)
            out.writeString(
                "Content-Type: \(type); charset=utf-8\r\nContent-Transfer-Encoding: \(encoding.rawValue)\r\n\r\n"
            )
            out.writeString(body)
        case .file(let file, let isInline): Self.write(file, isInline, into: &out)
        case .container(let container, let parts):
            // Never the beginning of one another: they differ in the letter before the second underscore.
            let letter = container == .alternative ? "mdc" : container == .related ? "mdr" : "mdm"
            let boundary = "=_\(letter)_\(name)"
            let type = container == .related ? ";\r\n type=\"text/html\"" : ""
            out.writeString(
                "Content-Type: multipart/\(container.rawValue);\r\n boundary=\"\(boundary)\"\(type)\r\n\r\n"
            )
            for part in parts {
                out.writeString("--\(boundary)\r\n")
                part.write(into: &out, boundary: name)
                out.writeStaticString("\r\n")
            }
            out.writeString("--\(boundary)--\r\n")
        }
    }

    private static func write(_ file: MessageAttachment, _ isInline: Bool, into out: inout ByteBuffer) {
        out.writeString("Content-Type: \(MIMEHeader.oneLine(file.contentType))\r\n")
        out.writeStaticString("Content-Transfer-Encoding: base64\r\n")
        let disposition = isInline ? "inline" : "attachment"
        out.writeString("Content-Disposition: \(disposition);\r\n \(MIMEParameter.encode("filename", file.name))\r\n")
        if let contentID = file.contentID { out.writeString("Content-ID: <\(MIMEHeader.oneLine(contentID))>\r\n") }
        out.writeStaticString("\r\n")
        let bytes = Array(file.data.utf8)
        for start in stride(from: 0, to: bytes.count, by: 76) {
            out.writeBytes(bytes[start..<min(start + 76, bytes.count)])
            out.writeStaticString("\r\n")
        }
    }
}

/// Parameters of header fields beyond short ASCII (RFC 2231).
enum MIMEParameter {
    /// `name="value"`; or percent-encoded UTF-8, cut into numbered pieces where it is long.
    static func encode(_ name: String, _ value: String) -> String {
        let isPlain = value.utf8.allSatisfy { (0x20...0x7E).contains($0) && $0 != 0x22 && $0 != 0x5C }
        if isPlain, value.utf8.count <= 60 { return "\(name)=\"\(value)\"" }
        var pieces: [String] = []
        var piece = ""
        // The first also bears `UTF-8''`; lines stay below 78 signs.
        for character in value.unicodeScalars {
            let encoded = Array(String(character).utf8).map(percent).joined()
            if piece.utf8.count + encoded.utf8.count > 50 {
                pieces.append(piece)
                piece = ""
            }
            piece += encoded
        }
        pieces.append(piece)
        if pieces.count == 1 { return "\(name)*=UTF-8''\(piece)" }
        return pieces.enumerated().map { index, piece in
            "\(name)*\(index)*=\(index == 0 ? "UTF-8''" : "")\(piece)"
        }
        .joined(separator: ";\r\n ")
    }

    private static func percent(_ byte: UInt8) -> String {
        if EmailAddress.isAlphanumeric(byte) || "-._~".utf8.contains(byte) { return String(UnicodeScalar(byte)) }
        let digits = Array("0123456789ABCDEF".utf8)
        return "%" + String(UnicodeScalar(digits[Int(byte >> 4)])) + String(UnicodeScalar(digits[Int(byte & 15)]))
    }
}
