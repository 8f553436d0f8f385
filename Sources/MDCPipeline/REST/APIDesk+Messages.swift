// SPDX-License-Identifier: Apache-2.0

import Foundation
import HTTPTypes
import Hummingbird
import MDCJSON
import MDCModel
import NIOCore

extension APIDesk {
    // MARK: - Submission

    /// What became of one message of a bulk.
    private struct ItemResult: Encodable {
        var index: Int
        var status: Int
        var receipt: Receipt?
        var problem: APIProblem?
    }

    private struct BulkResult: Encodable {
        var accepted: Int
        var rejected: Int
        var results: [ItemResult]
    }

    /// A ``SubmitReceipt`` as the interface names its members.
    private struct Receipt: Encodable {
        var id: String
        var lane: String
        var duplicate: Bool
        var scheduledFor: Timestamp?
        var segments: Int?
        var encoding: SMSSegments.Encoding?
        var templateVersion: Int?
        var locale: String?
        var warnings: [APIProblem.Detail]

        init(_ receipt: SubmitReceipt) {
            id = receipt.messageID
            lane = receipt.lane
            duplicate = receipt.isDuplicate
            scheduledFor = receipt.scheduledFor
            segments = receipt.segments
            encoding = receipt.encoding
            templateVersion = receipt.templateSource?.version
            locale = receipt.templateSource?.locale
            warnings = receipt.warnings.map { APIProblem.Detail(field: $0.field, message: $0.message) }
        }

        var status: Int { duplicate ? 200 : 202 }
    }

    func submit(_ request: Request, _ key: APIKey) async throws -> Answer {
        let idempotencyKey = try Self.idempotencyKey(request)
        let submission = try SubmissionReader(key: key, idempotencyKey: idempotencyKey).read(await body(of: request))
        var drafts: [MessageDraft] = []
        for case .success(let draft) in submission.items { drafts.append(draft) }
        var submitted = await messages.submit(drafts).makeIterator()
        var results: [ItemResult] = []
        for (index, item) in submission.items.enumerated() {
            switch item {
            case .failure(let problem):
                results.append(ItemResult(index: index, status: problem.status, problem: problem))
            case .success:
                switch submitted.next() {
                case .success(let receipt)?:
                    let receipt = Receipt(receipt)
                    results.append(ItemResult(index: index, status: receipt.status, receipt: receipt))
                case .failure(let error)?:
                    let problem = APIProblem(error)
                    results.append(ItemResult(index: index, status: problem.status, problem: problem))
                case nil: preconditionFailure("a draft has no result")
                }
            }
        }
        return submission.isBulk ? Self.bulk(results) : try Self.single(results[0])
    }

    private static func single(_ result: ItemResult) throws -> Answer {
        if let problem = result.problem { throw problem }
        guard let receipt = result.receipt else { preconditionFailure("a message has neither receipt nor problem") }
        var response = json(encodeJSON(receipt), status: HTTPResponse.Status(code: receipt.status))
        response.headers[.location] = "/v1/messages/\(receipt.id)"
        return Answer(response: response, messages: 1)
    }

    /// 202: all are accepted; 207: some; else what the first one says.
    private static func bulk(_ results: [ItemResult]) -> Answer {
        let accepted = results.count { $0.receipt != nil }
        let status = accepted == results.count ? 202 : accepted > 0 ? 207 : results[0].status
        let body = BulkResult(accepted: accepted, rejected: results.count - accepted, results: results)
        var response = json(encodeJSON(body), status: HTTPResponse.Status(code: status))
        if status == 503 { response.headers[.retryAfter] = "1" }
        return Answer(response: response, messages: accepted)
    }

    private static func idempotencyKey(_ request: Request) throws(APIProblem) -> String? {
        guard let name = HTTPField.Name("Idempotency-Key"), let given = request.headers[name] else { return nil }
        // The draft standard writes it as a quoted text; both forms mean the same.
        let key =
            given.count >= 2 && given.first == "\"" && given.last == "\"" ? String(given.dropFirst().dropLast()) : given
        guard (1...200).contains(key.utf8.count) else {
            throw APIProblem(400, "Not understood", "Idempotency-Key: write 1 to 200 characters")
        }
        return key
    }

