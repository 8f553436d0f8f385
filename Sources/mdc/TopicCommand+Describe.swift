// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient
import MDCModel

extension TopicCommand {
    struct Describe: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows topics with their partitions, offsets and own settings."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: "The names of the topics; all when absent.")
        var names: [String] = []

        private struct Partition: Encodable {
            let partition: Int32
            @Nullable var leader: Int32?
            let leaderEpoch: Int32
            let replicas: [Int32]
            let inSyncReplicas: [Int32]
            @Nullable var firstOffset: Int64?
            @Nullable var endOffset: Int64?
        }

        private struct Topic: Encodable {
            let name: String
            let id: String
            let isInternal: Bool
            let partitions: [Partition]
            let config: [String: String]
        }

        func run() async throws {
            let topics = try await connection.withAdmin { admin in
                let all = try await admin.listTopics(includeInternal: true)
                if let missing = names.first(where: { !all.contains($0) }) { throw CommandError.noTopic(missing) }
                let wanted = names.isEmpty ? try await admin.listTopics() : names
                return try await describe(wanted, admin)
            }
            try output.print(topics) {
                topics.isEmpty
                    ? "no topics: create one with `mdc topic create NAME`\n"
                    : topics.map(Self.text).joined(separator: "\n")
            }
        }

        private func describe(_ names: [String], _ admin: Admin) async throws -> [Topic] {
            let found = try await admin.describeTopics(names)
            // Partitions without a leader have no offsets to ask for.
            let led = found.flatMap { topic in
                topic.partitions.filter { $0.leader != nil }.map { TopicPartition(topic: topic.name, partition: $0.id) }
            }
            let first = led.isEmpty ? [:] : try await admin.beginningOffsets(led)
            let end = led.isEmpty ? [:] : try await admin.endOffsets(led)
            let configs = found.isEmpty ? [:] : try await admin.describeConfigs(found.map { .topic($0.name) })
            return found.map { topic in
                Topic(
                    name: topic.name,
                    id: topic.id.description,
                    isInternal: topic.isInternal,
                    partitions: topic.partitions.map { partition in
                        let key = TopicPartition(topic: topic.name, partition: partition.id)
                        return Partition(
                            partition: partition.id.rawValue,
                            leader: partition.leader?.rawValue,
                            leaderEpoch: partition.leaderEpoch.rawValue,
                            replicas: partition.replicas.map(\.rawValue),
                            inSyncReplicas: partition.inSyncReplicas.map(\.rawValue),
                            firstOffset: first[key]?.rawValue,
                            endOffset: end[key]?.rawValue
                        )
                    },
                    config: Dictionary(
                        uniqueKeysWithValues: (configs[.topic(topic.name)] ?? []).filter(\.isOverridden).map {
                            ($0.name, $0.value ?? "")
                        }
                    )
                )
            }
        }

        private static func text(_ topic: Topic) -> String {
            var text = "topic \(topic.name)   id \(topic.id)\n"
            for (name, value) in topic.config.sorted(by: { $0.key < $1.key }) { text += "  \(name) = \(value)\n" }
            var table = Table([
                .number("PARTITION"), .number("LEADER"), .text("REPLICAS"), .text("IN SYNC"), .number("FIRST"),
                .number("END"),
            ])
            for partition in topic.partitions {
                table.add([
                    "\(partition.partition)",
                    partition.leader.map { "\($0)" } ?? "none",
                    partition.replicas.map { "\($0)" }.joined(separator: ","),
                    partition.inSyncReplicas.map { "\($0)" }.joined(separator: ","),
                    partition.firstOffset.map { "\($0)" } ?? "-",
                    partition.endOffset.map { "\($0)" } ?? "-",
                ])
            }
            return text + table.rendered()
        }
    }
}
