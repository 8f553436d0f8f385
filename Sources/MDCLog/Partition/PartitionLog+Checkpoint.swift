// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

extension PartitionLog {
    /// A checkpoint as of one moment, with what must be written before it counts.
    struct CheckpointDraft: Sendable {
        var checkpoint: PartitionCheckpoint
        /// What was true of the log then; where it has changed, the draft is void.
        var revision: Int
        /// The producers' state, where it needs a snapshot.
        var producers: ProducerTable?
    }

    /// Brings the checkpoint up to date, as far as the log is synced: writes the indexes and the producers' snapshot,
    /// and notes where a recovery could start. Returns whether the checkpoint has changed.
    ///
    /// Only the draft is made under the appender lock; what reads comes before it, what writes after it.
    func advanceCheckpoint() throws(LogError) -> Bool {
        let confirmed = published.withLock { $0.confirmCheckpoint() }
        let (active, isCurrent) = published.withLock { state in
            (
                state.active,
                state.offline?.code == .damaged
                    || state.checkpoint.recoveryOffset == state.end && state.checkpoint.position >= 0
            )
        }
        if isCurrent { return confirmed }
        try active.loadIndexes()
        _ = try active.largestTimestamp()
        let draft = appender.withLock { appender in appender.isClosed ? nil : self.draftCheckpoint(appender) }
        guard let draft else { return confirmed }
        // Space that a roll has given back is on disk with the next round; until then a recovery has to look there.
        let sealed = published.withLock {
            $0.segments.suffix(9).filter { $0.baseOffset < draft.checkpoint.segmentBase }
        }
        if sealed.contains(where: \.isTrimUnsynced) { return confirmed }
        try active.writeIndexes(durable: false)
        _ = try syncDerived()
        try writeSnapshot(of: draft)
        return accept(draft) || confirmed
    }

    /// Brings the derived files of what lies before the next recovery point to disk: a recovery does not read that again.
    /// Indexes of the active segment are vouched for by checksums in the checkpoint instead. Tells whether there were any.
    private func syncDerived() throws(LogError) -> Bool {
        let segments = published.withLock { state in
            state.segments[max(state.segmentIndex(for: state.checkpoint.segmentBase) - 1, 0)...]
        }
        var isChanged = false
        for segment in segments where try segment.syncDerived() { isChanged = true }
        if isChanged { try syncFolder("checkpointing") }
        return isChanged
    }

