// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCPipeline

/// A message has one end, whoever learns of it: the dispatcher says what its results lead to, the ledger alone ends.
@Suite("ends of messages (G7)")
struct MessageEndTests {
    /// A ledger over a log in memory, as the response handler drives it: it can die, and starts again at its floor.
    private struct Handler {
        var log: [TimelineEvent] = []
        var ledger = MessageLedger()
        var floor = FloorTracker(start: 0)
        var committed: Int64 = 0
        var read = 0
        var published: [String: MessageStatus] = [:]
        var timers: Set<MessageReference> = []
        let configuration: MessageLedger.Configuration

        init(_ policy: RetryPolicy) {
            configuration = MessageLedger.Configuration(policies: [.sms: policy], holdMilliseconds: 30_000)
            ledger = MessageLedger(configuration)
        }

        /// Reads what others wrote.
        mutating func catchUp(now: Timestamp, isLoading: Bool = false, own: Set<Int> = []) {
            while read < log.count {
                let (event, position) = (log[read], EventPosition(partition: 0, offset: Int64(read)))
                read += 1
                if event.component == "responses", !isLoading {
                    floor.passed(position.offset)
                    continue
                }
                let result: MessageLedger.LoadResult
                var actions: [LedgerAction] = []
                let source = event.component == "dispatcher" && event.attempt == 1 ? "lane:0:\(position.offset)" : nil
                if isLoading {
                    result = ledger.load(event, at: position, source: source)
                } else {
                    (result, actions) = ledger.apply(event, at: position, source: source, now: now)
                }
                switch result {
                case .opened: floor.opened(position.offset)
                case .closed(let first):
                    floor.passed(position.offset)
                    if first.offset != position.offset { floor.closed(first.offset) }
                case .known, .ignored: floor.passed(position.offset)
                }
                perform(actions)
            }
        }

        mutating func receive(_ receipt: ProviderReceipt, now: Timestamp) {
            let place = TopicPartition(topic: "mdc.responses.sms", partition: 0)
            perform(ledger.receive(receipt, token: ReceiptToken(topicPartition: place, offset: 0), now: now))
        }

        mutating func tick(now: Timestamp) { perform(ledger.tick(now: now)) }

        /// Looks in the log for messages without a document, as the response handler does.
        mutating func recover(now: Timestamp) {
            for orphan in ledger.orphans(now: now) {
                if let end = ends(orphan.messageID).first {
                    if let first = ledger.endedBefore(orphan.messageID, end) { floor.closed(first.offset) }
                } else if !log.contains(where: { $0.messageID == orphan.messageID && $0.kind == .submitted }) {
                    log.append(Make.submitted(Make.message(orphan.messageID)))
                }
            }
        }

        mutating func commit() { committed = floor.floor }

        /// What is not in the log is gone.
        mutating func restart(now: Timestamp) {
            ledger = MessageLedger(configuration)
            floor = FloorTracker(start: committed)
            read = Int(committed)
            catchUp(now: now, isLoading: true)
            perform(ledger.decideAll(partition: 0, now: now))
        }

        private mutating func perform(_ actions: [LedgerAction]) {
            for action in actions {
                switch action {
                case .append(let event, let closes):
                    log.append(event)
                    if let closes { floor.closed(closes.offset) }
                case .publish(let message, let status, _): published[message.id] = status
                case .schedule(let message, let attempt, _):
                    timers.insert(MessageReference(messageID: message.id, attempt: attempt))
                case .unschedule(let id, let attempt):
                    timers.remove(MessageReference(messageID: id, attempt: attempt))
                case .cancel, .endTimer, .forward, .deadLetter, .finish: break
                }
            }
        }

        func ends(_ id: String = "m1") -> [MessageStatus] {
            log.filter { $0.messageID == id }.compactMap(\.status).filter(\.isFinal)
        }
    }

    private static let policy = RetryPolicy(
        attemptsMax: 3,
        backoffMilliseconds: 1_000,
        receiptTimeoutMilliseconds: 60_000
    )

    private static func refused(_ attempt: Int = 1) -> TimelineEvent {
        var event = Make.accepted(attempt: attempt)
        (event.kind, event.status, event.leadsTo) = (.rejected, nil, .failed)
        (event.providerMessageID, event.dueAt, event.code) = (nil, nil, "INV-NUMBER")
        return event
    }

