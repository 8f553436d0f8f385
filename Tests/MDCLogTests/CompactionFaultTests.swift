// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import NIOCore
import Testing

/// Compaction that is cut off, that shares the log with retention, and that meets transactions and log-append time.
@Suite struct CompactionFaultTests {
    private func settings(_ change: (inout LogSettings) -> Void = { _ in }) -> LogSettings {
        var settings = LogSettings()
        settings.segmentBytes = 1200
        settings.indexIntervalBytes = 200
        settings.cleanupPolicy = .compact
        settings.minCleanableDirtyRatio = 0
        settings.deleteRetentionMilliseconds = 10_000
        settings.retentionMilliseconds = -1
        settings.timestampAfterMaxMilliseconds = .max
        change(&settings)
        return settings
    }

    private func open(_ folder: TemporaryFolder, _ settings: LogSettings, _ disk: any FileSystem) throws -> TestNode {
        try TestNode(folder, settings: settings, fileSystem: disk)
    }

    private func put(_ log: PartitionLog, _ key: String, _ value: String?, timestamp: Int64 = 1_700_000_000_000) throws
    {
        var builder = RecordBatchBuilder(.init(codec: value == nil ? .none : .lz4))
        builder.append(
            key: ByteBuffer(string: key),
            value: value.map { ByteBuffer(string: $0) },
            timestamp: Timestamp(timestamp)
        )
        try log.append(try builder.build(), now: Timestamp(timestamp))
    }

    private func send(_ log: PartitionLog, _ id: ProducerID, _ sequence: Int32, _ key: String, _ value: String) throws {
        let maker = BatchMaker.idempotent(id, sequence: sequence, isTransactional: true)
        try log.append(try maker.batch([value], keys: [key]))
    }

    /// Keys that are written again and again, tombstones, committed and aborted transactions.
    private func fill(_ log: PartitionLog) throws {
        for number in 0..<40 {
            try put(log, "key \(number % 6)", number % 11 == 10 ? nil : "value \(number)")
            if number % 8 == 3 {
                let sequence = Int32(number / 8)
                try send(log, 7, sequence, "key \(number % 5)", "transaction \(number)")
                try log.append(BatchMaker.marker(7, commit: number % 16 == 3), as: .coordinator)
            }
        }
    }

    /// What a read-committed consumer that keeps the last value of each key ends with.
    private func state(_ log: PartitionLog) throws -> [String: String?] {
        let aborted = log.abortedTransactions(in: log.logStartOffset..<log.logEndOffset)
        var state: [String: String?] = [:]
        for (_, _, batch) in try log.batches() where !batch.header.attributes.isControl {
            let isAborted =
                batch.header.attributes.isTransactional
                && aborted.contains {
                    $0.producerID == batch.header.producerID && $0.firstOffset <= batch.header.baseOffset
                        && batch.header.lastOffset <= $0.lastOffset
                }
            if isAborted { continue }
            for record in try batch.records() where record.offset >= log.logStartOffset {
                state[String(buffer: record.key!)] = .some(record.value.map { String(buffer: $0) })
            }
        }
        // A tombstone that is gone and one that is still there mean the same.
        return state.filter { $0.value != nil }
    }

