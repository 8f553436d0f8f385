// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

extension PartitionLoader {
    /// Where a scan begins.
    private struct Start {
        var index: Int
        var position: Int
        var offset: Offset
    }

    /// Verifies the log from the recovery point on, cuts what is torn, reports what is damaged.
    func recover(_ progress: inout Progress, durable: Offset, start: Offset) throws(LogError) {
        let begin =
            isMovedIn
            ? Start(index: 0, position: 0, offset: progress.segments[0].baseOffset)
            : try scanStart(&progress, durable: durable, start: start)
        // The producers' state where the scan begins; the scan carries it on.
        progress.end = begin.offset
        progress.scannedFrom = begin.offset
        // From here on the batches say where epochs begin: the file may still have those of records that were cut.
        let listed = progress.epochs
        _ = progress.epochs.truncate(to: begin.offset)
        defer { if progress.epochs != listed { progress.epochsChanged = true } }
        if checkpoint?.hasNoProducers == true, begin.position > 0 {
            progress.table = ProducerTable()
        } else {
            try loadTable(&progress, at: begin.offset, durable: durable)
        }
        // Where all that was durable has been deleted, nobody misses it, and the log begins anew at its start.
        let mayBeMissed = durable > start || !isKnown(start)
        var expected = begin.offset
        var index = begin.index
        var position = begin.position
        while index < progress.segments.count {
            let segment = progress.segments[index]
            // Left over from a roll that failed: the log went on in the segment before.
            if index > begin.index, segment.size == 0, segment.baseOffset < expected {
                try removeEmpty(segment)
                progress.segments.remove(at: index)
                progress.directoryChanged = true
                continue
            }
            // Where this engine wrote the log, a gap between segments means that the end of the first is lost. Where it begins
            // before the recovery point, that is damage, unless all of that was deleted.
            if index > begin.index, segment.baseOffset != expected,
                segment.baseOffset < expected || (isOurs && (expected >= durable || !mayBeMissed))
            {
                try cutFrom(index, &progress, reason: "segment \(segment.baseOffset) does not continue \(expected)")
                break
            }
            if index > 0, position == 0, segment.baseOffset >= progress.scannedFrom {
                writeSnapshot(&progress, at: segment.baseOffset)
            }
            let end = try scan(
                segment,
                from: position,
                expected: max(expected, segment.baseOffset),
                durable: durable,
                &progress
            )
            progress.scanned.append(segment)
            expected = segment.nextOffset
            if case .invalid(let reason) = end {
                if expected < durable, mayBeMissed, !environment.has(.damageIsCut) {
                    expected = reportDamage(segment, index, &progress, durable: durable, reason: reason)
                } else {
                    try cut(segment, index, &progress, reason: reason)
                    break
                }
            } else if expected < durable, mayBeMissed, index + 1 == progress.segments.count {
                expected = reportDamage(
                    segment,
                    index,
                    &progress,
                    durable: durable,
                    reason: "the file ends before the durable point"
                )
            } else {
                try trim(segment)
            }
            index += 1
            position = 0
        }
        try finish(&progress, expected: expected)
        // An epoch may have begun at the very end without a record yet.
        if let last = listed.entries.last, last.startOffset == progress.end {
            _ = progress.epochs.begin(last.epoch, at: last.startOffset)
        }
        progress.report.logEndOffset = progress.end
    }

    /// Makes the snapshot at a segment's base anew: what is there may be torn, or of records that were lost.
    private func writeSnapshot(_ progress: inout Progress, at offset: Offset) {
        let name = "\(path)/\(FileName.digits(offset))\(FileName.producerSnapshot)"
        do throws(FileSystemError) {
            try fileSystem.replaceFile(
                name,
                in: path,
                with: ProducerSnapshot.encode(progress.table)
            )
            progress.snapshotOffset = offset
            progress.report.rebuiltFiles.append(name)
        } catch {
            // Derived: without it the next recovery takes longer.
            directory.writeFailed(error)
        }
    }

    private func finish(_ progress: inout Progress, expected: Offset) throws(LogError) {
        for segment in progress.scanned where segment.isSealed && !segment.state.withLock({ $0.isQuarantined }) {
            segment.state.withLock { state in
                state.addLastTimeEntry()
                // Also what is right in the files may be in memory only, after a killed process.
                state.indexesUnsynced = true
            }
            try segment.writeIndexes(durable: true)
        }
        let active = progress.segments[progress.segments.count - 1]
        active.state.withLock { state in
            state.isSealed = false
            // Its reserved space was given back now or by a process that was killed; that is to be synced before it is sealed.
            state.trims += 1
        }
        progress.end = progress.report.damage.isEmpty ? active.nextOffset : max(expected, active.nextOffset)
        try removeSnapshots(after: progress.end)
        try removeFooters(of: progress.scanned)
    }

