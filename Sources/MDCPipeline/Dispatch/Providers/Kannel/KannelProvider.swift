// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import MDCModel
public import NIOCore
import NIOHTTP1

/// SMS through a Kannel gateway: its `sendsms` interface, receipts by `dlr-url`.
///
/// Kannel answers without an id: our reference, which its receipts carry back in their URL, stands in for one.
public final class KannelProvider: Provider {
    /// How the gateway is reached.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre; also the listener's path segment.
        public var name: String
        /// Up to the path, such as `http://127.0.0.1:13013/cgi-bin/sendsms`.
        public var url: String
        public var username: String
        public var password: Secret
        /// Where receipts are sent to; nil: none are asked for.
        public var callbackURL: String?
        /// The gateway's connection to use; nil: its own choice.
        public var smsc: String?
        /// `meta-data`, by which the gateway sets optional parameters, such as India's DLT ids.
        public var metaData: String?
        /// Sends under way at once, and connections.
        public var concurrency: Int
        public var requestTimeout: Duration
        public var connectTimeout: Duration
        public var tls: ProviderTLS?

        public init(
            name: String = "kannel",
            url: String,
            username: String,
            password: Secret,
            callbackURL: String? = nil,
            smsc: String? = nil,
            metaData: String? = nil,
            concurrency: Int = 64,
            requestTimeout: Duration = .seconds(10),
            connectTimeout: Duration = .seconds(3),
            tls: ProviderTLS? = nil
        ) {
            precondition(concurrency > 0, "concurrency of provider \(name) must be at least 1")
            self.name = name
            self.url = url
            self.username = username
            self.password = password
            self.callbackURL = callbackURL
            self.smsc = smsc
            self.metaData = metaData
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
            let reference = message.reference(attempt: attempt)
            let exchange = HTTPExchange(client: client, timeout: configuration.requestTimeout)
            switch await exchange.perform(request(message, reference: reference)) {
            case .answered(let answer): return KannelMapping.outcome(answer, reference: reference)
            case .notSent(let reason): return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: reason)
            }
        }
    }

    private func request(_ message: Message, reference: String) -> HTTPClientRequest {
        var request = HTTPClientRequest(url: configuration.url + "?" + fields(message, reference: reference).encoded)
        request.method = .GET
        return request
    }

    func fields(_ message: Message, reference: String) -> FormFields {
        var fields = FormFields([
            ("username", configuration.username), ("password", configuration.password.value), ("from", message.sender),
            ("to", message.to), ("text", message.content.text), ("charset", "UTF-8"),
            ("coding", SMSSegments(message.content.text).encoding == .ucs2 ? "2" : "0"),
        ])
        if let smsc = configuration.smsc { fields.append("smsc", smsc) }
        if let metaData = configuration.metaData { fields.append("meta-data", metaData) }
        if let expiresAt = message.expiresAt {
            fields.append("validity", String(max(1, (expiresAt.rawValue - wallClockMilliseconds()) / 60_000)))
        }
        if let callbackURL = configuration.callbackURL {
            // Delivered, not delivered, buffered, accepted and refused by the centre; the gateway fills `%…` in.
            fields.append("dlr-mask", "31")
            let report = FormFields([("reference", reference)]).encoded + "&type=%d&answer=%A&id=%F"
            fields.append("dlr-url", callbackURL + (callbackURL.contains("?") ? "&" : "?") + report)
        }
        return fields
    }
}

/// What Kannel's answers and receipts mean to us. `docs/providers.md` has the tables.
enum KannelMapping {
    static func outcome(_ answer: HTTPExchange.Answer, reference: String) -> SendOutcome {
        let words = excerpt(answer.body)
        let code = "kannel-" + String(words.prefix { $0.isNumber })
        switch answer.status {
        case 202, 200:
            // "0: Accepted for delivery", "3: Queued for later delivery".
            guard words.hasPrefix("0:") || words.hasPrefix("3:") || words.hasPrefix("Sent.") else {
                return .inDoubt(reason: "an answer that is none of Kannel's: \(words)")
            }
            return .accepted(providerMessageID: reference, detail: words)
        case 401, 403:
            return .retriable(
                code: String(answer.status),
                reason: "our account was refused: \(words)",
                retryAfter: answer.retryAfter ?? .seconds(60)
            )
        case 429: return .retriable(code: "429", reason: words, retryAfter: answer.retryAfter)
        case 503: return .retriable(code: code, reason: words, retryAfter: answer.retryAfter)
        case 504: return .inDoubt(reason: "504: \(words)")
        case 500...599: return .retriable(code: String(answer.status), reason: words, retryAfter: answer.retryAfter)
        default:
            // Kannel answers wrong credentials with 403, in older versions with 400 and these words.
            if words.contains("Authorization failed") {
                return .retriable(code: "403", reason: "our account was refused: \(words)", retryAfter: .seconds(60))
            }
            return .rejected(code: String(answer.status), reason: words)
        }
    }

    /// `%d`: 1 delivered, 2 not delivered, 4 buffered, 8 given to the centre, 16 refused by the centre.
    static func status(type: String, answer: String?) -> ProviderReceipt.Status {
        let state = answer.flatMap { SMPPReceipt.fields($0)["stat"] }?.uppercased()
        switch type {
        case "1": return .delivered
        case "2": return state.map(SMPPReceipt.status).flatMap { $0 == .other ? nil : $0 } ?? .failed
        case "4", "8": return .sent
        case "16": return .failed
        default: return .other
        }
    }
}
