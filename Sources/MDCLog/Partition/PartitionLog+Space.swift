// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import Synchronization

extension PartitionLog {
    // MARK: Removing from the start

    /// Makes `offset` the first that can be read, durably, and removes the segments wholly before it. Blocks on the disk.
    /// Throws `.offsetOutOfRange` where `offset` is beyond the high watermark.
    public func deleteRecords(before offset: Offset) throws(LogError) {
        let (committed, start) = published.withLock { ($0.committed, $0.logStart) }
        guard offset <= committed else {
            throw LogError(
                .offsetOutOfRange,
                "records of \(topicPartition) can be deleted up to its high watermark, \(committed), not to \(offset)"
            )
        }
        if offset <= start { return }
        try appender.withLock { appender throws(LogError) in
            published.withLock { $0.advanceStart(to: offset) }
            // Before any file goes: after a crash the start must not fall back into what is gone.
            if !environment.has(.removalBeforeCheckpoint) { try directory.writeCheckpoint() }
            published.withLock { $0.forgetEpochsBeforeStart() }
            try removeSegments(&appender, upTo: .max) { $0.nextOffset <= offset }
        }
    }

    /// Removes whole segments from the start while `isDue` says so; never the active one, none with unsynced or
    /// uncommitted records. Their files are renamed at once and unlinked later.
    @discardableResult
    func removeSegments(
        _ appender: inout Appender,
        upTo count: Int,
        where isDue: (Segment) throws(LogError) -> Bool
    ) throws(LogError) -> Int {
        var due: [Segment] = []
        let (segments, limit) = published.withLock { ($0.segments, min($0.committed, $0.synced)) }
        for segment in segments.dropLast().prefix(count) {
            guard segment.nextOffset <= limit, try isDue(segment) else { break }
            due.append(segment)
        }
        guard let last = due.last else { return 0 }
        published.withLock { $0.advanceStart(to: max($0.logStart, last.nextOffset)) }
        // Before any file goes: after a crash the start must not fall back into what is gone, and the producers' state
        // can no longer be made from it.
        try keepSnapshot(at: segments[due.count].baseOffset)
        if !environment.has(.removalBeforeCheckpoint) { try directory.writeCheckpoint() }
        published.withLock { state in
            state.forgetEpochsBeforeStart()
            state.segments.removeFirst(due.count)
            state.unsynced.removeAll { segment in due.contains { $0 === segment } }
            state.directoryChanged = true
        }
        for segment in due { try retire(segment) }
        if environment.has(.removalBeforeCheckpoint) { try directory.writeCheckpoint() }
        removeSnapshots(&appender)
        requestSync()
        return due.count
    }

