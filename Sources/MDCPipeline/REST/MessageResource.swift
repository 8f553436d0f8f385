// SPDX-License-Identifier: Apache-2.0

import MDCJSON
import MDCModel

/// A message as the HTTP interface shows it: document and status in one object. Members are named as in filters.
struct MessageResource: Encodable, Sendable {
    var id: String
    var channel: Channel
    var status: MessageStatus
    var attempt: Int
    var tenant: String?
    var lane: String?
    var to: String?
    var sender: String?
    var content: MessageContent?
    var subject: String?
    var template: String?
    var templateSource: TemplateSource?
    var category: String?
    var timeZone: String?
    var idempotencyKey: String?
    var provider: String?
    var providerMessageID: String?
    var code: String?
    var detail: String?
    var feedbackURL: String?
    var sendAt: Timestamp?
    var expiresAt: Timestamp?
    var createdAt: Timestamp?
    var updatedAt: Timestamp
    var dueAt: Timestamp?
    var finalAt: Timestamp?
    var cost: Int64?

    /// All members, for projections.
    static let members =
        MessageField.allCases.map(\.rawValue) + ["content", "feedbackURL", "templateSource", "category", "timeZone"]

    init(_ stored: StoredMessage) {
        let message = stored.message
        id = stored.id
        channel = stored.channel
        status = stored.status
        attempt = stored.attempt
        tenant = message?.tenant
        lane = message?.lane
        to = message?.to
        sender = message?.sender
        content = message?.content
        subject = message?.content.subject
        template = message?.template
        templateSource = message?.templateSource
        category = message?.category
        timeZone = message?.timeZone
        idempotencyKey = message?.idempotencyKey
        provider = stored.provider
        providerMessageID = stored.providerMessageID
        code = stored.code
        detail = stored.detail
        feedbackURL = message?.feedbackURL
        sendAt = message?.sendAt
        expiresAt = message?.expiresAt
        createdAt = message?.createdAt
        updatedAt = stored.updatedAt
        dueAt = stored.dueAt
        finalAt = stored.finalAt
        cost = stored.cost
    }
}

/// Which members of messages an answer has.
struct Projection: Sendable, Hashable {
    var members: Set<String>
    var isInclusive: Bool

    /// Reads `id,status`, or `{"content": 0}`, or `{"id": 1, "status": 1}`.
    init(_ text: String) throws(APIProblem) {
        var members: [String: Bool] = [:]
        if text.first == "{" {
            guard case .object(let given)? = JSONValue(json: text) else {
                throw .parameter("keys", "is not JSON; write {\"id\": 1, \"status\": 1} or id,status")
            }
            for (name, value) in given {
                switch value {
                case .integer(1), .bool(true): members[name] = true
                case .integer(0), .bool(false): members[name] = false
                default: throw .parameter("keys", "\(name): write 1 to have it, 0 to leave it out")
                }
            }
        } else {
            for name in text.split(separator: ",") { members[name.trimmed] = true }
        }
        for name in members.keys.sorted() where !MessageResource.members.contains(name) {
            throw .parameter(
                "keys",
                "'\(name)' is not known; there are \(MessageResource.members.joined(separator: ", "))"
            )
        }
        guard let first = members.values.first, members.values.allSatisfy({ $0 == first }) else {
            throw .parameter("keys", "name members to have or members to leave out, not both, and at least one")
        }
        self.members = Set(members.keys)
        isInclusive = first
    }

    func apply(_ resource: MessageResource) -> JSONValue {
        guard case .object(let all) = JSONValue(resource) else { return .null }
        return .object(all.filter { members.contains($0.key) == isInclusive })
    }
}

extension Substring {
    var trimmed: String {
        var text = drop { $0 == " " }
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}

extension MessageQuery {
    /// Reads `sort`: `-createdAt,lane`, or `{"createdAt": -1}` with one member.
    static func order(_ text: String) throws(APIProblem) -> [Order] {
        var steps: [(name: String, descending: Bool)] = []
        if text.first == "{" {
            guard case .object(let given)? = JSONValue(json: text), given.count == 1, let (name, value) = given.first,
                value == .integer(1) || value == .integer(-1)
            else {
                throw .parameter("sort", "write {\"createdAt\": -1}, with one member, or -createdAt,lane for several")
            }
            steps.append((name, value == .integer(-1)))
        } else {
            for part in text.split(separator: ",").map(\.trimmed) {
                let isDescending = part.first == "-"
                steps.append((String(part.drop { $0 == "-" || $0 == "+" }), isDescending))
            }
        }
        guard (1...4).contains(steps.count) else { throw .parameter("sort", "name one to four fields") }
        var order: [Order] = []
        for (name, isDescending) in steps {
            guard let field = MessageField(rawValue: name) else {
                throw .parameter("sort", "field '\(name)' is not known; there are \(MessageField.allCases.names)")
            }
            order.append(Order(field, descending: isDescending))
        }
        return order
    }
}
