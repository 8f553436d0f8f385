// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore
import Synchronization

extension PartitionLog {
    /// Appends whole record batches and returns once their bytes are in the file; `whenDurable` tells when they may be
    /// acknowledged.
    ///
    /// The input is neither changed nor copied (but where a client's batches get another codec, see `LogSettings.compression`):
    /// each batch is written as a patched header followed by its untouched rest, all in one call to the system. All batches go into one segment, which is rolled first if need be: after any error
    /// nothing of the input is in the log. Only what a replica copied may be longer than a segment; then the append ends
    /// with the segment, and `AppendResult.lastOffset` tells how far it came.
    ///
    /// - Parameters:
    ///   - batches: One or more batches, format v2.
    ///   - origin: Decides what is checked; see `AppendOrigin`.
    ///   - leaderEpoch: Stamped on the batches, except those of a replica, which carry their own.
    ///   - now: This node's time, for log-append timestamps, timestamp bounds and producer expiry.
    public func append(
        _ batches: ByteBuffer,
        as origin: AppendOrigin,
        leaderEpoch: LeaderEpoch,
        now: Timestamp
    ) throws(LogError) -> AppendResult {
        let settings = settings
        if origin == .client, let codec = settings.compression.codec,
            let recompressed = try BatchCheck(settings: settings, origin: origin, now: now).recompress(batches, codec)
        {
            return try append(recompressed, settings, origin, leaderEpoch, now)
        }
        return try append(batches, settings, origin, leaderEpoch, now)
    }

    private func append(
        _ batches: ByteBuffer,
        _ settings: LogSettings,
        _ origin: AppendOrigin,
        _ leaderEpoch: LeaderEpoch,
        _ now: Timestamp
    ) throws(LogError) -> AppendResult {
        try batches.withUnsafeReadableBytes { bytes throws(LogError) in
            let (count, maxTimestamps) = try BatchCheck(settings: settings, origin: origin, now: now).validate(bytes)
            if let refusal = directory.refusal { throw refusal }
            var append = PendingAppend(
                bytes: bytes,
                batchCount: count,
                maxTimestamps: maxTimestamps,
                origin: origin,
                leaderEpoch: leaderEpoch,
                now: now,
                settings: settings
            )
            defer { append.deallocate() }
            return try perform(&append)
        }
    }

    private func perform(_ append: inout PendingAppend) throws(LogError) -> AppendResult {
        // The pending append holds pointers, which may not travel into a `Mutex` closure by the compiler's rules; the
        // closure runs at once and keeps nothing, so the pointer to it is sound.
        try withUnsafeMutablePointer(to: &append) { pointer throws(LogError) in
            nonisolated(unsafe) let pointer = pointer
            return try appender.withLock { appender throws(LogError) in
                try perform(&pointer.pointee, &appender)
            }
        }
    }

    private func perform(_ append: inout PendingAppend, _ appender: inout Appender) throws(LogError) -> AppendResult {
        let (end, logStart, offline) = published.withLock { ($0.end, $0.logStart, $0.offline) }
        if let offline { throw offline }
        if let role = appender.role { try role.check(append.origin, append.leaderEpoch, topicPartition) }
        if let duplicate = try append.prepare(from: end, producers: &appender.producers) {
            return AppendResult(
                firstOffset: duplicate.firstOffset,
                lastOffset: duplicate.lastOffset,
                logAppendTime: .none,
                logStartOffset: logStart,
                isDuplicate: true
            )
        }
        let chunk: Range<Int>
        do {
            chunk = try firstChunk(append, &appender)
            try write(chunk, &append, &appender)
        } catch {
            append.undo(&appender.producers)
            throw error
        }
        // Nothing, unless a replica's batches did not fit.
        append.undo(&appender.producers)
        return AppendResult(
            firstOffset: append.firstOffset,
            lastOffset: append.header(chunk.upperBound - 1).lastOffset,
            logAppendTime: append.settings.timestampType == .logAppendTime && append.origin != .replica
                ? append.now : .none,
            logStartOffset: logStart,
            isDuplicate: false
        )
    }

