// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
public import Logging
public import MDCModel
import Synchronization

/// The logs of a node: opens and recovers them, brings appends to disk in groups, and looks after space.
public final class LogManager: Sendable {
    private struct State: Sendable {
        var logs: [TopicPartition: PartitionLog] = [:]
        var isClosed = false
    }

    let environment: LogEnvironment
    /// The data folders that could be opened.
    let directories: [DataDirectory]
    /// Those that could not; they are left alone until the next start.
    let failedFolders: [FailedFolder]
    private let state: Mutex<State>
    private let logger: Logger
    let background: Background
    /// What recovery did, for each partition that was not closed in order.
    public let recoveryReports: [RecoveryReport]

    private init(
        environment: LogEnvironment,
        folders: DataFolders,
        logger: Logger
    ) {
        self.environment = environment
        directories = folders.directories
        failedFolders = folders.failed
        state = Mutex(State(logs: folders.logs))
        recoveryReports = folders.reports
        self.logger = logger
        background = Background(interval: environment.configuration.maintenanceIntervalMilliseconds)
    }

    /// Writes the message to standard error and ends the process: what happens, unless told otherwise, when bringing
    /// data to disk has failed. Going on would mean acknowledging what may be lost.
    public static let die: @Sendable (LogError) -> Void = { error in mdc_die("mdc: \(error)") }

    /// Opens the data folders (making them if need be), locks them, and recovers all partitions in them. Where there are
    /// several, one whose disk fails goes offline alone: `offlineReason(of:)`, `directoryUsage()` and the log tell why.
    ///
    /// - Parameters:
    ///   - onSyncFailure: Called when a sync has failed; must not return in production.
    /// - Throws: `.locked` where another process has a folder; `.invalidConfiguration`; `.inputOutput` and its like where
    ///   no folder can be opened.
    public static func open(
        configuration: LogConfiguration,
        fileSystem: any FileSystem = POSIXFileSystem(),
        clock: any LogClock = SystemLogClock(),
        logger: Logger,
        onSyncFailure: @escaping @Sendable (LogError) -> Void = LogManager.die
    ) throws(LogError) -> LogManager {
        guard !configuration.directories.isEmpty else {
            throw LogError(.invalidConfiguration, "at least one data folder is needed")
        }
        let isManual = configuration.backgroundMode == .manual
        let pace = WritePace(clock: clock, isEnabled: !isManual)
        let environment = LogEnvironment(
            configuration: configuration,
            fileSystem: fileSystem,
            clock: clock,
            // Half of what the process may open is left for connections and what else there is.
            openFiles: OpenFiles(limit: min(configuration.maxOpenFiles, Int(mdc_raise_file_limit()) / 2)),
            groupCommit: GroupCommit(
                parallelism: configuration.syncParallelism,
                isManual: isManual,
                pace: pace,
                onFailure: onSyncFailure
            ),
            pace: pace,
            appendedBytes: AppendedBytes(),
            deletions: DelayedDeletions()
        )
        let folders = try DataFolders(opening: configuration.directories, environment, logger)
        let manager = LogManager(
            environment: environment,
            folders: folders,
            logger: logger
        )
        environment.groupCommit.start()
        manager.startBackground()
        return manager
    }

    /// Sets what is called once per sync round, on a sync thread, with the partitions whose durable end advanced. It must
    /// not block. Under `.interval` and `.os` the durable end is the log end, and no round announces it.
    public func onDurableAdvance(_ handler: @escaping @Sendable ([PartitionLog]) -> Void) {
        environment.groupCommit.setAdvanceHandler(handler)
    }

    /// `handler` is called on a sync thread after each round, with the nanoseconds that bringing its files to disk took. It
    /// must not block.
    public func onSyncRound(_ handler: @escaping @Sendable (_ nanoseconds: UInt64) -> Void) {
        environment.groupCommit.setRoundHandler(handler)
    }

    /// The log of a partition; nil where there is none.
    public func partition(_ topicPartition: TopicPartition) -> PartitionLog? {
        state.withLock { $0.logs[topicPartition] }
    }

    /// The right to read a partition; nil where there is none.
    public func reader(_ topicPartition: TopicPartition) -> PartitionReader? { partition(topicPartition)?.reader }

    /// All logs; in no order, except that in manual mode it is always the same.
    public var allPartitions: [PartitionLog] {
        let logs = state.withLock { Array($0.logs.values) }
        if environment.configuration.backgroundMode == .threads { return logs }
        return logs.sorted { $0.topicPartition < $1.topicPartition }
    }

    // MARK: Creating and deleting