    /// Makes sure that the producers' state at a segment's base is on disk.
    private func keepSnapshot(at offset: Offset) throws(LogError) {
        let name = "\(path)/\(FileName.digits(offset))\(FileName.producerSnapshot)"
        do throws(FileSystemError) {
            let bytes = try fileSystem.readSmallFile(name)
            if let bytes, ProducerSnapshot.decode(bytes, now: 0) != nil {
                try fileSystem.open(name, [.write]).sync()
                try fileSystem.syncDirectory(path)
                return
            }
        } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "keeping the producers of \(topicPartition)")
        }
        let loader = ProducerLoader(
            path: path,
            fileSystem: fileSystem,
            segments: published.withLock { $0.segments },
            now: environment.clock.now()
        )
        let table = try loader.load(upTo: offset, mayAssumeNone: false).table
        do throws(FileSystemError) {
            try fileSystem.replaceFile(name, in: path, with: ProducerSnapshot.encode(table))
        } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "keeping the producers of \(topicPartition)")
        }
    }

    /// Takes a segment's files out of the log: renamed now, unlinked after `file.delete.delay.ms`.
    func retire(_ segment: Segment) throws(LogError) {
        segment.close()
        do throws(FileSystemError) {
            // The log first: indexes without a log are leftovers, a log without indexes is whole.
            for suffix in [FileName.log] + FileName.besideLog {
                let file = segment.path(suffix)
                guard try fileSystem.exists(file) else { continue }
                try fileSystem.rename(file, to: file + FileName.deleted)
                environment.deletions.add(
                    file + FileName.deleted,
                    at: environment.clock.now() + settings.fileDeleteDelayMilliseconds
                )
            }
        } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "removing a segment of \(topicPartition)")
        }
    }

    /// Removes snapshots before the first segment but the newest of them, which a later recovery may begin with.
    func removeSnapshots(_ appender: inout Appender, after limit: Offset? = nil) {
        guard let names = try? fileSystem.list(path) else { return }
        let start = published.withLock { $0.segments[0].baseOffset }
        let offsets = names.compactMap { FileName.offset(in: $0.name, suffix: FileName.producerSnapshot) }.sorted()
        let newestBefore = offsets.last { $0 <= start }
        for offset in offsets {
            let isOld = newestBefore.map { offset < $0 } ?? false
            let isBeyond = limit.map { offset > $0 } ?? false
            guard isOld || isBeyond else { continue }
            try? fileSystem.unlinkIfPresent("\(path)/\(FileName.digits(offset))\(FileName.producerSnapshot)")
        }
        // What was cut off goes with the records beside which it stood.
        for entry in names where entry.name.hasSuffix(FileName.torn) {
            guard let offset = TornTail.offset(in: entry.name), offset < start else { continue }
            try? fileSystem.unlinkIfPresent("\(path)/\(entry.name)")
        }
        if let limit { appender.snapshotOffset = offsets.last { $0 <= limit } }
    }

    /// Applies `retention.ms` and `retention.bytes`; returns the number of segments removed.
    func applyRetention(now: Timestamp) throws(LogError) -> Int {
        let settings = settings
        return try appender.withLock { appender throws(LogError) in
            guard !appender.isClosed else { return 0 }
            let start = logStartOffset
            var removed = try removeSegments(&appender, upTo: .max) { $0.nextOffset <= start }
            guard settings.cleanupPolicy.contains(.delete) else { return removed }
            if settings.retentionMilliseconds >= 0 {
                let limit: Timestamp = now + -settings.retentionMilliseconds
                // An active segment that has expired as a whole is sealed first, so that it can go too.
                let active = published.withLock { $0.active }
                if active.size > 0, try age(of: active) < limit, isCommitted(active) {
                    try roll(&appender)
                }
                removed += try removeSegments(&appender, upTo: try expiredSegments(before: limit)) { _ in true }
            }
            if settings.retentionBytes >= 0 {
                var excess = Int64(sizeInBytes) - settings.retentionBytes
                removed += try removeSegments(&appender, upTo: .max) { segment in
                    guard excess >= Int64(segment.size) else { return false }
                    excess -= Int64(segment.size)
                    return true
                }
            }
            return removed
        }
    }

    /// How many segments from the start have expired. One that compaction has emptied has no records to wait for: it goes
    /// with the segment after it, or when its file is old enough itself.
    private func expiredSegments(before limit: Timestamp) throws(LogError) -> Int {
        var count = 0
        for (index, segment) in published.withLock({ $0.segments }).dropLast().enumerated() {
            if try age(of: segment) < limit {
                count = index + 1
            } else if segment.size > 0 {
                break
            }
        }
        return count
    }

    private func isCommitted(_ segment: Segment) -> Bool {
        published.withLock { segment.nextOffset <= min($0.committed, $0.synced) }
    }

    /// The time of a segment's newest record; where it has none, when its file was last changed.
    private func age(of segment: Segment) throws(LogError) -> Timestamp {
        let newest = try segment.largestTimestamp().timestamp
        if newest >= 0 { return newest }
        do throws(FileSystemError) {
            return Timestamp(try fileSystem.attributes(segment.path(FileName.log))?.modified ?? 0)
        } catch {
            throw LogError(error, while: "looking at a segment of \(topicPartition)")
        }
    }

    /// Seals the active segment where it has reached `segment.ms`.
    func rollIfOld(now: Timestamp) throws(LogError) {
        let settings = settings
        try appender.withLock { appender throws(LogError) in
            guard !appender.isClosed, published.withLock({ $0.active }).size > 0,
                isTooOld(appender, settings, now), offlineReason == nil
            else { return }
            try roll(&appender)
        }
    }

    /// Forgets idempotent producers that have been idle for too long.
    func expireProducers(now: Timestamp) {
        let limit = now + -environment.configuration.producerExpirationMilliseconds
        appender.withLock { appender in
            if appender.producers.expire(before: limit) > 0 { appender.snapshotOffset = nil }
        }
    }

    // MARK: Removing from the end

    /// Cuts the log so that it ends at `offset` or, where a batch spans it, before that batch; durably, before it
    /// returns. For followers, which cut by leader epoch. Blocks on the disk. `following`: the leader epoch in which the
    /// cut was decided; throws `.notLeader` where the replica has another role by now.
    public func truncate(to offset: Offset, following: LeaderEpoch? = nil) throws(LogError) {
        try appender.withLock { appender throws(LogError) in
            if let following { try appender.role?.check(.replica, following, topicPartition) }
            let (start, end) = published.withLock { ($0.logStart, $0.end) }
            if offset >= end { return }
            if offset < start {
                throw LogError(
                    .offsetOutOfRange,
                    "\(topicPartition) begins at \(start) and cannot be cut at \(offset); reset it instead"
                )
            }
            try cut(&appender, to: offset)
        }
    }

    /// Empties the log and lets it begin anew at `offset`. For followers that are behind their leader's start, or that
    /// lost their data. Damage that was found goes with the data. Blocks on the disk. `following` as with ``truncate(to:following:)``.
    public func reset(to offset: Offset, following: LeaderEpoch? = nil) throws(LogError) {
        try appender.withLock { appender throws(LogError) in
            if let following { try appender.role?.check(.replica, following, topicPartition) }
            try restart(&appender, at: offset)
        }
    }

    private func restart(_ appender: inout Appender, at offset: Offset) throws(LogError) {
        let old = published.withLock { state -> [Segment] in
            state.generation += 1
            state.synced = min(state.synced, state.logStart)
            state.lowerCheckpoint(to: state.logStart, segmentBase: state.segments[0].baseOffset)
            return state.segments
        }
        try directory.writeCheckpoint()
        for segment in old.reversed() { try retire(segment) }
        do throws(FileSystemError) {
            let next = try Segment.create(
                baseOffset: offset,
                directory: path,
                fileSystem: fileSystem,
                openFiles: environment.openFiles
            )
            appender.producers = ProducerTable()
            appender.segmentStart = .none
            let waiters = published.withLock { $0.restart(with: next) }
            removeSnapshots(&appender, after: -1)
            try fileSystem.syncDirectory(path)
            try fileSystem.replaceFile(
                "\(path)/\(FileName.leaderEpochs)",
                in: path,
                with: LeaderEpochs().encode()
            )
            fail(waiters)
        } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "resetting \(topicPartition)")
        }
        try directory.writeCheckpoint()
    }

    private func fail(_ waiters: [DurabilityWaiter]) {
        let error = LogError(.closed, "\(topicPartition) was truncated before the records became durable")
        for waiter in waiters { waiter.done(.failure(error)) }
    }

    private func cut(_ appender: inout Appender, to target: Offset) throws(LogError) {
        let segments = published.withLock { $0.segments }
        let index = published.withLock { $0.segmentIndex(for: target) }
        let keep = segments[index]
        let location = try keep.locate(target)
        let end =
            try location.map { at throws(LogError) in try keep.endOffset(before: at.position) }
            ?? min(target, keep.nextOffset)
        // Records were deleted up to the middle of a batch, which goes as a whole: nothing is left.
        let start = published.withLock { $0.logStart }
        if end < start { return try restart(&appender, at: start) }
        // The recovery point goes back before the bytes do: a crash in between must not look like lost data.
        published.withLock { state in
            state.generation += 1
            state.synced = min(state.synced, end)
            state.lowerCheckpoint(to: end, segmentBase: keep.baseOffset)
        }
        if !environment.has(.truncationBeforeCheckpoint) { try directory.writeCheckpoint() }
        let (waiters, aborted) = published.withLock { state in
            state.removeAfter(end, keeping: segments[...index])
        }
        for segment in segments[(index + 1)...].reversed() { try retire(segment) }
        do throws(FileSystemError) {
            if let location { try truncate(keep, to: location.position, nextOffset: end) }
            try fileSystem.unlinkIfPresent(keep.path(FileName.footer))
            // Those of what is cut away must not be taken for the state of what gets the same offsets.
            removeSnapshots(&appender, after: end)
            // So must the aborts: what gets their offsets may be no marker.
            rewriteTransactionIndex(keep, aborted, durable: true)
            try fileSystem.syncDirectory(path)
        } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "truncating \(topicPartition)")
        }
        try keep.rebuildIndexes()
        try reloadProducers(&appender)
        fail(waiters)
        try directory.writeCheckpoint()
    }

    private func truncate(_ segment: Segment, to size: Int, nextOffset: Offset) throws(FileSystemError) {
        let file = try opened(segment)
        try segment.truncate(to: size, nextOffset: nextOffset, file: file)
        do throws(FileSystemError) { try file.sync() } catch {
            // What was appended before and not synced may be gone with it.
            environment.groupCommit.syncFailed(LogError(error, while: "truncating \(topicPartition)"))
            throw error
        }
        segment.didSync(size: size)
    }

    private func opened(_ segment: Segment) throws(FileSystemError) -> any StorageFile {
        do throws(LogError) {
            return try segment.file()
        } catch {
            throw error.cause
                ?? FileSystemError(.other, call: "open", path: segment.path(FileName.log), reason: error.message)
        }
    }

    func rewriteTransactionIndex(_ segment: Segment, _ aborted: [AbortedTransaction], durable: Bool = false) {
        let path = segment.path(FileName.transactionIndex)
        let own = aborted.filter { $0.lastOffset >= segment.baseOffset && $0.lastOffset < segment.nextOffset }
        do throws(FileSystemError) {
            if own.isEmpty {
                try fileSystem.unlinkIfPresent(path)
            } else {
                try fileSystem.replaceFile(
                    path,
                    in: self.path,
                    with: TransactionIndex.encode(own),
                    durable: durable
                )
            }
        } catch {
            directory.writeFailed(error)
        }
    }

    /// Makes the producers' state anew: the newest sound snapshot, then the batches after it.
    private func reloadProducers(_ appender: inout Appender) throws(LogError) {
        let (segments, end) = published.withLock { ($0.segments, $0.end) }
        let loader = ProducerLoader(
            path: path,
            fileSystem: fileSystem,
            segments: segments,
            now: environment.clock.now()
        )
        let loaded = try loader.load(upTo: end, mayAssumeNone: false)
        if let hole = loaded.holes.first { throw LogError(.damaged, hole.reason) }
        appender.producers = loaded.table
        appender.snapshotOffset = loaded.snapshotOffset
        let firstOpen = loaded.table.firstOpenOffset
        published.withLock { $0.firstOpenOffset = firstOpen }
    }
}

