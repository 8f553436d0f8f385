// SPDX-License-Identifier: Apache-2.0

import MDCModel
import TOMLKit
import Testing

@testable import MDCPipeline

@Suite("routing")
struct RoutingTests {
    private static func message(_ id: String, to: String = "+919876543210", attempt: Int = 1) -> Message {
        var message = Make.message(id)
        message.to = to
        message.attempt = attempt
        return message
    }

    @Sendable private static func good(_ index: Int) -> Router.Standing { .good }

    @Test("the first rule that fits decides; conditions that are empty fit everything")
    func rules() throws {
        let configuration = RoutingConfiguration(rules: [
            RouteRule(name: "mail", channel: .email, providers: ["c"]),
            RouteRule(name: "otp", channel: .sms, templates: ["otp-*"], providers: ["b"]),
            RouteRule(name: "pune", channel: .sms, prefixes: ["+9198"], providers: ["c", "a"]),
            RouteRule(name: "india", channel: .sms, countries: ["91"], providers: ["a"], senders: ["ONE", "TWO"]),
            RouteRule(name: "shop", channel: .sms, tenants: ["shop"], lanes: ["bulk"], providers: ["b"]),
        ])
        let router = Router(channel: .sms, names: ["a", "b", "c"], configuration: configuration)
        var message = Self.message("1")
        #expect(router.route(message, standing: Self.good)?.why == "rule 'pune': c, of 2 by list")
        message.to = "+911234567890"
        let india = try #require(router.route(message, standing: Self.good))
        #expect(india.provider == 0 && ["ONE", "TWO"].contains(india.sender))
        #expect(router.route(message, standing: Self.good) == india)
        message.sender = "TWO"
        #expect(router.route(message, standing: Self.good)?.sender == nil)
        message.template = "otp-login"
        #expect(router.route(message, standing: Self.good)?.provider == 1)
        message.template = "otpx"
        message.to = "+4915112345678"
        #expect(router.route(message, standing: Self.good)?.why.hasPrefix("rule 'default': a, of 3") == true)
        message.tenant = "shop"
        message.lane = "bulk"
        #expect(router.route(message, standing: Self.good)?.why == "rule 'shop': b")
    }

    @Test("each attempt begins with another provider; who is out or poor is passed over and named")
    func standing() {
        let router = Router(channel: .sms, names: ["a", "b", "c"], configuration: RoutingConfiguration())
        for attempt in 1...6 {
            let decision = router.route(Self.message("1", attempt: attempt), standing: Self.good)
            #expect(decision?.provider == (attempt - 1) % 3)
        }
        let passed = router.route(Self.message("1")) {
            $0 == 0 ? .out("is paused") : $0 == 1 ? .poor("is poor") : .good
        }
        #expect(passed?.provider == 2 && passed?.why.contains("passed over: a is paused, b is poor") == true)
        // A poor one is better than none; one that is out takes what nobody else would.
        #expect(router.route(Self.message("1")) { $0 == 1 ? .poor("p") : .out("o") }?.provider == 1)
        #expect(router.route(Self.message("1")) { _ in .out("o") }?.provider == 0)
        // Not again one that refused, nor one that is out in its place.
        #expect(router.route(Self.message("1"), tried: [0]) { $0 == 1 ? .out("o") : .good }?.provider == 2)
        #expect(router.route(Self.message("1"), tried: [0]) { _ in .out("o") } == nil)
        #expect(router.route(Self.message("1"), tried: [0, 1, 2], standing: Self.good) == nil)
    }

    @Test("weights give shares within two in a hundred; cost gives the cheapest first")
    func orders() {
        let weighted = RoutingConfiguration(providers: [
            "a": ProviderTraits(weight: 5, cost: 3), "b": ProviderTraits(weight: 3, cost: 1),
            "c": ProviderTraits(weight: 2, cost: 2),
        ])
        let router = Router(channel: .sms, names: ["a", "b", "c"], configuration: weighted)
        var counts = [0, 0, 0]
        for number in 0..<20_000 {
            let id = MessageID.derived(tenant: "t", key: "\(number)")
            counts[router.route(Self.message(id), standing: Self.good)?.provider ?? 0] += 1
        }
        for (count, share) in zip(counts, [0.5, 0.3, 0.2]) { #expect(abs(Double(count) / 20_000 - share) < 0.02) }
        var costly = weighted
        costly.rules = [RouteRule(name: "cheap", channel: .sms, order: .cost)]
        let cheap = Router(channel: .sms, names: ["a", "b", "c"], configuration: costly)
        #expect(
            (1...3).map { cheap.route(Self.message("1", attempt: $0), standing: Self.good)?.provider } == [1, 2, 0]
        )
    }

