// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Logging
import MDCModel
import NIOCore
import Synchronization

/// What became of an event.
enum ShardOutcome<Response: Sendable>: Sendable {
    case response(Response)
    /// The coordinator cannot answer; the client is told this.
    case failed(ErrorCode)
}

/// Drives one ``CoordinatorShard``: one mutex, no thread of its own. A request runs on the event loop that brought it.
///
/// A step's records are appended under the mutex, so that the log has them in the order of the steps. Its answers and orders
/// wait in `waiting` until everything appended so far is committed; later steps already see the new state, but what they
/// release queues up behind. Answers are sent after the mutex is released. Lock order: this mutex, then the partition's.
final class ShardRuntime<Shard: CoordinatorShard>: Sendable {
    typealias Response = Shard.Step.Response
    typealias Order = Shard.Step.Order
    typealias Outcome = ShardOutcome<Response>
    /// Called once with the outcome, from any thread, with no lock held.
    typealias Completion = @Sendable (Outcome) -> Void

    private enum Release: Sendable {
        case answer(RequestToken, Completion, Response)
        case order(Order)
    }

    private struct State {
        /// Nil while the shard is being loaded.
        var shard: Shard?
        /// Why there is no shard.
        var unavailable = ErrorCode.coordinatorLoadInProgress
        /// Counts the loads: whoever remembers an older one is too late.
        var incarnation: UInt64 = 0
        var nextToken: RequestToken = 1
        var completions: [RequestToken: Completion] = [:]
        var waiting = Deque<(offset: Offset, release: Release)>()
        var appendedEnd: Offset = 0
        var committedEnd: Offset = 0
        var trimmedBefore: Int64 = 0
        var timerDeadline = Int64.max
        var cancelTimer: (@Sendable () -> Void)?
        var builder = RecordBatchBuilder()
    }

    private struct Call: Sendable {
        var token: RequestToken
        var completion: Completion
        var outcome: Outcome
    }

    /// What is left to do once the mutex is released.
    private struct FollowUp: Sendable {
        var calls: [Call] = []
        var orders: [Order] = []
        /// Where the log ends now, if it grew.
        var appendedEnd: Offset?
        var incarnation: UInt64 = 0
        /// Everything before this may go.
        var trimBefore: Offset?
        var mustReload = false
    }

    let partition: Int32
    let access: any InternalTopicAccess
    let logger: Logger
    private let make: @Sendable (CoordinatorTime) -> Shard
    private let carryOut: @Sendable (Order, ShardRuntime, UInt64) -> Void
    private let state = Mutex(State())

    /// - Parameters:
    ///   - make: An empty shard, to replay the partition into.
    ///   - carryOut: Does what an order says, for the shard of this incarnation. May block.
    init(
        partition: Int32,
        access: any InternalTopicAccess,
        logger: Logger,
        make: @escaping @Sendable (CoordinatorTime) -> Shard,
        carryOut: @escaping @Sendable (Order, ShardRuntime, UInt64) -> Void = { _, _, _ in }
    ) {
        self.partition = partition
        self.access = access
        self.logger = logger
        self.make = make
        self.carryOut = carryOut
    }

    // MARK: Requests

    /// Takes one event; `completion` gets its answer.
    func submit(_ event: Shard.Event, _ completion: @escaping Completion) {
        follow(enter(event, completion).followUp)
    }

    /// What became of an event that was handed in under a lock of the caller's.
    struct Ticket: Sendable {
        /// Why it was refused at once; then its completion is not called.
        var refusal: Outcome?
        /// Has to be called, with no lock of the caller's held: what is ready is answered by it, and the rest waits for
        /// the commit only from then on.
        var proceed: @Sendable () -> Void
    }

    /// Takes one event. Unless it is refused at once, it is on the log when this returns, in the order of the calls, and
    /// `completion` gets its answer when it is committed.
    func hold(
        _ event: Shard.Event,
        isRefusal: (Outcome) -> Bool,
        _ completion: @escaping Completion
    ) -> Ticket {
        let entered = enter(event, completion)
        var followUp = entered.followUp
        var refusal: Outcome?
        if let index = followUp.calls.firstIndex(where: { $0.token == entered.value && isRefusal($0.outcome) }) {
            refusal = followUp.calls.remove(at: index).outcome
        }
        let rest = followUp
        return Ticket(refusal: refusal) { self.follow(rest) }
    }

