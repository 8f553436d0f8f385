// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import MDCPipeline

@Suite("lane scheduler (G6)")
struct LaneSchedulerTests {
    @Test("saturated lanes share by weight, within one round")
    func shares() {
        var scheduler = LaneScheduler(weights: [8, 4, 2, 1], slots: 1)
        for lane in 0..<4 { scheduler.enqueued(lane, count: 100_000) }
        var served = [0, 0, 0, 0]
        for _ in 0..<1_500 {
            guard let lane = scheduler.next() else { break }
            served[lane] += 1
            scheduler.finished(lane)
        }
        #expect(served == [800, 400, 200, 100])
    }

    @Test("an idle lane's share goes to the others, in proportion")
    func lends() {
        var scheduler = LaneScheduler(weights: [8, 4, 2, 1], slots: 1)
        scheduler.enqueued(2, count: 10_000)
        scheduler.enqueued(3, count: 10_000)
        var served = [0, 0, 0, 0]
        for _ in 0..<300 {
            guard let lane = scheduler.next() else { break }
            served[lane] += 1
            scheduler.finished(lane)
        }
        #expect(served == [0, 0, 200, 100])
    }

    @Test("a critical message starts at once though bulk holds all slots that are lent")
    func floor() {
        var scheduler = LaneScheduler(weights: [8, 4, 2, 1], slots: 64)
        scheduler.enqueued(3, count: 10_000)
        var bulk = 0
        while scheduler.next() != nil { bulk += 1 }
        #expect(bulk == 64 - scheduler.floor(0) - scheduler.floor(1) - scheduler.floor(2))
        scheduler.enqueued(0, count: 3)
        #expect([scheduler.next(), scheduler.next(), scheduler.next()] == [0, 0, 0])
        #expect(scheduler.next() == nil)
    }

    @Test("a waiting message starts after at most one round of the others, whatever is served", arguments: 0..<20)
    func bound(seed: Int) {
        var generator = SeededGenerator(seed: UInt64(seed))
        let weights = (0..<Int.random(in: 2...6, using: &generator)).map { _ in
            Int.random(in: 1...16, using: &generator)
        }
        let slots = Int.random(in: 1...40, using: &generator)
        var scheduler = LaneScheduler(weights: weights, slots: slots)
        let total = weights.reduce(0, +)
        var running: [Int] = []
        var waited = weights.map { _ in 0 }
        for _ in 0..<5_000 {
            let lane = Int.random(in: 0..<weights.count, using: &generator)
            scheduler.enqueued(lane, count: Int.random(in: 0...5, using: &generator))
            if let next = scheduler.next() {
                for other in weights.indices where scheduler.waiting(other) > 0 && other != next { waited[other] += 1 }
                waited[next] = 0
                #expect(waited.max() ?? 0 <= total * 2, "starved: weights \(weights) slots \(slots)")
                running.append(next)
            }
            #expect(running.count <= slots)
            while running.count >= slots || (!running.isEmpty && Bool.random(using: &generator)) {
                scheduler.finished(running.remove(at: Int.random(in: 0..<running.count, using: &generator)))
            }
        }
    }

    @Test("a token bucket keeps to its rate")
    func tokens() {
        var bucket = TokenBucket(perSecond: 1_000, burst: 10, nowNanoseconds: 0)
        var now: Int64 = 0
        var taken = 0
        while now < 1_000_000_000 {
            let wait = bucket.take(nowNanoseconds: now)
            if wait == 0 { taken += 1 } else { now += wait }
        }
        #expect((1_000...1_011).contains(taken))
    }
}
