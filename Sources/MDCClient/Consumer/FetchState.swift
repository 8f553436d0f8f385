// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel
import NIOCore

/// Where a partition's reading begins.
enum StartPosition: Sendable, Hashable {
    case offset(Offset)
    /// At the group's committed offset; where there is none, as the reset policy says.
    case committed
    case reset(ConsumerConfiguration.OffsetReset)
}

/// Fetched batches of one partition, not decoded yet.
struct FetchedChunk: Sendable {
    /// Records before this offset were not asked for.
    let fetchOffset: Offset
    let records: ByteBuffer
    /// Aborted transactions that touch the chunk, by first offset (read-committed only).
    let aborted: [(producerID: Int64, firstOffset: Int64)]
}

/// What the consumer reads: positions, buffers, and what to fetch next. Pure.
///
/// Each partition has a version, which changes whenever its reading jumps (seek, reset, new assignment): answers and
/// decoded records of an older version are dropped, so nothing from before a jump is returned after it.
struct FetchState {
    struct Configuration {
        var maxPartitionBytes = 1024 * 1024
        var maxBufferedBytes = 64 * 1024 * 1024
        var reset = ConsumerConfiguration.OffsetReset.earliest
        var backoff = Backoff(first: .milliseconds(100), longest: .seconds(1))
        /// Fetches at once to one broker, each on its own connection: a partition that becomes fetchable need not
        /// wait for the end of another's long poll.
        var slots = 2
    }

    enum Phase: Equatable {
        /// The start has to be looked up.
        case needsOffset(StartPosition)
        /// The leader changed: what the position points at may have been cut off (KIP-320).
        case needsValidation(leaderEpoch: Int32)
        case fetching
        /// There is nowhere to begin, until `seek`.
        case failed
    }

    struct Partition {
        var version: UInt64
        var phase: Phase
        /// The next record that `poll` returns.
        var position: Offset?
        /// The next record to ask for.
        var fetchOffset: Offset?
        /// Epoch of the last record before `position`; -1 where it is not known.
        var positionEpoch: Int32 = -1
        /// Epoch of the last record before `fetchOffset`.
        var fetchEpoch: Int32 = -1
        /// The leader epoch under which `fetchOffset` is known to be right.
        var validatedEpoch: Int32 = -1
        var isPaused = false
        /// The application has not heard of it yet.
        var isHeld = false
        /// A lookup or a fetch is under way for this version.
        var isBusy = false
        var chunks = Deque<FetchedChunk>()
        /// `poll` holds a chunk that it has not finished.
        var cursorIsOut = false
        var bufferedBytes = 0
        var maxBytes: Int
        var mutedUntil = NIODeadline.uptimeNanoseconds(0)
        var attempts = 0
        var highWatermark: Int64 = -1
        var lastStableOffset: Int64 = -1
        var preferredReplica: (broker: Int32, until: NIODeadline)?

        var isReadable: Bool { !isPaused && !isHeld && (cursorIsOut || !chunks.isEmpty) }
    }

    let configuration: Configuration
    var generator: SeededGenerator
    private(set) var partitions: [TopicPartition: Partition] = [:]
    /// The order of turns, for fetching and for `poll`.
    private(set) var turns: [TopicPartition] = []
    private(set) var bufferedBytes = 0
    private var nextVersion: UInt64 = 0
    /// Fetches under way, by broker.
    private var busySlots: [Int32: Set<Int>] = [:]
    /// What `poll` must tell once there is nothing to return.
    private(set) var errors: [ClientError] = []

    init(_ configuration: Configuration, generator: SeededGenerator = SeededGenerator()) {
        self.configuration = configuration
        self.generator = generator
    }

    // MARK: Assignment

    private mutating func newVersion() -> UInt64 {
        nextVersion += 1
        return nextVersion
    }

