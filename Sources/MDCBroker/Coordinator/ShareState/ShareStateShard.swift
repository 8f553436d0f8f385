// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// What is asked of the state of one share partition.
enum ShareStateEvent: Equatable, Sendable {
    /// Begins a state, or begins it anew.
    case initialize(stateEpoch: Int32, startOffset: Int64)
    /// Begins a state anew with the next epoch: an administrator moved the group.
    case restart(startOffset: Int64)
    case read(leaderEpoch: Int32)
    case write(ShareStateWrite)
    case delete
    case summary(leaderEpoch: Int32)
}

/// A change of a state by the leader of the partition.
struct ShareStateWrite: Equatable, Sendable {
    var stateEpoch: Int32
    var leaderEpoch: Int32
    /// −1 where it stays.
    var startOffset: Int64
    var deliveryCompleteCount: Int32
    var batches: [ShareStateBatch]
}

/// What comes back.
struct ShareStateAnswer: Equatable, Sendable {
    var code = ErrorCode.none
    var message: String?
    /// What was read.
    var state = ShareState.absent

    static func refusal(_ code: ErrorCode, _ message: String) -> ShareStateAnswer {
        ShareStateAnswer(code: code, message: message)
    }
}

/// The share partitions whose states live in one partition of `__share_group_state`, as a pure state machine: events go
/// in; records and answers come out. What a step changes is applied only once its records are on the log.
///
/// A state is on the log as one *snapshot* and the *updates* after it. All updates of a share partition have one key, so
/// the topic is not compacted by key: everything before the oldest snapshot that still counts is cut off instead
/// (``redundantBefore``). So that one share partition which nobody writes to does not hold the whole log, its snapshot is
/// repeated once it lies far behind.
struct ShareStateShard: Equatable, Sendable {
    /// What a step wants on the log, and what then holds.
    struct Step: Equatable, Sendable {
        var answer: ShareStateAnswer
        var records: [CoordinatorRecord] = []
        /// By record: the share partition and its state after it; nil where it is gone.
        var changes: [Change] = []
        /// The request that `answer` is for; nil where nobody asked.
        var token: RequestToken?
    }

    struct Change: Equatable, Sendable {
        var key: SharePartitionKey
        var state: ShareState?
        var isSnapshot: Bool
    }

    private struct Entry: Equatable, Sendable {
        var state: ShareState
        /// Where its snapshot is on the log.
        var snapshotOffset: Int64
        var updates = 0
    }

    private var entries: [SharePartitionKey: Entry] = [:]
    /// Updates between two snapshots.
    let updatesPerSnapshot: Int
    /// One past the last record.
    private(set) var endOffset: Int64 = 0
    /// The oldest snapshot; nil while loading and where there is none.
    private var oldest: (key: SharePartitionKey, offset: Int64)?

    init(updatesPerSnapshot: Int) { self.updatesPerSnapshot = updatesPerSnapshot }

    static func == (lhs: ShareStateShard, rhs: ShareStateShard) -> Bool { lhs.states == rhs.states }

    /// All states, for tests and listings.
    var states: [SharePartitionKey: ShareState] { entries.mapValues(\.state) }
    var count: Int { entries.count }

    /// Everything before this offset is said again later.
    var redundantBefore: Int64 { oldest?.offset ?? endOffset }

    // MARK: Steps