    @Test("a circuit opens at a share of failures, lets one pass after its pause, and closes when that one is good")
    func breaker() {
        var breaker = CircuitBreaker(.init(window: 20, answersMin: 10, failureShare: 0.5, pauseMilliseconds: 100))
        for number in 0..<100 {
            let isChanged = breaker.answered(isFailure: number % 3 == 0, now: 0)
            #expect(!isChanged)
        }
        var opened = 0
        for _ in 0..<20 where breaker.answered(isFailure: true, now: 1_000) { opened += 1 }
        #expect(opened == 1 && breaker.state == .open(until: 1_100))
        #expect(!breaker.mayPass(now: 1_099) && breaker.mayPass(now: 1_100))
        breaker.started(now: 1_100)
        #expect(!breaker.mayPass(now: 1_101))
        // A trial that is never answered does not hold for ever.
        #expect(breaker.mayPass(now: 31_100))
        let isLonger = breaker.answered(isFailure: true, now: 1_110)
        #expect(isLonger && breaker.state == .open(until: 1_310))
        breaker.started(now: 1_310)
        let isClosed = breaker.answered(isFailure: false, now: 1_320)
        #expect(isClosed && breaker.state == .closed)
        breaker.adopt(.open(until: 5_000))
        #expect(!breaker.mayPass(now: 4_999))
        breaker.adopt(.closed)
        #expect(breaker.mayPass(now: 4_999))
    }

    @Test("two busy answers in a hundred change no rate; half of them cut it; it comes back")
    func rate() {
        var rate = AdaptiveRate(most: 1_000, nowNanoseconds: 0)
        var generator = SeededGenerator(seed: 3)
        var now: Int64 = 0
        func run(_ seconds: Int, busy: Double) {
            for _ in 0..<seconds * 200 {
                now += 5_000_000
                _ = rate.answered(isThrottled: Double.random(in: 0..<1, using: &generator) < busy, nowNanoseconds: now)
            }
        }
        run(60, busy: 0.02)
        #expect(rate.perSecond == 1_000)
        run(2, busy: 0.5)
        let cut = rate.perSecond ?? 0
        #expect(cut < 200 && cut >= 1)
        run(200, busy: 0)
        #expect(rate.perSecond == 1_000)
        // Without a limit of its own, a provider gets one when it asks for it.
        var free = AdaptiveRate(most: nil, nowNanoseconds: 0)
        let none = free.wait(nowNanoseconds: 0)
        #expect(none == 0 && free.perSecond == nil)
        for number in 0..<40 { _ = free.answered(isThrottled: true, nowNanoseconds: Int64(number) * 1_000_000) }
        let some = free.wait(nowNanoseconds: 40_000_000)
        #expect(free.perSecond != nil && some > 0)
    }

    @Test("a bucket can be drawn on in advance, in turn")
    func reserve() {
        var bucket = TokenBucket(perSecond: 10, burst: 1, nowNanoseconds: 0)
        var waits: [Int64] = []
        for _ in 0..<4 { waits.append(bucket.reserve(nowNanoseconds: 0)) }
        #expect(waits == [0, 100_000_000, 200_000_000, 300_000_000])
        let early = bucket.take(nowNanoseconds: 300_000_000)
        let late = bucket.take(nowNanoseconds: 400_000_000)
        #expect(early > 0 && late == 0)
    }

    @Test("a provider turns poor by its reports and good again")
    func health() {
        var health = ProviderHealth()
        var changes: [Bool] = []
        for number in 0..<1_000 {
            if let change = health.note("a", isDelivered: number < 100 || number >= 500) {
                changes.append(change.isPoor)
            }
        }
        #expect(changes == [true, false])
    }