    func body(of request: Request) async throws -> ByteBuffer {
        let bytesMax = configuration.bodyBytesMax
        let tooLarge = APIProblem(413, "Too much", "the body may have \(bytesMax) bytes; send fewer messages at once")
        if let type = request.headers[.contentType], !type.lowercased().hasPrefix("application/json") {
            throw APIProblem(415, "Not understood", "send Content-Type: application/json")
        }
        if let length = request.headers[.contentLength].flatMap(Int.init), length > bytesMax { throw tooLarge }
        do {
            return try await request.body.collect(upTo: bytesMax)
        } catch is NIOTooManyBytesError {
            throw tooLarge
        }
    }

    // MARK: - Queries

    private struct Page: Encodable {
        var messages: [JSONValue]
        var page: Int
        var pagesize: Int
        var count: Int?
    }

    func list(_ request: Request, _ key: APIKey) async throws -> Response {
        let parameters = try QueryParameters(
            request,
            known: ["filter", "sort", "keys", "page", "pagesize", "count"]
        )
        let condition = try parameters.condition(for: key)
        let query = MessageQuery(
            condition,
            order: try parameters["sort"].map { try MessageQuery.order($0) } ?? [.init(.createdAt, descending: true)],
            page: try parameters.number("page", 1, 1...1_000_000),
            pageSize: try parameters.number("pagesize", 100, 1...1_000)
        )
        let projection = try parameters["keys"].map { try Projection($0) }
        let found = try await store.found(query)
        let body = Page(
            messages: found.map { stored in
                let resource = MessageResource(stored)
                return projection?.apply(resource) ?? JSONValue(resource)
            },
            page: query.page,
            pagesize: query.pageSize,
            count: try parameters.flag("count") ? try await store.counted(condition) : nil
        )
        return Self.tagged(encodeJSON(body), for: request)
    }

    func one(_ id: String, _ request: Request, _ key: APIKey) async throws -> Response {
        let parameters = try QueryParameters(request, known: ["keys"])
        let projection = try parameters["keys"].map { try Projection($0) }
        let resource = MessageResource(try await stored(id, key))
        let value = projection?.apply(resource) ?? JSONValue(resource)
        return Self.tagged(encodeJSON(value), for: request)
    }

    private struct Timeline: Encodable {
        var id: String
        var events: [TimelineEvent]
    }

    func timeline(_ id: String, _ request: Request, _ key: APIKey) async throws -> Response {
        _ = try QueryParameters(request, known: [])
        _ = try await stored(id, key)
        let events = try await store.timeline(of: id)
        return Self.tagged(encodeJSON(Timeline(id: id, events: events)), for: request)
    }

    /// A message of another tenant does not exist for the caller.
    private func stored(_ id: String, _ key: APIKey) async throws -> StoredMessage {
        let condition = MessageCondition.all([.compare(.id, .equal, .text(id))] + key.condition)
        guard let stored = try await store.found(MessageQuery(condition, pageSize: 1)).first else {
            throw APIProblem(
                404,
                "Not found",
                "message '\(id)' is not known; a message shows here a moment after it was sent"
            )
        }
        return stored
    }

    // MARK: - Reports

    private struct ReportBody: Encodable {
        var report: String
        var columns: [String]
        var rows: [[String: ReportValue]]
    }

