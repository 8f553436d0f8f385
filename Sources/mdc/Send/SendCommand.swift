// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCClient
import MDCJSON
import MDCModel
import MDCPipeline

/// `mdc send`: one message by options, or the messages of a file.
struct SendCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "send",
        abstract: "Sends one message, or the messages of a CSV or JSON Lines file.",
        discussion: """
            A message counts as sent to the centre, and its id is printed, once it is durable in its lane; `mdc message \
            get ID` shows what became of it. Rows of a file that are no valid messages are reported with their line, \
            the others are sent; the command then exits with 1. Warnings go to standard error.
            """
    )

    @Option(help: "The channel: sms, email or push.")
    var channel: String?
    @Option(help: "The recipient: a phone number (+4915112345678), a mail address or a device token.")
    var to: String?
    @Option(help: "What the recipient reads.")
    var text: String?
    @Option(help: "The lane: critical, high, normal or bulk, unless the centre has others.")
    var lane: String?
    @Option(help: "The originator that is shown.")
    var sender: String?
    @Option(help: "Mail: the subject.")
    var subject: String?
    @Option(help: "Mail: the text as HTML, beside the plain text.")
    var html: String?
    @Option(help: "Push: the title.")
    var title: String?
    @Option(help: ArgumentHelp("Push: a value for the app; may be given more than once.", valueName: "name=value"))
    var value: [KeyValueArgument] = []
    @Option(help: "The template that the text is made of (`mdc template list`).")
    var template: String?
    @Option(help: "The recipient's language, for the variant of the template, such as de-AT.")
    var locale: String?
    @Option(
        help: ArgumentHelp("A variable of the template; may be given more than once.", valueName: "name=value")
    )
    var variable: [KeyValueArgument] = []
    @Option(help: ArgumentHelp("All variables of the template, as a JSON object.", valueName: "json"))
    var variables: String?
    @Option(help: "What kind of message it is, such as marketing.")
    var category: String?
    @Option(help: "The recipient's time zone, such as Europe/Vienna.")
    var timeZone: String?
    @Option(
        help: ArgumentHelp(
            "Mail: a file that comes with it; may be given more than once. After a colon: its media type.",
            valueName: "path[:type]"
        )
    )
    var attach: [String] = []
    @Option(help: "The client of the centre that the message belongs to.")
    var tenant: String?
    @Option(help: "Two messages of a tenant with the same key are one.")
    var key: String?
    @Option(help: ArgumentHelp("Not before: +30s, +5m, +2h from now.", valueName: "time"))
    var sendAfter: String?
    @Option(help: ArgumentHelp("Not after: +30s, +5m, +2h from now.", valueName: "time"))
    var expireAfter: String?
    @Option(help: ArgumentHelp("A CSV or JSON Lines file of messages.", valueName: "file"))
    var file: String?
    @Option(help: ArgumentHelp("The file that `mdc up` was given, if it changes the lanes.", valueName: "file"))
    var config: String?
    @OptionGroup var connection: ConnectionOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if file != nil {
            guard channel == nil, to == nil, text == nil, template == nil else {
                throw ValidationError("--file brings the messages: leave out --channel, --to, --text and --template")
            }
            return
        }
        guard let channel, to != nil, (text != nil) != (template != nil) else {
            throw ValidationError("say what to send: --channel, --to and either --text or --template, or --file")
        }
        if template != nil {
            guard subject == nil, html == nil, title == nil, value.isEmpty else {
                throw ValidationError("--template brings the texts: leave out --subject, --html, --title and --value")
            }
        } else if locale != nil || variables != nil || !variable.isEmpty {
            throw ValidationError("--locale, --variable and --variables belong to --template")
        }
        guard Channel(rawValue: channel) != nil else {
            throw ValidationError("--channel '\(channel)' is not one of \(Channel.allCases.names)")
        }
        for (name, value) in [("--send-after", sendAfter), ("--expire-after", expireAfter)] {
            if let value, Self.milliseconds(value) == nil {
                throw ValidationError("\(name) '\(value)' is no length of time; use 30s, 5m, 2h or 1d")
            }
        }
    }

    func run() async throws {
        var settings = UpSettings.standard
        do {
            if let config { try settings.apply(path: config) }
        } catch let error as UpSettingsError {
            throw CommandError(error.description)
        }
        do {
            try await connection.withAdmin { admin in
                // A broker that makes topics by itself would make them with the wrong number of partitions.
                guard try await admin.listTopics().contains(Topics.events) else {
                    throw CommandError("no message centre works at \(connection.bootstrap): start one with `mdc up`")
                }
            }
            let validator = MessageValidator(settings.validation)
            if let file {
                try await withClient(validator, settings.messages) { client, _ in
                    try await send(file: file, client, settings.policies)
                }
            } else {
                try await withClient(validator, settings.messages) { client, _ in try await sendOne(client) }
            }
        } catch let error as PipelineError {
            throw CommandError(error.description)
        } catch let error as ClientError {
            throw CommandError(error, bootstrap: connection.bootstrap)
        }
    }

    private func withClient(
        _ validator: MessageValidator,
        _ settings: MessageSettings,
        _ body: (MessageClient, Producer) async throws -> Void
    ) async throws {
        let producer = try Producer(
            ProducerConfiguration(client: connection.client),
            eventLoopGroup: connection.eventLoopGroup,
            logger: connection.logger
        )
        let keys = IdempotencyKeys(
            client: connection.client,
            window: settings.idempotencyWindow,
            eventLoopGroup: connection.eventLoopGroup,
            logger: connection.logger
        )
        let templates = TemplateBook(
            client: connection.client,
            producer: producer,
            eventLoopGroup: connection.eventLoopGroup,
            logger: connection.logger
        )
        do {
            let client = MessageClient(
                producer: producer,
                validator: validator,
                keys: keys,
                templates: templates,
                mailDomains: settings.mailDomainCheck.map {
                    MailDomainCheck($0, group: connection.eventLoopGroup, logger: connection.logger)
                },
                logger: connection.logger
            )
            try await body(client, producer)
        } catch {
            await keys.close()
            await templates.close()
            try? await producer.close()
            throw error
        }
        await keys.close()
        await templates.close()
        try await producer.close()
    }

    private static func milliseconds(_ text: String) -> Int64? {
        LengthOfTime.milliseconds(text.hasPrefix("+") ? String(text.dropFirst()) : text)
    }

    // MARK: - One message

    private func sendOne(_ client: MessageClient) async throws {
        guard let channel = channel.flatMap(Channel.init), let to else { return }
        let now = Timestamp(Int64(Date().timeIntervalSince1970 * 1_000))
        var content = MessageContent(subject: subject, text: text ?? "", html: html, title: title)
        if !value.isEmpty {
            content.data = Dictionary(value.map { ($0.key, $0.value) }, uniquingKeysWith: { _, last in last })
        }
        if !attach.isEmpty { content.attachments = try attach.map(Self.attachment) }
        let receipt = try await client.submit(
            MessageDraft(
                tenant: tenant,
                channel: channel,
                lane: lane,
                to: to,
                sender: sender,
                content: content,
                template: template,
                locale: locale,
                variables: template == nil ? nil : try templateVariables(),
                category: category,
                timeZone: timeZone,
                idempotencyKey: key,
                sendAt: sendAfter.flatMap(Self.milliseconds).map { now + $0 },
                expiresAt: expireAfter.flatMap(Self.milliseconds).map { now + $0 }
            )
        )
        for warning in receipt.warnings { StandardOutput.note("warning: \(warning)") }
        try output.print(receipt) { receipt.messageID + "\n" }
    }

    private func templateVariables() throws -> [String: JSONValue] {
        var all: [String: JSONValue] = [:]
        if let variables {
            guard case .object(let members)? = JSONValue(json: variables) else {
                throw CommandError("--variables is no JSON object; write '{\"name\": \"Ada\"}'")
            }
            all = members
        }
        for one in variable { all[one.key] = .text(one.value) }
        return all
    }

    /// `path` or `path:type`.
    private static func attachment(_ text: String) throws -> MessageAttachment {
        var path = text
        var type = "application/octet-stream"
        if let colon = text.lastIndex(of: ":"), text[colon...].contains("/"), !text[colon...].dropFirst().hasPrefix("/")
        {
            path = String(text[..<colon])
            type = String(text[text.index(after: colon)...])
        }
        guard let bytes = FileManager.default.contents(atPath: path) else {
            throw CommandError("cannot read '\(path)'; does it exist, and may it be read?")
        }
        let name = path.split(separator: "/").last.map(String.init) ?? path
        return MessageAttachment(name: name, contentType: type, data: bytes.base64EncodedString())
    }

    // MARK: - A file

    /// What became of one row, as it is printed.
    private struct RowResult: Encodable {
        var line: Int
        var id: String?
        var lane: String?
        var isDuplicate: Bool?
        var warnings: [ValidationIssue]?
        var error: String?
    }

    private struct Tally {
        var rows = 0
        var accepted = 0
        var invalid = 0
    }

    private func send(file: String, _ client: MessageClient, _ policies: [Channel: RetryPolicy]) async throws {
        let now = Timestamp(Int64(Date().timeIntervalSince1970 * 1_000))
        let size = (try? FileManager.default.attributesOfItem(atPath: file)[.size] as? Int) ?? nil
        let meter = ProgressMeter()
        var tally = Tally()
        var chunk: [(line: Int, draft: MessageDraft)] = []
        for row in try MessageFile.read(path: file, now: now, policies: policies) {
            tally.rows += 1
            switch row.result {
            case .failure(let problem): try report(row.line, error: problem.description, &tally)
            case .success(let draft): chunk.append((row.line, draft))
            }
            if chunk.count == 500 {
                try await submit(&chunk, client, &tally)
                meter.show(done: tally.rows, of: nil, "rows read", isLast: false)
            }
        }
        try await submit(&chunk, client, &tally)
        meter.show(
            done: tally.rows,
            of: tally.rows,
            "rows of \(size.map { "\($0 / 1_024) KiB" } ?? file)",
            isLast: true
        )
        if !output.isJSON {
            StandardOutput.note("\(tally.rows) rows = \(tally.accepted) accepted + \(tally.invalid) invalid")
        }
        if tally.invalid > 0 { throw ExitCode(1) }
    }

    private func submit(
        _ chunk: inout [(line: Int, draft: MessageDraft)],
        _ client: MessageClient,
        _ tally: inout Tally
    ) async throws {
        guard !chunk.isEmpty else { return }
        let results = await client.submit(chunk.map(\.draft))
        for (item, result) in zip(chunk, results) {
            switch result {
            case .success(let receipt):
                tally.accepted += 1
                for warning in receipt.warnings { StandardOutput.note("line \(item.line): warning: \(warning)") }
                if output.isJSON {
                    let row = RowResult(
                        line: item.line,
                        id: receipt.messageID,
                        lane: receipt.lane,
                        isDuplicate: receipt.isDuplicate,
                        warnings: receipt.warnings
                    )
                    StandardOutput.write(try JSONOutput.line(row))
                } else {
                    StandardOutput.write("\(item.line)\t\(receipt.messageID)\n")
                }
            case .failure(let error) where error.code == .invalidMessage || error.code == .conflict:
                try report(item.line, error: error.message, &tally)
            case .failure(let error): throw error
            }
        }
        chunk.removeAll(keepingCapacity: true)
    }

    private func report(_ line: Int, error: String, _ tally: inout Tally) throws {
        tally.invalid += 1
        if output.isJSON { StandardOutput.write(try JSONOutput.line(RowResult(line: line, error: error))) }
        StandardOutput.note("line \(line): \(error)")
    }
}
