// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

/// `mdc topic …`
struct TopicCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topic",
        abstract: "Lists, creates, describes and deletes topics.",
        subcommands: [List.self, Create.self, Describe.self, Delete.self]
    )
}

extension TopicCommand {
    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists the topics.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Flag(name: .customLong("internal"), help: "Also the broker's own topics, such as __consumer_offsets.")
        var includesInternal = false

        private struct Row: Encodable {
            let name: String
            let id: String
            let isInternal: Bool
            let partitions: Int
            let replicationFactor: Int
        }

        func run() async throws {
            let topics = try await connection.withAdmin { admin in
                let names = try await admin.listTopics(includeInternal: includesInternal)
                return try await admin.describeTopics(names)
            }
            let rows = topics.map {
                Row(
                    name: $0.name,
                    id: $0.id.description,
                    isInternal: $0.isInternal,
                    partitions: $0.partitions.count,
                    replicationFactor: $0.partitions.first?.replicas.count ?? 0
                )
            }
            try output.print(rows) {
                if rows.isEmpty { return "no topics: create one with `mdc topic create NAME`\n" }
                var table = Table([.text("TOPIC"), .number("PARTITIONS"), .number("REPLICAS")])
                for row in rows { table.add([row.name, "\(row.partitions)", "\(row.replicationFactor)"]) }
                return table.rendered()
            }
        }
    }

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Creates a topic.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The name of the topic.")
        var name: String

        @Option(name: .shortAndLong, help: "How many partitions; the broker's default when absent.")
        var partitions: Int32?

        @Option(name: .shortAndLong, help: "Copies of each partition; the broker's default when absent.")
        var replicationFactor: Int16?

        @Option(
            name: .shortAndLong,
            help: ArgumentHelp("A setting, such as retention.ms=3600000; may repeat.", valueName: "name=value")
        )
        var config: [KeyValueArgument] = []

        @Flag(help: "Succeed where the topic exists already.")
        var ifNotExists = false

        func validate() throws {
            if let partitions, partitions < 1 {
                throw ValidationError("--partitions is \(partitions): it must be at least 1")
            }
            if let replicationFactor, replicationFactor < 1 {
                throw ValidationError("--replication-factor is \(replicationFactor): it must be at least 1")
            }
        }

        private struct Result: Encodable {
            let name: String
            let partitions: Int
            let created: Bool
        }

        func run() async throws {
            let topic = NewTopic(
                name,
                partitions: partitions,
                replicationFactor: replicationFactor,
                configuration: Dictionary(config.map { ($0.key, $0.value) }, uniquingKeysWith: { $1 })
            )
            let result = try await connection.withAdmin { admin in
                var created = true
                do {
                    try await admin.createTopics([topic])
                } catch let error as ClientError where ifNotExists && error.errorCode == .topicAlreadyExists {
                    created = false
                }
                let count = try await admin.describeTopics([name]).first?.partitions.count
                return Result(name: name, partitions: count ?? 0, created: created)
            }
            try output.print(result) {
                let count = result.partitions == 1 ? "1 partition" : "\(result.partitions) partitions"
                return result.created
                    ? "created topic '\(name)' with \(count)\n" : "topic '\(name)' exists already, with \(count)\n"
            }
        }
    }

    struct Delete: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Deletes topics with all their records.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The names of the topics.")
        var names: [String]

        private struct Result: Encodable {
            let deleted: [String]
        }

        func run() async throws {
            try await connection.withAdmin { admin in
                // All or none, as far as names go: a misspelt one must not cost the others.
                let known = Set(try await admin.listTopics(includeInternal: true))
                if let missing = names.first(where: { !known.contains($0) }) { throw CommandError.noTopic(missing) }
                try await admin.deleteTopics(names)
            }
            try output.print(Result(deleted: names)) {
                names.map { "deleted topic '\($0)'\n" }.joined()
            }
        }
    }
}