    private func syncFolder(_ doing: String) throws(LogError) {
        do throws(FileSystemError) { try fileSystem.syncDirectory(path) } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "\(doing) \(topicPartition)")
        }
    }

    /// What a checkpoint of this moment says; nil where the active segment's indexes are not in memory.
    private func draftCheckpoint(_ appender: Appender) -> CheckpointDraft? {
        let (active, end, start, aborted, revision) = published.withLock {
            ($0.active, $0.end, $0.logStart, $0.aborted.count, $0.revision)
        }
        let needsSnapshot =
            appender.snapshotOffset != end && !(appender.producers.isEmpty && appender.snapshotOffset == nil)
        let checkpoint = active.state.withLock { state -> PartitionCheckpoint? in
            guard let offsets = state.offsetIndex, let times = state.timeIndex, let maxTimestamp = state.maxTimestamp
            else { return nil }
            return PartitionCheckpoint(
                logStartOffset: start,
                recoveryOffset: end,
                segmentBase: active.baseOffset,
                position: state.size,
                maxTimestamp: maxTimestamp,
                offsetOfMaxTimestamp: state.offsetOfMaxTimestamp,
                offsetIndexEntries: offsets.entries.count,
                offsetIndexChecksum: offsets.checksum,
                timeIndexEntries: times.entries.count,
                timeIndexChecksum: times.checksum,
                abortedTransactions: aborted,
                hasNoProducers: appender.producers.isEmpty
            )
        }
        return checkpoint.map {
            CheckpointDraft(
                checkpoint: $0,
                revision: revision,
                producers: needsSnapshot ? appender.producers : nil
            )
        }
    }

    /// Writes a draft's snapshot under a temporary name, and gives it its own only if the log was not cut meanwhile: a
    /// snapshot of what is gone must never be there.
    private func writeSnapshot(of draft: CheckpointDraft) throws(LogError) {
        guard let producers = draft.producers else { return }
        let offset = draft.checkpoint.recoveryOffset
        let name = "\(path)/\(FileName.digits(offset))\(FileName.producerSnapshot)"
        let temporary = "\(name).checkpoint\(FileName.temporary)"
        do throws(FileSystemError) {
            let file = try fileSystem.open(temporary, [.write, .create])
            try file.truncate(to: 0)
            try file.writeFully(ProducerSnapshot.encode(producers), at: 0)
            // It takes the place of the one at the log's first segment, before which nothing can tell.
            if offset > 0, published.withLock({ $0.segments[0].baseOffset == offset }) { try file.sync() }
            try appender.withLock { appender throws(FileSystemError) in
                guard !appender.isClosed, published.withLock({ $0.revision }) == draft.revision else {
                    try fileSystem.unlinkIfPresent(temporary)
                    return
                }
                try fileSystem.rename(temporary, to: name)
                appender.snapshotOffset = max(appender.snapshotOffset ?? offset, offset)
            }
        } catch {
            // Derived: a failure to write it only makes the next recovery longer.
            directory.writeFailed(error)
        }
    }

    /// Makes a draft the next checkpoint, which holds once all it covers is synced; tells whether that is so already.
    private func accept(_ draft: CheckpointDraft) -> Bool {
        published.withLock { state in
            guard state.revision == draft.revision,
                state.checkpoint.recoveryOffset <= draft.checkpoint.recoveryOffset
            else { return false }
            state.nextCheckpoint = draft.checkpoint
            return state.confirmCheckpoint(ahead: environment.has(.checkpointAheadOfSync))
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
            if published.withLock({ $0.epochsAreLate }) {
                throw LogError(
                    .noSpace,
                    "\(topicPartition) was closed while its disk was full; the next start looks through its end"
                )
            }
            if offline == nil {
                let active = segments[segments.count - 1]
                try trim(active)
                writeSnapshot(&appender, at: end, always: false)
                let isCurrent = published.withLock { state in
                    state.checkpoint.recoveryOffset == end && state.checkpoint.position >= 0
                }
                let isDone = try syncDerived()
                if !isCurrent {
                    try active.loadIndexes()
                    _ = try active.largestTimestamp()
                    if let draft = draftCheckpoint(appender) { _ = accept(draft) }
                }
                let isUnsynced = active.state.withLock { $0.indexesUnsynced || $0.indexesChanged }
                try active.writeIndexes(durable: true)
                if !isDone && !isCurrent || isUnsynced { try syncFolder("closing") }
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
        guard physical != size || active.isTrimUnsynced, !isQuarantined else { return }
        let file = try active.file()
        do throws(FileSystemError) {
            try file.truncate(to: size)
        } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "closing \(topicPartition)")
        }
        do throws(FileSystemError) { try file.sync() } catch {
            let failure = LogError(error, while: "closing \(topicPartition)")
            environment.groupCommit.syncFailed(failure)
            throw failure
        }
        active.state.withLock { $0.physicalSize = size }
    }
}

extension PartitionLog.Published {
    /// Makes the next checkpoint the present one if all it covers is synced; tells whether it did.
    mutating func confirmCheckpoint(ahead: Bool = false) -> Bool {
        guard let next = nextCheckpoint, next.recoveryOffset <= synced || ahead else { return false }
        checkpoint = next
        nextCheckpoint = nil
        return true
    }

    /// Forgets a checkpoint, or a draft of one, that was made before the log changed otherwise than by an append.
    mutating func discardNextCheckpoint() {
        nextCheckpoint = nil
        revision += 1
    }

    /// Takes the recovery point back to `offset`, to scan its segment from the start.
    mutating func lowerCheckpoint(to offset: Offset, segmentBase: Offset) {
        discardNextCheckpoint()
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
