// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCJSON
import MDCModel

extension MessageCondition {
    /// Reads a filter as JSON, such as `{"status": {"$in": ["failed", "expired"]}, "createdAt": {"$gte": 1700000000000}}`.
    ///
    /// Operators: `$eq`, `$ne`, `$gt`, `$gte`, `$lt`, `$lte`, `$in`, `$nin`, `$exists`, `$regex` (with `$options: "i"`) on
    /// fields, `$and` and `$or` on filters.
    ///
    /// - Throws: ``PipelineError`` with code `invalidQuery` that names the field and the fix.
    public init(filter text: String) throws(PipelineError) {
        guard text.utf8.count <= FilterParser.bytesMax else {
            throw PipelineError(.invalidQuery, "filter: is longer than \(FilterParser.bytesMax) bytes; ask in parts")
        }
        guard let value = JSONValue(json: text) else {
            throw PipelineError(
                .invalidQuery,
                "filter: is not JSON; write an object such as {\"status\": \"failed\"}, percent-encoded in an address"
            )
        }
        var parser = FilterParser()
        self = try parser.condition(value, depth: 0)
    }
}

/// Turns the JSON of a filter into a condition. Bounded in depth and size, so that a filter cannot become a burden.
struct FilterParser {
    static let bytesMax = 8 << 10
    private static let depthMax = 8
    private static let termsMax = 64
    private static let listMax = 100
    private static let operators = "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $regex"

    private var terms = 0

    private static func problem(_ words: String) -> PipelineError { PipelineError(.invalidQuery, "filter: \(words)") }

    mutating func condition(_ value: JSONValue, depth: Int) throws(PipelineError) -> MessageCondition {
        guard depth <= Self.depthMax else { throw Self.problem("is nested deeper than \(Self.depthMax) levels") }
        guard case .object(let members) = value else {
            throw Self.problem("write an object such as {\"status\": \"failed\"}, not \(value.kind)")
        }
        var parts: [MessageCondition] = []
        for (name, value) in members.sorted(by: { $0.key < $1.key }) {
            switch name {
            case "$and": parts.append(.all(try list(name, value, depth)))
            case "$or": parts.append(.any(try list(name, value, depth)))
            default: parts += try field(name, value)
            }
            terms += 1
            guard terms <= Self.termsMax else { throw Self.problem("has more than \(Self.termsMax) terms") }
        }
        return parts.count == 1 ? parts[0] : .all(parts)
    }

    private mutating func list(_ name: String, _ value: JSONValue, _ depth: Int) throws(PipelineError)
        -> [MessageCondition]
    {
        guard case .array(let values) = value, !values.isEmpty else {
            throw Self.problem("\(name): write an array of filters, such as {\"\(name)\": [{…}, {…}]}")
        }
        var parts: [MessageCondition] = []
        for value in values { parts.append(try condition(value, depth: depth + 1)) }
        return parts
    }

    private mutating func field(_ name: String, _ value: JSONValue) throws(PipelineError) -> [MessageCondition] {
        guard let field = MessageField(rawValue: name) else {
            let words = name.hasPrefix("$") ? "operator '\(name)'" : "field '\(name)'"
            throw Self.problem("\(words) is not known; there are \(MessageField.allCases.names), $and and $or")
        }
        guard case .object(let members) = value else { return [try Self.equality(field, value)] }
        guard !members.isEmpty else { throw Self.problem("\(name): is empty; use \(Self.operators)") }
        var parts: [MessageCondition] = []
        for (operation, value) in members.sorted(by: { $0.key < $1.key }) where operation != "$options" {
            terms += 1
            parts.append(try Self.term(field, operation, value, options: members["$options"]))
        }
        guard !parts.isEmpty else { throw Self.problem("\(name): $options belongs to a $regex") }
        return parts
    }

    private static func equality(_ field: MessageField, _ value: JSONValue) throws(PipelineError) -> MessageCondition {
        if value == .null { return .exists(field, false) }
        return .compare(field, .equal, try self.value(field, value))
    }

    private static func term(
        _ field: MessageField,
        _ operation: String,
        _ value: JSONValue,
        options: JSONValue?
    ) throws(PipelineError) -> MessageCondition {
        switch operation {
        case "$eq": return try equality(field, value)
        case "$ne":
            return value == .null ? .exists(field, true) : .compare(field, .notEqual, try self.value(field, value))
        case "$gt": return .compare(field, .greater, try self.value(field, value))
        case "$gte": return .compare(field, .greaterOrEqual, try self.value(field, value))
        case "$lt": return .compare(field, .less, try self.value(field, value))
        case "$lte": return .compare(field, .lessOrEqual, try self.value(field, value))
        case "$in": return .oneOf(field, try values(field, operation, value))
        case "$nin": return .noneOf(field, try values(field, operation, value))
        case "$exists":
            guard case .bool(let exists) = value else { throw problem("\(field).$exists: write true or false") }
            return .exists(field, exists)
        case "$regex": return try pattern(field, value, options)
        default: throw problem("\(field): operator '\(operation)' is not known; there are \(operators)")
        }
    }

