// SPDX-License-Identifier: Apache-2.0

import Foundation
import NIOCore

/// What Kaleyra's codes and states mean to us. `docs/providers.md` has the tables.
enum KaleyraMapping {
    /// Codes that no repetition cures.
    static let permanentCodes: Set<String> = [
        "INV-NUMBER", "INVALID-SUB", "BLACKLIST", "CON-DND", "OPT-OUT", "BLOCKED-COUNTRY", "NOTALLOWED",
        "TEMPLATE-NOT-FOUND", "INVALID-SENDER",
    ]
    /// Codes that time cures.
    static let retriableCodes: Set<String> = ["MOB-OFF", "MSG-QUEUE-FULL", "THROTTLED"]
    /// Codes that someone on our side must cure.
    static let operatorCodes: Set<String> = ["NO-CREDITS", "KYC-NOT-APPROVED"]
    /// The pause before a message is tried again that a wrong configuration stopped.
    static let operatorPause: Duration = .seconds(60)

    private struct Recipient: Decodable {
        var message_id: String?
        var status: String?
    }

    /// `error` is an object, an empty array or a text, by version of the interface.
    private struct Problem: Decodable {
        var code: String?
        var message: String?

        private enum CodingKeys: String, CodingKey { case code, message }

        init(from decoder: any Decoder) throws {
            if let container = try? decoder.container(keyedBy: CodingKeys.self) {
                code = Self.text(container, .code)
                message = Self.text(container, .message)
            } else if let text = try? decoder.singleValueContainer().decode(String.self) {
                code = text
            }
        }

        private static func text(_ container: KeyedDecodingContainer<CodingKeys>, _ key: CodingKeys) -> String? {
            if let text = try? container.decode(String.self, forKey: key) { return text.isEmpty ? nil : text }
            return (try? container.decode(Int.self, forKey: key)).map(String.init)
        }
    }

    private struct Body: Decodable {
        var data: [Recipient]?
        var error: Problem?
        var code: String?
        var message: String?

        private enum CodingKeys: String, CodingKey { case data, error, code, message }

        init(from decoder: any Decoder) throws {
            let container = try decoder.container(keyedBy: CodingKeys.self)
            data = try? container.decode([Recipient].self, forKey: .data)
            error = try? container.decode(Problem.self, forKey: .error)
            let own = try Problem(from: decoder)
            code = own.code
            message = own.message
        }

        /// The error that the answer names, if any.
        var problem: (code: String, message: String?)? {
            if let code = error?.code { return (code, error?.message) }
            if let code { return (code, message) }
            if let status = data?.first?.status, data?.first?.message_id == nil || isKnownError(status) {
                return (status, message)
            }
            return nil
        }
    }

    private static func isKnownError(_ code: String) -> Bool {
        let code = code.uppercased()
        return permanentCodes.contains(code) || retriableCodes.contains(code) || operatorCodes.contains(code)
    }

    /// What an answer to a send means.
    static func outcome(_ answer: HTTPExchange.Answer) -> SendOutcome {
        let body = try? JSONDecoder().decode(Body.self, from: Data(answer.body.readableBytesView))
        let words = body?.problem?.message ?? excerpt(answer.body)
        switch answer.status {
        case 200..<300:
            guard let body else {
                return .inDoubt(reason: "unreadable answer \(answer.status): \(excerpt(answer.body))")
            }
            return outcome(of: body, answer: answer)
        case 401, 403:
            return .retriable(
                code: body?.problem?.code ?? String(answer.status),
                reason: "our key was refused: \(words)",
                retryAfter: answer.retryAfter ?? operatorPause
            )
        case 504:
            return .inDoubt(reason: "504: \(words)")
        case 408, 425, 429, 500...599:
            return .retriable(
                code: body?.problem?.code ?? String(answer.status),
                reason: words,
                retryAfter: answer.retryAfter
            )
        default:
            guard let code = body?.problem?.code else { return .rejected(code: String(answer.status), reason: words) }
            return outcome(ofCode: code, reason: words, retryAfter: answer.retryAfter)
        }
    }

    private static func outcome(of body: Body, answer: HTTPExchange.Answer) -> SendOutcome {
        if let problem = body.problem {
            return outcome(
                ofCode: problem.code,
                reason: problem.message ?? problem.code,
                retryAfter: answer.retryAfter
            )
        }
        guard let id = body.data?.first?.message_id, !id.isEmpty else {
            return .inDoubt(reason: "an answer without message_id: \(excerpt(answer.body))")
        }
        return .accepted(providerMessageID: id, detail: body.data?.first?.status)
    }

    private static func outcome(ofCode code: String, reason: String, retryAfter: Duration?) -> SendOutcome {
        let known = code.uppercased()
        if retriableCodes.contains(known) { return .retriable(code: code, reason: reason, retryAfter: retryAfter) }
        if operatorCodes.contains(known) {
            return .retriable(code: code, reason: reason, retryAfter: retryAfter ?? operatorPause)
        }
        return .rejected(code: code, reason: reason)
    }

    /// What the state of a receipt means, with its code if it has one.
    static func status(_ state: String, code: String?) -> ProviderReceipt.Status {
        let state = state.uppercased().trimmingCharacters(in: .whitespaces)
        switch state {
        case "DELIVRD", "DELIVERED": return .delivered
        case "SUBMITTED", "SENT", "ENROUTE", "ACCEPTD", "AWAITED-DLR", "SENT - NO DLR": return .sent
        case "EXPIRED": return .expired
        case "UNDELIVERED", "UNDELIV": return failure(code) ?? .undelivered
        case "FAILED", "NOT-SENT", "REJECTD", "DELETED": return failure(code) ?? .failed
        default: return failure(state) ?? .other
        }
    }

    private static func failure(_ code: String?) -> ProviderReceipt.Status? {
        guard let code = code?.uppercased() else { return nil }
        if permanentCodes.contains(code) { return .failed }
        return retriableCodes.contains(code) || operatorCodes.contains(code) ? .undelivered : nil
    }
}
