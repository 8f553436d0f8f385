// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Synchronization

extension LogManager {
    /// One pass of compaction over the logs that are due, on the caller's thread; returns how many
    /// were compacted. Runs on the engine's own thread unless the mode is `.manual`.
    @discardableResult
    public func runCompaction() -> Int {
        guard environment.configuration.compactionEnabled else { return 0 }
        var count = 0
        for log in allPartitions {
            if background.isStopping { break }
            let settings = log.settings
            guard settings.isCompacted, log.offlineReason == nil else { continue }
            do throws(LogError) {
                if try compact(log, settings) { count += 1 }
            } catch {
                self.log.warning(
                    "compaction of a log failed; it is tried again",
                    metadata: ["partition": "\(log.topicPartition)", "error": "\(error)"]
                )
            }
        }
        return count
    }

    private func compact(_ log: PartitionLog, _ settings: LogSettings) throws(LogError) -> Bool {
        let now = environment.clock.now()
        guard let plan = try Compactor.plan(log, settings: settings, now: now), plan.isDue else { return false }
        // Recovery must begin after what is compacted.
        _ = try log.advanceCheckpoint()
        try log.directory.writeCheckpoint()
        let compactor = Compactor(
            log: log,
            settings: settings,
            now: now,
            memoryBytes: environment.configuration.compactionMemoryBytes,
            shouldStop: { self.background.isStopping }
        )
        guard try compactor.run(plan) else { return false }
        try log.directory.writeCheckpoint()
        return true
    }
}
