// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// A mail in the form of RFC 5322 with MIME (RFC 2045–2047): made of parts, written as bytes with CRLF line ends.
///
/// The bytes depend on the fields alone, so that the same attempt makes the same mail. They are ASCII in every case but one: an address beyond ASCII.
struct MIMEMessage: Sendable, Equatable {
    /// `Name <a@b>` or `a@b`.
    var from: String
    var to: String
    var subject: String
    var text: String
    var html: String?
    /// Without angle brackets.
    var messageID: String
    /// Our reference, as `X-MDC-Reference`.
    var reference: String
    var date: Timestamp
    /// `https:` or `mailto:` address for `List-Unsubscribe`.
    var unsubscribeURL: String?
    var attachments: [MessageAttachment] = []

    func encoded() -> ByteBuffer {
        var out = ByteBuffer()
        let files = attachments.reduce(0) { $0 + $1.data.utf8.count / 76 * 78 + 1_024 }
        out.reserveCapacity(1024 + text.utf8.count * 2 + (html?.utf8.count ?? 0) * 2 + files)
        header("Date", MIMEDate.text(date), into: &out)
        header("From", MIMEHeader.mailbox(from), into: &out)
        header("To", MIMEHeader.mailbox(to), into: &out)
        header("Subject", MIMEHeader.unstructured(subject, nameLength: 9), into: &out)
        header("Message-ID", "<\(MIMEHeader.oneLine(messageID))>", into: &out)
        header("X-MDC-Reference", MIMEHeader.oneLine(reference), into: &out)
        if let unsubscribeURL {
            let url = MIMEHeader.oneLine(unsubscribeURL)
            header("List-Unsubscribe", "<\(url)>", into: &out)
            // RFC 8058: one click, by POST.
            if url.hasPrefix("https:") { header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click", into: &out) }
        }
        header("MIME-Version", "1.0", into: &out)
        MIMEPart(text: text, html: html, attachments: attachments)
            .write(into: &out, boundary: MIMEHeader.token(reference))
        return out
    }

    private func header(_ name: String, _ value: String, into out: inout ByteBuffer) {
        out.writeString("\(name): \(value)\r\n")
    }
}

/// Values of headers.
enum MIMEHeader {
    /// Line breaks and other controls become spaces, so that no value can begin another header.
    static func oneLine(_ text: String) -> String {
        guard text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) else { return text }
        var line = ""
        for scalar in text.unicodeScalars {
            line.unicodeScalars.append(scalar.value < 0x20 || scalar.value == 0x7F ? " " : scalar)
        }
        return line
    }

    /// Only what may stand in a boundary.
    static func token(_ text: String) -> String {
        String(
            String.UnicodeScalarView(
                text.unicodeScalars.prefix(50).map { scalar in
                    scalar.isASCII
                        && (scalar.properties.isAlphabetic || ("0"..."9").contains(scalar) || scalar == "."
                            || scalar == "-")
                        ? scalar : "_"
                }
            )
        )
    }

    /// Splits `Name <a@b>`; the name is empty for a bare address.
    static func splitMailbox(_ text: String) -> (name: String, address: String) {
        let line = oneLine(text)
        guard line.hasSuffix(">"), let open = line.lastIndex(of: "<") else {
            return ("", line.trimmingSpaces())
        }
        var name = String(line[..<open]).trimmingSpaces()
        if name.count >= 2, name.hasPrefix("\""), name.hasSuffix("\"") {
            name = String(name.dropFirst().dropLast()).replacing("\\\"", with: "\"").replacing("\\\\", with: "\\")
        }
        return (name, String(line[line.index(after: open)...].dropLast()).trimmingSpaces())
    }

