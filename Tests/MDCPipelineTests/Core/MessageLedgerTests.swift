// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCPipeline

@Suite("message ledger (G7)")
struct MessageLedgerTests {
    private static let policy = RetryPolicy(
        attemptsMax: 3,
        backoffMilliseconds: 1_000,
        backoffMaxMilliseconds: 8_000,
        receiptTimeoutMilliseconds: 60_000
    )

    /// A ledger and the place of the next event.
    private struct Bench {
        var ledger: MessageLedger
        var offset: Int64 = 0

        init(_ policy: RetryPolicy = MessageLedgerTests.policy) {
            ledger = MessageLedger(MessageLedger.Configuration(policies: [.sms: policy], holdMilliseconds: 30_000))
        }

        mutating func event(_ event: TimelineEvent, source: String? = nil, now: Timestamp = 1_500) -> [LedgerAction] {
            defer { offset += 1 }
            return ledger.apply(event, at: EventPosition(partition: 0, offset: offset), source: source, now: now).1
        }

        mutating func receipt(_ receipt: ProviderReceipt, _ token: Int64 = 0, now: Timestamp = 2_000) -> [LedgerAction]
        {
            ledger.receive(receipt, token: Self.token(token), now: now)
        }

        static func token(_ offset: Int64) -> ReceiptToken {
            ReceiptToken(topicPartition: TopicPartition(topic: "mdc.responses.sms", partition: 0), offset: offset)
        }
    }

    private static func events(_ actions: [LedgerAction]) -> [TimelineEvent] {
        actions.compactMap { if case .append(let event, _) = $0 { event } else { nil } }
    }

    private static func finals(_ actions: [LedgerAction]) -> [MessageStatus] {
        events(actions).compactMap(\.status).filter(\.isFinal)
    }

    private static func closes(_ actions: [LedgerAction]) -> EventPosition? {
        actions.lazy.compactMap { if case .append(_, let closes) = $0 { closes } else { nil } }.first
    }

    @Test("submitted, accepted, delivered: one final event, the state is published, the receipt is done")
    func happyPath() {
        var bench = Bench()
        #expect(bench.event(Make.submitted(Make.message())) == [])
        #expect(bench.event(Make.accepted()) == [])
        let actions = bench.receipt(Make.receipt(.delivered), 7)
        #expect(Self.finals(actions) == [.delivered])
        #expect(actions.last == .finish(Bench.token(7)))
        #expect(actions.contains(.publish(Make.message(), .delivered, at: 2_000)))
        // First the state, then the event: after a crash between them, the decision is made again.
        guard case .append(_, let closes) = actions[1] else {
            Issue.record("the event comes after the state")
            return
        }
        #expect(closes == EventPosition(partition: 0, offset: 0))
        #expect(bench.ledger.openCount == 0 && bench.ledger.nextDue == nil)
    }

    @Test("submission, acceptance and receipt in every order end the same", arguments: 0..<6, [true, false])
    func everyOrder(order: Int, hasReference: Bool) {
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
        for status in [ProviderReceipt.Status.delivered, .failed, .undelivered] {
            var bench = Bench()
            var actions: [LedgerAction] = []
            for step in orders[order] {
                switch step {
                case 0: actions += bench.event(Make.submitted(Make.message()))
                case 1: actions += bench.event(Make.accepted())
                default:
                    actions += bench.receipt(Make.receipt(status, reference: hasReference ? "m1.1" : nil), 3)
                }
            }
            let schedules = actions.filter { if case .schedule = $0 { true } else { false } }
            switch status {
            case .delivered: #expect(Self.finals(actions) == [.delivered])
            case .failed: #expect(Self.finals(actions) == [.failed])
            default:
                #expect(Self.finals(actions) == [] && schedules.count == 1, "order \(orders[order]): \(actions)")
            }
            #expect(actions.filter { $0 == .finish(Bench.token(3)) }.count == 1)
            #expect(bench.ledger.heldReceipts == 0)
        }
    }

