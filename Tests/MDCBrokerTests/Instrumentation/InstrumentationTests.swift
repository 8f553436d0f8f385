// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import Synchronization
import Testing

@testable import MDCBroker

@Suite("Metrics and logs")
struct InstrumentationTests {
    @Test("A line of the JSON log has time, level, label, message and metadata, escaped")
    func jsonLine() {
        let line = JSONLogHandler.line(
            milliseconds: 1_709_251_199_007,
            level: .warning,
            label: "mdc",
            message: "say \"hi\"\n\u{1}",
            metadata: ["b": "x\\y", "a": ["1", "2"], "level": "mine", "c": ["k": "v"]]
        )
        #expect(
            line
                == #"{"time":"2024-02-29T23:59:59.007Z","level":"warning","label":"mdc","message":"say \"hi\"\n\u0001","#
                + #""a":["1","2"],"b":"x\\y","c":{"k":"v"},"level_":"mine"}"#
        )
        #expect(JSONLogHandler.time(0) == "1970-01-01T00:00:00.000Z")
        #expect(JSONLogHandler.time(4_102_444_800_000) == "2100-01-01T00:00:00.000Z")
    }

    @Test("The handler passes on what its logger carries")
    func jsonHandler() {
        let shared = SharedLines()
        var logger = Logger(label: "test") { label in
            JSONLogHandler(label: label, level: .info) { shared.add($0) }
        }
        logger[metadataKey: "node"] = "1"
        logger.debug("not this")
        logger.info("this", metadata: ["topic": "t"])
        #expect(shared.all.count == 1)
        #expect(shared.all.first?.hasSuffix(#""message":"this","node":"1","topic":"t"}"#) == true)
    }

    private final class SharedLines: Sendable {
        private let lines = Mutex<[String]>([])
        var all: [String] { lines.withLock { $0 } }
        func add(_ line: String) { lines.withLock { $0.append(line) } }
    }

    @Test("Labels are escaped, and a histogram is cumulative with its sum and count")
    func report() {
        var report = MetricsReport()
        report.add("m", "gauge", "Help.", series: [([("group", "a\"b\\c\nd"), ("topic", "t")], "1")])
        #expect(report.page.hasSuffix("m{group=\"a\\\"b\\\\c\\nd\",topic=\"t\"} 1\n"))
        let metrics = LoopMetrics()
        metrics.answered(.produce, nanoseconds: 40_000)
        metrics.answered(.produce, nanoseconds: 50_001)
        metrics.answered(.produce, nanoseconds: 60_000_000_000)
        metrics.failed(.produce, .notLeaderOrFollower)
        var requests = MetricsReport()
        requests.addRequests([metrics.snapshot, LoopMetrics().snapshot])
        let lines = requests.page.split(separator: "\n").map(String.init)
        #expect(lines.contains("mdc_requests_total{api=\"Produce\"} 3"))
        #expect(lines.contains("mdc_request_duration_seconds_bucket{api=\"Produce\",le=\"5e-05\"} 1"))
        #expect(lines.contains("mdc_request_duration_seconds_bucket{api=\"Produce\",le=\"0.0001\"} 2"))
        #expect(lines.contains("mdc_request_duration_seconds_bucket{api=\"Produce\",le=\"5.0\"} 2"))
        #expect(lines.contains("mdc_request_duration_seconds_bucket{api=\"Produce\",le=\"+Inf\"} 3"))
        #expect(lines.contains("mdc_request_duration_seconds_count{api=\"Produce\"} 3"))
        #expect(lines.contains { $0.hasPrefix("mdc_request_errors_total{api=\"Produce\",error=") })
    }
}
