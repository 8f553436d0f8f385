// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// What became of an event.
enum GroupOutcome: Sendable {
    case response(GroupResponse)
    /// The coordinator cannot answer; the client is told this.
    case failed(ErrorCode)
}

/// Called once with the outcome, from any thread, with no lock held.
typealias GroupCompletion = @Sendable (GroupOutcome) -> Void

/// Drives one ``GroupCoordinatorShard``: one mutex, no thread of its own. A request runs on the event loop that brought it.
///
/// A step's records are appended under the mutex, so that the log has them in the order of the steps. Its answers wait in
/// `waiting` until everything appended so far is committed; later steps already see the new state, but their answers queue
/// up behind. Answers are sent after the mutex is released. Lock order: this mutex, then the partition's.
final class GroupShardRuntime: Sendable {
    private struct Waiting {
        var offset: Offset
        var completion: GroupCompletion
        var response: GroupResponse
    }

    private struct State {
        /// Nil while the shard is being loaded.
        var shard: GroupCoordinatorShard?
        /// Why there is no shard.
        var unavailable = ErrorCode.coordinatorLoadInProgress
        /// Counts the loads: whoever remembers an older one is too late.
        var incarnation: UInt64 = 0
        var nextToken: RequestToken = 1
        var completions: [RequestToken: GroupCompletion] = [:]
        var waiting = Deque<Waiting>()
        var appendedEnd: Offset = 0
        var committedEnd: Offset = 0
        var timerDeadline = Int64.max
        var cancelTimer: (@Sendable () -> Void)?
        var builder = RecordBatchBuilder()
    }

    /// What is left to do once the mutex is released.
    private struct FollowUp {
        var calls: [(GroupCompletion, GroupOutcome)] = []
        /// Where the log ends now, if it grew.
        var appendedEnd: Offset?
        var incarnation: UInt64 = 0
        var mustReload = false
    }

    let partition: Int32
    private let access: any InternalTopicAccess
    private let settings: Mutex<GroupSettings>
    private let logger: Logger
    private let state = Mutex(State())

    init(partition: Int32, access: any InternalTopicAccess, settings: GroupSettings, logger: Logger) {
        self.partition = partition
        self.access = access
        self.settings = Mutex(settings)
        self.logger = logger
    }

    // MARK: Requests

    /// Takes one event; `completion` gets its answer.
    func submit(_ event: GroupEvent, _ completion: @escaping GroupCompletion) {
        let now = access.now()
        let refusal: ErrorCode? = run { state, followUp in
            guard state.shard != nil else { return state.unavailable }
            let token = state.nextToken
            state.nextToken += 1
            state.completions[token] = completion
            if state.shard?.topics.version != access.topicImageVersion { state.shard?.topics = access.topicImage() }
            guard let result = state.shard?.handle(event, token: token, now: now) else { return nil }
            settle(result, &state, &followUp, now)
            return nil
        }
        if let refusal { completion(.failed(refusal)) }
    }

    /// Puts other settings into force.
    func update(_ new: GroupSettings) {
        settings.withLock { $0 = new }
        state.withLock { $0.shard?.settings = new }
    }

    /// Reads the shard's state, for metrics.
    func inspect<Value: Sendable>(_ body: (GroupCoordinatorShard) -> Value) -> Value? {
        state.withLock { state in
            guard let shard = state.shard else { return nil }
            return body(shard)
        }
    }

    /// Runs a step under the mutex and what it leaves to do after it.
    private func run<Value: Sendable>(_ step: (inout State, inout FollowUp) -> Value) -> Value {
        let (value, followUp) = state.withLock { state in
            var followUp = FollowUp()
            let value = step(&state, &followUp)
            followUp.incarnation = state.incarnation
            armTimer(&state)
            return (value, followUp)
        }
        for (completion, outcome) in followUp.calls { completion(outcome) }
        if let end = followUp.appendedEnd { watch(end, followUp.incarnation) }
        if followUp.mustReload { access.runBlocking { self.load() } }
        return value
    }

