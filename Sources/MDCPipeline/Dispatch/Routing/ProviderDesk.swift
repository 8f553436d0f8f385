// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// The providers of a channel as its dispatcher sees them: slots and rates shared out over the lanes, circuit breakers, what
/// operators and other workers said, and the choice among them. Pure.
struct ProviderDesk: Sendable {
    private struct Gate: Sendable {
        var breaker: CircuitBreaker
        var rate: AdaptiveRate
        var isPaused = false
        var poor: String?
    }

    let router: Router
    /// One for each provider: its slots, and its rate, are given to the lanes by deficit round robin.
    var schedulers: [LaneScheduler]
    private var gates: [Gate]
    private var tenants: [String: TokenBucket]
    private var senders: [String: TokenBucket]

    init(
        channel: Channel,
        providers: [(name: String, slots: Int)],
        weights: [Int],
        configuration: RoutingConfiguration,
        nowNanoseconds now: Int64
    ) {
        precondition(!providers.isEmpty, "a dispatcher needs a provider")
        router = Router(channel: channel, names: providers.map(\.name), configuration: configuration)
        schedulers = providers.map { LaneScheduler(weights: weights, slots: $0.slots) }
        gates = providers.map { provider in
            Gate(
                breaker: CircuitBreaker(configuration.breaker),
                rate: AdaptiveRate(
                    most: configuration.providers[provider.name]?.ratePerSecond,
                    nowNanoseconds: now
                )
            )
        }
        tenants = configuration.tenantRates.mapValues { TokenBucket(perSecond: $0, nowNanoseconds: now) }
        senders = configuration.senderRates.mapValues { TokenBucket(perSecond: $0, nowNanoseconds: now) }
    }

    var count: Int { gates.count }
    var slots: Int { schedulers.reduce(0) { $0 + $1.slots } }

    // MARK: - Choosing

    /// The provider for a message.
    func route(_ message: Message, now: Timestamp) -> Router.Decision {
        guard let decision = router.route(message, standing: { standing($0, now: now) }) else {
            preconditionFailure("a rule has at least one provider, and none was tried")
        }
        return decision
    }

    /// Another provider for an attempt that these would not take; nil if there is none that can be asked at once.
    mutating func alternative(_ message: Message, tried: Set<Int>, now: Moment) -> Router.Decision? {
        guard let decision = router.route(message, tried: tried, standing: { standing($0, now: now.wall) }),
            mayStart(decision.provider, now: now)
        else { return nil }
        started(decision.provider, now: now)
        return decision
    }

    private func standing(_ index: Int, now: Timestamp) -> Router.Standing {
        let gate = gates[index]
        if gate.isPaused { return .out("is paused") }
        if !gate.breaker.mayPass(now: now) { return .out("has an open circuit") }
        return gate.poor.map(Router.Standing.poor) ?? .good
    }

    // MARK: - Starting

    /// Whether a send to the provider may start now.
    mutating func mayStart(_ index: Int, now: Moment) -> Bool {
        !gates[index].isPaused && gates[index].breaker.mayPass(now: now.wall)
            && gates[index].rate.wait(nowNanoseconds: now.nanoseconds) == 0
    }

    mutating func started(_ index: Int, now: Moment) {
        gates[index].breaker.started(now: now.wall)
        gates[index].rate.started(nowNanoseconds: now.nanoseconds)
    }

    /// How many nanoseconds a message has to wait for its tenant's and its sender's limit. To be asked once.
    mutating func pace(_ message: Message, sender: String?, nowNanoseconds now: Int64) -> Int64 {
        let tenant = tenants[message.tenant]?.reserve(nowNanoseconds: now) ?? 0
        let sender = senders[sender ?? message.sender]?.reserve(nowNanoseconds: now) ?? 0
        return max(tenant, sender)
    }

    /// Sends per second that the provider is given at present; nil: no limit.
    func rate(_ index: Int) -> Double? { gates[index].rate.perSecond }

    // MARK: - Learning

    /// Notes what came of a send; what others must know of it.
    mutating func answered(_ index: Int, _ outcome: SendOutcome, startedAt: Timestamp, now: Moment, by: String)
        -> ProviderNotice?
    {
        _ = gates[index].rate.answered(isThrottled: outcome.isThrottled, nowNanoseconds: now.nanoseconds)
        let isFailure = outcome.isProvidersFault
        guard gates[index].breaker.answered(isFailure: isFailure, startedAt: startedAt, now: now.wall) else {
            return nil
        }
        var notice = ProviderNotice(
            provider: router.names[index],
            kind: .circuit,
            state: "closed",
            reason: "it takes messages again",
            at: now.wall,
            by: by
        )
        if case .open(let until) = gates[index].breaker.state {
            notice.state = "open"
            notice.until = until
            notice.reason = "too many of its answers were failures; last: \(outcome.words)"
        }
        return notice
    }

    /// Takes over what a record of `mdc.providers` says; the provider if what waits for it must be routed anew.
    mutating func adopt(_ notice: ProviderNotice) -> Int? {
        guard let index = router.names.firstIndex(of: notice.provider) else { return nil }
        switch notice.kind {
        case .circuit:
            if notice.state == "open", let until = notice.until {
                gates[index].breaker.adopt(.open(until: until))
            } else {
                gates[index].breaker.adopt(.closed)
            }
        case .pause: gates[index].isPaused = notice.state == "paused"
        case .drift: return nil
        case .health: gates[index].poor = notice.state == "poor" ? (notice.reason ?? "reports badly") : nil
        }
        return index
    }
}

extension SendOutcome {
    /// What refuses one recipient for now says nothing about the provider.
    private static let recipientCodes: Set<String> = ["MOB-OFF", "30003", "30005", "4.2.1", "4.2.2", "450", "452"]

    /// Whether it was the provider that failed, not the message or its recipient, and not our pace.
    var isProvidersFault: Bool {
        switch self {
        case .accepted, .rejected: false
        case .inDoubt: true
        case .retriable(let code, _, _): !isThrottled && !Self.recipientCodes.contains(code)
        }
    }

    /// For people.
    var words: String {
        switch self {
        case .accepted: "accepted"
        case .rejected(let code, let reason), .retriable(let code, let reason, _): "\(code) \(reason)"
        case .inDoubt(let reason): reason
        }
    }
}