    @Test func deathAtEveryCallOfACompaction() throws {
        let settings = settings()
        let origin = TemporaryFolder()
        let before: (records: [Record], state: [String: String?], end: Offset)
        do {
            let node = try open(origin, settings, POSIXFileSystem())
            let log = try node.make(settings)
            try fill(log)
            node.manager.runSyncRound()
            before = (try log.records(), try state(log), log.logEndOffset)
            try node.manager.close()
        }
        let all = Dictionary(uniqueKeysWithValues: before.records.map { ($0.offset, $0) })
        var survived = 0
        while true {
            let folder = try origin.copy()
            let disk = DyingFileSystem()
            let node = try open(folder, settings, disk)
            disk.arm(after: survived)
            node.manager.runCompaction()
            let isComplete = !disk.isDead
            let place = "died at call \(survived), \(disk.lastCall)"
            for isReadOnly in [true, false] {
                let again = try open(try folder.copy(), settings, POSIXFileSystem())
                let log = again.log
                #expect(log.damage.isEmpty && log.offlineReason == nil, "\(place)")
                #expect(log.logStartOffset == 0 && log.logEndOffset == before.end, "\(place)")
                #expect(try state(log) == before.state, "\(place)")
                // What is there is at its offset and as it was.
                for record in try log.records() { #expect(all[record.offset] == record, "\(place)") }
                #expect(log.activeProducers.map(\.lastSequence) == [4], "\(place)")
                let leftovers = try again.folder.names("t-0").filter {
                    $0.hasSuffix(".swap") || $0.hasSuffix(".cleaned") || $0.hasSuffix(".deleted")
                }
                #expect(leftovers.isEmpty, "\(place)")
                // Going on is the same from many places; every fifth is enough.
                if isReadOnly || !(isComplete || survived % 5 == 0) { continue }
                // It goes on from there to the same end.
                again.manager.runCompaction()
                #expect(try state(log) == before.state, "\(place)")
                #expect(try log.records().count < before.records.count / 2, "\(place)")
                try put(log, "next", "value")
                again.manager.runSyncRound()
                try again.manager.close()
                var checker = LogChecker(directory: again.folder.path)
                checker.decodesRecords = true
                let report = try checker.run()
                #expect(report.isSound, "\(place): \(report)")
            }
            if isComplete { break }
            survived += 1
        }
        // A compaction of several groups changes the disk in many steps.
        #expect(survived > 30)
    }

    @Test func compactionAndRetentionShareALog() throws {
        let both = settings {
            $0.cleanupPolicy = [.compact, .delete]
            $0.retentionMilliseconds = 10_000
        }
        let node = try TestNode(settings: both) { $0.retentionCheckMilliseconds = 1 }
        let log = try node.make(both)
        // Retention waits after a start; this begins the wait.
        node.manager.runMaintenance()
        let start: Int64 = 1_700_000_000_000
        // Keys that come once keep segments from being emptied.
        for number in 0..<100 {
            let key = number % 5 == 0 ? "only \(number)" : "key \(number % 9)"
            try put(log, key, "old \(number)", timestamp: start)
        }
        for number in 0..<100 {
            let key = number % 5 == 0 ? "late \(number)" : "key \(number % 5)"
            try put(log, key, "new \(number)", timestamp: start + 8_000)
        }
        node.manager.runSyncRound()
        #expect(node.manager.runCompaction() == 1)
        // Nothing has expired yet: the old keys are there.
        #expect(try state(log).count == 20 + 9 + 20)
        let compacted = try log.records()
        // A compacted segment goes when the newest of its records has expired, and with it all before.
        node.clock.advance(by: 11_000)
        node.manager.runMaintenance()
        let left = try log.records()
        #expect(left == compacted.filter { $0.offset >= log.logStartOffset })
        #expect(try state(log).filter { $0.value?.hasPrefix("new") == true }.count == 24)
        node.clock.advance(by: 20_000)
        node.manager.runMaintenance()
        #expect(try log.records().isEmpty && log.logEndOffset == 200 && log.logStartOffset == 200)
        let again = try TestNode(try node.folder.copy(), settings: both)
        #expect(again.log.logStartOffset == 200 && again.log.logEndOffset == 200 && again.log.damage.isEmpty)
    }

    @Test func emptiedSegmentsDoNotHoldBackRetention() throws {
        let both = settings {
            $0.cleanupPolicy = [.compact, .delete]
            $0.retentionMilliseconds = 10_000
        }
        let node = try TestNode(settings: both)
        let log = try node.make(both)
        for number in 0..<150 { try put(log, "key \(number % 9)", "value \(number)") }
        node.manager.runSyncRound()
        #expect(node.manager.runCompaction() == 1)
        let first = try #require(try log.records().first).offset
        // Whole segments are empty before the first record, and their files were written long after its time.
        #expect(first > 40 && log.logStartOffset == 0)
        node.manager.runMaintenance()
        // They wait for the record after them.
        #expect(log.logStartOffset == 0)
        node.clock.advance(by: 11_000)
        node.manager.runMaintenance()
        #expect(log.logStartOffset == 150 && log.logEndOffset == 150)
    }

    @Test func logAppendTimeOutlivesCompaction() throws {
        let own = settings { $0.timestampType = .logAppendTime }
        let node = try TestNode(settings: own)
        let log = try node.make(own)
        for number in 0..<120 {
            // The producer's clock is far off; the batch carries the time of the append.
            var builder = RecordBatchBuilder(.init(codec: .zstd))
            for key in [number % 4, 4 + number % 3] {
                builder.append(
                    key: ByteBuffer(string: "\(key)"),
                    value: ByteBuffer(string: "\(number)"),
                    timestamp: Timestamp(Int64(number))
                )
            }
            try log.append(try builder.build(), now: Timestamp(1_700_000_000_000 + Int64(number)))
        }
        node.manager.runSyncRound()
        let before = try log.records()
        #expect(node.manager.runCompaction() == 1)
        let after = try log.records()
        #expect(after.count < before.count / 3)
        let all = Dictionary(uniqueKeysWithValues: before.map { ($0.offset, $0) })
        for record in after {
            #expect(all[record.offset] == record)
            #expect(record.timestamp == Timestamp(1_700_000_000_000 + record.offset.rawValue / 2))
        }
        for (_, _, batch) in try log.batches() { #expect(batch.header.attributes.isLogAppendTime) }
        let killed = try TestNode(try node.folder.copy(), settings: own)
        for log in [log, killed.log] {
            for time in stride(from: Int64(1_700_000_000_000), to: 1_700_000_000_120, by: 7) {
                let first = after.first { $0.timestamp >= Timestamp(time) }
                #expect(try log.offset(for: .timestamp(Timestamp(time)))?.offset == first?.offset)
            }
        }
    }

    @Test func abortedTransactionsStayKnownWhereTheirRecordsDo() throws {
        // A tiny table: the first pass does not come to the end, and leaves aborted records beside compacted ones.
        for memory in [24 * 8, 1 << 20] {
            let own = settings()
            let node = try TestNode(settings: own) { $0.compactionMemoryBytes = memory }
            let log = try node.make(own)
            try fill(log)
            try fill(another: log)
            node.manager.runSyncRound()
            let before = try state(log)
            var passes = 0
            while node.manager.runCompaction() > 0, passes < 50 {
                passes += 1
                #expect(try state(log) == before)
                let killed = try TestNode(try node.folder.copy(), settings: own)
                #expect(try state(killed.log) == before)
                let range = log.logStartOffset..<log.logEndOffset
                #expect(killed.log.abortedTransactions(in: range) == log.abortedTransactions(in: range))
            }
            #expect(passes > 0)
            // With their indexes gone, the log itself tells the same.
            let bare = try node.folder.copy()
            for name in try bare.names("t-0") where name.hasSuffix(".txnindex") {
                try POSIXFileSystem().unlink("\(bare.path)/t-0/\(name)")
            }
            let rebuilt = try TestNode(bare, settings: own)
            #expect(try state(rebuilt.log) == before)
        }
    }

    private func fill(another log: PartitionLog) throws {
        for number in 0..<30 {
            try send(log, 8, Int32(number), "key \(number % 7)", "second \(number)")
            if number % 3 == 2 { try log.append(BatchMaker.marker(8, commit: number % 2 == 0), as: .coordinator) }
        }
    }
}
