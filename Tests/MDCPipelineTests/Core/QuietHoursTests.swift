// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import TOMLKit
import Testing

@testable import MDCPipeline

@Suite("Quiet hours")
struct QuietHoursTests {
    private static func time(_ text: String) -> Timestamp { CallbackParser.timestamp(text) ?? 0 }

    private static func zone(_ name: String) throws -> TimeZone { try #require(TimeZone(identifier: name)) }

    /// Nights of Vienna, of which one misses the hour from two to three, and one has it twice.
    @Test(
        "end when the recipient's clock says so, also when clocks change",
        arguments: [
            ("2026-01-15T19:59:59Z", nil), ("2026-01-15T20:00:00Z", "2026-01-16T07:00:00Z"),
            ("2026-01-16T06:59:59Z", "2026-01-16T07:00:00Z"), ("2026-01-16T07:00:00Z", nil),
            ("2026-07-15T19:00:00Z", "2026-07-16T06:00:00Z"), ("2026-07-15T18:59:59Z", nil),
            // 29 March: 02:00 becomes 03:00. 25 October: 03:00 becomes 02:00.
            ("2026-03-28T20:00:00Z", "2026-03-29T06:00:00Z"), ("2026-03-29T20:00:00Z", "2026-03-30T06:00:00Z"),
            ("2026-03-29T19:00:00Z", "2026-03-30T06:00:00Z"), ("2026-10-24T19:30:00Z", "2026-10-25T07:00:00Z"),
            ("2026-10-25T01:30:00Z", "2026-10-25T07:00:00Z"),
        ] as [(String, String?)]
    )
    func vienna(now: String, end: String?) throws {
        let rule = QuietHours(name: "night", from: 21 * 60, until: 8 * 60)
        #expect(rule.end(at: Self.time(now), in: try Self.zone("Europe/Vienna")) == end.map(Self.time))
    }

    @Test("whose end is skipped or comes twice")
    func changes() throws {
        let vienna = try Self.zone("Europe/Vienna")
        let rule = QuietHours(name: "night", from: 23 * 60, until: 2 * 60 + 30)
        // There is no 02:30 on that day: the clock goes from 02:00 to 03:00, at 01:00 UTC.
        #expect(rule.end(at: Self.time("2026-03-29T00:30:00Z"), in: vienna) == Self.time("2026-03-29T01:00:00Z"))
        // 02:30 comes at 00:30 UTC, and again at 01:30, after an hour that is quiet up to it.
        #expect(rule.end(at: Self.time("2026-10-24T23:00:00Z"), in: vienna) == Self.time("2026-10-25T00:30:00Z"))
        #expect(rule.end(at: Self.time("2026-10-25T01:10:00Z"), in: vienna) == Self.time("2026-10-25T01:30:00Z"))
        // A zone whose clocks go by half an hour.
        let howe = try Self.zone("Australia/Lord_Howe")
        let night = QuietHours(name: "night", from: 21 * 60, until: 8 * 60)
        #expect(night.end(at: Self.time("2026-04-04T12:00:00Z"), in: howe) == Self.time("2026-04-04T21:30:00Z"))
        // And those that have no such days.
        #expect(
            night.end(at: Self.time("2026-05-01T16:00:00Z"), in: try Self.zone("Asia/Kolkata"))
                == Self.time("2026-05-02T02:30:00Z")
        )
    }

    @Test("found by going from minute to minute are the same, for every hour around the changes")
    func naive() throws {
        for name in ["Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kathmandu"]
        {
            let zone = try Self.zone(name)
            for rule in [
                QuietHours(name: "a", from: 21 * 60, until: 8 * 60),
                QuietHours(name: "b", from: 60, until: 2 * 60 + 15),
                QuietHours(name: "c", from: 0, until: 1_440, days: [6, 7]),
                QuietHours(name: "d", from: 22 * 60, until: 150, days: [6]),
            ] {
                func isQuiet(_ time: Int64) -> Bool {
                    let date = Date(timeIntervalSince1970: Double(time))
                    let local = time + Int64(zone.secondsFromGMT(for: date))
                    let (day, minute) = (local / 86_400, Int(local % 86_400) / 60)
                    func counts(_ day: Int64) -> Bool {
                        rule.days.isEmpty || rule.days.contains(Int((day + 3) % 7) + 1)
                    }
                    if rule.from < rule.until { return minute >= rule.from && minute < rule.until && counts(day) }
                    return minute >= rule.from && counts(day) || minute < rule.until && counts(day - 1)
                }
                for change in ["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"] {
                    let start = Self.time(change + "T00:00:00Z").rawValue / 1_000 - 43_200
                    for hour in 0..<36 {
                        let now = start + Int64(hour) * 3_600
                        var end = now
                        while isQuiet(end) { end += 60 }
                        let found = rule.end(at: Timestamp(now * 1_000), in: zone)
                        let place = "\(name) \(rule.name) \(change) \(hour)"
                        #expect(found == (end == now ? nil : Timestamp(end * 1_000)), "\(place)")
                    }
                }
            }
        }
    }

    private static func message(_ change: (inout Message) -> Void = { _ in }) -> Message {
        var message = Make.message()
        message.to = "+4366412345678"
        change(&message)
        return message
    }

