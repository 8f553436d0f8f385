// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// One data folder: its lock, its health, its ballast.
final class DataDirectory: Sendable {
    private struct State: Sendable {
        var lock: (any StorageFile)?
        /// Why appends are refused; nil where they are welcome.
        var refusal: LogError?
        /// Whether the refusal lasts until the next start.
        var isOffline = false
        var hasBallast = false
    }

    let path: String
    let fileSystem: any FileSystem
    private let state = Mutex(State())
    /// Mirrors `state.refusal != nil`, so that an append needs no lock to know.
    private let isRefusing = Atomic<Bool>(false)
    /// The logs in this folder.
    private let logs = Mutex<[TopicPartition: PartitionLog]>([:])
    /// Held while a checkpoint is written; holds the last content.
    private let checkpointed = Mutex<[UInt8]>([])

    init(path: String, fileSystem: any FileSystem) {
        self.path = path
        self.fileSystem = fileSystem
    }

    /// Makes the folder if need be and locks it.
    func acquire() throws(LogError) {
        do throws(FileSystemError) {
            try makeFolders()
            let lock = try fileSystem.lock("\(path)/\(FileName.lock)")
            state.withLock { $0.lock = lock }
        } catch {
            if error.kind == .busy {
                throw LogError(
                    .locked,
                    "\(path) is in use by another process; stop it, or give this node another folder",
                    cause: error
                )
            }
            throw LogError(error, while: "opening the data folder \(path)")
        }
    }

    private func makeFolders() throws(FileSystemError) {
        if try fileSystem.exists(path) { return }
        // The parents too; each made entry is brought to disk.
        var made: [String] = []
        var prefix = ""
        for part in path.split(separator: "/", omittingEmptySubsequences: false) {
            prefix += prefix.isEmpty && made.isEmpty && part.isEmpty ? "" : part
            if !prefix.isEmpty, prefix != ".", prefix != "..", try fileSystem.ensureDirectory(prefix) {
                made.append(prefix)
            }
            prefix += "/"
        }
        for folder in made {
            let parent = folder.split(separator: "/", omittingEmptySubsequences: false).dropLast()
                .joined(separator: "/")
            try fileSystem.syncDirectory(parent.isEmpty ? (folder.hasPrefix("/") ? "/" : ".") : parent)
        }
    }

    func release() {
        state.withLock { $0.lock = nil }
    }

    // MARK: Logs

    func add(_ log: PartitionLog) { logs.withLock { $0[log.topicPartition] = log } }
    func remove(_ log: PartitionLog) { logs.withLock { $0[log.topicPartition] = nil } }
    var allLogs: [PartitionLog] { logs.withLock { Array($0.values) } }
    var logCount: Int { logs.withLock { $0.count } }

    /// Writes the checkpoints of all logs of the folder, as they stand, durably: ours and Kafka's.
    func writeCheckpoint() throws(LogError) {
        try checkpointed.withLock { last throws(LogError) in
            var entries: [TopicPartition: PartitionCheckpoint] = [:]
            var starts: [TopicPartition: Offset] = [:]
            var cleaned: [TopicPartition: Offset] = [:]
            for log in allLogs {
                let (entry, firstBase, cleanedTo) = log.published.withLock { state in
                    var entry = state.checkpoint
                    entry.logStartOffset = state.logStart
                    return (entry, state.segments[0].baseOffset, state.cleanedTo)
                }
                entries[log.topicPartition] = entry
                if cleanedTo > 0 { cleaned[log.topicPartition] = cleanedTo }
                if entry.logStartOffset > firstBase { starts[log.topicPartition] = entry.logStartOffset }
            }
            let bytes = NodeCheckpoint.encode(entries)
            let cleanedBytes = OffsetCheckpoint.encode(cleaned)
            if bytes + cleanedBytes == last { return }
            do throws(FileSystemError) {
                try replace(FileName.recoveryPoints, OffsetCheckpoint.encode(entries.mapValues(\.recoveryOffset)))
                try replace(FileName.logStarts, OffsetCheckpoint.encode(starts))
                try replace(FileName.cleanerOffsets, cleanedBytes)
                try replace(FileName.checkpoint, bytes)
                try fileSystem.syncDirectory(path)
            } catch {
                writeFailed(error)
                throw LogError(error, while: "writing the checkpoint of \(path)")
            }
            last = bytes + cleanedBytes
        }
    }

    private func replace(_ name: String, _ bytes: [UInt8]) throws(FileSystemError) {
        let temporary = "\(path)/\(name)\(FileName.temporary)"
        let file = try fileSystem.open(temporary, [.write, .create])
        try file.truncate(to: 0)
        try file.writeFully(bytes, at: 0)
        try file.sync()
        try fileSystem.rename(temporary, to: "\(path)/\(name)")
    }

    // MARK: Health

    /// Why an append is refused; nil where it is welcome.
    var refusal: LogError? {
        guard isRefusing.load(ordering: .relaxed) else { return nil }
        return state.withLock { $0.refusal }
    }

