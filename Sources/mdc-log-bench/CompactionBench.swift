// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import MDCLog
import MDCModel
import NIOCore
import Synchronization

private func compacted() -> LogSettings {
    var settings = LogSettings()
    settings.cleanupPolicy = .compact
    settings.segmentBytes = 64 << 20
    settings.minCleanableDirtyRatio = 0.01
    settings.fileDeleteDelayMilliseconds = 0
    return settings
}

/// Batches of 16 KiB whose keys repeat: each key is written about four times.
private func fill(_ log: PartitionLog, megabytes: Int) throws {
    var random: UInt64 = 0x9E37_79B9_7F4A_7C15
    let keys = UInt64(megabytes) << 20 / 1024 / 4
    var done = 0
    while done < megabytes << 20 {
        let batch = try makeBatch(
            records: 16,
            valueSize: 1000,
            key: { _ in
                random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                return "key-\((random >> 20) % keys)"
            },
            timestamp: SystemLogClock().now()
        )
        _ = try log.append(batch, as: .client, leaderEpoch: 0, now: SystemLogClock().now())
        done += batch.readableBytes
    }
}

/// How fast a log is compacted, and what that does to those who append meanwhile.
func compactionBench(_ parent: String) throws {
    let folder = try Folder(in: parent)
    var wall: [Double] = []
    var core: [Double] = []
    var memory: [Double] = []
    for turn in 0..<3 {
        let path = "\(folder.path)/\(turn)"
        let manager = try openManager(path, manual: true)
        let log = try manager.createPartition(partition(0), topicID: topicID, settings: compacted())
        try fill(log, megabytes: 512)
        manager.runSyncRound()
        manager.runCheckpoint()
        let bytes = Double(log.sizeInBytes)
        let before = Double(mdc_resident_bytes())
        let start = threadSeconds()
        let time = timed { _ = manager.runCompaction() }
        core.append(bytes / (threadSeconds() - start) / 1e6)
        wall.append(bytes / time / 1e6)
        memory.append((Double(mdc_resident_bytes()) - before) / 1e6)
        guard Double(log.sizeInBytes) < bytes * 0.6 else { throw BenchError("nothing was compacted") }
        try manager.close()
        Folder.remove(path)
    }
    figure("log_compaction_per_core", medianOf: core, "MB/s")
    figure("log_compaction_wall", medianOf: wall, "MB/s")
    figure("log_compaction_memory_growth", memory.max() ?? 0, "MB")
}

private final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    func set() { value.store(true, ordering: .releasing) }
    var isSet: Bool { value.load(ordering: .acquiring) }
}

/// Latency of appends to one partition, durable and not: before, while and after another one is compacted. What a turn
/// had without compaction is measured on both sides of it, for a disk shared with others changes from second to second.
func compactionTailBench(_ parent: String) throws {
    let folder = try Folder(in: parent)
    // The engine's own thread for it would begin by itself.
    let manager = try openManager("\(folder.path)/tail") { $0.maintenanceIntervalMilliseconds = 100_000_000 }
    let log = try manager.createPartition(partition(1), topicID: topicID, settings: LogSettings())
    let batch = try makeBatch(records: 4, valueSize: 990, timestamp: SystemLogClock().now())
    var appends: (quiet: [Double], busy: [Double]) = ([], [])
    var durable: (quiet: [Double], busy: [Double]) = ([], [])
    var rates: [Double] = []
    for turn in 0..<7 {
        let name = partition(Int32(10 + turn))
        let dirty = try manager.createPartition(name, topicID: topicID, settings: compacted())
        try fill(dirty, megabytes: 384)
        while dirty.syncedEndOffset < dirty.logEndOffset { usleep(1000) }
        manager.runCheckpoint()
        let bytes = Double(dirty.sizeInBytes)
        usleep(500_000)
        let calm = Latencies()
        calm.run(log, batch, while: { $0 < 1500 })
        let isDone = Flag()
        let began = seconds()
        try startBackgroundThread {
            manager.runCompaction()
            isDone.set()
        }
        let loaded = Latencies()
        loaded.run(log, batch, while: { _ in !isDone.isSet })
        rates.append(bytes / (seconds() - began) / 1e6)
        guard Double(dirty.sizeInBytes) < bytes * 0.6 else { throw BenchError("nothing was compacted") }
        usleep(500_000)
        calm.run(log, batch, while: { $0 < 3000 })
        note("turn \(turn): \(loaded.appends.count) appends during a compaction")
        appends.quiet.append(quantile(calm.appends, 0.99) * 1e6)
        appends.busy.append(quantile(loaded.appends, 0.99) * 1e6)
        durable.quiet.append(quantile(calm.durable, 0.99) * 1e6)
        durable.busy.append(quantile(loaded.durable, 0.99) * 1e6)
        note(
            "turn \(turn): p50 until durable \(short(quantile(calm.durable, 0.5) * 1e6)) us, during compaction \(short(quantile(loaded.durable, 0.5) * 1e6))"
        )
        try manager.deletePartition(name)
        manager.runMaintenance()
    }
    for (name, figures) in [("append", appends), ("durable", durable)] {
        figure("log_\(name)_p99_quiet", medianOf: figures.quiet, "us")
        figure("log_\(name)_p99_during_compaction", medianOf: figures.busy, "us")
        let ratios = zip(figures.busy, figures.quiet).map { $0 / $1 }
        figure("log_\(name)_p99_during_compaction_of_quiet", medianOf: ratios, "ratio")
    }
    figure("log_compaction_beside_appends", medianOf: rates, "MB/s")
    try manager.close()
}

/// `appends` belongs to the thread that runs it. Seconds that appends take at a thousand a second: until they return, and until they are durable.
private final class Latencies: @unchecked Sendable {
    private(set) var appends: [Double] = []
    private let waited = Mutex<[Double]>([])
    var durable: [Double] { waited.withLock { $0 } }

    func run(_ log: PartitionLog, _ batch: ByteBuffer, while goesOn: (Int) -> Bool) {
        var due = seconds()
        while goesOn(appends.count) {
            let start = seconds()
            guard let result = try? log.append(batch, as: .client, leaderEpoch: 0, now: SystemLogClock().now()) else {
                return
            }
            appends.append(seconds() - start)
            log.whenDurable(upTo: result.lastOffset + Int64(1)) { [self] _ in
                let time = seconds() - start
                waited.withLock { $0.append(time) }
            }
            due += 0.001
            let rest = due - seconds()
            if rest > 0 { usleep(UInt32(rest * 1e6)) } else { due = seconds() }
        }
        usleep(50_000)
    }
}
