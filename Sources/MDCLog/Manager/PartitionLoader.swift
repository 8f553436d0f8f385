// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// Opens the folder of a partition: recovers it where it was not closed in order, and proves what it takes on trust.
///
/// Below the recovery point the log is durable: damage found there is reported and left alone. From the recovery point
/// on, batches are verified one by one; the first that is not valid ends the log, for nothing after it can have been
/// acknowledged.
struct PartitionLoader {
    let topicPartition: TopicPartition
    let directory: DataDirectory
    let path: String
    let environment: LogEnvironment
    /// Ours, if there is one for the partition.
    let checkpoint: PartitionCheckpoint?
    /// Kafka's, if there is one for the partition.
    let recoveryPoint: Offset?
    let logStart: Offset?
    /// Whether the data folder was closed in order.
    let isClean: Bool
    /// Whether this engine wrote the log, whose segments then follow each other without gaps above the recovery point: the
    /// data folder has a checkpoint of ours, and nothing says that the partition was moved there.
    let isOurs: Bool
    let settings: LogSettings

    var fileSystem: any FileSystem { environment.fileSystem }
    /// Whether the data folder was at rest and knows nothing of the partition.
    var isMovedIn: Bool { isClean && !isOurs && checkpoint == nil && recoveryPoint == nil }

    /// What is put together while loading.
    struct Progress {
        var segments: [Segment] = []
        var table = ProducerTable()
        var snapshotOffset: Offset?
        var aborted: [AbortedTransaction] = []
        var epochs = LeaderEpochs()
        var epochsChanged = false
        /// Whether the epochs' file was missing or damaged.
        var epochsAreUnknown = false
        var end: Offset = 0
        var report: RecoveryReport
        /// Where the scan of producers began.
        var scannedFrom: Offset = 0
        /// Segments that were scanned and may hold bytes that are not on disk.
        var scanned: [Segment] = []
        /// Where in scanned segments that begins which no checkpoint says is on disk.
        var unsure: [(segment: Segment, position: Int)] = []
        var directoryChanged = false
        /// Damage that scrubbing found before this start.
        var noted: [DamageReport] = []
    }

    /// Opens the log; the report is nil where nothing had to be recovered.
    func load() throws(LogError) -> (log: PartitionLog, report: RecoveryReport?) {
        var progress = Progress(report: RecoveryReport(topicPartition: topicPartition))
        let topicID = try readTopicID()
        let names = try cleanUp(&progress)
        try openSegments(names, &progress)
        let firstBase = progress.segments[0].baseOffset
        let start = max(logStart ?? checkpoint?.logStartOffset ?? firstBase, firstBase)
        try loadNotes(names, &progress)
        loadEpochs(&progress)
        var durable = max(checkpoint?.recoveryOffset ?? 0, recoveryPoint ?? 0)
        var isRecovered = true
        if isClean, try openClean(&progress) {
            isRecovered = false
            // Who closed the folder in order has synced it. A point before the end would let a later recovery take the gaps of
            // a compaction for losses.
            durable = progress.end
            // Without our checkpoint (closed by Kafka) a log that has no snapshot had no producers.
            try loadProducers(&progress, mayAssumeNone: checkpoint?.hasNoProducers ?? true)
        } else {
            // A folder that was moved in at rest is whole: what was sealed before is not cut, however much of it is wrong.
            if isMovedIn { durable = progress.segments[progress.segments.count - 1].baseOffset }
            try finishRemoval(&progress, start: start)
            try recover(&progress, durable: durable, start: start)
            // The recovery has written the producers' state that was missing.
            try finishRemoval(&progress, start: start)
            try beginAnew(&progress, start: start)
        }
        try settleEpochs(&progress)
        try loadTransactions(&progress, names, start: start, isRecovered: isRecovered)
        if isRecovered {
            try syncScanned(&progress)
            // With their indexes written the files may be closed again: there may be more partitions than descriptors.
            for segment in progress.scanned where !segment.state.withLock({ $0.isQuarantined }) {
                try segment.writeIndexes(durable: false)
            }
        }
        let isNews = isRecovered || !progress.report.damage.isEmpty
        return (makeLog(progress, topicID, start: start, durable: durable), isNews ? progress.report : nil)
    }

