// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import MDCLog
import MDCModel
import NIOCore

/// Child process: appends so many mebibytes, brings them to disk with a checkpoint, appends a tail that is not synced,
/// says so, and waits to be killed.
func fillChild(_ path: String, durableMegabytes: Int, tailMegabytes: Int) throws -> Never {
    let manager = try openManager(path, manual: true)
    let log =
        try manager.partition(partition(0))
        ?? manager.createPartition(partition(0), topicID: topicID, settings: LogSettings())
    // 16 KiB batches, as a busy producer sends them.
    let batch = try makeBatch(records: 16, valueSize: 1010, timestamp: SystemLogClock().now())
    func append(_ megabytes: Int) throws {
        var done = 0
        while done < megabytes << 20 {
            _ = try log.append(batch, as: .client, leaderEpoch: 0, now: SystemLogClock().now())
            done += batch.readableBytes
            if done % (256 << 20) < batch.readableBytes { _ = durableMegabytes > 0 && manager.runSyncRound() }
        }
    }
    if durableMegabytes > 0 {
        try append(durableMegabytes)
        manager.runSyncRound()
        manager.runCheckpoint()
        // Footers, as a node that has run for a while has them.
        manager.runScrub()
    }
    try append(tailMegabytes)
    waitToBeKilled("ready \(log.logEndOffset)")
}

/// Start after kill -9 with much data and a tail that was not synced.
func recoveryBench(_ parent: String, gigabytes: Int) throws {
    let folder = try Folder(in: parent)
    let path = "\(folder.path)/log"
    /// Returns where the log ended when it was killed.
    func crash(_ durable: Int) throws -> String? {
        let child = try Child(["fill", path, "\(durable)", "64"])
        let words = try child.waitForLine()
        child.kill()
        return words.last
    }
    var end = try crash(gigabytes * 1024)
    var warm: [Double] = []
    var cold: [Double] = []
    for turn in 0..<6 {
        if turn > 0 { end = try crash(0) }
        if turn % 2 == 1 { try Folder.dropCaches(path) }
        var manager: LogManager?
        let time = try timed { manager = try openManager(path) }
        guard let manager, let report = manager.recoveryReports.first, report.scannedBytes >= 64 << 20 else {
            throw BenchError("the start had nothing to recover: the benchmark does not measure what it should")
        }
        // All of it was in the page cache, which outlives the process.
        guard let log = manager.partition(partition(0)), "\(log.logEndOffset)" == end,
            log.sizeInBytes >= gigabytes << 30
        else { throw BenchError("the recovery lost records") }
        if turn % 2 == 1 { cold.append(time) } else { warm.append(time) }
        try manager.close()
    }
    figure("log_recovery_\(gigabytes)GB_64MB_tail", medianOf: warm, "s")
    figure("log_recovery_\(gigabytes)GB_64MB_tail_cold_cache", medianOf: cold, "s")
}

/// The offline check of a folder against reading its logs, with cold and with warm pages.
func checkBench(_ parent: String) throws {
    let folder = try Folder(in: parent)
    let path = "\(folder.path)/log"
    let child = try Child(["fill", path, "2048", "0"])
    _ = try child.waitForLine()
    child.kill()
    let files = Folder.files(path).filter { $0.hasSuffix(".log") }.sorted()
    let bytes = files.reduce(0) { $0 + ((try? POSIXFileSystem().attributes($1)?.size) ?? 0) }
    for (suffix, isCold) in [("cold_cache", true), ("cached", false)] {
        var read: [Double] = []
        var check: [Double] = []
        var processor: [Double] = []
        for turn in 0..<(isCold ? 6 : 10) {
            if isCold { try Folder.dropCaches(path) }
            let start = threadSeconds()
            let plain = try rawReadRate(files) / 1e6
            let between = threadSeconds()
            if isCold { try Folder.dropCaches(path) }
            let begin = threadSeconds()
            let ours = try checkRate(path, bytes)
            if turn == 0 { continue }
            read.append(plain)
            check.append(ours)
            processor.append((between - start) / (threadSeconds() - begin))
        }
        figure("log_check_raw_read_\(suffix)", medianOf: read, "MB/s")
        figure("log_check_\(suffix)", medianOf: check, "MB/s")
        figure("log_check_\(suffix)_of_raw", medianOf: zip(check, read).map { $0 / $1 }, "ratio")
        // The same by processor time, which other processes do not take from it.
        figure("log_check_\(suffix)_processor_of_raw", medianOf: processor, "ratio")
    }
}

private func checkRate(_ path: String, _ bytes: Int) throws -> Double {
    let time = try timed {
        let report = try LogChecker(directory: path).run()
        guard report.isSound else { throw BenchError("the check found problems: \(report)") }
    }
    return Double(bytes) / time / 1e6
}
