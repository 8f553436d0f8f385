// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import Logging
import MDCClient
import MDCMirror
import MDCModel
import NIOCore
import ServiceLifecycle
import UnixSignals

/// `mdc mirror …`
struct MirrorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mirror",
        abstract: "Copies topics, settings and the places of groups from another cluster.",
        discussion: """
            --source is the cluster that is copied, --bootstrap the one that is copied to; either may be any that speaks the Kafka \
            protocol. Each committed record is copied once, whatever is killed meanwhile; see docs/mirror.md.
            """,
        subcommands: [Run.self, Status.self, Forget.self]
    )
}

/// Options of all its commands.
struct MirrorNameOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The mirror's name; its position at the target carries it.", valueName: "name"))
    var name: String
}

extension MirrorCommand {
    struct Run: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Mirrors until SIGTERM. May be killed and started again."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions
        @OptionGroup var mirror: MirrorNameOptions

        @Option(help: ArgumentHelp("A broker of the source; several separated by commas.", valueName: "host:port"))
        var source: String

        @Option(
            help: ArgumentHelp("Topics to copy: a regular expression that matches the whole name.", valueName: "regex")
        )
        var topics = ".*"

        @Option(help: ArgumentHelp("Topics to leave out.", valueName: "regex"))
        var exclude: String?

        @Option(help: ArgumentHelp("Groups whose places are translated.", valueName: "regex"))
        var groups = ".*"

        @Option(help: ArgumentHelp("Put before the names of topics at the target.", valueName: "text"))
        var prefix = ""

        @Option(
            help: ArgumentHelp(
                "The mirror that filled the source from the target: what it brought is not copied back.",
                valueName: "name"
            )
        )
        var failback: String?

        @Flag(help: "Begin new partitions at their end instead of their oldest record.")
        var fromEnd = false

        @Option(
            help: ArgumentHelp(
                "Replicas of topics that are made; the target's default where not given.",
                valueName: "count"
            )
        )
        var replicationFactor: Int16?

        @Option(help: ArgumentHelp("How long a transaction collects records.", valueName: "milliseconds"))
        var interval = 200

        @Option(help: ArgumentHelp("Serve /metrics for Prometheus here.", valueName: "host:port"))
        var http: String?

        private struct Line: Encodable {
            let running: Bool
            let lag: Int64
            let records: Int64
            let recordsPerSecond: Int64
            let transactions: Int64
            let restarts: Int64
            let stopped: [String: String]
        }

        func validate() throws {
            guard interval > 0 else {
                throw ValidationError("--interval is \(interval): it must be at least 1 millisecond")
            }
            for (option, text) in [("--topics", topics), ("--groups", groups), ("--exclude", exclude ?? "")] {
                do { _ = try Regex(text) } catch {
                    throw ValidationError("\(option) '\(text)' is no regular expression: \(error)")
                }
            }
        }

        func run() async throws {
            var settings = MirrorConfiguration(
                name: mirror.name,
                source: Self.client(source, like: connection.client),
                target: Self.client(nil, like: connection.client)
            )
            let (topics, exclude, groups) = (topics, exclude, groups)
            settings.isMirrored = { name in
                Self.matches(topics, name) && !(exclude.map { Self.matches($0, name) } ?? false)
            }
            settings.isGroupMirrored = { Self.matches(groups, $0) }
            settings.prefix = prefix
            settings.failback = failback
            settings.startsAtEnd = fromEnd
            settings.replicationFactor = replicationFactor
            settings.interval = .milliseconds(interval)
            var logger = Logger(label: "mdc") { StreamLogHandler.standardError(label: $0) }
            logger.logLevel = connection.verbose ? .debug : .info
            let service: Mirror
            do {
                service = try Mirror(settings, eventLoopGroup: connection.eventLoopGroup, logger: logger)
            } catch let error as MirrorError {
                throw CommandError(error.message)
            }
            let page = try await http.map {
                try MetricsPage($0, group: connection.eventLoopGroup) { service.status.prometheus }
            }?.start()
            let output = output
            let telling = Task {
                var before: Int64 = 0
                while !Task.isCancelled {
                    try await Task.sleep(for: .seconds(5))
                    let status = service.status
                    let line = Line(
                        running: status.isRunning,
                        lag: status.lag,
                        records: status.records,
                        recordsPerSecond: (status.records - before) / 5,
                        transactions: status.transactions,
                        restarts: status.restarts,
                        stopped: status.stopped
                    )
                    before = status.records
                    try output.print(line) {
                        "lag \(line.lag)  records \(line.records)  \(line.recordsPerSecond)/s  transactions \(line.transactions)"
                            + (line.running ? "" : "  (waiting for a cluster)")
                            + (line.stopped.isEmpty
                                ? "" : "  stopped: \(line.stopped.keys.sorted().joined(separator: ", "))") + "\n"
                    }
                }
            }
            defer { telling.cancel() }
            do {
                try await ServiceGroup(
                    services: [service],
                    gracefulShutdownSignals: [.sigterm, .sigint],
                    logger: logger
                ).run()
            } catch let error as MirrorError {
                throw CommandError(error.message)
            }
            try? await page?.close()
        }

