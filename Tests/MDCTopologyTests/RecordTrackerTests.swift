// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCTopology

@Suite struct RecordTrackerTests {
    private let partition = TopicPartition(topic: "t", partition: 0)
    private func source(_ offset: Int64) -> SourcePosition {
        SourcePosition(partition: partition, offset: Offset(offset))
    }
    private func tracker() -> RecordTracker {
        var tracker = RecordTracker()
        tracker.assign(partition)
        return tracker
    }

    private func begin(_ tracker: inout RecordTracker, _ offset: Int64) throws -> Int {
        let tree = tracker.begin(source(offset))
        return try #require(tree)
    }

    @Test func onlyWhatIsDoneWithoutGapsIsCommitted() throws {
        var tracker = tracker()
        let first = try begin(&tracker, 10)
        let second = try begin(&tracker, 11)
        let third = try begin(&tracker, 15)
        #expect(tracker.finish(second) == .succeeded)
        #expect(tracker.committable() == [partition: 10])
        #expect(tracker.finish(first) == .succeeded)
        #expect(tracker.committable() == [partition: 15])
        tracker.committed([partition: 15])
        #expect(tracker.committable() == [:])
        #expect(tracker.finish(third) == .succeeded)
        #expect(tracker.committable() == [partition: 16])
        // Markers behind the last record are passed.
        tracker.skip(partition, to: 20)
        #expect(tracker.committable() == [partition: 20])
        #expect(tracker.isIdle)
    }

    @Test func aTreeEndsWithItsLastBranch() throws {
        var tracker = tracker()
        let tree = try begin(&tracker, 0)
        tracker.branch(tree, 2)
        #expect(tracker.finish(tree) == nil)
        tracker.branch(tree)
        #expect(tracker.finish(tree) == nil)
        #expect(tracker.finish(tree) == nil)
        #expect(!tracker.isIdle([partition]))
        #expect(tracker.finish(tree) == .succeeded)
        #expect(tracker.isIdle([partition]))
    }

    @Test func aFailedTreeHoldsItsOffsetUntilItIsSettled() throws {
        var tracker = tracker()
        let tree = try begin(&tracker, 0)
        tracker.branch(tree, 2)
        let failure = StageFailure(stage: "s", reason: "first")
        #expect(tracker.fail(tree, failure) == nil)
        #expect(tracker.fail(tree, StageFailure(stage: "s", reason: "second")) == nil)
        #expect(tracker.finish(tree) == .failed(source(0), failure))
        #expect(tracker.committable() == [partition: 0])
        tracker.settled(tree)
        #expect(tracker.committable() == [partition: 1])
    }

    @Test func whatIsNotAssignedOrWasReadBeforeDoesNotBegin() throws {
        var tracker = tracker()
        #expect(tracker.begin(SourcePosition(partition: TopicPartition(topic: "u", partition: 0), offset: 0)) == nil)
        let tree = try begin(&tracker, 5)
        #expect(tracker.begin(source(5)) == nil)
        tracker.drop([partition])
        #expect(!tracker.isAlive(tree))
        #expect(tracker.finish(tree) == nil)
        #expect(tracker.committable() == [:])
        #expect(tracker.begin(source(6)) == nil)
        // Given back, it begins anew.
        tracker.assign(partition)
        #expect(tracker.begin(source(5)) != nil)
    }

    @Test func aStartIsNoProgress() {
        var tracker = tracker()
        tracker.skip(partition, to: 7)
        #expect(tracker.committable() == [:])
        tracker.skip(partition, to: 9)
        #expect(tracker.committable() == [partition: 9])
    }

    /// Records end in any order, with any number of branches: what is committed never passes a record that is under way.
    @Test(arguments: 0..<20) func neverCommitsTooFar(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        var tracker = tracker()
        var open: [(tree: Int, offset: Int64, branches: Int)] = []
        var next: Int64 = 0
        for _ in 0..<500 {
            switch Int.random(in: 0..<3, using: &random) {
            case 0:
                next += Int64.random(in: 0..<3, using: &random)
                let tree = try begin(&tracker, next)
                open.append((tree, next, 1))
                next += 1
            case 1:
                guard let index = open.indices.randomElement(using: &random) else { continue }
                tracker.branch(open[index].tree)
                open[index].branches += 1
            default:
                guard let index = open.indices.randomElement(using: &random) else { continue }
                let end = tracker.finish(open[index].tree)
                open[index].branches -= 1
                #expect((end == .succeeded) == (open[index].branches == 0))
                if open[index].branches == 0 { open.remove(at: index) }
            }
            let wanted = open.map(\.offset).min() ?? next
            if let position = tracker.committable()[partition] {
                #expect(position.rawValue == wanted)
                tracker.committed([partition: position])
            }
            #expect(tracker.inFlight == open.count)
        }
    }
}

/// SplitMix64.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