    /// The batches that go to the active segment, which is rolled first if need be: all, unless a replica's batches are
    /// more than a segment holds.
    private func firstChunk(_ append: PendingAppend, _ appender: inout Appender) throws(LogError) -> Range<Int> {
        let settings = append.settings
        let all = 0..<append.batchCount
        var wanted = (size: append.size(of: all), lastOffset: append.lastOffset)
        if append.origin == .replica {
            let first = append.header(0)
            wanted = (first.sizeInBytes, first.lastOffset)
        }
        var active = published.withLock { $0.active }
        if shouldRoll(active, for: wanted, settings, append.now, appender) {
            // Several batches have changed the producers' state already; the snapshot is of what is in the file.
            try roll(
                &appender,
                producers: append.batchCount > 1 && !environment.has(.snapshotHasWhatFollows)
                    ? append.writtenState(of: appender.producers) : nil
            )
            active = published.withLock { $0.active }
        }
        guard append.origin == .replica else { return all }
        var size = active.size
        for index in all {
            let header = append.header(index)
            let fits =
                size + header.sizeInBytes <= settings.segmentBytes
                && header.lastOffset - active.baseOffset <= Int64(Int32.max)
            // The first one goes in even where it alone exceeds the segment: its size was checked before.
            if !fits && index > 0 { return 0..<index }
            size += header.sizeInBytes
        }
        return all
    }

    private func shouldRoll(
        _ active: Segment,
        for wanted: (size: Int, lastOffset: Offset),
        _ settings: LogSettings,
        _ now: Timestamp,
        _ appender: Appender
    ) -> Bool {
        let (size, indexBytes, timeIndexBytes) = active.state.withLock {
            ($0.size, $0.offsetIndex?.sizeInBytes ?? 0, $0.timeIndex?.sizeInBytes ?? 0)
        }
        if wanted.lastOffset - active.baseOffset > Int64(Int32.max) { return true }
        if size == 0 { return false }
        return size + wanted.size > settings.segmentBytes
            || isTooOld(appender, settings, now)
            || indexBytes + OffsetIndex.entrySize > settings.segmentIndexBytes
            || timeIndexBytes + TimeIndex.entrySize > settings.segmentIndexBytes
    }

    /// Whether the active segment has reached `segment.ms`.
    func isTooOld(_ appender: Appender, _ settings: LogSettings, _ now: Timestamp) -> Bool {
        let limit =
            settings.isCompacted
            ? min(settings.segmentMilliseconds, settings.maxCompactionLagMilliseconds) : settings.segmentMilliseconds
        return appender.segmentStart >= 0 && now - appender.segmentStart >= limit
    }

    /// Writes a run of batches to the active segment and publishes them.
    private func write(
        _ chunk: Range<Int>,
        _ append: inout PendingAppend,
        _ appender: inout Appender
    ) throws(LogError) {
        let active = published.withLock { $0.active }
        if active.state.withLock({ $0.offsetIndex == nil }) { try active.loadIndexes() }
        let file = try active.file()
        let size = active.size
        do throws(FileSystemError) {
            if append.settings.preallocates {
                try active.reserve(append.size(of: chunk), limit: append.settings.segmentBytes, file: file)
            }
            try file.writeFully(append.pieces(of: chunk), at: size)
        } catch {
            throw writeFailed(error, active, file)
        }
        if appender.segmentStart < 0 || size == 0 { appender.segmentStart = append.now }
        let completed = append.commit(chunk, &appender.producers)
        for index in chunk { active.didWrite(append.header(index), indexInterval: append.settings.indexIntervalBytes) }
        environment.appendedBytes.add(append.size(of: chunk))
        publish(chunk, append, active, completed, appender.producers)
    }

    /// Makes written batches visible to readers and enqueues them for the next sync round.
    private func publish(
        _ chunk: Range<Int>,
        _ append: PendingAppend,
        _ active: Segment,
        _ completed: [CompletedTransaction],
        _ producers: ProducerTable
    ) {
        let first = append.header(chunk.lowerBound)
        let last = append.header(chunk.upperBound - 1)
        // Batches of several epochs come only from a leader's log, to a replica.
        let epochs: [(LeaderEpoch, Offset)] =
            chunk.count == 1 || first.partitionLeaderEpoch == last.partitionLeaderEpoch
            ? [] : chunk.map { (append.header($0).partitionLeaderEpoch, append.header($0).baseOffset) }
        let aborted = completed.filter(\.isAborted).map { transaction in
            AbortedTransaction(
                producerID: transaction.producerID,
                firstOffset: transaction.firstOffset,
                lastOffset: transaction.lastOffset,
                lastStableOffset: producers.lastStableOffset(after: transaction)
            )
        }
        let firstOpen = producers.firstOpenOffset
        let (mustQueue, ready) = published.withLock { state -> (Bool, [DurabilityWaiter]) in
            if first.partitionLeaderEpoch > state.epochs.latest {
                _ = state.epochs.begin(first.partitionLeaderEpoch, at: first.baseOffset)
                state.epochsChanged = true
            }
            for (epoch, offset) in epochs where state.epochs.begin(epoch, at: offset) { state.epochsChanged = true }
            state.firstOpenOffset = firstOpen
            if !completed.isEmpty { state.completed.append(contentsOf: completed) }
            if !aborted.isEmpty { state.aborted.append(contentsOf: aborted) }
            if state.unsynced.last !== active { state.unsynced.append(active) }
            state.end = last.nextOffset
            if case .fsync = state.settings.durability { return (!state.queue(), []) }
            return (false, state.takeReadyWaiters())
        }
        if !aborted.isEmpty { appendToTransactionIndex(aborted, active) }
        if mustQueue { environment.groupCommit.enqueue(self) }
        for waiter in ready { waiter.done(.success(())) }
    }

