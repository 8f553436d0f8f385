// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCBroker
import MDCClient
import MDCModel
import MDCPipeline
import TOMLKit

/// A setting of `mdc up` that cannot be used.
struct UpSettingsError: Error, CustomStringConvertible {
    var description: String
}

/// Everything that `mdc up` starts with: presets, then the configuration file, then options.
struct UpSettings: Sendable {
    /// The folder that holds everything; the broker's logs are in `broker`, the message store beside it.
    var data = "./mdc-data"
    var broker = BrokerConfiguration()
    var lanes = LaneConfiguration()
    /// Limits and defaults of messages.
    var messages = MessageSettings()
    var policies: [Channel: RetryPolicy] = [:]
    var simulator = SimulatorBehavior(
        shares: .none,
        delays: SimulatorDelays(answer: .milliseconds(20), receipt: .milliseconds(200))
    )
    /// How long a provider's answer is waited for before the attempt is in doubt.
    var requestTimeout = Duration.seconds(5)
    /// Where providers call back to.
    var callbacks = HostPort(host: "127.0.0.1", port: 0)
    /// How providers see the callback listener; nil: by its own address.
    var publicURL: String?
    /// Whether clients are told by webhooks what becomes of their messages.
    var hasWebhooks = true
    /// The HTTP interface; nil: none.
    var api: APIServer.Configuration?
    /// The file's text if it has `[provider.<name>]`: read by `readProviders()`, because it names secrets, which a command
    /// that only sends does not have.
    private var providerText: String?
    /// The file's text if it has `[[route]]`, `[[quiet]]`, `[limits]` or `[breaker]`.
    private var routingText: String?
    /// The file's text if it has `[store]` or `[cache]`: read by `readStores()`, because it names secrets.
    private var storeText: String?
    /// How long a worker that went silent keeps its part of the work.
    var sessionTimeout = Duration.seconds(10)

    /// The message store of a data folder.
    static func storePath(_ data: String) -> String { data + "/messages.sqlite" }
    var storePath: String { Self.storePath(data) }
    var brokerPath: String { data + "/broker" }

    init() {}

    /// Ordinary work: no trouble unless a recipient asks for it.
    static var standard: UpSettings { UpSettings() }

    /// Everything that happens in hours happens in seconds: the simulators fail, delay and lose in their usual shares.
    static var demo: UpSettings {
        var settings = UpSettings()
        settings.simulator = SimulatorBehavior(
            seed: 1,
            shares: .usual,
            delays: SimulatorDelays(
                answer: .milliseconds(5),
                slowAnswer: .milliseconds(300),
                hang: .seconds(4),
                receipt: .milliseconds(50),
                lateReceipt: .milliseconds(1_500)
            )
        )
        settings.requestTimeout = .seconds(1)
        settings.sessionTimeout = .seconds(6)
        let policy = MessageCenterConfiguration.demoPolicy
        settings.policies = Dictionary(uniqueKeysWithValues: Channel.allCases.map { ($0, policy) })
        settings.broker.listen.port = 0
        settings.broker.http = nil
        settings.broker.groupInitialRebalanceDelay = 50
        settings.hasWebhooks = false
        return settings
    }

    /// What a demonstration runs with, in words.
    var summary: [String] {
        let delays = simulator.delays
        let policy = policies[.sms] ?? RetryPolicy()
        func text(_ milliseconds: Int64) -> String {
            milliseconds % 1_000 == 0 ? "\(milliseconds / 1_000) s" : "\(milliseconds) ms"
        }
        func text(_ duration: Duration) -> String { text(duration.wholeMilliseconds) }
        let timeoutAction = policy.onReceiptTimeout == .retry ? "then the message is tried again" : "then it expires"
        return [
            "providers (simulated, seed \(simulator.seed)): answer after \(text(delays.answer)), report after "
                + "\(text(delays.receipt)) to \(text(delays.receipt * 2)), late reports after \(text(delays.lateReceipt)); "
                + "they refuse, fail, delay, double and lose by fixed shares",
            "patience: an answer is awaited \(text(requestTimeout)), a report "
                + "\(text(policy.receiptTimeoutMilliseconds)), \(timeoutAction); back-off "
                + "\(text(policy.backoffMilliseconds)), doubled up to \(text(policy.backoffMaxMilliseconds)); "
                + "at most \(policy.attemptsMax) attempts",
        ]
    }

    /// How messages are checked.
    var validation: MessageValidator.Configuration {
        var validation = messages.validation
        validation.lanes = lanes
        return validation
    }

    // MARK: - File

    /// Reads a configuration file over the presets.
    mutating func apply(path: String) throws {
        guard let bytes = FileManager.default.contents(atPath: path) else {
            throw UpSettingsError(description: "cannot read '\(path)'; does it exist, and may it be read?")
        }
        do {
            try apply(toml: String(decoding: bytes, as: UTF8.self))
        } catch let error as UpSettingsError {
            throw UpSettingsError(description: "\(path): \(error.description)")
        } catch {
            throw UpSettingsError(description: "\(path): \(error)")
        }
    }

