// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Synchronization

extension ConsumerDriver {
    func poll(maxRecords: Int, timeout: Duration) async throws -> [ConsumerRecord] {
        guard maxRecords > 0 else { throw ClientError(.invalidState, "maxRecords must be at least 1") }
        await polling.acquire()
        defer { polling.release() }
        let deadline = NIODeadline.now() + TimeAmount(max(timeout, .zero))
        try pollStarted()
        defer { pollEnded() }
        while true {
            try Task.checkCancellation()
            let records = takeRecords(maxRecords)
            if !records.isEmpty {
                metrics.consumed(records: records.count)
                return records
            }
            if let error = shared.withLock({ $0.fetch.takeError() }) { throw error }
            try checkOpen()
            guard NIODeadline.now() < deadline else { return [] }
            await waitForSignal(until: deadline)
        }
    }

    private func pollStarted() throws {
        if configuration.enableAutoCommit { noteConsumed() }
        let isExpelled = try shared.withLock { shared -> Bool in
            if shared.isClosed { throw ClientCore.closedError }
            guard shared.mode != .none else {
                throw ClientError(.invalidState, "nothing to poll: call subscribe or assign first")
            }
            shared.isPolling = true
            shared.lastPoll = .now()
            defer { shared.isExpelled = false }
            return shared.isExpelled
        }
        if isExpelled {
            eventLoop.execute { self.perform(self.membership.pollStarted(now: .now())) }
        }
    }

    private func pollEnded() {
        shared.withLock { shared in
            shared.isPolling = false
            shared.lastPoll = .now()
        }
    }

    /// Everything returned so far may be committed by itself.
    func noteConsumed() {
        shared.withLock { shared in
            for (partition, state) in shared.fetch.partitions {
                guard let position = state.position else { continue }
                shared.consumed[partition] = OffsetAndMetadata(
                    position,
                    leaderEpoch: LeaderEpoch(state.positionEpoch)
                )
            }
        }
    }

    // MARK: Records

    /// Decodes up to `limit` records of what is buffered; partitions take turns.
    private func takeRecords(_ limit: Int) -> [ConsumerRecord] {
        var records: [ConsumerRecord] = []
        var freed = false
        while records.count < limit {
            let turns = shared.withLock { $0.fetch.takeTurns() }
            if turns.isEmpty { break }
            let share = max(1, (limit - records.count) / turns.count)
            for turn in turns {
                if var cursor = cursor(for: turn) {
                    let count = min(share, limit - records.count)
                    let finished = read(&cursor, count, into: &records)
                    freed = freed || finished
                }
            }
        }
        if freed { scheduleFetches() }
        return records
    }

    private func cursor(for turn: FetchState.Turn) -> ChunkCursor? {
        if let chunk = turn.chunk {
            return ChunkCursor(
                chunk,
                partition: turn.partition,
                version: turn.version,
                position: turn.position,
                isReadCommitted: configuration.isolation == .readCommitted,
                checksCRC: configuration.checkCRCs,
                decompressionLimit: configuration.maxDecompressedBatchBytes
            )
        }
        guard let cursor = cursors[turn.partition], cursor.version == turn.version else { return nil }
        return cursor
    }

    /// True where the chunk is used up.
    private func read(_ cursor: inout ChunkCursor, _ count: Int, into records: inout [ConsumerRecord]) -> Bool {
        let start = records.count
        let partition = cursor.partition
        cursors[partition] = nil
        var hasMore = true
        var failure: ClientError?
        do {
            if count > 0 { hasMore = try cursor.read(count, into: &records) }
        } catch {
            failure = error as? ClientError
        }
        let position = cursor.position
        let (version, epoch, size) = (cursor.version, cursor.epoch, cursor.sizeInBytes)
        let isCurrent = shared.withLock { shared -> Bool in
            guard
                shared.fetch.advance(
                    partition,
                    version: version,
                    to: position,
                    epoch: epoch,
                    finished: hasMore ? nil : size
                )
            else { return false }
            if let failure {
                shared.fetch.refetch(partition, version: version, from: position, now: .now())
                shared.fetch.note(failure)
            }
            return true
        }
        guard isCurrent else {
            records.removeSubrange(start...)
            return false
        }
        if hasMore, failure == nil { cursors[partition] = cursor }
        return !hasMore || failure != nil
    }

    // MARK: Waiting

    /// There is something for `poll`: records, an error, or the end.
    func wakePoll() {
        let waiter = shared.withLock { shared -> CheckedContinuation<Void, Never>? in
            shared.hasSignal = true
            defer { shared.waiter = nil }
            return shared.waiter?.continuation
        }
        waiter?.resume()
    }

    private func waitForSignal(until deadline: NIODeadline) async {
        let id = shared.withLock { shared -> UInt64 in
            shared.nextWaiterID += 1
            return shared.nextWaiterID
        }
        let timer = eventLoop.scheduleTask(deadline: deadline) { self.endWait(id) }
        defer { timer.cancel() }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let goesOn = shared.withLock { shared -> Bool in
                    if shared.hasSignal {
                        shared.hasSignal = false
                        return true
                    }
                    shared.waiter = (id, continuation)
                    return false
                }
                if goesOn { return continuation.resume() }
                if Task.isCancelled || NIODeadline.now() >= deadline { endWait(id) }
            }
        } onCancel: {
            endWait(id)
        }
        shared.withLock { $0.hasSignal = false }
    }

    private func endWait(_ id: UInt64) {
        let waiter = shared.withLock { shared -> CheckedContinuation<Void, Never>? in
            guard let waiter = shared.waiter, waiter.id == id else { return nil }
            shared.waiter = nil
            return waiter.continuation
        }
        waiter?.resume()
    }

    /// Asks the event loop to fetch; calls made meanwhile are one.
    func scheduleFetches() {
        let isNew = shared.withLock { shared -> Bool in
            defer { shared.fetchIsScheduled = true }
            return !shared.fetchIsScheduled
        }
        if isNew { eventLoop.execute { self.runFetches() } }
    }
}
