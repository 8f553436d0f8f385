// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCPipeline

/// Reports about mails (RFC 3464).
@Suite struct DeliveryReportTests {
    private let report = """
        From: MAILER-DAEMON@mx.test
        To: bounce@returns.example
        Content-Type: multipart/report; report-type=delivery-status;
        \tboundary="x=_y"
        MIME-Version: 1.0

        This is a MIME message.
        --x=_y
        Content-Type: text/plain

        I'm sorry.
        --x=_y
        Content-Type: message/delivery-status

        Reporting-MTA: dns; mx.test
        Original-Envelope-Id: 0199a000-0000-7000-8000-000000000001.2+2B

        Final-Recipient: rfc822; b@example.org
        Original-Recipient: rfc822;b+2Bc@example.org
        Action: failed
        Status: 5.1.1 (unknown)
        Remote-MTA: dns; mail.example.org
        Diagnostic-Code: smtp; 550 5.1.1 <b@example.org>: no such
         user here

        Final-Recipient: rfc822; c@example.org
        Action: delayed
        Status: 4.2.2
        --x=_y
        Content-Type: message/rfc822

        Message-ID: <0199a000-0000-7000-8000-000000000001.2@example.com>
        X-MDC-Reference: 0199a000-0000-7000-8000-000000000001.2
        Subject: x

        body
        --x=_y--

        """

    @Test(arguments: ["\n", "\r\n"]) func aReport(lineEnd: String) throws {
        let text = report.replacing("\n", with: lineEnd)
        let read = try #require(DeliveryReport(ByteBuffer(string: text)))
        #expect(read.envelopeID == "0199a000-0000-7000-8000-000000000001.2+")
        #expect(read.reference == "0199a000-0000-7000-8000-000000000001.2")
        #expect(read.reportingServer == "mx.test")
        #expect(read.recipients.count == 2)
        #expect(read.recipients[0].originalRecipient == "b+c@example.org")
        #expect(read.recipients[0].diagnostic == "550 5.1.1 <b@example.org>: no such user here")
        let receipts = read.receipts(provider: "smtp", now: 5)
        #expect(receipts.map(\.status) == [.failed, .sent])
        #expect(receipts.map(\.code) == ["5.1.1", "4.2.2"])
        // The envelope id is spoilt in this one; the returned header names the message all the same.
        #expect(receipts.allSatisfy { $0.reference == "0199a000-0000-7000-8000-000000000001.2" })
    }

    @Test(arguments: [
        ("failed", "5.2.2", ProviderReceipt.Status.undelivered), ("failed", "5.4.1", .undelivered),
        ("failed", "4.4.7", .expired), ("failed", "5.7.1", .failed), ("delivered", "2.0.0", .delivered),
        ("relayed", "2.0.0", .sent), ("expanded", "2.0.0", .delivered), ("delayed", "4.0.0", .sent),
    ])
    func statuses(action: String, status: String, expected: ProviderReceipt.Status) throws {
        let recipient = DeliveryReport.Recipient(
            action: try #require(.init(rawValue: action)),
            status: status
        )
        #expect(DeliveryReport.status(recipient) == expected)
    }

    @Test func otherMailsAreNone() {
        for text in [
            "", "hello", "Subject: x\n\nbody", "Content-Type: multipart/report\n\n",
            report.replacing("Action", with: "X"),
        ] {
            #expect(DeliveryReport(ByteBuffer(string: text)) == nil)
        }
    }

    @Test func hostileReportsNeverTrap() {
        var generator = SeededGenerator(seed: 4)
        let whole = Array(report.utf8)
        for _ in 0..<3_000 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...8, using: &generator) {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
            }
            let cut = bytes.prefix(Int.random(in: 0...bytes.count, using: &generator))
            if let read = DeliveryReport(ByteBuffer(bytes: cut)) { _ = read.receipts(provider: "smtp", now: 1) }
        }
    }

    @Test func refusalsByTheirCodes() {
        func outcome(_ code: Int, _ text: String) -> SendOutcome {
            SMTPStatusMapping.refusal(SMTPReply(code: code, lines: [text]))
        }
        #expect("\(outcome(550, "5.1.1 no such user"))".hasPrefix("rejected"))
        #expect("\(outcome(552, "5.2.2 mailbox full"))".hasPrefix("retriable"))
        #expect("\(outcome(535, "5.7.8 no"))".hasPrefix("retriable"))
        #expect("\(outcome(451, "4.7.1 greylisted"))".hasPrefix("retriable"))
        #expect(outcome(454, "4.7.0 Throttling failure: Maximum sending rate exceeded").isThrottled)
    }
}
