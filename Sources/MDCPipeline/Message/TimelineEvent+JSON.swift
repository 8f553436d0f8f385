// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

extension TimelineEvent: JSONDocumentCoding {
    func write(to writer: inout JSONWriter) {
        writeHead(to: &writer)
        if let message {
            writer.beginObject("message")
            message.write(to: &writer)
            writer.endObject()
        }
    }

    /// The event as JSON, with a message that is JSON already.
    func json(message: ByteBuffer) -> ByteBuffer {
        var writer = JSONWriter(capacity: 256 + message.readableBytes)
        writer.beginObject()
        writeHead(to: &writer)
        writer.member("message", raw: message)
        writer.endObject()
        return writer.buffer
    }

    private func writeHead(to writer: inout JSONWriter) {
        writer.member("messageID", messageID)
        writer.member("channel", channel.rawValue)
        writer.member("at", at)
        writer.member("component", component)
        writer.member("kind", kind.rawValue)
        writer.member("attempt", Int64(attempt))
        writer.member("status", status?.rawValue)
        writer.member("leadsTo", leadsTo?.rawValue)
        writer.member("provider", provider)
        writer.member("providerMessageID", providerMessageID)
        writer.member("code", code)
        writer.member("detail", detail)
        writer.member("route", route)
        writer.member("dueAt", dueAt)
        if let cost { writer.member("cost", cost) }
    }

    init(from cursor: inout JSONCursor) throws {
        var event = TimelineEvent(messageID: "", channel: .sms, at: 0, component: "", kind: .submitted)
        var messageID: String?
        var channel: Channel?
        var kind: Kind?
        try cursor.object { name, cursor in
            switch name {
            case "messageID": messageID = try cursor.string()
            case "channel": channel = try choice(&cursor, "channel")
            case "at": event.at = Timestamp(try cursor.integer())
            case "component": event.component = try cursor.string()
            case "kind": kind = try choice(&cursor, "kind")
            case "attempt": event.attempt = Int(try cursor.integer())
            case "status": event.status = try cursor.null() ? nil : choice(&cursor, "status")
            case "leadsTo": event.leadsTo = try cursor.null() ? nil : choice(&cursor, "leadsTo")
            case "provider": event.provider = try cursor.optionalString()
            case "providerMessageID": event.providerMessageID = try cursor.optionalString()
            case "code": event.code = try cursor.optionalString()
            case "detail": event.detail = try cursor.optionalString()
            case "route": event.route = try cursor.optionalString()
            case "dueAt": event.dueAt = try cursor.optionalInteger().map(Timestamp.init)
            case "cost": event.cost = try cursor.optionalInteger()
            case "message": event.message = try cursor.null() ? nil : Message(from: &cursor)
            default: try cursor.skip()
            }
        }
        event.messageID = try required(messageID, "messageID")
        event.channel = try required(channel, "channel")
        event.kind = try required(kind, "kind")
        self = event
    }
}

extension ProviderReceipt: JSONDocumentCoding {
    func write(to writer: inout JSONWriter) {
        writer.member("provider", provider)
        writer.member("channel", channel.rawValue)
        writer.member("providerMessageID", providerMessageID)
        writer.member("status", status.rawValue)
        writer.member("code", code)
        writer.member("reason", reason)
        writer.member("at", at)
        writer.member("reference", reference)
    }

    init(from cursor: inout JSONCursor) throws {
        var receipt = ProviderReceipt(provider: "", channel: .sms, providerMessageID: "", status: .other, at: 0)
        var channel: Channel?
        var status: Status?
        try cursor.object { name, cursor in
            switch name {
            case "provider": receipt.provider = try cursor.string()
            case "channel": channel = try choice(&cursor, "channel")
            case "providerMessageID": receipt.providerMessageID = try cursor.string()
            case "status": status = try choice(&cursor, "status")
            case "code": receipt.code = try cursor.optionalString()
            case "reason": receipt.reason = try cursor.optionalString()
            case "at": receipt.at = Timestamp(try cursor.integer())
            case "reference": receipt.reference = try cursor.optionalString()
            default: try cursor.skip()
            }
        }
        receipt.channel = try required(channel, "channel")
        receipt.status = try required(status, "status")
        self = receipt
    }
}
