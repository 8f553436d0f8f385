// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel
import MDCProtocol

/// `mdc api-versions`
struct APIVersionsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "api-versions",
        abstract: "Lists the requests that the broker serves, with their versions."
    )

    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    private struct Row: Encodable {
        let key: Int16
        let name: String
        let minimum: Int16
        let maximum: Int16
    }

    func run() async throws {
        let rows = try await connection.withAdmin { admin in
            try await admin.apiVersions().map {
                Row(
                    key: $0.apiKey,
                    name: APIKey(rawValue: $0.apiKey).description,
                    minimum: $0.versions.lowerBound,
                    maximum: $0.versions.upperBound
                )
            }
        }
        try output.print(rows) {
            var table = Table([.number("KEY"), .text("REQUEST"), .number("FROM"), .number("TO")])
            for row in rows { table.add(["\(row.key)", row.name, "\(row.minimum)", "\(row.maximum)"]) }
            return table.rendered()
        }
    }
}
