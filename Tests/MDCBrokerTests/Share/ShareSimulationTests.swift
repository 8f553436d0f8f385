// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCBroker

/// Many members against one share partition, by seed, with locks that end, a log that is cut, and restarts from what was
/// stored; after each step the window is held against a model that keeps every record by itself.
struct ShareSimulationTests {
    /// One record as the model knows it.
    private struct Record {
        enum State: Equatable {
            case available, held(by: String, until: Int64), accepted, archived
        }
        var state = State.available
        var count: Int16 = 0
        /// What a restart brings back.
        var storedCount: Int16 = 0
        var isDeliverable: Bool
    }

    private struct World {
        var random: SplitMix64
        var window = SharePartitionWindow(start: 0)
        var model: [Record] = []
        var log: [SharePartitionWindow.LogBatch] = []
        var logStart: Int64 = 0
        var now: Int64 = 0
        var shard = ShareStateShard(updatesPerSnapshot: 7)
        var records: [CoordinatorRecord] = []
        let key = SharePartitionKey("g", TopicID(high: 1, low: 2), 0)
        let limits = SharePartitionWindow.Limits(lockDuration: 100, deliveryCountLimit: 3, maxRecordLocks: 60)
        let members = ["a", "b", "c"]
        var acquisitions = 0
        var restarts = 0

        init(seed: UInt64) {
            random = SplitMix64(seed: seed)
            take(shard.step(.initialize(stateEpoch: 0, startOffset: -1), of: key, now: 0))
            store(SharePartitionWindow.Change(movedStart: true))
        }

        mutating func roll(_ range: Range<Int>) -> Int { Int.random(in: range, using: &random) }

        mutating func step() {
            switch roll(0..<100) {
            case 0..<15: produce()
            case 15..<45: fetch()
            case 45..<75: acknowledge()
            case 75..<88: pass(Int64(roll(1..<60)))
            case 88..<93: leave()
            case 93..<96: cut()
            default: restart()
            }
            check()
        }

        mutating func produce() {
            var next = log.last.map { $0.last + 1 } ?? 0
            // Now and then compaction left a hole.
            if roll(0..<6) == 0 {
                for _ in 0..<3 { model.append(Record(isDeliverable: false)) }
                next += 3
            }
            let size = roll(1..<12)
            let isDeliverable = roll(0..<5) != 0
            log.append(.init(first: next, last: next + Int64(size) - 1, isDeliverable: isDeliverable))
            for _ in 0..<size { model.append(Record(isDeliverable: isDeliverable)) }
        }

