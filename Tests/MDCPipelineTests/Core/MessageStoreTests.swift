// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore
import Testing

@testable import MDCPipeline

@Suite("message store")
struct MessageStoreTests {
    private func projected(_ events: [TimelineEvent], from offset: Int64 = 0) -> [MessageStore.ProjectedEvent] {
        events.enumerated().map {
            MessageStore.ProjectedEvent(
                position: EventPosition(partition: 0, offset: offset + Int64($0.offset)),
                event: $0.element,
                json: $0.element.json()
            )
        }
    }

    private static let delivered = TimelineEvent(
        messageID: "m1",
        channel: .sms,
        at: 1_500,
        component: "responses",
        kind: .receipt,
        status: .delivered,
        provider: "gateway",
        providerMessageID: "p1"
    )

    @Test(
        "the events of a message in any order, in one batch or many, give the same row",
        arguments: 0..<12,
        StoreKind.allCases
    )
    func orders(number: Int, kind: StoreKind) async throws {
        let (order, batched) = (number % 6, number < 6)
        let events = [Make.submitted(Make.message(key: "k")), Make.accepted(), Self.delivered]
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
        try await kind.with { store, _ in
            let items = projected(orders[order].map { events[$0] })
            if batched {
                try await store.apply(items, next: [0: 3])
            } else {
                for item in items { try await store.apply([item], next: [0: item.position.offset + 1]) }
            }
            let stored = try #require(try store.get("m1"))
            #expect(stored.status == .delivered && stored.finalAt == 1_500 && stored.provider == "gateway")
            #expect(stored.message == Make.message(key: "k"))
            #expect(stored.timeline?.map(\.kind) == [.submitted, .accepted, .receipt])
            #expect(try store.consumedOffsets() == [0: 3])
        }
    }

    @Test("a batch that was applied before changes nothing; the first end stays", arguments: StoreKind.allCases)
    func idempotent(kind: StoreKind) async throws {
        try await kind.with { store, _ in
            let items = projected([Make.submitted(Make.message()), Make.accepted(), Self.delivered])
            try await store.apply(items, next: [0: 3])
            try await store.apply(items, next: [0: 3])
            var late = Self.delivered
            late.status = .failed
            late.at = 9_000
            try await store.apply(projected([late], from: 3), next: [0: 4])
            let stored = try #require(try store.get("m1"))
            #expect(stored.status == .delivered && stored.finalAt == 1_500)
            #expect(stored.timeline?.count == 4)
            #expect(try store.count() == 1)
        }
    }

    @Test("a store opened again goes on at its offsets; an emptied one starts at 0", arguments: StoreKind.allCases)
    func reopen(kind: StoreKind) async throws {
        try await kind.with { store, location in
            try await store.apply(projected([Make.submitted(Make.message())]), next: [0: 1, 3: 9])
            let second = try MessageStore(location)
            defer { second.close() }
            #expect(try second.consumedOffsets() == [0: 1, 3: 9])
            #expect(try second.get("m1")?.status == .queued)
            try await second.reset()
            #expect(try second.consumedOffsets() == [:])
            #expect(try second.count() == 0)
        }
    }

    @Test("lists filter, sort and page; counts and statistics add up", arguments: StoreKind.allCases)
    func queries(kind: StoreKind) async throws {
        try await kind.with { store, _ in
            var events: [TimelineEvent] = []
            for index in 0..<200 {
                let id = "m\(1_000 + index)"
                let message = Make.message(
                    id,
                    channel: index % 2 == 0 ? MDCPipeline.Channel.sms : .email,
                    lane: index % 4 == 0 ? "bulk" : "high",
                    key: "job:\(index)",
                    createdAt: Timestamp(Int64(index))
                )
                events.append(Make.submitted(message, at: Timestamp(Int64(index))))
                if index < 100 {
                    var end = Self.delivered
                    end.messageID = id
                    end.channel = message.channel
                    end.at = Timestamp(Int64(index + 1 + index))
                    end.attempt = index % 10 == 0 ? 2 : 1
                    events.append(end)
                }
            }
            try await store.apply(projected(events), next: [0: Int64(events.count)])

            var filter = MessageFilter(channel: .sms)
            filter.lane = "bulk"
            filter.statuses = [.delivered]
            #expect(try store.count(filter) == 25)
            let page = try store.list(filter, sort: MessageSort(.created, descending: false), page: 2, pageSize: 10)
            #expect(page.map(\.id) == (10..<20).map { "m\(1_000 + $0 * 4)" })
            #expect(page.allSatisfy { $0.status == .delivered && $0.message?.lane == "bulk" })
            #expect(try store.count(MessageFilter(idempotencyKeyPrefix: "job:1")) == 111)
            #expect(throws: PipelineError.self) { try store.list(pageSize: 0) }

            let statistics = try store.laneStatistics()
            #expect(statistics.reduce(0) { $0 + $1.total } == 200)
            #expect(statistics.reduce(0) { $0 + $1.final } == 100)
            #expect(statistics.reduce(0) { $0 + $1.retried } == 10)
            let bulk = try #require(statistics.first { $0.channel == .sms && $0.lane == "bulk" })
            #expect(bulk.count(.delivered) == 25 && bulk.count(.queued) == 25)
            #expect(bulk.p50 == 49 && bulk.p99 == 97)
        }
    }