    /// A mailbox: the name as an atom, a quoted string or encoded words.
    static func mailbox(_ text: String) -> String {
        let (name, address) = splitMailbox(text)
        guard !name.isEmpty else { return address }
        let isAtom = name.utf8.allSatisfy { byte in
            byte == 0x20 || (0x30...0x39).contains(byte) || (0x41...0x5A).contains(byte) || (0x61...0x7A).contains(byte)
        }
        if isAtom, name.utf8.count <= 60 { return "\(name) <\(address)>" }
        if name.utf8.allSatisfy({ $0 < 0x80 }), name.utf8.count <= 60 {
            let quoted = name.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"")
            return "\"\(quoted)\" <\(address)>"
        }
        return encodedWords(name, firstLimit: 60) + "\r\n <\(address)>"
    }

    /// Free text: as it is where it is short ASCII, else encoded words.
    static func unstructured(_ text: String, nameLength: Int) -> String {
        let line = oneLine(text)
        let isPlain = line.utf8.allSatisfy { (0x20...0x7E).contains($0) } && !line.contains("=?")
        // RFC 5322 recommends 78 and forbids more than 998; longer text is folded inside encoded words.
        if isPlain, line.utf8.count + nameLength <= 76, !line.hasPrefix(" "), !line.hasSuffix(" ") { return line }
        return encodedWords(line, firstLimit: 75 - nameLength)
    }

    /// RFC 2047: words of at most 75 characters, none of which splits a character.
    static func encodedWords(_ text: String, firstLimit: Int) -> String {
        let overhead = "=?UTF-8?B??=".utf8.count
        var words: [String] = []
        var chunk: [UInt8] = []
        var limit = (firstLimit - overhead) / 4 * 3
        for scalar in text.unicodeScalars {
            let bytes = Array(String(scalar).utf8)
            if chunk.count + bytes.count > limit, !chunk.isEmpty {
                words.append("=?UTF-8?B?\(Base64.encode(chunk))?=")
                chunk.removeAll(keepingCapacity: true)
                limit = (75 - overhead) / 4 * 3
            }
            chunk += bytes
        }
        words.append("=?UTF-8?B?\(Base64.encode(chunk))?=")
        return words.joined(separator: "\r\n ")
    }
}

/// Bodies of parts.
enum MIMEBody {
    enum Encoding: String, Sendable { case sevenBit = "7bit", quotedPrintable = "quoted-printable", base64 }

    /// The body with CRLF line ends, in whichever encoding is shortest; it ends with a line end.
    static func encode(_ content: String) -> (Encoding, String) {
        let lines = normalisedLines(content)
        if lines.allSatisfy({ line in line.count <= 76 && line.allSatisfy { (0x20...0x7E).contains($0) || $0 == 9 } }) {
            return (.sevenBit, lines.map { String(decoding: $0, as: UTF8.self) }.joined(separator: "\r\n") + "\r\n")
        }
        let quoted = lines.map(quotedPrintable).joined(separator: "\r\n") + "\r\n"
        let base64 = base64Lines(lines)
        return quoted.utf8.count <= base64.utf8.count ? (.quotedPrintable, quoted) : (.base64, base64)
    }

    /// Lines without their ends; CRLF, CR and LF all end one. A line end at the very end opens no further line.
    static func normalisedLines(_ content: String) -> [[UInt8]] {
        var lines: [[UInt8]] = []
        var line: [UInt8] = []
        var previous: UInt8 = 0
        for byte in content.utf8 {
            if byte == 10, previous == 13 {
                previous = byte
                continue
            }
            if byte == 10 || byte == 13 {
                lines.append(line)
                line.removeAll()
            } else {
                line.append(byte)
            }
            previous = byte
        }
        if !line.isEmpty || lines.isEmpty { lines.append(line) }
        return lines
    }