        /// Patient: a cluster that is away for a while is waited for.
        private static func client(_ servers: String?, like other: ClientConfiguration) -> ClientConfiguration {
            var client = ClientConfiguration(
                bootstrapServers: servers?.split(separator: ",").map(String.init) ?? other.bootstrapServers,
                clientID: "mdc-mirror"
            )
            client.apiTimeout = .seconds(30)
            return client
        }

        private static func matches(_ pattern: String, _ name: String) -> Bool {
            // Checked when the options were read.
            guard let regex = try? Regex(pattern) else { return false }
            return (try? regex.wholeMatch(in: name)) != nil
        }
    }

    struct Status: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Shows how far a mirror is, whether it runs or not.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions
        @OptionGroup var mirror: MirrorNameOptions

        @Option(help: ArgumentHelp("A broker of the source.", valueName: "host:port"))
        var source: String

        @Option(help: ArgumentHelp("The prefix that the mirror runs with.", valueName: "text"))
        var prefix = ""

        private struct Row: Encodable {
            let topic: String
            let partition: Int32
            let position: Int64
            let end: Int64
            let lag: Int64
        }

        func run() async throws {
            let rows = try await connection.withAdmin { target in
                var settings = connection.client
                settings.bootstrapServers = source.split(separator: ",").map(String.init)
                let origin = try Admin(settings, eventLoopGroup: connection.eventLoopGroup, logger: connection.logger)
                do {
                    let found = try await Mirror.status(of: mirror.name, source: origin, target: target, prefix: prefix)
                    await origin.close()
                    return found
                } catch {
                    await origin.close()
                    throw error
                }
            }.map {
                Row(
                    topic: $0.partition.topic,
                    partition: $0.partition.partition.rawValue,
                    position: $0.position.rawValue,
                    end: $0.end.rawValue,
                    lag: $0.lag
                )
            }
            try output.print(rows) {
                if rows.isEmpty { return "the mirror '\(mirror.name)' has copied nothing yet\n" }
                var table = Table([
                    .text("TOPIC"), .number("PARTITION"), .number("POSITION"), .number("END"), .number("LAG"),
                ])
                for row in rows {
                    table.add([row.topic, "\(row.partition)", "\(row.position)", "\(row.end)", "\(row.lag)"])
                }
                return table.rendered()
            }
        }
    }

    struct Forget: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract:
                "Forgets how far a mirror is with a topic: it begins anew, behind what is there. Stop the mirror first."
        )

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var mirror: MirrorNameOptions

        @Option(help: ArgumentHelp("The topic, by its name at the target.", valueName: "topic"))
        var topic: String

        func run() async throws {
            try await connection.withAdmin { target in
                let group = MirrorConfiguration.group(of: mirror.name)
                let partitions = try await target.groupOffsets(group).keys.filter { $0.topic == topic }
                guard !partitions.isEmpty else {
                    throw CommandError(
                        "the mirror '\(mirror.name)' has no position in topic '\(topic)': see mdc mirror status"
                    )
                }
                try await target.deleteGroupOffsets(group, partitions: Array(partitions))
            }
        }
    }
}
