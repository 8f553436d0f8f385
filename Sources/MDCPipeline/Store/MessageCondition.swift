// SPDX-License-Identifier: Apache-2.0

import GRDB

/// A field of a stored message that can be asked for. Nothing else ever becomes part of a statement's text.
public enum MessageField: String, Sendable, Hashable, CaseIterable {
    case id, channel, tenant, lane, status, attempt, to, sender, subject, template, idempotencyKey, provider
    case providerMessageID, code, detail, sendAt, expiresAt, createdAt, updatedAt, dueAt, finalAt

    enum Kind { case text, integer, time }

    var kind: Kind {
        switch self {
        case .attempt: .integer
        case .sendAt, .expiresAt, .createdAt, .updatedAt, .dueAt, .finalAt: .time
        default: .text
        }
    }

    /// The column, or the place in the document.
    var sql: String {
        switch self {
        case .to: "recipient"
        case .idempotencyKey: "idempotency_key"
        case .providerMessageID: "provider_message_id"
        case .createdAt: "created_at"
        case .updatedAt: "updated_at"
        case .dueAt: "due_at"
        case .finalAt: "final_at"
        case .subject: "json_extract(document, '$.content.subject')"
        case .template: "json_extract(document, '$.template')"
        case .sendAt: "json_extract(document, '$.sendAt')"
        case .expiresAt: "json_extract(document, '$.expiresAt')"
        case .id, .channel, .tenant, .lane, .status, .attempt, .sender, .provider, .code, .detail: rawValue
        }
    }
}

/// What is asked of messages: a tree over declared fields, turned into SQL whose values are all parameters.
public indirect enum MessageCondition: Sendable, Hashable {
    /// A value to compare with.
    public enum Value: Sendable, Hashable {
        case text(String)
        case integer(Int64)

        fileprivate var database: any DatabaseValueConvertible {
            switch self {
            case .text(let text): text
            case .integer(let number): number
            }
        }
    }

    /// How to compare.
    public enum Comparison: String, Sendable, Hashable {
        case equal = "="
        case notEqual = "IS NOT"
        case less = "<"
        case lessOrEqual = "<="
        case greater = ">"
        case greaterOrEqual = ">="
    }

    case compare(MessageField, Comparison, Value)
    case oneOf(MessageField, [Value])
    /// Not one of these; a field without a value counts.
    case noneOf(MessageField, [Value])
    case exists(MessageField, Bool)
    /// A GLOB pattern, or a LIKE pattern (with `\` as escape) where case does not count.
    case matches(MessageField, pattern: String, ignoresCase: Bool)
    case all([MessageCondition])
    case any([MessageCondition])

    /// The text of the condition; its values are appended to the arguments.
    func sql(_ arguments: inout StatementArguments) -> String {
        switch self {
        case .compare(let field, let comparison, let value):
            arguments += [value.database]
            return "\(field.sql) \(comparison.rawValue) ?"
        case .oneOf(let field, let values):
            guard !values.isEmpty else { return "0" }
            return "\(field.sql) IN (\(Self.list(values, &arguments)))"
        case .noneOf(let field, let values):
            guard !values.isEmpty else { return "1" }
            return "(\(field.sql) IS NULL OR \(field.sql) NOT IN (\(Self.list(values, &arguments))))"
        case .exists(let field, let exists):
            return "\(field.sql) IS \(exists ? "NOT NULL" : "NULL")"
        case .matches(let field, let pattern, let ignoresCase):
            arguments += [pattern]
            return ignoresCase ? "\(field.sql) LIKE ? ESCAPE '\\'" : "\(field.sql) GLOB ?"
        case .all(let parts): return Self.join(parts, "AND", empty: "1", &arguments)
        case .any(let parts): return Self.join(parts, "OR", empty: "0", &arguments)
        }
    }

    private static func list(_ values: [Value], _ arguments: inout StatementArguments) -> String {
        for value in values { arguments += [value.database] }
        return values.map { _ in "?" }.joined(separator: ", ")
    }

    private static func join(
        _ parts: [MessageCondition],
        _ word: String,
        empty: String,
        _ arguments: inout StatementArguments
    ) -> String {
        var terms: [String] = []
        for part in parts { terms.append(part.sql(&arguments)) }
        return terms.isEmpty ? empty : "(" + terms.joined(separator: " \(word) ") + ")"
    }

    /// The channel that every message of the answer has; nil if there may be several. It decides which collection is read.
    var channel: Channel? {
        switch self {
        case .compare(.channel, .equal, .text(let name)): Channel(rawValue: name)
        case .all(let parts): parts.lazy.compactMap(\.channel).first
        default: nil
        }
    }
}
