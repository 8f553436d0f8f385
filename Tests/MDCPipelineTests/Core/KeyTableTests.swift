// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCPipeline

@Suite("idempotency keys")
struct KeyTableTests {
    private let first = MessageID.derived(tenant: "default", key: "a")
    private let second = MessageID.derived(tenant: "default", key: "b")

    @Test("the first claim counts, until its time is over")
    func firstClaim() {
        var table = KeyTable(windowMilliseconds: 1_000, keysMax: 10)
        table.claim(first, digest: 1, at: 100, by: 7)
        table.claim(first, digest: 2, at: 200, by: 8)
        #expect(table.entry(first, now: 300) == .init(digest: 1, at: 100, by: 7))
        table.done(first)
        #expect(table.entry(first, now: 300)?.isDone == true)
        #expect(table.entry(first, now: 1_100) == nil)
        table.claim(first, digest: 3, at: 1_100, by: 9)
        #expect(table.entry(first, now: 1_200) == .init(digest: 3, at: 1_100, by: 9))
        #expect(table.entry(second, now: 300) == nil)
        table.done(second)
        #expect(table.count == 1)
    }

    @Test("memory is bounded: the oldest keys are forgotten", arguments: [1, 5, 100])
    func bounded(max: Int) {
        var table = KeyTable(windowMilliseconds: 1_000_000, keysMax: max)
        for number in 0..<1_000 {
            let id = MessageID.derived(tenant: "t", key: "\(number)")
            table.claim(id, digest: UInt64(number), at: Timestamp(Int64(number)), by: 1)
            #expect(table.count <= max)
        }
        let last = MessageID.derived(tenant: "t", key: "999")
        #expect(table.entry(last, now: 1_000)?.digest == 999)
    }

    @Test("records are read as they are written; anything else is none")
    func records() {
        let claim = KeyRecord.claim(digest: .max, at: 1_700_000_000_000, by: 0xABC)
        #expect(claim.text == "c:ffffffffffffffff:1700000000000:abc")
        #expect(KeyRecord(claim.text) == claim && KeyRecord("d") == .done)
        for text in ["", "c", "c:1:2", "c:x:1:1", "x:1:1:1", "c:1:1:1:1"] { #expect(KeyRecord(text) == nil) }
    }

    @Test("the digest depends on what the recipient gets, not on times")
    func digest() {
        let draft = MessageDraft(channel: .sms, lane: "high", to: "+4912345", content: MessageContent(text: "hello"))
        var other = draft
        other.sendAt = 5
        other.expiresAt = 9
        #expect(other.contentDigest == draft.contentDigest)
        other.content.data = [:]
        #expect(other.contentDigest == draft.contentDigest)
        let changes: [(inout MessageDraft) -> Void] = [
            { $0.content.text = "hello " }, { $0.to = "+4912346" }, { $0.lane = "bulk" }, { $0.content.title = "" },
            { $0.content.data = ["a": "b"] }, { $0.template = "t" }, { $0.sender = "X" },
        ]
        for change in changes {
            var changed = draft
            change(&changed)
            #expect(changed.contentDigest != draft.contentDigest)
        }
    }
}
