// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import NIOCore
import Synchronization

/// What a share group does with one partition that this node leads: a ``SharePartitionWindow`` with its mutex, its timer
/// and those who wait for it.
///
/// Lock order: this mutex, then the share coordinator's, then the log's. The log is read with no lock held; what was read
/// is then handed out as far as it still can be.
final class SharePartition: Sendable {
    private enum Phase {
        /// The state has not been read yet.
        case fresh
        case loading
        case active
        /// It could not be read; the next fetch tries again.
        case failed(ErrorCode)
        /// Out of service: the topic, the group or the state is another now.
        case closed(ErrorCode)
    }

    private struct State {
        var phase = Phase.fresh
        var window = SharePartitionWindow(start: 0)
        var stateEpoch: Int32 = 0
        var waiters: [ObjectIdentifier: any PartitionWaiter] = [:]
        var timerDeadline = Int64.max
        var cancelTimer: (@Sendable () -> Void)?
    }

    let key: SharePartitionKey
    let partition: Partition
    private let states: ShareCoordinatorService
    private let access: any InternalTopicAccess
    private let settings: @Sendable () -> ShareGroupSettings
    private let logger: Logger
    private let state = Mutex(State())

    init(
        key: SharePartitionKey,
        partition: Partition,
        states: ShareCoordinatorService,
        access: any InternalTopicAccess,
        settings: @escaping @Sendable () -> ShareGroupSettings,
        logger: Logger
    ) {
        self.key = key
        self.partition = partition
        self.states = states
        self.access = access
        self.settings = settings
        self.logger = logger
    }

    private static func limits(_ settings: ShareGroupSettings) -> SharePartitionWindow.Limits {
        .init(
            lockDuration: Int64(settings.recordLockDuration),
            deliveryCountLimit: Int16(clamping: settings.deliveryCountLimit),
            maxRecordLocks: Int(settings.maxRecordLocks),
            renewEnabled: settings.renewEnabled
        )
    }

    /// Runs a step under the mutex and, when that is released, what it left to do.
    private func hold<Value: Sendable>(_ step: (inout State, inout [@Sendable () -> Void]) -> Value) -> Value {
        let (value, after) = state.withLock { state in
            var after: [@Sendable () -> Void] = []
            let value = step(&state, &after)
            return (value, after)
        }
        for work in after { work() }
        return value
    }

    // MARK: Loading

    /// Why nothing can be fetched now; `.none` where it can. Begins to read the state where nobody has.
    func ready() -> (isReady: Bool, code: ErrorCode) {
        let (answer, mustLoad): ((Bool, ErrorCode), Bool) = state.withLock { state in
            switch state.phase {
            case .fresh:
                state.phase = .loading
                return ((false, .none), true)
            case .loading: return ((false, .none), false)
            case .active: return ((true, .none), false)
            case .failed(let code):
                state.phase = .fresh
                return ((false, code), false)
            case .closed(let code): return ((false, code), false)
            }
        }
        if mustLoad { load() }
        return (answer.0, answer.1)
    }

    private func load() {
        states.ask(.read(leaderEpoch: partition.leaderEpoch.rawValue), of: key) { [self] answer in
            // Where to begin may have to be looked up on disk.
            access.runBlocking { self.loaded(answer) }
        }
    }

    private func loaded(_ answer: ShareStateAnswer) {
        guard answer.code == .none else { return fail(answer.code) }
        // The group coordinator makes a state before it gives a partition to anyone: without one the group is gone.
        guard answer.state != .absent else { return fail(.groupIdNotFound) }
        let log = partition.log
        var window: SharePartitionWindow
        var isNew = false
        if answer.state.startOffset < 0 {
            do throws(LogError) {
                window = SharePartitionWindow(start: try beginning().rawValue)
            } catch {
                return fail(error.kafkaError)
            }
            isNew = true
        } else {
            window = SharePartitionWindow(start: answer.state.startOffset, batches: answer.state.batches)
        }
        let change = window.moveStart(to: log.logStartOffset.rawValue)
        hold { state, after in
            guard case .loading = state.phase else { return }
            state.stateEpoch = answer.state.stateEpoch
            state.window = window
            state.phase = .active
            // Where the group begins is written down before anything is handed out, so that "latest" means the same
            // after a restart.
            if isNew || !change.isEmpty {
                var first = change
                first.movedStart = true
                if let refusal = persist(first, &state, &after) { state.phase = .failed(refusal.code) }
            }
        }
        wake()
    }