    /// `isHeld`: nothing of it is looked up, fetched or returned until `release`.
    mutating func add(_ partition: TopicPartition, at start: StartPosition, isHeld: Bool = false) {
        guard partitions[partition] == nil else { return }
        partitions[partition] = Partition(
            version: newVersion(),
            phase: .needsOffset(start),
            isHeld: isHeld,
            maxBytes: configuration.maxPartitionBytes
        )
        turns.append(partition)
        jump(partition, to: start)
    }

    /// Ends the holding of a new partition.
    mutating func release(_ partition: TopicPartition) {
        partitions[partition]?.isHeld = false
    }

    mutating func remove(_ partition: TopicPartition) {
        guard let gone = partitions.removeValue(forKey: partition) else { return }
        bufferedBytes -= gone.bufferedBytes
        turns.removeAll { $0 == partition }
    }

    /// Goes on elsewhere; what was read ahead is dropped. False where the partition is not assigned.
    @discardableResult
    mutating func jump(_ partition: TopicPartition, to start: StartPosition) -> Bool {
        guard var state = partitions[partition] else { return false }
        dropBuffer(&state)
        state.version = newVersion()
        state.isBusy = false
        state.attempts = 0
        state.mutedUntil = .uptimeNanoseconds(0)
        state.positionEpoch = -1
        state.fetchEpoch = -1
        state.validatedEpoch = -1
        if case .offset(let offset) = start {
            state.position = offset
            state.fetchOffset = offset
            state.phase = .fetching
        } else {
            state.position = nil
            state.fetchOffset = nil
            state.phase = .needsOffset(start)
        }
        partitions[partition] = state
        return true
    }

    private mutating func dropBuffer(_ state: inout Partition) {
        bufferedBytes -= state.bufferedBytes
        state.bufferedBytes = 0
        state.chunks.removeAll()
        state.cursorIsOut = false
    }

    /// False where the partition is not assigned.
    mutating func setPaused(_ partition: TopicPartition, _ paused: Bool) -> Bool {
        guard partitions[partition] != nil else { return false }
        partitions[partition]!.isPaused = paused
        return true
    }

    /// Takes the errors that are due.
    mutating func takeError() -> ClientError? { errors.isEmpty ? nil : errors.removeFirst() }

    mutating func note(_ error: ClientError) {
        if errors.count < 16 { errors.append(error) }
    }

    // MARK: Positions

    struct Lookup: Equatable {
        let partition: TopicPartition
        let version: UInt64
        let start: StartPosition
    }

    /// Partitions whose start has to be looked up now; they count as busy until `found` or `lookupFailed`.
    mutating func takeLookups(now: NIODeadline) -> [Lookup] {
        var result: [Lookup] = []
        for partition in turns {
            guard let state = partitions[partition], !state.isBusy, !state.isHeld, state.mutedUntil <= now,
                case .needsOffset(let start) = state.phase
            else { continue }
            partitions[partition]!.isBusy = true
            result.append(Lookup(partition: partition, version: state.version, start: start))
        }
        return result
    }

    /// The start of a partition is known.
    mutating func found(_ lookup: Lookup, offset: Offset, epoch: Int32) {
        guard var state = partitions[lookup.partition], state.version == lookup.version else { return }
        state.isBusy = false
        state.attempts = 0
        state.fetchOffset = offset
        state.fetchEpoch = epoch
        // Chunks from before an offset that ran out of range are still returned; the position follows them.
        if state.chunks.isEmpty, !state.cursorIsOut {
            state.position = offset
            state.positionEpoch = epoch
        }
        state.validatedEpoch = -1
        state.phase = .fetching
        partitions[lookup.partition] = state
    }

    /// The group has no offset for the partition: the reset policy decides.
    mutating func notCommitted(_ lookup: Lookup) {
        guard let state = partitions[lookup.partition], state.version == lookup.version else { return }
        partitions[lookup.partition]!.isBusy = false
        reset(lookup.partition, why: "the group has no committed offset")
    }

    mutating func lookupFailed(_ lookup: Lookup, _ error: ClientError, now: NIODeadline) {
        guard let state = partitions[lookup.partition], state.version == lookup.version else { return }
        partitions[lookup.partition]!.isBusy = false
        if !error.isRetriable { note(error) }
        mute(lookup.partition, now: now)
    }