    /// Appends what a step wants on the log and sorts its answers into those that go now and those that wait.
    private func settle(
        _ result: CoordinatorResult,
        _ state: inout State,
        _ followUp: inout FollowUp,
        _ now: CoordinatorTime
    ) {
        if !result.records.isEmpty || result.batch != .plain {
            do {
                state.appendedEnd = try append(result, &state, now)
                followUp.appendedEnd = state.appendedEnd
                state.shard?.apply(result)
            } catch {
                return refuse(result, error, &state, &followUp)
            }
        }
        for answer in result.answers {
            guard let completion = state.completions.removeValue(forKey: answer.token) else { continue }
            if answer.waitsForCommit && state.committedEnd < state.appendedEnd {
                state.waiting.append(
                    Waiting(offset: state.appendedEnd, completion: completion, response: answer.response)
                )
            } else {
                followUp.calls.append((completion, .response(answer.response)))
            }
        }
    }

    private func append(
        _ result: CoordinatorResult,
        _ state: inout State,
        _ now: CoordinatorTime
    ) throws(CoordinatorStorageError) -> Offset {
        state.builder.settings.isTransactional = false
        state.builder.settings.producerID = .none
        state.builder.settings.producerEpoch = -1
        switch result.batch {
        case .plain: break
        case .transactional(let producer):
            state.builder.settings.isTransactional = true
            state.builder.settings.producerID = ProducerID(producer.id)
            state.builder.settings.producerEpoch = producer.epoch
        case .marker(let marker):
            return try access.append(marker.batch(at: now.wall), to: .consumerOffsets, partition: partition)
        }
        state.builder.reset()
        for record in result.records { state.builder.append(key: record.key, value: record.value, timestamp: now.wall) }
        let batch: ByteBuffer
        do {
            batch = try state.builder.build()
        } catch {
            throw CoordinatorStorageError(code: .unknownServerError, description: "\(error)")
        }
        return try access.append(batch, to: .consumerOffsets, partition: partition)
    }

    /// The log took nothing: what the step decided did not happen.
    private func refuse(
        _ result: CoordinatorResult,
        _ error: CoordinatorStorageError,
        _ state: inout State,
        _ followUp: inout FollowUp
    ) {
        logger.warning(
            "group coordinator cannot append",
            metadata: ["partition": "\(partition)", "error": "\(error)"]
        )
        let code = Self.clientCode(error.code)
        for answer in result.answers {
            guard let completion = state.completions.removeValue(forKey: answer.token) else { continue }
            followUp.calls.append((completion, .failed(code)))
        }
        if result.changesGroups { unload(code, &state, &followUp) }
    }

    /// What a client is told when the log refuses: something that makes it come back, or go and ask who coordinates.
    private static func clientCode(_ code: ErrorCode) -> ErrorCode {
        switch code {
        case .notLeaderOrFollower, .kafkaStorageError, .fencedLeaderEpoch: .notCoordinator
        case .messageTooLarge, .recordListTooLarge, .invalidFetchSize: .unknownServerError
        case .unknownServerError: .unknownServerError
        case .invalidProducerEpoch, .invalidTxnState, .transactionCoordinatorFenced: code
        default: .coordinatorNotAvailable
        }
    }

    /// Throws the shard away, answers everyone who waits, and has it loaded anew.
    private func unload(_ code: ErrorCode, _ state: inout State, _ followUp: inout FollowUp) {
        state.shard = nil
        state.unavailable = .coordinatorLoadInProgress
        state.incarnation += 1
        for completion in state.completions.values { followUp.calls.append((completion, .failed(code))) }
        state.completions = [:]
        // Their records are on the log, but whether they stay there is no longer known here.
        for waiting in state.waiting { followUp.calls.append((waiting.completion, .failed(.notCoordinator))) }
        state.waiting = []
        followUp.appendedEnd = nil
        followUp.mustReload = true
    }

    // MARK: Commit

