// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCModel
import NIOCore
import NIOHTTP1

/// How a provider is asked what became of messages.
enum ReportPull: Sendable {
    /// Kaleyra v1 and v2: `GET /v2/<SID>/messages`, by time, in pages.
    case kaleyra(url: String, account: String, apiKey: Secret)
    /// Kaleyra v4: `method=sms.status`, by ids, at most 500 at once.
    case kaleyraLegacy(url: String, apiKey: Secret)
    /// Twilio: `GET …/Messages.json`, by day, in pages that name the next one.
    case twilio(url: String, account: String, token: Secret)

    static let pageSize = 500
    static let pagesMax = 2_000
    private static let answerBytesMax = 8 << 20

    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    /// Asks for all reports of a time. - Parameter ids: The provider's ids of our messages.
    func reports(
        provider: String,
        from: Timestamp,
        to: Timestamp,
        ids: [String],
        client: HTTPClient,
        now: Timestamp
    ) async throws -> [ProviderReceipt] {
        let ask = Asking(provider: provider, client: client, now: now)
        switch self {
        case .kaleyra(let url, let account, let apiKey):
            return try await ask.kaleyra("\(url)/v2/\(account)/messages", apiKey, from, to)
        case .kaleyraLegacy(let url, let apiKey): return try await ask.kaleyraLegacy(url, apiKey, ids)
        case .twilio(let url, let account, let token): return try await ask.twilio(url, account, token, from, to)
        }
    }

    private struct Asking {
        let provider: String
        let client: HTTPClient
        let now: Timestamp

        private func json(_ request: HTTPClientRequest) async throws -> [String: Any] {
            var request = request
            request.headers.replaceOrAdd(name: "accept", value: "application/json")
            let response = try await client.execute(request, timeout: .seconds(60))
            let body = try await response.body.collect(upTo: ReportPull.answerBytesMax)
            guard response.status == .ok else {
                throw Failure(description: "answer \(response.status.code): \(excerpt(body))")
            }
            guard let object = (try? JSONSerialization.jsonObject(with: Data(body.readableBytesView))) as? [String: Any]
            else { throw Failure(description: "the answer is no JSON object: \(excerpt(body))") }
            return object
        }

        /// The rows have the shape of callbacks.
        private func receipts(_ rows: [[String: Any]]) throws -> [ProviderReceipt] {
            guard !rows.isEmpty else { return [] }
            let parser = CallbackParser(format: .kaleyra, provider: provider)
            let body = ByteBuffer(bytes: try JSONSerialization.data(withJSONObject: rows))
            return try parser.receipts(query: nil, contentType: "application/json", body: body, now: now)
        }

        func kaleyra(_ url: String, _ apiKey: Secret, _ from: Timestamp, _ to: Timestamp) async throws
            -> [ProviderReceipt]
        {
            var found: [ProviderReceipt] = []
            for page in 1...ReportPull.pagesMax {
                let query = FormFields([
                    ("from_date", Self.iso(from)), ("to_date", Self.iso(to)), ("page", "\(page)"),
                    ("limit", "\(ReportPull.pageSize)"),
                ])
                var request = HTTPClientRequest(url: "\(url)?\(query.encoded)")
                request.headers.add(name: "api-key", value: apiKey.value)
                guard let rows = try await json(request)["data"] as? [[String: Any]] else {
                    throw Failure(description: "the answer has no 'data'")
                }
                found += try receipts(rows)
                if rows.count < ReportPull.pageSize { return found }
            }
            throw Failure(description: "more than \(ReportPull.pagesMax) pages; pull more often")
        }

        func kaleyraLegacy(_ url: String, _ apiKey: Secret, _ ids: [String]) async throws -> [ProviderReceipt] {
            var found: [ProviderReceipt] = []
            for start in stride(from: 0, to: ids.count, by: ReportPull.pageSize) {
                let some = ids[start..<min(start + ReportPull.pageSize, ids.count)]
                let fields = FormFields([
                    ("method", "sms.status"), ("api_key", apiKey.value), ("format", "json"),
                    ("id", some.joined(separator: ",")),
                ])
                var request = HTTPClientRequest(url: url)
                request.method = .POST
                request.headers.add(name: "content-type", value: "application/x-www-form-urlencoded")
                request.body = .bytes(ByteBuffer(string: fields.encoded))
                let answer = try await json(request)
                guard answer["status"] as? String == "OK", let rows = answer["data"] as? [[String: Any]] else {
                    throw Failure(description: "the answer is '\(answer["status"] ?? "")': \(answer["message"] ?? "")")
                }
                found += try receipts(rows)
            }
            return found
        }

        func twilio(
            _ url: String,
            _ account: String,
            _ token: Secret,
            _ from: Timestamp,
            _ to: Timestamp
        ) async throws -> [ProviderReceipt] {
            let login = Base64.encode("\(account):\(token.value)".utf8)
            var path =
                "/2010-04-01/Accounts/\(account)/Messages.json?PageSize=\(ReportPull.pageSize)"
                + "&DateSent%3E=\(Self.iso(from).prefix(10))&DateSent%3C=\(Self.iso(to + 86_400_000).prefix(10))"
            var found: [ProviderReceipt] = []
            for _ in 0..<ReportPull.pagesMax {
                var request = HTTPClientRequest(url: url + path)
                request.headers.add(name: "authorization", value: "Basic \(login)")
                let answer = try await json(request)
                guard let rows = answer["messages"] as? [[String: Any]] else {
                    throw Failure(description: "the answer has no 'messages'")
                }
                for row in rows {
                    guard let id = row["sid"] as? String, let state = row["status"] as? String else { continue }
                    let code = (row["error_code"] as? NSNumber)?.stringValue ?? row["error_code"] as? String
                    found.append(
                        ProviderReceipt(
                            provider: provider,
                            channel: .sms,
                            providerMessageID: id,
                            status: TwilioMapping.status(state, code: code),
                            code: code,
                            reason: row["error_message"] as? String,
                            at: now
                        )
                    )
                }
                // It names the next page by its path; nothing else is followed.
                guard let next = answer["next_page_uri"] as? String, next.hasPrefix("/2010-04-01/") else {
                    return found
                }
                path = next
            }
            throw Failure(description: "more than \(ReportPull.pagesMax) pages; pull more often")
        }

        private static func iso(_ time: Timestamp) -> String {
            Date(timeIntervalSince1970: Double(time.rawValue / 1_000)).formatted(.iso8601)
        }
    }
}
