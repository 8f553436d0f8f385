// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCClient
import MDCModel
import MDCPipeline

extension ConnectionOptions {
    /// Runs `body` with the administration of the centre; errors come out as `CommandError`.
    func withCenter<Value>(_ body: (CenterAdmin) async throws -> Value) async throws -> Value {
        try await explainingErrors {
            let center = try CenterAdmin(client: client, eventLoopGroup: eventLoopGroup, logger: logger)
            do {
                let value = try await body(center)
                try await center.close()
                return value
            } catch {
                try? await center.close()
                if let error = error as? PipelineError { throw CommandError(error.description) }
                throw error
            }
        }
    }
}

/// `mdc message cancel`.
struct MessageCancelCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel",
        abstract: "Asks for a message not to be sent.",
        discussion:
            "Until a provider was asked it comes to the status 'cancelled'; after that its timeline says why not."
    )

    @Argument(help: "The id that `mdc send` printed.")
    var id: String
    @Option(help: "Its channel: sms, email or push.")
    var channel: String
    @OptionGroup var connection: ConnectionOptions

    func run() async throws {
        guard let channel = Channel(rawValue: channel) else {
            throw CommandError("--channel '\(channel)' is not one of \(Channel.allCases.names)")
        }
        try await connection.withCenter { try await $0.cancel(id.lowercased(), channel: channel) }
        StandardOutput.write("asked; see mdc message get \(id)\n")
    }
}

/// `mdc provider …`
struct ProviderCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "provider",
        abstract: "Shows what is known of the providers, and pauses them.",
        subcommands: [List.self, Pause.self, Resume.self, Drift.self]
    )

    struct Drift: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Shows how far providers' own reports are from what their callbacks told, as of the latest pull.",
            discussion: """
                Exits with 1 if a provider named by --provider drifts or could not be asked. Pulls are set by \
                [provider.<name>.pull] (docs/providers.md).
                """
        )
        @Option(help: "Only this provider.")
        var provider: String?
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let drifts = try await connection.withCenter { try await $0.providerDrifts() }
                .filter { provider == nil || $0.provider == provider }
            if let provider, drifts.isEmpty {
                throw CommandError(
                    "provider '\(provider)' was not asked for its report yet: see [provider.\(provider).pull]"
                )
            }
            try output.print(drifts) {
                var table = Table([
                    .text("PROVIDER"), .text("ASKED"), .number("MESSAGES"), .number("REPORTS"), .number("AGREED"),
                    .number("MISSED"), .number("CONTRADICTING"), .number("UNKNOWN"), .number("ABSENT"),
                    .text("FAILURE"),
                ])
                for one in drifts {
                    table.add([
                        one.provider, MessageText.time(one.at), "\(one.messages)", "\(one.reports)", "\(one.agreed)",
                        "\(one.missed)", "\(one.contradicting)", "\(one.unknown)", "\(one.absent)", one.failure ?? "",
                    ])
                }
                return table.rendered()
            }
            if provider != nil, drifts.contains(where: { $0.isDrifting || $0.failure != nil }) { throw ExitCode(1) }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Lists circuits, pauses and health. A provider of which nothing was said is in order."
        )
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let notices = try await connection.withCenter { try await $0.providerNotices() }.filter {
                $0.kind != .drift
            }
            try output.print(notices) {
                var table = Table([
                    .text("PROVIDER"), .text("ABOUT"), .text("STATE"), .text("SINCE"), .text("UNTIL"), .text("WHY"),
                ])
                for notice in notices {
                    table.add([
                        notice.provider, notice.kind.rawValue, notice.state, MessageText.time(notice.at),
                        notice.until.map(MessageText.time) ?? "", notice.reason ?? "",
                    ])
                }
                return table.rendered()
            }
        }
    }

    struct Pause: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Asks a provider no more; its messages go by others, or wait."
        )
        @Argument(help: "Its name.")
        var name: String
        @Option(help: "For people.")
        var reason: String?
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            try await connection.withCenter { try await $0.setPaused(name, true, reason: reason) }
        }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Asks a provider again.")
        @Argument(help: "Its name.")
        var name: String
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            try await connection.withCenter { try await $0.setPaused(name, false, reason: nil) }
        }
    }
}