    private func watch(_ end: Offset, _ incarnation: UInt64) {
        access.whenCommitted(upTo: end, of: .consumerOffsets, partition: partition) { result in
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
                    followUp.calls.append((first.completion, .response(first.response)))
                }
            case .failure(let error):
                logger.warning(
                    "group coordinator lost an append",
                    metadata: ["partition": "\(partition)", "error": "\(error)"]
                )
                unload(.notCoordinator, &state, &followUp)
            }
        }
    }

    // MARK: Time

    private func armTimer(_ state: inout State) {
        guard let deadline = state.shard?.nextDeadline, deadline < state.timerDeadline else { return }
        state.cancelTimer?()
        state.timerDeadline = deadline
        let delay = max(deadline - access.now().monotonic, 1)
        let incarnation = state.incarnation
        state.cancelTimer = access.schedule(after: delay) { [weak self] in self?.tick(incarnation) }
    }

    private func tick(_ incarnation: UInt64) {
        let now = access.now()
        run { state, followUp in
            guard state.incarnation == incarnation else { return }
            state.timerDeadline = .max
            state.cancelTimer = nil
            if state.shard?.topics.version != access.topicImageVersion { state.shard?.topics = access.topicImage() }
            guard let result = state.shard?.tick(now) else { return }
            settle(result, &state, &followUp, now)
        }
    }

    // MARK: Loading

    /// Builds the shard from its partition. Blocks. Until it is done requests are told COORDINATOR_LOAD_IN_PROGRESS.
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
                var shard = loaded
                shard.activate(now: access.now())
                state.shard = shard
                state.appendedEnd = end
                state.committedEnd = 0
                state.cancelTimer?()
                state.timerDeadline = .max
                followUp.appendedEnd = end
            }
        } catch {
            logger.error(
                "group coordinator cannot load; its groups are unavailable until it can",
                metadata: ["partition": "\(partition)", "error": "\(error)"]
            )
            _ = access.schedule(after: 1_000) { [access, self] in access.runBlocking { self.load() } }
        }
    }

    private func readShard() throws -> (GroupCoordinatorShard, Offset) {
        let now = access.now()
        var shard = GroupCoordinatorShard(
            settings: settings.withLock { $0 },
            seed: .random(in: .min ... .max),
            now: now,
            topics: access.topicImage()
        )
        let end = try access.endOffset(of: .consumerOffsets, partition: partition)
        var offset: Offset? = 0
        var records = 0
        while let from = offset, from < end {
            let part = try access.read(.consumerOffsets, partition: partition, from: from)
            var iterator = RecordBatchIterator(part.batches)
            while let batch = try iterator.next() {
                let reader = try batch.reader()
                let producer = reader.header.attributes.isTransactional ? reader.header.producerID.rawValue : nil
                for record in try reader.records() {
                    records += 1
                    if let producer, reader.header.attributes.isControl {
                        let marker = try ControlRecord(key: record.key, value: record.value)
                        shard.replayEnd(ofTransactionOf: producer, isCommit: marker.kind == .commit)
                        continue
                    }
                    guard let key = record.key else { continue }
                    replay(CoordinatorRecord(key: key, value: record.value), record.offset, producer, &shard, now)
                }
            }
            offset = part.nextOffset
        }
        logger.debug(
            "group coordinator loaded",
            metadata: ["partition": "\(partition)", "records": "\(records)"]
        )
        return (shard, end)
    }

    /// A record that cannot be read must not take all groups of the partition with it; it is reported and left out.
    private func replay(
        _ record: CoordinatorRecord,
        _ offset: Offset,
        _ producer: Int64?,
        _ shard: inout GroupCoordinatorShard,
        _ now: CoordinatorTime
    ) {
        do {
            try shard.replay(record, producer: producer, now: now)
        } catch {
            logger.error(
                "a record of __consumer_offsets cannot be read and is left out",
                metadata: ["partition": "\(partition)", "offset": "\(offset)", "error": "\(error)"]
            )
        }
    }

    /// Gives the shard up: everyone who waits is told NOT_COORDINATOR.
    func stop() {
        run { state, followUp in
            unload(.notCoordinator, &state, &followUp)
            state.unavailable = .notCoordinator
            state.cancelTimer?()
            followUp.mustReload = false
        }
    }
}
