// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

extension ClusterCommand {
    private struct Done: Encodable {
        let node: Int32
        let done: String
    }

    /// `mdc cluster unregister`
    struct Unregister: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Forgets a node that is stopped for good.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The node.")
        var node: Int32

        @Flag(help: "Also where it still holds replicas: they are lost to their partitions.")
        var force = false

        func run() async throws {
            try await connection.withAdmin { admin in
                if !force {
                    let held = try await admin.describeTopics().flatMap(\.partitions).count {
                        $0.replicas.contains(BrokerID(node))
                    }
                    let isActive = try await admin.describeNodes().contains { $0.id == BrokerID(node) && !$0.isFenced }
                    if held > 0, !isActive {
                        throw CommandError(
                            "node \(node) holds replicas of \(held) partitions: `mdc cluster drain \(node) --execute` moves "
                                + "them, or pass --force"
                        )
                    }
                    if let quorum = try? await admin.describeQuorum(),
                        quorum.replicas.contains(where: { $0.isVoter && $0.node == BrokerID(node) })
                    {
                        throw CommandError(
                            "node \(node) runs or votes: `mdc cluster remove-voter \(node)` first, or --force"
                        )
                    }
                }
                try await admin.unregisterNode(BrokerID(node))
            }
            try output.print(Done(node: node, done: "unregistered")) { "node \(node) is forgotten\n" }
        }
    }

    /// `mdc cluster add-voter`
    struct AddVoter: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Makes a voter of a node that observes the metadata.",
            discussion: """
                The node must run, started with the --voters of this cluster, and have caught up. A voter whose disk was \
                emptied has a new copy that only observes: --replace has it vote in the place of the former one, which is \
                taken out of the quorum first and never counts again. It may be repeated if it was interrupted.
                """
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions
        @OptionGroup var directory: DirectoryOption

        @Flag(help: "Take the node's former copy, whose disk is lost, out of the quorum first.")
        var replace = false

        @Argument(help: "The node.")
        var node: Int32

        func run() async throws {
            try await connection.withAdmin { admin in
                let added = replace ? try await makeRoom(admin) : try directory.id
                try await admin.addVoter(BrokerID(node), directory: added)
            }
            try output.print(Done(node: node, done: "votes")) { "node \(node) votes\n" }
        }

        /// Takes the former copy out of the quorum where the new one can take its place at once: for the time between, the
        /// quorum has a voter less. Returns the new one.
        private func makeRoom(_ admin: Admin) async throws -> KafkaUUID {
            let quorum = try await admin.describeQuorum()
            let wanted = try directory.id
            let copies = quorum.replicas.filter { $0.node == BrokerID(node) }
            let found = copies.filter { !$0.isVoter && (wanted == .zero || $0.directory == wanted) }
                .max { $0.logEnd < $1.logEnd }
            guard let found else {
                throw CommandError(
                    "node \(node) has no copy that observes the metadata: start it with its empty folder and the --voters of "
                        + "this cluster; `mdc cluster status` shows who votes"
                )
            }
            guard let former = copies.first(where: \.isVoter) else { return found.directory }
            guard found.logEnd + Self.lagMax >= quorum.highWatermark else {
                throw CommandError(
                    "the new copy of node \(node) has \(max(0, found.logEnd)) of \(quorum.highWatermark) changes; try again when "
                        + "it has caught up"
                )
            }
            try await admin.removeVoter(BrokerID(node), directory: former.directory)
            return found.directory
        }

        /// Changes of the metadata that the new copy may lack.
        private static let lagMax: Int64 = 1_000
    }

    /// `mdc cluster remove-voter`
    struct RemoveVoter: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Takes a node out of the quorum; it goes on as an observer."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions
        @OptionGroup var directory: DirectoryOption

        @Argument(help: "The node.")
        var node: Int32

        func run() async throws {
            try await connection.withAdmin { try await $0.removeVoter(BrokerID(node), directory: try directory.id) }
            try output.print(Done(node: node, done: "does not vote")) { "node \(node) does not vote any more\n" }
        }
    }

    /// Which copy of a node is meant.
    struct DirectoryOption: ParsableArguments {
        @Option(
            name: .customLong("directory"),
            help: ArgumentHelp("The id of its data folder, as `mdc cluster status` shows it.", valueName: "id")
        )
        var text: String?

        var id: KafkaUUID {
            get throws {
                guard let text else { return .zero }
                guard let id = KafkaUUID(text) else { throw ValidationError("--directory '\(text)' is not an id") }
                return id
            }
        }

        func validate() throws { _ = try id }
    }

    /// `mdc cluster features`
    struct Features: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows the levels of features, or puts others into force.",
            discussion: "mdc cluster features transaction.version=1 --downgrade"
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: ArgumentHelp("Levels to put into force, all or none.", valueName: "name=level"))
        var levels: [KeyValueArgument] = []

        @Flag(help: "The levels go down; without it they may only go up.")
        var downgrade = false

        @Flag(help: "Only check whether the cluster would take the change.")
        var dryRun = false

        private struct Row: Encodable {
            let name: String
            let minimum: Int16
            let maximum: Int16
            @Nullable var level: Int16?
        }

        func validate() throws {
            for level in levels where Int16(level.value) == nil {
                throw ValidationError("\(level.key)=\(level.value): the level is no number")
            }
        }

        func run() async throws {
            let rows = try await connection.withAdmin { admin in
                if !levels.isEmpty {
                    let wanted = Dictionary(levels.map { ($0.key, Int16($0.value) ?? 0) }, uniquingKeysWith: { $1 })
                    try await admin.updateFeatures(wanted, downgrade: downgrade, validateOnly: dryRun)
                }
                return try await admin.describeFeatures().map {
                    Row(
                        name: $0.name,
                        minimum: $0.supported.lowerBound,
                        maximum: $0.supported.upperBound,
                        level: $0.level
                    )
                }
            }
            try output.print(rows) {
                var table = Table([.text("FEATURE"), .number("LEVEL"), .number("FROM"), .number("TO")])
                for row in rows {
                    table.add([row.name, row.level.map { "\($0)" } ?? "off", "\(row.minimum)", "\(row.maximum)"])
                }
                return table.rendered()
            }
        }
    }

    /// `mdc cluster elect`
    struct Elect: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Has preferred leaders lead, or at a loss any replica.",
            discussion:
                "Without --unclean nothing is lost, and partitions whose preferred leader is not in sync stay as they are."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Option(help: ArgumentHelp("Only this topic.", valueName: "name"))
        var topic: String?

        @Option(help: ArgumentHelp("Only this partition of it; may repeat.", valueName: "number"))
        var partition: [Int32] = []

        @Flag(help: "Where nobody leads, take any replica that runs: what only the others have is lost.")
        var unclean = false

        private struct Result: Encodable {
            let isUnclean: Bool
            let failures: [String: String]
        }

        func validate() throws {
            if !partition.isEmpty, topic == nil { throw ValidationError("--partition goes with --topic") }
            if unclean, topic == nil { throw ValidationError("--unclean loses records: name the --topic") }
        }

        func run() async throws {
            let failures = try await connection.withAdmin { admin in
                var wanted: [TopicPartition]?
                if let topic {
                    wanted = try await admin.describeTopics([topic]).flatMap(\.partitions)
                        .filter { partition.isEmpty || partition.contains($0.id.rawValue) }
                        .filter { unclean ? $0.leader == nil : $0.leader != $0.replicas.first }
                        .map { TopicPartition(topic: topic, partition: $0.id) }
                }
                if wanted?.isEmpty == true { return [TopicPartition: ClientError]() }
                return try await admin.electLeaders(wanted, unclean: unclean)
            }
            let lines = failures.sorted { $0.key < $1.key }.map { ("\($0.key)", $0.value.message) }
            let result = Result(isUnclean: unclean, failures: Dictionary(uniqueKeysWithValues: lines))
            try output.print(result) {
                lines.isEmpty ? "every partition has the leader that it can have\n" : lines.map { "\($1)\n" }.joined()
            }
        }
    }
}
