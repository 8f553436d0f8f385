// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Crypto
import Foundation
import MDCModel
public import NIOCore
import NIOHTTP1

/// SMS by Twilio's HTTP interface, and by others that speak it; receipts are signed callbacks.
public final class TwilioProvider: Provider {
    /// How the account is reached.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre; also the listener's path segment.
        public var name: String
        /// Scheme and host; no slash at the end.
        public var baseURL: String
        public var accountSID: String
        /// Authenticates us, and signs their callbacks.
        public var authToken: Secret
        /// Sends by this service instead of the message's sender.
        public var messagingServiceSID: String?
        /// Where receipts are sent to; nil: none are asked for.
        public var callbackURL: String?
        /// Sends under way at once, and connections.
        public var concurrency: Int
        public var requestTimeout: Duration
        public var connectTimeout: Duration
        public var tls: ProviderTLS?

        public init(
            name: String = "twilio",
            baseURL: String = "https://api.twilio.com",
            accountSID: String,
            authToken: Secret,
            messagingServiceSID: String? = nil,
            callbackURL: String? = nil,
            concurrency: Int = 64,
            requestTimeout: Duration = .seconds(10),
            connectTimeout: Duration = .seconds(3),
            tls: ProviderTLS? = nil
        ) {
            precondition(concurrency > 0, "concurrency of provider \(name) must be at least 1")
            self.name = name
            self.baseURL = baseURL
            self.accountSID = accountSID
            self.authToken = authToken
            self.messagingServiceSID = messagingServiceSID
            self.callbackURL = callbackURL
            self.concurrency = concurrency
            self.requestTimeout = requestTimeout
            self.connectTimeout = connectTimeout
            self.tls = tls
        }
    }

    public var name: String { configuration.name }
    public var channel: Channel { .sms }
    public var concurrency: Int { configuration.concurrency }
    public var sendsReceipts: Bool { configuration.callbackURL != nil }

    private let configuration: Configuration
    private let client: HTTPClient
    private let gate: ConcurrencyGate

    /// - Parameter group: runs the connections; not shut down by the provider.
    /// - Throws: ``PipelineError`` (`configuration`) if the trusted certificates cannot be read.
    public init(_ configuration: Configuration, group: any EventLoopGroup) throws {
        self.configuration = configuration
        client = HTTPExchange.makeClient(
            group: group,
            connections: configuration.concurrency,
            connectTimeout: configuration.connectTimeout,
            tls: try configuration.tls?.makeConfiguration()
        )
        gate = ConcurrencyGate(limit: configuration.concurrency)
    }

    public func shutdown() async { try? await client.shutdown() }

    public func send(_ message: Message, attempt: Int) async -> SendOutcome {
        await gate.pass {
            var fields = FormFields([("To", message.to), ("Body", message.content.text)])
            if let service = configuration.messagingServiceSID {
                fields.append("MessagingServiceSid", service)
            } else {
                fields.append("From", message.sender)
            }
            if let expiresAt = message.expiresAt {
                let seconds = (expiresAt.rawValue - wallClockMilliseconds()) / 1_000
                fields.append("ValidityPeriod", String(min(max(seconds, 1), 36_000)))
            }
            if let callbackURL = configuration.callbackURL {
                let reference = FormFields([("reference", message.reference(attempt: attempt))]).encoded
                fields.append("StatusCallback", callbackURL + (callbackURL.contains("?") ? "&" : "?") + reference)
            }
            var request = request(path: "Messages.json")
            request.method = .POST
            request.headers.add(name: "content-type", value: "application/x-www-form-urlencoded")
            request.body = .bytes(ByteBuffer(string: fields.encoded))
            let exchange = HTTPExchange(client: client, timeout: configuration.requestTimeout)
            switch await exchange.perform(request) {
            case .answered(let answer): return TwilioMapping.outcome(answer)
            case .notSent(let reason): return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: reason)
            }
        }
    }

    /// What the provider knows of a message now: for messages whose receipt is missing. - Returns: nil if it does not tell.
    public func status(ofMessage id: String) async -> ProviderReceipt.Status? {
        guard
            id.utf8.allSatisfy({
                (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || (0x61...0x7A).contains($0)
            })
        else { return nil }
        let exchange = HTTPExchange(client: client, timeout: configuration.requestTimeout)
        guard case .answered(let answer) = await exchange.perform(request(path: "Messages/\(id).json")),
            answer.status == 200, let body = TwilioMapping.body(answer), let status = body.state
        else { return nil }
        return TwilioMapping.status(status, code: body.errorCode)
    }

    private func request(path: String) -> HTTPClientRequest {
        var request = HTTPClientRequest(
            url: "\(configuration.baseURL)/2010-04-01/Accounts/\(configuration.accountSID)/\(path)"
        )
        let token = Base64.encode("\(configuration.accountSID):\(configuration.authToken.value)".utf8)
        request.headers.add(name: "authorization", value: "Basic \(token)")
        request.headers.add(name: "accept", value: "application/json")
        return request
    }
}

