// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Glibc
import MDCLog
import MDCModel
import NIOCore
import Synchronization

/// A counter that a thread can wait for. Unchecked: the semaphore stays where it is until the object goes.
private final class Gate: @unchecked Sendable {
    private let semaphore: UnsafeMutablePointer<sem_t>
    init() {
        semaphore = .allocate(capacity: 1)
        sem_init(semaphore, 0, 0)
    }
    deinit {
        sem_destroy(semaphore)
        semaphore.deallocate()
    }
    func signal() { sem_post(semaphore) }
    func wait() { while sem_wait(semaphore) != 0 {} }
}

/// Durable appends of 4 KiB against plain write-and-fdatasync of the same, alternating.
func commitBench(_ parent: String) throws {
    let folder = try Folder(in: parent)
    let batch = try makeBatch(records: 4, valueSize: 990, timestamp: SystemLogClock().now())
    let manager = try openManager("\(folder.path)/log")
    let single = try manager.createPartition(partition(1000), topicID: topicID, settings: LogSettings())
    let raw = try RawFile("\(folder.path)/raw", reserving: 256 << 20)
    var position = 0
    func rawRounds(_ count: Int) throws -> Double {
        let time = try timed {
            for _ in 0..<count {
                try batch.withUnsafeReadableBytes { try raw.write($0, at: position) }
                position += batch.readableBytes
                try raw.sync()
            }
        }
        return Double(count) / time
    }
    var rawRates: [Double] = []
    var waitedRates: [Double] = []
    var rounds: [Double] = []
    // Short turns: what else the disk has to do changes from second to second.
    for turn in 0..<63 {
        var (plain, waited, ours) = (0.0, 0.0, 0.0)
        for part in 0..<3 {
            switch (turn + part) % 3 {
            case 0: plain = try rawRounds(30)
            case 1: waited = try waitedAppends(single, batch, 30)
            default:
                let before = manager.syncRounds
                let time = try timed { try pipelinedAppends([single], batch, total: 60, inFlight: 2) }
                ours = Double(manager.syncRounds - before) / time
            }
        }
        if turn < 3 { continue }
        rawRates.append(plain)
        waitedRates.append(waited)
        rounds.append(ours)
    }
    figure("log_commit_raw_write_fdatasync", medianOf: rawRates, "1/s")
    figure("log_commit_1_partition_rounds", medianOf: rounds, "1/s")
    figure("log_commit_1_partition_waiting_caller", medianOf: waitedRates, "1/s")
    figure("log_commit_1_partition_rounds_of_raw", medianOf: zip(rounds, rawRates).map { $0 / $1 }, "ratio")
    figure(
        "log_commit_1_partition_waiting_caller_of_raw",
        medianOf: zip(waitedRates, rawRates).map { $0 / $1 },
        "ratio"
    )

    var logs: [PartitionLog] = []
    for number in 0..<100 {
        logs.append(try manager.createPartition(partition(Int32(number)), topicID: topicID, settings: LogSettings()))
    }
    var one: [Double] = []
    var ten: [Double] = []
    var base: [Double] = []
    for turn in 0..<9 {
        let before = try rawRounds(50)
        let time1 = try timed { try pipelinedAppends(logs, batch, total: 1500, inFlight: 100) }
        let between = try rawRounds(50)
        let time10 = try timed { try pipelinedAppends(logs, batch, total: 15000, inFlight: 1000) }
        if turn < 1 { continue }
        one.append(1500 / time1)
        ten.append(15000 / time10)
        base.append((before + between) / 2)
    }
    figure("log_commit_100_partitions_1_in_flight_each", medianOf: one, "1/s")
    figure("log_commit_100_partitions_10_in_flight_each", medianOf: ten, "1/s")
    figure("log_commit_100_partitions_1_in_flight_each_of_raw", medianOf: zip(one, base).map { $0 / $1 }, "ratio")
    figure("log_commit_100_partitions_of_raw", medianOf: zip(ten, base).map { $0 / $1 }, "ratio")
    try manager.close()
}

/// One thread that appends and waits until that is durable, again and again: two thread changes a round.
private func waitedAppends(_ log: PartitionLog, _ batch: ByteBuffer, _ count: Int) throws -> Double {
    let gate = Gate()
    let time = try timed {
        for _ in 0..<count {
            let result = try log.append(batch, as: .client, leaderEpoch: 0, now: SystemLogClock().now())
            log.whenDurable(upTo: result.lastOffset + Int64(1)) { _ in gate.signal() }
            gate.wait()
        }
    }
    return Double(count) / time
}

/// One thread that keeps `inFlight` appends going, spread over the logs, until `total` are durable.
private func pipelinedAppends(_ logs: [PartitionLog], _ batch: ByteBuffer, total: Int, inFlight: Int) throws {
    let gate = Gate()
    for index in 0..<total {
        if index >= inFlight { gate.wait() }
        let log = logs[index % logs.count]
        let result = try log.append(batch, as: .client, leaderEpoch: 0, now: SystemLogClock().now())
        log.whenDurable(upTo: result.lastOffset + Int64(1)) { _ in gate.signal() }
    }
    for _ in 0..<min(inFlight, total) { gate.wait() }
}
