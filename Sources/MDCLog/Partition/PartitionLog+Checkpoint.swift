// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

extension PartitionLog {
    /// Brings the checkpoint up to date, as far as the log is synced: writes the indexes and the producers' snapshot,
    /// and notes where a recovery could start. Returns whether the checkpoint has changed.
    func advanceCheckpoint() throws(LogError) -> Bool {
        let confirmed = published.withLock { $0.confirmCheckpoint() }
        let isCurrent = published.withLock { state in
            state.offline?.code == .damaged
                || state.checkpoint.recoveryOffset == state.end && state.checkpoint.position >= 0
        }
        if isCurrent { return confirmed }
        return try appender.withLock { appender throws(LogError) in
            guard !appender.isClosed else { return confirmed }
            return try prepareCheckpoint(&appender) || confirmed
        }
    }

    /// Notes where a recovery could start once all is synced; tells whether that is so already.
    private func prepareCheckpoint(_ appender: inout Appender) throws(LogError) -> Bool {
        let (active, end, start, aborted) = published.withLock {
            ($0.active, $0.end, $0.logStart, $0.aborted.count)
        }
        try active.loadIndexes()
        try active.writeIndexes(durable: false)
        writeSnapshot(&appender, at: end, always: false)
        let (maxTimestamp, offsetOfMax) = try active.largestTimestamp()
        let hasNoProducers = appender.producers.isEmpty
        let next = active.state.withLock { state in
            let offsets = state.offsetIndex?.encode() ?? []
            let times = state.timeIndex?.encode() ?? []
            return PartitionCheckpoint(
                logStartOffset: start,
                recoveryOffset: end,
                segmentBase: active.baseOffset,
                position: state.size,
                maxTimestamp: maxTimestamp,
                offsetOfMaxTimestamp: offsetOfMax,
                offsetIndexEntries: offsets.count / OffsetIndex.entrySize,
                offsetIndexChecksum: offsets.checksum,
                timeIndexEntries: times.count / TimeIndex.entrySize,
                timeIndexChecksum: times.checksum,
                abortedTransactions: aborted,
                hasNoProducers: hasNoProducers
            )
        }
        return published.withLock { state in
            state.nextCheckpoint = next
            return state.confirmCheckpoint()
        }
    }

    /// Closes the log in order: trims reserved space, writes indexes, snapshot and checkpoint. Everything must be synced.
    func close() throws(LogError) {
        try appender.withLock { appender throws(LogError) in
            guard !appender.isClosed else { return }
            appender.isClosed = true
            let (segments, end, offline) = published.withLock { state in
                defer {
                    state.offline = state.offline ?? LogError(.closed, "\(topicPartition) is closed")
                }
                return (state.segments, state.end, state.offline)
            }
            if offline == nil {
                let active = segments[segments.count - 1]
                try trim(active)
                writeSnapshot(&appender, at: end, always: false)
                let isCurrent = published.withLock { state in
                    state.checkpoint.recoveryOffset == end && state.checkpoint.position >= 0
                }
                if !isCurrent { _ = try prepareCheckpoint(&appender) }
                try active.writeIndexes(durable: true)
            }
            for segment in segments { segment.close() }
        }
        let waiters = published.withLock { state in
            defer { state.waiters = [] }
            return state.waiters
        }
        let error = LogError(.closed, "\(topicPartition) was closed before the records became durable")
        for waiter in waiters { waiter.done(.failure(error)) }
    }

    private func trim(_ active: Segment) throws(LogError) {
        let (size, physical, isQuarantined) = active.state.withLock { ($0.size, $0.physicalSize, $0.isQuarantined) }
        let isLoaded = active.state.withLock { $0.offsetIndex != nil }
        if isLoaded {
            active.state.withLock { state in
                state.addLastTimeEntry()
            }
        }
        guard physical != size, !isQuarantined else { return }
        let file = try active.file()
        do throws(FileSystemError) {
            try file.truncate(to: size)
            try file.sync()
        } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "closing \(topicPartition)")
        }
        active.state.withLock { $0.physicalSize = size }
    }
}

extension PartitionLog.Published {
    /// Makes the next checkpoint the present one if all it covers is synced; tells whether it did.
    mutating func confirmCheckpoint() -> Bool {
        guard let next = nextCheckpoint, next.recoveryOffset <= synced else { return false }
        checkpoint = next
        nextCheckpoint = nil
        return true
    }

    /// Takes the recovery point back to `offset`, to scan its segment from the start.
    mutating func lowerCheckpoint(to offset: Offset, segmentBase: Offset) {
        nextCheckpoint = nil
        checkpoint.logStartOffset = min(logStart, offset)
        checkpoint.recoveryOffset = min(checkpoint.recoveryOffset, offset)
        checkpoint.segmentBase = min(segmentBase, checkpoint.segmentBase)
        checkpoint.position = -1
    }
}

extension PartitionCheckpoint {
    /// A checkpoint that vouches for nothing at or after `offset`.
    init(startingAt offset: Offset) {
        self.init(
            logStartOffset: offset,
            recoveryOffset: offset,
            segmentBase: offset,
            position: -1,
            maxTimestamp: .none,
            offsetOfMaxTimestamp: offset,
            offsetIndexEntries: 0,
            offsetIndexChecksum: 0,
            timeIndexEntries: 0,
            timeIndexChecksum: 0,
            abortedTransactions: 0,
            hasNoProducers: false
        )
    }
}
