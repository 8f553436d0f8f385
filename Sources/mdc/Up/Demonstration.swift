// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import MDCPipeline
import Synchronization

/// `mdc up --demo`: a file of messages from submission to their ends, and the report about it.
struct Demonstration: Sendable {
    let file: String
    /// The folder of this demonstration.
    let data: String
    /// Seconds that messages may take to end.
    let timeout: Int

    /// Says that the folder's demonstration came to its end.
    private var marker: String { data + "/demo-complete.json" }

    init(file: String, data: String, timeout: Int) throws {
        guard FileManager.default.isReadableFile(atPath: file) else {
            throw CommandError("cannot read '\(file)'; does it exist, and may it be read?")
        }
        (self.file, self.data, self.timeout) = (file, data, timeout)
    }

    /// Empties a folder whose demonstration was completed; one that was cut off is kept, to go on with.
    ///
    /// The marker goes last: killed in between, the next start empties the rest.
    func prepareFolder() throws {
        let files = FileManager.default
        guard files.fileExists(atPath: marker) else { return }
        let store = UpSettings.storePath(data)
        for path in [data + "/broker", store, store + "-wal", store + "-shm", marker]
        where files.fileExists(atPath: path) {
            do {
                try files.removeItem(atPath: path)
            } catch {
                throw CommandError("cannot remove '\(path)' of the last demonstration: \(error.localizedDescription)")
            }
        }
    }

    /// Sends the file, waits, and prints what became of it.
    func run(_ center: MessageCenter, summary: [String], isJSON: Bool) async throws -> FileRunReport {
        if !isJSON {
            for line in summary { StandardOutput.write(line + "\n") }
            StandardOutput.write("sending the messages of \(file)\n")
        }
        let meter = ProgressMeter()
        let report = try await center.sendFile(file, timeout: .seconds(timeout)) { progress in
            meter.show(done: progress.final, of: progress.submitted, "at their end", isLast: false)
        }
        meter.show(done: report.submitted - report.open.count, of: report.submitted, "at their end", isLast: true)
        if isJSON {
            StandardOutput.write(try JSONOutput.pretty(report))
        } else {
            StandardOutput.write(DemoReport(report).text)
        }
        return report
    }

    /// Marks the folder if everything is at its end. Call when broker and store are closed.
    ///
    /// - Returns: whether no message is lost.
    func conclude(_ report: FileRunReport) throws -> Bool {
        guard report.isComplete, DemoReport(report).addsUp else { return false }
        do {
            try Data(try JSONOutput.pretty(report).utf8).write(to: URL(fileURLWithPath: marker), options: .atomic)
        } catch {
            throw CommandError("cannot write '\(marker)': \(error.localizedDescription)")
        }
        return true
    }
}

/// A demonstration's report as text.
struct DemoReport {
    let report: FileRunReport

    init(_ report: FileRunReport) { self.report = report }

    private func sum(_ value: (FileRunReport.LaneReport) -> Int) -> Int { report.lanes.reduce(0) { $0 + value($1) } }

    /// Every row is accounted for once, and every message has one end.
    var addsUp: Bool {
        let rows = report.submitted + report.repeatedRows + report.invalid.count
        let ends = sum { $0.delivered + $0.sent + $0.failed + $0.expired }
        return rows == report.rows && sum(\.submitted) == report.submitted
            && ends + report.open.count == report.submitted
    }

    var text: String {
        var text = invalidRows + "\n" + laneTable + "\n" + verdict
        if let example = report.example {
            text += "\none message, step by step:\n" + MessageText.describe(example)
        }
        return text
    }

    private var invalidRows: String {
        var text = ""
        if !report.invalid.isEmpty {
            text += "\n\(report.invalid.count) rows are no valid messages and were not sent:\n"
            for row in report.invalid.sorted(by: { $0.line < $1.line }) {
                text += "  line \(row.line): \(row.reason)\n"
            }
        }
        if !report.warnings.isEmpty {
            text +=
                "\(report.warnings.count) warnings, such as line \(report.warnings[0].line): "
                + "\(report.warnings[0].warning)\n"
        }
        return text
    }

    private var laneTable: String {
        var table = Table([
            .text("CHANNEL"), .text("LANE"), .number("SUBMITTED"), .number("DELIVERED"), .number("FAILED"),
            .number("EXPIRED"), .number("RETRIED"), .number("MSG/S"), .number("P50 MS"), .number("P99 MS"),
        ])
        for lane in report.lanes {
            table.add([
                lane.channel.rawValue, lane.lane, "\(lane.submitted)", "\(lane.delivered + lane.sent)",
                "\(lane.failed)",
                "\(lane.expired)", "\(lane.retried)", Self.rate(lane.perSecond), Self.text(lane.p50Milliseconds),
                Self.text(lane.p99Milliseconds),
            ])
        }
        table.add([
            "total", "", "\(sum(\.submitted))", "\(sum { $0.delivered + $0.sent })", "\(sum(\.failed))",
            "\(sum(\.expired))", "\(sum(\.retried))", Self.rate(report.perSecond), Self.text(report.p50Milliseconds),
            Self.text(report.p99Milliseconds),
        ])
        return table.rendered()
    }

    private var verdict: String {
        let delivered = sum { $0.delivered + $0.sent }
        var text = "\(report.rows) rows = \(report.submitted) messages + \(report.invalid.count) invalid"
        if report.repeatedRows > 0 { text += " + \(report.repeatedRows) repeated keys" }
        text +=
            "\n\(report.submitted) messages = \(delivered) delivered + \(sum(\.failed)) failed + \(sum(\.expired)) expired"
        text += " + \(report.open.count) lost\n"
        if sum(\.sent) > 0 { text += "\(sum(\.sent)) of the delivered were taken by a provider that gives no proof\n" }
        if report.resumed > 0 {
            text += "\(report.resumed) of the messages were submitted by a run before that was cut off; not sent anew\n"
        }
        text += "done in \(Self.decimal(report.seconds)) s\n"
        for id in report.open.prefix(20) { text += "  lost: \(id) (mdc message get \(id))\n" }
        return text
    }

    private static func text(_ value: Int64?) -> String { value.map { "\($0)" } ?? "-" }
    private static func rate(_ value: Double) -> String { value < 100 ? decimal(value) : "\(Int(value.rounded()))" }
    private static func decimal(_ value: Double) -> String { String(format: "%.1f", value) }
}