        mutating func fetch() {
            let member = members[roll(0..<3)]
            let from = window.nextFetchOffset
            guard window.mayAcquire(limits) else { return }
            let part = log.filter { $0.last >= from }.prefix(roll(1..<4))
            let strict = roll(0..<2) == 0
            let wish = SharePartitionWindow.Wish(
                member: member,
                maxRecords: roll(1..<20),
                isStrict: strict,
                batchSize: roll(1..<9)
            )
            let got = window.acquire(wish, readFrom: from, Array(part), limits, now: now)
            var total = 0
            for piece in got {
                for offset in piece.first...piece.last {
                    let record = model[Int(offset)]
                    #expect(record.isDeliverable && record.state == .available, "\(offset) was handed out twice")
                    #expect(piece.deliveryCount == record.count + 1)
                    model[Int(offset)].state = .held(by: member, until: now + limits.lockDuration)
                    model[Int(offset)].count += 1
                    total += 1
                }
            }
            if strict { #expect(total <= wish.maxRecords) }
            acquisitions += total
        }

        mutating func acknowledge() {
            let member = members[roll(0..<3)]
            let held = model.indices.filter {
                if case .held(let owner, _) = model[$0].state { owner == member } else { false }
            }
            guard let from = held.randomElement(using: &random) else { return }
            var last = from
            while last + 1 < model.count, held.contains(last + 1), roll(0..<5) != 0 { last += 1 }
            // Sometimes for what is not the member's.
            let isForeign = roll(0..<10) == 0
            let speaker = isForeign ? members.first { $0 != member } ?? "" : member
            let types = (from...last).map { _ in Int8(roll(0..<5)) }
            let entry = ShareAcknowledgement(first: Int64(from), last: Int64(last), types: types)
            switch window.acknowledge([entry], by: speaker, limits, now: now) {
            case .failure(let code): #expect(isForeign && code == .invalidRecordState)
            case .success(let change):
                #expect(!isForeign)
                for (offset, type) in zip(from...last, types) { settle(offset, type) }
                store(change)
            }
        }

        mutating func settle(_ offset: Int, _ type: Int8) {
            switch type {
            case 1: model[offset].state = .accepted
            case 2 where model[offset].count < limits.deliveryCountLimit:
                model[offset].state = .available
                model[offset].storedCount = model[offset].count
            case 4:
                if case .held(let owner, _) = model[offset].state {
                    model[offset].state = .held(by: owner, until: now + limits.lockDuration)
                }
            default: model[offset].state = .archived
            }
        }

        mutating func pass(_ time: Int64) {
            now += time
            guard window.earliestDeadline <= now else { return }
            let change = window.expireLocks(limits, now: now)
            for offset in model.indices {
                if case .held(_, let until) = model[offset].state, until <= now { settle(offset, 2) }
            }
            store(change)
        }

        mutating func leave() {
            let member = members[roll(0..<3)]
            let isFarewell = roll(0..<2) == 0
            let change = window.release(by: member, wasDelivered: !isFarewell, limits)
            for offset in model.indices {
                guard case .held(let owner, _) = model[offset].state, owner == member else { continue }
                if isFarewell {
                    model[offset].count -= 1
                    model[offset].state = .available
                    model[offset].storedCount = model[offset].count
                } else {
                    settle(offset, 2)
                }
            }
            store(change)
        }

        /// Retention takes the oldest batches.
        mutating func cut() {
            guard let first = log.first, log.count > 3 else { return }
            log.removeFirst()
            logStart = first.last + 1
            let change = window.moveStart(to: logStart)
            for offset in 0..<Int(logStart) where model[offset].state != .accepted { model[offset].state = .archived }
            if change.movedStart { store(change) }
        }

        mutating func store(_ change: SharePartitionWindow.Change) {
            let write = ShareStateWrite(
                stateEpoch: 0,
                leaderEpoch: 0,
                startOffset: change.movedStart ? window.start : -1,
                deliveryCompleteCount: Int32(window.doneCount),
                batches: change.batches
            )
            take(shard.step(.write(write), of: key, now: 0))
        }

        mutating func take(_ step: ShareStateShard.Step) {
            #expect(step.answer.code == .none)
            records += step.records
            shard.apply(step, end: Int64(records.count))
        }

        /// The node dies and starts: the window is built from the records.
        mutating func restart() {
            restarts += 1
            var replayed = ShareStateShard(updatesPerSnapshot: 7)
            // What is redundant may have been cut off.
            let from = Int(shard.redundantBefore)
            for (offset, record) in records.enumerated() where offset >= from {
                do { try replayed.replay(record, at: Int64(offset)) } catch { Issue.record("\(error)") }
            }
            replayed.activate()
            #expect(replayed == shard, "the log says something else than memory")
            guard let state = replayed.states[key] else {
                Issue.record("the state is gone")
                return
            }
            window = SharePartitionWindow(start: state.startOffset, batches: state.batches)
            _ = window.moveStart(to: logStart)
            for offset in model.indices {
                if case .held = model[offset].state { model[offset].state = .available }
                if model[offset].state == .available { model[offset].count = model[offset].storedCount }
            }
        }

        func check() {
            var expected = window.start
            for run in window.runs {
                #expect(run.first == expected && run.last >= run.first, "runs must follow one another")
                expected = run.last + 1
                for offset in run.first...run.last { check(offset, run) }
            }
            #expect(window.runs.first.map { !$0.state.isComplete } ?? true)
            for offset in 0..<min(Int(window.start), model.count) where model[offset].isDeliverable {
                let isDone = model[offset].state == .accepted || model[offset].state == .archived
                #expect(isDone, "\(offset) was left behind: \(model[offset].state)")
            }
            for offset in model.indices where offset > window.end && model[offset].isDeliverable {
                #expect(model[offset].state == .available && model[offset].count == 0)
            }
        }

        private func check(_ offset: Int64, _ run: SharePartitionWindow.Run) {
            let record = model[Int(offset)]
            guard record.isDeliverable else {
                #expect(run.state != .acquired)
                return
            }
            switch record.state {
            case .available: #expect(run.state == .available && run.deliveryCount == record.count, "\(offset)")
            case .held(let member, let until):
                #expect(run.state == .acquired && run.member == member && run.lockDeadline == until, "\(offset)")
                #expect(run.deliveryCount == record.count, "\(offset)")
            case .accepted: #expect(run.state == .acknowledged, "\(offset)")
            case .archived: #expect(run.state == .archived, "\(offset)")
            }
        }

        /// Everything that was produced ends as accepted or given up, if somebody goes on.
        mutating func drain() {
            for _ in 0..<2_000 where window.start < Int64(model.count) {
                pass(limits.lockDuration + 1)
                let from = window.nextFetchOffset
                let part = log.filter { $0.last >= from }
                let wish = SharePartitionWindow.Wish(member: "a", maxRecords: 50)
                for piece in window.acquire(wish, readFrom: from, part, limits, now: now) {
                    for offset in piece.first...piece.last { model[Int(offset)].state = .accepted }
                    let entry = ShareAcknowledgement(first: piece.first, last: piece.last, types: [1])
                    if case .success(let change) = window.acknowledge([entry], by: "a", limits, now: now) {
                        store(change)
                    }
                }
            }
            #expect(window.start == Int64(model.count), "something is never finished")
            check()
        }
    }

    @Test("the window is what a record by record model says", arguments: 1...40)
    func random(seed: UInt64) { run(seed: seed) }

    /// One run; it ends early once a planted bug `isFound`.
    func run(seed: UInt64, isFound: () -> Bool = { false }) {
        var world = World(seed: seed)
        for _ in 0..<400 {
            if isFound() { return }
            world.step()
        }
        #expect(world.acquisitions > 100 && world.restarts > 2, "the run did too little to show anything")
        world.drain()
        world.restart()
        world.check()
    }
}