    /// What a footer says of a segment that was scanned may be of what has been cut off since: its removal at a truncation may
    /// not have reached the disk. The next scrub writes another.
    private func removeFooters(of segments: [Segment]) throws(LogError) {
        do throws(FileSystemError) {
            for segment in segments where !segment.state.withLock({ $0.isQuarantined }) {
                try fileSystem.unlinkIfPresent(segment.path(FileName.footer))
            }
        } catch {
            throw LogError(error, while: "recovering \(topicPartition)")
        }
    }

    /// Snapshots beyond the log's end are of records that were lost, and must not be taken for the state of others that
    /// get their offsets.
    private func removeSnapshots(after end: Offset) throws(LogError) {
        do throws(FileSystemError) {
            for entry in try fileSystem.list(path) {
                guard let offset = FileName.offset(in: entry.name, suffix: FileName.producerSnapshot), offset > end
                else { continue }
                try fileSystem.unlinkIfPresent("\(path)/\(entry.name)")
            }
        } catch {
            throw LogError(error, while: "recovering \(topicPartition)")
        }
    }

    /// The segment that holds the recovery point, and where in it to begin: at the recovery point itself where the
    /// checkpoint vouches for what is before, else at the segment's start.
    private func scanStart(_ progress: inout Progress, durable: Offset, start: Offset) throws(LogError) -> Start {
        let segments = progress.segments
        let index = max(segments.partitionPoint { $0.baseOffset > durable } - 1, 0)
        var base = segments[index]
        if let checkpoint, checkpoint.position >= 0, checkpoint.recoveryOffset == durable,
            let at = segments.firstIndex(where: { $0.baseOffset == checkpoint.segmentBase }),
            checkpoint.position <= segments[at].size, try restore(segments[at], checkpoint)
        {
            return Start(index: at, position: checkpoint.position, offset: durable)
        }
        base = segments[index]
        progress.report.rebuiltFiles.append(base.path(FileName.offsetIndex))
        // Where the recovery point is a segment's base, the segment before may have been sealed since: its indexes and the
        // return of its reserved space may be lost. One that is before the log's start does not matter where our checkpoint
        // knows that start: its removal is certain. Where only the file of starts is that new, it stays.
        let stays = durable > start || (checkpoint != nil && !isKnown(start))
        if index > 0, base.baseOffset == durable, stays {
            if let tail = try settleSealed(segments[index - 1], durable: durable, &progress) {
                return Start(index: index - 1, position: tail, offset: durable)
            }
        }
        return Start(index: index, position: 0, offset: base.baseOffset)
    }

    /// Finds the end of a sealed segment whose batches are durable, and makes its indexes anew. The producers are left
    /// alone: it may have been compacted, and their state is in a snapshot. Returns where batches beyond the recovery point
    /// begin, if the segment has such: then the next one is left over from a roll that failed.
    private func settleSealed(
        _ segment: Segment,
        durable: Offset,
        _ progress: inout Progress
    ) throws(LogError) -> Int? {
        let file = try segment.file()
        let size: Int
        do throws(FileSystemError) { size = try file.size() } catch {
            throw LogError(error, while: "recovering \(topicPartition)")
        }
        segment.state.withLock { $0.beginScan(at: 0, offset: segment.baseOffset, physicalSize: size) }
        var scanner = BatchScanner(file: file, from: 0, to: size, nextOffset: segment.baseOffset)
        var tail: Int?
        let end = try scanner.scan { header, position, _ throws(LogError) in
            if header.baseOffset >= durable {
                tail = position
                return false
            }
            segment.state.withLock { $0.add(header) }
            return true
        }
        segment.state.withLock { state in
            state.physicalSize = size
            state.nextOffset = durable
            state.indexesChanged = true
        }
        if case .invalid(let reason) = end {
            _ = reportDamage(segment, 0, &progress, durable: durable, reason: reason, at: scanner.nextOffset)
            return nil
        }
        if let tail { return tail }
        try trim(segment)
        progress.scanned.append(segment)
        return nil
    }

