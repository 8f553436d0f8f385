// SPDX-License-Identifier: Apache-2.0

/// A field of a stored message that can be asked for. Nothing else ever becomes part of a statement's text.
public enum MessageField: String, Sendable, Hashable, CaseIterable {
    case id, channel, tenant, lane, status, attempt, to, sender, subject, template, idempotencyKey, provider
    case providerMessageID, code, detail, sendAt, expiresAt, createdAt, updatedAt, dueAt, finalAt
    /// What its attempts have cost, in millionths.
    case cost

    enum Kind { case text, integer, time }

    var kind: Kind {
        switch self {
        case .attempt, .cost: .integer
        case .sendAt, .expiresAt, .createdAt, .updatedAt, .dueAt, .finalAt: .time
        default: .text
        }
    }

    /// The column, or the place in the document.
    func sql(_ dialect: SQLDialect) -> String {
        switch self {
        case .to: "recipient"
        case .idempotencyKey: "idempotency_key"
        case .providerMessageID: "provider_message_id"
        case .createdAt: "created_at"
        case .updatedAt: "updated_at"
        case .dueAt: "due_at"
        case .finalAt: "final_at"
        case .subject: dialect.document(text: ["content", "subject"])
        case .template: dialect.document(text: ["template"])
        case .sendAt: dialect.document(integer: ["sendAt"])
        case .expiresAt: dialect.document(integer: ["expiresAt"])
        case .id, .channel, .tenant, .lane, .status, .attempt, .sender, .provider, .code, .detail, .cost:
            rawValue
        }
    }
}

/// What is asked of messages: a tree over declared fields, turned into SQL whose values are all parameters.
public indirect enum MessageCondition: Sendable, Hashable {
    /// A value to compare with.
    public enum Value: Sendable, Hashable {
        case text(String)
        case integer(Int64)

        fileprivate var sql: SQLValue {
            switch self {
            case .text(let text): .text(text)
            case .integer(let number): .integer(number)
            }
        }
    }

    /// How to compare.
    public enum Comparison: String, Sendable, Hashable {
        case equal = "="
        /// A field without a value counts.
        case notEqual = "<>"
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

    /// The text of the condition; its values become the statement's.
    func sql(_ statement: inout SQLStatement) -> String {
        let dialect = statement.dialect
        switch self {
        case .compare(let field, let comparison, let value):
            let word = comparison == .notEqual ? dialect.isDistinct : comparison.rawValue
            return "\(field.sql(dialect)) \(word) \(statement.bind(value.sql))"
        case .oneOf(let field, let values):
            guard !values.isEmpty else { return "FALSE" }
            return "\(field.sql(dialect)) IN (\(Self.list(values, &statement)))"
        case .noneOf(let field, let values):
            guard !values.isEmpty else { return "TRUE" }
            let column = field.sql(dialect)
            return "(\(column) IS NULL OR \(column) NOT IN (\(Self.list(values, &statement))))"
        case .exists(let field, let exists):
            return "\(field.sql(dialect)) IS \(exists ? "NOT NULL" : "NULL")"
        case .matches(let field, let pattern, let ignoresCase):
            return dialect.match(field.sql(dialect), pattern, ignoresCase: ignoresCase, &statement)
        case .all(let parts): return Self.join(parts, "AND", empty: "TRUE", &statement)
        case .any(let parts): return Self.join(parts, "OR", empty: "FALSE", &statement)
        }
    }

    private static func list(_ values: [Value], _ statement: inout SQLStatement) -> String {
        var marks: [String] = []
        for value in values { marks.append(statement.bind(value.sql)) }
        return marks.joined(separator: ", ")
    }

    private static func join(
        _ parts: [MessageCondition],
        _ word: String,
        empty: String,
        _ statement: inout SQLStatement
    ) -> String {
        var terms: [String] = []
        for part in parts { terms.append(part.sql(&statement)) }
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
