// SPDX-License-Identifier: Apache-2.0

import Logging
public import MDCModel

/// A data folder that could not be opened. Nothing in it is touched until the next start.
struct FailedFolder: Sendable {
    /// Holds the lock, if it could be had: no other process is to take the folder meanwhile.
    private let directory: DataDirectory
    /// What is in it; nil where it cannot be listed.
    let partitions: Set<TopicPartition>?
    /// What to tell who asks for them.
    let reason: LogError

    init(_ directory: DataDirectory, _ cause: LogError) {
        self.directory = directory
        let entries = try? directory.fileSystem.list(directory.path)
        partitions = entries.map {
            Set(
                $0.filter { $0.isDirectory && !$0.name.hasSuffix("-delete") }.compactMap { entry in
                    DirectoryLoader.topicPartition(entry.name)
                }
            )
        }
        reason = LogError(
            .offline,
            "the data folder \(directory.path) could not be opened (\(cause.message)); its partitions are out of service. Replace or remount the disk and start again",
            cause: cause.cause
        )
    }

    func mayHold(_ topicPartition: TopicPartition) -> Bool { partitions?.contains(topicPartition) ?? true }

    var usage: DirectoryUsage {
        DirectoryUsage(
            path: directory.path,
            sizeInBytes: 0,
            partitions: partitions?.count ?? 0,
            availableBytes: nil,
            totalBytes: nil,
            offlineReason: reason.message
        )
    }

    func release() { directory.release() }
}

/// The data folders of a node as a start finds them.
struct DataFolders {
    private(set) var directories: [DataDirectory] = []
    private(set) var failed: [FailedFolder] = []
    private(set) var logs: [TopicPartition: PartitionLog] = [:]
    private(set) var reports: [RecoveryReport] = []

    /// Opens them in turn. One that fails by its disk is left out, unless all do.
    init(opening paths: [String], _ environment: LogEnvironment, _ logger: Logger) throws(LogError) {
        do throws(LogError) {
            try open(paths, environment, logger)
        } catch {
            // Who does not get the node is to get the folders.
            for directory in directories {
                Self.drop(directory, environment)
                directory.release()
            }
            for folder in failed { folder.release() }
            throw error
        }
        for folder in failed {
            logger.error(
                "a data folder could not be opened; the node goes on without it",
                metadata: [
                    "error": "\(folder.reason.message)",
                    "partitions": "\(folder.partitions.map { "\($0.count)" } ?? "unknown")",
                ]
            )
        }
    }

    private mutating func open(
        _ paths: [String],
        _ environment: LogEnvironment,
        _ logger: Logger
    ) throws(LogError) {
        var first: LogError?
        for path in paths {
            let directory = DataDirectory(path: path, fileSystem: environment.fileSystem)
            let loaded: [(log: PartitionLog, report: RecoveryReport?)]
            do throws(LogError) {
                loaded = try Self.open(directory, environment, logger)
            } catch {
                Self.drop(directory, environment)
                guard Self.isOfTheDisk(error) else {
                    directory.release()
                    throw error
                }
                first = first ?? error
                failed.append(FailedFolder(directory, error))
                continue
            }
            directories.append(directory)
            for (log, report) in loaded {
                if let other = logs[log.topicPartition] {
                    throw LogError(
                        .invalidConfiguration,
                        "\(log.topicPartition) is in \(other.path) and in \(log.path); move one of them away"
                    )
                }
                logs[log.topicPartition] = log
                if let report { reports.append(report) }
            }
        }
        if directories.isEmpty, let first {
            if failed.count == 1 { throw first }
            let reasons = failed.map(\.reason.message).joined(separator: "; ")
            throw LogError(first.code, "no data folder can be opened: \(reasons)", cause: first.cause)
        }
    }

    private static func open(
        _ directory: DataDirectory,
        _ environment: LogEnvironment,
        _ logger: Logger
    ) throws(LogError) -> [(log: PartitionLog, report: RecoveryReport?)] {
        try directory.acquire()
        let configuration = environment.configuration
        directory.checkSpace(minimum: configuration.minimumFreeBytes, ballast: configuration.ballastBytes)
        return try DirectoryLoader(directory: directory, environment: environment, logger: logger).load()
    }

    /// A folder that another process has, or that is one too many for the process's descriptors, is no failed disk: to go
    /// on without it would hide a mistake of the set-up.
    private static func isOfTheDisk(_ error: LogError) -> Bool {
        guard let cause = error.cause else { return false }
        return cause.kind != .busy && cause.kind != .tooManyOpenFiles
    }

    /// Lets go of what was opened of a folder before it failed.
    private static func drop(_ directory: DataDirectory, _ environment: LogEnvironment) {
        for log in directory.allLogs {
            directory.remove(log)
            // Nothing may sync or look after it.
            try? log.markDeleted()
        }
        environment.openFiles.forget(under: directory.path)
    }
}

extension LogManager {
    /// Why the log of a partition is not there: the data folder that holds it, or may hold it, could not be opened. Nil for a
    /// partition that has a log, and where no folder has failed; `PartitionLog.offlineReason` tells of those in service.
    public func offlineReason(of topicPartition: TopicPartition) -> LogError? {
        if partition(topicPartition) != nil { return nil }
        // Where it is known to be comes before where it may be.
        let folder =
            failedFolders.first { $0.partitions?.contains(topicPartition) == true }
            ?? failedFolders.first { $0.mayHold(topicPartition) }
        return folder?.reason
    }

    /// Whether the partition has no log and none can be made, since it is, or may be, in a data folder that could not be
    /// opened; `isNew` as with `createPartition`.
    public func isOutOfReach(_ topicPartition: TopicPartition, isNew: Bool = false) -> Bool {
        if failedFolders.isEmpty || partition(topicPartition) != nil { return false }
        return reasonNotToMake(topicPartition, isNew: isNew) != nil
    }

    /// Why no empty log may be made: the partition is in a failed folder, or may be.
    func reasonNotToMake(_ topicPartition: TopicPartition, isNew: Bool) -> LogError? {
        let folder = failedFolders.first {
            isNew ? $0.partitions?.contains(topicPartition) == true : $0.mayHold(topicPartition)
        }
        return folder?.reason
    }
}
