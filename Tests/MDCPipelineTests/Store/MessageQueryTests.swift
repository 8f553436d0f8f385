// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore
import Testing

@testable import MDCPipeline

/// A store in a folder that goes away, filled with messages of two tenants in all channels.
struct FilledStore {
    static let count = 60

    static func with(_ kind: StoreKind, _ body: (MessageStore) async throws -> Void) async throws {
        try await kind.with { store, _ in
            let events = (0..<count).flatMap(events)
            try await store.apply(
                events.enumerated().map {
                    MessageStore.ProjectedEvent(
                        position: EventPosition(partition: 0, offset: Int64($0.offset)),
                        event: $0.element,
                        json: $0.element.json()
                    )
                },
                next: [0: Int64(events.count)]
            )
            try await body(store)
        }
    }

    static func message(_ number: Int) -> Message {
        let channel = Channel.allCases[number % 3]
        let recipient = ["+9198765432\(10 + number)", "user\(number)_x@example.com", "token\(number)*["][number % 3]
        return Message(
            id: "m\(number)",
            tenant: number % 4 == 0 ? "shop" : "bank",
            channel: channel,
            lane: ["critical", "bulk"][number % 2],
            to: channel == .sms ? recipient : recipient,
            sender: "MDC",
            content: MessageContent(subject: channel == .email ? "Hello \(number)" : nil, text: "text"),
            template: number % 5 == 0 ? "welcome" : nil,
            createdAt: Timestamp(1_700_000_000_000 + Int64(number) * 600_000)
        )
    }

    /// Every third is delivered after as many milliseconds as its number, every third fails, the others are open.
    private static func events(_ number: Int) -> [TimelineEvent] {
        let message = message(number)
        var submitted = Make.submitted(message, at: message.createdAt)
        submitted.message = message
        guard number % 3 != 2 else { return [submitted] }
        let end = TimelineEvent(
            messageID: message.id,
            channel: message.channel,
            at: message.createdAt + Int64(number),
            component: "responses",
            kind: .final,
            status: number % 3 == 0 ? .delivered : .failed,
            provider: "gateway",
            code: number % 3 == 0 ? nil : "E\(number % 2)"
        )
        guard number % 3 == 0 else { return [submitted, end] }
        var accepted = end
        (accepted.kind, accepted.status, accepted.cost) = (.accepted, .accepted, 7_500)
        return [submitted, accepted, end]
    }

    static func status(_ number: Int) -> MessageStatus { [.delivered, .failed, .queued][number % 3] }
}

