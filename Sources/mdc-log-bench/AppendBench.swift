// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import MDCLog
import MDCModel
import NIOCore

/// Appends of large batches without a sync against plain writes of the same bytes to a file with reserved space, in
/// alternating runs, each on fresh files. Then the same with a segment that is sealed every 64 MiB, which the engine
/// brings to disk in the background, while the plain write stays as it was.
func appendBench(_ parent: String) throws {
    try appendBench(parent, "log_append_1MB", segmentBytes: 1 << 30)
    try appendBench(parent, "log_append_1MB_rolling_64MB", segmentBytes: 64 << 20)
}

private func appendBench(_ parent: String, _ name: String, segmentBytes: Int) throws {
    let folder = try Folder(in: parent)
    let batch = try makeLargeBatch()
    let count = 256
    let bytes = Double(batch.readableBytes * count)
    let manager = try openManager("\(folder.path)/log")
    var settings = LogSettings()
    settings.durability = .os
    settings.segmentBytes = segmentBytes
    settings.fileDeleteDelayMilliseconds = 0
    func runRaw() throws -> (wall: Double, processor: Double) {
        let file = try RawFile("\(folder.path)/raw", reserving: batch.readableBytes * count)
        let processor = threadSeconds()
        let time = try timed {
            for index in 0..<count {
                try batch.withUnsafeReadableBytes { try file.write($0, at: index * batch.readableBytes) }
            }
        }
        return (time, threadSeconds() - processor)
    }
    func runLog(_ number: Int) throws -> (wall: Double, processor: Double) {
        let name = partition(Int32(number))
        let target = try manager.createPartition(name, topicID: topicID, settings: settings)
        let now = SystemLogClock().now()
        let start = threadSeconds()
        let time = try timed {
            for _ in 0..<count { _ = try target.append(batch, as: .client, leaderEpoch: 0, now: now) }
        }
        let processor = threadSeconds() - start
        // What was to be synced is, so that the next run has the disk for itself.
        var rounds = -1
        while rounds != manager.syncRounds {
            rounds = manager.syncRounds
            usleep(50_000)
        }
        try manager.deletePartition(name)
        manager.runMaintenance()
        return (time, processor)
    }
    var raw: [Double] = []
    var log: [Double] = []
    var processor: [Double] = []
    for round in 0..<26 {
        // Which goes first alternates, so that neither always finds the pages that the other has just given back.
        let first = round.isMultiple(of: 2) ? try runRaw() : (wall: 0, processor: 0)
        let ours = try runLog(round)
        let plain = round.isMultiple(of: 2) ? first : try runRaw()
        if round < 2 { continue }
        raw.append(bytes / plain.wall / 1e6)
        log.append(bytes / ours.wall / 1e6)
        processor.append(plain.processor / ours.processor)
    }
    try manager.close()
    figure("\(name)_raw_pwritev", medianOf: raw, "MB/s")
    figure(name, medianOf: log, "MB/s")
    figure("\(name)_of_raw", medianOf: zip(log, raw).map { $0 / $1 }, "ratio")
    // The same by processor time of the appending thread, which other processes do not take from it.
    figure("\(name)_processor_of_raw", medianOf: processor, "ratio")
}

/// What a client's large batch costs before it is appended.
func validationBench(_ parent: String) throws {
    let batch = try makeLargeBatch()
    var rates: [Double] = []
    for _ in 0..<9 {
        let start = threadSeconds()
        for _ in 0..<400 {
            _ = try batch.withUnsafeReadableBytes { bytes in
                try RecordBatchValidator.validate(bytes, rules: .client)
            }
        }
        rates.append(Double(batch.readableBytes * 400) / (threadSeconds() - start) / 1e9)
    }
    figure("log_validation_1MB", medianOf: rates, "GB/s")
}
