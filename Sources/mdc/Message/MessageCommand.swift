// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCModel
import MDCPipeline

/// `mdc message`: asks the message store.
struct MessageCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "message",
        abstract: "Shows messages and what became of them, and calls them back.",
        discussion: "Listings read the message store of `mdc up` (nothing is written), at work or stopped.",
        subcommands: [MessageGetCommand.self, MessageListCommand.self, MessageCancelCommand.self]
    )
}

/// Where the message store is. Shared by the commands that read it.
struct StoreOptions: ParsableArguments {
    @Option(help: ArgumentHelp("The folder of `mdc up`.", valueName: "folder"))
    var data = "./mdc-data"
    @Option(
        help: ArgumentHelp(
            "The file that `mdc up --config` has, if its [store] names a server (docs/stores.md).",
            valueName: "file"
        )
    )
    var config: String?

    /// Where the store is: the server that the file names, else the file in the folder.
    func location() throws -> StoreLocation {
        if let config {
            var settings = UpSettings.standard
            do {
                try settings.apply(path: config)
                if let location = try settings.readStores().location { return location }
            } catch let error as UpSettingsError {
                throw CommandError(error.description)
            } catch let error as PipelineError {
                throw CommandError("\(config): \(error.description)")
            }
        }
        let path = UpSettings.storePath(data)
        guard FileManager.default.fileExists(atPath: path) else {
            throw CommandError("there is no message store in '\(data)': name the folder of `mdc up` with --data")
        }
        return .file(path)
    }

    /// Runs `body` with the store.
    func withStore<Value>(_ body: (MessageStore) throws -> Value) throws -> Value {
        let location = try location()
        do {
            let store = try MessageStore(reading: location)
            defer { store.close() }
            return try body(store)
        } catch let error as PipelineError {
            throw CommandError(error.description)
        }
    }
}

/// `mdc message get`: document, status and timeline of one message.
struct MessageGetCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "get",
        abstract: "Shows one message: what was sent, its status, and its timeline."
    )

    @Argument(help: "The id that `mdc send` printed.")
    var id: String
    @OptionGroup var store: StoreOptions
    @OptionGroup var output: OutputOptions

    func run() async throws {
        guard let message = try store.withStore({ try $0.get(id.lowercased()) }) else {
            throw CommandError("message '\(id)' is not known here: `mdc message list` shows those that are")
        }
        try output.print(message) { MessageText.describe(message) }
    }
}

/// `mdc message list`.
struct MessageListCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Lists messages, the newest first."
    )

    /// The store gives pages of this many at most.
    private static let page = 1_000

    @Option(help: "Only this channel: sms, email or push.")
    var channel: String?
    @Option(help: "Only this lane.")
    var lane: String?
    @Option(help: "Only this status; may be given more than once.")
    var status: [String] = []
    @Option(help: "Only messages to this recipient.")
    var to: String?
    @Option(help: "Only messages of this tenant.")
    var tenant: String?
    @Option(help: "Only messages that this provider got.")
    var provider: String?
    @Option(
        help: ArgumentHelp(
            "Only messages of which this is true, such as '{\"code\": {\"$in\": [\"A\", \"B\"]}}' (docs/rest.md).",
            valueName: "json"
        )
    )
    var filter: String?
    @Option(help: ArgumentHelp("At most this many; 0 for all.", valueName: "count"))
    var limit = 50
    @OptionGroup var store: StoreOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard limit >= 0 else { throw ValidationError("--limit is \(limit): it must be at least 0") }
        if let channel, Channel(rawValue: channel) == nil {
            throw ValidationError("--channel '\(channel)' is not one of \(Channel.allCases.names)")
        }
        for name in status where MessageStatus(rawValue: name) == nil {
            throw ValidationError("--status '\(name)' is not one of \(MessageStatus.allCases.names)")
        }
    }

    func run() async throws {
        let condition = try condition()
        let messages = try store.withStore { store in
            var messages: [StoredMessage] = []
            var number = 1
            while true {
                let query = MessageQuery(condition, page: number, pageSize: Self.page)
                let page = try store.find(query)
                messages += page
                if page.count < Self.page || limit > 0 && messages.count >= limit { break }
                number += 1
            }
            return limit > 0 ? Array(messages.prefix(limit)) : messages
        }
        try output.print(messages) { Self.table(messages) }
    }

    /// All that the options ask for must be true.
    private func condition() throws -> MessageCondition? {
        var parts: [MessageCondition] = []
        let texts: [(MessageField, String?)] = [
            (.channel, channel), (.lane, lane), (.to, to), (.tenant, tenant), (.provider, provider),
        ]
        for case (let field, let text?) in texts { parts.append(.compare(field, .equal, .text(text))) }
        if !status.isEmpty { parts.append(.oneOf(.status, status.map { .text($0) })) }
        do {
            if let filter { parts.append(try MessageCondition(filter: filter)) }
        } catch {
            throw CommandError(error.description)
        }
        return parts.isEmpty ? nil : .all(parts)
    }

    private static func table(_ messages: [StoredMessage]) -> String {
        var table = Table([
            .text("ID"), .text("CHANNEL"), .text("LANE"), .text("STATUS"), .number("ATTEMPT"), .text("TO"),
            .text("CREATED"), .text("CODE"),
        ])
        for message in messages {
            table.add([
                message.id, message.channel.rawValue, message.message?.lane ?? "", message.status.rawValue,
                "\(message.attempt)", message.message?.to ?? "",
                message.message.map { MessageText.time($0.createdAt) } ?? "",
                message.code ?? "",
            ])
        }
        return table.rendered()
    }
}