    func step(_ event: ShareStateEvent, of key: SharePartitionKey, now: Timestamp) -> Step {
        let state = entries[key]?.state
        switch event {
        case .initialize(let stateEpoch, let startOffset):
            if let state, state.stateEpoch > stateEpoch { return Self.fencedState(state.stateEpoch, stateEpoch) }
            // Asked for twice: what a leader has written since stays.
            if let state, state.stateEpoch == stateEpoch, startOffset < 0 {
                return Step(answer: ShareStateAnswer(state: state))
            }
            return begin(key, state, stateEpoch, startOffset, now)
        case .restart(let startOffset):
            return begin(key, state, (state?.stateEpoch ?? 0) + 1, startOffset, now)
        case .read(let leaderEpoch):
            guard let state else { return Step(answer: ShareStateAnswer()) }
            if state.leaderEpoch > leaderEpoch { return Self.fencedLeader(state.leaderEpoch, leaderEpoch) }
            guard leaderEpoch > state.leaderEpoch else { return Step(answer: ShareStateAnswer(state: state)) }
            // From now on earlier leaders are refused.
            let note = ShareStateWrite(
                stateEpoch: state.stateEpoch,
                leaderEpoch: leaderEpoch,
                startOffset: -1,
                deliveryCompleteCount: state.deliveryCompleteCount,
                batches: []
            )
            return write(note, key, state, now)
        case .summary(let leaderEpoch):
            if let state, leaderEpoch >= 0, state.leaderEpoch > leaderEpoch {
                return Self.fencedLeader(state.leaderEpoch, leaderEpoch)
            }
            return Step(answer: ShareStateAnswer(state: state ?? .absent))
        case .write(let write):
            if let state {
                if state.leaderEpoch > write.leaderEpoch {
                    return Self.fencedLeader(state.leaderEpoch, write.leaderEpoch)
                }
                if state.stateEpoch > write.stateEpoch {
                    return Self.fencedState(state.stateEpoch, write.stateEpoch)
                }
            }
            return self.write(write, key, state, now)
        case .delete:
            guard state != nil else { return Step(answer: ShareStateAnswer()) }
            return remove(key)
        }
    }

    private static func fencedState(_ known: Int32, _ given: Int32) -> Step {
        Step(answer: .refusal(.fencedStateEpoch, "the state epoch is \(known), not \(given)"))
    }

    private static func fencedLeader(_ known: Int32, _ given: Int32) -> Step {
        Step(answer: .refusal(.fencedLeaderEpoch, "the leader epoch is \(known), not \(given)"))
    }

    private func begin(
        _ key: SharePartitionKey,
        _ state: ShareState?,
        _ stateEpoch: Int32,
        _ startOffset: Int64,
        _ now: Timestamp
    ) -> Step {
        var next = ShareState(stateEpoch: stateEpoch, leaderEpoch: state?.leaderEpoch ?? -1, startOffset: startOffset)
        next.snapshotEpoch = state.map { $0.snapshotEpoch &+ 1 } ?? 0
        next.deliveryCompleteCount = 0
        next.createTimestamp = now.rawValue
        next.writeTimestamp = now.rawValue
        return snapshot(key, next)
    }

    private func snapshot(_ key: SharePartitionKey, _ state: ShareState) -> Step {
        Step(
            answer: ShareStateAnswer(state: state),
            records: [.shareSnapshot(key, state)],
            changes: [Change(key: key, state: state, isSnapshot: true)]
        )
    }

    private func write(
        _ write: ShareStateWrite,
        _ key: SharePartitionKey,
        _ state: ShareState?,
        _ now: Timestamp
    ) -> Step {
        var next = state ?? ShareState(createTimestamp: now.rawValue)
        next.stateEpoch = write.stateEpoch
        next.leaderEpoch = write.leaderEpoch
        next.deliveryCompleteCount = write.deliveryCompleteCount
        next.merge(write.batches, startOffset: write.startOffset)
        let stays = state?.stateEpoch == write.stateEpoch
        guard let entry = entries[key], stays, entry.updates < updatesPerSnapshot else {
            if PlantedCoordinatorBug.snapshotForgetsTheWrite.isPlanted, let state { next = state }
            next.snapshotEpoch = state.map { $0.snapshotEpoch &+ 1 } ?? 0
            next.writeTimestamp = now.rawValue
            return snapshot(key, next)
        }
        let record = CoordinatorRecord.shareUpdate(
            key,
            ShareUpdateValue(
                snapshotEpoch: next.snapshotEpoch,
                leaderEpoch: next.leaderEpoch,
                startOffset: write.startOffset,
                deliveryCompleteCount: write.deliveryCompleteCount,
                stateBatches: write.batches.map {
                    .init(
                        firstOffset: $0.first,
                        lastOffset: $0.last,
                        deliveryState: $0.state.rawValue,
                        deliveryCount: $0.deliveryCount
                    )
                }
            )
        )
        var step = Step(
            answer: ShareStateAnswer(state: next),
            records: [record],
            changes: [Change(key: key, state: next, isSnapshot: false)]
        )
        repeatOldest(&step, besides: key, now)
        return step
    }

