// SPDX-License-Identifier: Apache-2.0

import AsyncHTTPClient
import Foundation
import MDCModel
public import NIOCore

/// E-mail by AWS SES, version 2: whole mails (`Raw`), with our reference as a tag that its events carry.
public final class SESProvider: Provider {
    /// The tag that carries our reference.
    public static let referenceTag = "mdc_reference"

    /// How the account is reached, and what is written into mails.
    public struct Configuration: Sendable {
        /// Unique among the providers of a centre.
        public var name: String
        public var endpoint: AWSEndpoint
        /// Its event destinations report; without one there are no receipts with our reference.
        public var configurationSet: String?
        /// `List-Unsubscribe` address; `{reference}` stands for our reference.
        public var unsubscribeURL: String?
        /// Whether an ``SQSPoller`` or the listener brings its events.
        public var sendsReceipts: Bool
        /// Sends under way at once, and connections.
        public var concurrency: Int
        public var requestTimeout: Duration
        public var connectTimeout: Duration

        public init(
            name: String = "ses",
            endpoint: AWSEndpoint,
            configurationSet: String? = nil,
            unsubscribeURL: String? = nil,
            sendsReceipts: Bool = true,
            concurrency: Int = 32,
            requestTimeout: Duration = .seconds(10),
            connectTimeout: Duration = .seconds(3)
        ) {
            precondition(concurrency > 0, "concurrency of provider \(name) must be at least 1")
            self.name = name
            self.endpoint = endpoint
            self.configurationSet = configurationSet
            self.unsubscribeURL = unsubscribeURL
            self.sendsReceipts = sendsReceipts
            self.concurrency = concurrency
            self.requestTimeout = requestTimeout
            self.connectTimeout = connectTimeout
        }
    }

    private struct SendRequest: Encodable {
        struct Destination: Encodable { var ToAddresses: [String] }
        struct Raw: Encodable { var Data: String }
        struct Content: Encodable { var Raw: Raw }
        struct Tag: Encodable {
            var Name: String
            var Value: String
        }
        var FromEmailAddress: String
        var Destination: Destination
        var Content: Content
        var EmailTags: [Tag]
        var ConfigurationSetName: String?
    }

    public var name: String { configuration.name }
    public var channel: Channel { .email }
    public var concurrency: Int { configuration.concurrency }
    public var sendsReceipts: Bool { configuration.sendsReceipts }

    private let configuration: Configuration
    private let client: AWSClient
    private let gate: ConcurrencyGate

    /// - Parameter group: runs the connections; not shut down by the provider.
    /// - Throws: ``PipelineError`` (`configuration`).
    public init(_ configuration: Configuration, group: any EventLoopGroup) throws {
        self.configuration = configuration
        client = try AWSClient(
            configuration.endpoint,
            service: "ses",
            hostPrefix: "email",
            connections: configuration.concurrency,
            connectTimeout: configuration.connectTimeout,
            group: group
        )
        gate = ConcurrencyGate(limit: configuration.concurrency)
    }

    public func shutdown() async { try? await client.client.shutdown() }

    public func send(_ message: Message, attempt: Int) async -> SendOutcome {
        let sender = MIMEHeader.splitMailbox(message.sender).address
        guard SMTPProvider.isSafeAddress(message.to) else {
            return .rejected(code: "5.1.3", reason: "recipient address '\(message.to.prefix(100))' is malformed")
        }
        guard SMTPProvider.isSafeAddress(sender) else {
            return .rejected(code: "5.1.7", reason: "sender address '\(message.sender.prefix(100))' is malformed")
        }
        let reference = message.reference(attempt: attempt)
        let mail = MIMEMessage(
            from: message.sender,
            to: message.to,
            subject: message.content.subject ?? message.content.title ?? "",
            text: message.content.text,
            html: message.content.html,
            messageID: "\(reference)@\(sender.split(separator: "@").last ?? "localhost")",
            reference: reference,
            date: message.createdAt,
            unsubscribeURL: configuration.unsubscribeURL?.replacing("{reference}", with: reference),
            attachments: message.content.attachments ?? []
        )
        let request = SendRequest(
            FromEmailAddress: MIMEHeader.mailbox(message.sender).replacingOccurrences(of: "\r\n", with: ""),
            Destination: .init(ToAddresses: [message.to]),
            Content: .init(Raw: .init(Data: Base64.encode(mail.encoded().readableBytesView))),
            EmailTags: [.init(Name: Self.referenceTag, Value: reference)],
            ConfigurationSetName: configuration.configurationSet
        )
        return await gate.pass {
            let result = await client.post(
                "/v2/email/outbound-emails",
                headers: [("content-type", "application/json")],
                body: encodeJSON(request),
                timeout: configuration.requestTimeout
            )
            switch result {
            case .answered(let answer): return Self.outcome(answer)
            case .notSent(let reason): return .retriable(code: "connect", reason: reason)
            case .unanswered(let reason): return .inDoubt(reason: reason)
            }
        }
    }