    @Test("a deferred attempt is tried again later; the timer comes before the event that speaks of it")
    func retry() throws {
        var bench = Bench()
        _ = bench.event(Make.submitted(Make.message()))
        let actions = bench.event(Make.deferred(), now: 1_500)
        #expect(actions.count == 2)
        guard case .schedule(let message, let attempt, let due) = actions[0] else {
            Issue.record("the timer comes first")
            return
        }
        #expect(message.id == "m1" && attempt == 2)
        #expect((2_000...2_500).contains(due.rawValue))
        let event = try #require(Self.events(actions).first)
        #expect(event.kind == .retryScheduled && event.status == .retrying && event.dueAt == due)
        // The same event again decides nothing new.
        #expect(bench.event(Make.deferred(), now: 1_600) == [])
    }

    @Test("a provider's Retry-After is kept to")
    func retryAfter() {
        var bench = Bench()
        _ = bench.event(Make.submitted(Make.message()))
        let actions = bench.event(Make.deferred(until: 91_500), now: 1_500)
        guard case .schedule(_, _, let due) = actions.first else {
            Issue.record("no timer")
            return
        }
        #expect(due == 91_500)
    }

    @Test("attempts run out: failed; the message expires before the next attempt: expired")
    func exhausted() {
        var bench = Bench(RetryPolicy(attemptsMax: 2, backoffMilliseconds: 1_000))
        _ = bench.event(Make.submitted(Make.message()))
        _ = bench.event(Make.deferred(attempt: 1))
        let actions = bench.event(Make.deferred(attempt: 2))
        #expect(Self.finals(actions) == [.failed])
        #expect(Self.events(actions).first?.detail?.contains("all 2 attempts failed; last: come back") == true)

        var expiring = Bench()
        _ = expiring.event(Make.submitted(Make.message(expiresAt: 1_600)))
        #expect(Self.finals(expiring.event(Make.deferred(), now: 1_500)) == [.expired])
    }

    @Test("no report in time: expired, or tried again, by policy")
    func lostReceipt() {
        var bench = Bench()
        _ = bench.event(Make.submitted(Make.message()))
        _ = bench.event(Make.accepted(at: 1_010))
        #expect(bench.ledger.nextDue == 61_010)
        #expect(bench.ledger.tick(now: 61_009) == [])
        let actions = bench.ledger.tick(now: 61_010)
        #expect(Self.finals(actions) == [.expired])
        #expect(Self.events(actions).first?.kind == .receiptMissing)
        // A late report is noted and changes nothing.
        let late = bench.receipt(Make.receipt(.delivered), now: 70_000)
        #expect(Self.events(late).map(\.kind) == [.receiptIgnored])
        #expect(Self.events(late).first?.detail?.contains("contradicts the final status expired") == true)

        var policy = Self.policy
        policy.onReceiptTimeout = .retry
        var retrying = Bench(policy)
        _ = retrying.event(Make.submitted(Make.message()))
        _ = retrying.event(Make.accepted(at: 1_010))
        let again = retrying.ledger.tick(now: 61_010)
        #expect(again.count == 2 && Self.events(again).first?.status == .retrying)
        #expect(retrying.ledger.nextDue == nil)
    }

    @Test("in doubt: tried again by policy; a report that comes meanwhile ends it and cancels the timer")
    func inDoubt() {
        var bench = Bench()
        _ = bench.event(Make.submitted(Make.message()))
        var doubt = Make.accepted()
        doubt.kind = .inDoubt
        doubt.status = nil
        doubt.providerMessageID = nil
        let actions = bench.event(doubt)
        #expect(Self.events(actions).map(\.kind) == [.retryScheduled])
        let end = bench.receipt(Make.receipt(.delivered))
        #expect(end.first == .unschedule(messageID: "m1", attempt: 2))
        #expect(Self.finals(end) == [.delivered])

        var policy = Self.policy
        policy.onInDoubt = .expire
        var waiting = Bench(policy)
        _ = waiting.event(Make.submitted(Make.message()))
        #expect(waiting.event(doubt) == [])
        #expect(Self.finals(waiting.ledger.tick(now: 61_010)) == [.expired])
    }

