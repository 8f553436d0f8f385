// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

/// `mdc group …`
struct GroupCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "group",
        abstract: "Lists, describes, moves and deletes groups of consumers.",
        subcommands: [List.self, Describe.self, Reset.self, Delete.self]
    )
}

extension GroupCommand {
    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists the groups.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        private struct Row: Encodable {
            let group: String
            let state: String
            let type: String
            let protocolType: String
        }

        func run() async throws {
            let rows = try await connection.withAdmin { admin in
                try await admin.listGroups().map {
                    Row(group: $0.id, state: $0.state, type: $0.type, protocolType: $0.protocolType)
                }
            }
            try output.print(rows) {
                if rows.isEmpty { return "no groups: a consumer makes one, such as `mdc consume TOPIC --group NAME`\n" }
                var table = Table([.text("GROUP"), .text("STATE"), .text("TYPE"), .text("PROTOCOL")])
                for row in rows { table.add([row.group, row.state, row.type, row.protocolType]) }
                return table.rendered()
            }
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Deletes groups without members, with their committed offsets."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The names of the groups.")
        var names: [String]

        private struct Result: Encodable {
            let deleted: [String]
        }

        func run() async throws {
            try await connection.withAdmin { try await $0.deleteGroups(names) }
            try output.print(Result(deleted: names)) {
                names.map { "deleted group '\($0)'\n" }.joined()
            }
        }
    }
}