    static func outcome(_ answer: HTTPExchange.Answer) -> SendOutcome {
        guard (200..<300).contains(answer.status) else {
            let (code, reason) = AWSMapping.jsonProblem(answer)
            return AWSMapping.refusal(code: code, reason: reason, answer: answer)
        }
        let object = (try? JSONSerialization.jsonObject(with: Data(answer.body.readableBytesView))) as? [String: Any]
        guard let id = object?["MessageId"] as? String, !id.isEmpty else {
            return .inDoubt(reason: "unreadable answer \(answer.status): \(excerpt(answer.body))")
        }
        return .accepted(providerMessageID: id)
    }
}

/// Events of SES, as they come through SNS and SQS.
enum SESEvent {
    /// The receipts that an event is about, one for each recipient.
    ///
    /// - Parameter text: The JSON of an SES event, of an SNS envelope around one, or of an envelope with an object inside.
    /// - Returns: nil if it is none of these.
    static func receipts(_ text: some StringProtocol, provider: String, now: Int64) -> [ProviderReceipt]? {
        guard var object = (try? JSONSerialization.jsonObject(with: Data(text.utf8))) as? [String: Any] else {
            return nil
        }
        if object["Type"] as? String == "Notification" || object["TopicArn"] != nil {
            if let inner = object["Message"] as? String {
                guard let read = (try? JSONSerialization.jsonObject(with: Data(inner.utf8))) as? [String: Any] else {
                    return nil
                }
                object = read
            } else if let inner = object["Message"] as? [String: Any] {
                object = inner
            }
        }
        guard let kind = (object["eventType"] ?? object["notificationType"]) as? String,
            let mail = object["mail"] as? [String: Any], let id = mail["messageId"] as? String
        else { return nil }
        let reference = ((mail["tags"] as? [String: Any])?[SESProvider.referenceTag] as? [String])?.first
        let details = details(kind, object, mail)
        return details.entries.map { entry in
            ProviderReceipt(
                provider: provider,
                channel: .email,
                providerMessageID: id,
                status: entry.status,
                code: entry.code,
                reason: String(
                    decoding: "\(kind): \(entry.words)".utf8.prefix(CallbackParser.reasonBytesMax),
                    as: UTF8.self
                ),
                at: details.at.flatMap(CallbackParser.timestamp) ?? .init(now),
                reference: reference ?? header("X-MDC-Reference", mail)
            )
        }
    }

    private struct Entry {
        var status: ProviderReceipt.Status
        var code: String?
        var words: String
    }

    private static func header(_ name: String, _ mail: [String: Any]) -> String? {
        (mail["headers"] as? [[String: Any]])?
            .first { ($0["name"] as? String)?.lowercased() == name.lowercased() }?["value"] as? String
    }

    private static func details(_ kind: String, _ object: [String: Any], _ mail: [String: Any])
        -> (entries: [Entry], at: String?)
    {
        switch kind {
        case "Delivery":
            let part = object["delivery"] as? [String: Any]
            let words = part?["smtpResponse"] as? String ?? "delivered"
            return ([Entry(status: .delivered, code: nil, words: words)], part?["timestamp"] as? String)
        case "Bounce": return bounce(object["bounce"] as? [String: Any] ?? [:])
        case "DeliveryDelay":
            let part = object["deliveryDelay"] as? [String: Any]
            let words = part?["delayType"] as? String ?? "delayed"
            return ([Entry(status: .sent, code: nil, words: words)], part?["timestamp"] as? String)
        case "Send": return ([Entry(status: .sent, code: nil, words: "sent")], mail["timestamp"] as? String)
        case "Reject":
            let words = (object["reject"] as? [String: Any])?["reason"] as? String ?? "rejected"
            return ([Entry(status: .failed, code: "Reject", words: words)], nil)
        case "Rendering Failure":
            let words = (object["failure"] as? [String: Any])?["errorMessage"] as? String ?? "rendering failed"
            return ([Entry(status: .failed, code: "RenderingFailure", words: words)], nil)
        default: return ([Entry(status: .other, code: nil, words: kind)], nil)
        }
    }

    private static func bounce(_ part: [String: Any]) -> (entries: [Entry], at: String?) {
        let type = part["bounceType"] as? String ?? "Undetermined"
        let subtype = part["bounceSubType"] as? String ?? ""
        let recipients = part["bouncedRecipients"] as? [[String: Any]] ?? [[:]]
        let entries = recipients.map { recipient in
            let code = recipient["status"] as? String
            // Transient ones were tried by SES for hours; another attempt of ours may still reach a mailbox that was full.
            let status: ProviderReceipt.Status =
                type == "Permanent"
                ? .failed
                : MailEventMapping.status(event: "bounced", code: code ?? (type == "Transient" ? "4.0.0" : nil))
            let words = recipient["diagnosticCode"] as? String ?? ""
            return Entry(status: status, code: code ?? "\(type)/\(subtype)", words: "\(type)/\(subtype) \(words)")
        }
        return (entries, part["timestamp"] as? String)
    }
}