extension PartitionLog.Published {
    mutating func advanceStart(to offset: Offset) {
        logStart = max(logStart, offset)
        let start = logStart
        if !damage.isEmpty { damage.removeAll { ($0.nextOffset ?? Offset(Int64.max)) <= start } }
        if let first = aborted.first, first.lastOffset < start { aborted.removeAll { $0.lastOffset < start } }
        let durable = checkpoint.recoveryOffset
        checkpoint.abortedTransactions = aborted.count { $0.lastOffset < durable }
        discardNextCheckpoint()
    }

    /// Once the start is on disk: a log whose start falls back needs its epochs.
    mutating func forgetEpochsBeforeStart() {
        if epochs.removeBefore(logStart) { epochsChanged = true }
    }

    /// Forgets everything at and after `end`; returns the waiters whose offsets are gone, and what is left of the aborted
    /// transactions.
    mutating func removeAfter(
        _ end: Offset,
        keeping kept: ArraySlice<Segment>
    ) -> ([DurabilityWaiter], [AbortedTransaction]) {
        segments = Array(kept)
        self.end = end
        unsynced.removeAll { segment in !kept.contains { $0 === segment } }
        if let mark = highWatermark { highWatermark = min(mark, end) }
        if epochs.truncate(to: end) { epochsChanged = true }
        // Damage that is cut away is gone: a follower copies the records anew from its leader.
        damage.removeAll { $0.firstOffset >= end }
        if damage.isEmpty, let offline, offline.code == .damaged { self.offline = nil }
        cleanedTo = min(cleanedTo, end)
        aborted.removeAll { $0.lastOffset >= end }
        completed.removeAll { $0.lastOffset >= end }
        let lost = waiters.filter { $0.offset > end }
        waiters.removeAll { $0.offset > end }
        return (lost, aborted)
    }

