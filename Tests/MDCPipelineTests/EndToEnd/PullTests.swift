// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCClient
import MDCModel
import NIOCore
import NIOPosix
import TOMLKit
import Testing

@testable import MDCPipeline

@Suite("Pulls", .serialized)
struct PullTests {
    private static func time(_ text: String) -> Timestamp { CallbackParser.timestamp(text) ?? 0 }

    @Test(
        "schedules",
        arguments: [
            ("* * * * *", "2026-05-01T10:00:00Z", "2026-05-01T10:01:00Z"),
            ("*/15 * * * *", "2026-05-01T10:07:30Z", "2026-05-01T10:15:00Z"),
            ("30 17 * * *", "2026-05-01T17:30:00Z", "2026-05-02T17:30:00Z"),
            ("0 9-17/4 * * 1-5", "2026-05-01T17:00:00Z", "2026-05-04T09:00:00Z"),
            ("5,10 0 1 1 *", "2026-05-01T10:00:00Z", "2027-01-01T00:05:00Z"),
            ("0 0 13 * 5", "2026-05-01T00:00:00Z", "2026-05-08T00:00:00Z"),
            ("0 0 * * 7", "2026-05-01T00:00:00Z", "2026-05-03T00:00:00Z"),
            ("0 0 29 2 *", "2026-05-01T00:00:00Z", "2028-02-29T00:00:00Z"), ("0 0 30 2 *", "2026-05-01T00:00:00Z", ""),
        ]
    )
    func cron(text: String, after: String, next: String) throws {
        let utc = try #require(TimeZone(identifier: "Etc/UTC"))
        let found = try CronSchedule(text).next(after: Self.time(after), in: utc)
        #expect(found == (next.isEmpty ? nil : Self.time(next)))
    }