    @Test("what is known of an id", arguments: StoreKind.allCases)
    func knowledge(kind: StoreKind) async throws {
        try await kind.with { store, _ in
            #expect(try store.knowledge(of: "m1", channel: .sms) == .nothing)
            try await store.apply(projected([Make.accepted()]), next: [0: 1])
            #expect(try store.knowledge(of: "m1", channel: .sms) == .events)
            try await store.apply(projected([Make.submitted(Make.message())], from: 1), next: [0: 2])
            #expect(try store.knowledge(of: "m1", channel: .sms) == .document(Make.message()))
        }
    }

    @Test("a store that was emptied says so to who knew more", arguments: StoreKind.allCases)
    func emptied(kind: StoreKind) async throws {
        try await kind.with { store, _ in
            let items = projected([Make.submitted(Make.message()), Make.accepted()])
            #expect(try await store.apply(items, next: [0: 2], known: [:]))
            #expect(try await store.apply(projected([Self.delivered], from: 2), next: [0: 3], known: [0: 2]))
            try await store.reset()
            #expect(try await !store.apply(projected([Self.delivered], from: 3), next: [0: 4], known: [0: 3]))
            #expect(try store.count() == 0 && store.consumedOffsets().isEmpty)
        }
    }

    @Test("signs that databases stumble over come back as they were", arguments: StoreKind.allCases)
    func signs(kind: StoreKind) async throws {
        try await kind.with { store, location in
            var message = Make.message(key: "k'\"\\{},NULL")
            message.content.text = "a\\u0000 \"b\" {c} 'd' \t\n € 😀 \\\\"
            message.sender = "NULL"
            try await store.apply(projected([Make.submitted(message)]), next: [0: 1])
            #expect(try store.get("m1")?.message == message)
            // PostgreSQL has no U+0000.
            var second = Make.message("m2")
            second.content.text = "x\0y"
            try await store.apply(projected([Make.submitted(second)], from: 1), next: [0: 2])
            if case .file = location {} else { second.content.text = "x\u{FFFD}y" }
            #expect(try store.get("m2")?.message == second)
        }
    }

    @Test("what attempts cost is added up, each event once", arguments: StoreKind.allCases)
    func costs(kind: StoreKind) async throws {
        try await kind.with { store, _ in
            var (first, second) = (Make.accepted(), Make.accepted())
            (first.cost, second.cost, second.attempt) = (75_000, 25_000, 2)
            let items = projected([Make.submitted(Make.message()), first, second])
            try await store.apply([items[0], items[1]], next: [0: 2])
            try await store.apply(items, next: [0: 3])
            #expect(try store.get("m1")?.cost == 100_000)
            #expect(try store.get("m1")?.timeline?.compactMap(\.cost) == [75_000, 25_000])
        }
    }

    @Test("a store that cannot be opened says where")
    func unopenable() {
        let error = #expect(throws: PipelineError.self) { try MessageStore(path: "/nonexistent/folder/x.sqlite") }
        #expect(error?.code == .store && error?.message.contains("/nonexistent/folder") == true)
    }

    @Test("percentiles are nearest ranks")
    func percentiles() {
        #expect([Int64]().percentile(50) == nil)
        #expect([Int64](1...100).percentile(99) == 99)
        #expect([Int64](1...100).percentile(50) == 50)
        #expect([7 as Int64].percentile(99) == 7)
    }
}
