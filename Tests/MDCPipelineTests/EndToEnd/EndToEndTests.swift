// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import MDCClient
import MDCModel
import NIOCore
import NIOPosix
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
        try await Bench.with { bench in
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
}
