// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Logging
import MDCModel
import NIOCore
import Synchronization

/// Drives one ``ShareStateShard``: one mutex, no thread of its own, as ``GroupShardRuntime`` does. A step's records are
/// appended under the mutex; its answer waits until they, and all before them, are committed.
final class ShareStateRuntime: Sendable {
    /// Called once, from any thread; the runtime's mutex is not held.
    typealias Completion = @Sendable (ShareStateAnswer) -> Void

    private struct Waiting {
        var offset: Offset
        var answer: ShareStateAnswer
        var completion: Completion
    }

    private struct State {
        /// Nil while it is being loaded.
        var shard: ShareStateShard?
        var unavailable = ErrorCode.coordinatorLoadInProgress
        /// Counts the loads: whoever remembers an older one is too late.
        var incarnation: UInt64 = 0
        var waiting = Deque<Waiting>()
        var appendedEnd: Offset = 0
        var committedEnd: Offset = 0
        var trimmedBefore: Int64 = 0
        var builder = RecordBatchBuilder()
    }

    /// What is left to do once the mutex is released.
    private struct FollowUp: Sendable {
        var calls: [(Completion, ShareStateAnswer)] = []
        var appendedEnd: Offset?
        var incarnation: UInt64 = 0
        var mustReload = false
        /// Everything before this may go.
        var trimBefore: Offset?
    }

    let partition: Int32
    private let access: any InternalTopicAccess
    private let updatesPerSnapshot: Int
    private let logger: Logger
    private let state = Mutex(State())

    init(partition: Int32, access: any InternalTopicAccess, updatesPerSnapshot: Int, logger: Logger) {
        self.partition = partition
        self.access = access
        self.updatesPerSnapshot = updatesPerSnapshot
        self.logger = logger
    }

    // MARK: Requests

    /// What became of an event that was handed in.
    struct Ticket: Sendable {
        /// Why it was refused at once; then its completion is not called.
        var refusal: ShareStateAnswer?
        /// Has to be called, with no lock of the caller's held: what is ready is answered by it, and the rest waits for
        /// the commit only from then on.
        var proceed: @Sendable () -> Void
    }

    /// Takes one event. Unless it is refused at once, it is on the log when this returns, in the order of the calls, and
    /// `completion` gets its answer when it is committed.
    func submit(
        _ event: ShareStateEvent,
        of key: SharePartitionKey,
        _ completion: @escaping Completion
    ) -> Ticket {
        let (refusal, followUp) = hold { (state, followUp) -> ShareStateAnswer? in
            guard let shard = state.shard else {
                return .refusal(state.unavailable, "the share coordinator is not ready; ask again")
            }
            let step = shard.step(event, of: key, now: access.now().wall)
            if step.answer.code != .none { return step.answer }
            if let refusal = append(step, &state, &followUp) { return refusal }
            if state.committedEnd < state.appendedEnd {
                state.waiting.append(
                    Waiting(offset: state.appendedEnd, answer: step.answer, completion: completion)
                )
            } else {
                followUp.calls.append((completion, step.answer))
            }
            return nil
        }
        return Ticket(refusal: refusal) { self.follow(followUp) }
    }

    /// Removes the states of topics that are gone.
    func removeTopics(where isGone: (TopicID) -> Bool) {
        run { state, followUp in
            guard let step = state.shard?.removeTopics(where: isGone), !step.records.isEmpty else { return }
            _ = append(step, &state, &followUp)
        }
    }

    /// Reads the shard, for listings.
    func inspect<Value: Sendable>(_ body: (ShareStateShard) -> Value) -> Value? {
        state.withLock { $0.shard.map(body) }
    }

    /// Runs a step under the mutex; what it leaves to do is returned.
    private func hold<Value: Sendable>(_ step: (inout State, inout FollowUp) -> Value) -> (Value, FollowUp) {
        state.withLock { state in
            var followUp = FollowUp()
            let value = step(&state, &followUp)
            followUp.incarnation = state.incarnation
            return (value, followUp)
        }
    }

    private func run<Value: Sendable>(_ step: (inout State, inout FollowUp) -> Value) -> Value {
        let (value, followUp) = hold(step)
        follow(followUp)
        return value
    }

    private func follow(_ followUp: FollowUp) {
        for (completion, answer) in followUp.calls { completion(answer) }
        if let end = followUp.appendedEnd { watch(end, followUp.incarnation) }
        if let offset = followUp.trimBefore {
            access.runBlocking { [access, partition] in
                access.trim(.shareGroupState, partition: partition, before: offset)
            }
        }
        if followUp.mustReload { access.runBlocking { self.load() } }
    }

