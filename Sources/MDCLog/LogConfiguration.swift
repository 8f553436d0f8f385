// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
public import MDCModel

/// Where the engine takes the time from.
public protocol LogClock: Sendable {
    /// Milliseconds since 1970; may jump.
    func now() -> Timestamp
    /// Nanoseconds that only grow.
    func monotonic() -> UInt64
}

/// The system's clock.
public struct SystemLogClock: LogClock {
    /// Makes the clock; it has no state.
    public init() {}
    public func now() -> Timestamp { Timestamp(mdc_wall_clock_ms()) }
    public func monotonic() -> UInt64 { mdc_monotonic_ns() }
}

/// The settings of a node's storage engine.
public struct LogConfiguration: Sendable {
    /// Who runs the background work.
    public enum BackgroundMode: Sendable, Hashable {
        /// The engine's own threads.
        case threads
        /// Nobody: the caller calls `LogManager.runSyncRound()`, `runMaintenance()` and `runCompaction()`, and all
        /// that they do happens before they return. For tests and simulations.
        case manual
    }

    /// The data folders. Each new partition goes to the one with the fewest.
    public var directories: [String]
    /// Settings of a partition that is found on disk, until `PartitionLog.update(settings:)` gives its own.
    public var defaultSettings = LogSettings()
    /// Who runs syncs, retention, compaction, checkpoints and scrubbing.
    public var backgroundMode: BackgroundMode = .threads
    /// Files that one sync round brings to disk at the same time (1–16).
    public var syncParallelism = 4
    /// Threads that recover partitions at start, and close them at the end: with many partitions both are mostly waits for
    /// syncs, which a disk does together.
    public var recoveryThreads = 16
    /// Open segment files beyond which idle ones are closed; never more than half of what the process may open.
    public var maxOpenFiles = 4096
    /// Interval syncs, compaction, delayed deletions and other maintenance are looked at this often, milliseconds.
    public var maintenanceIntervalMilliseconds: Int64 = 1_000
    /// `log.retention.check.interval.ms`: segments past their retention are removed this often, milliseconds; the first
    /// time one interval after the start, or eight seconds where the interval is longer.
    public var retentionCheckMilliseconds: Int64 = 5_000
    /// Checkpoints of recovery points are written this often, milliseconds …
    public var checkpointIntervalMilliseconds: Int64 = 5_000
    /// … or after so many bytes appended on the node.
    public var checkpointBytes = 64 << 20
    /// `producer.id.expiration.ms`: idempotent producers idle for longer are forgotten.
    public var producerExpirationMilliseconds: Int64 = 24 * 3_600_000
    /// Size of the ballast file, which is given up when the disk is full so that deletions and checkpoints still
    /// work; 0: none.
    public var ballastBytes = 0
    /// Produce is refused while fewer bytes than this are free.
    public var minimumFreeBytes = 64 << 20
    /// Background scrubbing of sealed segments reads at most so many bytes a second; 0: off.
    public var scrubBytesPerSecond = 8 << 20
    /// Memory of the compaction's key table, in bytes (`log.cleaner.dedupe.buffer.size`).
    public var compactionMemoryBytes = 32 << 20
    /// Whether compaction runs at all (`log.cleaner.enable`).
    public var compactionEnabled = true

    /// Wrong behaviours, for simulations that prove that they would be found. Only code of this package can set them.
    package var plantedBugs: PlantedLogBugs = []

    /// Makes a configuration with defaults.
    public init(directories: [String]) { self.directories = directories }
}