    private func makeLog(_ progress: Progress, _ topicID: TopicID, start: Offset, durable: Offset) -> PartitionLog {
        var published = PartitionLog.Published(
            settings: settings,
            segments: progress.segments,
            logStart: min(start, progress.end),
            end: progress.end,
            synced: progress.end,
            checkpoint: PartitionCheckpoint(startingAt: start)
        )
        if let checkpoint, checkpoint.recoveryOffset <= progress.end { published.checkpoint = checkpoint }
        if published.checkpoint.recoveryOffset != min(durable, progress.end) {
            // Kafka's recovery point is another: the position and the checksums of ours do not belong to it.
            published.checkpoint.recoveryOffset = min(durable, progress.end)
            if !environment.has(.checkpointsAreMixed) { published.checkpoint.position = -1 }
        }
        published.epochs = progress.epochs
        published.epochsChanged = progress.epochsChanged
        published.directoryChanged = progress.directoryChanged
        published.aborted = progress.aborted
        published.firstOpenOffset = progress.table.firstOpenOffset
        // Which of the aborts are committed is not known yet: until the high watermark has passed its marker, what a transaction
        // wrote is not decided, and must not take the place of older records in a compaction.
        published.completed = progress.aborted.sorted { $0.lastOffset < $1.lastOffset }.map {
            CompletedTransaction(
                producerID: $0.producerID,
                firstOffset: $0.firstOffset,
                lastOffset: $0.lastOffset,
                isAborted: true
            )
        }
        let found = Set(progress.report.damage.map(\.path))
        published.damage = progress.report.damage + progress.noted.filter { !found.contains($0.path) }
        if let first = progress.report.damage.first {
            published.offline = LogError(
                .damaged,
                "\(topicPartition) is damaged below its durable point and accepts no appends: \(first). Restore the file from a replica or a backup, or delete the partition"
            )
        }
        var appender = PartitionLog.Appender()
        appender.producers = progress.table
        appender.snapshotOffset = progress.snapshotOffset
        let active = progress.segments[progress.segments.count - 1]
        // The age of a segment that was begun before this start: its first batch's time, but not in the future.
        if active.size > 0 {
            let now = environment.clock.now()
            let first = active.state.withLock { $0.firstTimestamp } ?? now
            appender.segmentStart = first >= 0 && first < now ? first : now
        }
        return PartitionLog(
            topicPartition: topicPartition,
            topicID: topicID,
            directory: directory,
            path: path,
            environment: environment,
            appender: appender,
            published: published
        )
    }

    private func readTopicID() throws(LogError) -> TopicID {
        do throws(FileSystemError) {
            guard let bytes = try fileSystem.readSmallFile("\(path)/\(FileName.partitionMetadata)", limit: 4096) else {
                return .zero
            }
            return PartitionMetadataFile.decode(bytes) ?? .zero
        } catch {
            throw LogError(error, while: "reading the metadata of \(topicPartition)")
        }
    }

    // MARK: Files

    /// Removes leftovers of what was interrupted, and finishes a swap; returns the names that are there then.
    private func cleanUp(_ progress: inout Progress) throws(LogError) -> Set<String> {
        do throws(FileSystemError) {
            var names = Set(try fileSystem.list(path).filter { !$0.isDirectory }.map(\.name))
            // In order, so that a simulation repeats.
            for name in names.sorted()
            where name.hasSuffix(FileName.deleted) || name.hasSuffix(FileName.temporary)
                || name.hasSuffix(FileName.cleaned)
            {
                try fileSystem.unlinkIfPresent("\(path)/\(name)")
                names.remove(name)
            }
            try SegmentSwap(path: path, fileSystem: fileSystem).finishInterrupted(&names)
            // Derived files whose log is gone.
            for name in names.sorted() {
                for suffix in FileName.besideLog {
                    guard let base = FileName.offset(in: name, suffix: suffix),
                        !names.contains(FileName.digits(base) + FileName.log)
                    else { continue }
                    try fileSystem.unlinkIfPresent("\(path)/\(name)")
                    names.remove(name)
                }
            }
            return names
        } catch {
            throw LogError(error, while: "opening \(topicPartition)")
        }
    }

