// SPDX-License-Identifier: Apache-2.0

import GRDB
public import MDCModel

/// What a report counts.
public enum ReportKind: String, Sendable, Hashable, CaseIterable {
    /// Messages by status, and the share of those at their end that were delivered.
    case delivery
    /// From submission to the final status.
    case latency
    /// Messages that failed or expired, by the code that was said last.
    case failures
}

/// What the rows of a report stand for.
public enum ReportGroup: String, Sendable, Hashable, CaseIterable {
    case channel, lane, tenant, provider, template
    /// The country calling code of a phone number, such as `+91`.
    case country
    case minute, hour, day

    /// Milliseconds of a time bucket.
    var width: Int64? {
        switch self {
        case .minute: 60_000
        case .hour: 3_600_000
        case .day: 86_400_000
        default: nil
        }
    }

    var sql: String {
        if let width { return "created_at / \(width) * \(width)" }
        switch self {
        case .template: return MessageField.template.sql
        case .country: return "mdc_country(recipient)"
        default: return rawValue
        }
    }
}

/// A value of a report.
public enum ReportValue: Sendable, Hashable, Encodable {
    case none
    case text(String)
    case count(Int64)
    case share(Double)
    case time(Timestamp)

    /// The JSON form; points in time are milliseconds since 1970.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .none: try container.encodeNil()
        case .text(let text): try container.encode(text)
        case .count(let count): try container.encode(count)
        case .share(let share): try container.encode(share)
        case .time(let time): try container.encode(time)
        }
    }
}

/// A report: a table.
public struct Report: Sendable, Hashable {
    /// The names of the columns: the groups, then what was counted.
    public var columns: [String]
    /// The rows, in the order of their groups.
    public var rows: [[ReportValue]]

    /// As a spreadsheet reads it (RFC 4180); points in time in ISO 8601.
    public var csv: String {
        var text = columns.joined(separator: ",") + "\r\n"
        for row in rows { text += row.map(Self.field).joined(separator: ",") + "\r\n" }
        return text
    }

    private static func field(_ value: ReportValue) -> String {
        switch value {
        case .none: return ""
        case .count(let count): return String(count)
        case .share(let share): return String(share)
        case .time(let time): return QueryTime.text(time)
        case .text(var text):
            // What begins like a formula would be run as one.
            if let first = text.first, "=+-@".contains(first), first != "+" || !text.dropFirst().allSatisfy(\.isNumber)
            {
                text = "'" + text
            }
            let needsQuotes = text.contains { ",\"\r\n".contains($0) || $0.isNewline }
            return needsQuotes ? "\"" + text.replacing("\"", with: "\"\"") + "\"" : text
        }
    }
}

extension MessageStore {
    /// The most rows of a report.
    static let reportRowsMax = 10_000

    /// `mdc_country(recipient)`: the calling code with its plus, or nothing for what is no phone number.
    static let countryFunction = DatabaseFunction("mdc_country", argumentCount: 1, pure: true) { values in
        guard let recipient = String.fromDatabaseValue(values[0]), recipient.first == "+" else { return nil }
        let digits = recipient.dropFirst()
        for length in 1...3 {
            let code = String(digits.prefix(length))
            if CountryCallingCodes.nationalLengths[code] != nil { return "+" + code }
        }
        return nil
    }

    /// Makes a report of the messages of which the condition is true.
    ///
    /// - Throws: ``PipelineError`` with code `invalidQuery` if it would be too long, else `store`.
    public func report(
        _ kind: ReportKind,
        by groups: [ReportGroup],
        of condition: MessageCondition? = nil
    ) throws(PipelineError) -> Report {
        try reading { db in try Self.report(kind, groups, condition, db) }
    }

    /// The same without holding the thread.
    func reported(
        _ kind: ReportKind,
        by groups: [ReportGroup],
        of condition: MessageCondition?
    ) async throws(PipelineError) -> Report {
        try await asking { db in try Self.report(kind, groups, condition, db) }
    }

