// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCBroker
import MDCLog
import NIOPosix
import ServiceLifecycle
import Synchronization
import UnixSignals

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// Signals that the process takes for itself until its end.
private let trapped = Mutex<UnixSignalsSequence?>(nil)

/// `mdc-broker run`.
struct RunCommand {
    static let description = CommandDescription(
        name: "run",
        abstract: "Runs a node until it is told to stop.",
        discussion: """
            An empty data folder is formatted. When clients are served, one line that begins with `ready` goes to standard \
            output; logs go to standard error. SIGTERM and SIGINT stop the node in order. An option outweighs --set, which \
            outweighs the file, which outweighs the defaults.
            """,
        options: [
            OptionDescription(name: "config", value: "file", help: "A TOML file with settings by their Kafka names."),
            OptionDescription(
                name: "node-id",
                value: "number",
                help: "The id of the node in its cluster (default: 1)."
            ),
            OptionDescription(
                name: "data",
                value: "folder",
                help: "A data folder (default: ./mdc-data); the first holds the metadata.",
                repeats: true
            ),
            OptionDescription(
                name: "listen",
                value: "host:port",
                help: "Where clients connect (default: 127.0.0.1:9092)."
            ),
            OptionDescription(
                name: "advertise",
                value: "host:port",
                help: "What clients are told to connect to (default: what is listened on)."
            ),
            OptionDescription(
                name: "controller-listen",
                value: "host:port",
                help: "Where controllers talk to one another."
            ),
            OptionDescription(
                name: "voters",
                value: "id@host:port,…",
                help: "The voters of the metadata quorum; a single node when absent."
            ),
            OptionDescription(
                name: "http",
                value: "host:port",
                help: "Where /livez, /readyz and /metrics are, or none (default: 127.0.0.1:9464)."
            ),
            OptionDescription(name: "set", value: "key=value", help: "Any setting.", repeats: true),
            OptionDescription(name: "check", help: "Only check the settings; nothing is started or made."),
            OptionDescription(
                name: "log-level",
                value: "level",
                help: "What is logged: trace, debug, info, notice, warning, error or critical (default: info)."
            ),
            OptionDescription(
                name: "log-format",
                value: "format",
                help: "How the log looks: text, or json for an object a line (default: text)."
            ),
        ]
    )

    private let options: Options

    init(_ options: Options) { self.options = options }

    /// Returns the exit status once the node has stopped.
    func run() async throws(UsageError) -> Int32 {
        mdc_tune_allocator()
        let configuration: BrokerConfiguration
        do throws(BrokerError) {
            configuration = try settings()
            if let problem = configuration.problem { throw BrokerError(.invalidConfiguration, problem) }
        } catch {
            throw UsageError(message: "\(error)")
        }
        guard let level = Logger.Level(rawValue: options["log-level"] ?? "info") else {
            let known = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
            throw UsageError(message: "there is no log level '\(options["log-level"] ?? "")'; there are \(known)")
        }
        if options.has("check") {
            Console.line("the settings of node \(configuration.nodeID) are sound")
            return 0
        }
        let format = configuration.loggingFormat
        LoggingSystem.bootstrap { label in
            if format == .json { return JSONLogHandler(label: label, level: level) { Console.error($0) } }
            var handler = StreamLogHandler.standardError(label: label)
            handler.logLevel = level
            return handler
        }
        let logger = Logger(label: "mdc-broker")
        let broker = Broker(configuration: configuration, logger: logger)
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [.init(service: broker, successTerminationBehavior: .gracefullyShutdownGroup)],
                gracefulShutdownSignals: [.sigterm, .sigint],
                logger: logger
            )
        )
        // Held until the process ends: a signal that comes while it ends, or once more, must not end it with a wrong status.
        let signals = await UnixSignalsSequence(trapping: [.sigterm, .sigint])
        trapped.withLock { $0 = signals }
        async let announcement: Void = announce(broker)
        do {
            try await group.run()
        } catch {
            await announcement
            Console.error("mdc-broker: \(error)")
            return 1
        }
        await announcement
        return 0
    }

    private func announce(_ broker: Broker) async {
        guard let addresses = await broker.whenReady() else { return }
        var line = "ready listen=\(addresses.listen) advertised=\(addresses.advertised)"
        if let http = addresses.http { line += " http=\(http)" }
        Console.line(line)
    }

    private func settings() throws(BrokerError) -> BrokerConfiguration {
        var configuration = BrokerConfiguration()
        if let config = options["config"] { try configuration.apply(toml: try Self.read(config), path: config) }
        for assignment in options.all("set") { try configuration.set(assignment: assignment) }
        let names = [
            ("node-id", "node.id"), ("data", "log.dirs"), ("listen", "listeners"),
            ("advertise", "advertised.listeners"), ("controller-listen", "controller.listeners"),
            ("voters", "controller.quorum.voters"), ("http", "http.listeners"), ("log-format", "logging.format"),
        ]
        for (option, setting) in names {
            let values = options.all(option)
            if !values.isEmpty { try configuration.set(setting, to: values.joined(separator: ",")) }
        }
        return configuration
    }

    /// Reads a small file without Foundation.
    private static func read(_ path: String) throws(BrokerError) -> String {
        guard let file = fopen(path, "r") else {
            throw BrokerError(.invalidConfiguration, "the configuration file \(path) cannot be read")
        }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while bytes.count < 1 << 24 {
            let count = fread(&chunk, 1, chunk.count, file)
            if count == 0 { break }
            bytes += chunk[..<count]
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
