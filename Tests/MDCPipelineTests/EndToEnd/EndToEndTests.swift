// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import MDCClient
import MDCModel
import MDCTesting
import NIOCore
import NIOPosix
import Synchronization
import Testing

@testable import MDCPipeline

/// The whole way, in one process, over a real broker: submission, lanes, providers against their simulators on sockets, callbacks,
/// receipts, retries, final states, store.
@Suite("end to end", .serialized)
struct EndToEndTests {
    @Test(
        "every valid message of a file reaches an end, with providers that fail, delay, lose and repeat",
        .timeLimit(.minutes(2))
    )
    func file() async throws {
        try await Bench.with { bench, _ in
            let path = try bench.file(rows: 300)
            let report = try await bench.running { center, _ in try await center.sendFile(path, timeout: .seconds(60)) }
            #expect(report.isComplete, "open: \(report.open)")
            #expect(report.rows == 304 && report.invalid.count == 4 && report.submitted == 300)
            #expect(report.invalid.map(\.line).sorted() == [302, 303, 304, 305])
            #expect(report.lanes.reduce(0) { $0 + $1.delivered + $1.sent + $1.failed + $1.expired } == 300)
            #expect(report.lanes.reduce(0) { $0 + $1.retried } > 0)
            // Sent again with the same file, nothing is submitted anew.
            let again = try await bench.running { center, _ in try await center.sendFile(path, timeout: .seconds(10)) }
            #expect(again.resumed == 300 && again.isComplete)
        }
    }

    @Test("the broker is killed and started again while messages flow: none is lost", .timeLimit(.minutes(4)))
    func brokerKilled() async throws {
        try await Bench.with { bench, broker in
            guard let broker else {
                print("skipped: MDC_TEST_KAFKA names a broker that this test must not kill")
                return
            }
            let path = try bench.file(rows: 400)
            let isKilled = Mutex(false)
            let report = try await bench.running { center, _ in
                try await center.sendFile(path, timeout: .seconds(120)) { progress in
                    guard progress.final > 60,
                        isKilled.withLock({
                            let was = $0; $0 = true; return !was
                        })
                    else { return }
                    Task {
                        broker.kill()
                        do { try await broker.start() } catch { Issue.record("the broker did not come back: \(error)") }
                    }
                }
            }
            #expect(isKilled.withLock { $0 })
            #expect(report.isComplete && report.submitted == 400, "open: \(report.open.count)")
        }
    }

