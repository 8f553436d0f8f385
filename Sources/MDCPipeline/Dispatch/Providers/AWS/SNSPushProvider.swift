// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCModel
public import NIOCore
import Synchronization

/// Push notifications by AWS SNS: to an endpoint (`arn:…`), or to a device token, whose endpoint is made first.
public final class SNSPushProvider: Provider {
    /// How the account is reached, and what devices get.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre.
        public var name: String
        public var endpoint: AWSEndpoint
        /// `…:app/GCM/…` or `…:app/APNS/…`: where the endpoints of bare tokens are made; nil: only `arn:` recipients.
        public var applicationARN: String?
        /// Sends under way at once, and connections.
        public var concurrency: Int
        public var requestTimeout: Duration
        public var connectTimeout: Duration
        /// Whether delivery-status logs or apps report.
        public var sendsReceipts: Bool

        public init(
            name: String = "sns",
            endpoint: AWSEndpoint,
            applicationARN: String? = nil,
            concurrency: Int = 32,
            requestTimeout: Duration = .seconds(10),
            connectTimeout: Duration = .seconds(3),
            sendsReceipts: Bool = false
        ) {
            precondition(concurrency > 0, "concurrency of provider \(name) must be at least 1")
            self.name = name
            self.endpoint = endpoint
            self.applicationARN = applicationARN
            self.concurrency = concurrency
            self.requestTimeout = requestTimeout
            self.connectTimeout = connectTimeout
            self.sendsReceipts = sendsReceipts
        }
    }

    public var name: String { configuration.name }
    public var channel: Channel { .push }
    public var concurrency: Int { configuration.concurrency }
    public var sendsReceipts: Bool { configuration.sendsReceipts }

    private static let knownEndpointsMax = 100_000

    private let configuration: Configuration
    private let client: AWSClient
    private let gate: ConcurrencyGate
    /// Endpoints by token. Emptied when full: making one again gives the same.
    private let endpoints = Mutex<[String: String]>([:])

    /// - Parameter group: runs the connections; not shut down by the provider.
    /// - Throws: ``PipelineError`` (`configuration`).
    public init(_ configuration: Configuration, group: any EventLoopGroup) throws {
        self.configuration = configuration
        client = try AWSClient(
            configuration.endpoint,
            service: "sns",
            hostPrefix: "sns",
            connections: configuration.concurrency,
            connectTimeout: configuration.connectTimeout,
            group: group
        )
        gate = ConcurrencyGate(limit: configuration.concurrency)
    }

    public func shutdown() async { try? await client.client.shutdown() }

    public func send(_ message: Message, attempt: Int) async -> SendOutcome {
        await gate.pass {
            let target: String
            if message.to.hasPrefix("arn:") {
                target = message.to
            } else {
                switch await endpoint(token: message.to) {
                case .success(let arn): target = arn
                case .failure(let refusal): return refusal.outcome
                }
            }
            let fields = publishFields(message, attempt: attempt, target: target)
            switch await call(fields) {
            case .answered(let answer):
                let outcome = Self.outcome(answer, element: "MessageId")
                // The endpoint may have been deleted behind our back: the next attempt makes it anew.
                if case .rejected("NotFound", let reason) = outcome, !message.to.hasPrefix("arn:") {
                    endpoints.withLock { $0[message.to] = nil }
                    return .retriable(code: "NotFound", reason: reason)
                }
                return outcome
            case .notSent(let reason): return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: reason)
            }
        }
    }

    private struct Refusal: Error { var outcome: SendOutcome }

    private func endpoint(token: String) async -> Result<String, Refusal> {
        if let known = endpoints.withLock({ $0[token] }) { return .success(known) }
        guard let application = configuration.applicationARN else {
            let reason = "the recipient is a token; set application_arn, or use the endpoint's ARN"
            return .failure(Refusal(outcome: .rejected(code: "InvalidParameter", reason: reason)))
        }
        let result = await call(
            FormFields([
                ("Action", "CreatePlatformEndpoint"), ("Version", "2010-03-31"),
                ("PlatformApplicationArn", application), ("Token", token),
            ])
        )
        switch result {
        // Nothing was published yet: whatever went wrong, the message can be sent again.
        case .notSent(let reason), .unanswered(let reason):
            return .failure(Refusal(outcome: .retriable(code: "connect", reason: reason)))
        case .answered(let answer):
            guard answer.status == 200, let arn = AWSMapping.element("EndpointArn", in: answer.body) else {
                let outcome = Self.outcome(answer, element: "EndpointArn")
                guard case .inDoubt(let reason) = outcome else { return .failure(Refusal(outcome: outcome)) }
                return .failure(Refusal(outcome: .retriable(code: "endpoint", reason: reason)))
            }
            endpoints.withLock { endpoints in
                if endpoints.count >= Self.knownEndpointsMax { endpoints = [:] }
                endpoints[token] = arn
            }
            return .success(arn)
        }
    }

    private func call(_ fields: FormFields) async -> HTTPExchange.Result {
        await client.post(
            "/",
            headers: [("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
            body: fields.encoded,
            timeout: configuration.requestTimeout
        )
    }

    private struct Notification: Encodable {
        var title: String?
        var body: String
    }
    private struct FCMPayload: Encodable {
        var notification: Notification
        var data: [String: String]
    }
    private struct APNSPayload: Encodable {
        struct Aps: Encodable { var alert: Notification }
        var aps: Aps
        var mdc_reference: String
        var data: [String: String]?
    }
    private struct Structured: Encodable {
        var `default`: String
        var GCM: String
        var APNS: String
        var APNS_SANDBOX: String
    }

    func publishFields(_ message: Message, attempt: Int, target: String) -> FormFields {
        let reference = message.reference(attempt: attempt)
        let notification = Notification(
            title: message.content.title ?? message.content.subject,
            body: message.content.text
        )
        var data = message.content.data ?? [:]
        data["mdc_reference"] = reference
        let apns = encodeJSON(
            APNSPayload(aps: .init(alert: notification), mdc_reference: reference, data: message.content.data)
        )
        let structured = Structured(
            default: message.content.text,
            GCM: encodeJSON(FCMPayload(notification: notification, data: data)),
            APNS: apns,
            APNS_SANDBOX: apns
        )
        var fields = FormFields([
            ("Action", "Publish"), ("Version", "2010-03-31"), ("TargetArn", target), ("MessageStructure", "json"),
            ("Message", encodeJSON(structured)),
        ])
        guard let expiresAt = message.expiresAt else { return fields }
        let seconds = String(max(1, (expiresAt.rawValue - wallClockMilliseconds()) / 1_000))
        for (index, name) in ["AWS.SNS.MOBILE.GCM.TTL", "AWS.SNS.MOBILE.APNS.TTL"].enumerated() {
            let prefix = "MessageAttributes.entry.\(index + 1)"
            fields.append("\(prefix).Name", name)
            fields.append("\(prefix).Value.DataType", "String")
            fields.append("\(prefix).Value.StringValue", seconds)
        }
        return fields
    }

    /// `EndpointDisabled` and unknown endpoints: the token is dead.
    static func outcome(_ answer: HTTPExchange.Answer, element: String) -> SendOutcome {
        if (200..<300).contains(answer.status) {
            guard let id = AWSMapping.element(element, in: answer.body), !id.isEmpty else {
                return .inDoubt(reason: "unreadable answer \(answer.status): \(excerpt(answer.body))")
            }
            return .accepted(providerMessageID: id)
        }
        let code = AWSMapping.element("Code", in: answer.body) ?? String(answer.status)
        let reason = AWSMapping.element("Message", in: answer.body) ?? excerpt(answer.body)
        if code == "EndpointDisabled" { return .rejected(code: code, reason: reason) }
        return AWSMapping.refusal(code: code, reason: reason, answer: answer)
    }
}