/// `mdc suppression …`
struct SuppressionCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "suppression",
        abstract: "Shows and changes the list of recipients that are not written to.",
        subcommands: [Add.self, Remove.self, List.self]
    )

    struct Place: ParsableArguments {
        @Option(help: "The channel: sms, email or push.")
        var channel: String
        @Argument(help: "The recipient.")
        var recipient: String
        @Option(help: "Only messages of this tenant.")
        var tenant: String?

        func parsed() throws -> (channel: Channel, recipient: String) {
            guard let channel = Channel(rawValue: channel) else {
                throw CommandError("--channel '\(channel)' is not one of \(Channel.allCases.names)")
            }
            do {
                return (channel, try Suppression.normalized(recipient, channel: channel))
            } catch {
                throw CommandError(error.description)
            }
        }
    }

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Holds back messages to a recipient.")
        @OptionGroup var place: Place
        @Option(help: "For people, such as 'unsubscribed'.")
        var reason: String?
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            let (channel, recipient) = try place.parsed()
            let suppression = Suppression(
                channel: channel,
                recipient: recipient,
                tenant: place.tenant,
                reason: reason,
                at: Timestamp(Int64(Date().timeIntervalSince1970 * 1_000))
            )
            try await connection.withCenter { try await $0.suppress(suppression) }
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lets messages to a recipient go again.")
        @OptionGroup var place: Place
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            let (channel, recipient) = try place.parsed()
            try await connection.withCenter {
                try await $0.unsuppress(recipient, channel: channel, tenant: place.tenant)
            }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists the recipients that are not written to.")
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let all = try await connection.withCenter { try await $0.suppressions() }
            try output.print(all) {
                var table = Table([
                    .text("CHANNEL"), .text("RECIPIENT"), .text("TENANT"), .text("SINCE"), .text("REASON"),
                ])
                for one in all {
                    table.add([
                        one.channel.rawValue, one.recipient, one.tenant ?? "*", MessageText.time(one.at),
                        one.reason ?? "",
                    ])
                }
                return table.rendered()
            }
        }
    }
}

/// `mdc timer …`
struct TimerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "timer",
        abstract: "Shows and cancels what waits for its time.",
        subcommands: [List.self, Cancel.self]
    )

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists the timers that are set, by their time.")
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let timers = try await connection.withCenter { try await $0.timers() }
            try output.print(timers) {
                var table = Table([.text("DUE"), .text("ID"), .text("TO")])
                for timer in timers { table.add([MessageText.time(timer.due), timer.id, timer.topic]) }
                return table.rendered()
            }
        }
    }

    struct Cancel: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Cancels a timer: what it holds is not delivered.",
            discussion: "To end a message that waits, use `mdc message cancel`: then it has a final status."
        )
        @Argument(help: "The id that `mdc timer list` shows.")
        var id: String
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            try await connection.withCenter { center in
                guard try await center.timers().contains(where: { $0.id == id }) else {
                    throw CommandError("no timer '\(id)' is set: see `mdc timer list`")
                }
                try await center.cancelTimer(id)
            }
        }
    }
}

/// `mdc dlq …`
struct DeadLetterCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dlq",
        abstract: "Shows records that could not be used, and puts them back.",
        subcommands: [List.self, Redrive.self]
    )

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists the dead letters, the oldest first.")
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let letters = try await connection.withCenter { try await $0.deadLetters() }
            try output.print(letters) {
                var table = Table([
                    .number("OFFSET"), .text("TIME"), .text("SOURCE"), .text("KEY"), .text("REASON"),
                ])
                for letter in letters {
                    table.add([
                        "\(letter.offset)", MessageText.time(letter.at), letter.source, letter.key ?? "", letter.reason,
                    ])
                }
                return table.rendered()
            }
        }
    }

    struct Redrive: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Puts a dead letter back to where it came from, to be tried again.",
            discussion: "The dead letter stays where it is: what was written is not changed."
        )
        @Argument(help: "The offset that `mdc dlq list` shows.")
        var offset: Int64
        @OptionGroup var connection: ConnectionOptions

        func run() async throws {
            let letter = try await connection.withCenter { try await $0.redrive(offset: offset) }
            StandardOutput.write("back to \(letter.source.split(separator: ":").first ?? "")\n")
        }
    }
}

/// `mdc lane …`
struct LaneCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lane",
        abstract: "Shows the lanes: weights, shares, and what waits.",
        subcommands: [List.self, Describe.self]
    )

    fileprivate static func table(_ lanes: [CenterAdmin.LaneStanding]) -> String {
        var table = Table([
            .text("CHANNEL"), .text("LANE"), .number("WEIGHT"), .number("SHARE"), .number("WAITING"), .number("TOTAL"),
        ])
        for lane in lanes {
            let share = String(format: "%.1f %%", lane.share)
            table.add([
                lane.channel.rawValue, lane.lane, "\(lane.weight)", share, "\(lane.waiting)", "\(lane.total)",
            ])
        }
        return table.rendered()
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lists the lanes of all channels.")
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let lanes = try await connection.withCenter { try await $0.lanes() }
            try output.print(lanes) { LaneCommand.table(lanes) }
        }
    }

    struct Describe: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Shows one lane of each channel that has it.")
        @Argument(help: "The lane.")
        var lane: String
        @OptionGroup var connection: ConnectionOptions
        @OptionGroup var output: OutputOptions

        func run() async throws {
            let lanes = try await connection.withCenter { try await $0.lanes() }
            let found = lanes.filter { $0.lane == lane }
            guard !found.isEmpty else {
                let known = Set(lanes.map(\.lane)).sorted().joined(separator: ", ")
                throw CommandError("there is no lane '\(lane)'; there are \(known.isEmpty ? "none" : known)")
            }
            try output.print(found) { LaneCommand.table(found) }
        }
    }
}
