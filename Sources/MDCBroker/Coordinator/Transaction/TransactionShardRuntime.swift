// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// What became of an event.
enum TransactionOutcome: Sendable {
    case response(TransactionResponse)
    /// The coordinator cannot answer; the client is told this.
    case failed(ErrorCode)
}

/// Called once with the outcome, from any thread, with no lock held.
typealias TransactionCompletion = @Sendable (TransactionOutcome) -> Void

/// Drives one ``TransactionShard``, as ``GroupShardRuntime`` does for groups: one mutex, records appended under it in the
/// order of the steps, answers and orders released when everything appended so far is committed.
final class TransactionShardRuntime: Sendable {
    private enum Waiting {
        case answer(TransactionCompletion, TransactionResponse)
        case order(MarkerOrder)
    }

    private struct State {
        /// Nil while the shard is being loaded.
        var shard: TransactionShard?
        /// Why there is no shard.
        var unavailable = ErrorCode.coordinatorLoadInProgress
        /// Counts the loads: whoever remembers an older one is too late.
        var incarnation: UInt64 = 0
        var nextToken: RequestToken = 1
        var completions: [RequestToken: TransactionCompletion] = [:]
        var waiting = Deque<(offset: Offset, what: Waiting)>()
        var appendedEnd: Offset = 0
        var committedEnd: Offset = 0
        var timerDeadline = Int64.max
        var cancelTimer: (@Sendable () -> Void)?
        var builder = RecordBatchBuilder()
    }

    /// What is left to do once the mutex is released.
    private struct FollowUp {
        var calls: [(TransactionCompletion, TransactionOutcome)] = []
        var orders: [MarkerOrder] = []
        /// Where the log ends now, if it grew.
        var appendedEnd: Offset?
        var incarnation: UInt64 = 0
        var mustReload = false
    }

    let partition: Int32
    private let access: any InternalTopicAccess
    private let node: any TransactionNode
    private let settings: TransactionSettings
    private let logger: Logger
    private let state = Mutex(State())

    init(
        partition: Int32,
        access: any InternalTopicAccess,
        node: any TransactionNode,
        settings: TransactionSettings,
        logger: Logger
    ) {
        self.partition = partition
        self.access = access
        self.node = node
        self.settings = settings
        self.logger = logger
    }

    // MARK: Requests

    /// Takes one event; `completion` gets its answer.
    func submit(_ event: TransactionEvent, _ completion: @escaping TransactionCompletion) {
        let now = access.now()
        let refusal: ErrorCode? = run { state, followUp in
            guard state.shard != nil else { return state.unavailable }
            let token = state.nextToken
            state.nextToken += 1
            state.completions[token] = completion
            guard let result = state.shard?.handle(event, token: token, now: now) else { return nil }
            settle(result, &state, &followUp, now)
            return nil
        }
        if let refusal { completion(.failed(refusal)) }
    }

    /// Reads the shard's state, for metrics.
    func inspect<Value: Sendable>(_ body: (TransactionShard) -> Value) -> Value? {
        state.withLock { state in state.shard.map(body) }
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
        for order in followUp.orders {
            access.runBlocking { self.carryOut(order, order.partitions, followUp.incarnation) }
        }
        if let end = followUp.appendedEnd { watch(end, followUp.incarnation) }
        if followUp.mustReload { access.runBlocking { self.load() } }
        return value
    }

    private func settle(
        _ result: TransactionResult,
        _ state: inout State,
        _ followUp: inout FollowUp,
        _ now: CoordinatorTime
    ) {
        if !result.records.isEmpty {
            do {
                state.appendedEnd = try append(result.records, &state, now)
                followUp.appendedEnd = state.appendedEnd
            } catch {
                logger.warning(
                    "transaction coordinator cannot append",
                    metadata: ["partition": "\(partition)", "error": "\(error)"]
                )
                return unload(Self.clientCode(error.code), &state, &followUp)
            }
        }
        for answer in result.answers {
            guard let completion = state.completions.removeValue(forKey: answer.token) else { continue }
            release(.answer(completion, answer.response), &state, &followUp)
        }
        for order in result.markers { release(.order(order), &state, &followUp) }
    }

    /// Sends an answer or carries out an order, now or when what was appended before is committed.
    private func release(_ what: Waiting, _ state: inout State, _ followUp: inout FollowUp) {
        if state.committedEnd < state.appendedEnd {
            state.waiting.append((state.appendedEnd, what))
            return
        }
        switch what {
        case .answer(let completion, let response): followUp.calls.append((completion, .response(response)))
        case .order(let order): followUp.orders.append(order)
        }
    }

    private func append(
        _ records: [CoordinatorRecord],
        _ state: inout State,
        _ now: CoordinatorTime
    ) throws(CoordinatorStorageError) -> Offset {
        state.builder.reset()
        for record in records { state.builder.append(key: record.key, value: record.value, timestamp: now.wall) }
        let batch: ByteBuffer
        do {
            batch = try state.builder.build()
        } catch {
            throw CoordinatorStorageError(code: .unknownServerError, description: "\(error)")
        }
        return try access.append(batch, to: .transactionState, partition: partition)
    }