    private func append(
        _ step: ShareStateShard.Step,
        _ state: inout State,
        _ followUp: inout FollowUp
    ) -> ShareStateAnswer? {
        guard !step.records.isEmpty else { return nil }
        state.builder.reset()
        let now = access.now().wall
        for record in step.records { state.builder.append(key: record.key, value: record.value, timestamp: now) }
        do {
            let end = try access.append(try state.builder.build(), to: .shareGroupState, partition: partition)
            state.appendedEnd = end
            state.shard?.apply(step, end: end.rawValue)
            followUp.appendedEnd = end
        } catch {
            logger.warning(
                "share coordinator cannot append",
                metadata: ["partition": "\(partition)", "error": "\(error)"]
            )
            return .refusal(.coordinatorNotAvailable, "the state could not be written: \(error)")
        }
        // Cutting the log costs a little: not for every snapshot.
        if let redundant = state.shard?.redundantBefore, redundant - state.trimmedBefore > 10_000 {
            state.trimmedBefore = redundant
            followUp.trimBefore = Offset(redundant)
        }
        return nil
    }

    // MARK: Commit

    private func watch(_ end: Offset, _ incarnation: UInt64) {
        access.whenCommitted(upTo: end, of: .shareGroupState, partition: partition) { result in
            self.committed(end, incarnation, result)
        }
    }

    private func committed(_ end: Offset, _ incarnation: UInt64, _ result: Result<Void, CoordinatorStorageError>) {
        run { state, followUp in
            guard state.incarnation == incarnation else { return }
            switch result {
            case .success:
                state.committedEnd = max(state.committedEnd, end)
                while let first = state.waiting.first, first.offset <= state.committedEnd {
                    state.waiting.removeFirst()
                    followUp.calls.append((first.completion, first.answer))
                }
            case .failure(let error):
                logger.warning(
                    "share coordinator lost an append",
                    metadata: ["partition": "\(partition)", "error": "\(error)"]
                )
                unload(&state, &followUp)
            }
        }
    }

    private func unload(_ state: inout State, _ followUp: inout FollowUp) {
        state.shard = nil
        state.unavailable = .coordinatorLoadInProgress
        state.incarnation += 1
        let answer = ShareStateAnswer.refusal(.notCoordinator, "the state may not have been written; ask again")
        for waiting in state.waiting { followUp.calls.append((waiting.completion, answer)) }
        state.waiting = []
        followUp.appendedEnd = nil
        followUp.mustReload = true
    }

    // MARK: Loading

    /// Builds the shard from its partition. Blocks.
    func load() {
        let incarnation = state.withLock { state in
            state.incarnation += 1
            state.shard = nil
            state.unavailable = .coordinatorLoadInProgress
            return state.incarnation
        }
        do {
            let (loaded, end) = try readShard()
            run { state, followUp in
                guard state.incarnation == incarnation else { return }
                state.shard = loaded
                state.appendedEnd = end
                state.committedEnd = 0
                followUp.appendedEnd = end
            }
        } catch {
            logger.error(
                "share coordinator cannot load; its share partitions are unavailable until it can",
                metadata: ["partition": "\(partition)", "error": "\(error)"]
            )
            _ = access.schedule(after: 1_000) { [access, self] in access.runBlocking { self.load() } }
        }
    }

    private func readShard() throws -> (ShareStateShard, Offset) {
        var shard = ShareStateShard(updatesPerSnapshot: updatesPerSnapshot)
        let end = try access.endOffset(of: .shareGroupState, partition: partition)
        var offset: Offset? = 0
        while let from = offset, from < end {
            let part = try access.read(.shareGroupState, partition: partition, from: from)
            var iterator = RecordBatchIterator(part.batches)
            while let batch = try iterator.next() {
                let reader = try batch.reader()
                if reader.header.attributes.isControl { continue }
                for record in try reader.records() {
                    guard let key = record.key else { continue }
                    replay(CoordinatorRecord(key: key, value: record.value), record.offset, &shard)
                }
            }
            offset = part.nextOffset
        }
        shard.activate()
        return (shard, end)
    }

    private func replay(_ record: CoordinatorRecord, _ offset: Offset, _ shard: inout ShareStateShard) {
        do {
            try shard.replay(record, at: offset.rawValue)
        } catch {
            logger.error(
                "a record of __share_group_state cannot be read and is left out",
                metadata: ["partition": "\(partition)", "offset": "\(offset)", "error": "\(error)"]
            )
        }
    }

    /// Gives the shard up.
    func stop() {
        run { state, followUp in
            unload(&state, &followUp)
            state.unavailable = .notCoordinator
            followUp.mustReload = false
        }
    }
}
