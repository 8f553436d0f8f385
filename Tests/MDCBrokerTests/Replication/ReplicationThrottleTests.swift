// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization
import Testing

@testable import MDCBroker

@Suite("Replication is throttled (KIP-73)")
struct ReplicationThrottleTests {
    private final class Clock: Sendable {
        let nanoseconds = Atomic<UInt64>(1_000_000_000)
        func pass(_ milliseconds: UInt64) { nanoseconds.add(milliseconds * 1_000_000, ordering: .relaxed) }
    }

    private static let topic = TopicID(high: 1, low: 1)

    private func throttle(_ clock: Clock) -> ReplicationThrottle {
        ReplicationThrottle(node: 2) { clock.nanoseconds.load(ordering: .relaxed) }
    }

    @Test("Lists are pairs, a star, or nothing")
    func lists() throws {
        let some = try #require(ThrottledReplicas("0:1,0:2,7:3"))
        #expect(some.contains(0, on: 2) && some.contains(7, on: 3))
        #expect(!some.contains(7, on: 2) && !some.contains(1, on: 1))
        let all = try #require(ThrottledReplicas("*"))
        #expect(all.contains(99, on: 5))
        for text in ["", "none"] {
            let none = try #require(ThrottledReplicas(text))
            #expect(none.isEmpty && !none.contains(0, on: 2))
        }
        for text in ["1", "1:", ":1", "1:2,", "a:b", "1:2:3", "-1:2", "1:-2", "*,1:2", " 1:2"] {
            #expect(ThrottledReplicas(text) == nil, "\(text)")
        }
    }

    @Test("Nobody is held back who is not named, on another node, on the other side, or without a rate")
    func whoIsNamed() {
        let clock = Clock()
        let throttle = throttle(clock)
        throttle.note(Self.topic, [TopicSettings.leaderThrottled: "0:2,1:3"])
        #expect(!throttle.names(Self.topic, 0, .leader), "there is no rate yet")
        throttle.set(leaderRate: 1_000, followerRate: 1_000)
        #expect(throttle.names(Self.topic, 0, .leader))
        #expect(!throttle.names(Self.topic, 1, .leader), "that is another node's replica")
        #expect(!throttle.names(Self.topic, 0, .follower))
        #expect(!throttle.names(TopicID(high: 1, low: 2), 0, .leader))
        throttle.set(leaderRate: .max, followerRate: 1_000)
        #expect(!throttle.names(Self.topic, 0, .leader))
        throttle.set(leaderRate: 1_000, followerRate: .max)
        #expect(throttle.names(Self.topic, 0, .leader))
        throttle.forget(Self.topic)
        #expect(!throttle.names(Self.topic, 0, .leader))
        #expect(throttle.delay(.leader) == 0)
    }

    @Test("Over a minute no more than the rate is copied, and nearly as much", arguments: 1...20)
    func rate(seed: UInt64) {
        var random = SplitMix(state: seed)
        let clock = Clock()
        let throttle = throttle(clock)
        let rate = Int64.random(in: 1_000...10_000_000, using: &random)
        throttle.note(Self.topic, [TopicSettings.followerThrottled: "*"])
        throttle.set(leaderRate: .max, followerRate: rate)
        let piece = Int.random(in: 1...1 << 20, using: &random)
        var copied = 0
        // Until the clock shows enough for sixty pieces, or a minute.
        let end = max(60_000, UInt64(60 * piece) * 1_000 / UInt64(rate))
        var passed: UInt64 = 0
        while passed < end {
            let delay = throttle.delay(.follower)
            if delay == 0 {
                throttle.record(.follower, bytes: piece)
                copied += piece
            }
            let step = UInt64(max(1, delay))
            clock.pass(step)
            passed += step
        }
        let allowed = Double(rate) * Double(passed) / 1_000
        #expect(Double(copied) <= allowed + Double(rate) + Double(piece) + 1)
        // A piece a millisecond is all that this loop copies.
        #expect(Double(copied) >= min(allowed, Double(piece) * Double(passed)) * 0.9 - Double(piece))
        #expect(throttle.heldBack(.leader) == 0)
    }

    @Test("A rate that is raised acts at once, one of zero holds back until it is taken away")
    func changes() {
        let clock = Clock()
        let throttle = throttle(clock)
        throttle.note(Self.topic, [TopicSettings.followerThrottled: "0:2"])
        throttle.set(leaderRate: .max, followerRate: 0)
        #expect(throttle.delay(.follower) == 1_000)
        clock.pass(100_000)
        #expect(throttle.delay(.follower) == 1_000)
        throttle.set(leaderRate: .max, followerRate: 1_000)
        throttle.record(.follower, bytes: 5_000)
        #expect(throttle.delay(.follower) == 1_000)
        throttle.set(leaderRate: .max, followerRate: .max)
        #expect(throttle.delay(.follower) == 0)
        throttle.set(leaderRate: .max, followerRate: 1_000_000)
        #expect(throttle.delay(.follower) == 0, "what was owed is forgotten with the rate")
    }
}