    /// Takes the indexes below the checkpoint from their files, if these are what the checkpoint says.
    private func restore(_ segment: Segment, _ checkpoint: PartitionCheckpoint) throws(LogError) -> Bool {
        do throws(FileSystemError) {
            let offsetBytes = try fileSystem.readSmallFile(segment.path(FileName.offsetIndex)) ?? []
            let timeBytes = try fileSystem.readSmallFile(segment.path(FileName.timeIndex)) ?? []
            let offsetCount = checkpoint.offsetIndexEntries * OffsetIndex.entrySize
            let timeCount = checkpoint.timeIndexEntries * TimeIndex.entrySize
            guard offsetCount >= 0, timeCount >= 0, offsetBytes.count >= offsetCount, timeBytes.count >= timeCount
            else { return false }
            let offsets = [UInt8](offsetBytes.prefix(offsetCount))
            let times = [UInt8](timeBytes.prefix(timeCount))
            let areThose =
                offsets.checksum == checkpoint.offsetIndexChecksum
                && times.checksum == checkpoint.timeIndexChecksum
            guard areThose || environment.has(.staleIndexIsTrusted),
                let offsetIndex = OffsetIndex(
                    baseOffset: segment.baseOffset,
                    decoding: offsets,
                    logSize: max(checkpoint.position, 1)
                ),
                let timeIndex = TimeIndex(baseOffset: segment.baseOffset, decoding: times)
            else { return false }
            segment.state.withLock { state in
                // What is before the recovery point, for the replay of the producers; the scan finds the rest.
                state.size = checkpoint.position
                state.nextOffset = checkpoint.recoveryOffset
                state.offsetIndex = offsetIndex
                state.timeIndex = timeIndex
                state.maxTimestamp = checkpoint.maxTimestamp
                state.offsetOfMaxTimestamp = checkpoint.offsetOfMaxTimestamp
                state.bytesSinceIndexEntry = checkpoint.position - offsetIndex.lastPosition
                // The files may go on with entries of batches that are lost now: whoever reads them once the segment is sealed
                // would take these for its own. What is right in them may be in memory only, after a killed process.
                if offsetBytes.count > offsetCount || timeBytes.count > timeCount { state.indexesChanged = true }
                state.indexesUnsynced = true
            }
            return true
        } catch {
            throw LogError(error, while: "reading the indexes of \(topicPartition)")
        }
    }

    private func loadTable(_ progress: inout Progress, at offset: Offset, durable: Offset) throws(LogError) {
        let loader = ProducerLoader(
            path: path,
            fileSystem: fileSystem,
            segments: progress.segments,
            now: environment.clock.now()
        )
        // A later one saves the replay, and knows what compaction has removed since.
        if let later = try loader.newestSnapshot(after: offset, upTo: durable) {
            progress.table = later.table
            progress.snapshotOffset = later.offset
            progress.scannedFrom = later.offset
            return
        }
        let loaded = try loader.load(
            upTo: offset,
            mayAssumeNone: false,
            replays: !environment.has(.snapshotIsNotCarriedOn)
        )
        progress.table = loaded.table
        progress.snapshotOffset = loaded.snapshotOffset
        progress.report.rebuiltFiles.append(contentsOf: loaded.damaged)
        note(loaded.holes, &progress)
    }

    /// Verifies a segment's batches from `position` on; the segment's size, end and indexes follow from them.
    private func scan(
        _ segment: Segment,
        from position: Int,
        expected: Offset,
        durable: Offset,
        _ progress: inout Progress
    ) throws(LogError) -> BatchScanner.End {
        let file = try segment.file()
        let size: Int
        do throws(FileSystemError) { size = try file.size() } catch {
            throw LogError(error, while: "recovering \(topicPartition)")
        }
        segment.state.withLock { $0.beginScan(at: position, offset: expected, physicalSize: size) }
        var scanner = BatchScanner(file: file, from: position, to: size, nextOffset: expected)
        let now = environment.clock.now()
        let scannedFrom = progress.scannedFrom
        var table = progress.table
        var aborted: [AbortedTransaction] = []
        var epochs = progress.epochs
        var epochsChanged = progress.epochsChanged
        var unsure: Int?
        let end = try scanner.scan { header, at, bytes throws(LogError) in
            guard header.lastOffset - segment.baseOffset <= Int64(Int32.max) else { return false }
            if unsure == nil, header.lastOffset >= durable { unsure = at }
            segment.state.withLock { $0.add(header) }
            if epochs.begin(header.partitionLeaderEpoch, at: header.baseOffset) { epochsChanged = true }
            if header.isIdempotent, header.baseOffset >= scannedFrom {
                let marker = header.attributes.isControl ? TransactionMarker(controlBatch: bytes) : nil
                if let ended = table.replay(header, marker: marker, now: now), ended.isAborted {
                    aborted.append(AbortedTransaction(ended, stable: table.lastStableOffset(after: ended)))
                }
            }
            return true
        }
        if let unsure { progress.unsure.append((segment, unsure)) }
        progress.table = table
        progress.aborted.append(contentsOf: aborted)
        progress.epochs = epochs
        progress.epochsChanged = epochsChanged
        progress.report.scannedBytes += scanner.position - position
        segment.state.withLock { state in
            state.physicalSize = size
            if position == 0 || scanner.position > position { state.indexesChanged = true }
        }
        return end
    }

