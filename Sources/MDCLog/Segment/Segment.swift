// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// One segment of a partition: a `.log` file with its indexes.
///
/// Appends, truncation and sealing are made by the partition under its appender lock; reads come from any thread and
/// take only the segment's own lock, for moments. The file is opened when it is first needed, and may be closed again
/// while it is idle and synced.
final class Segment: Sendable {
    struct State: Sendable {
        var file: (any StorageFile)?
        /// Set at each use, cleared by the clock hand of `OpenFiles`.
        var isInUse = false
        /// Bytes of whole batches: where the next one goes.
        var size: Int
        /// Size of the file, with the space reserved ahead.
        var physicalSize: Int
        /// Bytes that are on stable storage.
        var syncedSize: Int
        /// Offset after the last record.
        var nextOffset: Offset
        /// Largest timestamp; nil where it has not been looked up since the segment was opened.
        var maxTimestamp: Timestamp?
        /// Last offset of the batch that has it.
        var offsetOfMaxTimestamp: Offset
        /// The largest timestamp of the first batch; decides the segment's age.
        var firstTimestamp: Timestamp?
        var offsetIndex: OffsetIndex?
        var timeIndex: TimeIndex?
        /// Whether the indexes in memory differ from their files.
        var indexesChanged = false
        /// Whether the index files hold bytes that may not be on disk.
        var indexesUnsynced = false
        /// How often reserved space was given back, and how many of these times are on disk.
        var trims = 0
        var syncedTrims = 0
        /// As `indexesUnsynced`, of the transaction index.
        var transactionsUnsynced = false
        var bytesSinceIndexEntry = 0
        /// `index.interval.bytes` as of the last append or scan.
        var indexInterval = 4096
        var recent = RecentBatches()
        /// Ends of the last reads, where the next reads of the same consumers begin.
        var cursors: [RecentBatches.Entry] = []
        var nextCursor = 0
        var isSealed: Bool
        /// Set where damage was found: the file is left as it is.
        var isQuarantined = false
        /// Set when the segment is no longer part of the log: its path may lead to another file.
        var isRetired = false
    }

    let baseOffset: Offset
    /// Path of the partition's folder.
    let directory: String
    let fileSystem: any FileSystem
    let openFiles: OpenFiles
    let state: Mutex<State>
    /// Held while the index files are written, which needs no other lock; comes before `state`.
    let indexFiles = Mutex<Void>(())

    /// A segment whose file is there.
    init(
        baseOffset: Offset,
        directory: String,
        fileSystem: any FileSystem,
        openFiles: OpenFiles,
        size: Int,
        physicalSize: Int,
        nextOffset: Offset,
        isSealed: Bool,
        file: (any StorageFile)? = nil,
        indexInterval: Int = 4096
    ) {
        self.baseOffset = baseOffset
        self.directory = directory
        self.fileSystem = fileSystem
        self.openFiles = openFiles
        state = Mutex(
            State(
                file: file,
                size: size,
                physicalSize: physicalSize,
                syncedSize: size,
                nextOffset: nextOffset,
                maxTimestamp: size == 0 ? Timestamp.none : nil,
                offsetOfMaxTimestamp: baseOffset,
                indexInterval: indexInterval,
                isSealed: isSealed
            )
        )
    }

    /// Makes the file of a new, empty segment. Its entry in the folder is not yet durable.
    static func create(
        baseOffset: Offset,
        directory: String,
        fileSystem: any FileSystem,
        openFiles: OpenFiles
    ) throws(FileSystemError) -> Segment {
        let path = "\(directory)/\(FileName.digits(baseOffset))"
        // Leftovers of a segment that was truncated away.
        for suffix in FileName.besideLog {
            try fileSystem.unlinkIfPresent(path + suffix)
        }
        let file = try fileSystem.open(path + FileName.log, [.write, .create])
        if try file.size() > 0 { try file.truncate(to: 0) }
        let segment = Segment(
            baseOffset: baseOffset,
            directory: directory,
            fileSystem: fileSystem,
            openFiles: openFiles,
            size: 0,
            physicalSize: 0,
            nextOffset: baseOffset,
            isSealed: false,
            file: file
        )
        segment.state.withLock {
            $0.offsetIndex = OffsetIndex(baseOffset: baseOffset)
            $0.timeIndex = TimeIndex(baseOffset: baseOffset)
        }
        openFiles.opened(segment)
        return segment
    }

