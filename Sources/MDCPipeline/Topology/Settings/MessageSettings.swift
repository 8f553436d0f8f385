// SPDX-License-Identifier: Apache-2.0

public import TOMLKit

/// `[messages]` of a configuration file: limits and defaults of messages.
public struct MessageSettings: Sendable {
    /// Limits and defaults, but for the lanes.
    public var validation = MessageValidator.Configuration()
    /// How long an idempotency key is remembered.
    public var idempotencyWindow = IdempotencyKeys.defaultWindow

    /// Whether mail domains are looked up before mails are accepted.
    public var mailDomainCheck: MailDomainCheck.Configuration?

    /// The presets.
    public init() {}

    /// Reads the table. - Throws: ``PipelineError`` (`configuration`) that names the key and the fix.
    public init(_ table: TOMLTable) throws(PipelineError) {
        var keys = SettingsTable(table, place: "messages", environment: [:])
        let preset = validation
        idempotencyWindow = try keys.duration("idempotency_window", idempotencyWindow)
        guard idempotencyWindow >= .seconds(60) else {
            throw PipelineError(.configuration, "messages.idempotency_window: write a minute or more, such as \"24h\"")
        }
        validation.contentBytesMax = try keys.number("content_max", preset.contentBytesMax, 1_024...900_000)
        validation.attachmentBytesMax = try keys.number("attachments_max", preset.attachmentBytesMax, 0...700_000)
        validation.segmentsMax = try keys.number("segments_max", preset.segmentsMax, 1...255)
        validation.segmentsWarning = try keys.number("segments_warning", preset.segmentsWarning, 1...255)
        validation.scheduleMaxMilliseconds =
            try keys.duration("schedule_max", .milliseconds(preset.scheduleMaxMilliseconds)).milliseconds
        validation.defaultLifetimeMilliseconds =
            try keys.duration("lifetime", .milliseconds(preset.defaultLifetimeMilliseconds)).milliseconds
        validation.requiresMobile = try keys.flag("mobile_only", preset.requiresMobile)
        validation.requiresShownSenders = try keys.flag("strict_senders", preset.requiresShownSenders)
        let server = try keys.optionalText("mx_server")
        let port = try keys.number("mx_port", 53, 1...65_535)
        if try keys.flag("mx_check", false) { mailDomainCheck = .init(host: server, port: port) }
        if var senders = try keys.optionalTable("sender") {
            for channel in Channel.allCases {
                guard let sender = try senders.optionalText(channel.rawValue) else { continue }
                let problem: String? =
                    switch channel {
                    case .sms: MessageValidator.senderProblem(sender)
                    case .email:
                        switch EmailAddress.parse(sender, allowsName: true) {
                        case .success: nil
                        case .failure(let problem): problem.description
                        }
                    case .push: nil
                    }
                if let problem {
                    throw PipelineError(.configuration, "messages.sender.\(channel.rawValue): \(problem)")
                }
                validation.defaultSenders[channel] = sender
            }
            try senders.finish()
        }
        try keys.finish()
    }
}
