// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel

/// When recipients are not written to, by their own clocks: one `[[quiet]]` of the configuration. A condition that is empty fits
/// every message.
public struct QuietHours: Sendable, Hashable {
    /// For the timeline.
    public var name: String
    /// Channels.
    public var channels: Set<Channel>
    /// Country calling codes without `+` (SMS).
    public var countries: Set<String>
    /// Tenants.
    public var tenants: Set<String>
    /// Lanes.
    public var lanes: Set<String>
    /// What messages say of their kind.
    public var categories: Set<String>
    /// Lanes that go on all the same.
    public var exemptLanes: Set<String>
    /// When they begin, in minutes after midnight.
    public var from: Int
    /// When they end, in minutes after midnight; not after `from`: on the next day.
    public var until: Int
    /// Days of the week on which they begin, 1 for Monday; empty: every day.
    public var days: Set<Int>
    /// The time zone of recipients of whom it is not known; nil: those have no quiet hours.
    public var zone: String?

    /// Makes a value from its parts.
    public init(
        name: String,
        channels: Set<Channel> = [],
        countries: Set<String> = [],
        tenants: Set<String> = [],
        lanes: Set<String> = [],
        categories: Set<String> = [],
        exemptLanes: Set<String> = ["critical"],
        from: Int,
        until: Int,
        days: Set<Int> = [],
        zone: String? = nil
    ) {
        self.name = name
        self.channels = channels
        self.countries = countries
        self.tenants = tenants
        self.lanes = lanes
        self.categories = categories
        self.exemptLanes = exemptLanes
        self.from = from
        self.until = until
        self.days = days
        self.zone = zone
    }

    /// Whether the rule speaks of a message. - Parameter country: The calling code of its recipient.
    func fits(_ message: Message, country: String?) -> Bool {
        if exemptLanes.contains(message.lane) { return false }
        if !channels.isEmpty, !channels.contains(message.channel) { return false }
        if !tenants.isEmpty, !tenants.contains(message.tenant) { return false }
        if !lanes.isEmpty, !lanes.contains(message.lane) { return false }
        if !categories.isEmpty, !(message.category.map { categories.contains($0) } ?? false) { return false }
        if !countries.isEmpty, !(country.map { countries.contains($0) } ?? false) { return false }
        return true
    }

    /// The end of the quiet hours around a point in time, by the clocks of a zone; nil: it is not within any.
    ///
    /// Clocks are changed now and then: the way to the end is gone from change to change, and the clock is read anew after each. So
    /// an hour that a night has twice is quiet twice, and where the clock skips the end, the change is the end.
    func end(at time: Timestamp, in zone: TimeZone) -> Timestamp? {
        var date = Date(timeIntervalSince1970: Double(time.rawValue) / 1_000)
        var isWithin = false
        for _ in 0..<32 {
            let local = Int64(date.timeIntervalSince1970.rounded(.down)) + Int64(zone.secondsFromGMT(for: date))
            guard let left = secondsLeft(local) else {
                return isWithin ? Timestamp(Int64((date.timeIntervalSince1970 * 1_000).rounded(.up))) : nil
            }
            isWithin = true
            let end = Date(timeIntervalSince1970: date.timeIntervalSince1970.rounded(.down) + Double(left))
            if let change = zone.nextDaylightSavingTimeTransition(after: date), change > date, change < end {
                date = change
            } else {
                date = end
            }
        }
        return Timestamp(Int64(date.timeIntervalSince1970 * 1_000))
    }

    /// Seconds until the end if the clock goes on evenly; nil: it is not within quiet hours. - Parameter local: What the clock
    /// shows, as seconds since 1970.
    private func secondsLeft(_ local: Int64) -> Int? {
        let day = local >= 0 ? local / 86_400 : -((-local + 86_399) / 86_400)
        let second = Int(local - day * 86_400)
        // 1 January 1970 was a Thursday.
        func counts(_ day: Int64) -> Bool { days.isEmpty || days.contains(Int(((day + 3) % 7 + 7) % 7) + 1) }
        let (from, until) = (from * 60, until * 60)
        if from < until { return second >= from && second < until && counts(day) ? until - second : nil }
        if second >= from, counts(day) { return 86_400 - second + until }
        if second < until, counts(day - 1) { return until - second }
        return nil
    }
}

/// All quiet hours of a centre.
struct QuietPlan: Sendable {
    /// What a message waits for.
    struct Wait: Sendable, Equatable {
        var until: Timestamp
        /// For the timeline.
        var reason: String
    }

    let rules: [QuietHours]
    private let byCountry: [String: [TimeZone]]

    init(_ rules: [QuietHours]) {
        self.rules = rules
        byCountry =
            rules.isEmpty
            ? [:] : CountryTimeZones.zones.mapValues { $0.compactMap { TimeZone(identifier: $0) } }
    }

    /// Until when a message must wait; nil: it may go.
    func wait(for message: Message, at now: Timestamp) -> Wait? {
        guard !rules.isEmpty else { return nil }
        var country: String?
        if message.channel == .sms, case .success(let number) = PhoneNumber.parse(message.to) {
            country = number.countryCode
        }
        let fitting = rules.filter { $0.fits(message, country: country) }
        guard !fitting.isEmpty else { return nil }
        let known: [TimeZone]
        if let given = message.timeZone.flatMap({ TimeZone(identifier: $0) }) {
            known = [given]
        } else {
            known = country.flatMap { byCountry[$0] } ?? []
        }
        // Where a country's zones leave no hour in common within two days, the one of most of its people counts.
        let all = Self.opening(fitting, known, now)
        guard let all, all.until - now > 2 * 86_400_000, known.count > 1 else { return all }
        return Self.opening(fitting, Array(known.prefix(1)), now)
    }

    private static func opening(_ rules: [QuietHours], _ known: [TimeZone], _ now: Timestamp) -> Wait? {
        var time = now
        var reason: String?
        // One window's end may lie within another one.
        search: for _ in 0..<64 {
            for rule in rules {
                let zones = known.isEmpty ? rule.zone.flatMap { TimeZone(identifier: $0) }.map { [$0] } ?? [] : known
                for zone in zones {
                    guard let end = rule.end(at: time, in: zone), end > time else { continue }
                    time = end
                    reason = "quiet hours '\(rule.name)' in \(zone.identifier)"
                    continue search
                }
            }
            break
        }
        return reason.map { Wait(until: time, reason: $0) }
    }
}