    /// Path of the segment's file with `suffix`.
    func path(_ suffix: String) -> String { "\(directory)/\(FileName.digits(baseOffset))\(suffix)" }

    var size: Int { state.withLock { $0.size } }
    var nextOffset: Offset { state.withLock { $0.nextOffset } }
    var isSealed: Bool { state.withLock { $0.isSealed } }
    var isTrimUnsynced: Bool { state.withLock { $0.isTrimUnsynced } }

    /// The file, opened if need be. Throws `.closed` once the segment has been replaced or removed.
    func file() throws(LogError) -> any StorageFile {
        let (known, isRetired) = state.withLock { state -> ((any StorageFile)?, Bool) in
            state.isInUse = true
            return (state.file, state.isRetired)
        }
        if isRetired { throw retired }
        if let known { return known }
        let opened = try open()
        let (file, isNew) = state.withLock { state -> ((any StorageFile)?, Bool) in
            // What was opened may be the file of the segment's successor.
            if state.isRetired { return (nil, false) }
            if let file = state.file { return (file, false) }
            state.file = opened
            return (opened, true)
        }
        guard let file else { throw retired }
        if isNew { openFiles.opened(self) }
        return file
    }

    private var retired: LogError { LogError(.closed, "\(path(FileName.log)) is no longer part of the log") }

    private func open() throws(LogError) -> any StorageFile {
        do throws(FileSystemError) {
            do {
                return try fileSystem.open(path(FileName.log), [.write])
            } catch  where error.kind == .readOnly {
                return try fileSystem.open(path(FileName.log), [])
            }
        } catch {
            throw LogError(error, while: "opening a segment")
        }
    }

    // MARK: Appending (under the partition's appender lock)

    /// Reserves space so that `count` more bytes fit without growing the file.
    func reserve(_ count: Int, limit: Int, file: any StorageFile) throws(FileSystemError) {
        let (size, physical) = state.withLock { ($0.size, $0.physicalSize) }
        guard size + count > physical else { return }
        // Doubling up to 64 MiB at a time: an idle partition reserves little, a busy one seldom, for now and then it waits
        // for the journal.
        let step = min(max(physical, 64 << 10), 64 << 20)
        let target = max(size + count, min(physical + step, limit))
        do {
            try file.allocate(at: physical, count: target - physical)
        } catch  where error.kind == .unsupported {
            return
        }
        state.withLock { $0.physicalSize = max($0.physicalSize, target) }
    }

    /// Takes note of a batch whose bytes are in the file at the segment's end.
    func didWrite(_ header: RecordBatchHeader, indexInterval: Int) {
        state.withLock { state in
            state.indexInterval = indexInterval
            state.add(header)
        }
    }

    /// Undoes a failed append: the file must hold nothing beyond the segment's end.
    func discardUnwritten(file: any StorageFile) throws(FileSystemError) {
        let size = state.withLock { $0.size }
        try file.truncate(to: size)
        state.withLock { state in
            state.physicalSize = size
            // What was synced before may be longer on disk: before the segment is left, this is to be synced as well.
            state.trims += 1
        }
    }

