// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// Takes the body of a submission apart: one message, or many of which each has an answer of its own.
struct SubmissionReader {
    /// What was sent.
    struct Submission: Sendable {
        var items: [Result<MessageDraft, APIProblem>]
        var isBulk: Bool
    }

    static let itemsMax = 1_000
    private static let members: Set<String> = [
        "tenant", "channel", "lane", "to", "sender", "content", "template", "templateVersion", "locale", "variables",
        "category", "timeZone", "idempotencyKey", "sendAt", "expiresAt",
        "retryPolicy", "feedbackURL",
    ]
    private static let contentMembers: Set<String> = ["subject", "text", "html", "title", "data", "attachments"]
    private static let attachmentMembers: Set<String> = ["name", "contentType", "data", "contentID"]

    /// The key of the caller decides the tenant.
    let key: APIKey
    /// The header `Idempotency-Key`.
    let idempotencyKey: String?

    func read(_ body: ByteBuffer) throws(APIProblem) -> Submission {
        let parts: (items: [ByteBuffer], isBulk: Bool)
        do {
            parts = try Self.split(body)
        } catch let problem as APIProblem {
            throw problem
        } catch {
            throw APIProblem(400, "Not understood", "the body: \(error)")
        }
        guard !parts.items.isEmpty else {
            throw APIProblem(400, "Not understood", "the body has no messages; send at least one")
        }
        var items: [Result<MessageDraft, APIProblem>] = []
        items.reserveCapacity(parts.items.count)
        for (index, item) in parts.items.enumerated() { items.append(draft(item, parts.isBulk ? index : nil)) }
        return Submission(items: items, isBulk: parts.isBulk)
    }

    private func draft(_ json: ByteBuffer, _ index: Int?) -> Result<MessageDraft, APIProblem> {
        do {
            try Self.checkMembers(json)
            var draft = try MessageDraft(json: json)
            if let tenant = draft.tenant ?? key.tenant, !key.covers(tenant) {
                throw Self.invalid("tenant", "this API key acts for '\(key.tenant ?? "")'; leave the tenant out")
            }
            draft.tenant = draft.tenant ?? key.tenant
            if let idempotencyKey {
                guard draft.idempotencyKey == nil else {
                    throw Self.invalid(
                        "idempotencyKey",
                        "stands in the message and in the header Idempotency-Key; use one of them"
                    )
                }
                draft.idempotencyKey = index.map { "\(idempotencyKey):\($0)" } ?? idempotencyKey
            }
            return .success(draft)
        } catch let problem as APIProblem {
            return .failure(problem)
        } catch let error as PipelineError {
            return .failure(APIProblem(error))
        } catch {
            return .failure(APIProblem(400, "Not understood", "\(error)"))
        }
    }

    private static func invalid(_ field: String, _ message: String) -> APIProblem {
        APIProblem(
            422,
            "The message cannot be sent",
            "\(field): \(message)",
            errors: [.init(field: field, message: message)]
        )
    }

    /// A misspelt member would otherwise be passed over, and the message sent without what it says.
    private static func checkMembers(_ json: ByteBuffer) throws {
        try json.withUnsafeReadableBytes { bytes in
            var cursor = JSONCursor(bytes)
            try cursor.object { name, cursor in
                let name = name.string
                guard members.contains(name) else {
                    throw invalid(name, "is not known; there are \(members.sorted().joined(separator: ", "))")
                }
                guard name == "content" else { return try cursor.skip() }
                try cursor.object { name, cursor in
                    let name = name.string
                    guard contentMembers.contains(name) else {
                        throw invalid(
                            "content.\(name)",
                            "is not known; there are \(contentMembers.sorted().joined(separator: ", "))"
                        )
                    }
                    guard name == "attachments", try !cursor.null() else { return try cursor.skip() }
                    var index = 0
                    try cursor.array { cursor in
                        try checkAttachment(&cursor, index)
                        index += 1
                    }
                }
            }
        }
    }

    private static func checkAttachment(_ cursor: inout JSONCursor, _ index: Int) throws {
        try cursor.object { name, cursor in
            let name = name.string
            guard attachmentMembers.contains(name) else {
                throw invalid(
                    "content.attachments.\(index).\(name)",
                    "is not known; there are \(attachmentMembers.sorted().joined(separator: ", "))"
                )
            }
            try cursor.skip()
        }
    }

    private static func split(_ body: ByteBuffer) throws -> (items: [ByteBuffer], isBulk: Bool) {
        let first = body.readableBytesView.first { ![0x20, 0x0A, 0x0D, 0x09].contains($0) }
        return try body.withUnsafeReadableBytes { bytes in
            var items: [ByteBuffer] = []
            func take(_ cursor: inout JSONCursor) throws {
                let start = cursor.position
                try cursor.skip()
                guard items.count < itemsMax else {
                    throw APIProblem(413, "Too much", "send at most \(itemsMax) messages in one request")
                }
                items.append(ByteBuffer(bytes: bytes[start..<cursor.position]))
            }
            var cursor = JSONCursor(bytes)
            if first == UInt8(ascii: "[") {
                try cursor.array { try take(&$0) }
                try cursor.end()
                return (items, true)
            }
            var isBulk = false
            try cursor.object { name, cursor in
                if name.string == "messages" {
                    isBulk = true
                    try cursor.array { try take(&$0) }
                } else if isBulk {
                    throw APIProblem(400, "Not understood", "'\(name.string)' stands beside messages; leave it out")
                } else {
                    try cursor.skip()
                }
            }
            try cursor.end()
            return isBulk ? (items, true) : ([body], false)
        }
    }
}
