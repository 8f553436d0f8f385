// SPDX-License-Identifier: Apache-2.0

public import Logging
public import MDCModel

/// The logs of a node.
public final class LogManager: Sendable {
    init() {}
    /// Opens (making them if needed) and locks the data folders and recovers all partitions.
    public static func open(
        configuration: LogConfiguration,
        fileSystem: any FileSystem = POSIXFileSystem(),
        clock: any LogClock = SystemLogClock(),
        logger: Logger,
        onSyncFailure: @escaping @Sendable (LogError) -> Void = LogManager.die
    ) throws(LogError) -> LogManager { landing() }
    /// Writes the message to standard error and ends the process.
    public static let die: @Sendable (LogError) -> Void = { _ in landing() }
    /// Called once per sync round, on a sync thread, with the partitions whose durable end advanced.
    public func onDurableAdvance(_ handler: @escaping @Sendable ([PartitionLog]) -> Void) { landing() }
    public func partition(_ topicPartition: TopicPartition) -> PartitionLog? { landing() }
    public var allPartitions: [PartitionLog] { landing() }
    /// Makes an empty log; blocks until its folder is durable.
    public func createPartition(
        _ topicPartition: TopicPartition,
        topicID: TopicID,
        settings: LogSettings
    ) throws(LogError) -> PartitionLog { landing() }
    /// Takes the partition out of service at once and removes its files later.
    public func deletePartition(_ topicPartition: TopicPartition) throws(LogError) { landing() }
    /// What recovery did, for each partition that was not closed cleanly.
    public var recoveryReports: [RecoveryReport] { landing() }
    public func usage() -> [PartitionUsage] { landing() }
    public func directoryUsage() -> [DirectoryUsage] { landing() }
    /// One sync round on the caller's thread; returns whether there was anything to sync.
    @discardableResult public func runSyncRound() -> Bool { landing() }
    /// Retention, rolls by time, checkpoints, delayed deletions, on the caller's thread.
    public func runMaintenance() { landing() }
    /// One pass of compaction over the logs that need it, on the caller's thread; returns how many were compacted.
    @discardableResult public func runCompaction() -> Int { landing() }
    /// Syncs, checkpoints, and writes the clean-shutdown marker.
    public func close() throws(LogError) { landing() }
}