    private func enter(
        _ event: Shard.Event,
        _ completion: @escaping Completion
    ) -> (value: RequestToken, followUp: FollowUp) {
        let now = access.now()
        return run { state, followUp in
            let token = state.nextToken
            state.nextToken += 1
            guard state.shard != nil else {
                followUp.calls.append(Call(token: token, completion: completion, outcome: .failed(state.unavailable)))
                return token
            }
            state.completions[token] = completion
            state.shard?.refresh(access)
            if let step = state.shard?.handle(event, token: token, now: now) {
                settle(step, &state, &followUp, now)
            }
            return token
        }
    }

    /// Runs a step that nobody waits for.
    func perform(_ body: (inout Shard) -> Shard.Step) {
        let now = access.now()
        runAndFollow { state, followUp in
            guard var shard = state.shard else { return }
            let step = body(&shard)
            state.shard = shard
            settle(step, &state, &followUp, now)
        }
    }

    /// Changes the shard, where it is there, in a way that leaves nothing to do.
    func update(_ body: (inout Shard) -> Void) {
        state.withLock { state in
            guard var shard = state.shard else { return }
            body(&shard)
            state.shard = shard
        }
    }

    /// Reads the shard's state, for metrics.
    func inspect<Value: Sendable>(_ body: (Shard) -> Value) -> Value? {
        state.withLock { state in state.shard.map(body) }
    }

    /// Whether the shard of this incarnation is still in service.
    func isCurrent(_ incarnation: UInt64) -> Bool { state.withLock { $0.incarnation } == incarnation }

    /// Runs a step under the mutex; what it leaves to do is returned.
    private func run<Value: Sendable>(
        _ step: (inout State, inout FollowUp) -> Value
    ) -> (value: Value, followUp: FollowUp) {
        state.withLock { state in
            var followUp = FollowUp()
            let value = step(&state, &followUp)
            followUp.incarnation = state.incarnation
            armTimer(&state)
            return (value, followUp)
        }
    }

    private func runAndFollow(_ step: (inout State, inout FollowUp) -> Void) { follow(run(step).followUp) }

    private func follow(_ followUp: FollowUp) {
        for call in followUp.calls { call.completion(call.outcome) }
        for order in followUp.orders {
            access.runBlocking { self.carryOut(order, self, followUp.incarnation) }
        }
        if let end = followUp.appendedEnd { watch(end, followUp.incarnation) }
        if let offset = followUp.trimBefore {
            access.runBlocking { [access, partition] in access.trim(Shard.topic, partition: partition, before: offset) }
        }
        if followUp.mustReload { access.runBlocking { self.load() } }
    }

    // MARK: Steps

    /// Appends what a step wants on the log and sorts its answers and orders into those that go now and those that wait.
    private func settle(
        _ step: Shard.Step,
        _ state: inout State,
        _ followUp: inout FollowUp,
        _ now: CoordinatorTime
    ) {
        if !step.records.isEmpty || step.batch != .plain {
            do {
                let end = try append(step, &state, now)
                state.appendedEnd = end
                followUp.appendedEnd = end
                state.shard?.apply(step, end: end)
            } catch {
                return refuse(step, error, &state, &followUp)
            }
            noteRedundant(&state, &followUp)
        }
        for answer in step.answers {
            guard let completion = state.completions.removeValue(forKey: answer.token) else { continue }
            let release = Release.answer(answer.token, completion, answer.response)
            put(release, waits: answer.waitsForCommit, &state, &followUp)
        }
        for order in step.orders { put(.order(order), waits: true, &state, &followUp) }
    }

