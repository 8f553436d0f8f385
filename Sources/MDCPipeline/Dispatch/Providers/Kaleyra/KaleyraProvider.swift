// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
public import NIOCore
import NIOHTTP1

/// SMS by the HTTP interface of kaleyra.io, version 1.
public final class KaleyraProvider: Provider {
    /// The form of the request's body.
    public enum BodyFormat: String, Sendable, Hashable {
        /// `application/x-www-form-urlencoded`.
        case form
        /// `application/json`.
        case json
    }

    /// How the account is reached.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre; also the listener's path segment.
        public var name: String
        /// Scheme and host, such as `https://api.in.kaleyra.io`; no slash at the end.
        public var baseURL: String
        /// The account's SID: a part of the path.
        public var accountID: String
        /// The `api-key` header.
        public var apiKey: Secret
        /// Where receipts are sent to; nil: none are asked for.
        public var callbackURL: String?
        /// The form of the request's body.
        public var format: BodyFormat
        /// `type` by lane; lanes that are not listed are `TXN`.
        public var typeByLane: [String: String]
        /// `template_id` (India DLT) by the name of the message's template.
        public var templateIDs: [String: String]
        /// Sends under way at once, and connections.
        public var concurrency: Int
        /// The limit of a request once a connection is there; after it the message is in doubt.
        public var requestTimeout: Duration
        /// The limit of making a connection; after it the message is retriable.
        public var connectTimeout: Duration

        public init(
            name: String = "kaleyra",
            baseURL: String,
            accountID: String,
            apiKey: Secret,
            callbackURL: String? = nil,
            format: BodyFormat = .form,
            typeByLane: [String: String] = ["critical": "OTP", "bulk": "MKT"],
            templateIDs: [String: String] = [:],
            concurrency: Int = 64,
            requestTimeout: Duration = .seconds(10),
            connectTimeout: Duration = .seconds(3)
        ) {
            precondition(concurrency > 0, "concurrency of provider \(name) must be at least 1")
            self.name = name
            self.baseURL = baseURL
            self.accountID = accountID
            self.apiKey = apiKey
            self.callbackURL = callbackURL
            self.format = format
            self.typeByLane = typeByLane
            self.templateIDs = templateIDs
            self.concurrency = concurrency
            self.requestTimeout = requestTimeout
            self.connectTimeout = connectTimeout
        }
    }

    private struct CallbackRequest: Encodable {
        var url: String
        var method = "POST"
    }

    private struct SendRequest: Encodable {
        var to: String
        var sender: String
        var type: String
        var body: String
        var ref: String
        var template_id: String?
        var callback: CallbackRequest?
    }

    public var name: String { configuration.name }
    public var channel: Channel { .sms }
    public var concurrency: Int { configuration.concurrency }
    public var sendsReceipts: Bool { configuration.callbackURL != nil }

    private let configuration: Configuration
    private let client: HTTPClient
    private let gate: ConcurrencyGate

    /// - Parameter group: runs the connections; not shut down by the provider.
    public init(_ configuration: Configuration, group: any EventLoopGroup) {
        self.configuration = configuration
        self.client = HTTPExchange.makeClient(
            group: group,
            connections: configuration.concurrency,
            connectTimeout: configuration.connectTimeout
        )
        self.gate = ConcurrencyGate(limit: configuration.concurrency)
    }

    public func send(_ message: Message, attempt: Int) async -> SendOutcome {
        await gate.pass {
            let exchange = HTTPExchange(client: client, timeout: configuration.requestTimeout)
            switch await exchange.perform(request(message, attempt: attempt)) {
            case .answered(let answer): return KaleyraMapping.outcome(answer)
            case .notSent(let reason): return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: reason)
            }
        }
    }

    public func shutdown() async { try? await client.shutdown() }

    private func request(_ message: Message, attempt: Int) -> HTTPClientRequest {
        let send = SendRequest(
            to: message.to,
            sender: message.sender,
            type: configuration.typeByLane[message.lane] ?? "TXN",
            body: message.content.text,
            ref: message.reference(attempt: attempt),
            template_id: message.template.flatMap { configuration.templateIDs[$0] },
            callback: configuration.callbackURL.map { CallbackRequest(url: $0) }
        )
        var request = HTTPClientRequest(url: "\(configuration.baseURL)/v1/\(configuration.accountID)/messages")
        request.method = .POST
        request.headers.add(name: "api-key", value: configuration.apiKey.value)
        request.headers.add(name: "accept", value: "application/json")
        switch configuration.format {
        case .form:
            request.headers.add(name: "content-type", value: "application/x-www-form-urlencoded")
            request.body = .bytes(ByteBuffer(string: Self.form(send).encoded))
        case .json:
            request.headers.add(name: "content-type", value: "application/json")
            request.body = .bytes(ByteBuffer(string: encodeJSON(send)))
        }
        return request
    }

    private static func form(_ send: SendRequest) -> FormFields {
        var fields = FormFields([
            ("to", send.to), ("sender", send.sender), ("type", send.type), ("body", send.body), ("ref", send.ref),
        ])
        if let templateID = send.template_id { fields.append("template_id", templateID) }
        if let callback = send.callback { fields.append("callback", encodeJSON(callback)) }
        return fields
    }
}
