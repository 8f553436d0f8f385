// SPDX-License-Identifier: Apache-2.0

import MDCJSON
import MDCModel
public import NIOCore

/// A document of the centre that can be written to and read from the value of a record.
///
/// The form is the one that `Codable` gives too; this way is some ten times as fast.
public protocol JSONDocument: Sendable {
    /// The document as JSON in UTF-8.
    func json() -> ByteBuffer
    /// Reads a document; unknown members are passed over.
    ///
    /// - Throws: ``PipelineError`` with code `invalidDocument` that says where and why.
    init(json: ByteBuffer) throws(PipelineError)
}

protocol JSONDocumentCoding: JSONDocument {
    func write(to writer: inout JSONWriter)
    init(from cursor: inout JSONCursor) throws
}

extension JSONDocumentCoding {
    /// The document as JSON in UTF-8.
    public func json() -> ByteBuffer {
        var writer = JSONWriter()
        writer.beginObject()
        write(to: &writer)
        writer.endObject()
        return writer.buffer
    }

    /// Reads a document; unknown members are passed over. Throws `PipelineError` (`invalidDocument`).
    public init(json: ByteBuffer) throws(PipelineError) {
        do {
            self = try json.withUnsafeReadableBytes { bytes in
                var cursor = JSONCursor(bytes)
                let value = try Self(from: &cursor)
                try cursor.end()
                return value
            }
        } catch {
            throw PipelineError(.invalidDocument, "\(Self.self): \(error)")
        }
    }
}

/// A member that must be there.
func required<Value>(_ value: Value?, _ name: String) throws -> Value {
    guard let value else { throw JSONCursor.Failure(description: "member '\(name)' is missing") }
    return value
}

/// A member whose text is one of a list.
func choice<Value: RawRepresentable & CaseIterable>(_ cursor: inout JSONCursor, _ name: String) throws -> Value
where Value.RawValue == String {
    let text = try cursor.string()
    guard let value = Value(rawValue: text) else {
        let known = Value.allCases.map(\.rawValue).joined(separator: ", ")
        throw JSONCursor.Failure(description: "'\(name)' is '\(text)'; use one of: \(known)")
    }
    return value
}

extension Message: JSONDocumentCoding {
    func write(to writer: inout JSONWriter) {
        writer.member("id", id)
        writer.member("tenant", tenant)
        writer.member("channel", channel.rawValue)
        writer.member("lane", lane)
        writer.member("to", to)
        writer.member("sender", sender)
        writer.beginObject("content")
        content.write(to: &writer)
        writer.endObject()
        writer.member("template", template)
        writeDetails(to: &writer)
        writer.member("idempotencyKey", idempotencyKey)
        writer.member("sendAt", sendAt)
        writer.member("expiresAt", expiresAt)
        if let retryPolicy {
            writer.beginObject("retryPolicy")
            retryPolicy.write(to: &writer)
            writer.endObject()
        }
        writer.member("feedbackURL", feedbackURL)
        writer.member("createdAt", createdAt)
        writer.member("attempt", Int64(attempt))
    }

    init(from cursor: inout JSONCursor) throws {
        let draft = try MessageDraft(from: &cursor)
        self.init(
            id: try required(draft.id, "id"),
            tenant: draft.tenant ?? "default",
            channel: draft.channel,
            lane: draft.lane ?? "normal",
            to: draft.to,
            sender: draft.sender ?? "",
            content: draft.content,
            template: draft.template,
            templateSource: draft.templateSource,
            category: draft.category,
            timeZone: draft.timeZone,
            idempotencyKey: draft.idempotencyKey,
            sendAt: draft.sendAt,
            expiresAt: draft.expiresAt,
            retryPolicy: draft.retryPolicy,
            feedbackURL: draft.feedbackURL,
            createdAt: try required(draft.createdAt, "createdAt"),
            attempt: draft.attempt ?? 1
        )
    }
}

