// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// The node.
@main
struct MDCBrokerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mdc-broker",
        abstract: "A durable broker that speaks the Kafka protocol.",
        subcommands: [RunCommand.self, CheckCommand.self, DumpLogCommand.self]
    )
}