    @Test("schedules by clocks that change, and what is none")
    func cronZones() throws {
        let kolkata = try #require(TimeZone(identifier: "Asia/Kolkata"))
        #expect(
            try CronSchedule("45 23 * * *").next(after: Self.time("2026-05-01T00:00:00Z"), in: kolkata)
                == Self.time("2026-05-01T18:15:00Z")
        )
        let vienna = try #require(TimeZone(identifier: "Europe/Vienna"))
        let noon = try CronSchedule("0 12 * * *")
        #expect(noon.next(after: Self.time("2026-03-28T11:00:00Z"), in: vienna) == Self.time("2026-03-29T10:00:00Z"))
        #expect(noon.next(after: Self.time("2026-10-24T10:00:00Z"), in: vienna) == Self.time("2026-10-25T11:00:00Z"))
        // 02:30 does not exist on 29 March; the next is not lost.
        let night = try CronSchedule("30 2 * * *")
        let skipped = try #require(night.next(after: Self.time("2026-03-28T12:00:00Z"), in: vienna))
        #expect((Self.time("2026-03-29T00:30:00Z")...Self.time("2026-03-29T01:30:00Z")).contains(skipped))
        #expect(night.next(after: Self.time("2026-03-29T12:00:00Z"), in: vienna) == Self.time("2026-03-30T00:30:00Z"))
        for bad in [
            "", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "a * * * *",
            "*/0 * * * *", "5-1 * * * *", "1,,2 * * * *",
        ] {
            #expect(throws: PipelineError.self) { try CronSchedule(bad) }
        }
    }

    private static func stored(_ id: String, _ status: MessageStatus, attempt: Int = 1) -> StoredMessage {
        StoredMessage(
            id: id,
            channel: .sms,
            status: status,
            attempt: attempt,
            provider: "p",
            providerMessageID: "p-\(id)",
            updatedAt: 0
        )
    }

    private static func report(_ id: String, _ status: ProviderReceipt.Status, reference: String? = nil)
        -> ProviderReceipt
    {
        ProviderReceipt(
            provider: "p",
            channel: .sms,
            providerMessageID: "p-\(id)",
            status: status,
            at: 1,
            reference: reference
        )
    }

    @Test("what push and pull say is compared message by message")
    func compare() {
        var drift = ProviderDrift(provider: "p", at: 3, from: 1, to: 2)
        let receipts = drift.compare(
            [
                Self.stored("a", .delivered), Self.stored("b", .delivered), Self.stored("c", .accepted),
                Self.stored("d", .accepted), Self.stored("e", .failed), Self.stored("f", .accepted),
                Self.stored("g", .retrying),
                Self.stored("h", .accepted, attempt: 2),
            ],
            elders: [Self.stored("old", .accepted)],
            with: [
                Self.report("a", .delivered), Self.report("b", .failed), Self.report("c", .undelivered),
                Self.report("d", .sent),
                Self.report("e", .expired), Self.report("x", .delivered), Self.report("g", .failed),
                Self.report("h1", .failed, reference: "h.1"), Self.report("old", .delivered),
            ]
        )
        #expect((drift.messages, drift.reports) == (8, 9))
        #expect((drift.agreed, drift.contradicting, drift.missed) == (2, 1, 2))
        #expect((drift.unknown, drift.absent) == (1, 1))
        #expect(drift.isDrifting)
        #expect(receipts.map(\.reference) == ["c.1", "old.1"] && receipts[0].providerMessageID == "p-c")
    }

    @Test("reports are read in each provider's shape, page by page, and refusals are told", .timeLimit(.minutes(4)))
    func sources() async throws {
        let group = MultiThreadedEventLoopGroup.singleton
        let sender = CallbackSender(group: group, logger: quietLogger())
        let gateway = try await KaleyraSimulator.start(.init(), group: group, sender: sender, logger: quietLogger())
        let now = SystemTime.now()
        for number in 0..<1_203 {
            gateway.reports.add(
                .init(
                    id: "id\(number)",
                    reference: number % 2 == 0 ? "m\(number).1" : nil,
                    recipient: "+1",
                    at: now.rawValue - 1_000,
                    finalAt: number == 5 ? .max : now.rawValue - 500,
                    end: number % 3 == 0 ? .failed : .delivered
                )
            )
        }
        let client = HTTPExchange.makeClient(group: group, connections: 2, connectTimeout: .seconds(5))
        let ids = (0..<1_203).map { "id\($0)" }
        func ask(_ pull: ReportPull) async throws -> [ProviderReceipt] {
            try await pull.reports(
                provider: "p",
                from: now + -3_600_000,
                to: now,
                ids: ids,
                client: client,
                now: now
            )
        }
        let key = Secret("simulator")
        let url = gateway.baseURL
        for pull in [
            ReportPull.kaleyra(url: url, account: "SIM", apiKey: key), .kaleyraLegacy(url: url + "/v4/", apiKey: key),
            .twilio(url: url, account: "SIM", token: key),
        ] {
            let found = try await ask(pull)
            #expect(Set(found.map(\.providerMessageID)) == Set(ids) && found.count == ids.count)
            let byID = Dictionary(uniqueKeysWithValues: found.map { ($0.providerMessageID, $0) })
            #expect(byID["id1"]?.status == .delivered && byID["id5"]?.status == .sent)
            #expect([.failed, .undelivered].contains(byID["id3"]?.status))
        }
        let wrong = Secret("wrong")
        for pull in [
            ReportPull.kaleyra(url: url, account: "SIM", apiKey: wrong),
            .kaleyraLegacy(url: url + "/v4/", apiKey: wrong),
            .twilio(url: url, account: "SIM", token: wrong),
            .twilio(url: "http://127.0.0.1:1", account: "SIM", token: key),
        ] {
            await #expect(throws: (any Error).self) { try await ask(pull) }
        }
        try await client.shutdown()
        await gateway.shutdown()
        await sender.shutdown()
    }

    @Test(
        "a pull ends messages whose callbacks were lost, and says how far push and pull are apart",
        .timeLimit(.minutes(4))
    )
    func endToEnd() async throws {
        try await Bench.with { bench, _ in
            let policy = RetryPolicy(receiptTimeoutMilliseconds: 3_600_000)
            try await bench.running(behavior: SimulatorBehavior(seed: 7, shares: .none), policy: policy) {
                center,
                simulated in
                // The simulator loses the reports of numbers that end in 9906.
                var ids: [String] = []
                for to in ["+919876509906", "+919876519906", "+919876500001"] {
                    let draft = MessageDraft(channel: .sms, to: to, content: MessageContent(text: "x"))
                    ids.append(try await center.messages.submit(draft).messageID)
                }
                let store = try #require(center.store)
                func eventually(_ what: String, _ condition: () throws -> Bool) async throws {
                    let deadline = ContinuousClock.now + .seconds(60)
                    while try !condition() {
                        try #require(ContinuousClock.now < deadline, "it did not come about that \(what)")
                        try await Task.sleep(for: .milliseconds(50))
                    }
                }
                try await eventually("all are with the provider") {
                    try ids.prefix(2).allSatisfy { try store.get($0)?.status == .accepted }
                        && store.get(ids[2])?.status == .delivered
                }
                let producer = try Producer(
                    ProducerConfiguration(client: bench.client),
                    eventLoopGroup: bench.group,
                    logger: bench.logger
                )
                func plan(_ key: String) throws -> PullPlan {
                    PullPlan(
                        provider: "kaleyra",
                        channel: .sms,
                        source: .kaleyra(url: simulated.sms.baseURL, account: "SIM", apiKey: Secret(key)),
                        schedule: try CronSchedule("* * * * *"),
                        zone: try #require(TimeZone(identifier: "Etc/UTC")),
                        windowMilliseconds: 3_600_000,
                        graceMilliseconds: -5_000
                    )
                }
                let service = PullService(
                    [],
                    store: store,
                    receipts: center.receipts,
                    producer: producer,
                    group: bench.group,
                    logger: bench.logger
                )
                let first = try await service.pull(try plan("simulator"), now: SystemTime.now())
                #expect((first.messages, first.missed, first.agreed, first.unknown) == (3, 2, 1, 0), "\(first)")
                try await eventually("the messages are at their end") {
                    try ids.allSatisfy { try store.get($0)?.status == .delivered }
                }
                let second = try await service.pull(try plan("simulator"), now: SystemTime.now())
                #expect(second.agreed == 3 && !second.isDrifting && second.failure == nil, "\(second)")
                let admin = try CenterAdmin(client: bench.client, eventLoopGroup: bench.group, logger: bench.logger)
                #expect(try await admin.providerDrifts() == [second])
                let refused = try await service.pull(try plan("wrong"), now: SystemTime.now())
                #expect(refused.failure?.contains("401") == true)
                #expect(try await admin.providerDrifts() == [refused])
                try await admin.close()
                try await producer.close()
            }
        }
    }

    @Test("pulls are read from the configuration, and what is wrong is named")
    func settings() throws {
        let text = """
            kind = "kaleyra"
            url = "https://api.kaleyra.example"
            account = "SID"
            api_key = { env = "KEY" }
            pull = { schedule = "45 23 * * *", zone = "Asia/Kolkata", window = "1d", grace = "10m" }
            """
        func read(_ text: String) throws -> PullPlan? {
            let table = try TOMLTable(string: "[a]\n" + text)
            return try ProviderSettings.read(table, environment: ["KEY": "secret"])[0].pull
        }
        let plan = try #require(try read(text))
        #expect(plan.windowMilliseconds == 86_400_000 && plan.graceMilliseconds == 600_000 && plan.provider == "a")
        #expect(try read(text.replacing("pull =", with: "# pull =")) == nil)
        for (old, new, place) in [
            ("45 23 * * *", "45 25 * * *", "pull.schedule: hour"), ("Asia/Kolkata", "Asia/Nowhere", "pull.zone"),
            ("\"10m\"", "\"2d\"", "pull.grace"), ("grace", "gracious", "gracious"),
        ] {
            let error = #expect(throws: PipelineError.self) { try read(text.replacing(old, with: new)) }
            #expect(error?.message.contains(place) == true, "\(error?.message ?? "")")
        }
        let mail = "kind = \"smtp\"\nhost = \"a\"\npull = { schedule = \"* * * * *\" }"
        let error = #expect(throws: PipelineError.self) { try read(mail) }
        #expect(error?.message.contains("no report to ask for") == true)
    }
}