extension MessageContent {
    func write(to writer: inout JSONWriter) {
        writer.member("subject", subject)
        writer.member("text", text)
        writer.member("html", html)
        writer.member("title", title)
        if let data {
            writer.beginObject("data")
            for (name, value) in data.sorted(by: { $0.key < $1.key }) { writer.member(name, dynamic: value) }
            writer.endObject()
        }
        if let attachments {
            writer.beginArray("attachments")
            for attachment in attachments {
                writer.beginObject()
                writer.member("name", attachment.name)
                writer.member("contentType", attachment.contentType)
                writer.member("data", attachment.data)
                writer.member("contentID", attachment.contentID)
                writer.endObject()
            }
            writer.endArray()
        }
    }

    init(from cursor: inout JSONCursor) throws {
        var content = MessageContent(text: "")
        try cursor.object { name, cursor in
            switch name {
            case "subject": content.subject = try cursor.optionalString()
            case "text": content.text = try cursor.string()
            case "html": content.html = try cursor.optionalString()
            case "title": content.title = try cursor.optionalString()
            case "data":
                if try cursor.null() { return }
                var data: [String: String] = [:]
                try cursor.object { name, cursor in data[name.string] = try cursor.string() }
                content.data = data
            case "attachments": content.attachments = try cursor.null() ? nil : Self.attachments(&cursor)
            default: try cursor.skip()
            }
        }
        self = content
    }
}

extension RetryPolicy {
    func write(to writer: inout JSONWriter) {
        writer.member("attemptsMax", Int64(attemptsMax))
        writer.member("backoffMilliseconds", backoffMilliseconds)
        writer.member("backoffMaxMilliseconds", backoffMaxMilliseconds)
        writer.member("receiptTimeoutMilliseconds", receiptTimeoutMilliseconds)
        writer.member("onReceiptTimeout", onReceiptTimeout.rawValue)
        writer.member("onInDoubt", onInDoubt.rawValue)
    }

    init(from cursor: inout JSONCursor) throws {
        var policy = RetryPolicy()
        try cursor.object { name, cursor in
            switch name {
            case "attemptsMax": policy.attemptsMax = Int(try cursor.integer())
            case "backoffMilliseconds": policy.backoffMilliseconds = try cursor.integer()
            case "backoffMaxMilliseconds": policy.backoffMaxMilliseconds = try cursor.integer()
            case "receiptTimeoutMilliseconds": policy.receiptTimeoutMilliseconds = try cursor.integer()
            case "onReceiptTimeout": policy.onReceiptTimeout = try choice(&cursor, "onReceiptTimeout")
            case "onInDoubt": policy.onInDoubt = try choice(&cursor, "onInDoubt")
            default: try cursor.skip()
            }
        }
        self = policy
    }
}

extension MessageContent {
    fileprivate static func attachments(_ cursor: inout JSONCursor) throws -> [MessageAttachment] {
        var attachments: [MessageAttachment] = []
        try cursor.array { cursor in
            var name: String?
            var contentType: String?
            var data: String?
            var contentID: String?
            try cursor.object { member, cursor in
                switch member {
                case "name": name = try cursor.string()
                case "contentType": contentType = try cursor.string()
                case "data": data = try cursor.string()
                case "contentID": contentID = try cursor.optionalString()
                default: try cursor.skip()
                }
            }
            attachments.append(
                MessageAttachment(
                    name: try required(name, "attachments.name"),
                    contentType: try required(contentType, "attachments.contentType"),
                    data: try required(data, "attachments.data"),
                    contentID: contentID
                )
            )
        }
        return attachments
    }
}

extension TemplateSource {
    func write(to writer: inout JSONWriter) {
        writer.member("version", Int64(version))
        writer.member("locale", locale)
        writer.member("digest", digest)
    }

    init(from cursor: inout JSONCursor) throws {
        var source = TemplateSource(version: 0, locale: "", digest: "")
        try cursor.object { name, cursor in
            switch name {
            case "version": source.version = Int(try cursor.integer())
            case "locale": source.locale = try cursor.string()
            case "digest": source.digest = try cursor.string()
            default: try cursor.skip()
            }
        }
        self = source
    }
}

extension Message {
    fileprivate func writeDetails(to writer: inout JSONWriter) {
        if let templateSource {
            writer.beginObject("templateSource")
            templateSource.write(to: &writer)
            writer.endObject()
        }
        writer.member("category", category)
        writer.member("timeZone", timeZone)
    }
}

