// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCClient
import MDCModel

extension ClusterCommand {
    /// `mdc cluster reassign`
    struct Reassign: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Moves partitions to named nodes, shows moves that are under way, or cancels them.",
            discussion: """
                Without options it lists what is under way, and how much of it has been copied. A plan is a file as Kafka's tools write it: {"partitions": \
                [{"topic": "t", "partition": 0, "replicas": [1, 2, 3]}]}.
                """
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions
        @OptionGroup var speed: ThrottleOptions

        @Option(help: ArgumentHelp("The topic; with --cancel, only its moves.", valueName: "name"))
        var topic: String?

        @Option(help: ArgumentHelp("Only this partition; may repeat. All when absent.", valueName: "number"))
        var partition: [Int32] = []

        @Option(help: ArgumentHelp("The nodes, with commas between; the first is preferred to lead.", valueName: "ids"))
        var replicas: String?

        @Option(help: ArgumentHelp("A file with many moves.", valueName: "file"))
        var plan: String?

        @Flag(help: "Take back the moves that are under way, and the throttles of their topics.")
        var cancel = false

        @Flag(help: "Take away the throttle of a move that was not waited for, or was interrupted.")
        var unthrottle = false

        @Flag(help: "Do not wait until the partitions have arrived.")
        var noWait = false

        private struct Plan: Decodable {
            struct Partition: Decodable {
                let topic: String
                let partition: Int32
                let replicas: [Int32]
            }

            let partitions: [Partition]
        }

        private struct Ongoing: Encodable {
            let partition: String
            let replicas: [Int32]
            let adding: [Int32]
            let removing: [Int32]
            /// Bytes that the slowest of the added replicas has of those that the fullest of the others has.
            @Nullable var copiedBytes: Int64?
            @Nullable var totalBytes: Int64?
        }

        func validate() throws {
            if unthrottle, cancel || plan != nil || topic != nil || speed.throttle != nil {
                throw ValidationError("--unthrottle goes with no other option: it takes away all throttles of moves")
            }
            if speed.throttle != nil, plan == nil, replicas == nil {
                throw ValidationError("--throttle goes with moves: --plan, or --topic and --replicas")
            }
            if (replicas != nil) && (topic == nil || plan != nil || cancel) {
                throw ValidationError("--replicas goes with --topic, and neither with --plan nor with --cancel")
            }
            if plan != nil, cancel || topic != nil {
                throw ValidationError("--plan names its topics itself, and --cancel takes no plan")
            }
            if topic != nil, replicas == nil, !cancel {
                throw ValidationError("name the nodes that --topic is to go to: --replicas 1,2,3; or --cancel")
            }
            if !partition.isEmpty, topic == nil { throw ValidationError("--partition goes with --topic") }
            if let replicas, Self.nodes(replicas) == nil {
                throw ValidationError("--replicas '\(replicas)' is not a list of nodes such as 1,2,3")
            }
        }

        private static func nodes(_ text: String) -> [BrokerID]? {
            let parts = text.split(separator: ",", omittingEmptySubsequences: false).map { Int32($0) }
            return parts.contains(nil) || parts.isEmpty ? nil : parts.compactMap { $0.map { BrokerID($0) } }
        }

        func run() async throws {
            if cancel { return try await runCancel() }
            if unthrottle { return try await runUnthrottle() }
            guard replicas != nil || plan != nil else { return try await runList() }
            let result = try await connection.withAdmin { admin in
                let moves = try await moves(admin)
                try await Mover(admin: admin).carryOut(moves, waits: !noWait, throttle: speed.throttle)
                return MovesResult(moves, isExecuted: true)
            }
            try output.print(result) { result.text("nothing is to be moved") }
        }

