// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

extension Segment {
    /// Bytes of memory that the indexes take.
    var indexMemory: Int {
        state.withLock { state in
            (state.offsetIndex?.sizeInBytes ?? 0) + (state.timeIndex.map { $0.entries.count * 16 } ?? 0)
        }
    }

    /// Gives back the memory of the indexes if the segment is sealed and was not used lately.
    func dropIndexesIfIdle() {
        state.withLock { state in
            if state.isInUse {
                state.isInUse = false
            } else if state.isSealed, !state.indexesChanged {
                state.offsetIndex = nil
                state.timeIndex = nil
            }
        }
    }

    /// Makes sure that the indexes are in memory: from their files where these are sound, else from the log.
    func loadIndexes() throws(LogError) {
        let (isLoaded, size) = state.withLock { ($0.offsetIndex != nil && $0.timeIndex != nil, $0.size) }
        if isLoaded { return }
        if let (offsets, times) = try readIndexes(size: size) {
            state.withLock { state in
                guard state.offsetIndex == nil || state.timeIndex == nil else { return }
                state.bytesSinceIndexEntry = state.size - offsets.lastPosition
                state.offsetIndex = offsets
                state.timeIndex = times
            }
        } else {
            try rebuildIndexes()
        }
    }

    /// The indexes as their files have them; nil where a file is missing, damaged, or contradicts the footer.
    private func readIndexes(size: Int) throws(LogError) -> (OffsetIndex, TimeIndex)? {
        do throws(FileSystemError) {
            guard let offsetBytes = try fileSystem.readSmallFile(path(FileName.offsetIndex)),
                let timeBytes = try fileSystem.readSmallFile(path(FileName.timeIndex)),
                let offsets = OffsetIndex(baseOffset: baseOffset, decoding: offsetBytes, logSize: max(size, 1)),
                let times = TimeIndex(baseOffset: baseOffset, decoding: timeBytes)
            else { return nil }
            if size == 0 && !(offsets.entries.isEmpty && times.entries.isEmpty) { return nil }
            if let footer = try SegmentFooter.read(path(FileName.footer), fileSystem: fileSystem),
                footer.offsetIndexChecksum != offsetBytes.checksum || footer.timeIndexChecksum != timeBytes.checksum
            {
                return nil
            }
            return (offsets, times)
        } catch {
            throw LogError(error, while: "reading an index")
        }
    }

    /// Makes the indexes anew from the batch headers.
    func rebuildIndexes() throws(LogError) {
        let file = try file()
        let (size, interval) = state.withLock { ($0.size, $0.indexInterval) }
        var scratch = State(
            size: 0,
            physicalSize: 0,
            syncedSize: 0,
            nextOffset: baseOffset,
            offsetOfMaxTimestamp: baseOffset,
            indexInterval: interval,
            isSealed: false
        )
        scratch.offsetIndex = OffsetIndex(baseOffset: baseOffset)
        scratch.timeIndex = TimeIndex(baseOffset: baseOffset)
        var walker = HeaderWalker(file: file, from: 0, to: size)
        while let (_, header) = try walker.next() { scratch.add(header) }
        let built = scratch
        state.withLock { state in
            state.offsetIndex = built.offsetIndex
            state.timeIndex = built.timeIndex
            state.maxTimestamp = built.maxTimestamp ?? Timestamp.none
            state.offsetOfMaxTimestamp = built.offsetOfMaxTimestamp
            state.bytesSinceIndexEntry = built.bytesSinceIndexEntry
            if state.isSealed { state.addLastTimeEntry() }
            state.indexesChanged = true
        }
        if isSealed { try writeIndexes(durable: true) }
    }

    /// Brings the derived files of a segment that is sealed to disk, before a recovery may begin after it: they are
    /// not read again then. Tells whether there was anything to do. The folder is for the caller to sync.
    func syncDerived() throws(LogError) -> Bool {
        let (hasIndexes, hasTransactions) = state.withLock {
            ($0.isSealed && ($0.indexesUnsynced || $0.indexesChanged), $0.transactionsUnsynced)
        }
        if hasIndexes {
            try loadIndexes()
            try writeIndexes(durable: true)
        }
        guard hasTransactions else { return hasIndexes }
        state.withLock { $0.transactionsUnsynced = false }
        do throws(FileSystemError) {
            // Written anew: after a sync that failed the system may believe that there is nothing left to write.
            guard let bytes = try fileSystem.readSmallFile(path(FileName.transactionIndex)) else { return hasIndexes }
            let file = try fileSystem.open(path(FileName.transactionIndex), [.write])
            try file.writeFully(bytes, at: 0)
            try file.sync()
        } catch {
            state.withLock { $0.transactionsUnsynced = true }
            throw LogError(error, while: "syncing a transaction index")
        }
        return true
    }

