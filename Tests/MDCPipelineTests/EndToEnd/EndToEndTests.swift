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

    @Test("the broker is killed and started again while messages flow: none is lost", .timeLimit(.minutes(3)))
    func brokerKilled() async throws {
        try await Bench.with { bench, broker in
            guard let broker else {
                print("skipped: MDC_TEST_KAFKA names a broker that this test must not kill")
                return
            }
            let path = try bench.file(rows: 400)
            let isKilled = Mutex(false)
            let report = try await bench.running { center, _ in
                try await center.sendFile(path, timeout: .seconds(90)) { progress in
                    guard progress.final > 60,
                        isKilled.withLock({
                            let was = $0; $0 = true; return !was
                        })
                    else { return }
                    Task {
                        broker.kill()
                        try await broker.start()
                    }
                }
            }
            #expect(isKilled.withLock { $0 })
            #expect(report.isComplete && report.submitted == 400, "open: \(report.open.count)")
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
                    let results = timeline.filter { $0.component == "dispatcher" && $0.kind != .redelivered }
                    for (attempt, group) in Dictionary(grouping: results, by: \.attempt) where group.count > 1 {
                        #expect(timeline.contains { $0.kind == .redelivered && $0.attempt == attempt }, "\(timeline)")
                    }
                }
            }
        }
    }
}
