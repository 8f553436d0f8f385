// SPDX-License-Identifier: Apache-2.0

import Foundation
public import TOMLKit

extension RoutingConfiguration {
    /// Reads `[[route]]`, `[[quiet]]`, `[limits]` and `[breaker]` of a configuration file, and takes what `[provider.<name>]` says about
    /// weight, cost, rate and senders.
    ///
    /// - Parameters:
    ///   - root: The whole file.
    ///   - settings: Its providers.
    ///   - others: Providers that do not stand in the file, by channel.
    /// - Throws: ``PipelineError`` (`configuration`) that names the key and the fix.
    public static func read(
        _ root: TOMLTable,
        providers settings: [ProviderSettings],
        others: [Channel: [String]] = [:]
    ) throws(PipelineError) -> RoutingConfiguration {
        var routing = RoutingConfiguration()
        var known = others
        for provider in settings {
            routing.providers[provider.name] = provider.traits
            known[provider.channel, default: []].append(provider.name)
        }
        if let value = root["route"] {
            guard let array = value.array else {
                throw PipelineError(.configuration, "route: write [[route]], once for each rule, in their order")
            }
            for (index, element) in array.enumerated() {
                let place = "route number \(index + 1)"
                guard let table = element.table else {
                    throw PipelineError(.configuration, "\(place): write [[route]] and its keys below")
                }
                var rule = SettingsTable(table, place: place, environment: [:])
                routing.rules.append(try Self.rule(&rule, known))
                try rule.finish()
            }
            guard Set(routing.rules.map(\.name)).count == routing.rules.count else {
                throw PipelineError(
                    .configuration,
                    "two of [[route]] have the same name; timelines name them: change one"
                )
            }
        }
        routing.quietHours = try QuietHours.read(root)
        if let value = root["limits"] {
            guard let table = value.table else { throw PipelineError(.configuration, "limits: write [limits]") }
            var limits = SettingsTable(table, place: "limits", environment: [:])
            routing.tenantRates = try limits.rates("tenant")
            routing.senderRates = try limits.rates("sender")
            try limits.finish()
        }
        if let value = root["breaker"] {
            guard let table = value.table else { throw PipelineError(.configuration, "breaker: write [breaker]") }
            var keys = SettingsTable(table, place: "breaker", environment: [:])
            let preset = CircuitBreaker.Settings()
            routing.breaker = CircuitBreaker.Settings(
                window: try keys.number("window", preset.window, 10...10_000),
                answersMin: try keys.number("answers_min", preset.answersMin, 5...10_000),
                failureShare: try keys.share("failure_share", preset.failureShare),
                pauseMilliseconds: try keys.duration("pause", .milliseconds(preset.pauseMilliseconds)).milliseconds,
                pauseMaxMilliseconds: try keys.duration("pause_max", .milliseconds(preset.pauseMaxMilliseconds))
                    .milliseconds
            )
            try keys.finish()
            guard routing.breaker.answersMin <= routing.breaker.window else {
                throw PipelineError(.configuration, "breaker.answers_min: is more than window, so it would never open")
            }
        }
        return routing
    }

    private static func rule(
        _ table: inout SettingsTable,
        _ known: [Channel: [String]]
    ) throws(PipelineError) -> RouteRule {
        let place = table.place
        let name = try table.text("name")
        guard let channel = Channel(rawValue: try table.text("channel")) else {
            throw PipelineError(.configuration, "\(place).channel: write \"sms\", \"email\" or \"push\"")
        }
        let countries = try table.list("country").map { $0.hasPrefix("+") ? String($0.dropFirst()) : $0 }
        for country in countries where CountryCallingCodes.nationalLengths[country] == nil {
            throw PipelineError(
                .configuration,
                "\(place).country: '\(country)' is no country calling code; write such as \"+91\""
            )
        }
        let providers = try table.list("providers")
        for provider in providers where !(known[channel] ?? []).contains(provider) {
            throw PipelineError(
                .configuration,
                "\(place).providers: '\(provider)' is no provider of \(channel); there are "
                    + (known[channel] ?? []).joined(separator: ", ")
            )
        }
        let senders = try table.list("senders")
        if channel == .sms {
            for sender in senders {
                if let problem = MessageValidator.senderProblem(sender) {
                    throw PipelineError(.configuration, "\(place).senders: \(problem)")
                }
            }
        }
        return RouteRule(
            name: name,
            channel: channel,
            countries: Set(countries),
            prefixes: try table.list("prefix"),
            domains: Set(try table.list("domain").map { $0.lowercased() }),
            tenants: Set(try table.list("tenant")),
            templates: try table.list("template"),
            lanes: Set(try table.list("lane")),
            providers: providers,
            order: try table.choice("order", RouteRule.Order.listed),
            senders: senders
        )
    }
}
