// SPDX-License-Identifier: Apache-2.0

import Foundation
import TOMLKit

extension QuietHours {
    /// Reads `[[quiet]]`. - Throws: ``PipelineError`` (`configuration`) that names the key and the fix.
    static func read(_ root: TOMLTable) throws(PipelineError) -> [QuietHours] {
        guard let value = root["quiet"] else { return [] }
        guard let array = value.array else {
            throw PipelineError(.configuration, "quiet: write [[quiet]], once for each window")
        }
        var rules: [QuietHours] = []
        for (index, element) in array.enumerated() {
            let place = "quiet number \(index + 1)"
            guard let table = element.table else {
                throw PipelineError(.configuration, "\(place): write [[quiet]] and its keys below")
            }
            var settings = SettingsTable(table, place: place, environment: [:])
            rules.append(try rule(&settings, place))
            try settings.finish()
        }
        guard Set(rules.map(\.name)).count == rules.count else {
            throw PipelineError(.configuration, "two of [[quiet]] have the same name; timelines name them: change one")
        }
        return rules
    }

    private static func rule(_ table: inout SettingsTable, _ place: String) throws(PipelineError) -> QuietHours {
        var rule = QuietHours(
            name: try table.text("name"),
            tenants: Set(try table.list("tenant")),
            lanes: Set(try table.list("lane")),
            categories: Set(try table.list("category")),
            from: try minutes(try table.text("from"), "\(place).from"),
            until: try minutes(try table.text("until"), "\(place).until")
        )
        guard rule.from != rule.until, rule.from < 1_440 else {
            throw PipelineError(
                .configuration,
                "\(place): from and until are the same; for a day write \"00:00\" and \"24:00\""
            )
        }
        if table.has("exempt") { rule.exemptLanes = Set(try table.list("exempt")) }
        for name in try table.list("channel") {
            guard let channel = Channel(rawValue: name) else {
                throw PipelineError(
                    .configuration,
                    "\(place).channel: '\(name)' is not one of \(Channel.allCases.names)"
                )
            }
            rule.channels.insert(channel)
        }
        for text in try table.list("country") {
            let code = text.hasPrefix("+") ? String(text.dropFirst()) : text
            guard CountryCallingCodes.nationalLengths[code] != nil else {
                throw PipelineError(
                    .configuration,
                    "\(place).country: '\(text)' is no calling code; write it as \"+49\""
                )
            }
            rule.countries.insert(code)
        }
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
        for name in try table.list("days") {
            guard let index = names.firstIndex(of: name) else {
                throw PipelineError(
                    .configuration,
                    "\(place).days: '\(name)' is not one of \(names.joined(separator: ", "))"
                )
            }
            rule.days.insert(index + 1)
        }
        if let zone = try table.optionalText("zone") {
            guard TimeZone(identifier: zone) != nil else {
                throw PipelineError(
                    .configuration,
                    "\(place).zone: '\(zone)' is no time zone; write it as \"Europe/Vienna\""
                )
            }
            rule.zone = zone
        }
        return rule
    }

    /// `HH:MM`, up to `24:00`.
    private static func minutes(_ text: String, _ place: String) throws(PipelineError) -> Int {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, parts.allSatisfy({ $0.utf8.count == 2 }), let hour = Int(parts[0]),
            let minute = Int(parts[1]), (0...59).contains(minute), (0...24).contains(hour), hour * 60 + minute <= 1_440
        else { throw PipelineError(.configuration, "\(place): '\(text)' is no time of day; write it as \"21:00\"") }
        return hour * 60 + minute
    }
}