    private func beginning() throws(LogError) -> Offset {
        let log = partition.log
        let settings = settings()
        switch settings.autoOffsetReset {
        case .earliest: return log.logStartOffset
        case .latest: return partition.readableEnd(readCommitted: settings.readCommitted)
        case .byDuration(let milliseconds):
            let since = Timestamp(access.now().wall.rawValue - milliseconds)
            return try log.offset(for: .timestamp(since))?.offset
                ?? partition.readableEnd(readCommitted: settings.readCommitted)
        }
    }

    private func fail(_ code: ErrorCode) {
        logger.warning("a share partition cannot be read", metadata: ["key": "\(key)", "error": "\(code)"])
        state.withLock { state in if case .loading = state.phase { state.phase = .failed(code) } }
        wake()
    }

    /// Takes it out of service: whoever waits is told, and nothing is written any more.
    func close(_ code: ErrorCode) {
        state.withLock { state in
            state.phase = .closed(code)
            state.cancelTimer?()
            state.cancelTimer = nil
        }
        wake()
    }

    var isClosed: Bool {
        state.withLock { if case .closed = $0.phase { true } else { false } }
    }

    /// Whether nobody has or wants anything of it, so that it may be forgotten until somebody does.
    var isIdle: Bool {
        state.withLock { state in
            guard state.waiters.isEmpty else { return false }
            if case .loading = state.phase { return false }
            return !state.window.runs.contains { $0.state == .acquired }
        }
    }

    /// A copy of the window, for tests and listings; nil while it is not known.
    var window: SharePartitionWindow? {
        state.withLock { if case .active = $0.phase { $0.window } else { nil } }
    }

    // MARK: Fetching

    /// What a fetch asks of each partition.
    struct Request: Sendable {
        var wish: SharePartitionWindow.Wish
        var maxBytes: Int
        /// Whether a batch that is larger than `maxBytes` may be returned nevertheless.
        var isFirst: Bool
        /// Whether it may wait for the disk.
        var mayBlock: Bool
    }

    /// What a fetch found.
    struct Finding: Sendable {
        var acquired: [SharePartitionWindow.Acquired] = []
        var records = ByteBuffer()
        var code = ErrorCode.none
        /// The rest is not in memory: ask again where it may block.
        var needsDisk = false

        var count: Int { acquired.reduce(0) { $0 + Int($1.last - $1.first + 1) } }
    }

    /// Hands out records, as far as there are any.
    func fetch(_ request: Request) -> Finding {
        var finding = Finding()
        let settings = settings()
        let limits = Self.limits(settings)
        var request = request
        while request.wish.maxRecords > 0 && (request.maxBytes > 0 || request.isFirst) {
            guard let from = nextOffset(limits) else { break }
            let end = partition.readableEnd(readCommitted: settings.readCommitted)
            guard from < end else { break }
            do {
                guard let part = try read(from, end, request, settings) else {
                    finding.needsDisk = true
                    break
                }
                if part.batches.isEmpty { break }
                let acquired = take(part, request.wish, from, limits)
                if acquired.isEmpty {
                    // All of it is someone else's by now, or nothing for anyone; go on behind it, if that is progress.
                    guard let next = nextOffset(limits), next != from else { break }
                    continue
                }
                let bytes = Self.collect(part, acquired, &finding)
                request.wish.maxRecords -= acquired.reduce(0) { $0 + Int($1.last - $1.first + 1) }
                request.maxBytes -= bytes
                request.isFirst = false
            } catch {
                if finding.acquired.isEmpty { finding.code = error.kafkaError }
                break
            }
        }
        return finding
    }

