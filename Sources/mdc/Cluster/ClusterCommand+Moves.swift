// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCClient
import MDCModel

/// Whether a plan is carried out, and whether the command waits for that.
struct ExecutionOptions: ParsableArguments {
    @Flag(help: "Carry the plan out; else it is only shown.")
    var execute = false

    @Flag(help: "Do not wait until the partitions have arrived.")
    var noWait = false
}

/// What a command of moves prints.
struct MovesResult: Encodable {
    struct Move: Encodable {
        let partition: String
        let from: [Int32]
        let to: [Int32]
        let copies: Bool
    }

    let moves: [Move]
    let isExecuted: Bool

    init(_ moves: [PlacementPlan.Move], isExecuted: Bool) {
        self.moves = moves.map {
            Move(
                partition: "\($0.partition)",
                from: $0.from.map(\.rawValue),
                to: $0.to.map(\.rawValue),
                copies: $0.copies
            )
        }
        self.isExecuted = isExecuted
    }

    func text(_ nothing: String) -> String {
        if moves.isEmpty { return nothing + "\n" }
        func list(_ nodes: [Int32]) -> String { nodes.map(String.init).joined(separator: ",") }
        var table = Table([.text("PARTITION"), .text("FROM"), .text("TO"), .text("WHAT")])
        for move in moves {
            let what = move.copies ? "copy" : move.to.count < move.from.count ? "drop" : "leader"
            table.add([move.partition, list(move.from), list(move.to), what])
        }
        let copies = moves.count { $0.copies }
        let end = isExecuted ? "done" : "this is a plan; --execute carries it out"
        return table.rendered() + "\(moves.count) partitions, \(copies) of them are copied: \(end)\n"
    }
}

/// Carries plans out.
struct Mover {
    let admin: Admin
    /// Partitions that are on their way at once, so that copying leaves room for clients.
    private static let atOnce = 20
    private static let pause = Duration.milliseconds(200)

    /// All partitions, and the nodes that run.
    static func survey(_ admin: Admin) async throws -> ([PlacementPlan.Partition], [PlacementPlan.Node]) {
        let partitions = try await admin.describeTopics().flatMap { topic in
            topic.partitions.map {
                PlacementPlan.Partition(TopicPartition(topic: topic.name, partition: $0.id), $0.replicas)
            }
        }
        let nodes = try await admin.describeNodes().filter { !$0.isFenced }.map {
            PlacementPlan.Node($0.id, rack: $0.rack)
        }
        return (partitions, nodes)
    }

    /// Moves, a few at a time, then has the preferred leaders lead.
    func carryOut(_ moves: [PlacementPlan.Move], waits: Bool) async throws {
        for start in stride(from: 0, to: moves.count, by: waits ? Self.atOnce : max(1, moves.count)) {
            let batch = Array(moves[start..<min(start + (waits ? Self.atOnce : moves.count), moves.count)])
            let targets = Dictionary(uniqueKeysWithValues: batch.map { ($0.partition, Optional($0.to)) })
            try Self.check(try await admin.reassign(targets))
            if waits { try await wait(for: Set(batch.map(\.partition)), done: start, of: moves.count) }
        }
        guard waits, !moves.isEmpty else { return }
        // Who is not in sync any more is no reason to fail: the controller goes on trying.
        _ = try await admin.electLeaders(moves.map(\.partition))
    }

    private func wait(for partitions: Set<TopicPartition>, done: Int, of total: Int) async throws {
        var last = -1
        while true {
            let left = try await admin.listReassignments().count { partitions.contains($0.partition) }
            let arrived = done + partitions.count - left
            if arrived != last, total > Self.atOnce || last >= 0 {
                FileHandle.standardError.write(Data("\(arrived) of \(total) partitions have arrived\n".utf8))
            }
            last = arrived
            if left == 0 { return }
            try await Task.sleep(for: Self.pause)
        }
    }

    static func check(_ failures: [TopicPartition: ClientError]) throws {
        if failures.isEmpty { return }
        let lines = failures.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value.message)" }
        throw CommandError(lines.joined(separator: "\n"))
    }
}

extension ClusterCommand {
    /// `mdc cluster rebalance`
    struct Rebalance: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Spreads replicas and leaders evenly over the nodes that run.",
            discussion: "Shows the plan; with --execute it is carried out, twenty partitions at a time."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions
        @OptionGroup var execution: ExecutionOptions

        @Flag(help: "Move no replicas: only change who is preferred, and have the preferred lead.")
        var leadersOnly = false