    private static func report(
        _ kind: ReportKind,
        _ groups: [ReportGroup],
        _ condition: MessageCondition?,
        _ db: Database
    ) throws -> Report {
        let (statement, values) = statement(kind, groups, condition)
        var report = Report(columns: groups.map(\.rawValue) + values, rows: [])
        let cursor = try Row.fetchCursor(db, sql: statement.sql, arguments: statement.arguments)
        while let row = try cursor.next() {
            guard report.rows.count < reportRowsMax else {
                throw PipelineError(
                    .invalidQuery,
                    "the report has more than \(reportRowsMax) rows; group by less, or choose a shorter time"
                )
            }
            report.rows.append(
                (0..<report.columns.count).map { index in
                    value(row[index], isTime: index < groups.count && groups[index].width != nil)
                }
            )
        }
        return report
    }

    private static func value(_ value: DatabaseValue, isTime: Bool) -> ReportValue {
        switch value.storage {
        case .int64(let number): isTime ? .time(Timestamp(number)) : .count(number)
        case .double(let number): .share(number)
        case .string(let text): .text(text)
        case .null, .blob: .none
        }
    }

    /// The statement of a report and the names of what it counts.
    private static func statement(_ kind: ReportKind, _ groups: [ReportGroup], _ condition: MessageCondition?) -> (
        (sql: String, arguments: StatementArguments), [String]
    ) {
        let base = base(condition)
        let filter = base.sql + (condition == nil ? " WHERE " : " AND ")
        let named = groups.enumerated().map { "\($0.element.sql) AS g\($0.offset)" }
        let keys = groups.indices.map { "g\($0)" }
        let list = { (extra: [String]) in (keys + extra).joined(separator: ", ") }
        let grouped = keys.isEmpty ? "" : " GROUP BY \(list([])) ORDER BY \(list([]))"
        switch kind {
        case .delivery:
            let finals = MessageStatus.allCases.filter(\.isFinal).map(\.rawValue)
            let counts = finals.map { "sum(status = '\($0)')" }
            let columns =
                named + ["count(*)", "sum(final_at IS NULL)"] + counts + [
                    "sum(attempt > 1)",
                    "round(sum(status IN ('delivered', 'sent')) * 1.0 / nullif(sum(final_at IS NOT NULL), 0), 4)",
                ]
            return (
                ("SELECT \(columns.joined(separator: ", ")) \(base.sql)\(grouped)", base.arguments),
                ["messages", "open"] + finals + ["retried", "deliveredShare"]
            )
        case .latency:
            let inner = (named + ["final_at - created_at AS latency"]).joined(separator: ", ")
            let part = keys.isEmpty ? "" : "PARTITION BY \(list([]))"
            let percentiles = [50, 95, 99].map { "min(iif(rank * 100 >= size * \($0), latency, NULL))" }
            let columns =
                keys + ["count(*)", "CAST(round(avg(latency)) AS INTEGER)"] + percentiles + ["max(latency)"]
            let sql = """
                SELECT \(columns.joined(separator: ", ")) FROM (
                    SELECT *, row_number() OVER (\(part) ORDER BY latency) AS rank, count(*) OVER (\(part)) AS size
                    FROM (SELECT \(inner) \(filter)final_at IS NOT NULL AND created_at IS NOT NULL)
                )\(grouped)
                """
            return ((sql, base.arguments), ["messages", "mean", "p50", "p95", "p99", "max"])
        case .failures:
            let columns = (named + ["status", "coalesce(code, '?') AS code", "count(*) AS messages"])
            let sql =
                "SELECT \(columns.joined(separator: ", ")) \(filter)status IN ('failed', 'expired')"
                + " GROUP BY \(list(["status", "coalesce(code, '?')"])) ORDER BY \(list(["messages DESC", "status"]))"
            return ((sql, base.arguments), ["status", "code", "messages"])
        }
    }
}