    /// Lets something go: now, or when what was appended before is committed.
    private func put(_ release: Release, waits: Bool, _ state: inout State, _ followUp: inout FollowUp) {
        if waits, state.committedEnd < state.appendedEnd,
            !PlantedReplicationBugs.planted.contains(.answersBeforeCommit)
        {
            state.waiting.append((state.appendedEnd, release))
        } else {
            Self.letGo(release, &followUp)
        }
    }

    private static func letGo(_ release: Release, _ followUp: inout FollowUp) {
        switch release {
        case .answer(let token, let completion, let response):
            followUp.calls.append(Call(token: token, completion: completion, outcome: .response(response)))
        case .order(let order): followUp.orders.append(order)
        }
    }

    private func append(
        _ step: Shard.Step,
        _ state: inout State,
        _ now: CoordinatorTime
    ) throws(CoordinatorStorageError) -> Offset {
        state.builder.settings.isTransactional = false
        state.builder.settings.producerID = .none
        state.builder.settings.producerEpoch = -1
        switch step.batch {
        case .plain: break
        case .transactional(let producer):
            state.builder.settings.isTransactional = true
            state.builder.settings.producerID = ProducerID(producer.id)
            state.builder.settings.producerEpoch = producer.epoch
        case .marker(let marker):
            return try access.append(marker.batch(at: now.wall), to: Shard.topic, partition: partition)
        }
        state.builder.reset()
        for record in step.records { state.builder.append(key: record.key, value: record.value, timestamp: now.wall) }
        let batch: ByteBuffer
        do {
            batch = try state.builder.build()
        } catch {
            throw CoordinatorStorageError(code: .unknownServerError, description: "\(error)")
        }
        return try access.append(batch, to: Shard.topic, partition: partition)
    }

    /// Cutting the log costs a little: not for every record that was said again.
    private func noteRedundant(_ state: inout State, _ followUp: inout FollowUp) {
        guard let redundant = state.shard?.redundantEnd, redundant - state.trimmedBefore > 10_000 else { return }
        state.trimmedBefore = redundant
        followUp.trimBefore = Offset(redundant)
    }

    /// The log took nothing: what the step decided did not happen.
    private func refuse(
        _ step: Shard.Step,
        _ error: CoordinatorStorageError,
        _ state: inout State,
        _ followUp: inout FollowUp
    ) {
        logger.warning("\(Shard.role) cannot append", metadata: ["partition": "\(partition)", "error": "\(error)"])
        let code = Shard.clientCode(error.code)
        for answer in step.answers {
            guard let completion = state.completions.removeValue(forKey: answer.token) else { continue }
            followUp.calls.append(Call(token: answer.token, completion: completion, outcome: .failed(code)))
        }
        if step.hasChangedShard { unload(code, &state, &followUp) }
    }

    /// Throws the shard away, answers everyone who waits, and has it loaded anew.
    private func unload(_ code: ErrorCode, _ state: inout State, _ followUp: inout FollowUp) {
        state.shard = nil
        state.unavailable = .coordinatorLoadInProgress
        state.incarnation += 1
        for (token, completion) in state.completions {
            followUp.calls.append(Call(token: token, completion: completion, outcome: .failed(code)))
        }
        state.completions = [:]
        // Their records are on the log, but whether they stay there is no longer known here.
        for case (_, .answer(let token, let completion, _)) in state.waiting {
            followUp.calls.append(Call(token: token, completion: completion, outcome: .failed(.notCoordinator)))
        }
        state.waiting = []
        followUp.appendedEnd = nil
        followUp.mustReload = true
    }

    // MARK: Commit

    private func watch(_ end: Offset, _ incarnation: UInt64) {
        access.whenCommitted(upTo: end, of: Shard.topic, partition: partition) { result in
            self.committed(end, incarnation, result)
        }
    }

