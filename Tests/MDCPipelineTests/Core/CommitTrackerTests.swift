// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCModel
import Testing

@testable import MDCPipeline

@Suite("commit tracker")
struct CommitTrackerTests {
    @Test("commits the contiguous prefix")
    func prefix() {
        var tracker = CommitTracker(start: 10)
        for offset in 10..<15 as Range<Int64> { #expect(tracker.read(offset) == .new) }
        tracker.complete(11)
        tracker.complete(12)
        #expect(tracker.committable == 10)
        tracker.complete(10)
        #expect(tracker.committable == 13)
        tracker.complete(14)
        tracker.complete(13)
        #expect(tracker.committable == 15 && tracker.isEmpty)
    }

    @Test("gaps in the offsets are passed")
    func gaps() {
        var tracker = CommitTracker(start: 0)
        _ = tracker.read(5)
        _ = tracker.read(9)
        #expect(tracker.committable == 5)
        tracker.complete(5)
        #expect(tracker.committable == 9)
        tracker.complete(9)
        #expect(tracker.committable == 10)
    }

    @Test("a successor knows what is done, what may have been sent, and what was never touched")
    func successor() {
        var tracker = CommitTracker(start: 100)
        for offset in 100..<120 as Range<Int64> { _ = tracker.read(offset) }
        tracker.take(through: 109)
        for offset in [101, 103, 108] as [Int64] { tracker.complete(offset) }
        var next = CommitTracker(committed: tracker.committable, metadata: tracker.metadata)
        #expect(next.hasDoubtful)
        let origins = (100..<112 as Range<Int64>).map { next.read($0) }
        #expect(
            origins == [
                .doubtful, .done, .doubtful, .done, .doubtful, .doubtful, .doubtful, .doubtful, .done, .doubtful, .new,
                .new,
            ]
        )
        for offset in [100, 102, 104, 105, 106, 107, 109] as [Int64] { next.complete(offset) }
        #expect(next.committable == 110)
    }

