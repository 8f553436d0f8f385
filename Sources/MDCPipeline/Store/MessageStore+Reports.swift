// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// What a report counts.
public enum ReportKind: String, Sendable, Hashable, CaseIterable {
    /// Messages by status, and the share of those at their end that were delivered.
    case delivery
    /// From submission to the final status.
    case latency
    /// Messages that failed or expired, by the code that was said last.
    case failures
    /// What was paid, in the unit of the providers' prices: every attempt that a provider took.
    case cost
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

    func sql(_ dialect: SQLDialect) -> String {
        if let width { return "created_at / \(width) * \(width)" }
        switch self {
        case .template: return MessageField.template.sql(dialect)
        case .country: return dialect.country
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

    /// Makes a report of the messages of which the condition is true.
    ///
    /// - Throws: ``PipelineError`` with code `invalidQuery` if it would be too long, else `store`.
    public func report(
        _ kind: ReportKind,
        by groups: [ReportGroup],
        of condition: MessageCondition? = nil
    ) throws(PipelineError) -> Report {
        try engine.read { [dialect] db in try Self.report(kind, groups, condition, dialect, db) }
    }

    /// The same without holding the thread.
    func reported(
        _ kind: ReportKind,
        by groups: [ReportGroup],
        of condition: MessageCondition?
    ) async throws(PipelineError) -> Report {
        try await engine.asking { [dialect] db in try Self.report(kind, groups, condition, dialect, db) }
    }

    private static func report(
        _ kind: ReportKind,
        _ groups: [ReportGroup],
        _ condition: MessageCondition?,
        _ dialect: SQLDialect,
        _ db: any SQLReader
    ) throws -> Report {
        let (statement, values) = statement(kind, groups, condition, dialect)
        var report = Report(columns: groups.map(\.rawValue) + values, rows: [])
        try db.rows(statement) { row in
            guard report.rows.count < reportRowsMax else {
                throw PipelineError(
                    .invalidQuery,
                    "the report has more than \(reportRowsMax) rows; group by less, or choose a shorter time"
                )
            }
            report.rows.append(
                row.values.enumerated().map { index, value in
                    Self.value(value, isTime: index < groups.count && groups[index].width != nil)
                }
            )
        }
        return report
    }

    private static func value(_ value: SQLValue, isTime: Bool) -> ReportValue {
        switch value {
        case .integer(let number): isTime ? .time(Timestamp(number)) : .count(number)
        case .real(let number): .share(number)
        case .text(let text): .text(text)
        case .null: .none
        }
    }

    /// The statement of a report and the names of what it counts.
    private static func statement(
        _ kind: ReportKind,
        _ groups: [ReportGroup],
        _ condition: MessageCondition?,
        _ dialect: SQLDialect
    ) -> (SQLStatement, [String]) {
        var statement = SQLStatement(dialect)
        let base = base(condition, &statement)
        let filter = base.sql + (base.isFiltered ? " AND " : " WHERE ")
        let named = groups.enumerated().map { "\($0.element.sql(dialect)) AS g\($0.offset)" }
        let keys = groups.indices.map { "g\($0)" }
        let order = keys.map { dialect.order($0, descending: false) }
        let grouped =
            keys.isEmpty
            ? "" : " GROUP BY \(keys.joined(separator: ", ")) ORDER BY \(order.joined(separator: ", "))"
        switch kind {
        case .delivery:
            let finals = MessageStatus.allCases.filter(\.isFinal).map(\.rawValue)
            let counts = finals.map { "count(*) FILTER (WHERE status = '\($0)')" }
            let delivered = "count(*) FILTER (WHERE status IN ('delivered', 'sent'))"
            let columns =
                named + ["count(*)", "count(*) - count(final_at)"] + counts + [
                    "count(*) FILTER (WHERE attempt > 1)",
                    "CAST(round(\(delivered) * 1.0 / nullif(count(final_at), 0), 4) AS DOUBLE PRECISION)",
                ]
            statement.text = "SELECT \(columns.joined(separator: ", ")) \(base.sql)\(grouped)"
            return (statement, ["messages", "open"] + finals + ["retried", "deliveredShare"])
        case .latency:
            let inner = (named + ["final_at - created_at AS latency"]).joined(separator: ", ")
            let part = keys.isEmpty ? "" : "PARTITION BY \(keys.joined(separator: ", "))"
            let percentiles = [50, 95, 99].map { "min(CASE WHEN place * 100 >= size * \($0) THEN latency END)" }
            let columns =
                keys + ["count(*)", "CAST(round(avg(latency)) AS BIGINT)"] + percentiles + ["max(latency)"]
            statement.text = """
                SELECT \(columns.joined(separator: ", ")) FROM (
                    SELECT *, row_number() OVER (\(part) ORDER BY latency) AS place, count(*) OVER (\(part)) AS size
                    FROM (SELECT \(inner) \(filter)final_at IS NOT NULL AND created_at IS NOT NULL) AS ends
                ) AS places\(grouped)
                """
            return (statement, ["messages", "mean", "p50", "p95", "p99", "max"])
        case .cost:
            let money = { (sum: String) in "CAST(round(\(sum), 6) AS DOUBLE PRECISION)" }
            let total = "coalesce(sum(cost), 0) / 1000000.0"
            let columns =
                named + [
                    "count(*)", "count(cost)", money(total), money("\(total) / nullif(count(cost), 0)"),
                    money("\(total) / nullif(count(*) FILTER (WHERE status IN ('delivered', 'sent')), 0)"),
                ]
            statement.text = "SELECT \(columns.joined(separator: ", ")) \(base.sql)\(grouped)"
            return (statement, ["messages", "priced", "cost", "costPerMessage", "costPerDelivered"])
        case .failures:
            let columns = named + ["status", "coalesce(code, '?') AS said", "count(*) AS messages"]
            let list = (keys + ["status", "said"]).joined(separator: ", ")
            statement.text =
                "SELECT \(columns.joined(separator: ", ")) \(filter)status IN ('failed', 'expired')"
                + " GROUP BY \(list) ORDER BY \((order + ["messages DESC", "status", "said"]).joined(separator: ", "))"
            return (statement, ["status", "code", "messages"])
        }
    }
}
