// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import MDCPipeline

/// `mdc store`: looks after the message store.
struct StoreCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "store",
        abstract: "Looks after the message store: SQLite or PostgreSQL (docs/stores.md).",
        subcommands: [StoreStatusCommand.self, StoreRebuildCommand.self]
    )
}

/// `mdc store status`.
struct StoreStatusCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Says where the store is, what it holds, and how far it has read mdc.events."
    )

    @OptionGroup var store: StoreOptions
    @OptionGroup var output: OutputOptions

    private struct Status: Encodable {
        var store: String
        var messages: Int
        var offsets: [String: Int64]
    }

    func run() async throws {
        let place = try store.location().summary
        let status = try store.withStore { store in
            let offsets = try store.consumedOffsets().map { ("\($0.key)", $0.value) }
            return Status(
                store: place,
                messages: try store.count(),
                offsets: Dictionary(uniqueKeysWithValues: offsets)
            )
        }
        try output.print(status) {
            let events = status.offsets.values.reduce(0, +)
            return "\(status.store): \(status.messages) messages; read \(events) events\n"
        }
    }
}

/// `mdc store rebuild`.
struct StoreRebuildCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rebuild",
        abstract:
            "Empties the store; the centre builds it again from the log, at once if it is at work, else at its start.",
        discussion:
            "What mdc.events no longer holds (its retention) is not in the store afterwards. Say --yes to do it."
    )

    @Flag(help: "Really empty it.")
    var yes = false
    @OptionGroup var store: StoreOptions

    func run() async throws {
        let location = try store.location()
        guard yes else { throw CommandError("this empties \(location.summary): say --yes if that is meant") }
        do {
            let store = try MessageStore(location)
            defer { store.close() }
            try await store.reset()
        } catch {
            throw CommandError(error.description)
        }
        StandardOutput.write("emptied \(location.summary); the centre builds it again from mdc.events\n")
    }
}
