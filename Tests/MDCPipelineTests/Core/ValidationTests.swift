// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCPipeline

@Suite("validation")
struct ValidationTests {
    @Test(
        "phone numbers that are right",
        arguments: [
            ("+919876543210", "+919876543210"), ("0091 98765-43210", "+919876543210"),
            ("+1 (202) 555-0143", "+12025550143"),
            ("+44 7700 900123", "+447700900123"), ("+33 6 39 98 12 34", "+33639981234"),
            ("+39 06 1234 5678", "+390612345678"),
            ("+6591234567", "+6591234567"), ("+4915112345678", "+4915112345678"),
        ]
    )
    func phoneAccepts(text: String, normal: String) throws {
        #expect(try PhoneNumber.parse(text).get().description == normal)
    }

    @Test(
        "phone numbers that are wrong, and why",
        arguments: [
            ("", "lacks"), ("9876543210", "lacks the country calling code"), ("+91987654321", "9 digits after +91"),
            ("+9198765432100", "11 digits after +91"), ("+1555", "3 digits after +1"),
            ("+999123456", "no country calling code"),
            ("+4407700900123", "trunk prefix"), ("+91abc", "position 4"), ("+12345678901234567890", "15"),
            ("+", "empty"),
            ("+91+98", "position 4"),
        ]
    )
    func phoneRefuses(text: String, reason: String) {
        guard case .failure(let problem) = PhoneNumber.parse(text) else {
            Issue.record("'\(text)' was accepted")
            return
        }
        #expect(problem.description.contains(reason), "\(problem)")
    }

    @Test(
        "mail addresses that are right",
        arguments: [
            "a@b.co", "first.last+tag@example.com", "o'neil@sub.example.org", "jürgen@müller.example",
            "x@xn--mller-kva.example",
        ]
    )
    func emailAccepts(text: String) throws {
        #expect(try EmailAddress.parse(text).get().description == text)
    }

    @Test("a name before a mail address")
    func emailName() throws {
        let address = try EmailAddress.parse("\"Shop, Inc.\" <no-reply@Shop.example>", allowsName: true).get()
        #expect(address.displayName == "Shop, Inc." && address.description == "no-reply@shop.example")
        guard case .failure = EmailAddress.parse("Shop <a@b.co>") else {
            Issue.record("a name was accepted for a recipient")
            return
        }
    }

    @Test(
        "mail addresses that are wrong, and why",
        arguments: [
            ("", "no @"), ("ab.co", "no @"), ("@b.co", "nothing before"), ("a@", "no domain"), ("a@b", "without a dot"),
            ("a b@c.de", "' '"), (".a@b.co", "dot"), ("a..b@c.de", "dot"), ("a@b..co", "empty part"),
            ("a@-b.co", "hyphen"),
            ("a@b_c.de", "'_'"), ("a@1.2.3.4", "number"), (String(repeating: "a", count: 65) + "@b.co", "64"),
            ("a@" + String(repeating: "b", count: 64) + ".co", "63"), ("a\r\nBcc: x@y.z", "before the @"),
        ]
    )
    func emailRefuses(text: String, reason: String) {
        guard case .failure(let problem) = EmailAddress.parse(text) else {
            Issue.record("'\(text)' was accepted")
            return
        }
        #expect(problem.description.contains(reason), "\(problem)")
    }

    @Test("push tokens")
    func pushTokens() throws {
        #expect(try PushToken.parse(String(repeating: "a1", count: 32)).get() == .apns)
        #expect(try PushToken.parse("dQw4w9WgXcQ:APA91b" + String(repeating: "x-Y_", count: 35)).get() == .fcm)
        for bad in [
            "", "short", String(repeating: "a", count: 99) + " b", "\"" + String(repeating: "a", count: 150) + "\"",
        ] {
            guard case .failure = PushToken.parse(bad) else {
                Issue.record("'\(bad)' was accepted")
                continue
            }
        }
    }