    mutating func restart(with segment: Segment) -> [DurabilityWaiter] {
        segments = [segment]
        logStart = segment.baseOffset
        end = segment.baseOffset
        synced = segment.baseOffset
        lowerCheckpoint(to: segment.baseOffset, segmentBase: segment.baseOffset)
        highWatermark = nil
        cleanedTo = 0
        epochs = LeaderEpochs()
        epochsChanged = false
        firstOpenOffset = nil
        completed = []
        aborted = []
        unsynced = []
        damage = []
        if let offline, offline.code == .damaged { self.offline = nil }
        defer { waiters = [] }
        return waiters
    }
}

extension Segment {
    /// The offset after the last batch before `position`, where a batch begins: the offsets from there to that batch may
    /// be a gap, which a recovery would not find again.
    func endOffset(before position: Int) throws(LogError) -> Offset {
        try loadIndexes()
        let from = state.withLock { $0.offsetIndex?.boundary(atOrBefore: position - 1) ?? 0 }
        var end = baseOffset
        var walker = HeaderWalker(file: try file(), from: position == 0 ? 0 : from, to: position)
        while let (_, header) = try walker.next() { end = header.nextOffset }
        return end
    }

    /// Cuts the file and forgets the indexes.
    func truncate(to size: Int, nextOffset: Offset, file: any StorageFile) throws(FileSystemError) {
        try file.truncate(to: size)
        state.withLock { state in
            state.size = size
            state.physicalSize = size
            state.syncedSize = min(state.syncedSize, size)
            state.nextOffset = nextOffset
            state.maxTimestamp = size == 0 ? Timestamp.none : nil
            state.isSealed = false
            state.recent.removeAll()
            state.cursors.removeAll()
            state.offsetIndex = nil
            state.timeIndex = nil
        }
    }
}