    /// Gives reserved space at the end of a file back.
    private func trim(_ segment: Segment) throws(LogError) {
        let (size, physical) = segment.state.withLock { ($0.size, $0.physicalSize) }
        guard size != physical else { return }
        let file = try segment.file()
        do throws(FileSystemError) { try file.truncate(to: size) } catch {
            throw LogError(error, while: "recovering \(topicPartition)")
        }
        segment.state.withLock { $0.physicalSize = size }
    }

    /// Ends the log within `segment`: what follows cannot have been acknowledged, as far as is known. It is kept aside.
    private func cut(
        _ segment: Segment,
        _ index: Int,
        _ progress: inout Progress,
        reason: String
    ) throws(LogError) {
        let (size, physical, next) = segment.state.withLock { ($0.size, $0.physicalSize, $0.nextOffset) }
        progress.report.cutBytes += physical - size
        if size < physical {
            let tail = TornTail(base: segment.baseOffset, position: size, nextOffset: next)
            try keep(&progress) { report throws(LogError) in
                try tail.save(from: try segment.file(), upTo: physical, in: path, fileSystem, &report)
            }
        }
        try trim(segment)
        try cutFrom(index + 1, &progress, reason: reason)
    }

    private func removeEmpty(_ segment: Segment) throws(LogError) {
        segment.close()
        do throws(FileSystemError) {
            for suffix in [FileName.log] + FileName.besideLog { try fileSystem.unlinkIfPresent(segment.path(suffix)) }
        } catch {
            throw LogError(error, while: "recovering \(topicPartition)")
        }
    }

    /// Takes the segments from `index` on out of the log: what precedes them is incomplete. Their files are kept aside.
    private func cutFrom(_ index: Int, _ progress: inout Progress, reason: String) throws(LogError) {
        guard index < progress.segments.count else { return }
        let next = index > 0 ? progress.segments[index - 1].nextOffset : progress.segments[index].baseOffset
        for segment in progress.segments[index...].reversed() {
            let physical = segment.state.withLock { $0.physicalSize }
            progress.report.cutBytes += physical
            let tail = TornTail(base: segment.baseOffset, position: 0, nextOffset: next)
            try keep(&progress) { report throws(LogError) in
                try tail.count(in: try segment.file(), upTo: physical, &report)
            }
            segment.close()
            do throws(FileSystemError) {
                if physical > 0 {
                    let name = try TornTail.free("\(path)/\(tail.name)", fileSystem)
                    try fileSystem.rename(segment.path(FileName.log), to: name)
                    progress.report.tornFiles.append(name)
                } else {
                    try fileSystem.unlinkIfPresent(segment.path(FileName.log))
                }
                for suffix in FileName.besideLog { try fileSystem.unlinkIfPresent(segment.path(suffix)) }
            } catch {
                throw LogError(error, while: "recovering \(topicPartition)")
            }
        }
        progress.segments.removeSubrange(index...)
        progress.directoryChanged = true
    }

    /// A full disk must not keep a log from being opened: what cannot be kept aside is cut all the same, and told.
    private func keep(
        _ progress: inout Progress,
        _ body: (inout RecoveryReport) throws(LogError) -> Void
    ) throws(LogError) {
        do throws(LogError) {
            try body(&progress.report)
        } catch  where error.code == .noSpace {
            progress.report.tornFilesLost += 1
        }
    }

    /// Notes damage below the durable point; returns the offset at which the log goes on.
    private func reportDamage(
        _ segment: Segment,
        _ index: Int,
        _ progress: inout Progress,
        durable: Offset,
        reason: String,
        at offset: Offset? = nil
    ) -> Offset {
        let first = offset ?? segment.nextOffset
        let next =
            offset == nil && index + 1 < progress.segments.count ? progress.segments[index + 1].baseOffset : durable
        progress.report.damage.append(
            DamageReport(
                topicPartition: topicPartition,
                path: segment.path(FileName.log),
                position: segment.size,
                firstOffset: first,
                nextOffset: max(next, first),
                reason: reason
            )
        )
        segment.state.withLock { $0.isQuarantined = true }
        return max(next, first)
    }
}

extension Segment.State {
    /// Prepares for a scan from `position`: what the indexes say of later bytes is forgotten.
    mutating func beginScan(at position: Int, offset: Offset, physicalSize: Int) {
        size = position
        self.physicalSize = physicalSize
        syncedSize = position
        nextOffset = offset
        recent.removeAll()
        cursors.removeAll()
        if position == 0 {
            let base = offsetIndex?.baseOffset ?? timeIndex?.baseOffset ?? offsetOfMaxTimestamp
            offsetIndex = OffsetIndex(baseOffset: base)
            timeIndex = TimeIndex(baseOffset: base)
            maxTimestamp = Timestamp.none
            offsetOfMaxTimestamp = base
            bytesSinceIndexEntry = 0
        }
    }
}
