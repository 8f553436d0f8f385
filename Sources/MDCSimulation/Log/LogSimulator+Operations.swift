// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore

extension LogSimulator {
    /// One operation.
    func perform() throws {
        guard let manager, let partition = order.isEmpty ? nil : random.pick(order) else { return try create() }
        switch random.below(100) {
        case 0..<46: try append(to: partition)
        case 46..<58: syncRound(manager)
        case 58..<66: try read(partition)
        case 66..<70: try look(partition)
        case 70..<75: checkpoint(manager)
        case 75..<80: try maintenance(manager)
        case 80..<84: advanceClock()
        case 84..<87: compact(manager)
        case 87..<89: scrub(manager)
        case 89..<91: try truncate(partition)
        case 91..<93: try deleteRecords(partition)
        case 93: random.once(in: 3) ? try reset(partition) : try beginEpoch(partition)
        case 94: random.once(in: 3) ? try delete(partition) : try create()
        case 95, 96: try restart(.close)
        case 97: try restart(.kill)
        default: profile.crashes ? try restart(.crash) : try append(to: partition)
        }
    }

    /// Runs a change that may fail for a fault; tells whether it went well.
    private func change(_ what: String, _ partition: TopicPartition, _ body: () throws(LogError) -> Void) throws -> Bool
    {
        let failures = disk.failureCount
        // For a partition that is not there yet: any that is refused, for they share the folder.
        let others = manager?.allPartitions ?? []
        let wasRefusing =
            manager?.partition(partition).map { $0.offlineReason != nil } ?? others.contains { $0.offlineReason != nil }
        do throws(LogError) {
            try body()
            if disk.failureCount > failures { mustReopen = true }
            return !disk.hasCrashed
        } catch {
            note("  failed: \(error.code)")
            guard disk.hasCrashed || disk.failureCount > failures || wasRefusing else {
                throw Wrong("\(what) failed without a reason: \(error)")
            }
            counts.faults += 1
            mustReopen = true
            return false
        }
    }

    private func quietly(_ body: () -> Void) {
        let failures = disk.failureCount
        body()
        guard disk.failureCount > failures else { return }
        counts.faults += 1
        if manager?.allPartitions.contains(where: { $0.offlineReason != nil }) == true { isRefusing = true }
    }

    func syncRound(_ manager: LogManager) {
        note("sync round")
        counts.syncRounds += 1
        quietly { manager.runSyncRound() }
    }

    func checkpoint(_ manager: LogManager) {
        note("checkpoint")
        counts.checkpoints += 1
        quietly { manager.runCheckpoint() }
    }

    func maintenance(_ manager: LogManager) throws {
        note("maintenance")
        let before = manager.allPartitions.map { ($0, max($0.logStartOffset, $0.highWatermark)) }
        quietly { manager.runMaintenance() }
        guard setup.isReplicated else { return }
        for (log, limit) in before where log.logStartOffset > limit {
            throw Wrong("retention went to \(log.logStartOffset), beyond the high watermark \(limit)")
        }
    }

    private func advanceClock() {
        let milliseconds = Int64(random.pick([10, 700, 3_000, 15_000]))
        note("the clock advances by \(milliseconds) ms")
        clock.advance(by: milliseconds)
        disk.setTime(clock.time)
    }

    func compact(_ manager: LogManager) {
        note("compaction")
        counts.compactions += 1
        for (partition, model) in models where model.settings.isCompacted {
            // At most up to the last stable offset; after a crash within it the same holds. A transaction whose marker is
            // beyond the high watermark may count as decided (see `verifyTransactions`).
            let committed = committed(partition, model)
            let stable = max(model.lastStable(committed), min(committed, model.lastStable(model.end)))
            models[partition]?.compactedTo = max(model.compactedTo, stable)
            models[partition]?.decidedTo = max(model.decidedTo, committed)
        }
        quietly { manager.runCompaction() }
    }

    /// What is committed at most.
    private func committed(_ partition: TopicPartition, _ model: ModelPartition) -> Int64 {
        guard setup.isReplicated, let log = manager?.partition(partition) else { return model.end }
        return min(model.end, log.highWatermark.rawValue)
    }

    private func scrub(_ manager: LogManager) {
        note("scrub")
        quietly { manager.runScrub() }
    }

