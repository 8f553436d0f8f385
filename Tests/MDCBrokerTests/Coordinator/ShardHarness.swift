// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCBroker

/// Drives a shard by hand: a clock that moves when told, a log in memory, and a check after every step that replaying the
/// log gives the state that the shard has.
struct ShardHarness<Shard: CoordinatorShard> {
    var shard: Shard
    /// What the log alone says, kept up record by record.
    var mirror: Shard
    var now = CoordinatorTime(monotonic: 1_000_000, wall: 1_700_000_000_000)
    var log: [CoordinatorRecord] = []
    var nextToken: RequestToken = 1
    /// Answers by token. A second answer to one token is a failure.
    var answers: [RequestToken: Shard.Step.Response] = [:]
    var parked: Set<RequestToken> = []
    /// Orders that were not carried out yet.
    var orders: [Shard.Step.Order] = []
    var nextProducerID: Int64 = 1_000
    /// An empty shard in the place of this one, for a node that starts now.
    private let successor: (Shard, CoordinatorTime, RequestToken) -> Shard
    /// Holds the state that the log gives, first, against the shard's, after a step.
    private let check: (Shard, Shard, Shard.Step) -> Void

    init(
        _ first: (CoordinatorTime) -> Shard,
        successor: @escaping (Shard, CoordinatorTime, RequestToken) -> Shard,
        check: @escaping (Shard, Shard, Shard.Step) -> Void
    ) {
        shard = first(now)
        mirror = shard
        self.successor = successor
        self.check = check
    }

    /// Sends an event; returns the token of its answer.
    @discardableResult
    mutating func send(_ event: Shard.Event) -> RequestToken {
        let token = nextToken
        nextToken += 1
        parked.insert(token)
        take(shard.handle(event, token: token, now: now))
        return token
    }

    /// Lets `milliseconds` pass, waking the shard whenever it asks for it.
    mutating func advance(_ milliseconds: Int64) {
        let end = now.monotonic + milliseconds
        while shard.nextDeadline <= end {
            move(to: max(shard.nextDeadline, now.monotonic))
            take(shard.tick(now))
        }
        move(to: end)
    }

    private mutating func move(to monotonic: Int64) {
        now.wall = now.wall + (monotonic - now.monotonic)
        now.monotonic = monotonic
    }

    private mutating func take(_ step: Shard.Step) {
        for record in step.records {
            do { try mirror.replay(record, at: Offset(Int64(log.count)), producer: nil, now: now) } catch {
                Issue.record("\(error)")
            }
            log.append(record)
        }
        shard.apply(step, end: Offset(Int64(log.count)))
        for answer in step.answers {
            #expect(parked.remove(answer.token) != nil, "answered twice: \(answer)")
            answers[answer.token] = answer.response
        }
        orders += step.orders
        check(mirror, shard, step)
    }

    /// What a node that starts now would know.
    func replayed() -> Shard {
        var copy = loaded
        _ = copy.begin(now: now)
        return copy
    }

    private var loaded: Shard {
        var copy = successor(shard, now, nextToken)
        for (offset, record) in log.enumerated() {
            do { try copy.replay(record, at: Offset(Int64(offset)), producer: nil, now: now) } catch {
                Issue.record("\(error)")
            }
        }
        return copy
    }

    /// Stops without warning and starts from the log.
    mutating func crash() {
        orders = []
        parked = []
        var copy = loaded
        let step = copy.begin(now: now)
        shard = copy
        if let step { take(step) }
    }
}