    private mutating func reset(_ partition: TopicPartition, why: String) {
        if configuration.reset == .none {
            partitions[partition]!.phase = .failed
            note(
                ClientError(
                    .noOffset,
                    "\(partition): \(why), and autoOffsetReset is none; seek to an offset, or set a policy"
                )
            )
        } else {
            partitions[partition]!.phase = .needsOffset(.reset(configuration.reset))
        }
    }

    private mutating func mute(_ partition: TopicPartition, now: NIODeadline) {
        guard let state = partitions[partition] else { return }
        let pause = configuration.backoff.delay(attempt: state.attempts, using: &generator)
        partitions[partition]!.mutedUntil = now + pause
        partitions[partition]!.attempts += 1
    }

    /// When a muted partition may go on; nil where none is muted.
    func nextUnmute(now: NIODeadline) -> NIODeadline? {
        partitions.values.lazy.filter { $0.mutedUntil > now }.map(\.mutedUntil).min()
    }

    // MARK: Validation after a change of leader

    struct Validation: Equatable {
        let partition: TopicPartition
        let version: UInt64
        let leaderEpoch: Int32
        /// Epoch of the last record that was fetched.
        let fetchEpoch: Int32
    }

    /// Partitions to validate now; busy until `validated` or `validationFailed`.
    mutating func takeValidations(now: NIODeadline) -> [Validation] {
        var result: [Validation] = []
        for partition in turns {
            guard let state = partitions[partition], !state.isBusy, state.mutedUntil <= now,
                case .needsValidation(let epoch) = state.phase
            else { continue }
            partitions[partition]!.isBusy = true
            result.append(
                Validation(
                    partition: partition,
                    version: state.version,
                    leaderEpoch: epoch,
                    fetchEpoch: state.fetchEpoch
                )
            )
        }
        return result
    }

    /// The new leader says where the epoch ends; nil where it cannot tell. Gives the offset that the log was cut to,
    /// where what was read is no longer there.
    mutating func validated(_ validation: Validation, endOffset: Offset?) -> Offset? {
        guard var state = partitions[validation.partition], state.version == validation.version else { return nil }
        state.isBusy = false
        state.attempts = 0
        state.validatedEpoch = validation.leaderEpoch
        state.phase = .fetching
        guard let endOffset, let fetchOffset = state.fetchOffset, endOffset < fetchOffset else {
            partitions[validation.partition] = state
            return nil
        }
        partitions[validation.partition] = state
        jump(validation.partition, to: .offset(endOffset))
        return endOffset
    }

    mutating func validationFailed(_ validation: Validation, now: NIODeadline) {
        guard let state = partitions[validation.partition], state.version == validation.version else { return }
        partitions[validation.partition]!.isBusy = false
        mute(validation.partition, now: now)
    }

    // MARK: Fetching

    struct PlannedPartition: Equatable {
        let partition: TopicPartition
        let version: UInt64
        let offset: Offset
        let leaderEpoch: Int32
        let maxBytes: Int
    }

    struct Plan: Equatable {
        let node: Int32
        let slot: Int
        var partitions: [PlannedPartition]
        /// A partition of this broker waits for room in its buffer, and this is the last slot: do not poll long, or
        /// it would have to wait for this fetch once there is room.
        var isBehind: Bool
    }

    struct PlanResult {
        var plans: [Plan] = []
        /// Partitions without a known leader.
        var lacksLeader = false
    }

