// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
public import NIOCore
import NIOHTTP1

/// SMS by Kaleyra's older interface, version 4 (SolutionsInfini), where everything is a form parameter.
public final class KaleyraLegacyProvider: Provider {
    /// How the account is reached.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre; also the listener's path segment.
        public var name: String
        /// Up to the path's end, such as `https://api-alerts.kaleyra.com/v4/`.
        public var url: String
        public var apiKey: Secret
        /// Where receipts are sent to; nil: none are asked for.
        public var callbackURL: String?
        /// `entity_id` (India DLT).
        public var entityID: String?
        /// `template_id` (India DLT) by the name of the message's template.
        public var templateIDs: [String: String]
        /// Sends under way at once, and connections.
        public var concurrency: Int
        public var requestTimeout: Duration
        public var connectTimeout: Duration
        public var tls: ProviderTLS?

        public init(
            name: String = "kaleyra-v4",
            url: String = "https://api-alerts.kaleyra.com/v4/",
            apiKey: Secret,
            callbackURL: String? = nil,
            entityID: String? = nil,
            templateIDs: [String: String] = [:],
            concurrency: Int = 64,
            requestTimeout: Duration = .seconds(10),
            connectTimeout: Duration = .seconds(3),
            tls: ProviderTLS? = nil
        ) {
            precondition(concurrency > 0, "concurrency of provider \(name) must be at least 1")
            self.name = name
            self.url = url
            self.apiKey = apiKey
            self.callbackURL = callbackURL
            self.entityID = entityID
            self.templateIDs = templateIDs
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
            let exchange = HTTPExchange(client: client, timeout: configuration.requestTimeout)
            let form = fields(message, reference: message.reference(attempt: attempt))
            switch await exchange.perform(request(form)) {
            case .answered(let answer): return KaleyraLegacyMapping.outcome(answer)
            case .notSent(let reason): return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: reason)
            }
        }
    }

    /// What the provider knows of messages of today (`sms.status`). - Returns: nil if it does not tell.
    public func status(ofMessage id: String) async -> ProviderReceipt.Status? {
        let exchange = HTTPExchange(client: client, timeout: configuration.requestTimeout)
        let form = FormFields([
            ("api_key", configuration.apiKey.value), ("method", "sms.status"), ("id", id), ("format", "json"),
        ])
        guard case .answered(let answer) = await exchange.perform(request(form)), answer.status == 200,
            let state = KaleyraLegacyMapping.entry(answer)?.status
        else { return nil }
        return KaleyraMapping.status(state, code: nil)
    }

    private func request(_ form: FormFields) -> HTTPClientRequest {
        var request = HTTPClientRequest(url: configuration.url)
        request.method = .POST
        request.headers.add(name: "content-type", value: "application/x-www-form-urlencoded")
        request.body = .bytes(ByteBuffer(string: form.encoded))
        return request
    }

    func fields(_ message: Message, reference: String) -> FormFields {
        var fields = FormFields([
            ("api_key", configuration.apiKey.value), ("method", "sms"), ("format", "json"), ("to", message.to),
            ("sender", message.sender), ("message", message.content.text),
            ("unicode", SMSSegments(message.content.text).encoding == .ucs2 ? "1" : "0"), ("custom", reference),
        ])
        if let entityID = configuration.entityID { fields.append("entity_id", entityID) }
        if let template = message.template, let id = configuration.templateIDs[template] {
            fields.append("template_id", id)
        }
        if let callbackURL = configuration.callbackURL {
            let report = "msgid={msgid}&status={status}&delivered={delivered}&custom={custom}"
            fields.append("dlrurl", callbackURL + (callbackURL.contains("?") ? "&" : "?") + report)
        }
        return fields
    }
}

/// What the answers of version 4 mean: the body decides, not the HTTP code.
enum KaleyraLegacyMapping {
    struct Entry {
        var id: String?
        var status: String?
    }

    /// The first of `data`, which is an array, or an object of arrays in some methods.
    static func entry(_ answer: HTTPExchange.Answer) -> Entry? {
        guard let object = object(answer) else { return nil }
        let first: [String: Any]?
        switch object["data"] {
        case let array as [[String: Any]]: first = array.first
        case let single as [String: Any]: first = (single["0"] as? [String: Any]) ?? single
        default: first = nil
        }
        return first.map { Entry(id: $0["id"] as? String, status: $0["status"] as? String) }
    }

    private static func object(_ answer: HTTPExchange.Answer) -> [String: Any]? {
        (try? JSONSerialization.jsonObject(with: Data(answer.body.readableBytesView))) as? [String: Any]
    }

    /// `A401…A403`, `E6xx` and the like: refused as a whole.
    static func outcome(_ answer: HTTPExchange.Answer) -> SendOutcome {
        let object = object(answer)
        let words = (object?["message"] as? String) ?? excerpt(answer.body)
        guard let code = object?["status"] as? String else {
            switch answer.status {
            case 401, 403: return .retriable(code: String(answer.status), reason: words, retryAfter: .seconds(60))
            case 504: return .inDoubt(reason: "504: \(words)")
            case 408, 425, 429, 500...599:
                return .retriable(code: String(answer.status), reason: words, retryAfter: answer.retryAfter)
            case 200..<300: return .inDoubt(reason: "unreadable answer \(answer.status): \(excerpt(answer.body))")
            default: return .rejected(code: String(answer.status), reason: words)
            }
        }
        guard code == "OK" else {
            // A4xx: key, method and account; E6xx: content and DLT. Only the first are ours to cure.
            if ["A401", "A402", "A403", "A404", "E605"].contains(code) || KaleyraMapping.operatorCodes.contains(code) {
                return .retriable(code: code, reason: words, retryAfter: .seconds(60))
            }
            if answer.status == 429 || KaleyraMapping.retriableCodes.contains(code) {
                return .retriable(code: code, reason: words, retryAfter: answer.retryAfter)
            }
            return .rejected(code: code, reason: words)
        }
        guard let entry = entry(answer) else { return .inDoubt(reason: "an answer without data: \(words)") }
        if let status = entry.status {
            if KaleyraMapping.permanentCodes.contains(status) { return .rejected(code: status, reason: words) }
            if KaleyraMapping.operatorCodes.contains(status) {
                return .retriable(code: status, reason: words, retryAfter: .seconds(60))
            }
            if KaleyraMapping.retriableCodes.contains(status) { return .retriable(code: status, reason: words) }
        }
        guard let id = entry.id, !id.isEmpty else { return .inDoubt(reason: "an answer without an id: \(words)") }
        return .accepted(providerMessageID: id, detail: entry.status)
    }
}
