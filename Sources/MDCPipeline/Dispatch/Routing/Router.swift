// SPDX-License-Identifier: Apache-2.0

import Foundation

/// Chooses the provider for a message. Pure; the same message gets the same order of providers wherever it is asked.
struct Router: Sendable {
    /// What came of a choice.
    struct Decision: Sendable, Equatable {
        /// Index among the dispatcher's providers.
        var provider: Int
        /// The sender to use; nil: the message's own.
        var sender: String?
        /// For the timeline: rule, provider and why.
        var why: String
    }

    /// How a provider stands at the moment.
    enum Standing: Sendable, Equatable {
        case good
        /// Its reports are bad: asked after the good ones.
        case poor(String)
        /// Not to be asked while there is another.
        case out(String)
    }

    /// The names of the dispatcher's providers.
    let names: [String]
    private let rules: [RouteRule]
    private let traits: [ProviderTraits]
    private let fallback: RouteRule

    init(channel: Channel, names: [String], configuration: RoutingConfiguration) {
        self.names = names
        rules = configuration.rules.filter { $0.channel == channel }
        traits = names.map { configuration.providers[$0] ?? ProviderTraits() }
        let hasWeights = Set(traits.map(\.weight)).count > 1
        fallback = RouteRule(name: "default", channel: channel, order: hasWeights ? .weight : .listed)
    }

    /// Whether there is anything to choose.
    var hasChoice: Bool { names.count > 1 || !rules.isEmpty }

    /// The provider for an attempt.
    ///
    /// - Parameters:
    ///   - tried: Providers that have refused this attempt.
    ///   - standing: How a provider stands.
    /// - Returns: nil if every provider of the rule has been tried.
    func route(_ message: Message, tried: Set<Int> = [], standing: (Int) -> Standing) -> Decision? {
        let rule = rules.first { $0.fits(message) } ?? fallback
        let order = order(rule, message)
        var poor: (index: Int, notes: [String])?
        var out: (index: Int, notes: [String])?
        var notes: [String] = []
        for index in order where !tried.contains(index) {
            switch standing(index) {
            case .good: return decision(rule, message, index, order.count, notes)
            case .poor(let why):
                if poor == nil { poor = (index, notes) }
                notes.append("\(names[index]) \(why)")
            case .out(let why):
                if out == nil { out = (index, notes) }
                notes.append("\(names[index]) \(why)")
            }
        }
        guard let (index, notes) = poor ?? (tried.isEmpty ? out : nil) else { return nil }
        return decision(rule, message, index, order.count, notes)
    }

    private func decision(_ rule: RouteRule, _ message: Message, _ index: Int, _ count: Int, _ notes: [String])
        -> Decision
    {
        var why = "rule '\(rule.name)': \(names[index])"
        if count > 1 {
            why += ", of \(count) by \(rule.order == .listed ? "list" : rule.order.rawValue)"
            if message.attempt > 1 { why += " from the \(message.attempt). on" }
        }
        if !notes.isEmpty { why += "; passed over: \(notes.joined(separator: ", "))" }
        let sender = sender(rule, message, index)
        if let sender { why += "; sender '\(sender)'" }
        return Decision(provider: index, sender: sender, why: why)
    }

    /// The providers of a rule, in the order in which they are asked for this attempt: each attempt begins with another.
    private func order(_ rule: RouteRule, _ message: Message) -> [Int] {
        var indices =
            rule.providers.isEmpty
            ? Array(names.indices) : rule.providers.compactMap { names.firstIndex(of: $0) }
        if indices.isEmpty { indices = Array(names.indices) }
        guard indices.count > 1 else { return indices }
        switch rule.order {
        case .listed: break
        case .cost:
            let prices = traits.map { $0.price(to: message.to) }
            indices.sort { (prices[$0], $0) < (prices[$1], $1) }
        case .weight:
            // Each provider draws a number that depends on the message; the weights bend it so that the shares come out.
            let draws = Dictionary(
                uniqueKeysWithValues: indices.map { index -> (Int, Double) in
                    let uniform = Self.uniform(message.id, names[index])
                    return (index, -log(uniform) / max(traits[index].weight, 1e-9))
                }
            )
            indices.sort { (draws[$0] ?? 0, $0) < (draws[$1] ?? 0, $1) }
        }
        let first = max(0, message.attempt - 1) % indices.count
        return Array(indices[first...] + indices[..<first])
    }

    private func sender(_ rule: RouteRule, _ message: Message, _ index: Int) -> String? {
        let senders = rule.senders.isEmpty ? traits[index].senders : rule.senders
        guard !senders.isEmpty, !senders.contains(message.sender) else { return nil }
        return senders[Int(Self.uniform(message.to, "sender") * Double(senders.count)) % senders.count]
    }

    /// A number in 0 to 1, without the ends, that depends on the texts alone.
    private static func uniform(_ text: String, _ other: String) -> Double {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in text.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
        for byte in other.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
        hash = (hash ^ (hash >> 30)) &* 0xBF58_476D_1CE4_E5B9
        hash = (hash ^ (hash >> 27)) &* 0x94D0_49BB_1331_11EB
        hash ^= hash >> 31
        return (Double(hash >> 11) + 0.5) / 9_007_199_254_740_992
    }
}
