// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import Logging
import MDCClient
import MDCModel
import MDCTopology
import NIOCore
import ServiceLifecycle
import UnixSignals

/// `mdc topology …`
struct TopologyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topology",
        abstract: "Runs records through processors of your own, in any language.",
        discussion: """
            A topology is described in a TOML file: sources, processors (programs that speak Storm's multi-language protocol, such as bolts of \
            Python's streamparse, and windows) and sinks. Start as many workers of it as you like; see docs/topologies.md.
            """,
        subcommands: [Run.self, Status.self, Pause.self, Resume.self, Redrive.self]
    )
}

extension TopologyCommand {
    struct Run: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Runs a worker of a topology until SIGTERM. May be killed and started again."
        )

        @Argument(help: ArgumentHelp("The topology.", valueName: "file.toml"))
        var file: String
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Option(
            help: ArgumentHelp(
                "A name for this worker, of which one runs at a time: started again after a crash it takes its place at once.",
                valueName: "name"
            )
        )
        var instance: String?

        @Option(help: ArgumentHelp("Serve /metrics for Prometheus here.", valueName: "host:port"))
        var http: String?

        @Flag(help: "Check the file and end.")
        var check = false

        private struct Line: Encodable {
            let running: Bool
            let paused: Bool
            let lag: Int64
            let inFlight: Int
            let executed: [String: Int64]
            let deadLetters: Int64
            let restarts: Int64
        }

        func run() async throws {
            var client = connection.client
            client.clientID = "mdc-topology"
            client.apiTimeout = .seconds(30)
            client.requestTimeout = .seconds(30)
            var file = try TopologyFile(path: file, client: client, eventLoopGroup: connection.eventLoopGroup)
            file.settings.instance = instance
            if check {
                StandardOutput.write(
                    "topology '\(file.topology.name)': \(file.topology.stageNames.joined(separator: ", "))\n"
                )
                return
            }
            var logger = Logger(label: "mdc") { StreamLogHandler.standardError(label: $0) }
            logger.logLevel = connection.verbose ? .debug : .info
            let runner: TopologyRunner
            do {
                runner = try TopologyRunner(
                    file.topology,
                    file.settings,
                    eventLoopGroup: connection.eventLoopGroup,
                    logger: logger
                )
            } catch let error as TopologyError {
                throw CommandError(error.message)
            }
            let page = try await http.map {
                try MetricsPage($0, group: connection.eventLoopGroup) { runner.status.prometheus }
            }?.start()
            let output = output
            let telling = Task {
                while !Task.isCancelled {
                    try await Task.sleep(for: .seconds(5))
                    try Self.tell(runner.status, output)
                }
            }
            defer { telling.cancel() }
            do {
                try await ServiceGroup(
                    services: [runner],
                    gracefulShutdownSignals: [.sigterm, .sigint],
                    logger: logger
                ).run()
            } catch let error as TopologyError {
                throw CommandError(error.message)
            } catch let error as ClientError {
                throw CommandError(error, bootstrap: connection.bootstrap)
            }
            try? await page?.close()
        }

        private static func tell(_ status: TopologyStatus, _ output: OutputOptions) throws {
            let line = Line(
                running: status.isRunning,
                paused: status.isPaused,
                lag: status.lag.values.reduce(0, +),
                inFlight: status.inFlight,
                executed: Dictionary(uniqueKeysWithValues: status.stages.map { ($0.name, $0.executed) }),
                deadLetters: status.deadLetters,
                restarts: status.restarts
            )
            if output.isJSON { return StandardOutput.write(try JSONOutput.line(line)) }
            let counts = status.stages.map { "\($0.name) \($0.executed)" }.joined(separator: "  ")
            StandardOutput.write(
                "lag \(line.lag)  under way \(line.inFlight)  \(counts)  dead letters \(line.deadLetters)"
                    + (line.paused ? "  (paused)" : line.running ? "" : "  (waiting)") + "\n"
            )
        }
    }

    struct Status: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows how far a topology is, whether workers run or not."
        )
        @Argument(help: "The topology's name.")
        var name: String
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        private struct Report: Encodable {
            let name: String
            let paused: Bool
            let workers: Int
            let lag: Int64
            let deadLetters: Int64
            let waitingLetters: Int64
            let partitions: [Row]
        }

        private struct Row: Encodable {
            let topic: String
            let partition: Int32
            @Nullable var position: Int64?
            let end: Int64
            let lag: Int64
            @Nullable var worker: String?
        }

        func run() async throws {
            let standing = try await connection.withTopologies { try await $0.standing(name) }
            let report = Report(
                name: name,
                paused: standing.isPaused,
                workers: standing.workers,
                lag: standing.places.reduce(0) { $0 + $1.lag },
                deadLetters: standing.deadLetters,
                waitingLetters: standing.waitingLetters,
                partitions: standing.places.map { place in
                    Row(
                        topic: place.partition.topic,
                        partition: place.partition.partition.rawValue,
                        position: place.position?.rawValue,
                        end: place.end.rawValue,
                        lag: place.lag,
                        worker: place.worker
                    )
                }
            )
            try output.print(report) {
                var text =
                    "\(name): \(report.paused ? "paused" : "not paused"), \(report.workers) workers, lag \(report.lag), "
                text += "\(report.deadLetters) dead letters (\(report.waitingLetters) not put back)\n"
                if report.partitions.isEmpty { return text }
                var table = Table([
                    .text("TOPIC"), .number("PARTITION"), .number("POSITION"), .number("END"), .number("LAG"),
                    .text("WORKER"),
                ])
                for row in report.partitions {
                    table.add([
                        row.topic, "\(row.partition)", row.position.map { "\($0)" } ?? "-", "\(row.end)", "\(row.lag)",
                        row.worker ?? "-",
                    ])
                }
                return text + table.rendered()
            }
        }
    }

    struct Pause: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Has all workers of a topology end what is under way, and read nothing more.",
            discussion: "It stays paused, also for workers that are started later, until `mdc topology resume`."
        )
        @Argument(help: "The topology's name.")
        var name: String
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            try await connection.withTopologies { try await $0.setPaused(name, true) }
        }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Has the workers of a paused topology read on.")
        @Argument(help: "The topology's name.")
        var name: String
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            try await connection.withTopologies { try await $0.setPaused(name, false) }
        }
    }

    struct Redrive: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Puts dead letters back to where they came from, the oldest first, each once.",
            discussion: """
                The letters stay in the dead letters, and are not put back again. Repeat the command for more than --limit.
                """
        )
        @Argument(help: "The topology's name.")
        var name: String
        @Option(help: "How many at most.")
        var limit = 1_000
        @Flag(help: "Only show which.")
        var dryRun = false
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        private struct Report: Encodable {
            let dryRun: Bool
            let count: Int
            let skipped: Int
            let left: Int64
            let letters: [Row]
        }

        private struct Row: Encodable {
            let offset: Int64
            @Nullable var source: String?
            let stage: String
            let reason: String
        }

        func validate() throws {
            guard limit >= 1 else { throw ValidationError("--limit is \(limit): it must be at least 1") }
        }

        func run() async throws {
            let done = try await connection.withTopologies {
                try await $0.redrive(name, limit: limit, isDryRun: dryRun)
            }
            let rows = (done.letters + done.skipped).sorted { $0.offset < $1.offset }.map {
                Row(offset: $0.offset.rawValue, source: $0.source?.description, stage: $0.stage, reason: $0.reason)
            }
            let report = Report(
                dryRun: dryRun,
                count: done.letters.count,
                skipped: done.skipped.count,
                left: done.left,
                letters: rows
            )
            try output.print(report) {
                var text = "\(report.count) \(dryRun ? "would be put back" : "put back"), \(report.left) left"
                text += report.skipped > 0 ? ", \(report.skipped) without a source passed over\n" : "\n"
                if rows.isEmpty { return text }
                var table = Table([.number("OFFSET"), .text("SOURCE"), .text("STAGE"), .text("REASON")])
                for row in rows { table.add(["\(row.offset)", row.source ?? "-", row.stage, row.reason]) }
                return text + table.rendered()
            }
        }
    }
}

extension ConnectionOptions {
    /// Runs `body` with what administers topologies; errors come out as `CommandError`.
    fileprivate func withTopologies<Value>(_ body: (TopologyAdmin) async throws -> Value) async throws -> Value {
        try await explainingErrors {
            do {
                return try await body(TopologyAdmin(client, eventLoopGroup: eventLoopGroup, logger: logger))
            } catch let error as TopologyError {
                throw CommandError(error.message)
            }
        }
    }
}
