// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCModel
import MDCPipeline

/// `mdc report`: figures from the message store.
struct ReportCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report",
        abstract: "Counts messages: delivery, latency, failures or cost.",
        discussion:
            """
            Reads the message store of `mdc up`, at work or stopped. Latencies are milliseconds to the final status; \
            costs are in the unit of the prices in the configuration (docs/routing.md).
            """
    )

    @Argument(help: "What to count: delivery, latency, failures or cost.")
    var kind: String
    @Option(
        name: .customLong("by"),
        help: ArgumentHelp(
            "Groups: channel, lane, tenant, provider, template, country, minute, hour, day; several separated by commas.",
            valueName: "groups"
        )
    )
    var groups = "channel,lane"
    @Option(help: ArgumentHelp("Only messages of which this is true (docs/rest.md).", valueName: "json"))
    var filter: String?
    @Flag(help: "As CSV.")
    var csv = false
    @OptionGroup var store: StoreOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard ReportKind(rawValue: kind) != nil else {
            throw ValidationError("'\(kind)' is not one of \(ReportKind.allCases.names)")
        }
        guard !csv || !output.isJSON else { throw ValidationError("--csv and -o json exclude each other") }
    }

    func run() async throws {
        let report = try store.withStore { store in
            try store.report(
                ReportKind(rawValue: kind) ?? .delivery,
                by: try ReportGroup.list(groups),
                of: try filter.map { try MessageCondition(filter: $0) }
            )
        }
        if csv { return StandardOutput.write(report.csv) }
        let rows = report.rows.map { Dictionary(uniqueKeysWithValues: zip(report.columns, $0)) }
        try output.print(rows) {
            let groupCount = groups.split(separator: ",").count
            var table = Table(
                report.columns.enumerated().map { index, name in
                    let isText = index < groupCount || name == "status" || name == "code"
                    return isText ? .text(name.uppercased()) : .number(name.uppercased())
                }
            )
            for row in report.rows { table.add(row.map(Self.text)) }
            return table.rendered()
        }
    }

    private static func text(_ value: ReportValue) -> String {
        switch value {
        case .none: "-"
        case .text(let text): text
        case .count(let count): String(count)
        case .share(let share): String(share)
        case .time(let time): MessageText.time(time)
        }
    }
}