    @Test("repeated and contradicting reports are noted once the message is at its end; the first end stays")
    func contradictions() {
        var bench = Bench()
        _ = bench.event(Make.submitted(Make.message()))
        _ = bench.event(Make.accepted())
        _ = bench.receipt(Make.receipt(.delivered))
        let again = bench.receipt(Make.receipt(.delivered), 1)
        #expect(
            Self.events(again).first?.detail?.hasPrefix("repeated") == true && again.last == .finish(Bench.token(1))
        )
        let other = bench.receipt(Make.receipt(.failed, reference: nil), 2)
        #expect(Self.events(other).first?.detail?.contains("contradicts the final status delivered") == true)
        #expect(Self.finals(again + other) == [])
    }

    @Test("a failure of an attempt that is superseded is ignored; its delivery counts")
    func superseded() {
        var bench = Bench()
        _ = bench.event(Make.submitted(Make.message()))
        _ = bench.event(Make.accepted(attempt: 1))
        _ = bench.receipt(Make.receipt(.undelivered, reference: "m1.1"), 1)
        _ = bench.event(Make.accepted(attempt: 2, providerID: "p2", at: 5_000))
        let ignored = bench.receipt(Make.receipt(.failed, reference: "m1.1"), 2)
        #expect(Self.events(ignored).map(\.kind) == [.receiptIgnored])
        #expect(Self.finals(bench.receipt(Make.receipt(.delivered, reference: "m1.1"), 3)) == [.delivered])
    }

    @Test("a report for which there is no message goes to the dead letters after a time, and is done then")
    func unknown() {
        var bench = Bench()
        #expect(bench.receipt(Make.receipt(.delivered, reference: nil, providerID: "nobody"), 5) == [])
        #expect(bench.ledger.nextDue == 32_000)
        #expect(bench.ledger.tick(now: 31_999) == [])
        let actions = bench.ledger.tick(now: 32_000)
        guard case .deadLetter(_, let reason) = actions.first else {
            Issue.record("not a dead letter: \(actions)")
            return
        }
        #expect(reason.contains("nobody") && actions.last == .finish(Bench.token(5)))
        #expect(bench.ledger.heldReceipts == 0 && bench.ledger.nextDue == nil)
    }

    @Test("a provider that reports nothing: accepted leads to the end")
    func withoutReceipts() {
        var bench = Bench()
        _ = bench.event(Make.submitted(Make.message()))
        var accepted = Make.accepted()
        accepted.leadsTo = .sent
        let actions = bench.event(accepted)
        #expect(Self.finals(actions) == [.sent])
        #expect(actions.contains(.publish(Make.message(), .sent, at: 1_500)))
        #expect(Self.closes(actions) == EventPosition(partition: 0, offset: 0) && bench.ledger.nextDue == nil)
    }

    @Test("a message without its document is asked for at its place in the lane")
    func orphans() {
        var bench = Bench()
        _ = bench.event(Make.deferred(), source: "lane:0:5")
        #expect(bench.ledger.orphans(now: 1_000).isEmpty)
        #expect(bench.ledger.orphans(now: 5_000).isEmpty)
        let found = bench.ledger.orphans(now: 6_000)
        #expect(found.first?.messageID == "m1" && found.first?.source == "lane:0:5")
        let actions = bench.event(Make.submitted(Make.message()))
        #expect(Self.events(actions).map(\.kind) == [.retryScheduled])
        #expect(bench.ledger.orphans(now: 99_000).isEmpty)
    }

    @Test(
        "after a restart at any point, the log read back gives the decisions that are missing and no other",
        arguments: 0..<60
    )
    func restarts(seed: Int) {
        var generator = SeededGenerator(seed: UInt64(seed))
        var log: [TimelineEvent] = []
        var world = World(generator: SeededGenerator(seed: UInt64(seed) &+ 1_000))
        for id in 0..<20 { world.submit("m\(id)", &log) }
        var finals: [String: Int] = [:]
        var now: Timestamp = 2_000
        var read = 0
        var bench = Bench()
        for _ in 0..<4_000 where world.openCount > 0 || !log.isEmpty {
            // A restart: the state is gone, the log stays.
            if Int.random(in: 0..<40, using: &generator) == 0 {
                bench = Bench()
                for (offset, event) in log.enumerated() {
                    _ = bench.ledger.load(event, at: EventPosition(partition: 0, offset: Int64(offset)))
                }
                read = log.count
                perform(bench.ledger.decideAll(partition: 0, now: now), &world, &log, &finals, cut: false)
            }
            world.step(now, &log)
            while read < log.count {
                let event = log[read]
                read += 1
                guard event.component != "responses" else { continue }
                let actions = bench.ledger.apply(
                    event,
                    at: EventPosition(partition: 0, offset: Int64(read - 1)),
                    now: now
                ).1
                perform(actions, &world, &log, &finals, cut: false)
            }
            if let receipt = world.receipts.popLast() {
                // Held receipts are forgotten by a restart of this model, so they are given only when known.
                perform(bench.receipt(receipt, now: now), &world, &log, &finals, cut: false)
            }
            perform(bench.ledger.tick(now: now), &world, &log, &finals, cut: false)
            now = now + 500
            if finals.count == 20, world.openCount == 0 { break }
        }
        #expect(finals.count == 20, "seed \(seed): \(20 - finals.count) messages without an end")
        #expect(finals.values.allSatisfy { $0 == 1 }, "seed \(seed): \(finals)")
    }

    private func perform(
        _ actions: [LedgerAction],
        _ world: inout World,
        _ log: inout [TimelineEvent],
        _ finals: inout [String: Int],
        cut: Bool
    ) {
        for action in actions {
            switch action {
            case .append(let event, _):
                log.append(event)
                if event.status?.isFinal == true { finals[event.messageID, default: 0] += 1 }
            case .schedule(let message, let attempt, let due): world.schedule(message.id, attempt, due)
            case .unschedule(let id, let attempt): world.unschedule(id, attempt)
            case .publish, .cancel, .endTimer, .forward, .deadLetter, .finish: break
            }
        }
    }

    /// Dispatcher, provider and timers in a few lines: attempts that are due get a random outcome and maybe a receipt.
    private struct World {
        var generator: SeededGenerator
        var due: [String: (attempt: Int, at: Timestamp)] = [:]
        var receipts: [ProviderReceipt] = []
        var openCount: Int { due.count + receipts.count }

        mutating func submit(_ id: String, _ log: inout [TimelineEvent]) {
            log.append(Make.submitted(Make.message(id)))
            due[id] = (1, 0)
        }

        mutating func schedule(_ id: String, _ attempt: Int, _ at: Timestamp) { due[id] = (attempt, at) }

        mutating func unschedule(_ id: String, _ attempt: Int) {
            if due[id]?.attempt == attempt { due[id] = nil }
        }

        mutating func step(_ now: Timestamp, _ log: inout [TimelineEvent]) {
            for (id, item) in due.sorted(by: { $0.key < $1.key }) where item.at <= now {
                due[id] = nil
                switch Int.random(in: 0..<6, using: &generator) {
                case 0: log.append(Make.deferred(id, attempt: item.attempt, at: now))
                case 1:
                    var doubt = Make.deferred(id, attempt: item.attempt, at: now)
                    doubt.kind = .inDoubt
                    log.append(doubt)
                case 2:
                    log.append(Make.accepted(id, attempt: item.attempt, providerID: "\(id)p\(item.attempt)", at: now))
                default:
                    log.append(Make.accepted(id, attempt: item.attempt, providerID: "\(id)p\(item.attempt)", at: now))
                    let status: ProviderReceipt.Status = Bool.random(using: &generator) ? .delivered : .undelivered
                    receipts.append(
                        Make.receipt(status, reference: "\(id).\(item.attempt)", providerID: "\(id)p\(item.attempt)")
                    )
                }
            }
        }
    }

    @Test("back-off doubles, is spread, bounded, and the same when decided again")
    func backoff() {
        let policy = Self.policy
        #expect(policy.backoff(beforeAttempt: 2, spread: 0) == 500)
        #expect(policy.backoff(beforeAttempt: 2, spread: 0.999_999) == 999)
        #expect(policy.backoff(beforeAttempt: 4, spread: 0) == 2_000)
        #expect(policy.backoff(beforeAttempt: 40, spread: 0) == 4_000)
        #expect(policy.backoff(beforeAttempt: 2, spread: 0, providerAsksMilliseconds: 60_000) == 60_000)
        #expect(RetryPolicy.spread(messageID: "a", attempt: 2) == RetryPolicy.spread(messageID: "a", attempt: 2))
        #expect(RetryPolicy.spread(messageID: "a", attempt: 2) != RetryPolicy.spread(messageID: "b", attempt: 2))
    }
}