        func run() async throws {
            let result = try await connection.withAdmin { admin in
                let (partitions, nodes) = try await Mover.survey(admin)
                let plan = PlacementPlan.rebalance(partitions, over: nodes, leadersOnly: leadersOnly)
                if execution.execute {
                    try await Mover(admin: admin).carryOut(plan.moves, waits: !execution.noWait)
                    _ = try await admin.electLeaders()
                }
                return MovesResult(plan.moves, isExecuted: execution.execute)
            }
            try output.print(result) { result.text("everything is spread evenly") }
        }
    }

    /// `mdc cluster drain`
    struct Drain: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Moves everything off a node, so that it can retire.",
            discussion: """
                Shows the plan; with --execute it is carried out. Then: `mdc cluster remove-voter` where it votes, stop the \
                node, `mdc cluster unregister`.
                """
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions
        @OptionGroup var execution: ExecutionOptions

        @Argument(help: "The node.")
        var node: Int32

        @Flag(help: "Where there are too few other nodes, go on with one replica less.")
        var allowFewer = false

        func run() async throws {
            let result = try await connection.withAdmin { admin in
                let (partitions, nodes) = try await Mover.survey(admin)
                let plan = PlacementPlan.drain(BrokerID(node), partitions, to: nodes, allowsFewer: allowFewer)
                if let first = plan.stuck.first {
                    throw CommandError(
                        "\(plan.stuck.count) partitions, such as \(first), have no other node to go to: start one more, or "
                            + "pass --allow-fewer to go on with one replica less"
                    )
                }
                if execution.execute {
                    try await Mover(admin: admin).carryOut(plan.moves, waits: !execution.noWait)
                }
                return MovesResult(plan.moves, isExecuted: execution.execute)
            }
            try output.print(result) { result.text("node \(node) holds nothing") }
        }
    }

    /// `mdc cluster reassign`
    struct Reassign: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Moves partitions to named nodes, shows moves that are under way, or cancels them.",
            discussion: """
                Without options it lists what is under way. A plan is a file as Kafka's tools write it: {"partitions": \
                [{"topic": "t", "partition": 0, "replicas": [1, 2, 3]}]}.
                """
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Option(help: ArgumentHelp("The topic; with --cancel, only its moves.", valueName: "name"))
        var topic: String?

        @Option(help: ArgumentHelp("Only this partition; may repeat. All when absent.", valueName: "number"))
        var partition: [Int32] = []

        @Option(help: ArgumentHelp("The nodes, with commas between; the first is preferred to lead.", valueName: "ids"))
        var replicas: String?

        @Option(help: ArgumentHelp("A file with many moves.", valueName: "file"))
        var plan: String?

        @Flag(help: "Take back the moves that are under way.")
        var cancel = false

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
        }

        func validate() throws {
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
            guard replicas != nil || plan != nil else { return try await runList() }
            let result = try await connection.withAdmin { admin in
                let moves = try await moves(admin)
                try await Mover(admin: admin).carryOut(moves, waits: !noWait)
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
                try await admin.listReassignments().map {
                    Ongoing(
                        partition: "\($0.partition)",
                        replicas: $0.replicas.map(\.rawValue),
                        adding: $0.adding.map(\.rawValue),
                        removing: $0.removing.map(\.rawValue)
                    )
                }
            }
            try output.print(rows) {
                if rows.isEmpty { return "no partition is being moved\n" }
                func list(_ nodes: [Int32]) -> String { nodes.map(String.init).joined(separator: ",") }
                var table = Table([.text("PARTITION"), .text("REPLICAS"), .text("ADDING"), .text("REMOVING")])
                for row in rows {
                    table.add([row.partition, list(row.replicas), list(row.adding), list(row.removing)])
                }
                return table.rendered()
            }
        }

        private struct Cancelled: Encodable {
            let cancelled: [String]
        }

        private func runCancel() async throws {
            let names = try await connection.withAdmin { admin in
                let names = try await admin.listReassignments().map(\.partition).filter {
                    (topic == nil || $0.topic == topic)
                        && (partition.isEmpty || partition.contains($0.partition.rawValue))
                }
                if !names.isEmpty {
                    let none: [BrokerID]? = nil
                    try Mover.check(
                        try await admin.reassign(Dictionary(uniqueKeysWithValues: names.map { ($0, none) }))
                    )
                }
                return names.map { "\($0)" }
            }
            try output.print(Cancelled(cancelled: names)) {
                names.isEmpty ? "no partition is being moved\n" : names.map { "cancelled \($0)\n" }.joined()
            }
        }
    }
}
