// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore
import Testing

@testable import MDCPipeline

@Suite("JSON of records")
struct JSONTests {
    private static let texts = [
        "", "plain", "quotes \" and \\ and /", "line\nbreak\ttab\r", "नमस्ते 🙏🏽 ñ", "\u{01}\u{1F}", "e\u{301}", "\u{2028}",
    ]

    private static func message(_ text: String, _ index: Int) -> Message {
        Message(
            id: "0190-\(index)",
            tenant: "t",
            channel: Channel.allCases[index % 3],
            lane: "bulk",
            to: text,
            sender: "s",
            content: MessageContent(
                subject: index % 2 == 0 ? text : nil,
                text: text,
                html: nil,
                title: text,
                data: ["a": text, text: "b"]
            ),
            template: nil,
            idempotencyKey: text,
            sendAt: index % 2 == 0 ? 5 : nil,
            expiresAt: 1_790_000_000_000,
            retryPolicy: index % 2 == 0 ? RetryPolicy(onReceiptTimeout: .retry) : nil,
            feedbackURL: nil,
            createdAt: 7,
            attempt: index + 1
        )
    }

    @Test("the hand-written form and Codable's read each other", arguments: Array(texts.enumerated()))
    func agreesWithCodable(index: Int, text: String) throws {
        let message = Self.message(text, index)
        let event = TimelineEvent(
            messageID: message.id,
            channel: message.channel,
            at: 3,
            component: "c",
            kind: .retryScheduled,
            attempt: 2,
            status: .retrying,
            provider: text,
            providerMessageID: nil,
            code: text,
            detail: text,
            dueAt: 9,
            message: message
        )
        let receipt = ProviderReceipt(
            provider: text,
            channel: .push,
            providerMessageID: text,
            status: .undelivered,
            code: text,
            reason: nil,
            at: 1,
            reference: text
        )
        func check<Document: JSONDocument & Codable & Equatable>(_ document: Document) throws {
            let ours = document.json()
            #expect(try JSONDecoder().decode(Document.self, from: Data(ours.readableBytesView)) == document)
            let theirs = try JSONEncoder().encode(document)
            #expect(try Document(json: ByteBuffer(bytes: theirs)) == document)
            #expect(try Document(json: ours) == document)
        }
        try check(message)
        try check(event)
        try check(receipt)
    }

    @Test("an event takes a message that is JSON already")
    func eventWithRawMessage() throws {
        let message = Make.message()
        var event = Make.submitted(message)
        let raw = event.json(message: message.json())
        event.message = message
        #expect(try TimelineEvent(json: raw) == event)
    }

    @Test("escapes of other writers are read")
    func escapes() throws {
        let text =
            #"{"channel":"sms","to":"\u00e9\ud83d\ude00\/\b\f","content":{"text":"x","new":[1,{"a":[true,null]}]},"z":-1.5e3}"#
        let draft = try MessageDraft(json: ByteBuffer(string: text))
        #expect(draft.to == "é😀/\u{08}\u{0C}")
    }

    @Test(
        "bad documents are refused with a reason",
        arguments: [
            ("", "missing"), ("{", "ends"), ("[]", "missing"), ("{\"to\":1}", "missing"),
            ("{\"channel\":\"fax\",\"to\":\"\",\"content\":{\"text\":\"\"}}", "use one of: sms, email, push"),
            ("{\"channel\":\"sms\",\"to\":\"a\"}", "'content' is missing"),
            ("{\"channel\":\"sms\",\"to\":\"\\ud800\",\"content\":{\"text\":\"\"}}", "surrogate"),
            ("{\"channel\":\"sms\",\"to\":\"a\",\"content\":{\"text\":\"\"}} x", "follows"),
            (
                "{\"channel\":\"sms\",\"to\":\"a\",\"content\":{\"text\":\"\"},\"sendAt\":99999999999999999999}",
                "64 bits"
            ),
            ("{\"channel\":\"sms\",\"to\":\"a\",\"content\":{\"text\":\"\"},\"sendAt\":1.5}", "fraction"),
            (String(repeating: "[", count: 100_000), "missing"),
            ("{\"x\":" + String(repeating: "[", count: 100_000), "nested deeper"),
        ] as [(String, String)]
    )
    func refuses(text: String, reason: String) {
        let error = #expect(throws: PipelineError.self) { try MessageDraft(json: ByteBuffer(string: text)) }
        #expect(error?.message.contains(reason) == true, "\(error?.message ?? "no error")")
    }

    @Test("cut or changed bytes never crash", arguments: 0..<20)
    func fuzz(seed: Int) {
        var generator = SeededGenerator(seed: UInt64(seed))
        let whole = Array(Make.submitted(Self.message("नमस्ते \"x\"\n", seed)).json().readableBytesView)
        for _ in 0..<500 {
            var bytes = Array(whole.prefix(Int.random(in: 0...whole.count, using: &generator)))
            for _ in 0..<Int.random(in: 0...4, using: &generator) where !bytes.isEmpty {
                bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
            }
            _ = try? TimelineEvent(json: ByteBuffer(bytes: bytes))
        }
    }

    @Test("ids: UUIDv7 sort by time, derived ones depend on tenant and key alone")
    func ids() {
        var generator = SeededGenerator(seed: 1)
        let early = MessageID.random(at: 1_700_000_000_000, using: &generator)
        let late = MessageID.random(at: 1_700_000_000_001, using: &generator)
        #expect(MessageID.isValid(early) && MessageID.isValid(late) && early < late)
        #expect(Array(early)[14] == "7")
        let derived = MessageID.derived(tenant: "a", key: "bc")
        #expect(derived == MessageID.derived(tenant: "a", key: "bc"))
        #expect(derived != MessageID.derived(tenant: "ab", key: "c"))
        #expect(MessageID.isValid(derived) && Array(derived)[14] == "8" && "89ab".contains(Array(derived)[19]))
    }

    @Test("SHA-256 of the examples of FIPS 180-4")
    func sha256() {
        func hex(_ text: String) -> String {
            SHA256.hash(text.utf8).map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        }
        #expect(hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        #expect(
            hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")
                == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
        )
    }

    @Test("a reference is read as it is written")
    func reference() {
        let reference = MessageReference(messageID: "0190.a-b", attempt: 12)
        #expect(MessageReference(reference.description) == reference)
        for bad in ["", ".1", "a", "a.", "a.0", "a.-1", "a.x"] { #expect(MessageReference(bad) == nil) }
    }
}