    /// The fetches to send now. `leader` tells broker and leader epoch of a partition.
    mutating func plan(
        now: NIODeadline,
        leader: (TopicPartition) -> (broker: Int32, epoch: Int32)?
    ) -> PlanResult {
        var result = PlanResult()
        var byNode: [Int32: [PlannedPartition]] = [:]
        var behind: Set<Int32> = []
        for partition in turns {
            guard let state = partitions[partition], case .fetching = state.phase, !state.isPaused, !state.isHeld,
                let offset = state.fetchOffset
            else { continue }
            guard let (broker, epoch) = leader(partition) else {
                result.lacksLeader = true
                continue
            }
            var node = broker
            if let preferred = state.preferredReplica, preferred.until > now { node = preferred.broker }
            guard state.bufferedBytes < configuration.maxPartitionBytes,
                bufferedBytes < configuration.maxBufferedBytes
            else {
                behind.insert(node)
                continue
            }
            guard !state.isBusy, state.mutedUntil <= now else { continue }
            if needsValidation(state, leaderEpoch: epoch) {
                partitions[partition]!.phase = .needsValidation(leaderEpoch: epoch)
                continue
            }
            byNode[node, default: []].append(
                PlannedPartition(
                    partition: partition,
                    version: state.version,
                    offset: offset,
                    leaderEpoch: epoch,
                    maxBytes: state.maxBytes
                )
            )
        }
        for (node, planned) in byNode.sorted(by: { $0.key < $1.key }) {
            guard let slot = (0..<configuration.slots).first(where: { busySlots[node]?.contains($0) != true }) else {
                continue
            }
            busySlots[node, default: []].insert(slot)
            for item in planned {
                partitions[item.partition]!.isBusy = true
                partitions[item.partition]!.validatedEpoch = item.leaderEpoch
            }
            result.plans.append(
                Plan(
                    node: node,
                    slot: slot,
                    partitions: planned,
                    isBehind: slot == configuration.slots - 1 && behind.contains(node)
                )
            )
        }
        // Whoever was first goes last, so that a size limit does not starve the same partitions each time.
        if turns.count > 1 { turns.append(turns.removeFirst()) }
        return result
    }

    private func needsValidation(_ state: Partition, leaderEpoch: Int32) -> Bool {
        leaderEpoch >= 0 && state.fetchEpoch >= 0 && state.validatedEpoch >= 0 && state.validatedEpoch != leaderEpoch
    }

    /// What a broker said about one partition.
    struct Answer {
        var error = ErrorCode.none
        var highWatermark: Int64 = -1
        var lastStableOffset: Int64 = -1
        var preferredReplica: Int32 = -1
        var aborted: [(producerID: Int64, firstOffset: Int64)] = []
        var records: ByteBuffer?
    }

    enum AnswerAction: Equatable {
        case nothing
        /// There is something to poll.
        case ready
        /// The metadata is stale.
        case refresh
    }

    /// A fetch is over: its slot is free. Call after `answered` or `unanswered` for its partitions.
    mutating func fetchEnded(_ plan: Plan) {
        busySlots[plan.node]?.remove(plan.slot)
    }

    mutating func answered(_ planned: PlannedPartition, _ answer: Answer, now: NIODeadline) -> AnswerAction {
        guard var state = partitions[planned.partition], state.version == planned.version else { return .nothing }
        state.isBusy = false
        partitions[planned.partition] = state
        guard answer.error == .none else { return failed(planned, answer.error, now: now) }
        state.attempts = 0
        state.highWatermark = answer.highWatermark
        state.lastStableOffset = answer.lastStableOffset
        if answer.preferredReplica >= 0, answer.records?.readableBytes ?? 0 == 0 {
            state.preferredReplica = (answer.preferredReplica, now + .seconds(300))
        }
        defer { partitions[planned.partition] = state }
        guard let records = answer.records, records.readableBytes > 0 else { return .nothing }
        guard let end = Self.end(of: records) else {
            // Not even one whole batch: ask for more, as far as sensible.
            state.maxBytes = min(state.maxBytes * 2, 1 << 30)
            return .nothing
        }
        state.maxBytes = configuration.maxPartitionBytes
        state.chunks.append(FetchedChunk(fetchOffset: planned.offset, records: records, aborted: answer.aborted))
        state.bufferedBytes += records.readableBytes
        bufferedBytes += records.readableBytes
        state.fetchOffset = end.offset
        state.fetchEpoch = end.epoch
        return .ready
    }