    @Test("what was taken back is new to the successor")
    func untake() {
        var tracker = CommitTracker(start: 0)
        for offset in 0..<10 as Range<Int64> { _ = tracker.read(offset) }
        tracker.take(through: 9)
        tracker.untake(from: 4)
        var next = CommitTracker(committed: tracker.committable, metadata: tracker.metadata)
        #expect(
            (0..<6 as Range<Int64>).map { next.read($0) } == [.doubtful, .doubtful, .doubtful, .doubtful, .new, .new]
        )
    }

    @Test(
        "metadata that is not ours counts as none",
        arguments: ["", "x", "1:", "1:-4:", "1:5", "2:5:0", "1:5:\u{7F}", "hello;world"]
    )
    func foreignMetadata(text: String) {
        var tracker = CommitTracker(committed: 7, metadata: text)
        #expect(!tracker.hasDoubtful)
        #expect(tracker.read(7) == .new)
    }

    @Test("random work, killed and restored again and again: each record done once it is said to be", arguments: 0..<30)
    func random(seed: Int) {
        var generator = SeededGenerator(seed: UInt64(seed))
        let end: Int64 = 600
        var done: Set<Int64> = []
        var saved: (Int64, String) = (0, "")
        while saved.0 < end {
            var tracker = CommitTracker(committed: saved.0, metadata: saved.1)
            var acted: Set<Int64> = []
            var offset = saved.0
            for _ in 0..<Int.random(in: 1...200, using: &generator) where offset < end {
                let origin = tracker.read(offset)
                if origin == .done { #expect(done.contains(offset)) }
                if origin == .new { #expect(!done.contains(offset), "a record that was acted upon is said to be new") }
                if origin != .done { acted.insert(offset) }
                offset += 1
            }
            tracker.take(through: offset - 1)
            // Declared before it is acted upon, as the dispatcher does.
            saved = (tracker.committable, tracker.metadata)
            #expect(tracker.metadata.utf8.count < 4_000)
            for candidate in acted where Int.random(in: 0..<4, using: &generator) > 0 {
                done.insert(candidate)
                tracker.complete(candidate)
            }
            if Bool.random(using: &generator) { saved = (tracker.committable, tracker.metadata) }
        }
        #expect(done.count == Int(end))
    }

    @Test("a floor is the oldest open record, or the end of what was read")
    func floor() {
        var floor = FloorTracker(start: 4)
        #expect(floor.floor == 4)
        floor.passed(4)
        floor.opened(5)
        floor.passed(6)
        floor.opened(7)
        #expect(floor.floor == 5)
        floor.closed(5)
        #expect(floor.floor == 7)
        floor.closed(7)
        #expect(floor.floor == 8)
        floor.opened(20)
        #expect(floor.floor == 20)
    }

    @Test("an attempt window forgets the oldest")
    func window() {
        var window = AttemptWindow(capacity: 3)
        for id in ["a", "b", "c", "d"] { #expect(window.insert(id, attempt: 1) == true) }
        #expect(!window.contains("a", attempt: 1) && window.contains("b", attempt: 1))
        #expect(window.insert("d", attempt: 1) == false)
        #expect(window.insert("d", attempt: 2) == true)
    }
}

@Suite("dispatcher's memory")
struct DispatchStateTests {
    private let partition = TopicPartition(topic: "lane", partition: 0)

    private func state(slots: Int = 4) -> DispatchState {
        var state = DispatchState(weights: [1], slots: slots, queuedMax: 100)
        state.assign(partition, lane: 0, tracker: CommitTracker(start: 0))
        return state
    }

    private func offer(_ state: inout DispatchState, _ offset: Int64, id: String? = nil) {
        let origin = state.read(partition, offset: offset)
        guard origin != .done else { return }
        state.offer(Make.message(id ?? "m\(offset)"), partition, offset: offset, isDoubtful: origin == .doubtful)
    }

    @Test("nothing starts before the commit that declares it is durable")
    func declares() {
        var state = state()
        offer(&state, 0)
        #expect(state.start() == nil && state.wantsCommit)
        let commits = state.declare(now: 50)
        #expect(commits[partition]?.metadata == "50;1:1:")
        #expect(state.start() == nil)
        state.release()
        #expect(state.start()?.offset == 0)
    }

    @Test("the same attempt in two records is sent once")
    func duplicates() throws {
        var state = state()
        offer(&state, 0, id: "same")
        offer(&state, 1, id: "same")
        _ = state.declare(now: 0)
        state.release()
        let itemFound = state.start()
        let item = try #require(itemFound)
        #expect(state.start() == nil)
        state.free(item)
        state.finish(item)
        #expect(state.commit(partition)?.offset == 2)
    }

    @Test("what was not started at the end is not in doubt afterwards")
    func shutdown() throws {
        var state = state(slots: 2)
        for offset in 0..<10 as Range<Int64> { offer(&state, offset) }
        _ = state.declare(now: 0)
        state.release()
        let firstFound = state.start()
        let first = try #require(firstFound)
        let secondFound = state.start()
        let second = try #require(secondFound)
        state.finish(second)
        state.withdraw(partition)
        let commitFound = state.commit(partition)
        let commit = try #require(commitFound)
        let metadata = try #require(CommitMetadata(commit.metadata))
        var next = CommitTracker(committed: commit.offset.rawValue, metadata: metadata.tracker)
        #expect((0..<4 as Range<Int64>).map { next.read($0) } == [.doubtful, .done, .new, .new])
        #expect(first.offset == 0)
    }

    @Test("results of an assignment that is over change nothing")
    func generations() throws {
        var state = state()
        offer(&state, 0)
        _ = state.declare(now: 0)
        state.release()
        let itemFound = state.start()
        let item = try #require(itemFound)
        state.drop(partition)
        state.assign(partition, lane: 0, tracker: CommitTracker(start: 0))
        offer(&state, 0, id: "other")
        state.free(item)
        state.finish(item)
        #expect(state.commit(partition)?.offset == 0)
    }

    @Test("a full lane is paused, and resumed when it has room")
    func flow() throws {
        var state = state(slots: 100)
        for offset in 0..<100 as Range<Int64> { offer(&state, offset) }
        #expect(state.flowControl().pause == [partition])
        #expect(state.flowControl().pause == [])
        for _ in 0..<2 {
            _ = state.declare(now: 0)
            state.release()
            while let item = state.start() {
                state.free(item)
                state.finish(item)
            }
        }
        #expect(state.flowControl().resume == [partition])
    }
}