    @Test("hold those whom a rule speaks of, by the number's country or the zone that was given")
    func plan() throws {
        let night = QuietHours(name: "night", from: 21 * 60, until: 8 * 60)
        let plan = QuietPlan([night])
        let now = Self.time("2026-01-15T22:00:00Z")
        #expect(plan.wait(for: Self.message(), at: now)?.until == Self.time("2026-01-16T07:00:00Z"))
        #expect(plan.wait(for: Self.message(), at: now)?.reason == "quiet hours 'night' in Europe/Vienna")
        #expect(plan.wait(for: Self.message { $0.timeZone = "Pacific/Auckland" }, at: now) == nil)
        #expect(plan.wait(for: Self.message { $0.lane = "critical" }, at: now) == nil)
        #expect(
            plan.wait(for: Self.message { $0.to = "+819012345678" }, at: now)?.until
                == Self.time("2026-01-15T23:00:00Z")
        )
        // All of the United States are awake from 13 h in New York, when it is 8 h in Honolulu.
        #expect(plan.wait(for: Self.message { $0.to = "+12125550123" }, at: now) == nil)
        #expect(
            plan.wait(for: Self.message { $0.to = "+12125550123" }, at: Self.time("2026-01-16T14:00:00Z"))?.until
                == Self.time("2026-01-16T18:00:00Z")
        )
        let mail = Self.message {
            $0.channel = .email
            $0.to = "a@example.com"
        }
        #expect(plan.wait(for: mail, at: now) == nil)
        var known = night
        known.zone = "Europe/London"
        #expect(QuietPlan([known]).wait(for: mail, at: now)?.until == Self.time("2026-01-16T08:00:00Z"))
        for (change, held) in [
            ({ $0.channels = [.push] }, false), ({ $0.channels = [.sms] }, true), ({ $0.tenants = ["shop"] }, false),
            ({ $0.lanes = ["bulk"] }, false), ({ $0.categories = ["marketing"] }, true),
            ({ $0.categories = ["otp"] }, false),
            ({ $0.countries = ["43"] }, true), ({ $0.countries = ["49"] }, false),
            ({ $0.exemptLanes = ["normal"] }, false),
            ({ $0.days = [4] }, true), ({ $0.days = [5] }, false),
        ] as [((inout QuietHours) -> Void, Bool)] {
            var rule = night
            change(&rule)
            let wait = QuietPlan([rule]).wait(for: Self.message { $0.category = "marketing" }, at: now)
            #expect((wait != nil) == held, "\(rule)")
        }
        // One ends within the other.
        let noon = QuietHours(name: "morning", from: 7 * 60 + 30, until: 12 * 60)
        #expect(
            QuietPlan([night, noon]).wait(for: Self.message(), at: now)?.until == Self.time("2026-01-16T11:00:00Z")
        )
        // For ever: it is the first zone that counts, and then the message's own end.
        let always = QuietHours(name: "always", from: 0, until: 1_440)
        #expect(try #require(QuietPlan([always]).wait(for: Self.message(), at: now)).until - now > 10 * 86_400_000)
    }

    @Test("every zone of the table is one")
    func zones() {
        for (code, names) in CountryTimeZones.zones {
            #expect(CountryCallingCodes.nationalLengths[code] != nil, "\(code)")
            for name in names { #expect(TimeZone(identifier: name) != nil, "\(name)") }
        }
    }

    @Test("are read from the configuration, and what is wrong is named")
    func settings() throws {
        let text = """
            [[quiet]]
            name = "night"
            from = "21:00"
            until = "08:00"
            channel = ["sms"]
            country = ["+43"]
            days = ["mon", "sun"]
            category = ["marketing"]
            exempt = []
            zone = "Europe/Vienna"
            """
        let read = try RoutingConfiguration.read(try TOMLTable(string: text), providers: []).quietHours
        #expect(
            read == [
                QuietHours(
                    name: "night",
                    channels: [.sms],
                    countries: ["43"],
                    categories: ["marketing"],
                    exemptLanes: [],
                    from: 1_260,
                    until: 480,
                    days: [1, 7],
                    zone: "Europe/Vienna"
                )
            ]
        )
        for (old, new, place) in [
            ("21:00", "9 pm", "from"), ("08:00", "24:01", "until"), ("08:00", "21:00", "the same"),
            ("\"sms\"", "\"fax\"", "channel"),
            ("+43", "+999", "country"), ("\"mon\"", "\"Monday\"", "days"), ("Europe/Vienna", "Wien", "zone"),
            ("exempt", "colour", "colour"), ("name = \"night\"", "", "name"),
        ] {
            let error = #expect(throws: PipelineError.self) {
                try RoutingConfiguration.read(try TOMLTable(string: text.replacing(old, with: new)), providers: [])
            }
            #expect(error?.message.contains(place) == true, "\(error?.message ?? "")")
        }
    }

    @Test("stand in the state of a message, and can be ended by calling it back")
    func ledger() {
        var ledger = MessageLedger()
        let message = Make.message()
        let place = EventPosition(partition: 0, offset: 0)
        _ = ledger.apply(Make.submitted(message), at: place, now: 1_000)
        var held = TimelineEvent(messageID: "m1", channel: .sms, at: 1_001, component: "dispatcher", kind: .scheduled)
        (held.status, held.dueAt) = (.scheduled, 5_000)
        #expect(ledger.apply(held, at: place, now: 1_001).1 == [])
        #expect(ledger.open["m1"]?.state.status == .scheduled && ledger.open["m1"]?.state.dueAt == 5_000)
        let wish = TimelineEvent(messageID: "m1", channel: .sms, at: 1_002, component: "client", kind: .cancelRequested)
        #expect(
            ledger.apply(wish, at: place, now: 1_002).1 == [.endTimer("quiet:m1:1:5000"), .cancel(message, attempt: 1)]
        )
        var window = AttemptWindow(capacity: 2)
        window.insert("m1", attempt: 1)
        window.remove("m1", attempt: 1)
        let isNew = window.insert("m1", attempt: 1)
        #expect(isNew)
    }
}
