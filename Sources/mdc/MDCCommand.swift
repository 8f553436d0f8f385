// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// `mdc`: the command line of the broker and of the message centre.
@main
struct MDCCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mdc",
        abstract: "Talks to an MDC or Kafka broker, and runs the message centre.",
        discussion: "Every listing is also given as JSON: -o json. Brokers are named with --bootstrap HOST:PORT.",
        subcommands: [
            UpCommand.self,
            SendCommand.self,
            MessageCommand.self,
            ReportCommand.self,
            StoreCommand.self,
            APIKeyCommand.self,
            WebhookCommand.self,
            TemplateCommand.self,
            LaneCommand.self,
            ProviderCommand.self,
            SuppressionCommand.self,
            TimerCommand.self,
            DeadLetterCommand.self,
            TopicCommand.self,
            GroupCommand.self,
            TransactionCommand.self,
            ConfigCommand.self,
            QuotaCommand.self,
            ClusterCommand.self,
            APIVersionsCommand.self,
            CompletionCommand.self,
            ProduceCommand.self,
            ConsumeCommand.self,
            MirrorCommand.self,
            TopologyCommand.self,
        ]
    )
}