    /// The index is derived from the log: a failed write of it costs a rebuild, no record.
    private func appendToTransactionIndex(_ entries: [AbortedTransaction], _ segment: Segment) {
        do throws(FileSystemError) {
            let file = try fileSystem.open(segment.path(FileName.transactionIndex), [.write, .create])
            try file.writeFully(TransactionIndex.encode(entries), at: try file.size())
            segment.state.withLock { $0.transactionsUnsynced = true }
        } catch {
            directory.writeFailed(error)
        }
    }

    private func writeFailed(_ error: FileSystemError, _ active: Segment, _ file: any StorageFile) -> LogError {
        directory.writeFailed(error)
        do throws(FileSystemError) {
            // What was written in part must not be taken for records by a later recovery.
            try active.discardUnwritten(file: file)
        } catch {
            let failure = LogError(
                .offline,
                "\(topicPartition) has remains of a failed write that could not be removed (\(error)); restart the node to recover it",
                cause: error
            )
            published.withLock { $0.offline = $0.offline ?? failure }
        }
        return LogError(error, while: "appending to \(topicPartition)")
    }

    // MARK: Rolling

    /// Seals the active segment and begins a new one at the log's end. `producers`: their state there, where it is not
    /// the appender's.
    func roll(_ appender: inout Appender, producers: ProducerTable? = nil) throws(LogError) {
        let (active, end) = published.withLock { ($0.active, $0.end) }
        precondition(active.nextOffset == end || active.size == 0, "the active segment ends where the log ends")
        let next: Segment
        do throws(FileSystemError) {
            next = try Segment.create(
                baseOffset: end,
                directory: path,
                fileSystem: fileSystem,
                openFiles: environment.openFiles
            )
        } catch {
            directory.writeFailed(error)
            throw LogError(error, while: "beginning a new segment of \(topicPartition)")
        }
        do throws(LogError) { try active.seal() } catch {
            // The log goes on in the old segment, and the file of the new one would contradict it.
            active.state.withLock { $0.isSealed = false }
            next.close()
            try? fileSystem.unlinkIfPresent(next.path(FileName.log))
            if let cause = error.cause { directory.writeFailed(cause) }
            throw error
        }
        writeSnapshot(&appender, at: end, always: true, producers: producers)
        appender.segmentStart = .none
        let isQueued = published.withLock { state -> Bool in
            state.segments.append(next)
            if !state.unsynced.contains(where: { $0 === active }) { state.unsynced.append(active) }
            state.directoryChanged = true
            return state.queue()
        }
        if !isQueued { environment.groupCommit.enqueue(self) }
    }

    /// Writes the producers' state as of `offset`, the log's end. A snapshot carries a checksum and is derived: it is not
    /// synced (but for the one at the log's first segment, before which nothing can tell), and a failure to write it only
    /// makes the next recovery longer.
    func writeSnapshot(
        _ appender: inout Appender,
        at offset: Offset,
        always: Bool,
        producers: ProducerTable? = nil
    ) {
        if appender.snapshotOffset == offset { return }
        if !always && appender.producers.isEmpty && appender.snapshotOffset == nil { return }
        let name = "\(path)/\(FileName.digits(offset))\(FileName.producerSnapshot)"
        do throws(FileSystemError) {
            try fileSystem.replaceFile(
                name,
                in: path,
                with: ProducerSnapshot.encode(producers ?? appender.producers),
                durable: published.withLock { $0.segments[0].baseOffset == offset && offset > 0 }
            )
            appender.snapshotOffset = offset
        } catch {
            directory.writeFailed(error)
        }
    }
}