@Suite("queries")
struct MessageQueryTests {
    private static let cases: [(filter: String, expected: @Sendable (Int, Message) -> Bool)] = [
        (#"{}"#, { _, _ in true }),
        (#"{"status": "failed"}"#, { number, _ in FilledStore.status(number) == .failed }),
        (
            #"{"channel": "email", "lane": "bulk"}"#,
            { _, message in message.channel == .email && message.lane == "bulk" }
        ),
        (#"{"status": {"$in": ["failed", "queued"]}}"#, { number, _ in FilledStore.status(number) != .delivered }),
        (#"{"status": {"$nin": ["failed"]}}"#, { number, _ in FilledStore.status(number) != .failed }),
        (#"{"status": {"$in": []}}"#, { _, _ in false }),
        (#"{"provider": null}"#, { number, _ in number % 3 == 2 }),
        (#"{"provider": {"$exists": true}}"#, { number, _ in number % 3 != 2 }),
        (#"{"code": {"$ne": "E1"}}"#, { number, _ in !(number % 3 == 1 && number % 2 == 1) }),
        (#"{"template": "welcome"}"#, { _, message in message.template == "welcome" }),
        (
            #"{"createdAt": {"$gte": 1700006000000, "$lt": 1700012000000}}"#,
            { number, _ in (10..<20).contains(number) }
        ),
        (#"{"createdAt": {"$gt": "2023-11-14T22:13:20Z"}}"#, { number, _ in number > 0 }),
        (
            #"{"$or": [{"id": "m3"}, {"$and": [{"tenant": "shop"}, {"attempt": {"$lte": 1}}, {"lane": "critical"}]}]}"#,
            { number, message in number == 3 || message.tenant == "shop" && message.lane == "critical" }
        ),
        (#"{"to": {"$regex": "^user1"}}"#, { _, message in message.to.hasPrefix("user1") }),
        (#"{"to": {"$regex": "_X@EXAMPLE\\.com$", "$options": "i"}}"#, { _, message in message.channel == .email }),
        (#"{"to": {"$regex": "^token.\\*\\[$"}}"#, { number, message in message.channel == .push && number < 10 }),
        (#"{"to": {"$regex": "er.*_x"}}"#, { _, message in message.channel == .email }),
        (#"{"subject": {"$regex": "^Hello 1$"}}"#, { number, _ in number == 1 }),
        (#"{"id": "x' OR '1'='1"}"#, { _, _ in false }),
    ]

    @Test("a filter finds what it says, and nothing else", arguments: cases.indices, StoreKind.allCases)
    func filters(index: Int, kind: StoreKind) async throws {
        let (filter, expected) = Self.cases[index]
        try await FilledStore.with(kind) { store in
            let condition = try MessageCondition(filter: filter)
            let found = try await store.found(MessageQuery(condition, order: [.init(.createdAt, descending: false)]))
            let wanted = (0..<FilledStore.count).filter { expected($0, FilledStore.message($0)) }.map { "m\($0)" }
            #expect(found.map(\.id) == wanted)
            #expect(try await store.counted(condition) == wanted.count)
            #expect(try store.find(MessageQuery(condition)).map(\.id) == wanted.reversed())
        }
    }

    @Test(
        "a filter that is wrong is refused with the place and the fix",
        arguments: [
            (#"{"colour": "red"}"#, "field 'colour' is not known"),
            (#"{"status": "lost"}"#, "'lost' is not one of"),
            (#"{"attempt": "1"}"#, "attempt: write a whole number"),
            (#"{"to": 5}"#, "to: write a text"),
            (#"{"createdAt": "yesterday"}"#, "is no time"),
            (#"{"to": {"$where": "1"}}"#, "operator '$where' is not known"),
            (#"{"to": {"$regex": "(a+)+$"}}"#, "'(' is not offered"),
            (#"{"to": {"$regex": "\\d"}}"#, "backslash"),
            (#"{"to": {"$in": "x"}}"#, "write an array"),
            (#"{"$or": []}"#, "$or: write an array"),
            (#"{"$nor": [{}]}"#, "operator '$nor' is not known"),
            (#"[1]"#, "write an object"),
            (#"{"status""#, "is not JSON"),
        ]
    )
    func wrongFilters(filter: String, words: String) throws {
        let error = try #require(throws: PipelineError.self) { try MessageCondition(filter: filter) }
        #expect(error.code == .invalidQuery && error.message.contains(words), "\(error)")
    }

    @Test("filters are bounded in length, depth, terms and lists")
    func bounds() throws {
        let deep = String(repeating: #"{"$or":["#, count: 10) + "{}" + String(repeating: "]}", count: 10)
        let wide = #"{"$or":["# + (0..<70).map { #"{"id":"\#($0)"}"# }.joined(separator: ",") + "]}"
        let list = #"{"id":{"$in":["# + (0..<101).map { "\"\($0)\"" }.joined(separator: ",") + "]}}"
        let long = #"{"id":""# + String(repeating: "x", count: 9_000) + "\"}"
        for filter in [deep, wide, list, long] {
            #expect(throws: PipelineError.self) { try MessageCondition(filter: filter) }
        }
    }

    @Test(
        "pages follow each other without gap or overlap; far ones are refused to strangers",
        arguments: StoreKind.allCases
    )
    func pages(kind: StoreKind) async throws {
        try await FilledStore.with(kind) { store in
            var ids: [String] = []
            for page in 1...9 {
                ids += try await store.found(
                    MessageQuery(order: [.init(.lane, descending: false)], page: page, pageSize: 7)
                ).map(\.id)
            }
            #expect(ids.count == FilledStore.count && Set(ids).count == FilledStore.count)
            await #expect(throws: PipelineError.self) {
                _ = try await store.found(MessageQuery(page: 1_002, pageSize: 100))
            }
        }
    }

    @Test(
        "reports count every message once, and their percentiles are the nearest ranks",
        arguments: StoreKind.allCases
    )
    func reports(kind: StoreKind) async throws {
        try await FilledStore.with(kind) { store in
            let delivery = try await store.reported(.delivery, by: [.tenant, .channel], of: nil)
            #expect(delivery.columns.prefix(4) == ["tenant", "channel", "messages", "open"])
            var total: Int64 = 0
            for case .count(let count) in delivery.rows.map({ $0[2] }) { total += count }
            #expect(total == Int64(FilledStore.count) && delivery.rows.count == 6)
            let all = try #require(try await store.reported(.delivery, by: [], of: nil).rows.first)
            #expect(
                all == [
                    .count(60), .count(20), .count(20), .count(0), .count(20), .count(0), .count(0), .count(0),
                    .share(0.5),
                ]
            )

            // Delivered after 0, 3, 6 … 57 ms.
            let sms = MessageCondition.compare(.channel, .equal, .text("sms"))
            let latency = try #require(try await store.reported(.latency, by: [.channel], of: sms).rows.first)
            #expect(latency.prefix(2) == [.text("sms"), .count(20)])
            #expect(latency.suffix(4) == [.count(27), .count(54), .count(57), .count(57)])

            let failures = try await store.reported(.failures, by: [], of: nil)
            #expect(failures.columns == ["status", "code", "messages"])
            #expect(Set(failures.rows.map { $0[1] }) == [.text("E0"), .text("E1")])
            let cost = try await store.reported(.cost, by: [.provider], of: nil)
            #expect(cost.columns == ["provider", "messages", "priced", "cost", "costPerMessage", "costPerDelivered"])
            // The twenty that are delivered took 0.0075 each; those without a provider come first.
            #expect(cost.rows.map { $0[1] } == [.count(20), .count(40)])
            #expect(cost.rows[0].suffix(3) == [.share(0), .none, .none])
            #expect(cost.rows[1].suffix(4) == [.count(20), .share(0.15), .share(0.0075), .share(0.0075)])
            let countries = try await store.reported(.delivery, by: [.country, .day], of: sms)
            #expect(countries.rows.first?.first == .text("+91"))
            #expect(countries.csv.hasPrefix("country,day,messages"))
            #expect(countries.csv.contains("+91,2023-11-14T00:00:00.000Z,"))
        }
    }

    @Test("CSV quotes what needs it, and disarms formulas")
    func csv() {
        let report = Report(
            columns: ["a", "b"],
            rows: [[.text("x,\"y\""), .none], [.text("=1+1"), .share(0.5)], [.text("+49"), .time(0)]]
        )
        #expect(report.csv == "a,b\r\n\"x,\"\"y\"\"\",\r\n'=1+1,0.5\r\n+49,1970-01-01T00:00:00.000Z\r\n")
    }
}