    @Test(
        "segments of a text",
        arguments: [
            (String(repeating: "a", count: 160), "gsm7", 160, 1), (String(repeating: "a", count: 161), "gsm7", 161, 2),
            (String(repeating: "a", count: 306), "gsm7", 306, 2), (String(repeating: "a", count: 307), "gsm7", 307, 3),
            (String(repeating: "€", count: 80), "gsm7", 160, 1), (String(repeating: "€", count: 81), "gsm7", 162, 2),
            (String(repeating: "a", count: 152) + "€" + String(repeating: "a", count: 152), "gsm7", 306, 3),
            (String(repeating: "न", count: 70), "ucs2", 70, 1), (String(repeating: "न", count: 71), "ucs2", 71, 2),
            (String(repeating: "न", count: 134), "ucs2", 134, 2), (String(repeating: "😀", count: 35), "ucs2", 70, 1),
            (String(repeating: "😀", count: 67), "ucs2", 134, 3), ("ç", "ucs2", 1, 1), ("Ç", "gsm7", 1, 1),
        ] as [(String, String, Int, Int)]
    )
    func segments(text: String, encoding: String, units: Int, count: Int) {
        let segments = SMSSegments(text)
        #expect(segments.encoding.rawValue == encoding && segments.units == units && segments.count == count)
    }

    @Test("a draft is completed, and its warnings name field and reason")
    func completes() {
        let draft = MessageDraft(
            channel: .sms,
            to: "+44 7700 900123",
            content: MessageContent(text: String(repeating: "ł", count: 100))
        )
        let result = MessageValidator().validate(draft, now: 1_000)
        #expect(result.isValid)
        #expect(result.draft.to == "+447700900123")
        #expect(result.draft.lane == "normal" && result.draft.tenant == "default" && result.draft.sender == "MDC")
        #expect(result.draft.expiresAt == Timestamp(1_000 + 3 * 86_400_000))
        #expect(result.segments?.count == 2)
        #expect(result.warnings.map(\.field) == ["content.text"])
        #expect(result.warnings.first?.message.contains("'ł'") == true)
    }

    @Test("all errors of a draft are found at once")
    func findsAll() {
        var draft = MessageDraft(
            channel: .sms,
            lane: "fast",
            to: "12",
            sender: "TwelveLetters",
            content: MessageContent(text: ""),
            sendAt: 2_000,
            expiresAt: 1_500
        )
        draft.retryPolicy = RetryPolicy(attemptsMax: 0)
        let result = MessageValidator().validate(draft, now: 1_000)
        #expect(
            result.issues.map(\.field)
                == ["lane", "to", "sender", "content.text", "expiresAt", "retryPolicy.attemptsMax"]
        )
        #expect(result.issues.first?.message.contains("critical, high, normal, bulk") == true)
    }

    @Test("times: a near past is sent at once, a far one is a mistake, seconds instead of milliseconds too")
    func times() {
        let now: Timestamp = 1_790_000_000_000
        func issues(_ sendAt: Timestamp?, _ expiresAt: Timestamp? = nil) -> [String] {
            let draft = MessageDraft(
                channel: .email,
                to: "a@b.co",
                content: MessageContent(subject: "s", text: "t"),
                sendAt: sendAt,
                expiresAt: expiresAt
            )
            return MessageValidator().validate(draft, now: now).issues.map { "\($0.severity) \($0.field)" }
        }
        #expect(issues(now + 5_000) == [])
        #expect(issues(now + -5_000) == ["warning sendAt"])
        #expect(issues(1_790_000_000) == ["error sendAt"])
        #expect(issues(now + 400 * 86_400_000) == ["error sendAt"])
        #expect(issues(nil, now) == ["error expiresAt"])
    }

    @Test("lanes from TOML")
    func lanes() throws {
        let lanes = try LaneConfiguration(toml: "[lanes.sms]\notp = 6\ncampaign = 1\ndefault = \"campaign\"\n")
        #expect(lanes[.sms].lanes == [Lane(name: "otp", partitions: 6), Lane(name: "campaign", partitions: 1)])
        #expect(lanes[.sms].defaultLane == "campaign")
        #expect(lanes[.email].lanes == LaneConfiguration.defaultLanes)
        for bad in [
            "[lanes.fax]\na = 1", "[lanes.sms]\na = 0", "[lanes.sms]\na = 1\ndefault = \"b\"",
            "[lanes.sms]\n\"a.b\" = 1", "x = [",
        ] {
            #expect(throws: PipelineError.self) { try LaneConfiguration(toml: bad) }
        }
    }
}
