// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Synchronization

/// Opens all partitions of a data folder, several at a time.
struct DirectoryLoader {
    let directory: DataDirectory
    let environment: LogEnvironment
    let logger: Logger

    private struct Work: Sendable {
        var loaders: [PartitionLoader] = []
        var next = 0
        var unfinished = 0
        var loaded: [(log: PartitionLog, report: RecoveryReport?)] = []
        var failure: LogError?
    }

    private func path(_ name: String) -> String { "\(directory.path)/\(name)" }

    func load() throws(LogError) -> [(log: PartitionLog, report: RecoveryReport?)] {
        let loaders = try prepare()
        let loaded = try run(loaders)
        let cleaned: [TopicPartition: Offset]
        do throws(FileSystemError) { cleaned = try readOffsets(FileName.cleanerOffsets) } catch {
            throw LogError(error, while: "opening \(directory.path)")
        }
        for (log, _) in loaded {
            directory.add(log)
            log.published.withLock { $0.cleanedTo = min(cleaned[log.topicPartition] ?? 0, $0.end) }
        }
        for (log, report) in loaded {
            if let report { tell(report) }
            for damage in log.damage where !(report?.damage.contains(damage) ?? false) {
                logger.error("a segment is known to be damaged", metadata: ["damage": "\(damage)"])
            }
        }
        // From the first append on, the folder is not as it was left.
        do throws(FileSystemError) {
            try environment.fileSystem.unlinkIfPresent(path(FileName.cleanShutdown))
            try environment.fileSystem.syncDirectory(directory.path)
        } catch {
            throw LogError(error, while: "opening \(directory.path)")
        }
        for (log, report) in loaded where report != nil { _ = try log.advanceCheckpoint() }
        try directory.writeCheckpoint()
        return loaded
    }

    private func prepare() throws(LogError) -> [PartitionLoader] {
        let fileSystem = environment.fileSystem
        do throws(FileSystemError) {
            let isClean = try fileSystem.exists(path(FileName.cleanShutdown))
            let own = try fileSystem.readSmallFile(path(FileName.checkpoint)).flatMap(NodeCheckpoint.decode)
            let points = try readOffsets(FileName.recoveryPoints)
            let starts = try readOffsets(FileName.logStarts)
            var loaders: [PartitionLoader] = []
            let entries = try fileSystem.list(directory.path).filter(\.isDirectory)
            // Their new names first: a folder must not come back under its old one with half of its files.
            if entries.contains(where: { $0.name.hasSuffix("-delete") }) {
                try fileSystem.syncDirectory(directory.path)
            }
            for entry in entries {
                if entry.name.hasSuffix("-delete") {
                    removeTree(path(entry.name), fileSystem)
                    continue
                }
                guard let topicPartition = Self.topicPartition(entry.name) else { continue }
                loaders.append(
                    PartitionLoader(
                        topicPartition: topicPartition,
                        directory: directory,
                        path: path(entry.name),
                        environment: environment,
                        checkpoint: own?[topicPartition],
                        recoveryPoint: points[topicPartition],
                        logStart: starts[topicPartition],
                        isClean: isClean,
                        // A folder that this engine closed in order has every partition in its checkpoint; one that is not was
                        // moved here since.
                        isOurs: own.map { !isClean || $0[topicPartition] != nil } ?? false,
                        settings: environment.configuration.defaultSettings
                    )
                )
            }
            if !isClean, !loaders.isEmpty {
                logger.notice(
                    "a data folder was not closed in order; its partitions are recovered",
                    metadata: ["path": "\(directory.path)", "partitions": "\(loaders.count)"]
                )
            }
            return loaders
        } catch {
            throw LogError(error, while: "opening \(directory.path)")
        }
    }

    private func readOffsets(_ name: String) throws(FileSystemError) -> [TopicPartition: Offset] {
        try environment.fileSystem.readSmallFile(path(name)).flatMap(OffsetCheckpoint.decode) ?? [:]
    }

    /// The partition that a folder's name stands for; nil where it is another folder.
    static func topicPartition(_ name: String) -> TopicPartition? {
        guard let dash = name.lastIndex(of: "-"), dash != name.startIndex,
            let partition = Int32(name[name.index(after: dash)...]), partition >= 0, !name.hasPrefix(".")
        else { return nil }
        return TopicPartition(topic: String(name[..<dash]), partition: PartitionID(partition))
    }

    private func run(_ loaders: [PartitionLoader]) throws(LogError) -> [(log: PartitionLog, report: RecoveryReport?)] {
        let threads =
            environment.configuration.backgroundMode == .manual
            ? 0 : min(environment.configuration.recoveryThreads, loaders.count) - 1
        let work = Monitor(Work(loaders: loaders, unfinished: loaders.count))
        for number in 0..<max(threads, 0) { startThread("mdc-recovery-\(number)") { Self.help(work) } }
        Self.help(work)
        let (loaded, failure) = work.wait { work in work.unfinished == 0 ? (work.loaded, work.failure) : nil }
        if let failure { throw failure }
        return loaded
    }

    private static func help(_ work: Monitor<Work>) {
        while true {
            let loader = work.withLock { work -> PartitionLoader? in
                guard work.next < work.loaders.count else { return nil }
                work.next += 1
                return work.loaders[work.next - 1]
            }
            guard let loader else { return }
            let result: Result<(log: PartitionLog, report: RecoveryReport?), LogError>
            do throws(LogError) {
                result = .success(try loader.load())
            } catch {
                result = .failure(error)
            }
            let isLast = work.withLock { work in
                switch result {
                case .success(let loaded): work.loaded.append(loaded)
                case .failure(let error): work.failure = work.failure ?? error
                }
                work.unfinished -= 1
                return work.unfinished == 0
            }
            if isLast { work.wakeAll() }
        }
    }

    private func tell(_ report: RecoveryReport) {
        for damage in report.damage {
            logger.error("damage below the durable point", metadata: ["damage": "\(damage)"])
        }
        guard report.cutBytes > 0 else { return }
        var facts: Logger.Metadata = [
            "partition": "\(report.topicPartition)", "bytes": "\(report.cutBytes)", "end": "\(report.logEndOffset)",
        ]
        if !report.tornFiles.isEmpty { facts["kept"] = "\(report.tornFiles.joined(separator: " "))" }
        if let offsets = report.cutOffsets {
            facts["batches"] = "\(report.cutBatches)"
            facts["offsets"] = "\(offsets.lowerBound) to \(offsets.upperBound)"
            logger.error(
                "the end of a log was cut at bytes that cannot be read, and batches behind them can: either the machine went down while it wrote, then none of them was acknowledged, or the disk has damaged acknowledged records; compare with a replica or the producers",
                metadata: facts
            )
        } else {
            logger.notice("a torn tail was cut; nothing of it had been acknowledged", metadata: facts)
        }
        if report.tornFilesLost > 0 {
            logger.error("what was cut could not be kept for lack of space", metadata: facts)
        }
    }
}