    private static func values(_ field: MessageField, _ operation: String, _ value: JSONValue) throws(PipelineError)
        -> [MessageCondition.Value]
    {
        guard case .array(let given) = value, given.count <= listMax else {
            throw problem("\(field).\(operation): write an array of at most \(listMax) values")
        }
        var values: [MessageCondition.Value] = []
        for value in given { values.append(try self.value(field, value)) }
        return values
    }

    private static func value(_ field: MessageField, _ value: JSONValue) throws(PipelineError)
        -> MessageCondition.Value
    {
        switch (field.kind, value) {
        case (.text, .text(let text)):
            try checkWord(field, text)
            return .text(text)
        case (.integer, .integer(let number)), (.time, .integer(let number)): return .integer(number)
        case (.time, .text(let text)):
            guard let time = QueryTime.parse(text) else {
                throw problem("\(field): '\(text)' is no time; write 2026-01-31T10:00:00Z or milliseconds since 1970")
            }
            return .integer(time.rawValue)
        case (.text, _): throw problem("\(field): write a text, not \(value.kind)")
        case (.integer, _): throw problem("\(field): write a whole number, not \(value.kind)")
        case (.time, _):
            throw problem("\(field): write 2026-01-31T10:00:00Z or milliseconds since 1970, not \(value.kind)")
        }
    }

    /// A status or channel that does not exist is a slip of the pen, not an empty answer.
    private static func checkWord(_ field: MessageField, _ text: String) throws(PipelineError) {
        if field == .status, MessageStatus(rawValue: text) == nil {
            throw problem("status: '\(text)' is not one of \(MessageStatus.allCases.names)")
        }
        if field == .channel, Channel(rawValue: text) == nil {
            throw problem("channel: '\(text)' is not one of \(Channel.allCases.names)")
        }
    }

    /// The part of regular expressions that costs no more than one pass: `^`, `$`, `.`, `.*`, `\` before a sign, and text.
    private static func pattern(_ field: MessageField, _ value: JSONValue, _ options: JSONValue?) throws(PipelineError)
        -> MessageCondition
    {
        guard field.kind == .text, case .text(let text) = value, text.count <= 200 else {
            throw problem("\(field).$regex: write a text of at most 200 characters, for a field that holds text")
        }
        guard options == nil || options == .text("i") || options == .text("") else {
            throw problem("\(field).$options: only \"i\" is known")
        }
        let ignoresCase = options == .text("i")
        let (anyText, anySign) = ignoresCase ? ("%", "_") : ("*", "?")
        var rest = Substring(text)
        var pattern = ""
        if rest.first == "^" { rest.removeFirst() } else { pattern = anyText }
        var isOpen = true
        guard text.count(where: { $0 == "*" }) <= 8 else { throw problem("\(field).$regex: use .* at most 8 times") }
        while let sign = rest.popFirst() {
            switch sign {
            case "$" where rest.isEmpty: isOpen = false
            case "." where rest.first == "*":
                rest.removeFirst()
                pattern += anyText
            case ".": pattern += anySign
            case "\\":
                guard let next = rest.popFirst(), !next.isLetter, !next.isNumber else {
                    throw problem("\(field).$regex: a backslash stands before a sign such as \\. and nothing else")
                }
                pattern += literal(next, ignoresCase)
            case "*", "+", "?", "[", "]", "(", ")", "{", "}", "|", "^", "$":
                throw problem(
                    "\(field).$regex: '\(sign)' is not offered; there are ^ at the start, $ at the end, . and .*,"
                        + " and a backslash before a sign that means itself"
                )
            default: pattern += literal(sign, ignoresCase)
            }
        }
        return .matches(field, pattern: pattern + (isOpen ? anyText : ""), ignoresCase: ignoresCase)
    }

    private static func literal(_ sign: Character, _ ignoresCase: Bool) -> String {
        if ignoresCase { return sign == "%" || sign == "_" || sign == "\\" ? "\\\(sign)" : String(sign) }
        return sign == "*" || sign == "?" || sign == "[" ? "[\(sign)]" : String(sign)
    }
}

extension Collection where Element: RawRepresentable<String> {
    /// For messages: `a, b, c`.
    var names: String { map(\.rawValue).joined(separator: ", ") }
}

/// Points in time as people write them in queries.
enum QueryTime {
    /// ISO 8601 in UTC or with an offset, or milliseconds since 1970.
    static func parse(_ text: String) -> Timestamp? {
        if let milliseconds = Int64(text) { return Timestamp(milliseconds) }
        let date =
            (try? Date(text, strategy: .iso8601))
            ?? (try? Date(text, strategy: Date.ISO8601FormatStyle(includingFractionalSeconds: true)))
            ?? (try? Date(text + "T00:00:00Z", strategy: .iso8601))
        guard let date, abs(date.timeIntervalSince1970) < 1e11 else { return nil }
        return Timestamp(Int64((date.timeIntervalSince1970 * 1_000).rounded()))
    }

    /// `2026-05-01T10:00:00.123Z`.
    static func text(_ time: Timestamp) -> String {
        Date(timeIntervalSince1970: Double(time.rawValue) / 1_000)
            .formatted(
                .iso8601.year().month().day().time(includingFractionalSeconds: true).timeZone(separator: .omitted)
            )
    }
}
