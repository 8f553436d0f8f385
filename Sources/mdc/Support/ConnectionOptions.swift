// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Logging
import MDCClient
import NIOCore
import NIOPosix

/// Which broker to talk to, and how patiently. Shared by all commands that need one.
struct ConnectionOptions: ParsableArguments {
    @Option(
        name: .customLong("bootstrap"),
        help: ArgumentHelp("A broker of the cluster; several separated by commas.", valueName: "host:port")
    )
    var bootstrap = "127.0.0.1:9092"

    @Option(help: ArgumentHelp("How long to wait for the broker, in seconds.", valueName: "seconds"))
    var timeout = 10

    @Flag(name: .shortAndLong, help: "Write what the client does to standard error.")
    var verbose = false

    func validate() throws {
        guard timeout >= 1 else { throw ValidationError("--timeout is \(timeout): it must be at least 1 second") }
        for server in servers where Self.address(of: server) == nil {
            throw ValidationError("--bootstrap '\(server)' is not HOST:PORT, such as 127.0.0.1:9092")
        }
    }

    /// The bootstrap servers, each `host:port`.
    var servers: [String] {
        bootstrap.split(separator: ",", omittingEmptySubsequences: false).map {
            String($0.drop(while: { $0 == " " }))
        }
    }

    /// Settings of a client for these options.
    var client: ClientConfiguration {
        var client = ClientConfiguration(bootstrapServers: servers, clientID: "mdc")
        client.apiTimeout = .seconds(timeout)
        client.connectTimeout = .seconds(min(timeout, 10))
        client.requestTimeout = .seconds(timeout)
        return client
    }

    /// Where connections run.
    var eventLoopGroup: any EventLoopGroup { MultiThreadedEventLoopGroup.singleton }

    /// Silent unless `--verbose`: what fails is reported by the command itself.
    var logger: Logger {
        guard verbose else { return Logger(label: "mdc") { _ in SwiftLogNoOpLogHandler() } }
        var logger = Logger(label: "mdc") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = .debug
        return logger
    }

    /// Runs `body` with an admin client; errors come out as `CommandError`.
    func withAdmin<Value>(_ body: (Admin) async throws -> Value) async throws -> Value {
        try await explainingErrors {
            let admin = try Admin(client, eventLoopGroup: eventLoopGroup, logger: logger)
            do {
                let value = try await body(admin)
                await admin.close()
                return value
            } catch {
                await admin.close()
                throw error
            }
        }
    }

    /// Runs `body` once some bootstrap server takes connections; errors come out as `CommandError`.
    ///
    /// The client retries what it cannot reach. A person at a terminal wants to know at once that nothing listens.
    func explainingErrors<Value>(_ body: () async throws -> Value) async throws -> Value {
        try await checkReachable()
        do {
            return try await body()
        } catch let error as ClientError {
            throw CommandError(error, bootstrap: bootstrap)
        }
    }

    private func checkReachable() async throws {
        var reasons: [String] = []
        for server in servers {
            guard let (host, port) = Self.address(of: server) else { continue }
            do {
                let channel = try await ClientBootstrap(group: eventLoopGroup)
                    .connectTimeout(.seconds(Int64(min(timeout, 10))))
                    .connect(host: host, port: port).get()
                try? await channel.close()
                return
            } catch {
                reasons.append("\(error)")
            }
        }
        if verbose { logger.debug("no bootstrap server was reached", metadata: ["reasons": "\(reasons)"]) }
        throw CommandError.noBroker(bootstrap)
    }

    private static func address(of text: String) -> (host: String, port: Int)? {
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (1...65535).contains(port)
        else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            return nil
        }
        return host.isEmpty ? nil : (String(host), port)
    }
}
