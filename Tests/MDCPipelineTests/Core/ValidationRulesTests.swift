// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import TOMLKit
import Testing

@testable import MDCPipeline

@Suite("Validation by country, domain and platform")
struct ValidationRulesTests {
    private static func issues(
        _ draft: MessageDraft,
        _ configuration: MessageValidator.Configuration = .init()
    ) -> [String] {
        MessageValidator(configuration).validate(draft, now: 1_790_000_000_000).issues.map {
            "\($0.severity) \($0.field)"
        }
    }

    private static func sms(_ to: String, sender: String? = nil) -> MessageDraft {
        MessageDraft(channel: .sms, to: to, sender: sender, content: MessageContent(text: "x"))
    }

    @Test(
        "names as senders, by country",
        arguments: [
            ("+4366412345678", "SHOP", []), ("+4366412345678", nil, []), ("+12025550143", "SHOP", ["warning sender"]),
            ("+12025550143", nil, ["warning sender"]), ("+12025550143", "+12025550100", []),
            ("+12025550143", "12345", []),
            ("+919876543210", "MYBANK", ["warning sender"]), ("+919876543210", "+919876500000", []),
            ("+5511912345678", "SHOP", ["warning sender"]),
        ] as [(String, String?, [String])]
    )
    func senders(to: String, sender: String?, expected: [String]) {
        #expect(Self.issues(Self.sms(to, sender: sender)) == expected)
    }

    @Test("are mistakes where the configuration says so")
    func strictSenders() {
        let strict = MessageValidator.Configuration(requiresShownSenders: true)
        #expect(Self.issues(Self.sms("+12025550143", sender: "SHOP"), strict) == ["error sender"])
        #expect(Self.issues(Self.sms("+12025550143", sender: "12345"), strict) == [])
        #expect(Self.issues(Self.sms("+919876543210", sender: "MYBANK"), strict) == ["warning sender"])
    }

    @Test("numbers that are no mobile phone's")
    func mobiles() {
        #expect(Self.issues(Self.sms("+493012345678")) == ["warning to"])
        #expect(Self.issues(Self.sms("+493012345678"), .init(requiresMobile: true)) == ["error to"])
        #expect(Self.issues(Self.sms("+4915112345678"), .init(requiresMobile: true)) == [])
        for code in CountryCallingCodes.nationalLengths.keys {
            guard let number = try? PhoneNumber.parse("+\(code)" + String(repeating: "9", count: 9)).get() else {
                continue
            }
            _ = CountryRules.isMobile(number)
            _ = CountryRules.senderNames(code)
        }
    }

    @Test(
        "domains beyond ASCII in the form of the wire",
        arguments: [
            ("müller.example", "xn--mller-kva.example"), ("bücher.ch", "xn--bcher-kva.ch"),
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
            ("ПРИМЕР.испытание", "xn--e1afmkfd.xn--80akhbyknj4f"), ("उदाहरण.परीक्षा", "xn--p1b6ci4b4b3a.xn--11b5bs3a9aj6g"),
            ("ascii.example", "ascii.example"), ("ｆｕｌｌ.example", "full.example"), ("a b.example", "a b.example"),
            ("☃.example", nil), ("ü\u{202E}a.example", nil), (String(repeating: "ü", count: 60) + ".example", nil),
        ] as [(String, String?)]
    )
    func domains(domain: String, ascii: String?) { #expect(Punycode.asciiDomain(domain) == ascii) }

    @Test("mail addresses are kept in the form that most servers take")
    func mails() {
        func checked(_ to: String) -> (String, [String]) {
            let draft = MessageDraft(channel: .email, to: to, content: MessageContent(subject: "s", text: "t"))
            let result = MessageValidator().validate(draft, now: 1_790_000_000_000)
            return (result.draft.to, result.issues.map { "\($0.severity) \($0.field)" })
        }
        #expect(checked("a@Bücher.example") == ("a@xn--bcher-kva.example", []))
        #expect(checked("jürgen@example.com") == ("jürgen@example.com", ["warning to"]))
        #expect(checked("a@☃.example").1 == ["error to"])
    }

    @Test("endpoints of SNS, and tokens that are cut off")
    func tokens() throws {
        #expect(try PushToken.parse("arn:aws:sns:eu-west-1:123456789012:endpoint/GCM/app/0f-1").get() == .snsEndpoint)
        for bad in [
            "arn:aws:sns:eu-west-1:1:endpoint/GCM/app/1", "arn:aws:sqs:eu-west-1:123456789012:endpoint/GCM/app/1",
            "arn:", "arn:aws:sns:eu-west-1:123456789012:app/GCM/app",
        ] {
            #expect(throws: PushToken.Problem.self) { try PushToken.parse(bad).get() }
        }
        let cut = #expect(throws: PushToken.Problem.self) {
            try PushToken.parse(String(repeating: "a1", count: 30)).get()
        }
        #expect(cut?.description.contains("cut off") == true)
    }

    @Test("zone and category")
    func details() {
        var draft = Self.sms("+4366412345678")
        (draft.timeZone, draft.category) = ("Europe/Vienna", "marketing")
        #expect(Self.issues(draft) == [])
        (draft.timeZone, draft.category) = ("Wien", "a b")
        #expect(Self.issues(draft) == ["error category", "error timeZone"])
    }

    @Test("limits from TOML, and what is wrong with them")
    func settings() throws {
        let text = """
            idempotency_window = "2d"
            lifetime = "6h"
            content_max = 2048
            attachments_max = 1000
            segments_max = 3
            segments_warning = 2
            mobile_only = true
            sender = { sms = "SHOP", email = "Shop <a@b.example>" }
            """
        let read = try MessageSettings(try TOMLTable(string: text))
        #expect(read.idempotencyWindow == .seconds(172_800))
        #expect(read.validation.defaultLifetimeMilliseconds == 21_600_000 && read.validation.contentBytesMax == 2_048)
        #expect(read.validation.attachmentBytesMax == 1_000 && read.validation.segmentsMax == 3)
        #expect(read.validation.requiresMobile && read.validation.defaultSenders[.sms] == "SHOP")
        for (old, new, place) in [
            ("\"2d\"", "\"2s\"", "idempotency_window"), ("\"6h\"", "6", "lifetime"), ("2048", "1", "content_max"),
            ("SHOP", "TwelveLetters", "sender.sms"), ("a@b.example", "a", "sender.email"),
            ("mobile_only", "mobile", "mobile"),
            ("{ sms", "{ fax = \"1\", sms", "fax"),
        ] {
            let error = #expect(throws: PipelineError.self) {
                try MessageSettings(try TOMLTable(string: text.replacing(old, with: new)))
            }
            #expect(error?.message.contains(place) == true, "\(error?.message ?? "")")
        }
    }
}