    private func openSegments(_ names: Set<String>, _ progress: inout Progress) throws(LogError) {
        let bases = names.compactMap { FileName.offset(in: $0, suffix: FileName.log) }.sorted()
        do throws(FileSystemError) {
            for (index, base) in bases.enumerated() {
                let name = "\(path)/\(FileName.digits(base))\(FileName.log)"
                let size = try fileSystem.attributes(name)?.size ?? 0
                let isLast = index + 1 == bases.count
                let segment = Segment(
                    baseOffset: base,
                    directory: path,
                    fileSystem: fileSystem,
                    openFiles: environment.openFiles,
                    size: size,
                    physicalSize: size,
                    nextOffset: isLast ? base : bases[index + 1],
                    isSealed: !isLast,
                    indexInterval: settings.indexIntervalBytes
                )
                progress.segments.append(segment)
            }
            guard bases.isEmpty else { return }
            let durable = checkpoint?.recoveryOffset ?? recoveryPoint ?? 0
            let start = max(logStart ?? 0, checkpoint?.logStartOffset ?? 0)
            if durable > start {
                progress.report.damage.append(
                    DamageReport(
                        topicPartition: topicPartition,
                        path: path,
                        position: 0,
                        firstOffset: start,
                        nextOffset: durable,
                        reason: "the folder has no segment, but held records up to \(durable)"
                    )
                )
            }
            let segment = try Segment.create(
                baseOffset: max(start, durable),
                directory: path,
                fileSystem: fileSystem,
                openFiles: environment.openFiles
            )
            progress.segments.append(segment)
            progress.directoryChanged = true
        } catch {
            throw LogError(error, while: "opening \(topicPartition)")
        }
    }

    /// Reads what scrubbing noted of damaged segments: they stay out of service until a scrub finds them sound again.
    private func loadNotes(_ names: Set<String>, _ progress: inout Progress) throws(LogError) {
        for segment in progress.segments {
            guard names.contains(FileName.digits(segment.baseOffset) + FileName.damage) else { continue }
            let report: DamageReport?
            do throws(FileSystemError) {
                report = try fileSystem.readSmallFile(segment.path(FileName.damage), limit: 1 << 20).flatMap {
                    DamageNote.decode($0, of: segment, topicPartition)
                }
            } catch {
                throw LogError(error, while: "reading what is known of damage to \(topicPartition)")
            }
            progress.noted.append(report ?? DamageNote.unreadable(segment, topicPartition))
            segment.state.withLock { $0.isQuarantined = true }
        }
    }

    // MARK: Clean start

    /// Opens the active segment without reading it, if the folder is as it was left; false where it is not.
    private func openClean(_ progress: inout Progress) throws(LogError) -> Bool {
        let active = progress.segments[progress.segments.count - 1]
        let size = active.size
        if let checkpoint {
            guard checkpoint.segmentBase == active.baseOffset, checkpoint.position == size else { return false }
            active.state.withLock { state in
                state.nextOffset = checkpoint.recoveryOffset
                state.maxTimestamp = checkpoint.maxTimestamp
                state.offsetOfMaxTimestamp = checkpoint.offsetOfMaxTimestamp
                state.firstTimestamp = size == 0 ? nil : checkpoint.maxTimestamp
            }
            progress.end = checkpoint.recoveryOffset
            return true
        }
        // Who closes a folder in order notes a recovery point for each partition. One that has none was moved here, and nothing
        // vouches for it.
        guard !isOurs, let recoveryPoint else { return false }
        // Closed by Kafka: the end follows from the batches after the last index entry.
        do {
            try active.loadIndexes()
            let from = active.state.withLock { $0.offsetIndex?.lastPosition ?? 0 }
            var end = active.baseOffset
            var walker = HeaderWalker(file: try active.file(), from: from, to: size)
            while let (_, header) = try walker.next() { end = header.nextOffset }
            if recoveryPoint > end { return false }
            active.state.withLock { $0.nextOffset = end }
            _ = try active.largestTimestamp()
            progress.end = end
            return true
        } catch  where error.code == .damaged {
            return false
        }
    }

