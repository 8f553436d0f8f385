// SPDX-License-Identifier: Apache-2.0

import Foundation
public import TOMLKit

/// A provider as a configuration file describes it: `[provider.<name>]`. `docs/providers.md` has the keys.
public struct ProviderSettings: Sendable {
    /// What it speaks.
    enum Kind: Sendable {
        case smtp(SMTPProvider.Configuration, reports: MailReportReceiver.Configuration?)
        case smpp(SMPPProvider.Configuration)
        case kannel(KannelProvider.Configuration)
        case twilio(TwilioProvider.Configuration)
        case kaleyra(KaleyraProvider.Configuration)
        case kaleyraLegacy(KaleyraLegacyProvider.Configuration)
        case ses(SESProvider.Configuration, events: SQSPoller.Configuration?)
        case sns(SNSPushProvider.Configuration)
        case fcm(FCMProvider.Configuration, account: Secret, tls: ProviderTLS)
        case apns(APNsProvider.Configuration)
    }

    /// Unique; also the segment of its callback address.
    public let name: String
    /// The last segment of its callback address; nil: it has none.
    let callbackSecret: Secret?
    var kind: Kind
    /// Weight, cost, rate and senders, for the routing.
    public let traits: ProviderTraits
    /// When its report is asked for; nil: never.
    private(set) var pull: PullPlan?

    /// The channel whose messages it takes.
    public var channel: Channel {
        switch kind {
        case .smpp, .kannel, .twilio, .kaleyra, .kaleyraLegacy: .sms
        case .smtp, .ses: .email
        case .sns, .fcm, .apns: .push
        }
    }

    /// The kinds that there are.
    static let kinds = [
        "smtp", "smpp", "kannel", "twilio", "kaleyra", "kaleyra-v4", "ses", "sns", "fcm", "apns",
    ]

    /// Reads the tables in `[provider]`. - Throws: ``PipelineError`` (`configuration`) that names the key and the fix.
    public static func read(_ tables: TOMLTable) throws(PipelineError) -> [ProviderSettings] {
        try read(tables, environment: ProcessInfo.processInfo.environment)
    }

    static func read(_ tables: TOMLTable, environment: [String: String]) throws(PipelineError) -> [ProviderSettings] {
        var all: [ProviderSettings] = []
        for name in tables.keys.sorted() {
            let isName =
                !name.isEmpty
                && name.utf8.allSatisfy { byte in
                    (0x30...0x39).contains(byte) || (0x61...0x7A).contains(byte) || byte == 0x2D || byte == 0x5F
                }
            guard isName, let table = tables[name]?.table else {
                throw PipelineError(
                    .configuration,
                    "[provider.\(name)]: write a table whose name has small letters, digits, '-' and '_'"
                )
            }
            var settings = SettingsTable(table, place: "provider.\(name)", environment: environment)
            let provider = try ProviderSettings(name, &settings)
            try settings.finish()
            all.append(provider)
        }
        return all
    }

    private init(_ name: String, _ table: inout SettingsTable) throws(PipelineError) {
        self.name = name
        callbackSecret = try table.optionalSecret("callback_secret")
        if let secret = callbackSecret?.value, secret.contains("/") || secret.utf8.count < 16 {
            throw PipelineError(
                .configuration,
                "provider.\(name).callback_secret: take at least 16 characters without a slash"
            )
        }
        let rate = try table.rate("rate")
        traits = ProviderTraits(
            weight: try table.positive("weight", 1),
            cost: try table.positive("cost", 0),
            costs: try Self.costs(name, &table),
            ratePerSecond: rate,
            senders: try table.list("senders")
        )
        let kind = try table.text("kind")
        switch kind {
        case "smtp": self.kind = try Self.smtp(name, &table)
        case "smpp": self.kind = .smpp(try Self.smpp(name, &table))
        case "kannel": self.kind = .kannel(try Self.kannel(name, &table))
        case "twilio": self.kind = .twilio(try Self.twilio(name, &table))
        case "kaleyra": self.kind = .kaleyra(try Self.kaleyra(name, &table))
        case "kaleyra-v4": self.kind = .kaleyraLegacy(try Self.kaleyraLegacy(name, &table))
        case "ses": self.kind = try Self.ses(name, &table)
        case "sns": self.kind = .sns(try Self.sns(name, &table))
        case "fcm": self.kind = try Self.fcm(name, &table)
        case "apns": self.kind = .apns(try Self.apns(name, &table))
        default:
            throw PipelineError(
                .configuration,
                "provider.\(name).kind: '\(kind)' is not known; there are \(Self.kinds.joined(separator: ", "))"
            )
        }
        pull = try pullPlan(&table)
    }

    /// `costs = { "+91" = 0.02 }`.
    private static func costs(_ name: String, _ table: inout SettingsTable) throws(PipelineError) -> [String: Double] {
        let costs = try table.positives("costs")
        for prefix in costs.keys {
            guard prefix.first == "+", prefix.count > 1, prefix.dropFirst().allSatisfy(\.isNumber) else {
                throw PipelineError(
                    .configuration,
                    "provider.\(name).costs: '\(prefix)' is no beginning of a phone number; write { \"+91\" = 0.02 }"
                )
            }
        }
        return costs
    }

    /// Its route at the callback listener, if it calls back. - Parameter publicURL: How it sees the listener.
    public func route(publicURL: String) -> CallbackListener.Route? {
        guard let secret = callbackSecret?.value else { return nil }
        switch kind {
        case .smtp: return .init(provider: name, secret: secret, format: .email)
        case .kannel: return .init(provider: name, secret: secret, format: .kannel)
        case .kaleyra, .kaleyraLegacy: return .init(provider: name, secret: secret, format: .kaleyra)
        case .fcm, .apns: return .init(provider: name, secret: secret, format: .fcm)
        case .twilio(let configuration):
            return .init(
                provider: name,
                secret: secret,
                format: .twilio,
                signature: .twilio(token: configuration.authToken, publicURL: publicURL)
            )
        case .sns: return .init(provider: name, secret: secret, format: .deliveryLog)
        case .smpp, .ses: return nil
        }
    }

    func callbackURL(publicURL: String) -> String? {
        callbackSecret.map { "\(publicURL)/callbacks/\(name)/\($0.value)" }
    }
}
