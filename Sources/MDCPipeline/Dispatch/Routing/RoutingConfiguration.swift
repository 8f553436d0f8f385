// SPDX-License-Identifier: Apache-2.0

/// Which providers take which messages, in which order, and how fast.
public struct RoutingConfiguration: Sendable, Hashable {
    /// Asked in this order; the first that fits decides. A message that none fits may go by every provider of its channel.
    public var rules: [RouteRule]
    /// What is known of providers, by name.
    public var providers: [String: ProviderTraits]
    /// The most messages per second by sender.
    public var senderRates: [String: Double]
    /// The most messages per second by tenant.
    public var tenantRates: [String: Double]
    /// When a provider is left alone for a while.
    public var breaker: CircuitBreaker.Settings
    /// When recipients are not written to.
    public var quietHours: [QuietHours]

    /// Makes a value from its parts.
    public init(
        rules: [RouteRule] = [],
        providers: [String: ProviderTraits] = [:],
        senderRates: [String: Double] = [:],
        tenantRates: [String: Double] = [:],
        breaker: CircuitBreaker.Settings = CircuitBreaker.Settings(),
        quietHours: [QuietHours] = []
    ) {
        self.rules = rules
        self.providers = providers
        self.senderRates = senderRates
        self.tenantRates = tenantRates
        self.breaker = breaker
        self.quietHours = quietHours
    }
}

/// What routing knows of a provider.
public struct ProviderTraits: Sendable, Hashable {
    /// Its share where providers are chosen by weight.
    public var weight: Double
    /// What a message, or one segment of a short message, costs, in any one unit; 0: not known.
    public var cost: Double
    /// The same by the beginning of a phone number, such as `+91`; the longest that fits counts.
    public var costs: [String: Double]
    /// The most sends per second; nil: as fast as it takes them.
    public var ratePerSecond: Double?
    /// The sender ids that it lets us use; empty: whatever the message says.
    public var senders: [String]

    /// Makes a value from its parts.
    public init(
        weight: Double = 1,
        cost: Double = 0,
        costs: [String: Double] = [:],
        ratePerSecond: Double? = nil,
        senders: [String] = []
    ) {
        self.weight = weight
        self.cost = cost
        self.costs = costs
        self.ratePerSecond = ratePerSecond
        self.senders = senders
    }
}

extension ProviderTraits {
    /// The price of one message, or of one segment, to this recipient.
    func price(to recipient: String) -> Double {
        guard !costs.isEmpty else { return cost }
        let fitting = costs.filter { recipient.hasPrefix($0.key) }
        return fitting.max { $0.key.utf8.count < $1.key.utf8.count }?.value ?? cost
    }

    /// What an attempt costs, in millionths: a short message by its segments. nil: no price is set.
    func charge(_ message: Message) -> Int64? {
        let price = price(to: message.to)
        guard price > 0 else { return nil }
        let count = message.channel == .sms ? SMSSegments(message.content.text).count : 1
        return Int64((price * Double(count) * 1_000_000).rounded())
    }
}

/// For which messages which providers are asked, and in which order. A condition that is empty fits every message.
public struct RouteRule: Sendable, Hashable {
    /// The order in which the providers of a rule are asked.
    public enum Order: String, Sendable, Hashable, CaseIterable {
        /// As they are listed.
        case listed
        /// The cheapest first.
        case cost
        /// Spread over them by their weights; one message always in the same order.
        case weight
    }

    /// For the timeline.
    public var name: String
    /// The channel.
    public var channel: Channel
    /// Country calling codes without `+` (SMS).
    public var countries: Set<String>
    /// Beginnings of the recipient, such as `+9198`.
    public var prefixes: [String]
    /// Domains of the recipient (e-mail), in small letters.
    public var domains: Set<String>
    /// Tenants.
    public var tenants: Set<String>
    /// Template names; one that ends in `*` stands for all that begin so.
    public var templates: [String]
    /// Lanes.
    public var lanes: Set<String>
    /// Names of providers; empty: all of the channel.
    public var providers: [String]
    /// Their order.
    public var order: Order
    /// Sender ids to use; a recipient always sees the same. Empty: the provider's, or the message's.
    public var senders: [String]

    /// Makes a value from its parts.
    public init(
        name: String,
        channel: Channel,
        countries: Set<String> = [],
        prefixes: [String] = [],
        domains: Set<String> = [],
        tenants: Set<String> = [],
        templates: [String] = [],
        lanes: Set<String> = [],
        providers: [String] = [],
        order: Order = .listed,
        senders: [String] = []
    ) {
        self.name = name
        self.channel = channel
        self.countries = countries
        self.prefixes = prefixes
        self.domains = domains
        self.tenants = tenants
        self.templates = templates
        self.lanes = lanes
        self.providers = providers
        self.order = order
        self.senders = senders
    }

    /// Whether the rule speaks of a message.
    func fits(_ message: Message) -> Bool {
        guard message.channel == channel else { return false }
        if !tenants.isEmpty, !tenants.contains(message.tenant) { return false }
        if !lanes.isEmpty, !lanes.contains(message.lane) { return false }
        if !prefixes.isEmpty, !prefixes.contains(where: { message.to.hasPrefix($0) }) { return false }
        if !templates.isEmpty {
            guard let template = message.template, templates.contains(where: { Self.fits(template, $0) }) else {
                return false
            }
        }
        if !countries.isEmpty {
            guard case .success(let number) = PhoneNumber.parse(message.to), countries.contains(number.countryCode)
            else { return false }
        }
        if !domains.isEmpty {
            guard let at = message.to.lastIndex(of: "@"),
                domains.contains(message.to[message.to.index(after: at)...].lowercased())
            else { return false }
        }
        return true
    }

    private static func fits(_ name: String, _ pattern: String) -> Bool {
        pattern.hasSuffix("*") ? name.hasPrefix(pattern.dropLast()) : name == pattern
    }
}
