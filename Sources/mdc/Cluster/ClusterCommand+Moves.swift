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

/// How fast what is moved is copied.
struct ThrottleOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "Copy no more bytes a second than this, into and out of each node (KIP-73); taken away when all has arrived.",
            valueName: "bytes"
        )
    )
    var throttle: Int64?

    func validate() throws {
        if let throttle, throttle < 1 { throw ValidationError("--throttle \(throttle): at least one byte a second") }
    }
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
    /// - Parameter throttle: bytes a second in and out of each node while it copies; nil for no limit.
    func carryOut(_ moves: [PlacementPlan.Move], waits: Bool, throttle: Int64? = nil) async throws {
        guard let throttle else { return try await carryOut(moves, waits) }
        try await Throttle(admin: admin).set(throttle, for: moves)
        guard waits else {
            try await carryOut(moves, false)
            return Self.say("throttled until `mdc cluster reassign --unthrottle`")
        }
        do {
            try await carryOut(moves, true)
        } catch {
            Self.say("the throttle stays: `mdc cluster reassign --unthrottle` takes it away")
            throw error
        }
        try await Throttle(admin: admin).remove(from: Set(moves.map(\.partition.topic)))
    }

    private static func say(_ text: String) { FileHandle.standardError.write(Data("\(text)\n".utf8)) }

    private func carryOut(_ moves: [PlacementPlan.Move], _ waits: Bool) async throws {
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
        @OptionGroup var speed: ThrottleOptions

        @Flag(help: "Move no replicas: only change who is preferred, and have the preferred lead.")
        var leadersOnly = false

        func run() async throws {
            let result = try await connection.withAdmin { admin in
                let (partitions, nodes) = try await Mover.survey(admin)
                let plan = PlacementPlan.rebalance(partitions, over: nodes, leadersOnly: leadersOnly)
                if execution.execute {
                    try await Mover(admin: admin).carryOut(
                        plan.moves,
                        waits: !execution.noWait,
                        throttle: speed.throttle
                    )
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
        @OptionGroup var speed: ThrottleOptions

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
                    try await Mover(admin: admin).carryOut(
                        plan.moves,
                        waits: !execution.noWait,
                        throttle: speed.throttle
                    )
                }
                return MovesResult(plan.moves, isExecuted: execution.execute)
            }
            try output.print(result) { result.text("node \(node) holds nothing") }
        }
    }
}