    /// Offset after the last whole batch, and its leader epoch; nil where there is no whole batch.
    private static func end(of records: ByteBuffer) -> (offset: Offset, epoch: Int32)? {
        var iterator = RecordBatchIterator(records)
        var end: (Offset, Int32)?
        while let batch = try? iterator.next() {
            end = (batch.header.nextOffset, batch.header.partitionLeaderEpoch.rawValue)
        }
        if end == nil, records.readableBytes >= RecordBatchHeader.Layout.size {
            // Damaged from the start: let `poll` find that out and say so.
            let header = records.withUnsafeReadableBytes { RecordBatchHeader(reading: $0) }
            if header.batchLength <= 0 || header.sizeInBytes <= records.readableBytes {
                return (Offset(records.getInteger(at: records.readerIndex, as: Int64.self) ?? 0), -1)
            }
        }
        return end
    }

    private mutating func failed(_ planned: PlannedPartition, _ code: ErrorCode, now: NIODeadline) -> AnswerAction {
        partitions[planned.partition]!.preferredReplica = nil
        switch code {
        case .offsetOutOfRange:
            reset(planned.partition, why: "offset \(planned.offset) is out of range")
            return .ready
        case let code where ProducerStateMachine.showsStaleMetadata(code):
            mute(planned.partition, now: now)
            return .refresh
        case let code where code.isRetriable:
            mute(planned.partition, now: now)
            return .nothing
        default:
            note(.broker(code, "fetching from \(planned.partition)"))
            mute(planned.partition, now: now)
            return .ready
        }
    }

    /// No answer came.
    mutating func unanswered(_ planned: PlannedPartition, now: NIODeadline) {
        guard let state = partitions[planned.partition], state.version == planned.version else { return }
        partitions[planned.partition]!.isBusy = false
        partitions[planned.partition]!.preferredReplica = nil
        mute(planned.partition, now: now)
    }

    // MARK: Polling

    /// A partition's turn in `poll`: a new chunk, or nil where `poll` still has the rest of one.
    struct Turn {
        let partition: TopicPartition
        let version: UInt64
        let position: Offset
        let chunk: FetchedChunk?
    }

    /// The partitions that have something, in turn.
    mutating func takeTurns() -> [Turn] {
        var result: [Turn] = []
        for partition in turns {
            guard let state = partitions[partition], state.isReadable else { continue }
            var chunk: FetchedChunk?
            if !state.cursorIsOut {
                chunk = partitions[partition]!.chunks.removeFirst()
                partitions[partition]!.cursorIsOut = true
            }
            let position = state.position ?? chunk?.fetchOffset ?? 0
            result.append(Turn(partition: partition, version: state.version, position: position, chunk: chunk))
        }
        return result
    }

    /// `poll` got up to `position` in its chunk. `finished`: bytes of the chunk, where it is used up. False where the
    /// reading jumped meanwhile: the records must not be returned.
    mutating func advance(
        _ partition: TopicPartition,
        version: UInt64,
        to position: Offset,
        epoch: Int32,
        finished: Int?
    ) -> Bool {
        guard var state = partitions[partition], state.version == version else { return false }
        state.position = position
        state.positionEpoch = epoch
        if let finished {
            state.cursorIsOut = false
            state.bufferedBytes -= finished
            bufferedBytes -= finished
            // Behind the last buffered chunk the position is where the next fetch goes on.
            if state.chunks.isEmpty, case .fetching = state.phase, let fetchOffset = state.fetchOffset,
                fetchOffset > position
            {
                state.position = fetchOffset
            }
        }
        partitions[partition] = state
        return true
    }

    /// The chunk of a partition is damaged: read it again from its position at the next `poll`.
    mutating func refetch(_ partition: TopicPartition, version: UInt64, from offset: Offset, now: NIODeadline) {
        guard let state = partitions[partition], state.version == version else { return }
        let paused = state.isPaused
        jump(partition, to: .offset(offset))
        partitions[partition]!.isPaused = paused
        mute(partition, now: now)
    }
}