    private func committed(_ end: Offset, _ incarnation: UInt64, _ result: Result<Void, CoordinatorStorageError>) {
        runAndFollow { state, followUp in
            guard state.incarnation == incarnation else { return }
            switch result {
            case .success:
                state.committedEnd = max(state.committedEnd, end)
                while let first = state.waiting.first, first.offset <= state.committedEnd {
                    state.waiting.removeFirst()
                    Self.letGo(first.release, &followUp)
                }
            case .failure(let error):
                logger.warning(
                    "\(Shard.role) lost an append",
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
        runAndFollow { state, followUp in
            guard state.incarnation == incarnation else { return }
            state.timerDeadline = .max
            state.cancelTimer = nil
            state.shard?.refresh(access)
            if let step = state.shard?.tick(now) { settle(step, &state, &followUp, now) }
        }
    }

    // MARK: Loading

    /// Builds the shard from its partition. Blocks. Until it is done requests are told COORDINATOR_LOAD_IN_PROGRESS, and so
    /// is, at once, who waits for an answer of the shard before: its commits are not watched any more.
    func load() {
        let dropped = run { state, followUp in
            unload(.coordinatorLoadInProgress, &state, &followUp)
            followUp.mustReload = false
            return state.incarnation
        }
        let incarnation = dropped.value
        follow(dropped.followUp)
        do {
            let (loaded, end) = try readShard()
            runAndFollow { state, followUp in
                guard state.incarnation == incarnation else { return }
                let now = access.now()
                var shard = loaded
                let step = shard.begin(now: now)
                state.shard = shard
                state.appendedEnd = end
                state.committedEnd = 0
                state.cancelTimer?()
                state.timerDeadline = .max
                followUp.appendedEnd = end
                if let step { settle(step, &state, &followUp, now) }
            }
        } catch let error as CoordinatorStorageError where error.code == .notCoordinator {
            // Another node leads the partition. When this one does, it is told to load.
            stop()
        } catch {
            logger.error(
                "\(Shard.role) cannot load; what it keeps is unavailable until it can",
                metadata: ["partition": "\(partition)", "error": "\(error)"]
            )
            _ = access.schedule(after: 1_000) { [access, self] in access.runBlocking { self.load() } }
        }
    }

    private func readShard() throws -> (Shard, Offset) {
        let now = access.now()
        var shard = make(now)
        let end = try access.endOffset(of: Shard.topic, partition: partition)
        var offset: Offset? = PlantedReplicationBugs.planted.contains(.coordinatorsForget) ? nil : 0
        var records = 0
        while let from = offset, from < end {
            let part = try access.read(Shard.topic, partition: partition, from: from)
            var iterator = RecordBatchIterator(part.batches)
            while let batch = try iterator.next() {
                let reader = try batch.reader()
                let attributes = reader.header.attributes
                let producer = attributes.isTransactional ? reader.header.producerID.rawValue : nil
                for record in try reader.records() {
                    records += 1
                    if attributes.isControl {
                        guard let producer else { continue }
                        let marker = try ControlRecord(key: record.key, value: record.value)
                        shard.replayEnd(ofTransactionOf: producer, isCommit: marker.kind == .commit)
                    } else if let key = record.key {
                        replay(CoordinatorRecord(key: key, value: record.value), record.offset, producer, &shard, now)
                    }
                }
            }
            offset = part.nextOffset
        }
        logger.debug("\(Shard.role) loaded", metadata: ["partition": "\(partition)", "records": "\(records)"])
        return (shard, end)
    }

    /// A record that cannot be read must not take all of the partition with it; it is reported and left out.
    private func replay(
        _ record: CoordinatorRecord,
        _ offset: Offset,
        _ producer: Int64?,
        _ shard: inout Shard,
        _ now: CoordinatorTime
    ) {
        do {
            try shard.replay(record, at: offset, producer: producer, now: now)
        } catch {
            logger.error(
                "a record of \(Shard.topic.name) cannot be read and is left out",
                metadata: ["partition": "\(partition)", "offset": "\(offset)", "error": "\(error)"]
            )
        }
    }

    /// Gives the shard up: everyone who waits is told NOT_COORDINATOR.
    func stop() {
        runAndFollow { state, followUp in
            unload(.notCoordinator, &state, &followUp)
            state.unavailable = .notCoordinator
            state.cancelTimer?()
            followUp.mustReload = false
        }
    }
}
