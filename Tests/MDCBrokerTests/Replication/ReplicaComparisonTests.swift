// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCBroker

@Suite("Replicas compared with their leaders")
struct ReplicaComparisonTests {
    private typealias Key = ReplicaComparison.Key

    private static let first = Key(topicID: TopicID(high: 1, low: 1), index: 0)
    private static let second = Key(topicID: TopicID(high: 1, low: 1), index: 1)

    private static func digest(_ checksum: UInt32, first: Int64 = 0, isSound: Bool = true) -> LogDigest {
        LogDigest(first: first, end: 10, checksum: checksum, isSound: isSound)
    }

    @Test("each replica in turn, from its start to what is committed, and again after the interval")
    func turns() {
        var comparison = ReplicaComparison()
        var extents: [Key: ReplicaComparison.Extent] = [
            Self.first: .init(start: 0, end: 25), Self.second: .init(start: 5, end: 10),
        ]
        // A replica that was just made has an interval's time.
        #expect(comparison.next(extents, interval: 100, now: 0) == nil)
        #expect(comparison.next(extents, interval: 100, now: 99) == nil)
        var stretches: [[Int64]] = []
        while let (key, from) = comparison.next(extents, interval: 100, now: 100), stretches.count < 10 {
            stretches.append([Int64(key.index), from])
            comparison.compared(key, .equal, upTo: from + 10)
        }
        #expect(stretches == [[0, 0], [1, 5], [0, 10], [0, 20]])
        #expect(comparison.next(extents, interval: 100, now: 199) == nil)
        // Retention has moved the start, and the other one is gone.
        extents[Self.first] = .init(start: 12, end: 30)
        extents[Self.second] = nil
        #expect(comparison.next(extents, interval: 100, now: 200).map { [Int64($0.key.index), $0.from] } == [0, 12])
        // What cannot be compared now waits for the next pass.
        comparison.compared(Self.first, .unknown, upTo: 22)
        #expect(comparison.next(extents, interval: 100, now: 250) == nil)
        #expect(comparison.next(extents, interval: 100, now: 300)?.from == 12)
    }

    @Test("the leader's copy counts where it is sound; nothing is thrown away for one that is not")
    func judges() {
        let own = Self.digest(1)
        #expect(ReplicaComparison.judge(own: own, leader: own) == .equal)
        #expect(ReplicaComparison.judge(own: own, leader: nil) == .unknown)
        #expect(ReplicaComparison.judge(own: own, leader: Self.digest(2)) == .different)
        #expect(ReplicaComparison.judge(own: own, leader: Self.digest(2, isSound: false)) == .leaderDamaged)
        #expect(ReplicaComparison.judge(own: own, leader: Self.digest(2, first: 4)) == .unknown)
        #expect(ReplicaComparison.judge(own: Self.digest(1, isSound: false), leader: own) == .different)
        // Both the same and both damaged: there is nothing better to copy.
        let damaged = Self.digest(1, isSound: false)
        #expect(ReplicaComparison.judge(own: damaged, leader: damaged) == .leaderDamaged)
    }

    @Test("questions and digests on the wire; what is neither is refused")
    func wire() {
        let question = LogDigest.question(from: 3, upTo: 9)
        let read = LogDigest.question(question)
        #expect(read?.from == 3 && read?.end == 9)
        #expect(LogDigest.question(LogDigest.question(from: 9, upTo: 3)) == nil)
        let digest = Self.digest(7, isSound: false)
        #expect(LogDigest(digest.bytes) == digest)
        for length in 0..<21 {
            #expect(LogDigest(digest.bytes.getSlice(at: 0, length: length) ?? digest.bytes) == nil)
            if length != 16 {
                #expect(LogDigest.question(digest.bytes.getSlice(at: 0, length: length) ?? question) == nil)
            }
        }
    }
}