    /// Writes the indexes to their files if they have changed; if `durable`, brings them to disk.
    func writeIndexes(durable: Bool) throws(LogError) {
        try indexFiles.withLock { _ throws(LogError) in
            if durable { try syncIndexes() } else { try writeIndexFiles() }
        }
    }

    private func writeIndexFiles() throws(LogError) {
        let content = state.withLock { state -> (OffsetIndex, TimeIndex)? in
            // The files of a segment that was replaced are its successor's.
            guard state.indexesChanged, !state.isRetired, let offsets = state.offsetIndex, let times = state.timeIndex
            else { return nil }
            state.indexesChanged = false
            state.indexesUnsynced = true
            return (offsets, times)
        }
        guard let (offsets, times) = content else { return }
        do throws(FileSystemError) {
            try replace(FileName.offsetIndex, offsets.encode())
            try replace(FileName.timeIndex, times.encode())
        } catch {
            state.withLock { $0.indexesChanged = true }
            throw LogError(error, while: "writing an index")
        }
    }

    private func syncIndexes() throws(LogError) {
        try writeIndexFiles()
        guard state.withLock({ $0.indexesUnsynced && !$0.isRetired }) else { return }
        do throws(FileSystemError) {
            for suffix in [FileName.offsetIndex, FileName.timeIndex] {
                try fileSystem.open(path(suffix), [.write, .create]).sync()
            }
        } catch {
            // To be written anew: the system may believe that there is nothing left to write.
            state.withLock { $0.indexesChanged = true }
            throw LogError(error, while: "syncing an index")
        }
        state.withLock { $0.indexesUnsynced = $0.indexesChanged }
    }

    /// Overwrites a derived file in place. Until it is synced nothing may rely on it: a crash leaves any mixture.
    private func replace(_ suffix: String, _ bytes: [UInt8]) throws(FileSystemError) {
        let file = try fileSystem.open(path(suffix), [.write, .create])
        try file.writeFully(bytes, at: 0)
        try file.truncate(to: bytes.count)
    }

    /// The largest timestamp of the segment and the last offset of the batch that has it.
    func largestTimestamp() throws(LogError) -> (timestamp: Timestamp, offset: Offset) {
        let known = state.withLock { state in
            state.maxTimestamp.map { (timestamp: $0, offset: state.offsetOfMaxTimestamp) }
        }
        if let known { return known }
        if isSealed {
            let last: TimeIndex.Entry?
            do throws(FileSystemError) { last = try lastTimeEntry() } catch {
                throw LogError(error, while: "reading a time index")
            }
            if let last { return remember(last.timestamp, last.offset(from: baseOffset)) }
            try rebuildIndexes()
            return state.withLock { (timestamp: $0.maxTimestamp ?? .none, offset: $0.offsetOfMaxTimestamp) }
        }
        // The active segment's time index may lag behind the log: the batches after its last entry decide.
        try loadIndexes()
        let (last, from, size) = state.withLock { state -> (TimeIndex.Entry?, Int, Int) in
            let last = state.timeIndex?.entries.last
            let from = last.map { state.offsetIndex?.floor(of: $0.offset(from: baseOffset)) ?? 0 } ?? 0
            return (last, from, state.size)
        }
        var newest = (timestamp: last?.timestamp ?? .none, offset: last?.offset(from: baseOffset) ?? baseOffset)
        var walker = HeaderWalker(file: try file(), from: from, to: size)
        while let (_, header) = try walker.next() {
            if header.maxTimestamp > newest.timestamp { newest = (header.maxTimestamp, header.lastOffset) }
        }
        return remember(newest.timestamp, newest.offset)
    }

    private func remember(_ timestamp: Timestamp, _ offset: Offset) -> (timestamp: Timestamp, offset: Offset) {
        state.withLock { state in
            state.maxTimestamp = timestamp
            state.offsetOfMaxTimestamp = offset
        }
        return (timestamp, offset)
    }

    /// The last entry of the time index file, without reading the rest; nil where it is missing, empty or impossible.
    private func lastTimeEntry() throws(FileSystemError) -> TimeIndex.Entry? {
        let file: any StorageFile
        do {
            file = try fileSystem.open(path(FileName.timeIndex), [])
        } catch  where error.kind == .notFound {
            return nil
        }
        let size = try file.size()
        guard size >= TimeIndex.entrySize, size % TimeIndex.entrySize == 0 else { return nil }
        var bytes = [UInt8](repeating: 0, count: TimeIndex.entrySize)
        guard try file.readFully(into: &bytes, at: size - TimeIndex.entrySize) == bytes.count else { return nil }
        let entry = TimeIndex.Entry(
            timestamp: Timestamp(bytes.integer(at: 0, as: Int64.self)),
            relativeOffset: bytes.integer(at: 8)
        )
        let lastOffset = nextOffset - baseOffset
        guard entry.timestamp >= 0, entry.relativeOffset >= 0, Int64(entry.relativeOffset) < max(lastOffset, 1) else {
            return nil
        }
        return entry
    }
}