extension Collection where Element: RawRepresentable<String> {
    /// For error messages: `a, b, c`.
    var names: String { map(\.rawValue).joined(separator: ", ") }
}

/// Messages as text for people.
enum MessageText {
    /// Document, status and timeline.
    static func describe(_ stored: StoredMessage) -> String {
        var lines: [(String, String)] = [("id", stored.id), ("channel", stored.channel.rawValue)]
        if let message = stored.message {
            lines += [("lane", message.lane), ("tenant", message.tenant), ("to", message.to)]
            if !message.sender.isEmpty { lines.append(("sender", message.sender)) }
            if let subject = message.content.subject { lines.append(("subject", subject)) }
            if let title = message.content.title { lines.append(("title", title)) }
            lines.append(("text", brief(message.content.text)))
            if let key = message.idempotencyKey { lines.append(("key", key)) }
            lines.append(("created", time(message.createdAt)))
            if let sendAt = message.sendAt { lines.append(("send at", time(sendAt))) }
            if let expiresAt = message.expiresAt { lines.append(("expires", time(expiresAt))) }
        }
        lines.append(("status", status(stored)))
        var text = ""
        for (name, value) in lines {
            text += "  " + name.padding(toLength: 9, withPad: " ", startingAt: 0) + value + "\n"
        }
        if let timeline = stored.timeline, !timeline.isEmpty { text += "  timeline\n" + describe(timeline) }
        return text
    }

    private static func status(_ stored: StoredMessage) -> String {
        var text = "\(stored.status.rawValue) (attempt \(stored.attempt)"
        if let provider = stored.provider { text += ", \(provider)" }
        text += ")"
        if let code = stored.code, stored.status != .delivered { text += " \(code)" }
        return text
    }

    private static func describe(_ timeline: [TimelineEvent]) -> String {
        var table = Table([
            .text("TIME"), .number("AFTER"), .text("COMPONENT"), .text("WHAT"), .number("ATTEMPT"), .text("STATUS"),
            .text("DETAIL"),
        ])
        let start = timeline.first?.at ?? Timestamp(0)
        for event in timeline {
            var details: [String] = []
            if let provider = event.provider { details.append(provider) }
            if let id = event.providerMessageID { details.append(id) }
            if let code = event.code { details.append(code) }
            if let detail = event.detail { details.append(detail) }
            if let route = event.route { details.append("[\(route)]") }
            if let due = event.dueAt {
                details.append(event.kind == .accepted ? "report due by \(clock(due))" : "due \(clock(due))")
            }
            table.add([
                clock(event.at), "+\(event.at - start) ms", event.component, event.kind.rawValue, "\(event.attempt)",
                event.status?.rawValue ?? "", details.joined(separator: " "),
            ])
        }
        return table.rendered().split(separator: "\n").map { "  " + $0 + "\n" }.joined()
    }

    private static func brief(_ text: String) -> String {
        let line = text.split(whereSeparator: \.isNewline).joined(separator: " ")
        return line.count > 100 ? line.prefix(99) + "…" : line
    }

    /// `2026-05-01T10:00:00.123Z`.
    static func time(_ time: Timestamp) -> String {
        Date(timeIntervalSince1970: Double(time.rawValue) / 1_000)
            .formatted(
                .iso8601.year().month().day().time(includingFractionalSeconds: true).timeZone(separator: .omitted)
            )
    }

    private static func clock(_ time: Timestamp) -> String {
        String(self.time(time).drop { $0 != "T" }.dropFirst().prefix(12))
    }
}
