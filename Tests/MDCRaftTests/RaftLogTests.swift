// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import MDCRaft

@Suite struct RaftLogTests {
    /// The log, whatever part of it storage has, behaves as one array does.
    @Test func aLogIsAnArray() {
        for seed in 1...20 {
            var random = RaftRandom(seed: UInt64(seed))
            var log = RaftLog(storage: MemoryStorage(membership: RaftMembership()), committed: 0, applied: 0)
            var model: [RaftEntry] = []
            var firstKept: RaftIndex = 1
            for step in 0..<150 {
                switch random.below(6) {
                case 0, 1:
                    let start = Int(log.committed) + random.below(model.count - Int(log.committed) + 1)
                    let epoch = max(model.last?.epoch ?? 1, RaftEpoch(1 + step / 20))
                    let new = (0..<1 + random.below(4)).map { offset in
                        RaftEntry(
                            index: RaftIndex(start + offset + 1),
                            epoch: epoch,
                            payload: .data([UInt8](repeating: UInt8(step), count: random.below(9)))
                        )
                    }
                    model.removeSubrange(start...)
                    model += new
                    log.append(new)
                case 2:
                    // What is written may be replaced before the disk is done.
                    let written = log.unstable
                    guard let last = written.last else { continue }
                    log.storage.append(written)
                    if random.below(3) == 0, last.index > log.committed {
                        let other = RaftEntry(index: last.index, epoch: last.epoch + 1, payload: .leaderChange)
                        log.append([other])
                        model[model.count - 1] = other
                    }
                    log.persisted(through: last)
                case 3: log.commit(to: log.committed + RaftIndex(random.below(model.count - Int(log.committed) + 1)))
                case 4:
                    let next = log.nextToApply(maxBytes: 40)
                    #expect(next == Array(model[Int(log.applied)..<Int(log.applied) + next.count]))
                    if let last = next.last { log.applied(through: last.index) }
                default:
                    guard log.applied > log.storage.snapshot.index else { continue }
                    let snapshot = RaftSnapshotMetadata(index: log.applied, epoch: model[Int(log.applied) - 1].epoch)
                    log.storage.makeSnapshot(snapshot, bytes: [], keeping: 1)
                    firstKept = log.firstIndex
                }
                #expect(log.lastIndex == RaftIndex(model.count))
                #expect(log.stableIndex <= log.lastIndex)
                guard firstKept <= log.lastIndex else { continue }
                let from = firstKept + RaftIndex(random.below(Int(log.lastIndex - firstKept) + 1))
                let entries = log.entries(in: from..<log.lastIndex + 1, maxBytes: .max)
                #expect(entries == Array(model[Int(from) - 1..<model.count]))
                #expect(log.epoch(at: from) == model[Int(from) - 1].epoch)
            }
        }
    }

    /// Where two logs may still match is found an epoch at a time.
    @Test func aHintSkipsWholeEpochs() {
        var log = RaftLog(storage: MemoryStorage(membership: RaftMembership()), committed: 0, applied: 0)
        let epochs: [RaftEpoch] = [1, 1, 2, 5, 5, 5, 5]
        log.append(
            epochs.enumerated().map {
                RaftEntry(index: RaftIndex($0.offset + 1), epoch: $0.element, payload: .leaderChange)
            }
        )
        #expect(log.lastPossibleMatch(upTo: 6, epoch: 4) == (3, 2))
        #expect(log.lastPossibleMatch(upTo: 9, epoch: 5) == (7, 5))
        #expect(log.lastPossibleMatch(upTo: 3, epoch: 1) == (2, 1))
        #expect(log.lastPossibleMatch(upTo: 2, epoch: 0) == (0, 0))
    }
}
