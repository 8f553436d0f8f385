// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCPipeline

@Suite struct CallbackParserTests {
    private let now = Timestamp(1_790_000_000_000)
    private let reference = "0199a000-0000-7000-8000-000000000001.2"

    private func parse(
        _ format: CallbackFormat,
        query: String? = nil,
        type: String? = nil,
        _ body: String = ""
    ) throws -> [ProviderReceipt] {
        try CallbackParser(format: format, provider: "p")
            .receipts(query: query, contentType: type, body: ByteBuffer(string: body), now: now)
    }

    @Test func kaleyraByQueryFormAndJSON() throws {
        let expected = ProviderReceipt(
            provider: "p",
            channel: .sms,
            providerMessageID: "m:1",
            status: .undelivered,
            code: "MOB-OFF",
            reason: "switched off",
            at: Timestamp(1_780_000_000_000),
            reference: reference
        )
        let form = "id=m%3A1&ref=\(reference)&status=Undelivered&code=MOB-OFF&reason=switched+off&timestamp=1780000000"
        #expect(try parse(.kaleyra, query: form) == [expected])
        #expect(try parse(.kaleyra, type: "application/x-www-form-urlencoded", form) == [expected])
        #expect(try parse(.kaleyra, form) == [expected])
        let json =
            #"{"message_id":"m:1","reference":"\#(reference)","status":"UNDELIV","error_code":"MOB-OFF","description":"switched off","delivered_at":1780000000000}"#
        #expect(try parse(.kaleyra, type: "application/json; charset=utf-8", json) == [expected])
        #expect(try parse(.kaleyra, " " + json) == [expected])
        let legacy = "msgid=m:1&custom=\(reference)&trace=MOB-OFF&message=switched%20off&delivered=2026-05-28+20:26:40"
        #expect(try parse(.kaleyra, query: legacy) == [expected])
    }

    @Test func mailEvents() throws {
        let rows: [(String, String?, ProviderReceipt.Status)] = [
            ("delivered", "2.0.0", .delivered), ("accepted", nil, .sent), ("queued", nil, .sent),
            ("relayed", nil, .sent),
            ("deferred", "4.7.1", .sent), ("delayed", "4.4.1", .sent), ("bounced", "5.1.1", .failed),
            ("bounced", "4.2.2", .undelivered), ("bounced", "5.2.2", .undelivered), ("failed", "5.4.4", .undelivered),
            ("failed", nil, .failed), ("bounced", "450", .undelivered), ("expired", nil, .expired),
            ("complained", nil, .other), ("opened", nil, .other), ("clicked", nil, .other),
            ("unsubscribed", nil, .other),
            ("Delivered", nil, .delivered),
        ]
        for (event, status, expected) in rows {
            let code = status.map { #","status":"\#($0)""# } ?? ""
            let found = try parse(.email, #"{"event":"\#(event)","message_id":"m@x"\#(code),"at":1}"#)
            #expect(found.map(\.status) == [expected], "\(event) \(status ?? "")")
            #expect(found[0].code == status)
        }
        let list = try parse(
            .email,
            #"[{"event":"delivered","message_id":"a"},{"event":"bounced","reference":"\#(reference)"}]"#
        )
        #expect(list.map(\.providerMessageID) == ["a", ""])
        #expect(list.map(\.at) == [now, now])
        #expect(list[1].recordKey == "0199a000-0000-7000-8000-000000000001")
    }

    @Test func appsReports() throws {
        let found = try parse(
            .fcm,
            #"{"event":"failed","name":"projects/p/messages/1","code":"UNREGISTERED","at":"2026-05-28T20:26:40Z"}"#
        )
        #expect(
            found == [
                ProviderReceipt(
                    provider: "p",
                    channel: .push,
                    providerMessageID: "projects/p/messages/1",
                    status: .failed,
                    code: "UNREGISTERED",
                    at: Timestamp(1_780_000_000_000)
                )
            ]
        )
    }

    @Test(arguments: [
        ("", "neither a body nor a query"), ("{", "not valid JSON"), ("[]", "empty list"), ("[1]", "JSON object"),
        ("{}", "'event' is missing"), (#"{"event":"delivered"}"#, "neither the message's id"),
        (#"{"event":"delivered","reference":"nonsense"}"#, "neither the message's id"),
        (#"{"event":{"a":1},"message_id":"m"}"#, "'event' is missing"), ("a=b", "'event' is missing"),
    ])
    func garbageHasAReason(body: String, expected: String) {
        do {
            _ = try parse(.email, body)
            Issue.record("\(body) was read")
        } catch {
            #expect((error as? CallbackProblem)?.reason.contains(expected) == true, "\(error)")
        }
    }

    @Test func limits() throws {
        let long = String(repeating: "é", count: 600)
        #expect(throws: CallbackProblem.self) { try parse(.kaleyra, query: "status=x&id=\(long)") }
        let receipt = try parse(.kaleyra, query: "status=SENT&id=1&reason=\(long)")[0]
        #expect((receipt.reason?.utf8.count ?? 0) <= CallbackParser.reasonBytesMax + 3)
        let many =
            "[" + Array(repeating: #"{"event":"delivered","message_id":"a"}"#, count: 1_001).joined(separator: ",")
            + "]"
        #expect(throws: CallbackProblem.self) { try parse(.email, many) }
    }

    @Test func times() {
        #expect(CallbackParser.timestamp("1780000000") == Timestamp(1_780_000_000_000))
        #expect(CallbackParser.timestamp("1780000000000") == Timestamp(1_780_000_000_000))
        #expect(CallbackParser.timestamp("2026-05-28T20:26:40.500Z") == Timestamp(1_780_000_000_500))
        #expect(CallbackParser.timestamp("2026-05-28T22:26:40+02:00") == Timestamp(1_780_000_000_000))
        #expect(CallbackParser.timestamp("2026-05-28 20:26:40") == Timestamp(1_780_000_000_000))
        for text in ["", "soon", "-1", "nan", "inf", "1e300", "0"] { #expect(CallbackParser.timestamp(text) == nil) }
    }

    @Test func randomBytesNeverTrap() {
        var random = SplitMix64(seed: 21)
        let pieces = [
            "{", "}", "[", "]", "\"event\"", ":", ",", "\"delivered\"", "\"message_id\"", "1", "null", "&", "=", "%",
            "status", "\u{0}", "é",
        ]
        for _ in 0..<3_000 {
            let body = (0..<Int.random(in: 0...20, using: &random)).map { _ in pieces.randomElement(using: &random)! }
                .joined()
            for format in CallbackFormat.allCases { _ = try? parse(format, body) }
        }
    }
}
