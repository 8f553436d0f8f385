// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCModel
import MDCProtocol
import Synchronization

/// What one event loop counts. Written on its loop, read by whoever scrapes.
final class LoopMetrics: Sendable {
    /// Upper bounds of the latency buckets, in microseconds.
    static let bounds: [UInt64] = [
        50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    ]

    /// Requests of one API.
    struct API: Sendable {
        var count: UInt64 = 0
        var nanoseconds: UInt64 = 0
        var buckets = [UInt64](repeating: 0, count: LoopMetrics.bounds.count)
    }

    struct Counts: Sendable {
        var apis = [API?](repeating: nil, count: 96)
        var errors: [ErrorKey: UInt64] = [:]
        var bytesIn: UInt64 = 0
        var bytesOut: UInt64 = 0
        var busyNanoseconds: UInt64 = 0
    }

    struct ErrorKey: Hashable, Sendable {
        var api: Int16
        var code: Int16
    }

    private let counts = Mutex(Counts())

    func received(_ bytes: Int) { counts.withLock { $0.bytesIn += UInt64(bytes) } }
    func sent(_ bytes: Int) { counts.withLock { $0.bytesOut += UInt64(bytes) } }

    func answered(_ key: APIKey, nanoseconds: UInt64) {
        counts.withLock { counts in
            let index = Int(key.rawValue)
            guard counts.apis.indices.contains(index) else { return }
            if counts.apis[index] == nil { counts.apis[index] = API() }
            counts.apis[index]!.count += 1
            counts.apis[index]!.nanoseconds += nanoseconds
            let microseconds = nanoseconds / 1000
            if let bucket = Self.bounds.firstIndex(where: { microseconds <= $0 }) {
                counts.apis[index]!.buckets[bucket] += 1
            }
        }
    }

    func failed(_ key: APIKey, _ code: ErrorCode) {
        counts.withLock { $0.errors[ErrorKey(api: key.rawValue, code: code.rawValue), default: 0] += 1 }
    }

    /// Counts the time that `body` keeps the loop busy.
    func measureWork(_ body: () -> Void) {
        let start = mdc_monotonic_ns()
        body()
        let end = mdc_monotonic_ns()
        counts.withLock { $0.busyNanoseconds += end &- start }
    }

    var snapshot: Counts { counts.withLock { $0 } }
}

/// Everything `/metrics` shows.
struct MetricsReport {
    private var text = ""

    /// Adds one metric with its series.
    mutating func add(_ name: String, _ type: String, _ help: String, _ series: [(labels: String, value: String)]) {
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(type)\n"
        for (labels, value) in series {
            text += labels.isEmpty ? "\(name) \(value)\n" : "\(name){\(labels)} \(value)\n"
        }
    }

    mutating func add(_ name: String, _ type: String, _ help: String, _ value: some CustomStringConvertible) {
        add(name, type, help, [("", value.description)])
    }

    /// Adds the requests of all loops, with their latencies.
    mutating func addRequests(_ loops: [LoopMetrics.Counts]) {
        var totals: [(name: String, api: LoopMetrics.API)] = []
        for index in 0..<96 {
            var total = LoopMetrics.API()
            for loop in loops {
                guard let api = loop.apis[index] else { continue }
                total.count += api.count
                total.nanoseconds += api.nanoseconds
                for bucket in total.buckets.indices { total.buckets[bucket] += api.buckets[bucket] }
            }
            if total.count > 0 { totals.append((APIKey(rawValue: Int16(index)).description, total)) }
        }
        add(
            "mdc_requests_total",
            "counter",
            "Requests answered, by API.",
            totals.map { ("api=\"\($0.name)\"", String($0.api.count)) }
        )
        var series: [(String, String)] = []
        text += "# HELP mdc_request_duration_seconds Time from the arrival of a request to its answer.\n"
        text += "# TYPE mdc_request_duration_seconds histogram\n"
        for (name, api) in totals {
            var cumulative: UInt64 = 0
            for (bound, count) in zip(LoopMetrics.bounds, api.buckets) {
                cumulative += count
                series.append(("_bucket{api=\"\(name)\",le=\"\(Double(bound) / 1e6)\"}", String(cumulative)))
            }
            series.append(("_bucket{api=\"\(name)\",le=\"+Inf\"}", String(api.count)))
            series.append(("_sum{api=\"\(name)\"}", String(Double(api.nanoseconds) / 1e9)))
            series.append(("_count{api=\"\(name)\"}", String(api.count)))
        }
        for (suffix, value) in series { text += "mdc_request_duration_seconds\(suffix) \(value)\n" }
        var errors: [LoopMetrics.ErrorKey: UInt64] = [:]
        for loop in loops { errors.merge(loop.errors, uniquingKeysWith: +) }
        add(
            "mdc_request_errors_total",
            "counter",
            "Errors in answers, by API and code.",
            errors.sorted { ($0.key.api, $0.key.code) < ($1.key.api, $1.key.code) }.map { key, count in
                ("api=\"\(APIKey(rawValue: key.api))\",error=\"\(ErrorCode(rawValue: key.code))\"", String(count))
            }
        )
    }

    /// The page in the text format of Prometheus.
    var page: String { text }
}