    private func loadProducers(_ progress: inout Progress, mayAssumeNone: Bool) throws(LogError) {
        let loader = ProducerLoader(
            path: path,
            fileSystem: fileSystem,
            segments: progress.segments,
            now: environment.clock.now()
        )
        let loaded = try loader.load(upTo: progress.end, mayAssumeNone: mayAssumeNone)
        progress.table = loaded.table
        progress.snapshotOffset = loaded.snapshotOffset
        progress.report.rebuiltFiles.append(contentsOf: loaded.damaged)
        note(loaded.holes, &progress)
    }

    /// Reports what could not be read of segments that are durable, and keeps it from being read.
    func note(_ holes: [LogHole], _ progress: inout Progress) {
        for hole in holes {
            let path = hole.segment.path(FileName.log)
            let end = progress.segments.firstIndex { $0 === hole.segment }
                .flatMap { $0 + 1 < progress.segments.count ? progress.segments[$0 + 1].baseOffset : nil }
            guard !progress.report.damage.contains(where: { $0.path == path }) else { continue }
            progress.report.damage.append(
                DamageReport(
                    topicPartition: topicPartition,
                    path: path,
                    position: hole.position,
                    firstOffset: hole.offset,
                    nextOffset: max(end ?? hole.segment.nextOffset, hole.offset),
                    reason: hole.reason
                )
            )
            hole.segment.quarantine(from: hole.position, offset: hole.offset)
        }
    }

    // MARK: Epochs and transactions

    private func loadEpochs(_ progress: inout Progress) {
        let name = "\(path)/\(FileName.leaderEpochs)"
        guard let bytes = try? fileSystem.readSmallFile(name), let epochs = LeaderEpochs(decoding: bytes) else {
            progress.report.rebuiltFiles.append(name)
            progress.epochsChanged = true
            progress.epochsAreUnknown = true
            return
        }
        progress.epochs = epochs
    }

    /// Makes the epochs anew from the batches where the checkpoint was missing, and cuts them at the log's end.
    private func settleEpochs(_ progress: inout Progress) throws(LogError) {
        if progress.epochs.entries.isEmpty || progress.epochsAreUnknown {
            // What a scan has found is only of the end.
            progress.epochs = LeaderEpochs()
            for segment in progress.segments where segment.size > 0 {
                var walker = HeaderWalker(
                    file: try segment.file(),
                    from: 0,
                    to: segment.size,
                    window: 64 << 10
                )
                var reached = segment.baseOffset
                do throws(LogError) {
                    while let (_, header) = try walker.next() {
                        if progress.epochs.begin(header.partitionLeaderEpoch, at: header.baseOffset) {
                            progress.epochsChanged = true
                        }
                        reached = header.nextOffset
                    }
                } catch  where error.code == .damaged {
                    let hole = try LogHole(in: segment, after: (walker.position, reached), reason: error.message)
                    note([hole], &progress)
                }
            }
        }
        // An epoch may have begun at the very end without a record yet.
        if progress.epochs.truncate(to: progress.end + Int64(1)) { progress.epochsChanged = true }
    }

    /// Reads the aborted transactions; where an index is missing or damaged, from the log itself.
    private func loadTransactions(
        _ progress: inout Progress,
        _ names: Set<String>,
        start: Offset,
        isRecovered: Bool
    ) throws(LogError) {
        // What the scan found takes the place of what the indexes say of the same offsets.
        let found = progress.aborted
        var isSound = true
        var listed: [AbortedTransaction] = []
        for segment in progress.segments {
            let name = FileName.digits(segment.baseOffset) + FileName.transactionIndex
            guard names.contains(name) else { continue }
            do throws(FileSystemError) {
                let bytes = try fileSystem.readSmallFile("\(path)/\(name)") ?? []
                guard let entries = TransactionIndex.decode(bytes, baseOffset: segment.baseOffset) else {
                    isSound = false
                    continue
                }
                listed.append(contentsOf: entries)
            } catch {
                throw LogError(error, while: "reading the transaction index of \(topicPartition)")
            }
        }
        let from = isRecovered ? progress.scannedFrom : progress.end
        let merged = listed.filter { $0.lastOffset >= start && $0.lastOffset < from } + found
        if let checkpoint {
            let below = merged.count { $0.lastOffset < checkpoint.recoveryOffset }
            // Fewer: some did not reach the disk; more: some were of records that were cut.
            if below != checkpoint.abortedTransactions { isSound = false }
        } else if isRecovered && !isOurs && progress.table.entries.contains(where: { $0.value.coordinatorEpoch >= 0 }) {
            // A folder of Kafka's that was not closed in order and holds transactions: nothing vouches for the indexes.
            isSound = false
        }
        if isSound {
            progress.aborted = merged
        } else {
            let loader = ProducerLoader(
                path: path,
                fileSystem: fileSystem,
                segments: progress.segments,
                now: environment.clock.now()
            )
            // Transactions may have begun in segments that are gone.
            let first = progress.segments[0].baseOffset
            var table = try loader.load(upTo: first, mayAssumeNone: true).table
            let (aborted, holes) = try loader.replay(
                into: &table,
                from: first,
                to: progress.end
            )
            progress.aborted = aborted.filter { $0.lastOffset >= start }
            note(holes, &progress)
            progress.report.rebuiltFiles.append("\(path)/*\(FileName.transactionIndex)")
        }
        if isRecovered { try rewriteTransactionIndexes(progress, all: !isSound) }
    }

