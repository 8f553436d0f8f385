// SPDX-License-Identifier: Apache-2.0

import Foundation
import NIOCore

/// What FCM's answers mean to us. `docs/providers.md` has the table.
enum FCMMapping {
    /// Error codes that no repetition cures.
    static let permanentCodes: Set<String> = ["UNREGISTERED", "INVALID_ARGUMENT", "SENDER_ID_MISMATCH"]
    /// Error codes of wrong credentials.
    static let credentialCodes: Set<String> = ["THIRD_PARTY_AUTH_ERROR", "UNAUTHENTICATED", "PERMISSION_DENIED"]
    /// The least pause after an exhausted quota, and after refused credentials.
    static let longPause: Duration = .seconds(60)

    private struct Success: Decodable { var name: String }

    private struct Failure: Decodable {
        struct Detail: Decodable { var errorCode: String? }
        struct Problem: Decodable {
            var status: String?
            var message: String?
            var details: [Detail]?
        }
        var error: Problem
    }

    /// What an answer to a send means.
    static func outcome(_ answer: HTTPExchange.Answer) -> SendOutcome {
        let body = Data(answer.body.readableBytesView)
        if (200..<300).contains(answer.status) {
            guard let success = try? JSONDecoder().decode(Success.self, from: body), !success.name.isEmpty else {
                return .inDoubt(reason: "unreadable answer \(answer.status): \(excerpt(answer.body))")
            }
            return .accepted(providerMessageID: success.name)
        }
        let problem = (try? JSONDecoder().decode(Failure.self, from: body))?.error
        let named =
            problem?.details?.lazy.compactMap(\.errorCode).first { $0 != "UNSPECIFIED_ERROR" } ?? problem?.status
        let reason = problem?.message ?? excerpt(answer.body)
        let code = named ?? String(answer.status)
        if permanentCodes.contains(code) { return .rejected(code: code, reason: reason) }
        if credentialCodes.contains(code) || answer.status == 401 || answer.status == 403 {
            return .retriable(
                code: code,
                reason: "our credentials were refused: \(reason)",
                retryAfter: answer.retryAfter ?? longPause
            )
        }
        if code == "QUOTA_EXCEEDED" || answer.status == 429 {
            return .retriable(code: code, reason: reason, retryAfter: answer.retryAfter ?? longPause)
        }
        switch answer.status {
        case 504: return .inDoubt(reason: "504: \(reason)")
        case 408, 425, 500...599: return .retriable(code: code, reason: reason, retryAfter: answer.retryAfter)
        default: return .rejected(code: code, reason: reason)
        }
    }

    /// What an app's report means.
    static func status(event: String, code: String?) -> ProviderReceipt.Status {
        switch event.lowercased() {
        case "delivered", "displayed": return .delivered
        case "failed": return code.map { permanentCodes.contains($0.uppercased()) } == true ? .failed : .undelivered
        default: return .other
        }
    }
}
