// SPDX-License-Identifier: Apache-2.0

/// Where the SQL of the engines differs. All else is written so that both understand it.
enum SQLDialect: Sendable {
    case sqlite
    case postgreSQL

    /// A text member of the document.
    func document(text path: [String]) -> String {
        switch self {
        case .sqlite: "json_extract(document, '$.\(path.joined(separator: "."))')"
        // As bytes, like every other column: the order of a listing does not depend on the server's language.
        case .postgreSQL: "((document #>> '{\(path.joined(separator: ","))}') COLLATE \"C\")"
        }
    }

    /// A whole-number member of the document.
    func document(integer path: [String]) -> String {
        switch self {
        case .sqlite: document(text: path)
        case .postgreSQL: "((document #>> '{\(path.joined(separator: ","))}')::bigint)"
        }
    }

    /// Unequal, where no value is unequal to any value.
    var isDistinct: String { self == .sqlite ? "IS NOT" : "IS DISTINCT FROM" }

    /// One step of an order; what has no value counts as the least.
    func order(_ column: String, descending: Bool) -> String {
        switch self {
        case .sqlite: "\(column) \(descending ? "DESC" : "ASC")"
        case .postgreSQL: "\(column) \(descending ? "DESC NULLS LAST" : "ASC NULLS FIRST")"
        }
    }

    /// Compares with a pattern as ``MessageCondition/matches(_:pattern:ignoresCase:)`` has it.
    func match(_ column: String, _ pattern: String, ignoresCase: Bool, _ statement: inout SQLStatement) -> String {
        switch (self, ignoresCase) {
        case (.sqlite, true): "\(column) LIKE \(statement.bind(pattern)) ESCAPE '\\'"
        case (.sqlite, false): "\(column) GLOB \(statement.bind(pattern))"
        case (.postgreSQL, true): "\(column) ILIKE \(statement.bind(pattern)) ESCAPE '\\'"
        case (.postgreSQL, false): "\(column) LIKE \(statement.bind(Self.likePattern(glob: pattern))) ESCAPE '\\'"
        }
    }

    /// The LIKE pattern that means what a GLOB pattern with `*`, `?` and `[x]` means.
    static func likePattern(glob: String) -> String {
        var rest = Substring(glob)
        var pattern = ""
        func literal(_ sign: Character) -> String { "%_\\".contains(sign) ? "\\\(sign)" : String(sign) }
        while let sign = rest.popFirst() {
            switch sign {
            case "*": pattern += "%"
            case "?": pattern += "_"
            case "[":
                if let inner = rest.popFirst() { pattern += literal(inner) }
                if rest.first == "]" { rest.removeFirst() }
            default: pattern += literal(sign)
            }
        }
        return pattern
    }

    /// The calling code of a phone number with its plus; nothing for what is no phone number.
    var country: String {
        guard self == .postgreSQL else { return "mdc_country(recipient)" }
        let codes = CountryCallingCodes.nationalLengths.keys.sorted()
        let cases = (1...3).compactMap { length -> String? in
            let list = codes.filter { $0.utf8.count == length }.map { "'+\($0)'" }
            guard !list.isEmpty else { return nil }
            return "WHEN left(recipient, \(length + 1)) IN (\(list.joined(separator: ", ")))"
                + " THEN left(recipient, \(length + 1))"
        }
        return "(CASE \(cases.joined(separator: " ")) END)"
    }
}
