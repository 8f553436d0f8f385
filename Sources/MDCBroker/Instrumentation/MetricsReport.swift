// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// The page of `/metrics`, written line by line in the text format of Prometheus.
struct MetricsReport {
    /// A label of a series.
    typealias Label = (name: String, value: String)

    private(set) var page = ""

    /// Begins a metric; its series follow.
    mutating func begin(_ name: String, _ type: String, _ help: String) {
        page += "# HELP "
        page += name
        page += " "
        page += help
        page += "\n# TYPE "
        page += name
        page += " "
        page += type
        page += "\n"
    }

    /// A series of the metric that was begun.
    mutating func series(_ name: String, _ labels: [Label], _ value: String) {
        page += name
        if !labels.isEmpty {
            page += "{"
            for (index, label) in labels.enumerated() {
                if index > 0 { page += "," }
                page += label.name
                page += "=\""
                appendEscaped(label.value)
                page += "\""
            }
            page += "}"
        }
        page += " "
        page += value
        page += "\n"
    }

    /// Names of groups may hold anything.
    private mutating func appendEscaped(_ text: String) {
        let isPlain = text.utf8.allSatisfy { $0 != UInt8(ascii: "\\") && $0 != UInt8(ascii: "\"") && $0 != 10 }
        if isPlain {
            page += text
            return
        }
        for character in text.unicodeScalars {
            switch character {
            case "\\": page += "\\\\"
            case "\"": page += "\\\""
            case "\n": page += "\\n"
            default: page.unicodeScalars.append(character)
            }
        }
    }

    /// Adds a metric of one series.
    mutating func add(_ name: String, _ type: String, _ help: String, _ value: some CustomStringConvertible) {
        begin(name, type, help)
        series(name, [], value.description)
    }

    /// Adds a metric with its series.
    mutating func add(
        _ name: String,
        _ type: String,
        _ help: String,
        series all: [(labels: [Label], value: String)]
    ) {
        begin(name, type, help)
        for (labels, value) in all { series(name, labels, value) }
    }

    /// Adds the series of a histogram.
    private mutating func histogram(_ name: String, _ labels: [Label], _ histogram: LoopMetrics.Histogram) {
        var cumulative: UInt64 = 0
        for (bound, count) in zip(LoopMetrics.bounds, histogram.buckets) {
            cumulative += count
            series(name + "_bucket", labels + [("le", String(Double(bound) / 1e6))], String(cumulative))
        }
        series(name + "_bucket", labels + [("le", "+Inf")], String(histogram.count))
        series(name + "_sum", labels, String(Double(histogram.nanoseconds) / 1e9))
        series(name + "_count", labels, String(histogram.count))
    }

    /// Adds the requests of all loops, with their latencies.
    mutating func addRequests(_ loops: [LoopMetrics.Counts]) {
        var totals: [(name: String, histogram: LoopMetrics.Histogram)] = []
        for index in 0..<LoopMetrics.apiCount {
            var total = LoopMetrics.Histogram()
            for loop in loops { if let api = loop.apis[index] { total.merge(api) } }
            if total.count > 0 { totals.append((APIKey(rawValue: Int16(index)).description, total)) }
        }
        add(
            "mdc_requests_total",
            "counter",
            "Requests answered, by API.",
            series: totals.map { ([("api", $0.name)], String($0.histogram.count)) }
        )
        begin(
            "mdc_request_duration_seconds",
            "histogram",
            "Time from the arrival of a request to its answer, long polls included."
        )
        for (name, total) in totals { histogram("mdc_request_duration_seconds", [("api", name)], total) }
        var errors: [LoopMetrics.ErrorKey: UInt64] = [:]
        for loop in loops { errors.merge(loop.errors, uniquingKeysWith: +) }
        add(
            "mdc_request_errors_total",
            "counter",
            "Errors in answers, by API and code.",
            series: errors.sorted { ($0.key.api, $0.key.code) < ($1.key.api, $1.key.code) }.map { key, count in
                (
                    [
                        ("api", APIKey(rawValue: key.api).description),
                        ("error", ErrorCode(rawValue: key.code).description),
                    ], String(count)
                )
            }
        )
    }

    /// Adds how long sync rounds took.
    mutating func addSyncRounds(_ durations: LoopMetrics.Histogram) {
        begin(
            "mdc_log_sync_round_duration_seconds",
            "histogram",
            "Time in which the files of a round of the group commit went to disk."
        )
        histogram("mdc_log_sync_round_duration_seconds", [], durations)
    }

    /// Adds how late the loops were.
    mutating func addDelays(_ loops: [LoopMetrics.Counts]) {
        begin(
            "mdc_event_loop_delay_seconds",
            "histogram",
            "How late an event loop came to a task that was due, looked at four times a second."
        )
        for (index, loop) in loops.enumerated() {
            histogram("mdc_event_loop_delay_seconds", [("loop", String(index))], loop.delays)
        }
    }
}
