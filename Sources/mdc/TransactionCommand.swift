// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

/// `mdc txn …`
struct TransactionCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "txn",
        abstract: "Lists, describes and aborts transactions, and shows the producers of partitions.",
        subcommands: [List.self, Describe.self, Producers.self, Abort.self]
    )
}

extension TransactionCommand {
    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists transactional ids with their state.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Option(help: ArgumentHelp("Only in this state, such as Ongoing; may repeat.", valueName: "state"))
        var state: [String] = []

        @Option(help: ArgumentHelp("Only of this producer id; may repeat.", valueName: "id"))
        var producer: [Int64] = []

        @Option(help: ArgumentHelp("Only transactions under way for longer than this.", valueName: "seconds"))
        var longerThan: Int64?

        @Option(help: ArgumentHelp("Only ids that this regular expression matches as a whole.", valueName: "regex"))
        var pattern: String?

        private struct Row: Encodable {
            let transactionalID: String
            let state: String
            let producerID: Int64
        }

        func validate() throws {
            if let longerThan, longerThan < 0 || longerThan > Int64.max / 1_000 {
                throw ValidationError("--longer-than is \(longerThan): it must be a number of seconds from 0")
            }
        }

        func run() async throws {
            let rows = try await connection.withAdmin { admin in
                try await admin.listTransactions(
                    states: state,
                    producerIDs: producer,
                    longerThan: longerThan.map { $0 * 1_000 },
                    pattern: pattern
                ).map { Row(transactionalID: $0.id, state: $0.state, producerID: $0.producerID) }
            }
            try output.print(rows) {
                if rows.isEmpty { return "no transactional ids\n" }
                var table = Table([.text("TRANSACTIONAL ID"), .text("STATE"), .number("PRODUCER")])
                for row in rows { table.add([row.transactionalID, row.state, "\(row.producerID)"]) }
                return table.rendered()
            }
        }
    }

    struct Describe: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows transactional ids with the partitions of their transaction."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The transactional ids.")
        var ids: [String]

        private struct Transaction: Encodable {
            let transactionalID: String
            let state: String
            let coordinator: Int32
            let producerID: Int64
            let producerEpoch: Int16
            let timeoutMilliseconds: Int32
            @Nullable var startedAtMilliseconds: Int64?
            let partitions: [String]
        }

        func run() async throws {
            let found = try await connection.withAdmin { admin in
                try await admin.describeTransactions(ids).map {
                    Transaction(
                        transactionalID: $0.id,
                        state: $0.state,
                        coordinator: $0.coordinator.rawValue,
                        producerID: $0.producerID,
                        producerEpoch: $0.producerEpoch,
                        timeoutMilliseconds: $0.timeoutMilliseconds,
                        startedAtMilliseconds: $0.startedAt?.rawValue,
                        partitions: $0.partitions.map(\.description)
                    )
                }
            }
            try output.print(found) { found.map(Self.text).joined(separator: "\n") }
        }

        private static func text(_ transaction: Transaction) -> String {
            var table = Table([.text("TRANSACTIONAL ID"), .text(transaction.transactionalID)])
            table.add(["state", transaction.state])
            table.add(["producer", "\(transaction.producerID), epoch \(transaction.producerEpoch)"])
            table.add(["coordinator", "\(transaction.coordinator)"])
            table.add(["timeout", "\(transaction.timeoutMilliseconds) ms"])
            table.add(["started", transaction.startedAtMilliseconds.map { "\($0) ms since 1970" } ?? "-"])
            table.add([
                "partitions", transaction.partitions.isEmpty ? "-" : transaction.partitions.joined(separator: " "),
            ])
            return table.rendered()
        }
    }

    struct Producers: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows the producers that the partitions of a topic remember, and what they have open."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The topic.")
        var topic: String

        @Option(name: .shortAndLong, help: "Only this partition; may repeat.")
        var partition: [Int32] = []

        @Flag(help: "Only producers with an open transaction.")
        var open = false

        private struct Row: Encodable {
            let partition: Int32
            let producerID: Int64
            let producerEpoch: Int16
            let lastSequence: Int32
            @Nullable var lastTimestamp: Int64?
            let coordinatorEpoch: Int32
            @Nullable var transactionStart: Int64?
        }

        func run() async throws {
            let rows = try await connection.withAdmin { admin in
                let partitions = try await TransactionCommand.partitions(of: topic, partition, admin)
                let found = try await admin.describeProducers(partitions)
                return partitions.flatMap { partition in
                    (found[partition] ?? []).filter { !open || $0.transactionStart != nil }.map {
                        Row(
                            partition: partition.partition.rawValue,
                            producerID: $0.producerID,
                            producerEpoch: $0.producerEpoch,
                            lastSequence: $0.lastSequence,
                            lastTimestamp: $0.lastTimestamp?.rawValue,
                            coordinatorEpoch: $0.coordinatorEpoch,
                            transactionStart: $0.transactionStart?.rawValue
                        )
                    }
                }
            }
            try output.print(rows) {
                if rows.isEmpty { return "no producers\n" }
                var table = Table([
                    .number("PARTITION"), .number("PRODUCER"), .number("EPOCH"), .number("SEQUENCE"),
                    .number("OPEN SINCE"),
                ])
                for row in rows {
                    table.add([
                        "\(row.partition)", "\(row.producerID)", "\(row.producerEpoch)", "\(row.lastSequence)",
                        row.transactionStart.map { "\($0)" } ?? "-",
                    ])
                }
                return table.rendered()
            }
        }
    }

    struct Abort: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Aborts a transaction: by its id, or, where it hangs, by where it begins in a partition.",
            discussion: """
                By its id, the producer that uses it is fenced. A transaction that holds back readers and that no \
                coordinator knows (`mdc txn producers TOPIC --open` shows it, `mdc txn list` does not) is ended in one \
                partition: --topic, --partition and --start-offset.
                """
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The transactional id.")
        var id: String?

        @Option(help: "The topic of a transaction that hangs.")
        var topic: String?

        @Option(name: .shortAndLong, help: "Its partition.")
        var partition: Int32?

        @Option(help: ArgumentHelp("Where the transaction begins.", valueName: "offset"))
        var startOffset: Int64?

        private struct Result: Encodable {
            @Nullable var transactionalID: String?
            @Nullable var partition: String?
            @Nullable var producerID: Int64?
        }

        func validate() throws {
            let place = [topic != nil, partition != nil, startOffset != nil]
            guard (id != nil) != place.contains(true), id != nil || !place.contains(false) else {
                throw ValidationError("name a transactional id, or --topic, --partition and --start-offset together")
            }
            if id == "" { throw ValidationError("the transactional id is empty") }
        }

        func run() async throws {
            let result = try await connection.withAdmin { admin in
                if let id {
                    // One that nobody knows is not to be made by this.
                    _ = try await admin.describeTransactions([id])
                    try await admin.fenceProducer(id)
                    return Result(transactionalID: id, partition: nil, producerID: nil)
                }
                return try await abortHanging(admin)
            }
            try output.print(result) {
                if let id = result.transactionalID { return "aborted what '\(id)' had open; its producer is fenced\n" }
                return "aborted the transaction of producer \(result.producerID ?? -1) in \(result.partition ?? "")\n"
            }
        }

        private func abortHanging(_ admin: Admin) async throws -> Result {
            let place = TopicPartition(topic: topic ?? "", partition: PartitionID(partition ?? 0))
            let producers = try await admin.describeProducers([place])[place] ?? []
            guard let producer = producers.first(where: { $0.transactionStart?.rawValue == startOffset }) else {
                throw CommandError(
                    "no transaction that is open in \(place) begins at offset \(startOffset ?? -1): "
                        + "see `mdc txn producers \(place.topic) --open`"
                )
            }
            let known = try await admin.listTransactions(states: ["Ongoing"], producerIDs: [producer.producerID])
            if let owner = known.first {
                throw CommandError(
                    "the transaction is under way: transactional id '\(owner.id)'. To end it: `mdc txn abort \(owner.id)`"
                )
            }
            try await admin.abortTransaction(in: place, of: producer)
            return Result(transactionalID: nil, partition: place.description, producerID: producer.producerID)
        }
    }

    /// The partitions that are named, or all of the topic.
    fileprivate static func partitions(
        of topic: String,
        _ numbers: [Int32],
        _ admin: Admin
    ) async throws -> [TopicPartition] {
        let all: [PartitionID]
        do {
            all = try await admin.describeTopics([topic]).first?.partitions.map(\.id) ?? []
        } catch let error as ClientError where error.code == .unknownTopicOrPartition {
            throw CommandError.noTopic(topic)
        }
        if let missing = numbers.first(where: { !all.contains(PartitionID($0)) }) {
            throw CommandError("topic '\(topic)' has no partition \(missing): it has \(all.count), counted from 0")
        }
        let wanted = numbers.isEmpty ? all : Set(numbers).sorted().map { PartitionID($0) }
        return wanted.map { TopicPartition(topic: topic, partition: $0) }
    }
}
