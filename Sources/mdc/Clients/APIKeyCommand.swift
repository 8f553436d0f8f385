// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCClient
import MDCModel
import MDCPipeline

/// `mdc apikey`: who may use the HTTP interface.
struct APIKeyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "apikey",
        abstract: "Makes, lists and revokes keys of the HTTP interface.",
        subcommands: [APIKeyCreateCommand.self, APIKeyListCommand.self, APIKeyRevokeCommand.self]
    )
}

extension ConnectionOptions {
    /// Runs `body` with the API keys and webhooks of the centre that works over the broker.
    func withRegistry<Value>(_ body: (ClientRegistry) async throws -> Value) async throws -> Value {
        do {
            try await withAdmin { admin in
                guard try await admin.listTopics().contains(Topics.apiKeys) else {
                    throw CommandError("no message centre works at \(bootstrap): start one with `mdc up`")
                }
            }
            return try await body(ClientRegistry(client, eventLoopGroup: eventLoopGroup, logger: logger))
        } catch let error as PipelineError {
            throw CommandError(error.description)
        } catch let error as ClientError {
            throw CommandError(error, bootstrap: bootstrap)
        }
    }
}

/// The time of day for what commands write.
func commandTime() -> Timestamp { Timestamp(Int64(Date().timeIntervalSince1970 * 1_000)) }

/// `mdc apikey create`.
struct APIKeyCreateCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create",
        abstract: "Makes a key and prints it. It is shown this once: only its hash is kept."
    )

    @Option(help: "For people: who uses it.")
    var name: String
    @Option(help: "The tenant it acts for.")
    var tenant: String?
    @Flag(help: "It acts for all tenants.")
    var allTenants = false
    @Option(
        help: "What it may do: messages:write, messages:read, reports:read, events:read; repeatable (default: all)."
    )
    var scope: [String] = []
    @Option(help: ArgumentHelp("Requests per second that each process takes from it.", valueName: "count"))
    var rate = 50.0
    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard (tenant != nil) != allTenants else { throw ValidationError("say --tenant NAME, or --all-tenants") }
        guard !name.isEmpty, name.count <= 100, tenant != "" else {
            throw ValidationError("--name has 1 to 100 characters, and --tenant is not empty")
        }
        for text in scope where APIScope(rawValue: text) == nil {
            throw ValidationError("--scope '\(text)' is not one of \(APIScope.allCases.names)")
        }
        guard rate > 0, rate <= 1_000_000 else { throw ValidationError("--rate is \(rate): it must be above 0") }
    }

    private struct Created: Encodable {
        var id: String
        var token: String
    }

    func run() async throws {
        let scopes = scope.isEmpty ? Set(APIScope.allCases) : Set(scope.compactMap(APIScope.init))
        let (key, token) = APIKey.make(
            name: name,
            tenant: tenant,
            scopes: scopes,
            ratePerSecond: rate,
            now: commandTime()
        )
        try await connection.withRegistry { try await $0.put(key, action: "apikey create") }
        try output.print(Created(id: key.id, token: token)) { token + "\n" }
    }
}

/// `mdc apikey list`.
struct APIKeyListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Lists the keys, without their secrets."
    )

    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    private struct Listed: Encodable {
        var id: String
        var name: String
        @Nullable var tenant: String?
        var scopes: [String]
        var ratePerSecond: Double
        var createdAt: Timestamp
        @Nullable var revokedAt: Timestamp?
    }

    func run() async throws {
        let keys = try await connection.withRegistry { try await $0.apiKeys() }
        let listed = keys.map { key in
            Listed(
                id: key.id,
                name: key.name,
                tenant: key.tenant,
                scopes: key.scopes.map(\.rawValue).sorted(),
                ratePerSecond: key.ratePerSecond,
                createdAt: key.createdAt,
                revokedAt: key.revokedAt
            )
        }
        try output.print(listed) {
            var table = Table([
                .text("ID"), .text("NAME"), .text("TENANT"), .text("SCOPES"), .number("RATE"), .text("CREATED"),
                .text("REVOKED"),
            ])
            for key in listed {
                table.add([
                    key.id, key.name, key.tenant ?? "(all)", key.scopes.joined(separator: " "), "\(key.ratePerSecond)",
                    MessageText.time(key.createdAt), key.revokedAt.map(MessageText.time) ?? "",
                ])
            }
            return table.rendered()
        }
    }
}

/// `mdc apikey revoke`.
struct APIKeyRevokeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke",
        abstract: "Takes a key its rights, within moments and for good."
    )

    @Argument(help: "The id of the key: `mdc apikey list` shows it.")
    var id: String
    @OptionGroup var connection: ConnectionOptions

    func run() async throws {
        try await connection.withRegistry { registry in
            guard var key = try await registry.apiKeys().first(where: { $0.id == id }) else {
                throw CommandError("API key '\(id)' does not exist: see `mdc apikey list`")
            }
            guard key.revokedAt == nil else { return }
            key.revokedAt = commandTime()
            try await registry.put(key, action: "apikey revoke")
        }
        StandardOutput.write("revoked \(id)\n")
    }
}
