// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import Logging
import MDCBroker
import MDCClient
import MDCPipeline
import ServiceLifecycle
import Synchronization
import UnixSignals

/// `mdc up`: broker, message centre and simulated providers in one process.
struct UpCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up",
        abstract: "Runs everything in one process: broker, message centre, callback listener, simulated providers.",
        discussion: """
            Prints one line that begins with `ready` once messages can be sent (`mdc send`); logs go to standard error. \
            SIGTERM and SIGINT stop it in order. With --demo it sends the messages of a file, waits until each is at its \
            end, prints what became of them and exits: 0 only if none is lost. A demonstration that was cut off goes on \
            where it was when it is started again with the same folder; one that was completed begins anew.
            """
    )

    @Option(help: ArgumentHelp("The folder that keeps everything (default: ./mdc-data).", valueName: "folder"))
    var data: String?
    @Option(
        help: ArgumentHelp(
            "Where Kafka clients connect (default: 127.0.0.1:9092; with --demo any free port).",
            valueName: "host:port"
        )
    )
    var listen: String?
    @Option(
        help: ArgumentHelp(
            "Where /livez, /readyz and /metrics are, or none (default: 127.0.0.1:9464; with --demo none).",
            valueName: "host:port"
        )
    )
    var http: String?
    @Option(
        help: ArgumentHelp(
            "Where providers call back to (default: 127.0.0.1 with any free port).",
            valueName: "host:port"
        )
    )
    var callbacks: String?
    @Option(
        help: ArgumentHelp(
            "Where the HTTP interface is (default: none; docs/rest.md).",
            valueName: "host:port"
        )
    )
    var api: String?
    @Option(help: ArgumentHelp("A TOML file; docs/mdc-up.md lists what it may say.", valueName: "file"))
    var config: String?
    @Option(help: ArgumentHelp("Send the messages of this CSV or JSON Lines file, report and exit.", valueName: "file"))
    var demo: String?
    @Option(help: ArgumentHelp("With --demo: how long messages may take to end, in seconds.", valueName: "seconds"))
    var timeout = 120
    @Option(
        help: ArgumentHelp(
            "What is logged: trace, debug, info, notice, warning, error or critical (default: info; with --demo error).",
            valueName: "level"
        )
    )
    var logLevel: String?
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard timeout > 0 else { throw ValidationError("--timeout is \(timeout): it must be at least 1 second") }
        if let logLevel, Logger.Level(rawValue: logLevel) == nil {
            let known = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("--log-level '\(logLevel)' is not one of \(known)")
        }
        if output.isJSON && demo == nil { throw ValidationError("-o json belongs to --demo: it has a result to print") }
    }

    func run() async throws {
        var settings = try settings()
        let (providers, routing, stores) = try configured(settings)
        let demonstration = try demo.map { try Demonstration(file: $0, data: settings.data, timeout: timeout) }
        try demonstration?.prepareFolder()
        try makeFolder(settings.data)
        settings.broker.dataDirectory = settings.brokerPath
        if let problem = settings.broker.problem { throw CommandError(problem) }
        let level = logLevel.flatMap { Logger.Level(rawValue: $0) } ?? (demo == nil ? .info : .error)
        LoggingSystem.bootstrap { label in
            var handler = StreamLogHandler.standardError(label: label)
            handler.logLevel = level
            return handler
        }
        let logger = Logger(label: "mdc")
        let broker = Broker(configuration: settings.broker, logger: logger)
        let outcome = Outcome()
        let summary = settings.summary
        let isJSON = output.isJSON
        let stack = CenterStack(
            broker: broker,
            settings: settings,
            providers: providers,
            routing: routing,
            stores: stores,
            logger: logger
        ) { center, addresses in
            guard let demonstration else {
                StandardOutput.write(Self.readyLine(addresses))
                return false
            }
            if !isJSON { StandardOutput.write(Self.readyLine(addresses)) }
            let report = try await demonstration.run(center, summary: summary, isJSON: isJSON)
            outcome.value.withLock { $0 = report }
            return true
        }
        try await serve(broker, stack, logger)
        guard let demonstration else { return }
        guard let report = outcome.value.withLock({ $0 }) else {
            throw CommandError("stopped before the messages were at their end; start it again to go on where it was")
        }
        // Only now is everything closed: a marker written before could speak of what is not on disk.
        guard try demonstration.conclude(report) else { throw ExitCode(1) }
    }

    private final class Outcome: Sendable {
        let value = Mutex<FileRunReport?>(nil)
    }

    private static func readyLine(_ addresses: CenterStack.Addresses) -> String {
        var line = "ready listen=\(addresses.broker.listen) advertised=\(addresses.broker.advertised)"
        if let http = addresses.broker.http { line += " http=\(http)" }
        line += " callbacks=\(addresses.callbacks)"
        if let api = addresses.api { line += " api=\(api)" }
        return line + "\n"
    }

    private func serve(_ broker: Broker, _ stack: CenterStack, _ logger: Logger) async throws {
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [
                    .init(service: broker, successTerminationBehavior: .gracefullyShutdownGroup),
                    .init(
                        service: stack,
                        successTerminationBehavior: .gracefullyShutdownGroup,
                        failureTerminationBehavior: .gracefullyShutdownGroup
                    ),
                ],
                gracefulShutdownSignals: [.sigterm, .sigint],
                logger: logger
            )
        )
        do {
            try await group.run()
        } catch let error as BrokerError {
            throw CommandError("the broker cannot run: \(error)")
        } catch let error as PipelineError {
            throw CommandError("the message centre cannot run: \(error)")
        } catch let error as ClientError {
            throw CommandError("the message centre cannot reach its broker: \(error)")
        }
    }

    private func makeFolder(_ path: String) throws {
        do {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        } catch {
            throw CommandError(
                "cannot make the folder '\(path)': \(error.localizedDescription); choose another with --data"
            )
        }
    }

    private func configured(
        _ settings: UpSettings
    ) throws -> (providers: [ProviderSettings], routing: RoutingConfiguration, stores: StoreSettings) {
        do {
            let providers = try settings.readProviders()
            guard demo == nil || providers.isEmpty else {
                throw CommandError(
                    "a demonstration does not send through real providers; remove [provider.*] from the file"
                )
            }
            let stores = try settings.readStores()
            guard demo == nil || stores.location == nil else {
                throw CommandError("a demonstration keeps its messages in its own folder; remove [store] from the file")
            }
            return (providers, try settings.readRouting(providers), stores)
        } catch let error as PipelineError {
            throw CommandError(error.description)
        }
    }

    /// Presets, then the file, then options.
    private func settings() throws -> UpSettings {
        var settings = demo == nil ? UpSettings.standard : UpSettings.demo
        do {
            if let config { try settings.apply(path: config) }
            if let listen { try settings.broker.set("listeners", to: listen) }
            if let http { try settings.broker.set("http.listeners", to: http) }
        } catch let error as UpSettingsError {
            throw CommandError(error.description)
        } catch let error as BrokerError {
            throw CommandError(error.message)
        }
        if let data { settings.data = data }
        if let callbacks {
            guard let address = HostPort(callbacks) else {
                throw ValidationError("--callbacks '\(callbacks)' is not HOST:PORT, such as 127.0.0.1:8080")
            }
            settings.callbacks = address
        }
        if let api {
            guard let address = HostPort(api) else {
                throw ValidationError("--api '\(api)' is not HOST:PORT, such as 127.0.0.1:8081")
            }
            var configuration = settings.api ?? APIServer.Configuration()
            (configuration.host, configuration.port) = (address.host, address.port)
            settings.api = configuration
        }
        return settings
    }
}