    /// Why the folder is out of service until the next start.
    var offlineReason: String? {
        guard isRefusing.load(ordering: .relaxed) else { return nil }
        return state.withLock { $0.isOffline ? $0.refusal?.message : nil }
    }

    /// Draws the conclusion from a failed write: a full disk refuses appends until there is room, a failed or read-only
    /// one until the next start. Reads go on.
    func writeFailed(_ error: FileSystemError) {
        state.withLock { state in
            switch error.kind {
            case .noSpace:
                if !state.isOffline {
                    state.refusal = LogError(
                        .noSpace,
                        "the disk of \(path) is full: free some space or shorten retention; appends are accepted again by themselves",
                        cause: error
                    )
                }
            case .inputOutput, .readOnly:
                state.isOffline = true
                state.refusal = LogError(
                    .offline,
                    "the data folder \(path) has failed (\(error)); its partitions can be read but not written. Replace or remount the disk and start again",
                    cause: error
                )
            default: return
            }
            isRefusing.store(state.refusal != nil, ordering: .relaxed)
        }
        if error.kind == .noSpace { dropBallast() }
    }

    /// Looks at the free space: refuses appends below `minimum`, accepts them again above it and a margin.
    func checkSpace(minimum: Int, ballast: Int) {
        guard let space = try? fileSystem.space(path) else { return }
        let (isOffline, isFull, hasBallast) = state.withLock { ($0.isOffline, $0.refusal != nil, $0.hasBallast) }
        if isOffline { return }
        let minimum = UInt64(minimum)
        if space.available < minimum && !isFull {
            writeFailed(
                FileSystemError(
                    .noSpace,
                    call: "statvfs",
                    path: path,
                    reason: "\(space.available) bytes are free, fewer than the \(minimum) kept for deletions"
                )
            )
        } else if isFull, space.available > minimum + minimum / 4 + UInt64(hasBallast ? 0 : ballast) {
            state.withLock { state in
                state.refusal = nil
                isRefusing.store(false, ordering: .relaxed)
            }
        }
        if !hasBallast, ballast > 0, space.available > minimum + minimum / 2 + UInt64(ballast) {
            makeBallast(bytes: ballast)
        }
    }

    /// Reserves space that is given up when the disk is full, so that deletions and checkpoints still have room.
    private func makeBallast(bytes: Int) {
        let file = "\(path)/\(FileName.ballast)"
        do throws(FileSystemError) {
            let ballast = try fileSystem.open(file, [.write, .create])
            if try ballast.size() < bytes { try ballast.allocate(at: 0, count: bytes) }
            state.withLock { $0.hasBallast = true }
        } catch {
            // A file system without reservations has no ballast; nothing else depends on it.
            try? fileSystem.unlinkIfPresent(file)
        }
    }

    private func dropBallast() {
        let had = state.withLock { state in
            defer { state.hasBallast = false }
            return state.hasBallast
        }
        if had { try? fileSystem.unlinkIfPresent("\(path)/\(FileName.ballast)") }
    }
}

/// What the logs of a node share.
struct LogEnvironment: Sendable {
    var configuration: LogConfiguration
    var fileSystem: any FileSystem
    var clock: any LogClock
    var openFiles: OpenFiles
    var groupCommit: GroupCommit
    /// What compaction writes waits for the rounds of `groupCommit`.
    var pace: WritePace
    /// Bytes appended on the node since the last checkpoint.
    var appendedBytes: AppendedBytes
    var deletions: DelayedDeletions
}

/// Files that are to be unlinked once readers have had time to let go of them.
final class DelayedDeletions: Sendable {
    private let entries = Mutex<[(path: String, due: Timestamp)]>([])

    func add(_ path: String, at due: Timestamp) { entries.withLock { $0.append((path, due)) } }

    /// Unlinks what is due. What cannot be unlinked now is found by the next start.
    func run(now: Timestamp, _ fileSystem: any FileSystem) {
        let due = entries.withLock { entries -> [String] in
            let due = entries.filter { $0.due <= now }.map(\.path)
            if !due.isEmpty { entries.removeAll { $0.due <= now } }
            return due
        }
        for path in due { removeTree(path, fileSystem) }
    }
}

/// Removes a file, or a folder with the files in it.
func removeTree(_ path: String, _ fileSystem: any FileSystem) {
    do throws(FileSystemError) {
        guard let attributes = try fileSystem.attributes(path) else { return }
        if attributes.isDirectory {
            for entry in try fileSystem.list(path) { try fileSystem.unlinkIfPresent("\(path)/\(entry.name)") }
            try fileSystem.removeDirectory(path)
        } else {
            try fileSystem.unlink(path)
        }
    } catch {
        // Left for the next start, which removes everything that is marked as deleted.
        return
    }
}

/// A counter that several logs add to.
final class AppendedBytes: Sendable {
    private let value = Atomic<Int>(0)
    func add(_ count: Int) { value.add(count, ordering: .relaxed) }
    var count: Int { value.load(ordering: .relaxed) }
    func reset() { value.store(0, ordering: .relaxed) }
}