    func truncate(_ partition: TopicPartition) throws {
        guard let log = manager?.partition(partition), let model = models[partition] else { return }
        // Compaction decides by what is below the high watermark, and no follower is truncated below that.
        let committed = setup.isReplicated ? committed(partition, model) : 0
        let least = max(model.start, min(max(model.decidedTo, committed), model.end))
        let offset = least + Int64(random.below(Int(model.end - least) + 2))
        note("truncate \(partition) to \(offset)")
        models[partition]?.doubts.append(.truncation(to: offset))
        if model.end(truncatedTo: offset) < model.start { models[partition]?.doubts.append(.reset(to: model.start)) }
        guard try change("truncation", partition, { () throws(LogError) in try log.truncate(to: Offset(offset)) })
        else { return }
        counts.truncations += 1
        models[partition]?.doubts = []
        if offset < model.end {
            var end = max(model.end(truncatedTo: offset), model.base)
            // Where compaction has left nothing, the log ends before.
            if model.compactedTo > model.start { end = min(end, log.logEndOffset.rawValue) }
            if end < model.start {
                models[partition]?.reset(to: model.start)
            } else {
                models[partition]?.cut(to: end)
            }
        }
        let end = max(models[partition]?.end ?? 0, model.start)
        guard log.logEndOffset.rawValue == end else {
            throw Wrong("truncated to \(offset), the log ends at \(log.logEndOffset) instead of \(end)")
        }
        disk.setFault(nil)
        try verifyNow(log)
    }

    /// Compares a log with its model, unless the power fails meanwhile.
    private func verifyNow(_ log: PartitionLog) throws {
        guard !disk.hasCrashed, let model = models[log.topicPartition] else { return }
        do { try verify(log, model) } catch { if !disk.hasCrashed { throw error } }
    }

    func deleteRecords(_ partition: TopicPartition) throws {
        guard let log = manager?.partition(partition), let model = models[partition] else { return }
        let limit = log.highWatermark.rawValue
        guard limit > model.start else { return }
        let offset = model.start + Int64(random.below(Int(limit - model.start) + 1))
        note("delete records of \(partition) before \(offset)")
        models[partition]?.start = max(model.start, offset)
        guard
            try change("deletion", partition, { () throws(LogError) in try log.deleteRecords(before: Offset(offset)) })
        else { return }
        counts.deletions += 1
        models[partition]?.durableStart = offset
        if log.logStartOffset.rawValue != offset {
            throw Wrong("the log starts at \(log.logStartOffset), not \(offset)")
        }
    }

    private func reset(_ partition: TopicPartition) throws {
        guard let log = manager?.partition(partition), let model = models[partition] else { return }
        let offset = Int64(random.below(Int(model.end) + 20))
        note("reset \(partition) to \(offset)")
        models[partition]?.doubts.append(.reset(to: offset))
        guard try change("reset", partition, { () throws(LogError) in try log.reset(to: Offset(offset)) }) else {
            return
        }
        models[partition]?.reset(to: offset)
        disk.setFault(nil)
        try verifyNow(log)
    }

    private func beginEpoch(_ partition: TopicPartition) throws {
        guard let log = manager?.partition(partition) else { return }
        epoch += 1
        note("epoch \(epoch) begins in \(partition)")
        log.beginEpoch(LeaderEpoch(epoch))
    }

    func create() throws {
        guard let manager, order.count < 4 else { return }
        created += 1
        let partition = TopicPartition(topic: "topic.\(created % 2)", partition: PartitionID(Int32(created)))
        let id = TopicID(high: 7, low: UInt64(created))
        note("create \(partition)")
        var model = ModelPartition(partition, id, profile.settings)
        model.creationIsInDoubt = true
        models[partition] = model
        order.append(partition)
        let isMade = try change("creation", partition) { () throws(LogError) in
            let log = try manager.createPartition(partition, topicID: id, settings: profile.settings)
            if setup.isReplicated { log.updateHighWatermark(0) }
        }
        if isMade { models[partition]?.creationIsInDoubt = false }
    }

    private func delete(_ partition: TopicPartition) throws {
        guard let manager, order.count > 1 else { return }
        note("delete \(partition)")
        models[partition]?.deletionIsInDoubt = true
        if try change("deletion", partition, { () throws(LogError) in try manager.deletePartition(partition) }) {
            forget(partition)
        }
    }
}