        private func moves(_ admin: Admin) async throws -> [PlacementPlan.Move] {
            var wanted: [TopicPartition: [BrokerID]] = [:]
            if let plan {
                guard let bytes = FileManager.default.contents(atPath: plan) else {
                    throw CommandError("the plan \(plan) cannot be read")
                }
                let decoded: Plan
                do {
                    decoded = try JSONDecoder().decode(Plan.self, from: bytes)
                } catch {
                    throw CommandError(
                        "\(plan) is not a plan: {\"partitions\": [{\"topic\": …, \"partition\": …, \"replicas\": […]}]}: \(error)"
                    )
                }
                for item in decoded.partitions {
                    let name = TopicPartition(topic: item.topic, partition: PartitionID(item.partition))
                    guard wanted.updateValue(item.replicas.map { BrokerID($0) }, forKey: name) == nil else {
                        throw CommandError("\(plan) names \(name) twice")
                    }
                }
            }
            let topics = try await admin.describeTopics(
                Array(Set(wanted.keys.map(\.topic)).union(topic.map { [$0] } ?? []))
            )
            if let topic, let replicas, let nodes = Self.nodes(replicas) {
                for found in topics.first(where: { $0.name == topic })?.partitions ?? []
                where partition.isEmpty || partition.contains(found.id.rawValue) {
                    wanted[TopicPartition(topic: topic, partition: found.id)] = nodes
                }
                for index in partition
                where wanted[TopicPartition(topic: topic, partition: PartitionID(index))] == nil {
                    throw CommandError("there is no \(topic)-\(index)")
                }
            }
            var now: [TopicPartition: [BrokerID]] = [:]
            for found in topics {
                for item in found.partitions {
                    now[TopicPartition(topic: found.name, partition: item.id)] = item.replicas
                }
            }
            return wanted.sorted { $0.key < $1.key }.map {
                PlacementPlan.Move(partition: $0.key, from: now[$0.key] ?? [], to: $0.value)
            }
        }

        private func runList() async throws {
            let rows = try await connection.withAdmin { admin in
                let moves = try await admin.listReassignments()
                var sizes: [BrokerID: [TopicPartition: Int64]] = [:]
                // A node that is down tells nothing: its progress is not known.
                for node in Set(moves.flatMap(\.replicas)) {
                    sizes[node] = try? await admin.describeReplicaSizes(on: node, of: moves.map(\.partition))
                }
                return moves.map { move in
                    let known = move.replicas.filter { !move.adding.contains($0) }
                    let total = known.compactMap { sizes[$0]?[move.partition] }.max()
                    let copied = move.adding.map { sizes[$0].map { $0[move.partition] ?? 0 } }
                    return Ongoing(
                        partition: "\(move.partition)",
                        replicas: move.replicas.map(\.rawValue),
                        adding: move.adding.map(\.rawValue),
                        removing: move.removing.map(\.rawValue),
                        copiedBytes: copied.contains(nil) ? nil : copied.compactMap { $0 }.min(),
                        totalBytes: total
                    )
                }
            }
            try output.print(rows) {
                if rows.isEmpty { return "no partition is being moved\n" }
                func list(_ nodes: [Int32]) -> String { nodes.map(String.init).joined(separator: ",") }
                var table = Table([
                    .text("PARTITION"), .text("REPLICAS"), .text("ADDING"), .text("REMOVING"), .number("COPIED"),
                ])
                for row in rows {
                    var progress = "-"
                    if let copied = row.copiedBytes, let total = row.totalBytes {
                        progress = total <= 0 ? "100 %" : "\(min(100, copied * 100 / total)) %"
                    }
                    table.add([row.partition, list(row.replicas), list(row.adding), list(row.removing), progress])
                }
                return table.rendered()
            }
        }

        private struct Unthrottled: Encodable {
            let topics: [String]
        }

        private func runUnthrottle() async throws {
            let topics = try await connection.withAdmin { try await Throttle(admin: $0).removeAll() }
            try output.print(Unthrottled(topics: topics)) {
                topics.isEmpty
                    ? "no topic was throttled\n" : topics.map { "\($0) is not throttled any more\n" }.joined()
            }
        }

        private struct Cancelled: Encodable {
            let cancelled: [String]
        }

        private func runCancel() async throws {
            let names = try await connection.withAdmin { admin in
                let moves = try await admin.listReassignments().map(\.partition)
                let names = moves.filter {
                    (topic == nil || $0.topic == topic)
                        && (partition.isEmpty || partition.contains($0.partition.rawValue))
                }
                if !names.isEmpty {
                    let none: [BrokerID]? = nil
                    try Mover.check(
                        try await admin.reassign(Dictionary(uniqueKeysWithValues: names.map { ($0, none) }))
                    )
                }
                // What goes on stays throttled.
                let others = Set(moves).subtracting(names)
                let ended = Set(names.map(\.topic)).subtracting(others.map(\.topic))
                try await Throttle(admin: admin).remove(from: ended, keepsRates: !others.isEmpty)
                return names.map { "\($0)" }
            }
            try output.print(Cancelled(cancelled: names)) {
                names.isEmpty ? "no partition is being moved\n" : names.map { "cancelled \($0)\n" }.joined()
            }
        }
    }
}