    /// Makes an empty log; blocks until its folder is on stable storage.
    ///
    /// - Parameters:
    ///   - isNew: Whether the partition is known to be nowhere yet. One that is not may be in a data folder that could not
    ///     be opened, and is refused: an empty log would take its place.
    /// - Throws: `.alreadyExists`, `.invalidConfiguration`, `.noSpace` and its like; `.offline`, see `isNew`.
    public func createPartition(
        _ topicPartition: TopicPartition,
        topicID: TopicID,
        settings: LogSettings,
        isNew: Bool = false
    ) throws(LogError) -> PartitionLog {
        if let problem = settings.problem { throw LogError(.invalidConfiguration, problem) }
        try Self.checkName(topicPartition)
        // The lock is held for the whole creation, so that two calls cannot make the same partition.
        return try state.withLock { state throws(LogError) in
            guard !state.isClosed else { throw LogError(.closed, "the log manager is closed") }
            if state.logs[topicPartition] != nil {
                throw LogError(.alreadyExists, "there is a log of \(topicPartition) already")
            }
            if let reason = reasonNotToMake(topicPartition, isNew: isNew) { throw reason }
            let directory = try directoryForNewLog()
            let log = try make(topicPartition, topicID, settings, in: directory)
            state.logs[topicPartition] = log
            directory.add(log)
            return log
        }
    }

    private static func checkName(_ topicPartition: TopicPartition) throws(LogError) {
        let name = topicPartition.topic
        let isLegal = name.utf8.allSatisfy { byte in
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 45
                || byte == 46 || byte == 95
        }
        guard isLegal, !name.isEmpty, name.utf8.count <= 249, name != ".", name != "..", topicPartition.partition >= 0
        else {
            throw LogError(
                .invalidConfiguration,
                "\(topicPartition) cannot be a folder: a topic's name has 1 to 249 of the characters a-z A-Z 0-9 . _ -"
            )
        }
    }

    /// The data folder with the fewest logs of those that accept appends.
    private func directoryForNewLog() throws(LogError) -> DataDirectory {
        let usable = directories.filter { $0.refusal == nil }
        guard let directory = usable.min(by: { $0.logCount < $1.logCount }) else {
            throw directories[0].refusal ?? LogError(.offline, "no data folder accepts appends")
        }
        return directory
    }

    private func make(
        _ topicPartition: TopicPartition,
        _ topicID: TopicID,
        _ settings: LogSettings,
        in directory: DataDirectory
    ) throws(LogError) -> PartitionLog {
        let path = "\(directory.path)/\(topicPartition)"
        let fileSystem = environment.fileSystem
        do throws(FileSystemError) {
            try fileSystem.makeDirectory(path)
            try fileSystem.replaceFile(
                "\(path)/\(FileName.partitionMetadata)",
                in: path,
                with: PartitionMetadataFile.encode(topicID)
            )
            try fileSystem.replaceFile(
                "\(path)/\(FileName.leaderEpochs)",
                in: path,
                with: LeaderEpochs().encode(),
                durable: false
            )
            let segment = try Segment.create(
                baseOffset: 0,
                directory: path,
                fileSystem: fileSystem,
                openFiles: environment.openFiles
            )
            try fileSystem.syncDirectory(path)
            try fileSystem.syncDirectory(directory.path)
            return PartitionLog(
                topicPartition: topicPartition,
                topicID: topicID,
                directory: directory,
                path: path,
                environment: environment,
                appender: PartitionLog.Appender(),
                published: PartitionLog.Published(
                    settings: settings,
                    segments: [segment],
                    logStart: 0,
                    end: 0,
                    synced: 0,
                    checkpoint: PartitionCheckpoint(startingAt: 0)
                )
            )
        } catch {
            directory.writeFailed(error)
            removeTree(path, fileSystem)
            throw LogError(error, while: "making the log of \(topicPartition)")
        }
    }

    /// Takes a partition out of service at once; its files are removed after `file.delete.delay.ms`. Blocks on the disk.
    public func deletePartition(_ topicPartition: TopicPartition) throws(LogError) {
        let log = state.withLock { $0.logs.removeValue(forKey: topicPartition) }
        guard let log else { throw LogError(.notFound, "there is no log of \(topicPartition)") }
        log.directory.remove(log)
        try log.markDeleted()
        var random = SystemRandomNumberGenerator()
        let mark = String(random.next(), radix: 16) + String(random.next(), radix: 16)
        // Kafka's name for a folder that is to be removed; at most 255 bytes.
        let name = "\(topicPartition)".prefix(200) + ".\(mark)-delete"
        let newPath = "\(log.directory.path)/\(name)"
        do throws(FileSystemError) {
            try environment.fileSystem.rename(log.path, to: newPath)
            try environment.fileSystem.syncDirectory(log.directory.path)
        } catch {
            log.directory.writeFailed(error)
            throw LogError(error, while: "deleting the log of \(topicPartition)")
        }
        environment.deletions.add(
            newPath,
            at: environment.clock.now() + log.settings.fileDeleteDelayMilliseconds
        )
    }

