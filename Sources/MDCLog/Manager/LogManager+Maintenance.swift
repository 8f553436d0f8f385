// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Synchronization

/// When the background work of a manager is due, and its end.
final class Background: Sendable {
    struct State: Sendable {
        var isStopping = false
        var threads = 0
        var lastCheckpoint: Timestamp = .none
        var lastRoll: Timestamp = .none
        var lastRetention: Timestamp = .none
        var hasRetained = false
    }
    let interval: Int64
    let state = Monitor(State())

    init(interval: Int64) { self.interval = max(interval, 10) }

    /// Runs `body` every interval on a thread of its own until `stop`.
    func start(
        _ name: String,
        every own: Int64? = nil,
        isUrgent: Bool = true,
        _ body: @escaping @Sendable () -> Void
    ) {
        state.withLock { $0.threads += 1 }
        startThread(name, isUrgent: isUrgent) { [self] in
            while state.wait(atMost: own ?? interval, { $0.isStopping ? true : nil }) == nil { body() }
            state.withLock { $0.threads -= 1 }
            state.wakeAll()
        }
    }

    var isStopping: Bool { state.withLock { $0.isStopping } }

    func stop() {
        state.withLock { $0.isStopping = true }
        state.wakeAll()
        _ = state.wait { $0.threads == 0 ? true : nil }
    }
}

extension Background.State {
    /// Rolls by age and the expiry of producers are due every few seconds.
    mutating func isRollDue(_ now: Timestamp) -> Bool {
        let since = now - lastRoll
        guard since >= 4_000 || since < 0 else { return false }
        lastRoll = now
        return true
    }

    /// Retention is first due some seconds after the start: who has set it wrong, or whose clock was wrong, may still stop
    /// the node before anything is deleted. With a tick of a second more it acts within ten.
    mutating func isRetentionDue(_ now: Timestamp, every interval: Int64) -> Bool {
        let since = now - lastRetention
        let pause = hasRetained ? interval : min(interval, 8_000)
        if lastRetention == .none || since < 0 {
            lastRetention = now
            return false
        }
        guard since >= pause else { return false }
        lastRetention = now
        hasRetained = true
        return true
    }
}

extension LogManager {
    func startBackground() {
        guard environment.configuration.backgroundMode == .threads else { return }
        background.start("mdc-maintenance") { [weak self] in self?.runMaintenance() }
        let configuration = environment.configuration
        if configuration.scrubBytesPerSecond > 0 {
            background.start("mdc-scrub", every: 60_000, isUrgent: false) { [weak self] in self?.runScrub() }
        }
        if configuration.compactionEnabled {
            background.start("mdc-compaction", isUrgent: false) { [weak self] in self?.runCompaction() }
        }
    }

    /// One sync round on the caller's thread; tells whether there was anything to sync. For
    /// `LogConfiguration.BackgroundMode.manual`; with threads, their round and this one would race.
    @discardableResult
    public func runSyncRound() -> Bool {
        precondition(
            environment.configuration.backgroundMode == .manual,
            "sync rounds run on the engine's own threads"
        )
        return environment.groupCommit.runRound()
    }

    /// Everything that is due by the clock: interval syncs, rolls, retention, expiry of producers, checkpoints, delayed
    /// deletions, free space. Runs on the engine's own thread unless the mode is `.manual`.
    public func runMaintenance() {
        let now = environment.clock.now()
        let configuration = environment.configuration
        for directory in directories {
            directory.checkSpace(minimum: configuration.minimumFreeBytes, ballast: configuration.ballastBytes)
        }
        // Interval syncs are due at any tick; the rest is not so urgent, and with many partitions not so cheap.
        let (mayRoll, mayRetain) = background.state.withLock { state in
            if configuration.backgroundMode == .manual { return (true, true) }
            return (state.isRollDue(now), state.isRetentionDue(now, every: configuration.retentionCheckMilliseconds))
        }
        for log in allPartitions {
            guard !background.isStopping else { return }
            log.syncIfDue(now: now)
            if mayRoll || mayRetain { maintain(log, now, retain: mayRetain) }
        }
        environment.openFiles.trimIndexes()
        environment.deletions.run(now: now, environment.fileSystem)
        let isDue = background.state.withLock { state in
            let since = now - state.lastCheckpoint
            let isDue =
                since >= configuration.checkpointIntervalMilliseconds || since < 0
                || environment.appendedBytes.count >= configuration.checkpointBytes
            if isDue { state.lastCheckpoint = now }
            return isDue
        }
        if isDue { runCheckpoint() }
        environment.openFiles.closeExcess()
    }

    private func maintain(_ log: PartitionLog, _ now: Timestamp, retain: Bool) {
        do throws(LogError) {
            guard log.offlineReason?.code != .offline, log.offlineReason?.code != .closed else { return }
            try log.rollIfOld(now: now)
            if retain { _ = try log.applyRetention(now: now) }
            log.expireProducers(now: now)
        } catch {
            self.log.warning(
                "maintenance of a log failed; it is tried again",
                metadata: ["partition": "\(log.topicPartition)", "error": "\(error)"]
            )
        }
    }

    /// Writes the recovery points of all logs as far as they are synced, so that the next start need not look at what is
    /// before them.
    public func runCheckpoint() {
        environment.appendedBytes.reset()
        for directory in directories {
            do throws(LogError) {
                for log in directory.allLogs.sorted(by: { $0.topicPartition < $1.topicPartition }) {
                    _ = try log.advanceCheckpoint()
                }
                try directory.writeCheckpoint()
            } catch {
                self.log.warning("a checkpoint failed; it is tried again", metadata: ["error": "\(error)"])
            }
        }
    }
}

extension PartitionLog {
    /// Asks for the sync that `DurabilityPolicy.interval` promises, and for the one that a full disk has kept from its end.
    func syncIfDue(now: Timestamp) {
        let hasRoom = directory.refusal == nil
        let isDue = published.withLock { state -> Bool in
            if state.epochsAreLate { return hasRoom }
            guard case .interval(let milliseconds) = state.settings.durability, state.synced < state.end,
                now - state.lastSyncRequest >= milliseconds || state.lastSyncRequest > now
            else { return false }
            state.lastSyncRequest = now
            return true
        }
        if isDue { requestSync() }
    }

    /// Takes the log out of service for its deletion.
    func markDeleted() throws(LogError) {
        let error = LogError(.closed, "\(topicPartition) is deleted")
        let waiters = appender.withLock { appender in
            appender.isClosed = true
            return published.withLock { state in
                state.offline = error
                state.unsynced = []
                state.directoryChanged = false
                state.epochsChanged = false
                defer { state.waiters = [] }
                return state.waiters
            }
        }
        for segment in published.withLock({ $0.segments }) { environment.openFiles.closed(segment) }
        for waiter in waiters { waiter.done(.failure(error)) }
    }

    /// Whether everything is on disk and the checkpoint says so.
    var isClosedCleanly: Bool {
        published.withLock { state in
            state.synced == state.end && state.checkpoint.recoveryOffset == state.end && state.checkpoint.position >= 0
        }
    }
}
