// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCBroker

/// Scripts: what a member gets and what becomes of it.
struct SharePartitionWindowTests {
    typealias Window = SharePartitionWindow

    var window = Window(start: 0)
    var limits = Window.Limits(lockDuration: 1_000, deliveryCountLimit: 3, maxRecordLocks: 100)

    /// Batches of ten records each, from 0 on.
    private func log(_ range: ClosedRange<Int64>) -> [Window.LogBatch] {
        stride(from: range.lowerBound / 10 * 10, through: range.upperBound, by: 10).map {
            .init(first: $0, last: $0 + 9)
        }
    }

    private mutating func fetch(
        _ member: String,
        max: Int = 10,
        strict: Bool = false,
        now: Int64 = 0,
        upTo: Int64 = 99
    ) -> [Window.Acquired] {
        let from = window.nextFetchOffset
        guard from <= upTo, window.mayAcquire(limits) else { return [] }
        let wish = Window.Wish(member: member, maxRecords: max, isStrict: strict)
        return window.acquire(wish, readFrom: from, log(from...upTo), limits, now: now)
    }

    private mutating func say(
        _ member: String,
        _ first: Int64,
        _ last: Int64,
        _ types: ShareAcknowledgeType...,
        now: Int64 = 0
    ) -> ShareOutcome<Window.Change> {
        let entry = ShareAcknowledgement(first: first, last: last, types: types.map(\.rawValue))
        return window.acknowledge([entry], by: member, limits, now: now)
    }

    private func isRefused(_ outcome: ShareOutcome<Window.Change>, _ code: ErrorCode) -> Bool {
        if case .failure(let found) = outcome { found == code } else { false }
    }

    @Test("whole batches are handed out until there are enough, each to one member")
    mutating func wholeBatches() {
        #expect(fetch("a", max: 15) == [.init(first: 0, last: 19, deliveryCount: 1)])
        #expect(fetch("b", max: 1) == [.init(first: 20, last: 29, deliveryCount: 1)])
        #expect(window.inFlightCount == 30 && window.end == 29 && window.nextFetchOffset == 30)
    }

    @Test("a strict limit cuts batches; the rest goes to the next")
    mutating func strict() {
        #expect(fetch("a", max: 4, strict: true) == [.init(first: 0, last: 3, deliveryCount: 1)])
        #expect(fetch("b", max: 12, strict: true) == [.init(first: 4, last: 15, deliveryCount: 1)])
    }

    @Test("pieces have the size that the member wants")
    mutating func pieces() {
        let wish = Window.Wish(member: "a", maxRecords: 20, batchSize: 8)
        let got = window.acquire(wish, readFrom: 0, log(0...19), limits, now: 0)
        #expect(got.map(\.first) == [0, 8, 16] && got.map(\.last) == [7, 15, 19])
    }