    // MARK: Views

    /// Disk usage of each partition, in order.
    public func usage() -> [PartitionUsage] {
        allPartitions.sorted { $0.topicPartition < $1.topicPartition }.map { log in
            PartitionUsage(
                topicPartition: log.topicPartition,
                directory: log.directory.path,
                sizeInBytes: log.sizeInBytes,
                segments: log.segmentCount
            )
        }
    }

    /// Disk usage of each data folder.
    public func directoryUsage() -> [DirectoryUsage] {
        // Unsorted, for metrics ask for it with many partitions.
        let usage = directories.map { directory in
            let own = directory.allLogs
            let space = try? environment.fileSystem.space(directory.path)
            return DirectoryUsage(
                path: directory.path,
                sizeInBytes: own.reduce(0) { $0 + $1.sizeInBytes },
                partitions: own.count,
                availableBytes: space?.available,
                totalBytes: space?.total,
                offlineReason: directory.offlineReason
            )
        }
        return usage + failedFolders.map(\.usage)
    }

    /// Sync rounds so far.
    public var syncRounds: Int { environment.groupCommit.roundCount }
    /// Segment files that are open now.
    public var openFileCount: Int { environment.openFiles.count }

    // MARK: Closing

    /// Syncs and closes everything, writes the checkpoints and the clean-shutdown marker, and releases the folders. Waiters
    /// are told first; the logs accept nothing afterwards.
    public func close() throws(LogError) {
        let logs = state.withLock { state -> [PartitionLog]? in
            guard !state.isClosed else { return nil }
            state.isClosed = true
            return Array(state.logs.values)
        }
        guard let logs else { return }
        background.stop()
        for log in logs.sorted(by: { $0.topicPartition < $1.topicPartition }) { log.requestSync() }
        environment.groupCommit.stop()
        var failure: LogError?
        for directory in directories {
            do {
                try close(directory)
            } catch {
                failure = failure ?? error
            }
        }
        for folder in failedFolders { folder.release() }
        if let failure { throw failure }
    }

    private func close(_ directory: DataDirectory) throws(LogError) {
        defer { directory.release() }
        let logs = directory.allLogs.sorted { $0.topicPartition < $1.topicPartition }
        let isClean = directory.refusal == nil
        let areClean = closeAll(logs)
        try directory.writeCheckpoint()
        guard isClean, areClean else { return }
        do throws(FileSystemError) {
            try environment.fileSystem.replaceFile(
                "\(directory.path)/\(FileName.cleanShutdown)",
                in: directory.path,
                with: CleanShutdownMarker.content
            )
        } catch {
            throw LogError(error, while: "closing \(directory.path)")
        }
    }

    /// Closes logs, several at a time: each takes some syncs, which a disk does together. Tells whether all went in order.
    private func closeAll(_ logs: [PartitionLog]) -> Bool {
        struct Work: Sendable {
            var next = 0
            var unfinished: Int
            var isClean = true
        }
        let work = Monitor(Work(unfinished: logs.count))
        let help: @Sendable () -> Void = { [logger] in
            while true {
                let index = work.withLock { work -> Int? in
                    guard work.next < logs.count else { return nil }
                    work.next += 1
                    return work.next - 1
                }
                guard let index else { return }
                var isClean = true
                do throws(LogError) { try logs[index].close() } catch {
                    isClean = false
                    logger.warning("a log was not closed in order", metadata: ["error": "\(error)"])
                }
                if !logs[index].isClosedCleanly { isClean = false }
                let isLast = work.withLock { work in
                    work.unfinished -= 1
                    if !isClean { work.isClean = false }
                    return work.unfinished == 0
                }
                if isLast { work.wakeAll() }
            }
        }
        let configuration = environment.configuration
        let threads = configuration.backgroundMode == .manual ? 1 : min(configuration.recoveryThreads, logs.count)
        for number in 1..<max(threads, 1) { startThread("mdc-close-\(number)", help) }
        help()
        return work.wait { $0.unfinished == 0 ? $0.isClean : nil }
    }

    var log: Logger { logger }
}