    mutating func apply(toml text: String) throws {
        let root: TOMLTable
        do {
            root = try TOMLTable(string: text)
        } catch {
            throw UpSettingsError(description: "this is not TOML: \(error)")
        }
        for name in root.keys {
            if name == "route" || name == "quiet" || name == "limits" || name == "breaker" || name == "provider" {
                routingText = text
            }
            if name == "route" || name == "quiet" { continue }
            guard let table = root[name]?.table else {
                throw UpSettingsError(description: "'\(name)' stands outside of a table; write [\(name)] or remove it")
            }
            switch name {
            case "lanes": lanes = try LaneConfiguration(toml: text)
            case "broker": try applyBroker(table, prefix: "")
            case "retry": try applyRetry(table)
            case "messages": messages = try MessageSettings(table)
            case "simulator": try applySimulator(table)
            case "providers": try applyProviders(table)
            case "api": try applyAPI(table)
            case "provider": providerText = text
            case "store", "cache": storeText = text
            case "limits", "breaker": break
            default:
                throw UpSettingsError(
                    description:
                        "[\(name)] is not known; there are [lanes.<channel>], [messages], [broker], [retry.<channel>], "
                        + "[simulator], [providers], [provider.<name>], [[route]], [[quiet]], [limits], [breaker], [api], [store] and [cache]"
                )
            }
        }
    }

    /// Providers that are not simulated, with their secrets.
    func readProviders() throws -> [ProviderSettings] {
        guard let providerText, let table = try TOMLTable(string: providerText)["provider"]?.table else { return [] }
        return try ProviderSettings.read(table)
    }

    /// Servers in place of the SQLite file and of memory, with their secrets.
    func readStores() throws -> StoreSettings {
        guard let storeText else { return StoreSettings() }
        return try StoreSettings(
            file: try TOMLTable(string: storeText),
            environment: ProcessInfo.processInfo.environment
        )
    }

    /// Which providers take which messages. - Parameter providers: Those of `readProviders()`.
    func readRouting(_ providers: [ProviderSettings]) throws -> RoutingConfiguration {
        guard let routingText else { return RoutingConfiguration() }
        // A channel without a provider of its own is simulated.
        var simulated = SimulatedProviders.names
        for provider in providers { simulated[provider.channel] = nil }
        return try RoutingConfiguration.read(
            try TOMLTable(string: routingText),
            providers: providers,
            others: simulated.mapValues { [$0] }
        )
    }

    /// Any setting of the broker by its name; nested tables are prefixes.
    private mutating func applyBroker(_ table: TOMLTable, prefix: String) throws {
        for key in table.keys {
            let name = prefix + key
            if let nested = table[key]?.table {
                try applyBroker(nested, prefix: name + ".")
            } else if let text = table[key]?.string {
                try broker.set(name, to: text)
            } else if let number = table[key]?.int {
                try broker.set(name, to: "\(number)")
            } else if let flag = table[key]?.bool {
                try broker.set(name, to: "\(flag)")
            } else {
                throw UpSettingsError(description: "broker.\(name): write a text, a whole number, true or false")
            }
        }
    }

    private mutating func applyRetry(_ tables: TOMLTable) throws {
        for name in tables.keys {
            guard let channel = Channel(rawValue: name), let table = tables[name]?.table else {
                throw UpSettingsError(description: "[retry.\(name)]: use retry.sms, retry.email or retry.push")
            }
            var policy = policies[channel] ?? RetryPolicy()
            for key in table.keys {
                let place = "retry.\(name).\(key)"
                switch key {
                case "attempts_max": policy.attemptsMax = Int(try Self.number(table, key, place, 1...1_000))
                case "backoff": policy.backoffMilliseconds = try Self.milliseconds(table, key, place)
                case "backoff_max": policy.backoffMaxMilliseconds = try Self.milliseconds(table, key, place)
                case "receipt_timeout": policy.receiptTimeoutMilliseconds = try Self.milliseconds(table, key, place)
                case "on_receipt_timeout": policy.onReceiptTimeout = try Self.action(table, key, place)
                case "on_in_doubt": policy.onInDoubt = try Self.action(table, key, place)
                default:
                    throw UpSettingsError(
                        description: "\(place) is not known; there are attempts_max, backoff, backoff_max, "
                            + "receipt_timeout, on_receipt_timeout and on_in_doubt"
                    )
                }
            }
            policies[channel] = policy
        }
    }