    func report(_ kind: ReportKind, _ request: Request, _ key: APIKey) async throws -> Response {
        let parameters = try QueryParameters(request, known: ["filter", "group", "from", "to"])
        var parts: [MessageCondition] = []
        if let condition = try parameters.condition(for: key) { parts.append(condition) }
        for (name, comparison) in [("from", MessageCondition.Comparison.greaterOrEqual), ("to", .less)] {
            guard let text = parameters[name] else { continue }
            guard let time = QueryTime.parse(text) else {
                throw APIProblem.parameter(name, "write 2026-01-31T10:00:00Z or milliseconds since 1970")
            }
            parts.append(.compare(.createdAt, comparison, .integer(time.rawValue)))
        }
        let groups = try ReportGroup.list(parameters["group"] ?? "")
        // One condition keeps the channel visible to the store, several are all meant.
        let condition = parts.isEmpty ? nil : parts.count == 1 ? parts[0] : .all(parts)
        let report = try await store.reported(kind, by: groups, of: condition)
        if Self.wantsCSV(request) {
            return Self.tagged(report.csv, type: "text/csv; charset=utf-8; header=present", for: request)
        }
        let rows = report.rows.map { Dictionary(uniqueKeysWithValues: zip(report.columns, $0)) }
        return Self.tagged(
            encodeJSON(ReportBody(report: kind.rawValue, columns: report.columns, rows: rows)),
            for: request
        )
    }

    /// Whether `text/csv` is asked for, and before JSON.
    private static func wantsCSV(_ request: Request) -> Bool {
        let types = (request.headers[.accept] ?? "").lowercased().split(separator: ",").map(\.trimmed)
        guard let csv = types.firstIndex(where: { $0.hasPrefix("text/csv") }) else { return false }
        return csv < types.firstIndex { $0.hasPrefix("application/json") } ?? .max
    }
}

extension ReportGroup {
    /// Reads `lane,provider`.
    ///
    /// - Throws: ``PipelineError`` with code `invalidQuery`.
    public static func list(_ text: String) throws(PipelineError) -> [ReportGroup] {
        var groups: [ReportGroup] = []
        for name in text.split(separator: ",").map(\.trimmed) {
            guard let group = ReportGroup(rawValue: name), !groups.contains(group) else {
                throw PipelineError(
                    .invalidQuery,
                    "group: '\(name)' is not known or stands there twice; there are \(ReportGroup.allCases.names)"
                )
            }
            groups.append(group)
        }
        return groups
    }
}

extension APIKey {
    /// What narrows questions to the key's tenant.
    var condition: [MessageCondition] { tenant.map { [.compare(.tenant, .equal, .text($0))] } ?? [] }
}

/// The parameters of a request: each is known and stands there once.
struct QueryParameters: Sendable {
    private var values: [String: String] = [:]
    private var filters: [String] = []

    init(_ request: Request, known: [String]) throws(APIProblem) {
        // Read from the text as it came: a form writes a space as "+" and a plus as "%2B", which are the same once decoded.
        for pair in (request.uri.query ?? "").split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map { part in
                part.replacing("+", with: " ").removingPercentEncoding
            }
            guard let first = parts.first, let name = first, let value = parts.count > 1 ? parts[1] : "" else {
                throw .parameter(String(pair), "is not percent-encoded UTF-8")
            }
            guard known.contains(name) else {
                let offered = known.isEmpty ? "none here" : known.joined(separator: ", ")
                throw .parameter(name, "is not a parameter; there are \(offered)")
            }
            if name == "filter" {
                // Several filters must all be true.
                filters.append(value)
                guard filters.count <= 8 else { throw .parameter(name, "stands there more than 8 times") }
            } else if values.updateValue(value, forKey: name) != nil {
                throw .parameter(name, "stands there twice")
            }
        }
    }

    subscript(name: String) -> String? { values[name] }

    func number(_ name: String, _ preset: Int, _ range: ClosedRange<Int>) throws(APIProblem) -> Int {
        guard let text = values[name] else { return preset }
        guard let number = Int(text), range.contains(number) else {
            throw .parameter(name, "write a whole number from \(range.lowerBound) to \(range.upperBound)")
        }
        return number
    }

    func flag(_ name: String) throws(APIProblem) -> Bool {
        switch values[name] {
        case nil, "false"?: return false
        case ""?, "true"?: return true
        default: throw .parameter(name, "write true or false")
        }
    }

    /// The filters and the tenant of the key.
    func condition(for key: APIKey) throws(PipelineError) -> MessageCondition? {
        var parts = key.condition
        for filter in filters { parts.append(try MessageCondition(filter: filter)) }
        return parts.isEmpty ? nil : .all(parts)
    }
}