extension MessageDraft {
    fileprivate func writeDetails(to writer: inout JSONWriter) {
        writer.member("templateVersion", templateVersion.map(Int64.init))
        writer.member("locale", locale)
        if let variables { writer.member("variables", raw: ByteBuffer(string: encodeJSON(variables))) }
        if let templateSource {
            writer.beginObject("templateSource")
            templateSource.write(to: &writer)
            writer.endObject()
        }
        writer.member("category", category)
        writer.member("timeZone", timeZone)
    }

    /// Reads a member of the draft that says more of its text; false if it is none of those.
    fileprivate mutating func readDetail(_ name: JSONCursor.Name, _ cursor: inout JSONCursor) throws -> Bool {
        switch name {
        case "templateVersion": templateVersion = try cursor.optionalInteger().map(Int.init)
        case "locale": locale = try cursor.optionalString()
        case "variables": variables = try cursor.null() ? nil : Self.variables(&cursor)
        case "templateSource": templateSource = try cursor.null() ? nil : TemplateSource(from: &cursor)
        case "category": category = try cursor.optionalString()
        case "timeZone": timeZone = try cursor.optionalString()
        default: return false
        }
        return true
    }

    private static func variables(_ cursor: inout JSONCursor) throws -> [String: JSONValue] {
        guard case .object(let members)? = JSONValue(json: try cursor.raw()) else {
            throw JSONCursor.Failure(description: "'variables' is not an object")
        }
        return members
    }
}

extension MessageDraft: JSONDocumentCoding {
    func write(to writer: inout JSONWriter) {
        writer.member("id", id)
        writer.member("tenant", tenant)
        writer.member("channel", channel.rawValue)
        writer.member("lane", lane)
        writer.member("to", to)
        writer.member("sender", sender)
        writer.beginObject("content")
        content.write(to: &writer)
        writer.endObject()
        writer.member("template", template)
        writeDetails(to: &writer)
        writer.member("idempotencyKey", idempotencyKey)
        writer.member("sendAt", sendAt)
        writer.member("expiresAt", expiresAt)
        if let retryPolicy {
            writer.beginObject("retryPolicy")
            retryPolicy.write(to: &writer)
            writer.endObject()
        }
        writer.member("feedbackURL", feedbackURL)
        writer.member("createdAt", createdAt)
        writer.member("attempt", attempt.map(Int64.init))
    }

    init(from cursor: inout JSONCursor) throws {
        var draft = MessageDraft(channel: .sms, to: "", content: MessageContent(text: ""))
        var channel: Channel?
        var to: String?
        var content: MessageContent?
        try cursor.object { name, cursor in
            switch name {
            case "id": draft.id = try cursor.optionalString()
            case "tenant": draft.tenant = try cursor.optionalString()
            case "channel": channel = try choice(&cursor, "channel")
            case "lane": draft.lane = try cursor.optionalString()
            case "to": to = try cursor.string()
            case "sender": draft.sender = try cursor.optionalString()
            case "content": content = try MessageContent(from: &cursor)
            case "template": draft.template = try cursor.optionalString()
            case "idempotencyKey": draft.idempotencyKey = try cursor.optionalString()
            case "sendAt": draft.sendAt = try cursor.optionalInteger().map(Timestamp.init)
            case "expiresAt": draft.expiresAt = try cursor.optionalInteger().map(Timestamp.init)
            case "retryPolicy": draft.retryPolicy = try cursor.null() ? nil : RetryPolicy(from: &cursor)
            case "feedbackURL": draft.feedbackURL = try cursor.optionalString()
            case "createdAt": draft.createdAt = try cursor.optionalInteger().map(Timestamp.init)
            case "attempt": draft.attempt = try cursor.optionalInteger().map(Int.init)
            default: if try !draft.readDetail(name, &cursor) { try cursor.skip() }
            }
        }
        draft.channel = try required(channel, "channel")
        draft.to = try required(to, "to")
        // Without content, the template makes it.
        if content == nil, draft.template != nil { draft.variables = draft.variables ?? [:] }
        draft.content =
            try content ?? (draft.variables == nil ? required(content, "content") : MessageContent(text: ""))
        self = draft
    }
}