    private mutating func applySimulator(_ table: TOMLTable) throws {
        for key in table.keys {
            let place = "simulator.\(key)"
            func duration() throws -> Duration { .milliseconds(try Self.milliseconds(table, key, place)) }
            switch key {
            case "seed": simulator.seed = UInt64(try Self.number(table, key, place, 0...Int.max))
            case "answer": simulator.delays.answer = try duration()
            case "slow_answer": simulator.delays.slowAnswer = try duration()
            case "hang": simulator.delays.hang = try duration()
            case "receipt": simulator.delays.receipt = try duration()
            case "late_receipt": simulator.delays.lateReceipt = try duration()
            case "shares": simulator.shares = try Self.shares(table)
            default:
                throw UpSettingsError(
                    description: "\(place) is not known; there are seed, answer, slow_answer, hang, receipt, "
                        + "late_receipt and shares"
                )
            }
        }
    }

    /// `shares = "usual"`, `"none"`, or a table of fates.
    private static func shares(_ table: TOMLTable) throws -> SimulatorShares {
        switch table["shares"]?.string {
        case "usual"?: return .usual
        case "none"?: return .none
        default: break
        }
        guard let given = table["shares"]?.table else {
            throw UpSettingsError(
                description: "simulator.shares: write \"usual\", \"none\" or a table such as { busy = 0.02 }"
            )
        }
        var shares: [SimulatedFate: Double] = [:]
        for name in given.keys {
            guard let fate = SimulatedFate(rawValue: name), fate != .deliver else {
                let known = SimulatedFate.allCases.filter { $0 != .deliver }.map(\.rawValue).joined(separator: ", ")
                throw UpSettingsError(description: "simulator.shares.\(name) is not known; there are \(known)")
            }
            guard let share = given[name]?.double ?? given[name]?.int.map(Double.init), (0...1).contains(share) else {
                throw UpSettingsError(description: "simulator.shares.\(name): write a number from 0 to 1")
            }
            shares[fate] = share
        }
        guard shares.values.reduce(0, +) <= 1 else {
            throw UpSettingsError(description: "simulator.shares: together they are more than 1")
        }
        return SimulatorShares(shares)
    }

    private mutating func applyProviders(_ table: TOMLTable) throws {
        for key in table.keys {
            let place = "providers.\(key)"
            switch key {
            case "request_timeout": requestTimeout = .milliseconds(try Self.milliseconds(table, key, place))
            case "callbacks":
                guard let address = table[key]?.string.flatMap(HostPort.init) else {
                    throw UpSettingsError(description: "\(place): write \"HOST:PORT\"")
                }
                callbacks = address
            case "public_url":
                guard let url = table[key]?.string, url.hasPrefix("http"), !url.hasSuffix("/") else {
                    throw UpSettingsError(description: "\(place): write \"https://HOST\", without a slash at the end")
                }
                publicURL = url
            default:
                throw UpSettingsError(
                    description: "\(place) is not known; there are request_timeout, callbacks and public_url"
                )
            }
        }
    }

    // MARK: - Values

    static func number(_ table: TOMLTable, _ key: String, _ place: String, _ range: ClosedRange<Int>) throws
        -> Int
    {
        guard let value = table[key]?.int, range.contains(value) else {
            throw UpSettingsError(
                description: "\(place): write a whole number from \(range.lowerBound) to \(range.upperBound)"
            )
        }
        return value
    }

    private static func action(_ table: TOMLTable, _ key: String, _ place: String) throws -> RetryPolicy.TimeoutAction {
        guard let action = table[key]?.string.flatMap(RetryPolicy.TimeoutAction.init) else {
            throw UpSettingsError(description: "\(place): write \"retry\" or \"expire\"")
        }
        return action
    }

    /// `"250ms"`, `"30s"`, `"5m"`, `"2h"`, or a whole number of milliseconds.
    static func milliseconds(_ table: TOMLTable, _ key: String, _ place: String) throws -> Int64 {
        if let number = table[key]?.int, number >= 0 { return Int64(number) }
        guard let text = table[key]?.string, let value = LengthOfTime.milliseconds(text) else {
            throw UpSettingsError(description: "\(place): write a length of time such as \"250ms\", \"30s\" or \"5m\"")
        }
        return value
    }
}

/// Lengths of time as people write them.
enum LengthOfTime {
    /// `250ms`, `30s`, `5m`, `2h`, `1d`, in milliseconds; nil for anything else.
    static func milliseconds(_ text: String) -> Int64? {
        let units: [(String, Int64)] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        for (unit, milliseconds) in units where text.hasSuffix(unit) {
            guard let count = Int64(text.dropLast(unit.count)), (0...1_000_000_000).contains(count) else { continue }
            return count * milliseconds
        }
        return nil
    }
}

extension Duration {
    /// Rounded down.
    var wholeMilliseconds: Int64 { components.seconds * 1_000 + components.attoseconds / 1_000_000_000_000_000 }
}