    @Test("the first attempt's report of delivery and the second one's refusal: one end, whichever is read first")
    func reportMeetsRefusal() {
        for refusalFirst in [true, false] {
            var handler = Handler(Self.policy)
            var doubt = Make.deferred()
            doubt.kind = .inDoubt
            handler.log = [Make.submitted(Make.message()), doubt]
            handler.catchUp(now: 1_500)
            #expect(handler.timers == [MessageReference(messageID: "m1", attempt: 2)])
            let report = Make.receipt(.delivered, reference: "m1.1")
            // Both happen before the handler sees either.
            handler.log.append(Self.refused(2))
            if refusalFirst {
                handler.catchUp(now: 2_500)
                handler.receive(report, now: 2_501)
            } else {
                handler.receive(report, now: 2_501)
                handler.catchUp(now: 2_502)
            }
            let end: MessageStatus = refusalFirst ? .failed : .delivered
            #expect(handler.ends() == [end])
            #expect(handler.published == ["m1": end])
            #expect(handler.ledger.openCount == 0)
            if refusalFirst {
                #expect(handler.log.last?.kind == .receiptIgnored)
                #expect(handler.log.last?.detail?.hasPrefix("contradicts the final status failed") == true)
            }
            handler.commit()
            handler.restart(now: 3_000)
            #expect(handler.ends() == [end] && handler.ledger.openCount == 0)
        }
    }

    @Test(
        "every result that leads to an end gets one entry, with the result's reason, and is published",
        arguments: [
            (TimelineEvent.Kind.accepted, MessageStatus.sent), (.rejected, .failed), (.withheld, .expired),
            (.withheld, .failed), (.withheld, .cancelled),
        ]
    )
    func everyResult(kind: TimelineEvent.Kind, end: MessageStatus) throws {
        for documentFirst in [true, false] {
            var handler = Handler(Self.policy)
            var result = Make.accepted()
            (result.kind, result.status, result.leadsTo) = (kind, nil, end)
            (result.code, result.detail) = ("why", "because")
            let document = Make.submitted(Make.message())
            handler.log = documentFirst ? [document, result] : [result, document]
            handler.catchUp(now: 1_500)
            #expect(handler.ends() == [end] && handler.published == ["m1": end])
            let last = try #require(handler.log.last)
            #expect(last.kind == .final && last.code == "why" && last.detail == "because")
            #expect(handler.ledger.openCount == 0 && handler.floor.floor == 3)
            // The same entry again ends nothing twice, here or after a restart at any place.
            handler.log.append(result)
            handler.catchUp(now: 1_600)
            for start in 0...Int64(handler.log.count) {
                handler.committed = start
                handler.restart(now: 1_700)
                #expect(handler.ends() == [end], "restarted at \(start)")
            }
        }
    }

    @Test("a report that overtakes the acceptance: the acceptance alone opens nothing for good after a restart")
    func overtakenAcceptance() {
        var handler = Handler(Self.policy)
        handler.log = [Make.submitted(Make.message())]
        handler.catchUp(now: 1_100)
        handler.receive(Make.receipt(.delivered, reference: "m1.1"), now: 1_200)
        #expect(handler.ends() == [.delivered])
        handler.catchUp(now: 1_250)
        handler.commit()
        #expect(handler.committed == 2)
        handler.log.append(Make.accepted())
        handler.restart(now: 1_300)
        // It may be one whose submission was cut short; the log tells.
        #expect(handler.ledger.openCount == 1)
        handler.recover(now: 2_000)
        handler.recover(now: 9_000)
        #expect(handler.ledger.openCount == 0 && handler.floor.floor == 3)
        handler.receive(Make.receipt(.delivered, reference: "m1.1"), now: 9_100)
        handler.tick(now: 99_000)
        #expect(handler.ends() == [.delivered])
        #expect(handler.log.last?.detail?.hasPrefix("repeated") == true)
    }