    /// Where to read; nil where nothing can be handed out.
    private func nextOffset(_ limits: SharePartitionWindow.Limits) -> Offset? {
        let logStart = partition.log.logStartOffset.rawValue
        return hold { (state, after) -> Offset? in
            guard case .active = state.phase else { return nil }
            if logStart > state.window.start {
                let change = state.window.moveStart(to: logStart)
                _ = persist(change, &state, &after)
            }
            return state.window.mayAcquire(limits) ? Offset(state.window.nextFetchOffset) : nil
        }
    }

    private struct Part {
        var batches: [SharePartitionWindow.LogBatch] = []
        var slices: [ByteBuffer] = []
    }

    /// Reads a part of the log; nil where that would have to wait for the disk.
    private func read(
        _ from: Offset,
        _ end: Offset,
        _ request: Request,
        _ settings: ShareGroupSettings
    ) throws(LogError) -> Part? {
        let log = partition.log
        let found = try log.read(
            from: from,
            maxBytes: min(max(request.maxBytes, 0), 1 << 20),
            minOneBatch: request.isFirst,
            upTo: end
        )
        guard !found.slices.isEmpty, let first = found.firstOffset else { return Part() }
        guard request.mayBlock || found.isResident else { return nil }
        var buffer = ByteBuffer()
        try found.copy(into: &buffer)
        let aborted = settings.readCommitted ? log.abortedTransactions(in: first..<found.nextOffset) : []
        var part = Part()
        var iterator = RecordBatchIterator(buffer)
        do {
            while let slice = try iterator.next() {
                let header = slice.header
                let isAborted =
                    header.attributes.isTransactional
                    && aborted.contains {
                        $0.producerID == header.producerID && $0.firstOffset <= header.baseOffset
                            && header.baseOffset <= $0.lastOffset
                    }
                part.batches.append(
                    .init(
                        first: header.baseOffset.rawValue,
                        last: header.lastOffset.rawValue,
                        isDeliverable: !header.attributes.isControl && !isAborted
                    )
                )
                part.slices.append(slice.bytes)
            }
        } catch {
            throw LogError(.damaged, "a batch of \(key) behind offset \(from) cannot be read: \(error)")
        }
        return part
    }

    private func take(
        _ part: Part,
        _ wish: SharePartitionWindow.Wish,
        _ from: Offset,
        _ limits: SharePartitionWindow.Limits
    ) -> [SharePartitionWindow.Acquired] {
        let now = access.now().monotonic
        return state.withLock { state in
            guard case .active = state.phase else { return [] }
            // The start may have moved behind what was read.
            guard from.rawValue <= state.window.end + 1 else { return [] }
            let acquired = state.window.acquire(wish, readFrom: from.rawValue, part.batches, limits, now: now)
            armTimer(&state)
            return acquired
        }
    }

    /// Keeps the batches that hold what was handed out.
    private static func collect(
        _ part: Part,
        _ acquired: [SharePartitionWindow.Acquired],
        _ finding: inout Finding
    ) -> Int {
        let before = finding.records.writerIndex
        var index = 0
        for (batch, slice) in zip(part.batches, part.slices) where batch.isDeliverable {
            while index < acquired.count && acquired[index].last < batch.first { index += 1 }
            guard index < acquired.count else { break }
            if acquired[index].first <= batch.last { finding.records.writeImmutableBuffer(slice) }
        }
        finding.acquired += acquired
        return finding.records.writerIndex - before
    }

    // MARK: Acknowledging

    /// Takes a member's word; `done` is told when it is stored, or why it was not taken.
    func acknowledge(
        _ entries: [ShareAcknowledgement],
        by member: String,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    ) {
        let settings = settings()
        if let problem = ShareAcknowledgement.problem(entries, isRenewAllowed: settings.renewEnabled) {
            logger.debug("an acknowledgement is refused", metadata: ["key": "\(key)", "problem": "\(problem)"])
            return done(.invalidRequest)
        }
        let now = access.now().monotonic
        let (immediate, freed) = hold { (state, after) -> (ErrorCode?, Bool) in
            switch state.phase {
            case .active: break
            case .closed(let code): return (code, false)
            // Nobody has anything yet.
            case .fresh, .loading, .failed: return (.invalidRecordState, false)
            }
            let before = state.window
            switch state.window.acknowledge(entries, by: member, Self.limits(settings), now: now) {
            case .failure(let code): return (code, false)
            case .success(let change):
                armTimer(&state)
                if change.isEmpty { return (ErrorCode.none, false) }
                if let refusal = persist(change, &state, &after, { done($0.code) }) {
                    state.window = before
                    return (refusal.code, false)
                }
                return (nil, change.freed)
            }
        }
        if let immediate { done(immediate) }
        if freed { wake() }
    }