    /// Ends the segment: the time index gets its last entry, the indexes are written, the reserved space is given back.
    func seal() throws(LogError) {
        try loadIndexes()
        let file = try file()
        let size = state.withLock { state -> Int in
            state.addLastTimeEntry()
            state.isSealed = true
            state.indexesChanged = true
            state.recent.removeAll()
            return state.size
        }
        do throws(FileSystemError) {
            if state.withLock({ $0.physicalSize != $0.size }) {
                try file.truncate(to: size)
                state.withLock { state in
                    state.physicalSize = size
                    state.trims += 1
                }
            }
        } catch {
            throw LogError(error, while: "sealing a segment")
        }
        try writeIndexes(durable: false)
    }

    // MARK: Syncing

    /// What a sync of the file as it is now will make durable.
    func pendingSync() -> (file: any StorageFile, size: Int, trims: Int)? {
        state.withLock { state in
            guard let file = state.file, state.syncedSize != state.size || !state.isSealed || state.isTrimUnsynced
            else { return nil }
            return (file, state.size, state.trims)
        }
    }

    /// Takes note of a sync.
    func didSync(size: Int, trims: Int = 0) {
        state.withLock { state in
            state.syncedTrims = max(state.syncedTrims, trims)
            if size <= state.size { state.syncedSize = max(state.syncedSize, size) }
        }
    }

    /// Closes the file if it was not used lately and holds no unsynced writes; tells whether it is closed.
    func closeIfIdle() -> Bool {
        state.withLock { state in
            guard state.file != nil else { return true }
            if state.isInUse {
                state.isInUse = false
                return false
            }
            guard state.syncedSize == state.size, !state.indexesChanged, !state.isTrimUnsynced else { return false }
            state.file = nil
            state.offsetIndex = nil
            state.timeIndex = nil
            return true
        }
    }

    /// Ends the segment, as far as it is used, where damage begins; the file stays as it is.
    func quarantine(from position: Int, offset: Offset) {
        state.withLock { state in
            state.size = min(state.size, position)
            state.syncedSize = min(state.syncedSize, state.size)
            state.nextOffset = offset
            state.isQuarantined = true
            state.recent.removeAll()
            state.cursors.removeAll()
            // What they say of later batches goes with these.
            state.offsetIndex = nil
            state.timeIndex = nil
            state.maxTimestamp = nil
            state.indexesChanged = false
        }
    }

    /// Takes the segment out of service for good; readers that hold its file keep it open.
    func close() {
        // Who is writing the index files now ends first.
        indexFiles.withLock { _ in
            state.withLock { state in
                state.file = nil
                state.isRetired = true
            }
        }
        openFiles.closed(self)
    }
}

extension Segment.State {
    /// Whether the file on disk may be longer than the segment.
    var isTrimUnsynced: Bool { trims > syncedTrims }

    /// Takes note of a batch at the end of the segment, exactly as Kafka does when it appends and when it recovers.
    mutating func add(_ header: RecordBatchHeader) {
        if header.maxTimestamp > maxTimestamp ?? .none {
            maxTimestamp = header.maxTimestamp
            offsetOfMaxTimestamp = header.lastOffset
        }
        if size == 0 { firstTimestamp = header.maxTimestamp }
        if bytesSinceIndexEntry > indexInterval {
            offsetIndex?.append(lastOffset: header.lastOffset, position: size)
            timeIndex?.append(timestamp: maxTimestamp ?? .none, offset: offsetOfMaxTimestamp)
            bytesSinceIndexEntry = 0
            indexesChanged = true
        }
        recent.append(.init(baseOffset: header.baseOffset, nextOffset: header.nextOffset, position: size))
        bytesSinceIndexEntry += header.sizeInBytes
        size += header.sizeInBytes
        physicalSize = max(physicalSize, size)
        nextOffset = header.nextOffset
    }

    mutating func addLastTimeEntry() {
        guard let maxTimestamp, maxTimestamp >= 0, var index = timeIndex else { return }
        timeIndex = nil
        let count = index.entries.count
        index.append(timestamp: maxTimestamp, offset: offsetOfMaxTimestamp)
        if index.entries.count != count { indexesChanged = true }
        timeIndex = index
    }
}
