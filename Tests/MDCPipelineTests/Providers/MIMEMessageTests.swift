// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore
import Testing

@testable import MDCPipeline

@Suite struct MIMEMessageTests {
    private func message(
        from: String = "a@example.com",
        subject: String = "Hi",
        text: String = "Hello",
        html: String? = nil
    ) -> MIMEMessage {
        MIMEMessage(
            from: from,
            to: "b@example.org",
            subject: subject,
            text: text,
            html: html,
            messageID: "m.1@example.com",
            reference: "m.1",
            date: Timestamp(1_790_000_000_000)
        )
    }

    @Test func plainBytes() {
        #expect(
            String(buffer: message().encoded())
                == """
                Date: Mon, 21 Sep 2026 14:13:20 +0000\r
                From: a@example.com\r
                To: b@example.org\r
                Subject: Hi\r
                Message-ID: <m.1@example.com>\r
                X-MDC-Reference: m.1\r
                MIME-Version: 1.0\r
                Content-Type: text/plain; charset=utf-8\r
                Content-Transfer-Encoding: 7bit\r
                \r
                Hello\r

                """
        )
    }

    @Test func alternative() {
        var mime = message(text: "Grüße, see you at the station", html: "<p>Grüße</p>")
        mime.unsubscribeURL = "https://example.com/u?r=m.1"
        let text = String(buffer: mime.encoded())
        #expect(text.contains("Content-Type: multipart/alternative;\r\n boundary=\"=_mdc_m.1\"\r\n\r\n--=_mdc_m.1\r\n"))
        #expect(
            text.contains(
                "Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe, see you at the station\r\n\r\n--=_mdc_m.1\r\n"
            )
        )
        #expect(text.contains("Content-Type: text/html; charset=utf-8\r\n"))
        #expect(text.hasSuffix("\r\n--=_mdc_m.1--\r\n"))
        #expect(
            text.contains(
                "List-Unsubscribe: <https://example.com/u?r=m.1>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
            )
        )
    }

    @Test func namesOfSenders() {
        #expect(MIMEHeader.mailbox("Shop One <a@b.c>") == "Shop One <a@b.c>")
        #expect(MIMEHeader.mailbox("Smith, J. \"Jo\" <a@b.c>") == "\"Smith, J. \\\"Jo\\\"\" <a@b.c>")
        #expect(MIMEHeader.mailbox("\"Smith, J.\" <a@b.c>") == "\"Smith, J.\" <a@b.c>")
        #expect(MIMEHeader.mailbox("Müller <a@b.c>") == "=?UTF-8?B?TcO8bGxlcg==?=\r\n <a@b.c>")
        #expect(MIMEHeader.mailbox(" a@b.c ") == "a@b.c")
    }

    @Test func headersCannotBeInjected() {
        let text = String(
            buffer: message(from: "Eve\r\nBcc: x@y.z <a@b.c>", subject: "a\r\nBcc: x@y.z\r\n\r\nbody").encoded()
        )
        let head = text.components(separatedBy: "\r\n\r\n")[0]
        #expect(!head.components(separatedBy: "\r\n").contains { $0.lowercased().hasPrefix("bcc") })
        #expect(text.components(separatedBy: "\r\n\r\n")[1] == "Hello\r\n")
    }

    @Test(arguments: [UInt64(1), 2, 3]) func anySubjectComesBackFolded(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        for _ in 0..<300 {
            let subject = randomText(&random, lengthMax: 120)
            let value = MIMEHeader.unstructured(subject, nameLength: 9)
            for (index, line) in value.components(separatedBy: "\r\n").enumerated() {
                #expect(line.utf8.count + (index == 0 ? 9 : 0) <= 76)
                #expect(line.utf8.allSatisfy { (0x20...0x7E).contains($0) })
                #expect(index == 0 || line.hasPrefix(" "))
            }
            #expect(Self.decodeWords(value) == MIMEHeader.oneLine(subject))
        }
    }

    /// An independent reading of RFC 2047, base64 only.
    private static func decodeWords(_ value: String) -> String {
        guard value.hasPrefix("=?") else { return value }
        var bytes = Data()
        for word in value.components(separatedBy: "\r\n ") {
            let parts = word.components(separatedBy: "?")
            bytes.append(Data(base64Encoded: parts[3]) ?? Data())
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test(arguments: [UInt64(1), 2, 3, 4]) func anyBodyComesBack(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        var used: Set<MIMEBody.Encoding> = []
        for _ in 0..<400 {
            var text = randomText(&random, lengthMax: 200)
            if Bool.random(using: &random) {
                text =
                    String(decoding: text.utf8.map { $0 % 95 + 32 }, as: UTF8.self)
                    + (Bool.random(using: &random) ? "é" : "")
            }
            let expected = MIMEBody.normalisedLines(text).map { String(decoding: $0, as: UTF8.self) + "\r\n" }.joined()
            let (encoding, body) = MIMEBody.encode(text)
            used.insert(encoding)
            #expect(body.utf8.allSatisfy { $0 < 0x80 })
            #expect(body.components(separatedBy: "\r\n").allSatisfy { $0.utf8.count <= 76 })
            #expect(body.hasSuffix("\r\n"))
            switch encoding {
            case .sevenBit: #expect(body == expected)
            case .quotedPrintable: #expect(Self.decodeQuotedPrintable(body) == expected)
            case .base64:
                let joined = body.replacingOccurrences(of: "\r\n", with: "")
                #expect(String(decoding: try #require(Data(base64Encoded: joined)), as: UTF8.self) == expected)
            }
        }
        #expect(used.count == 3)
    }

    /// An independent reading of RFC 2045, 6.7.
    private static func decodeQuotedPrintable(_ body: String) -> String {
        var out: [UInt8] = []
        for line in body.components(separatedBy: "\r\n").dropLast() {
            var rest = Array(line.utf8)[...]
            var isSoft = false
            while let byte = rest.popFirst() {
                if byte != UInt8(ascii: "=") {
                    out.append(byte)
                } else if rest.isEmpty {
                    isSoft = true
                } else {
                    out.append(UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) ?? 0)
                    rest = rest.dropFirst(2)
                }
            }
            if !isSoft { out += [13, 10] }
        }
        return String(decoding: out, as: UTF8.self)
    }

    @Test func quotedPrintableKeepsTrailingSpace() {
        #expect(MIMEBody.quotedPrintable(Array("é ".utf8)) == "=C3=A9=20")
        let long = MIMEBody.quotedPrintable(Array(repeating: UInt8(ascii: "a"), count: 77))
        #expect(long == String(repeating: "a", count: 75) + "=\r\naa")
    }

    @Test func dates() {
        #expect(MIMEDate.text(0) == "Thu, 01 Jan 1970 00:00:00 +0000")
        #expect(MIMEDate.text(951_782_400_000) == "Tue, 29 Feb 2000 00:00:00 +0000")
        #expect(MIMEDate.text(-1) == "Wed, 31 Dec 1969 23:59:59 +0000")
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.timeZone = TimeZone(secondsFromGMT: 0)
        formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss '+0000'"
        var random = SplitMix64(seed: 3)
        for _ in 0..<500 {
            let seconds = Int64.random(in: 0...4_102_444_800, using: &random)
            #expect(
                MIMEDate.text(Timestamp(seconds * 1000))
                    == formatter.string(from: Date(timeIntervalSince1970: Double(seconds)))
            )
        }
    }

    @Test func base64AgreesWithFoundation() {
        var random = SplitMix64(seed: 9)
        for length in 0..<100 {
            let bytes = (0..<length).map { _ in UInt8.random(in: 0...255, using: &random) }
            #expect(Base64.encode(bytes) == Data(bytes).base64EncodedString())
        }
    }

    @Test func sameAttemptSameBytes() {
        #expect(message(html: "<b>x</b>").encoded() == message(html: "<b>x</b>").encoded())
    }
}
