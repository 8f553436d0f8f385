// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import MDCLog
import MDCModel
import NIOCore

/// Child process: opens a folder, says how long that took and what it takes, and ends as told: closed in order or by
/// the parent's kill.
func openChild(_ path: String, closes: Bool) throws -> Never {
    var manager: LogManager?
    let time = try timed { manager = try openManager(path) }
    guard let manager else { exit(1) }
    // Maintenance has run over all partitions by then.
    sleep(6)
    let descriptors = (try? POSIXFileSystem().list("/proc/self/fd").count) ?? -1
    let line = "ready \(time) \(mdc_resident_bytes()) \(descriptors) \(manager.allPartitions.count)"
    if closes { try manager.close() }
    waitToBeKilled(line)
}

/// Many partitions that hold something and are not used: start, memory, descriptors.
func idleBench(_ parent: String, partitions: Int) throws {
    let folder = try Folder(in: parent)
    let path = "\(folder.path)/log"
    let batch = try makeBatch(records: 1, valueSize: 100, timestamp: SystemLogClock().now())
    let manager = try openManager(path)
    let time = try timed {
        for number in 0..<partitions {
            let log = try manager.createPartition(partition(Int32(number)), topicID: topicID, settings: LogSettings())
            _ = try log.append(batch, as: .client, leaderEpoch: 0, now: SystemLogClock().now())
        }
    }
    figure("log_create_partition", Double(partitions) / time, "1/s")
    figure("log_\(partitions)_partitions_descriptors_after_use", Double(manager.openFileCount), "files")
    try manager.close()
    var starts: [Double] = []
    var memory: [Double] = []
    var files: [Double] = []
    for turn in 0..<4 {
        // The last one is killed, and the one after recovers.
        let child = try Child(["open", path, turn == 2 ? "kill" : "close"])
        let words = try child.waitForLine()
        child.kill()
        guard words.count == 5, words[4] == "\(partitions)", let start = Double(words[1]), let rss = Double(words[2]),
            let open = Double(words[3])
        else { throw BenchError("a start with \(partitions) partitions went wrong: \(words)") }
        note("start \(short(start)) s, \(short(rss / 1e6)) MB, \(words[3]) descriptors")
        if turn < 3 {
            starts.append(start)
            memory.append(rss / 1e6)
            files.append(open)
        } else {
            figure("log_\(partitions)_partitions_start_after_kill", start, "s")
            figure("log_\(partitions)_partitions_rss_after_kill", rss / 1e6, "MB")
        }
    }
    figure("log_\(partitions)_partitions_start", medianOf: starts, "s")
    figure("log_\(partitions)_partitions_rss", medianOf: memory, "MB")
    figure("log_\(partitions)_partitions_descriptors", medianOf: files, "files")
}
