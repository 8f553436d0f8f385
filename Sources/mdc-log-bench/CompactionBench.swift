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
    try tailBench(folder.path)
}

private final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    func set() { value.store(true, ordering: .releasing) }
    var isSet: Bool { value.load(ordering: .acquiring) }
}

/// Latency of appends to one partition, durable and not, while another one is compacted and while none is.
private func tailBench(_ parent: String) throws {
    // The engine's own thread for it would begin by itself.
    let manager = try openManager("\(parent)/tail") { $0.maintenanceIntervalMilliseconds = 100_000_000 }
    let log = try manager.createPartition(partition(1), topicID: topicID, settings: LogSettings())
    let batch = try makeBatch(records: 4, valueSize: 990, timestamp: SystemLogClock().now())
    var quiet: [Double] = []
    var busy: [Double] = []
    var quietDurable: [Double] = []
    var busyDurable: [Double] = []
    for turn in 0..<3 {
        let name = partition(Int32(10 + turn))
        let dirty = try manager.createPartition(name, topicID: topicID, settings: compacted())
        try fill(dirty, megabytes: 384)
        while dirty.syncedEndOffset < dirty.logEndOffset { usleep(1000) }
        manager.runCheckpoint()
        let calm = Latencies()
        calm.run(log, batch, while: { $0 < 2000 })
        let isDone = Flag()
        try startBackgroundThread {
            manager.runCompaction()
            isDone.set()
        }
        let loaded = Latencies()
        loaded.run(log, batch, while: { _ in !isDone.isSet })
        note("turn \(turn): \(loaded.appends.count) appends during a compaction")
        quiet.append(quantile(calm.appends, 0.99) * 1e6)
        busy.append(quantile(loaded.appends, 0.99) * 1e6)
        quietDurable.append(quantile(calm.durable, 0.99) * 1e6)
        busyDurable.append(quantile(loaded.durable, 0.99) * 1e6)
        try manager.deletePartition(name)
        manager.runMaintenance()
    }
    figure("log_append_p99_quiet", medianOf: quiet, "us")
    figure("log_append_p99_during_compaction", medianOf: busy, "us")
    figure("log_append_p99_during_compaction_of_quiet", medianOf: zip(busy, quiet).map { $0 / $1 }, "ratio")
    figure("log_durable_p99_quiet", medianOf: quietDurable, "us")
    figure("log_durable_p99_during_compaction", medianOf: busyDurable, "us")
    figure(
        "log_durable_p99_during_compaction_of_quiet",
        medianOf: zip(busyDurable, quietDurable).map { $0 / $1 },
        "ratio"
    )
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