    /// Takes back what a member has, because it left (`wasDelivered` false) or vanished.
    func release(by member: String, wasDelivered: Bool) {
        let limits = Self.limits(settings())
        let freed = hold { (state, after) -> Bool in
            guard case .active = state.phase, state.window.isHolding(member) else { return false }
            let change = state.window.release(by: member, wasDelivered: wasDelivered, limits)
            _ = persist(change, &state, &after)
            return true
        }
        if freed { wake() }
    }

    /// Puts a change on the coordinator's log, behind all earlier ones. Returns why it was refused; then `done` is not
    /// called. What is in `after` has to be run once the mutex is released.
    private func persist(
        _ change: SharePartitionWindow.Change,
        _ state: inout State,
        _ after: inout [@Sendable () -> Void],
        _ done: @escaping @Sendable (ShareStateAnswer) -> Void = { _ in }
    ) -> ShareStateAnswer? {
        let write = ShareStateWrite(
            stateEpoch: state.stateEpoch,
            leaderEpoch: partition.leaderEpoch.rawValue,
            startOffset: change.movedStart ? state.window.start : -1,
            deliveryCompleteCount: Int32(clamping: state.window.doneCount),
            batches: change.batches
        )
        let ticket = states.submit(.write(write), of: key) { [self] answer in
            // It was on the log and is lost: what is in memory is not what will be read.
            if answer.code != .none { close(.notLeaderOrFollower) }
            done(answer)
        }
        after.append(ticket.proceed)
        guard let refusal = ticket.refusal else { return nil }
        logger.warning(
            "the state of a share partition cannot be written",
            metadata: ["key": "\(key)", "error": "\(refusal.code)", "message": "\(refusal.message ?? "")"]
        )
        if refusal.code == .fencedStateEpoch || refusal.code == .fencedLeaderEpoch {
            state.phase = .closed(.notLeaderOrFollower)
        }
        return refusal
    }

    // MARK: Time

    private func armTimer(_ state: inout State) {
        let deadline = state.window.earliestDeadline
        guard deadline < state.timerDeadline else { return }
        state.cancelTimer?()
        state.timerDeadline = deadline
        let delay = max(deadline - access.now().monotonic, 1)
        state.cancelTimer = access.schedule(after: delay) { [weak self] in self?.tick() }
    }

    private func tick() {
        let now = access.now().monotonic
        let limits = Self.limits(settings())
        let freed = hold { (state, after) -> Bool in
            state.timerDeadline = .max
            state.cancelTimer = nil
            guard case .active = state.phase else { return false }
            let change = state.window.expireLocks(limits, now: now)
            if !change.isEmpty { _ = persist(change, &state, &after) }
            armTimer(&state)
            return change.freed
        }
        if freed { wake() }
    }

    // MARK: Waiting

    /// Notes a waiter, who must look again afterwards.
    func addWaiter(_ waiter: any PartitionWaiter) {
        state.withLock { $0.waiters[ObjectIdentifier(waiter)] = waiter }
    }

    func removeWaiter(_ waiter: any PartitionWaiter) {
        state.withLock { $0.waiters[ObjectIdentifier(waiter)] = nil }
    }

    private func wake() {
        let waiting = state.withLock { Array($0.waiters.values) }
        for waiter in waiting { waiter.partitionAdvanced() }
    }

    /// The broker stops: nobody waits any longer.
    func endWaiting() {
        let waiting = state.withLock { Array($0.waiters.values) }
        for waiter in waiting { waiter.brokerStops() }
    }
}
