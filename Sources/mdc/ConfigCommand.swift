// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient

/// `mdc config …`
struct ConfigCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config",
        abstract: "Shows and changes settings of topics, brokers and groups.",
        subcommands: [Describe.self, Set.self]
    )
}

/// Whose settings: exactly one of a topic, a broker and a group.
struct ConfigResourceOptions: ParsableArguments {
    @Option(help: "A topic, by name.")
    var topic: String?

    @Option(help: "A broker, by id; `all` for the settings that all brokers share.")
    var broker: String?

    @Option(help: "A group, by name.")
    var group: String?

    func validate() throws {
        guard [topic, broker, group].compactMap(\.self).count == 1 else {
            throw ValidationError("say whose settings: one of --topic NAME, --broker ID, --group NAME")
        }
        if let broker, broker != "all", Int32(broker) == nil {
            throw ValidationError("--broker '\(broker)' is neither a number nor `all`; `mdc cluster` lists the brokers")
        }
    }

    var resource: ConfigResource {
        if let topic { return .topic(topic) }
        if let group { return ConfigResource(.group, group) }
        return ConfigResource(.broker, broker == "all" ? "" : broker ?? "")
    }

    /// Puts an error about a topic that does not exist into the words of the other commands.
    func explaining<Value>(_ body: () async throws -> Value) async throws -> Value {
        do {
            return try await body()
        } catch let error as ClientError where error.code == .unknownTopicOrPartition {
            throw CommandError.noTopic(topic ?? "")
        }
    }
}

extension ConfigCommand {
    struct Describe: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Shows settings with their values.")

        @OptionGroup var resource: ConfigResourceOptions
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Flag(help: "Only what was set, without the defaults.")
        var overridden = false

        private struct Row: Encodable {
            let name: String
            @Nullable var value: String?
            let isOverridden: Bool
            let isReadOnly: Bool
            let isSensitive: Bool
        }

        func run() async throws {
            let rows = try await connection.withAdmin { admin in
                let found = try await resource.explaining { try await admin.describeConfigs([resource.resource]) }
                return (found[resource.resource] ?? []).filter { $0.isOverridden || !overridden }.map {
                    Row(
                        name: $0.name,
                        value: $0.value,
                        isOverridden: $0.isOverridden,
                        isReadOnly: $0.isReadOnly,
                        isSensitive: $0.isSensitive
                    )
                }
            }
            try output.print(rows) {
                if rows.isEmpty { return overridden ? "all settings are the defaults\n" : "no settings\n" }
                var table = Table([.text("SETTING"), .text("VALUE"), .text("SET HERE"), .text("READ ONLY")])
                for row in rows {
                    table.add([
                        row.name,
                        row.isSensitive ? "(secret)" : row.value ?? "-",
                        row.isOverridden ? "yes" : "",
                        row.isReadOnly ? "yes" : "",
                    ])
                }
                return table.rendered()
            }
        }
    }

    struct Set: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Changes settings; those not named stay.",
            discussion: "Example: mdc config set --topic orders retention.ms=86400000 --reset cleanup.policy"
        )

        @OptionGroup var resource: ConfigResourceOptions
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: ArgumentHelp("Settings with their new values.", valueName: "name=value"))
        var settings: [KeyValueArgument] = []

        @Option(help: ArgumentHelp("A setting to take back to its default; may repeat.", valueName: "name"))
        var reset: [String] = []

        @Flag(help: "Only check whether the broker would take the change.")
        var dryRun = false

        func validate() throws {
            if settings.isEmpty && reset.isEmpty {
                throw ValidationError("nothing to change: name settings as name=value, or --reset name")
            }
        }

        private struct Result: Encodable {
            let set: [String: String]
            let reset: [String]
            let isDryRun: Bool
        }

        func run() async throws {
            var changes: [String: ConfigChange] = [:]
            for name in reset { changes[name] = .delete }
            for setting in settings { changes[setting.key] = .set(setting.value) }
            try await connection.withAdmin { [changes] admin in
                try await resource.explaining {
                    try await admin.alterConfigs([resource.resource: changes], validateOnly: dryRun)
                }
            }
            let values = Dictionary(settings.map { ($0.key, $0.value) }, uniquingKeysWith: { $1 })
            let result = Result(set: values, reset: reset.filter { values[$0] == nil }, isDryRun: dryRun)
            try output.print(result) {
                let verb = dryRun ? "would " : ""
                let lines =
                    result.set.sorted { $0.key < $1.key }.map { "\(verb)set \($0.key) = \($0.value)\n" }
                    + result.reset.map { "\(verb)reset \($0) to its default\n" }
                return lines.joined()
            }
        }
    }
}
