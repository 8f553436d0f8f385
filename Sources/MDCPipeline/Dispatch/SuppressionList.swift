// SPDX-License-Identifier: Apache-2.0

import MDCClient
public import MDCModel
import NIOCore
import Synchronization

/// A recipient that must not be written to: a record of the compacted topic `mdc.suppressions`.
public struct Suppression: Sendable, Hashable, Codable {
    /// The channel.
    public var channel: Channel
    /// The recipient, in normal form.
    public var recipient: String
    /// The tenant whose messages are held back; nil: everyone's.
    public var tenant: String?
    /// Such as `unsubscribed`, `bounced`.
    public var reason: String?
    /// When it was added.
    public var at: Timestamp

    /// Makes a value from its parts.
    public init(channel: Channel, recipient: String, tenant: String? = nil, reason: String? = nil, at: Timestamp) {
        self.channel = channel
        self.recipient = recipient
        self.tenant = tenant
        self.reason = reason
        self.at = at
    }

    /// The recipient in the form in which messages carry it.
    ///
    /// - Throws: ``PipelineError`` with code `invalidMessage` if it is none of the channel.
    public static func normalized(_ recipient: String, channel: Channel) throws(PipelineError) -> String {
        switch channel {
        case .sms:
            switch PhoneNumber.parse(recipient) {
            case .success(let number): return number.description
            case .failure(let problem): throw PipelineError(.invalidMessage, "'\(recipient)' \(problem)")
            }
        case .email:
            switch EmailAddress.parse(recipient) {
            case .success(let address): return address.description
            case .failure(let problem): throw PipelineError(.invalidMessage, "'\(recipient)' \(problem)")
            }
        case .push: return recipient
        }
    }

    /// The key of its record. A mailbox is the same in capitals.
    var key: String { Self.key(channel, recipient, tenant: tenant) }

    static func key(_ channel: Channel, _ recipient: String, tenant: String?) -> String {
        "\(channel.rawValue):\(tenant ?? "*"):\(channel == .email ? recipient.lowercased() : recipient)"
    }
}

extension Suppression: JSONDocumentCoding {
    func write(to writer: inout JSONWriter) {
        writer.member("channel", channel.rawValue)
        writer.member("recipient", recipient)
        writer.member("tenant", tenant)
        writer.member("reason", reason)
        writer.member("at", at)
    }

    init(from cursor: inout JSONCursor) throws {
        var channel: Channel?
        var recipient: String?
        var suppression = Suppression(channel: .sms, recipient: "", at: 0)
        try cursor.object { name, cursor in
            switch name {
            case "channel": channel = try choice(&cursor, "channel")
            case "recipient": recipient = try cursor.string()
            case "tenant": suppression.tenant = try cursor.optionalString()
            case "reason": suppression.reason = try cursor.optionalString()
            case "at": suppression.at = Timestamp(try cursor.integer())
            default: try cursor.skip()
            }
        }
        suppression.channel = try required(channel, "channel")
        suppression.recipient = try required(recipient, "recipient")
        self = suppression
    }
}

/// The suppressions as a dispatcher knows them: it follows the topic.
final class SuppressionList: Sendable {
    private let known = Mutex<[String: Suppression]>([:])

    /// Takes over what the topic says.
    func apply(_ records: [ConsumerRecord]) {
        known.withLock { known in
            for record in records {
                guard let key = record.key.map({ String(buffer: $0) }) else { continue }
                known[key] = record.value.flatMap { try? Suppression(json: $0) }
            }
        }
    }

    /// Why a message must not be sent; nil: it may.
    func suppression(of message: Message) -> Suppression? {
        known.withLock { known in
            guard !known.isEmpty else { return nil }
            return known[Suppression.key(message.channel, message.to, tenant: nil)]
                ?? known[Suppression.key(message.channel, message.to, tenant: message.tenant)]
        }
    }
}