    @Test("accepted records at the front move the start; behind a gap they wait")
    mutating func accept() {
        _ = fetch("a", max: 20)
        guard case .success(let middle) = say("a", 5, 9, .accept) else { return #expect(Bool(false)) }
        #expect(!middle.movedStart && window.start == 0 && window.doneCount == 5)
        #expect(middle.batches == [.init(first: 5, last: 9, state: .acknowledged, deliveryCount: 1)])
        guard case .success(let front) = say("a", 0, 4, .accept) else { return #expect(Bool(false)) }
        #expect(front.movedStart && front.batches.isEmpty && window.start == 10)
        #expect(window.runs.count == 1)
    }

    @Test("one type for each record")
    mutating func types() {
        _ = fetch("a")
        let entry = ShareAcknowledgement(first: 0, last: 4, types: [1, 2, 3, 0, 1])
        guard case .success = window.acknowledge([entry], by: "a", limits, now: 0) else { return #expect(Bool(false)) }
        #expect(window.start == 1)
        #expect(window.runs.map(\.state) == [.available, .archived, .acknowledged, .acquired])
        #expect(fetch("b").first == .init(first: 1, last: 1, deliveryCount: 2))
    }

    @Test("released records are delivered again, up to the limit, then given up")
    mutating func release() {
        for count in Int16(1)...3 {
            #expect(fetch(count % 2 == 0 ? "a" : "b", upTo: 9) == [.init(first: 0, last: 9, deliveryCount: count)])
            _ = say(count % 2 == 0 ? "a" : "b", 0, 9, .release)
        }
        #expect(window.start == 10 && window.runs.isEmpty)
    }

    @Test("nobody acknowledges what is not theirs, and then nothing of the request happens")
    mutating func foreign() {
        _ = fetch("a")
        let before = window
        #expect(isRefused(say("b", 0, 3, .accept), .invalidRecordState))
        #expect(isRefused(say("a", 5, 12, .accept), .invalidRecordState))
        let both = [
            ShareAcknowledgement(first: 0, last: 3, types: [1]), ShareAcknowledgement(first: 20, last: 20, types: [1]),
        ]
        #expect(isRefused(window.acknowledge(both, by: "a", limits, now: 0), .invalidRecordState))
        #expect(window == before)
        _ = say("a", 0, 9, .accept)
        // A second time, after the start has passed it: no harm.
        guard case .success(let again) = say("a", 0, 9, .accept) else { return #expect(Bool(false)) }
        #expect(again.isEmpty)
    }

    @Test("a lock ends, and the record goes to another; renewing it keeps it")
    mutating func locks() {
        _ = fetch("a", upTo: 19)
        _ = fetch("b", now: 500, upTo: 19)
        #expect(window.earliestDeadline == 1_000)
        _ = say("a", 0, 4, .renew, now: 800)
        let change = window.expireLocks(limits, now: 1_000)
        #expect(change.freed && change.batches == [.init(first: 5, last: 9, state: .available, deliveryCount: 1)])
        #expect(window.earliestDeadline == 1_500)
        #expect(fetch("b", max: 5, now: 1_100) == [.init(first: 5, last: 9, deliveryCount: 2)])
        #expect(isRefused(say("a", 5, 9, .accept, now: 1_200), .invalidRecordState))
        guard case .success = say("a", 0, 4, .accept, now: 1_200) else { return #expect(Bool(false)) }
        #expect(window.start == 5)
    }

    @Test("a farewell does not count as a delivery, a disappearance does")
    mutating func leaving() {
        _ = fetch("a")
        _ = window.release(by: "a", wasDelivered: false, limits)
        #expect(fetch("a").first?.deliveryCount == 1)
        _ = window.release(by: "a", wasDelivered: true, limits)
        #expect(fetch("a").first?.deliveryCount == 2)
        _ = window.release(by: "b", wasDelivered: true, limits)
        #expect(window.isHolding("a") && !window.isHolding("b"))
    }

    @Test("no new records beyond the limit of locks, but old ones again")
    mutating func tooMany() {
        limits.maxRecordLocks = 20
        _ = fetch("a", max: 100)
        #expect(window.end == 19)
        #expect(fetch("b").isEmpty)
        _ = say("a", 3, 3, .release)
        #expect(fetch("b") == [.init(first: 3, last: 3, deliveryCount: 2)])
        _ = say("a", 10, 12, .accept)
        #expect(fetch("b", max: 100) == [.init(first: 20, last: 29, deliveryCount: 1)])
    }

    @Test("markers, aborted records and holes of the log are done without being handed out")
    mutating func holes() {
        let batches: [Window.LogBatch] = [
            .init(first: 5, last: 9), .init(first: 10, last: 10, isDeliverable: false), .init(first: 15, last: 19),
            .init(first: 20, last: 20, isDeliverable: false),
        ]
        let wish = Window.Wish(member: "a", maxRecords: 100)
        let got = window.acquire(wish, readFrom: 0, batches, limits, now: 0)
        #expect(got.map(\.first) == [5, 15] && got.map(\.last) == [9, 19])
        #expect(window.start == 5 && window.end == 20)
        _ = say("a", 5, 9, .accept)
        _ = say("a", 15, 19, .accept)
        #expect(window.start == 21)
    }

    @Test("the log's start moves: what lies before it is done")
    mutating func logStart() {
        _ = fetch("a", max: 20)
        let change = window.moveStart(to: 15)
        #expect(change.movedStart && window.start == 15 && window.inFlightCount == 5)
        guard case .success(let late) = say("a", 10, 16, .accept) else { return #expect(Bool(false)) }
        #expect(late.movedStart && window.start == 17)
        _ = window.moveStart(to: 500)
        #expect(window.start == 500 && window.runs.isEmpty && window.nextFetchOffset == 500)
    }

    @Test("what was stored comes back; what was out is available")
    mutating func stored() {
        _ = fetch("a", max: 30)
        _ = say("a", 2, 5, .accept)
        _ = say("a", 8, 9, .release)
        _ = fetch("b", max: 1)
        let again = Window(start: window.start, batches: window.batches)
        #expect(again.start == 0 && again.end == 29 && again.doneCount == 4)
        #expect(again.runs.allSatisfy { $0.state != .acquired })
        #expect(again.runs.first { $0.first == 8 }?.deliveryCount == 1)
        let sparse = Window(start: 3, batches: [.init(first: 6, last: 7, state: .acknowledged, deliveryCount: 1)])
        #expect(sparse.runs.map(\.state) == [.available, .acknowledged] && sparse.nextFetchOffset == 3)
    }

    @Test("malformed acknowledgements are named")
    func malformed() {
        func problem(_ list: ShareAcknowledgement...) -> String? {
            ShareAcknowledgement.problem(list, isRenewAllowed: false)
        }
        #expect(problem(.init(first: 3, last: 2, types: [1])) != nil)
        #expect(problem(.init(first: -1, last: 2, types: [1])) != nil)
        #expect(problem(.init(first: 0, last: 2, types: [])) != nil)
        #expect(problem(.init(first: 0, last: 2, types: [1, 1])) != nil)
        #expect(problem(.init(first: 0, last: 2, types: [4])) != nil)
        #expect(problem(.init(first: 0, last: 2, types: [9])) != nil)
        #expect(problem(.init(first: 0, last: 2, types: [1]), .init(first: 2, last: 4, types: [1])) != nil)
        #expect(problem(.init(first: 0, last: 2, types: [1, 2, 0]), .init(first: 3, last: 4, types: [3])) == nil)
        #expect(
            ShareAcknowledgement.problem([.init(first: 0, last: 2, types: [4])], isRenewAllowed: true) == nil
        )
    }
}

/// Sessions of members with a node.
struct ShareSessionTests {
    private let member = ShareMemberKey(groupID: "g", memberID: "m")
    private let first = ShareTarget(TopicID(high: 1, low: 1), 0)
    private let second = ShareTarget(TopicID(high: 1, low: 1), 1)

    @Test("a session begins with 0, counts on, takes and forgets partitions, ends with −1")
    func life() {
        var cache = ShareSessionCache(capacity: 2)
        func fetch(_ epoch: Int32, _ add: [ShareTarget] = [], _ gone: [ShareTarget] = []) -> ShareSessionCache.Verdict {
            cache.fetch(member, epoch: epoch, connection: 1, targets: add, forgotten: gone)
        }
        #expect(fetch(1) == .failed(.shareSessionNotFound))
        #expect(fetch(0, [first]) == .created)
        #expect(fetch(2) == .failed(.invalidShareSessionEpoch))
        #expect(fetch(1, [second]) == .incremental)
        #expect(Set(cache.targets(of: member)) == [first, second])
        #expect(cache.acknowledge(member, epoch: 2) == .incremental)
        #expect(cache.acknowledge(member, epoch: 0) == .failed(.invalidShareSessionEpoch))
        #expect(fetch(3, [], [first]) == .incremental)
        #expect(cache.targets(of: member) == [second])
        #expect(fetch(-1) == .final)
        #expect(cache.count == 0 && cache.targets(of: member).isEmpty)
        #expect(cache.acknowledge(member, epoch: -1) == .failed(.shareSessionNotFound))
    }

    @Test("partitions take turns to be first")
    func turns() {
        var cache = ShareSessionCache(capacity: 2)
        _ = cache.fetch(member, epoch: 0, connection: 1, targets: [first, second], forgotten: [])
        #expect(cache.targets(of: member) == [first, second])
        #expect(cache.targets(of: member) == [second, first])
    }

    @Test("a connection takes its sessions with it, but not one that has moved on; too many are refused")
    func connections() {
        var cache = ShareSessionCache(capacity: 2)
        let other = ShareMemberKey(groupID: "g", memberID: "n")
        _ = cache.fetch(member, epoch: 0, connection: 1, targets: [first], forgotten: [])
        _ = cache.fetch(other, epoch: 0, connection: 1, targets: [first], forgotten: [])
        let third = ShareMemberKey(groupID: "g", memberID: "o")
        #expect(
            cache.fetch(third, epoch: 0, connection: 3, targets: [], forgotten: [])
                == .failed(.shareSessionLimitReached)
        )
        _ = cache.fetch(member, epoch: 0, connection: 2, targets: [first], forgotten: [])
        #expect(cache.close(connection: 1) == [other])
        #expect(cache.count == 1 && cache.hasSessions(of: "g"))
        #expect(cache.close(connection: 2) == [member])
        #expect(!cache.hasSessions(of: "g"))
    }
}