    @Test("configuration: rules in their order; wrong ones are named with the fix")
    func settings() throws {
        let text = """
            [[route]]
            name = "india"
            channel = "sms"
            country = ["+91"]
            providers = ["b", "a"]
            order = "cost"
            senders = ["MYBANK"]
            [[route]]
            name = "all"
            channel = "email"
            domain = ["Example.COM"]
            [limits]
            tenant = { shop = 50 }
            sender = { MDC = 2.5 }
            [breaker]
            failure_share = 0.4
            pause = "1s"
            """
        let others: [Channel: [String]] = [.sms: ["a", "b"], .email: ["smtp"]]
        let read = try RoutingConfiguration.read(try TOMLTable(string: text), providers: [], others: others)
        #expect(read.rules.map(\.name) == ["india", "all"])
        #expect(
            read.rules[0].countries == ["91"] && read.rules[0].providers == ["b", "a"] && read.rules[0].order == .cost
        )
        #expect(read.rules[1].domains == ["example.com"])
        #expect(read.tenantRates == ["shop": 50] && read.senderRates == ["MDC": 2.5])
        #expect(read.breaker.failureShare == 0.4 && read.breaker.pauseMilliseconds == 1_000)
        let wrong: [(String, String)] = [
            ("route = 1", "[[route]]"),
            ("[[route]]\nname = \"x\"\nchannel = \"fax\"", "channel: write"),
            (
                "[[route]]\nname = \"x\"\nchannel = \"sms\"\nproviders = [\"z\"]",
                "'z' is no provider of sms; there are a, b"
            ),
            ("[[route]]\nname = \"x\"\nchannel = \"sms\"\ncountry = [\"IN\"]", "calling code"),
            ("[[route]]\nname = \"x\"\nchannel = \"sms\"\ncounty = [\"91\"]", "county: is not known"),
            ("[[route]]\nname = \"x\"\nchannel = \"sms\"\norder = \"random\"", "\"listed\", \"cost\", \"weight\""),
            ("[[route]]\nname = \"x\"\nchannel = \"sms\"\n[[route]]\nname = \"x\"\nchannel = \"sms\"", "the same name"),
            ("[limits]\ntenant = { a = 0 }", "limits.tenant.a"), ("[breaker]\nfailure_share = 2", "failure_share"),
        ]
        for (text, part) in wrong {
            do {
                _ = try RoutingConfiguration.read(try TOMLTable(string: text), providers: [], others: others)
                Issue.record("no error for \(text)")
            } catch let error as PipelineError {
                #expect(error.message.contains(part), "\(error.message)")
            }
        }
    }

    @Test("messages wait for a rate by lane, not in the order in which they came")
    func rateByLane() throws {
        let desk = ProviderDesk(
            channel: .sms,
            providers: [(name: "a", slots: 100)],
            weights: [8, 1],
            configuration: RoutingConfiguration(providers: ["a": ProviderTraits(ratePerSecond: 100)]),
            nowNanoseconds: 0
        )
        var state = DispatchState(weights: [8, 1], providers: desk)
        let lanes = (0..<2).map { TopicPartition(topic: "lane\($0)", partition: PartitionID(0)) }
        for lane in 0..<2 {
            state.assign(lanes[lane], lane: lane, tracker: CommitTracker(start: 0))
            for offset in 0..<900 {
                _ = state.read(lanes[lane], offset: Int64(offset))
                state.offer(Make.message("\(lane).\(offset)"), lanes[lane], offset: Int64(offset), isDoubtful: false)
            }
        }
        var starts = [0, 0]
        for tick in 0..<2_000 {
            let now = Moment(wall: Timestamp(Int64(tick) * 5), nanoseconds: Int64(tick) * 5_000_000)
            _ = state.declare(now: now.wall)
            state.release(now: now)
            while let item = state.start(now: now) {
                starts[item.lane] += 1
                state.free(item)
                state.finish(item)
            }
        }
        // Ten seconds at 100 a second, and the burst; by weight while both wait.
        #expect((950...1_010).contains(starts[0] + starts[1]), "\(starts)")
        #expect(abs(Double(starts[0]) / Double(starts[1]) - 8) < 0.8, "\(starts)")
    }

    @Test("what waits for a provider goes elsewhere when its circuit opens")
    func rerouted() throws {
        let desk = ProviderDesk(
            channel: .sms,
            providers: [(name: "a", slots: 1), (name: "b", slots: 8)],
            weights: [1],
            configuration: RoutingConfiguration(),
            nowNanoseconds: 0
        )
        var state = DispatchState(weights: [1], providers: desk)
        let lane = TopicPartition(topic: "lane", partition: PartitionID(0))
        state.assign(lane, lane: 0, tracker: CommitTracker(start: 0))
        for offset in 0..<5 {
            _ = state.read(lane, offset: Int64(offset))
            state.offer(Make.message("m\(offset)"), lane, offset: Int64(offset), isDoubtful: false)
        }
        let now = Moment(wall: 1_000, nanoseconds: 0)
        _ = state.declare(now: now.wall)
        state.release(now: now)
        let started = state.start(now: now)
        let first = try #require(started)
        let next = state.start(now: now)
        #expect(first.provider == 0 && next?.offset == nil)
        let notice = ProviderNotice(
            provider: "a",
            kind: .circuit,
            state: "open",
            until: 9_000,
            reason: nil,
            at: 1_000,
            by: "other"
        )
        let adopted = state.providers.adopt(try ProviderNotice(json: notice.json()))
        let changed = try #require(adopted)
        state.reroute(from: changed, now: now)
        for _ in 0..<4 {
            let rerouted = state.start(now: now)
            let item = try #require(rerouted)
            #expect(item.provider == 1 && item.route?.why.contains("a has an open circuit") == true)
            state.free(item)
            state.finish(item)
        }
        state.free(first)
        state.finish(first)
        let last = state.start(now: now)
        #expect(last?.offset == nil)
    }
}