    /// Says the oldest snapshot again if it lies so far behind that most of the log is there for its sake.
    private func repeatOldest(_ step: inout Step, besides key: SharePartitionKey, _ now: Timestamp) {
        guard let oldest, oldest.key != key, let entry = entries[oldest.key] else { return }
        let allowed = Int64(max(4 * updatesPerSnapshot, 64) + 8 * entries.count)
        guard endOffset - entry.snapshotOffset > allowed else { return }
        var state = entry.state
        state.snapshotEpoch &+= 1
        state.writeTimestamp = now.rawValue
        step.records.append(.shareSnapshot(oldest.key, state))
        step.changes.append(Change(key: oldest.key, state: state, isSnapshot: true))
    }

    private func remove(_ key: SharePartitionKey) -> Step {
        Step(
            answer: ShareStateAnswer(),
            records: [.shareSnapshot(key, nil), .shareUpdate(key, nil)],
            changes: [
                Change(key: key, state: nil, isSnapshot: true), Change(key: key, state: nil, isSnapshot: false),
            ]
        )
    }

    /// Removes the states of topics that are gone.
    func removeTopics(where isGone: (TopicID) -> Bool) -> Step {
        var step = Step(answer: ShareStateAnswer())
        for key in entries.keys where isGone(key.topicID) {
            let part = remove(key)
            step.records += part.records
            step.changes += part.changes
        }
        return step
    }

    /// Takes over what a step changed. `end` is the offset after its last record.
    mutating func apply(_ step: Step, end: Int64) {
        var offset = end - Int64(step.records.count)
        for change in step.changes {
            apply(change, at: offset)
            offset += 1
        }
        endOffset = end
        findOldest()
    }

    private mutating func apply(_ change: Change, at offset: Int64) {
        guard let state = change.state else {
            entries[change.key] = nil
            if oldest?.key == change.key { oldest = nil }
            return
        }
        if change.isSnapshot {
            entries[change.key] = Entry(state: state, snapshotOffset: offset)
            if oldest?.key == change.key { oldest = nil }
        } else {
            entries[change.key]?.state = state
            entries[change.key]?.updates += 1
        }
    }

    private mutating func findOldest() {
        guard oldest == nil, let first = entries.min(by: { $0.value.snapshotOffset < $1.value.snapshotOffset }) else {
            return
        }
        oldest = (first.key, first.value.snapshotOffset)
    }

    // MARK: Replay

    /// Applies one record of the log, in order.
    mutating func replay(_ record: CoordinatorRecord, at offset: Int64) throws(ProtocolError) {
        endOffset = offset + 1
        switch try ShareStateRecord(record) {
        case .snapshot(let key, let value):
            guard let value else {
                entries[key] = nil
                return
            }
            var state = ShareState(
                snapshotEpoch: value.snapshotEpoch,
                stateEpoch: value.stateEpoch,
                leaderEpoch: value.leaderEpoch,
                startOffset: value.startOffset,
                deliveryCompleteCount: value.deliveryCompleteCount,
                createTimestamp: value.createTimestamp,
                writeTimestamp: value.writeTimestamp
            )
            state.merge(
                value.stateBatches.map {
                    Self.batch($0.firstOffset, $0.lastOffset, $0.deliveryState, $0.deliveryCount)
                },
                startOffset: value.startOffset
            )
            entries[key] = Entry(state: state, snapshotOffset: offset)
        case .update(let key, let value):
            // An update whose snapshot was cut off belongs to a state that was removed since.
            guard let value, var entry = entries[key], value.snapshotEpoch == entry.state.snapshotEpoch else { return }
            entry.state.leaderEpoch = value.leaderEpoch
            entry.state.deliveryCompleteCount = value.deliveryCompleteCount
            entry.state.merge(
                value.stateBatches.map {
                    Self.batch($0.firstOffset, $0.lastOffset, $0.deliveryState, $0.deliveryCount)
                },
                startOffset: value.startOffset
            )
            entry.updates += 1
            entries[key] = entry
        case .other: break
        }
        oldest = nil
    }

    /// Ends the loading.
    mutating func activate() { findOldest() }

    private static func batch(_ first: Int64, _ last: Int64, _ state: Int8, _ count: Int16) -> ShareStateBatch {
        ShareStateBatch(
            first: first,
            last: last,
            state: ShareDeliveryState(rawValue: state) ?? .available,
            deliveryCount: count
        )
    }
}