/// What Twilio's answers, receipts and signatures mean. `docs/providers.md` has the tables.
enum TwilioMapping {
    /// Codes that no repetition cures: bad or landline number, region not enabled, opted out, unreachable for good.
    static let permanentCodes: Set<String> = [
        "21211", "21212", "21214", "21217", "21401", "21407", "21408", "21421", "21602", "21604", "21606", "21610",
        "21612",
        "21614", "21617", "30004", "30005", "30006", "30007",
    ]
    /// Codes that time cures.
    static let retriableCodes: Set<String> = ["20429", "14107", "30001", "30003", "30008", "20500", "20503", "21611"]
    /// Codes that someone on our side must cure.
    static let operatorCodes: Set<String> = ["20003", "20005", "20006", "20008", "30002", "21703", "21704"]

    struct Body {
        var sid: String?
        /// `status` as a text: the message's state.
        var state: String?
        /// `code` of a refusal.
        var code: String?
        var errorCode: String?
        var message: String?
    }

    static func body(_ answer: HTTPExchange.Answer) -> Body? {
        guard
            let object = try? JSONSerialization.jsonObject(with: Data(answer.body.readableBytesView)) as? [String: Any]
        else { return nil }
        func text(_ key: String) -> String? {
            switch object[key] {
            case let text as String: text
            case let number as NSNumber: number.stringValue
            default: nil
            }
        }
        return Body(
            sid: text("sid"),
            state: object["status"] as? String,
            code: text("code"),
            errorCode: text("error_code"),
            message: text("message")
        )
    }

    static func outcome(_ answer: HTTPExchange.Answer) -> SendOutcome {
        let body = body(answer)
        let words = body?.message ?? excerpt(answer.body)
        switch answer.status {
        case 200..<300:
            guard let body, let sid = body.sid, !sid.isEmpty else {
                return .inDoubt(reason: "unreadable answer \(answer.status): \(excerpt(answer.body))")
            }
            if let code = body.errorCode, body.state == "failed" || body.state == "undelivered" {
                return refusal(code, words, answer)
            }
            return .accepted(providerMessageID: sid, detail: body.state)
        case 401, 403:
            // Some refusals of a message come with 403, such as a region that is not enabled.
            if let code = body?.code, permanentCodes.contains(code) { return .rejected(code: code, reason: words) }
            return .retriable(
                code: body?.code ?? String(answer.status),
                reason: "our account was refused: \(words)",
                retryAfter: answer.retryAfter ?? .seconds(60)
            )
        case 429:
            return .retriable(code: body?.code ?? "429", reason: words, retryAfter: answer.retryAfter ?? .seconds(1))
        case 504: return .inDoubt(reason: "504: \(words)")
        case 408, 425, 500...599:
            return .retriable(code: body?.code ?? String(answer.status), reason: words, retryAfter: answer.retryAfter)
        default:
            guard let code = body?.code else { return .rejected(code: String(answer.status), reason: words) }
            return refusal(code, words, answer)
        }
    }

    private static func refusal(_ code: String, _ reason: String, _ answer: HTTPExchange.Answer) -> SendOutcome {
        if retriableCodes.contains(code) {
            return .retriable(code: code, reason: reason, retryAfter: answer.retryAfter)
        }
        if operatorCodes.contains(code) {
            return .retriable(code: code, reason: reason, retryAfter: answer.retryAfter ?? .seconds(60))
        }
        return .rejected(code: code, reason: reason)
    }

    /// What the state in a receipt means.
    static func status(_ state: String, code: String?) -> ProviderReceipt.Status {
        switch state.lowercased() {
        case "delivered", "read": return .delivered
        case "accepted", "scheduled", "queued", "sending", "sent": return .sent
        case "undelivered", "failed", "canceled":
            guard let code, retriableCodes.contains(code) || operatorCodes.contains(code) else { return .failed }
            return .undelivered
        default: return .other
        }
    }

    /// `X-Twilio-Signature`: base64 of HMAC-SHA1, keyed with the token, of the URL as it was called, followed for a form
    /// body by each name and value in the order of the names; a JSON body is named by its digest in the URL instead.
    static func isSigned(
        _ signature: String,
        token: Secret,
        url: String,
        body: ByteBuffer,
        isForm: Bool
    ) -> Bool {
        var text = url
        if isForm {
            let fields = FormFields(decoding: String(buffer: body)).fields.enumerated()
                .sorted { ($0.element.name, $0.offset) < ($1.element.name, $1.offset) }
            for (_, field) in fields { text += field.name + field.value }
        } else if body.readableBytes > 0 {
            let query = url.split(separator: "?", maxSplits: 1).last.map { FormFields(decoding: $0) }
            guard let named = query?["bodySHA256"] else { return false }
            let digest = Crypto.SHA256.hash(data: Data(body.readableBytesView))
            let hex = digest.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
            guard named.lowercased() == hex else { return false }
        }
        guard let given = Data(base64Encoded: signature) else { return false }
        // The library compares in constant time.
        return HMAC<Insecure.SHA1>.isValidAuthenticationCode(
            given,
            authenticating: Data(text.utf8),
            using: SymmetricKey(data: Data(token.value.utf8))
        )
    }
}