    private func rewriteTransactionIndexes(_ progress: Progress, all: Bool) throws(LogError) {
        for segment in all ? progress.segments : progress.scanned {
            let own = progress.aborted.filter {
                $0.lastOffset >= segment.baseOffset && $0.lastOffset < segment.nextOffset
            }
            do throws(FileSystemError) {
                let name = segment.path(FileName.transactionIndex)
                if own.isEmpty {
                    try fileSystem.unlinkIfPresent(name)
                } else {
                    try fileSystem.replaceFile(name, in: path, with: TransactionIndex.encode(own))
                }
            } catch {
                throw LogError(error, while: "rebuilding the transaction index of \(topicPartition)")
            }
        }
    }

    /// Brings what the scan found to disk: after a killed process it may be in memory only.
    private func syncScanned(_ progress: inout Progress) throws(LogError) {
        do throws(FileSystemError) {
            for (segment, position) in progress.unsure { try rewrite(segment, from: position) }
            for segment in progress.scanned {
                // Where nothing was found after the checkpoint, everything is on disk.
                let (size, synced, trims, isSealed, isQuarantined) = segment.state.withLock {
                    ($0.size, $0.syncedSize, $0.trims, $0.isSealed, $0.isQuarantined)
                }
                // But for the space that a sealed one has given back: nobody looks at it again.
                guard !isQuarantined, size > synced || isSealed else { continue }
                try open(segment).sync()
                segment.didSync(size: size, trims: trims)
            }
            if progress.epochsChanged {
                try fileSystem.replaceFile(
                    "\(path)/\(FileName.leaderEpochs)",
                    in: path,
                    with: progress.epochs.encode()
                )
                progress.epochsChanged = false
            }
            try fileSystem.syncDirectory(path)
            progress.directoryChanged = false
        } catch {
            throw LogError(error, while: "syncing \(topicPartition) after its recovery")
        }
    }

    /// Writes what the scan found once more. Where a sync has failed before, perhaps in a process that could not tell of it,
    /// the system takes the pages for written: they are read as they should be, later syncs pass them over, and they are gone
    /// when the power is.
    private func rewrite(_ segment: Segment, from position: Int) throws(FileSystemError) {
        let (size, isQuarantined) = segment.state.withLock { ($0.size, $0.isQuarantined) }
        guard !isQuarantined, position < size else { return }
        let file = try open(segment)
        var position = position
        var bytes = [UInt8](repeating: 0, count: min(size - position, 1 << 20))
        while position < size {
            if size - position < bytes.count { bytes.removeLast(bytes.count - (size - position)) }
            let count = try file.readFully(into: &bytes, at: position)
            guard count == bytes.count else { return }
            do throws(FileSystemError) {
                try file.writeFully(bytes, at: position)
            } catch  where error.kind == .noSpace {
                // A file system that never writes in place; the sync has to do.
                return
            }
            position += count
        }
    }

    func open(_ segment: Segment) throws(FileSystemError) -> any StorageFile {
        do throws(LogError) {
            return try segment.file()
        } catch {
            throw error.cause
                ?? FileSystemError(.other, call: "open", path: segment.path(FileName.log), reason: error.message)
        }
    }
}
