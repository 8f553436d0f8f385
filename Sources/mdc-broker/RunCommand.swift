// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CMDCSystem
import Logging
import MDCBroker
import MDCLog
import NIOPosix
import ServiceLifecycle
import UnixSignals

#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// `mdc-broker run`.
struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Runs a node until it is told to stop.",
        discussion: """
            An empty data folder is formatted. When clients are served, one line that begins with `ready` goes to standard \
            output; logs go to standard error. SIGTERM and SIGINT stop the node in order. An option outweighs --set, which \
            outweighs the file, which outweighs the defaults.
            """
    )

    @Option(help: "A TOML file with settings by their Kafka names.")
    var config: String?
    @Option(help: "The id of the node in its cluster (default: 1).")
    var nodeID: Int32?
    @Option(help: "The data folder (default: ./mdc-data).")
    var data: String?
    @Option(help: "Where clients connect, HOST:PORT (default: 127.0.0.1:9092).")
    var listen: String?
    @Option(help: "What clients are told to connect to, HOST:PORT (default: what is listened on).")
    var advertise: String?
    @Option(help: "Where controllers talk to one another, HOST:PORT.")
    var controllerListen: String?
    @Option(help: "The voters of the metadata quorum, ID@HOST:PORT with commas between; a single node when absent.")
    var voters: String?
    @Option(help: "Where /livez, /readyz and /metrics are, HOST:PORT, or none (default: 127.0.0.1:9464).")
    var http: String?
    @Option(help: ArgumentHelp("Any setting, key=value; may be given more than once.", valueName: "key=value"))
    var set: [String] = []
    @Option(help: "What is logged: trace, debug, info, notice, warning or error.")
    var logLevel: LogLevel = .info
    @Option(help: "How the log looks: text, or json for an object a line (default: text).")
    var logFormat: String?

    func run() async throws {
        mdc_tune_allocator()
        let configuration: BrokerConfiguration
        do throws(BrokerError) {
            configuration = try settings()
            if let problem = configuration.problem { throw BrokerError(.invalidConfiguration, problem) }
        } catch {
            throw ValidationError("\(error)")
        }
        let level = Logger.Level(rawValue: logLevel.rawValue) ?? .info
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
        async let announcement: Void = announce(broker)
        do {
            try await group.run()
        } catch let error as BrokerError {
            await announcement
            Console.error("mdc-broker: \(error)")
            throw ExitCode(1)
        }
        await announcement
    }

    private func announce(_ broker: Broker) async {
        guard let addresses = await broker.whenReady() else { return }
        var line = "ready listen=\(addresses.listen) advertised=\(addresses.advertised)"
        if let http = addresses.http { line += " http=\(http)" }
        Console.line(line)
    }

    private func settings() throws(BrokerError) -> BrokerConfiguration {
        var configuration = BrokerConfiguration()
        if let config { try configuration.apply(toml: try Self.read(config), path: config) }
        for assignment in set { try configuration.set(assignment: assignment) }
        let options: [(String, String?)] = [
            ("node.id", nodeID.map { String($0) }), ("log.dirs", data), ("listeners", listen),
            ("advertised.listeners", advertise), ("controller.listeners", controllerListen),
            ("controller.quorum.voters", voters), ("http.listeners", http),
            ("logging.format", logFormat),
        ]
        for (name, value) in options { if let value { try configuration.set(name, to: value) } }
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

/// swift-log's levels, as an option.
enum LogLevel: String, CaseIterable, ExpressibleByArgument {
    case trace, debug, info, notice, warning, error, critical
}