    /// What a client is told when the log refuses: something that makes it come back, or go and ask who coordinates.
    private static func clientCode(_ code: ErrorCode) -> ErrorCode {
        switch code {
        case .notLeaderOrFollower, .kafkaStorageError, .fencedLeaderEpoch: .notCoordinator
        case .messageTooLarge, .recordListTooLarge, .unknownServerError: .unknownServerError
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
        for case (_, .answer(let completion, _)) in state.waiting {
            followUp.calls.append((completion, .failed(.notCoordinator)))
        }
        state.waiting = []
        followUp.appendedEnd = nil
        followUp.mustReload = true
    }

    // MARK: Markers

    /// Writes the markers of an order; tries again those that cannot be written now.
    private func carryOut(_ order: MarkerOrder, _ partitions: [TopicPartition], _ incarnation: UInt64) {
        let marker = TransactionEndMarker(
            producer: order.producer,
            isCommit: order.isCommit,
            bumpsEpoch: order.bumpsEpoch,
            coordinatorEpoch: node.coordinatorEpoch(partition: partition)
        )
        let tally = MarkerTally(missing: partitions.count) { [self] left in
            submit(.marked(order, isDone: left.isEmpty)) { _ in }
            guard !left.isEmpty else { return }
            logger.warning(
                "transaction markers cannot be written yet",
                metadata: ["transactional.id": "\(order.transactionalID)", "partitions": "\(left.map(\.description))"]
            )
            _ = access.schedule(after: 500) { [weak self] in
                guard let self, self.state.withLock({ $0.incarnation }) == incarnation else { return }
                self.access.runBlocking { self.carryOut(order, left, incarnation) }
            }
        }
        for partition in partitions {
            node.write(marker, to: partition) { code in
                switch code {
                case .none, .unknownTopicOrPartition, .invalidProducerEpoch, .transactionCoordinatorFenced:
                    // Written; or the topic is gone; or something newer has been written there already.
                    tally.reached(nil)
                default: tally.reached(partition)
                }
            }
        }
        if partitions.isEmpty { submit(.marked(order, isDone: true)) { _ in } }
    }

    // MARK: Commit

    private func watch(_ end: Offset, _ incarnation: UInt64) {
        access.whenCommitted(upTo: end, of: .transactionState, partition: partition) { result in
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
                    switch first.what {
                    case .answer(let completion, let response):
                        followUp.calls.append((completion, .response(response)))
                    case .order(let order): followUp.orders.append(order)
                    }
                }
            case .failure(let error):
                logger.warning(
                    "transaction coordinator lost an append",
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
                let now = access.now()
                var shard = loaded
                let result = shard.activate(now: now)
                state.shard = shard
                state.appendedEnd = end
                state.committedEnd = 0
                state.cancelTimer?()
                state.timerDeadline = .max
                followUp.appendedEnd = end
                settle(result, &state, &followUp, now)
            }
        } catch {
            logger.error(
                "transaction coordinator cannot load; its transactions are unavailable until it can",
                metadata: ["partition": "\(partition)", "error": "\(error)"]
            )
            _ = access.schedule(after: 1_000) { [access, self] in access.runBlocking { self.load() } }
        }
    }

    private func readShard() throws -> (TransactionShard, Offset) {
        let now = access.now()
        var shard = TransactionShard(settings: settings, now: now)
        let end = try access.endOffset(of: .transactionState, partition: partition)
        var offset: Offset? = 0
        while let from = offset, from < end {
            let part = try access.read(.transactionState, partition: partition, from: from)
            var iterator = RecordBatchIterator(part.batches)
            while let batch = try iterator.next() {
                let reader = try batch.reader()
                if reader.header.attributes.isControl { continue }
                for record in try reader.records() {
                    guard let key = record.key else { continue }
                    replay(CoordinatorRecord(key: key, value: record.value), record.offset, &shard, now)
                }
            }
            offset = part.nextOffset
        }
        return (shard, end)
    }

    /// A record that cannot be read must not take all ids of the partition with it; it is reported and left out.
    private func replay(
        _ record: CoordinatorRecord,
        _ offset: Offset,
        _ shard: inout TransactionShard,
        _ now: CoordinatorTime
    ) {
        do {
            try shard.replay(record, now: now)
        } catch {
            logger.error(
                "a record of __transaction_state cannot be read and is left out",
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

/// Counts the markers of an order that are still under way.
private final class MarkerTally: Sendable {
    private let state: Mutex<(missing: Int, failed: [TopicPartition])>
    private let done: @Sendable ([TopicPartition]) -> Void

    init(missing: Int, _ done: @escaping @Sendable ([TopicPartition]) -> Void) {
        state = Mutex((missing, []))
        self.done = done
    }

    /// One is through; `partition` is where it could not be written.
    func reached(_ partition: TopicPartition?) {
        let failed: [TopicPartition]? = state.withLock { state in
            state.missing -= 1
            if let partition { state.failed.append(partition) }
            return state.missing == 0 ? state.failed : nil
        }
        if let failed { done(failed) }
    }
}
