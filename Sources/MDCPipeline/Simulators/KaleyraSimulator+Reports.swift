// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore
import NIOHTTP1
import Synchronization

/// What a simulated gateway knows of the messages that it took, and tells who asks: the reports of Kaleyra v1 and v4 and of Twilio. It
/// knows the end of a message also where its callback was lost.
final class SimulatorReports: Sendable {
    struct Entry: Sendable {
        var id: String
        var reference: String?
        var recipient: String
        var at: Int64
        /// When its end is known, and what that is.
        var finalAt: Int64
        var end: SimulatorPlan.Report
    }

    private static let entriesMax = 200_000
    private let entries = Mutex<[Entry]>([])

    /// Notes what a plan does with a message.
    func note(_ plan: SimulatorPlan, id: String, reference: String?, recipient: String) {
        guard plan.takesMessage else { return }
        let now = wallClockMilliseconds()
        let last = plan.receipts.last
        let entry = Entry(
            id: id,
            reference: reference,
            recipient: recipient,
            at: now,
            finalAt: now + (last?.delay.milliseconds ?? 0),
            end: last?.report ?? .delivered
        )
        entries.withLock { entries in
            if entries.count >= Self.entriesMax { entries.removeFirst(Self.entriesMax / 2) }
            entries.append(entry)
        }
    }

    /// Adds an entry, for tests.
    func add(_ entry: Entry) { entries.withLock { $0.append(entry) } }

    func page(from: Int64, to: Int64, page: Int, size: Int) -> [Entry] {
        entries.withLock { entries in
            Array(entries.lazy.filter { $0.at >= from && $0.at <= to }.dropFirst((page - 1) * size).prefix(size))
        }
    }

    func entries(of ids: Set<String>) -> [Entry] { entries.withLock { $0.filter { ids.contains($0.id) } } }
}

/// The questions, and the answers in each provider's words.
struct SimulatorReportDesk: Sendable {
    let accountID: String
    let apiKey: String
    let reports: SimulatorReports

    /// Answers if it is a question about reports; nil: it is something else.
    func answer(_ request: SimulatorRequest) -> SimulatorResponse? {
        let parts = request.path.split(separator: "?", maxSplits: 1).map(String.init)
        let query = FormFields(decoding: parts.count > 1 ? parts[1] : "")
        switch (request.method, parts.first ?? "") {
        case (.GET, "/v2/\(accountID)/messages"): return kaleyra(request, query)
        case (.POST, "/v4/"): return legacy(FormFields(decoding: String(buffer: request.body)))
        case (.GET, "/2010-04-01/Accounts/\(accountID)/Messages.json"): return twilio(request, query)
        default: return nil
        }
    }

    private func kaleyra(_ request: SimulatorRequest, _ query: FormFields) -> SimulatorResponse {
        guard request.headers.first(name: "api-key") == apiKey else {
            return Self.json(.unauthorized, ["code": "RBC-401", "message": "wrong api-key"])
        }
        guard let from = Self.time(query["from_date"]), let to = Self.time(query["to_date"]) else {
            return Self.json(.badRequest, ["code": "RBC-400", "message": "from_date and to_date are needed"])
        }
        let found = reports.page(
            from: from,
            to: to + 999,
            page: query["page"].flatMap { Int($0) } ?? 1,
            size: query["limit"].flatMap { Int($0) } ?? 100
        )
        return Self.json(.ok, ["data": found.map(Self.kaleyraRow)])
    }

    private func legacy(_ fields: FormFields) -> SimulatorResponse {
        guard fields["api_key"] == apiKey else {
            return Self.json(.ok, ["status": "A401", "message": "wrong api_key"])
        }
        let ids = Set((fields["id"] ?? "").split(separator: ",").map(String.init))
        guard fields["method"] == "sms.status", (1...500).contains(ids.count) else {
            return Self.json(.ok, ["status": "E600", "message": "method sms.status with 1 to 500 ids is needed"])
        }
        return Self.json(.ok, ["status": "OK", "data": reports.entries(of: ids).map(Self.kaleyraRow)])
    }

    private func twilio(_ request: SimulatorRequest, _ query: FormFields) -> SimulatorResponse {
        let login = "Basic " + Base64.encode("\(accountID):\(apiKey)".utf8)
        guard request.headers.first(name: "authorization") == login else {
            return Self.json(.unauthorized, ["code": 20003, "message": "Authenticate"])
        }
        let size = query["PageSize"].flatMap { Int($0) } ?? 50
        let page = query["Page"].flatMap { Int($0) } ?? 0
        let from = query["DateSent>"].flatMap { Self.time($0 + "T00:00:00Z") } ?? 0
        let to = query["DateSent<"].flatMap { Self.time($0 + "T00:00:00Z") }.map { $0 + 86_400_000 } ?? .max
        let found = reports.page(from: from, to: to, page: page + 1, size: size)
        let rows = found.map { entry -> [String: Any] in
            let status = Self.isOver(entry) ? Self.twilioState(entry.end) : "sent"
            return ["sid": entry.id, "status": status, "to": entry.recipient, "error_code": NSNull()]
        }
        var body: [String: Any] = ["messages": rows, "page": page]
        if found.count == size {
            let path = request.path.split(separator: "?")[0]
            let others = query.fields.filter { $0.name != "Page" }.map { ($0.name, $0.value) }
            body["next_page_uri"] = "\(path)?\(FormFields(others + [("Page", "\(page + 1)")]).encoded)"
        }
        return Self.json(.ok, body)
    }

    private static func isOver(_ entry: SimulatorReports.Entry) -> Bool { entry.finalAt <= wallClockMilliseconds() }

    private static func kaleyraRow(_ entry: SimulatorReports.Entry) -> [String: Any] {
        var row: [String: Any] = ["id": entry.id, "mobile": entry.recipient, "timestamp": String(entry.finalAt)]
        if let reference = entry.reference { row["ref"] = reference }
        switch isOver(entry) ? entry.end : nil {
        case nil: row["status"] = "AWAITED-DLR"
        case .delivered?: row["status"] = "DELIVRD"
        case .failed?: (row["status"], row["code"]) = ("Failed", "INVALID-SUB")
        case .undelivered?: (row["status"], row["code"]) = ("Undelivered", "MOB-OFF")
        }
        return row
    }

    private static func twilioState(_ end: SimulatorPlan.Report) -> String {
        switch end {
        case .delivered: "delivered"
        case .failed: "failed"
        case .undelivered: "undelivered"
        }
    }

    private static func time(_ text: String?) -> Int64? { text.flatMap { CallbackParser.timestamp($0)?.rawValue } }

    private static func json(_ status: HTTPResponseStatus, _ body: [String: Any]) -> SimulatorResponse {
        let data = (try? JSONSerialization.data(withJSONObject: body)) ?? Data()
        return SimulatorResponse(
            status: status,
            headers: ["content-type": "application/json"],
            body: String(decoding: data, as: UTF8.self)
        )
    }
}