    @Test(
        "timers that fire a second time, after a kill before they were marked, send nothing twice",
        .timeLimit(.minutes(4))
    )
    func timersFireAgain() async throws {
        try await Bench.with { bench, _ in
            let path = try bench.file(rows: 120)
            let report = try await bench.running { center, _ in try await center.sendFile(path, timeout: .seconds(90)) }
            #expect(report.isComplete, "open: \(report.open)")
            // What a kill between delivery and mark leaves: the timers are set, their messages are in the lanes, sent and done.
            let retries = try await bench.readAll(Topics.timers).filter { record in
                record.value != nil && record.key.map { String(buffer: $0).hasPrefix("retry:") } == true
            }
            #expect(!retries.isEmpty)
            var settings = ProducerConfiguration(client: bench.client)
            settings.linger = .zero
            let producer = try Producer(settings, eventLoopGroup: bench.group, logger: bench.logger)
            for record in retries {
                _ = try await producer.send(
                    ProducerRecord(topic: Topics.timers, key: record.key, value: record.value, headers: record.headers)
                )
            }
            try await producer.close()
            let lanes = Channel.allCases.flatMap { channel in
                ["critical", "high", "normal", "bulk"].map { Topics.dispatch(channel, $0) }
            }
            @Sendable func laneRecords() async throws -> Int {
                var count = 0
                for lane in lanes { count += try await bench.readAll(lane).count }
                return count
            }
            let before = try await laneRecords()
            try await bench.running { _, _ in
                let deadline = ContinuousClock.now + .seconds(90)
                while try await laneRecords() < before + retries.count {
                    try #require(ContinuousClock.now < deadline, "the timers did not fire again")
                    try await Task.sleep(for: .milliseconds(200))
                }
                // Worked off: what was repeated has been dealt with, too.
                let admin = try Admin(bench.client, eventLoopGroup: bench.group, logger: bench.logger)
                for channel in Channel.allCases {
                    while try await admin.lag("mdc.dispatch.\(channel)", bench) > 0 {
                        try #require(ContinuousClock.now < deadline, "the lanes of \(channel) are not worked off")
                        try await Task.sleep(for: .milliseconds(200))
                    }
                }
                await admin.close()
            }
            var results: [MessageReference: Int] = [:]
            for record in try await bench.readAll(Topics.events) {
                let event = try TimelineEvent(json: try #require(record.value))
                guard event.component == "dispatcher", event.kind != .redelivered, event.kind != .rerouted else {
                    continue
                }
                results[MessageReference(messageID: event.messageID, attempt: event.attempt), default: 0] += 1
            }
            #expect(results.count > 120 && results.values.allSatisfy { $0 == 1 }, "\(results.filter { $0.value > 1 })")
        }
    }

    @Test(
        "the centre is killed (SIGKILL) again and again: nothing is lost, nothing is submitted twice",
        .timeLimit(.minutes(4))
    )
    func centreKilled() async throws {
        try await Bench.with { bench, _ in
            let path = try bench.file(rows: 400)
            let (bootstrap, folder) = (bench.bootstrap, bench.folder.path)
            for share in [15, 40, 70] {
                await #expect(processExitsWith: .signal(SIGKILL)) {
                    [
                        bootstrap = bootstrap as String, folder = folder as String, path = path as String,
                        share = share as Int
                    ] in
                    try await Bench.with(bootstrap: bootstrap, folder: folder) { bench in
                        _ = try await bench.running { center, _ in
                            try await center.sendFile(path, timeout: .seconds(60)) { progress in
                                if progress.final * 100 >= share * 400 { kill(getpid(), SIGKILL) }
                            }
                        }
                    }
                }
            }
            try await bench.running { center, _ in
                let report = try await center.sendFile(path, timeout: .seconds(90))
                #expect(report.isComplete && report.submitted == 400 && report.resumed > 0, "open: \(report.open)")
                let store = try #require(center.store)
                #expect(try store.count() == 400)
                for message in try store.list(pageSize: 1_000) {
                    let timeline = try store.get(message.id)?.timeline ?? []
                    #expect(timeline.filter { $0.kind == .submitted }.count == 1)
                    #expect(timeline.filter { $0.status?.isFinal == true }.count == 1, "\(timeline)")
                    // An attempt has one result, unless the timeline says that it was made again.
                    let results = timeline.filter {
                        $0.component == "dispatcher" && ![.redelivered, .rerouted].contains($0.kind)
                    }
                    for (attempt, group) in Dictionary(grouping: results, by: \.attempt) where group.count > 1 {
                        #expect(timeline.contains { $0.kind == .redelivered && $0.attempt == attempt }, "\(timeline)")
                    }
                }
            }
        }
    }
}

extension Admin {
    /// How many records a group has not done.
    fileprivate func lag(_ group: String, _ bench: Bench) async throws -> Int64 {
        let offsets = try await groupOffsets(group)
        let consumer = try Consumer(
            ConsumerConfiguration(client: bench.client, groupID: nil),
            eventLoopGroup: bench.group,
            logger: bench.logger
        )
        let ends = try await consumer.endOffsets(Array(offsets.keys))
        await consumer.close()
        return ends.reduce(0) { $0 + ($1.value.rawValue - (offsets[$1.key]?.offset.rawValue ?? 0)) }
    }
}