    /// RFC 2045, 6.7: at most 76 characters a line, none of which ends in white space.
    static func quotedPrintable(_ line: [UInt8]) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var out: [UInt8] = []
        var width = 0
        for (index, byte) in line.enumerated() {
            let isLast = index == line.count - 1
            let isSpace = byte == 0x20 || byte == 9
            let isLiteral = isSpace ? !isLast : (0x21...0x7E).contains(byte) && byte != UInt8(ascii: "=")
            let needed = isLiteral ? 1 : 3
            if width + needed > (isLast ? 76 : 75) {
                out += [UInt8(ascii: "="), 13, 10]
                width = 0
            }
            if isLiteral {
                out.append(byte)
            } else {
                out += [UInt8(ascii: "="), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
            }
            width += needed
        }
        return String(decoding: out, as: UTF8.self)
    }

    private static func base64Lines(_ lines: [[UInt8]]) -> String {
        let bytes = lines.flatMap { line -> [UInt8] in line + [13, 10] }
        var out = ""
        for start in stride(from: 0, to: bytes.count, by: 57) {
            out += Base64.encode(bytes[start..<min(start + 57, bytes.count)]) + "\r\n"
        }
        return out
    }
}

/// `Date` headers.
enum MIMEDate {
    /// RFC 5322, 3.3, in UTC.
    static func text(_ timestamp: Timestamp) -> String {
        let seconds = timestamp.rawValue.flooredQuotient(1000)
        let days = seconds.flooredQuotient(86_400)
        let time = seconds - days * 86_400
        let (year, month, day) = civilDate(days)
        let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][Int((days % 7 + 7) % 7)]
        let name = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][month - 1]
        func two(_ value: Int64) -> String { value < 10 ? "0\(value)" : "\(value)" }
        let clock = "\(two(time / 3600)):\(two(time / 60 % 60)):\(two(time % 60))"
        return "\(weekday), \(two(Int64(day))) \(name) \(year) \(clock) +0000"
    }

    /// Days since 1970-01-01 to the Gregorian calendar, by counting in 400-year cycles that begin on 1 March.
    static func civilDate(_ days: Int64) -> (year: Int64, month: Int, day: Int) {
        let shifted = days + 719_468
        let cycle = shifted.flooredQuotient(146_097)
        let dayOfCycle = shifted - cycle * 146_097
        let yearOfCycle = (dayOfCycle - dayOfCycle / 1_460 + dayOfCycle / 36_524 - dayOfCycle / 146_096) / 365
        let dayOfYear = dayOfCycle - (365 * yearOfCycle + yearOfCycle / 4 - yearOfCycle / 100)
        let marchMonth = (5 * dayOfYear + 2) / 153
        let day = Int(dayOfYear - (153 * marchMonth + 2) / 5 + 1)
        let month = Int(marchMonth < 10 ? marchMonth + 3 : marchMonth - 9)
        return (yearOfCycle + cycle * 400 + (month <= 2 ? 1 : 0), month, day)
    }
}

extension Int64 {
    fileprivate func flooredQuotient(_ divisor: Int64) -> Int64 {
        self >= 0 ? self / divisor : -((-self + divisor - 1) / divisor)
    }
}

extension String {
    fileprivate func trimmingSpaces() -> String {
        var text = Substring(self)
        while text.first == " " || text.first == "\t" { text = text.dropFirst() }
        while text.last == " " || text.last == "\t" { text = text.dropLast() }
        return String(text)
    }
}

/// Base64 (RFC 4648, section 4).
enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    static func encode(_ bytes: some Sequence<UInt8>) -> String {
        var out: [UInt8] = []
        var group: UInt32 = 0
        var count = 0
        for byte in bytes {
            group = group << 8 | UInt32(byte)
            count += 1
            if count == 3 {
                append(group, characters: 4, to: &out)
                (group, count) = (0, 0)
            }
        }
        if count > 0 {
            append(group << UInt32(8 * (3 - count)), characters: count + 1, to: &out)
            out += Array(repeating: UInt8(ascii: "="), count: 3 - count)
        }
        return String(decoding: out, as: UTF8.self)
    }

    private static func append(_ group: UInt32, characters: Int, to out: inout [UInt8]) {
        for index in 0..<characters { out.append(alphabet[Int(group >> UInt32(18 - 6 * index) & 63)]) }
    }
}
