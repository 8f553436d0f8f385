// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCClient

/// `mdc quota …`
struct QuotaCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "quota",
        abstract: "Shows and changes what clients may use.",
        discussion: """
            Quotas of users and client ids: producer_byte_rate and consumer_byte_rate (bytes a second), request_percentage \
            (time of one thread), controller_mutation_rate (partitions made or deleted a second). Of addresses: \
            connection_creation_rate (connections a second). The most particular quota applies.
            """,
        subcommands: [List.self, Describe.self, Set.self, Remove.self]
    )

    fileprivate struct Row: Encodable {
        @Nullable var user: String?
        @Nullable var clientID: String?
        @Nullable var ip: String?
        let quotas: [String: Double]

        /// Everyone is written as an asterisk.
        init(_ listing: QuotaListing) {
            func text(_ name: QuotaEntity.Name?) -> String? {
                switch name {
                case .named(let name)?: name
                case .everyone?: "*"
                case nil: nil
                }
            }
            user = text(listing.entity.user)
            clientID = text(listing.entity.clientID)
            ip = text(listing.entity.ip)
            quotas = listing.values
        }
    }

    fileprivate static func table(_ rows: [Row]) -> String {
        if rows.isEmpty { return "no quotas: nobody is limited\n" }
        var table = Table([.text("USER"), .text("CLIENT ID"), .text("IP"), .text("QUOTA"), .number("VALUE")])
        for row in rows {
            for (name, value) in row.quotas.sorted(by: { $0.key < $1.key }) {
                table.add([row.user ?? "-", row.clientID ?? "-", row.ip ?? "-", name, number(value)])
            }
        }
        return table.rendered() + "* stands for everyone without a quota of their own\n"
    }

    private static func number(_ value: Double) -> String {
        Int64(exactly: value).map { String($0) } ?? String(value)
    }
}

/// Whose quotas.
struct QuotaEntityOptions: ParsableArguments {
    @Option(help: "A user.")
    var user: String?
    @Flag(help: "Every user without a quota of their own.")
    var anyUser = false
    @Option(help: "A client id.")
    var clientID: String?
    @Flag(help: "Every client id without a quota of its own.")
    var anyClientID = false
    @Option(help: "An address.")
    var ip: String?
    @Flag(help: "Every address without a quota of its own.")
    var anyIP = false

    func validate() throws {
        for (name, flag, isBoth) in [
            ("--user", "--any-user", user != nil && anyUser),
            ("--client-id", "--any-client-id", clientID != nil && anyClientID),
            ("--ip", "--any-ip", ip != nil && anyIP),
        ] where isBoth {
            throw ValidationError("give \(name) or \(flag), not both")
        }
        let entity = entity
        if entity == QuotaEntity() {
            throw ValidationError(
                "say whose quotas: --user, --client-id, --ip, or --any-user, --any-client-id, --any-ip"
            )
        }
        if entity.ip != nil && (entity.user != nil || entity.clientID != nil) {
            throw ValidationError("an address stands alone, without user and client id")
        }
    }

    var entity: QuotaEntity {
        QuotaEntity(
            user: anyUser ? .everyone : user.map { .named($0) },
            clientID: anyClientID ? .everyone : clientID.map { .named($0) },
            ip: anyIP ? .everyone : ip.map { .named($0) }
        )
    }
}

extension QuotaCommand {
    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists all quotas.")

        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let rows = try await connection.withAdmin { admin in try await admin.describeQuotas().map { Row($0) } }
            try output.print(rows) { QuotaCommand.table(rows) }
        }
    }

    struct Describe: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Shows the quotas set for exactly one entity.")

        @OptionGroup var entity: QuotaEntityOptions
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let rows = try await connection.withAdmin { admin in
                try await admin.describeQuotas(entity.entity).map { Row($0) }
            }
            try output.print(rows) { QuotaCommand.table(rows) }
        }
    }

    struct Set: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Sets quotas; those not named stay.",
            discussion: "Example: mdc quota set --client-id reports consumer_byte_rate=1048576"
        )

        @OptionGroup var entity: QuotaEntityOptions
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: ArgumentHelp("Quotas with their values.", valueName: "name=value"))
        var quotas: [KeyValueArgument]

        @Flag(help: "Only check whether the broker would take the change.")
        var dryRun = false

        func validate() throws {
            for quota in quotas where Double(quota.value) == nil {
                throw ValidationError("\(quota.key)=\(quota.value): the value is no number")
            }
        }

        private struct Result: Encodable {
            let set: [String: Double]
            let isDryRun: Bool
        }

        func run() async throws {
            let values = Dictionary(quotas.map { ($0.key, Double($0.value) ?? 0) }, uniquingKeysWith: { $1 })
            try await connection.withAdmin { admin in
                try await admin.alterQuotas(entity.entity, values.mapValues { $0 }, validateOnly: dryRun)
            }
            try output.print(Result(set: values, isDryRun: dryRun)) {
                values.sorted { $0.key < $1.key }
                    .map { "\(dryRun ? "would " : "")set \($0.key) = \(QuotaCommand.number($0.value))\n" }.joined()
            }
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Removes quotas of an entity: those that are named, or all."
        )

        @OptionGroup var entity: QuotaEntityOptions
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        @Argument(help: ArgumentHelp("Quotas; all when absent.", valueName: "name"))
        var quotas: [String] = []

        private struct Result: Encodable {
            let removed: [String]
        }

        func run() async throws {
            let removed = try await connection.withAdmin { admin in
                var names = quotas
                if names.isEmpty {
                    names = try await admin.describeQuotas(entity.entity).flatMap { $0.values.keys.sorted() }
                }
                var changes: [String: Double?] = [:]
                for name in names { changes[name] = .some(nil) }
                if !changes.isEmpty { try await admin.alterQuotas(entity.entity, changes) }
                return names
            }
            try output.print(Result(removed: removed)) {
                removed.isEmpty ? "nothing was set\n" : removed.map { "removed \($0)\n" }.joined()
            }
        }
    }
}