    @Test("later attempts, wishes and notes of messages that ended before the floor open nothing")
    func strangers() {
        var handler = Handler(Self.policy)
        var wish = Make.accepted()
        (wish.kind, wish.status, wish.component) = (.cancelRequested, nil, "client")
        handler.log = [Make.accepted(attempt: 2), wish, Make.deferred(attempt: 3)]
        handler.catchUp(now: 1_100)
        #expect(handler.ledger.openCount == 0 && handler.floor.floor == 3)
    }

    @Test(
        "handlers that die at random and start at their floor: each message one end, published, nothing stays open",
        arguments: 0..<120
    )
    func restartsAtTheFloor(seed: Int) {
        var generator = SeededGenerator(seed: UInt64(seed) &+ 77)
        var handler = Handler(Self.policy)
        let ids = (0..<12).map { "m\($0)" }
        /// What is under way at dispatcher and provider: results and receipts, in any order.
        var results: [TimelineEvent] = []
        var receipts: [ProviderReceipt] = []
        var unsubmitted = ids
        var now: Timestamp = 1_000
        func dispatch(_ id: String, _ attempt: Int) {
            let reference = "\(id).\(attempt)"
            let providerID = "p-\(reference)"
            var result = Make.accepted(id, attempt: attempt, providerID: providerID, at: now)
            let reports: [ProviderReceipt.Status]
            switch Int.random(in: 0..<7, using: &generator) {
            case 0: (result.kind, result.status, result.leadsTo, reports) = (.rejected, nil, .failed, [])
            case 1: (result.leadsTo, reports) = (.sent, [])
            case 2: (result.kind, result.status, reports) = (.deferred, nil, [])
            // It took it all the same.
            case 3: (result.kind, result.status, reports) = (.inDoubt, nil, [.delivered])
            case 4: reports = [.undelivered]
            case 5: reports = [.failed, .failed]
            default: reports = [.delivered, .delivered]
            }
            results.append(result)
            receipts += reports.map { Make.receipt($0, reference: reference, providerID: providerID) }
        }
        for _ in 0..<3_000 {
            now = now + Int64.random(in: 1...400, using: &generator)
            switch Int.random(in: 0..<9, using: &generator) {
            case 0:
                guard let id = unsubmitted.popLast() else { break }
                handler.log.append(Make.submitted(Make.message(id)))
                dispatch(id, 1)
            case 1, 2:
                guard let index = results.indices.randomElement(using: &generator) else { break }
                handler.log.append(results.remove(at: index))
            case 3, 4:
                // Also before the result of its attempt.
                guard let index = receipts.indices.randomElement(using: &generator) else { break }
                handler.receive(receipts.remove(at: index), now: now)
            case 5:
                let due = handler.timers.sorted { ($0.messageID, $0.attempt) < ($1.messageID, $1.attempt) }
                guard let next = due.randomElement(using: &generator) else { break }
                handler.timers.remove(next)
                dispatch(next.messageID, next.attempt)
            case 6: handler.commit()
            case 7 where Int.random(in: 0..<6, using: &generator) == 0:
                // Held receipts are not committed: the model gives them again as new ones, so none may be held now.
                if handler.ledger.heldReceipts == 0 { handler.restart(now: now) }
            default:
                handler.catchUp(now: now)
                handler.recover(now: now)
                handler.tick(now: now)
            }
        }
        for receipt in receipts { handler.receive(receipt, now: now) }
        for _ in 0..<20 {
            handler.log += results
            results = []
            for next in handler.timers { dispatch(next.messageID, next.attempt) }
            handler.timers = []
            now = now + 70_000
            handler.catchUp(now: now)
            handler.recover(now: now)
            handler.tick(now: now)
        }
        handler.commit()
        for id in ids {
            let ends = handler.ends(id)
            #expect(ends.count == 1, "seed \(seed): \(id) has the ends \(ends)")
            #expect(handler.published[id] == ends.first, "seed \(seed): \(id)")
        }
        for id in handler.ledger.open.keys {
            let timeline = handler.log.enumerated().filter { $1.messageID == id }.map {
                "\($0) \($1.component) \($1.kind) \($1.attempt) \($1.status?.rawValue ?? "-")"
            }
            Issue.record("seed \(seed): \(id) stays open: \(timeline.joined(separator: "; "))")
        }
        #expect(handler.committed == Int64(handler.log.count), "seed \(seed): the floor is held by nothing")
    }
}
