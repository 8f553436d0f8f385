// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore

/// The shape of a provider's callbacks. `docs/providers.md` lists their fields.
public enum CallbackFormat: String, Sendable, Hashable, CaseIterable {
    /// Kaleyra's delivery reports: query, form or JSON.
    case kaleyra
    /// Our documented JSON for mail events.
    case email
    /// An app's confirmation of a push message: JSON.
    case fcm
    /// Kannel's `dlr-url`: query.
    case kannel
    /// Twilio's status callbacks: form, with our reference in the query.
    case twilio
    /// Delivery logs of AWS SNS, from a subscription of their log group, a Kinesis stream or a Firehose: JSON.
    case deliveryLog

    /// The channel of the messages reported about.
    public var channel: Channel {
        switch self {
        case .kaleyra, .kannel, .twilio: .sms
        case .email: .email
        case .fcm, .deliveryLog: .push
        }
    }
}

extension CallbackFormat {
    /// The field that says what happened.
    fileprivate var stateField: String {
        switch self {
        case .kaleyra: "status"
        case .email, .fcm: "event"
        case .kannel: "type"
        case .twilio: "MessageStatus"
        case .deliveryLog: "status"
        }
    }
}

/// Why a callback cannot be understood; the text is the answer's body.
struct CallbackProblem: Error, Sendable, Equatable {
    var reason: String
}

/// Reads callbacks: bytes in, receipts or a reason out. Pure.
struct CallbackParser: Sendable {
    /// The shape.
    var format: CallbackFormat
    /// The provider's name, for the receipts.
    var provider: String
    /// The most receipts in one request.
    static let receiptsMax = 1_000
    /// The most bytes that are kept of a reason.
    static let reasonBytesMax = 500
    /// The most bytes of an id, a reference or a code.
    static let nameBytesMax = 512

    /// - Parameters:
    ///   - query: the part after `?`, if any; used if there is no body.
    ///   - contentType: decides between JSON and form; without one, the first byte does.
    ///   - now: stands in for a missing time.
    func receipts(
        query: String?,
        contentType: String?,
        body: ByteBuffer,
        now: Timestamp
    ) throws(CallbackProblem) -> [ProviderReceipt] {
        let reports: [[String: String]]
        if body.readableBytes == 0 {
            guard let query, !query.isEmpty else { throw CallbackProblem(reason: "neither a body nor a query") }
            reports = [Self.fields(FormFields(decoding: query))]
        } else if Self.isJSON(contentType, body) {
            reports = try Self.json(body)
        } else {
            let text = String(buffer: body)
            var report = Self.fields(FormFields(decoding: text))
            if format == .twilio, let query {
                report.merge(Self.fields(FormFields(decoding: query))) { body, _ in body }
            }
            reports = [report]
        }
        guard !reports.isEmpty else { throw CallbackProblem(reason: "an empty list of reports") }
        guard reports.count <= Self.receiptsMax else {
            throw CallbackProblem(reason: "\(reports.count) reports in one request; at most \(Self.receiptsMax)")
        }
        var receipts: [ProviderReceipt] = []
        receipts.reserveCapacity(reports.count)
        for report in reports { receipts.append(try receipt(report, now: now)) }
        return receipts
    }

    private func receipt(_ report: [String: String], now: Timestamp) throws(CallbackProblem) -> ProviderReceipt {
        func first(_ names: String...) -> String? {
            names.lazy.compactMap { report[$0] }.first { !$0.isEmpty }
        }
        let id: String?
        let state: String?
        let code: String?
        let status: ProviderReceipt.Status
        switch format {
        case .kaleyra:
            (id, state) = (first("id", "message_id", "msgid"), first("status"))
            code = first("code", "error_code", "trace")
            status = KaleyraMapping.status(state ?? code ?? "", code: code)
        case .email:
            (id, state) = (first("message_id"), first("event"))
            code = first("status", "code")
            status = MailEventMapping.status(event: state ?? "", code: code)
        case .fcm:
            (id, state) = (first("name", "message_id"), first("event"))
            code = first("code")
            status = FCMMapping.status(event: state ?? "", code: code)
        case .kannel:
            (id, state) = (first("reference"), first("type"))
            code = first("answer").flatMap { SMPPReceipt.fields($0)["err"] }
            status = KannelMapping.status(type: state ?? "", answer: first("answer"))
        case .deliveryLog: throw CallbackProblem(reason: "a delivery log is read by DeliveryLog")
        case .twilio:
            (id, state) = (first("MessageSid", "SmsSid"), first("MessageStatus", "SmsStatus"))
            code = first("ErrorCode")
            status = TwilioMapping.status(state ?? "", code: code)
        }
        guard state != nil || (format == .kaleyra && code != nil) else {
            throw CallbackProblem(reason: "'\(format.stateField)' is missing")
        }
        let reference = first("ref", "reference", "custom")
        for (name, value) in [("id", id), ("reference", reference), ("code", code)] {
            guard (value?.utf8.count ?? 0) <= Self.nameBytesMax else {
                throw CallbackProblem(reason: "the \(name) has more than \(Self.nameBytesMax) bytes")
            }
        }
        guard id != nil || reference.flatMap(MessageReference.init) != nil else {
            throw CallbackProblem(reason: "neither the message's id nor our reference")
        }
        let at = first("at", "timestamp", "delivered_at", "delivered").flatMap(Self.timestamp) ?? now
        return ProviderReceipt(
            provider: provider,
            channel: format.channel,
            providerMessageID: id ?? "",
            status: status,
            code: code,
            reason: first("reason", "description", "message", "answer").map {
                String(decoding: $0.utf8.prefix(Self.reasonBytesMax), as: UTF8.self)
            },
            at: at,
            reference: reference
        )
    }

    private static func fields(_ form: FormFields) -> [String: String] {
        Dictionary(form.fields.map { ($0.name, $0.value) }) { first, _ in first }
    }

    private static func isJSON(_ contentType: String?, _ body: ByteBuffer) -> Bool {
        if let contentType = contentType?.lowercased() {
            if contentType.contains("json") { return true }
            if contentType.contains("form-urlencoded") { return false }
        }
        let first = body.readableBytesView.first { $0 > 0x20 }
        return first == UInt8(ascii: "{") || first == UInt8(ascii: "[")
    }

    private static func json(_ body: ByteBuffer) throws(CallbackProblem) -> [[String: String]] {
        let value: Any
        do {
            value = try JSONSerialization.jsonObject(with: Data(body.readableBytesView))
        } catch {
            throw CallbackProblem(reason: "the body is not valid JSON")
        }
        switch value {
        case let object as [String: Any]: return [scalars(object)]
        case let objects as [[String: Any]]: return objects.map(scalars)
        default: throw CallbackProblem(reason: "the body must be a JSON object or an array of objects")
        }
    }

    /// The members that are text or number; others mean nothing to us.
    private static func scalars(_ object: [String: Any]) -> [String: String] {
        object.compactMapValues { value in
            switch value {
            case let text as String: text
            case let number as NSNumber: number.stringValue
            default: nil
            }
        }
    }

    /// Milliseconds or seconds since 1970, ISO 8601, or `YYYY-MM-DD HH:MM:SS` in UTC.
    static func timestamp(_ text: String) -> Timestamp? {
        if let number = Double(text) {
            guard number.isFinite, number > 0, number < 1e15 else { return nil }
            // Seconds reach 1e11 in the year 5138; milliseconds passed it in 1973.
            return Timestamp(Int64(number < 1e11 ? number * 1000 : number))
        }
        let withSeconds = Date.ISO8601FormatStyle(includingFractionalSeconds: false)
        let withFraction = Date.ISO8601FormatStyle(includingFractionalSeconds: true)
        let iso = text.count == 19 && text.contains(" ") ? text.replacing(" ", with: "T") + "Z" : text
        guard let date = (try? withSeconds.parse(iso)) ?? (try? withFraction.parse(iso)) else { return nil }
        return Timestamp(Int64(date.timeIntervalSince1970 * 1000))
    }
}

/// What events about a mail mean to us.
enum MailEventMapping {
    static func status(event: String, code: String?) -> ProviderReceipt.Status {
        switch event.lowercased() {
        case "delivered": return .delivered
        case "accepted", "queued", "relayed", "deferred", "delayed": return .sent
        case "expired": return .expired
        case "bounced", "failed": return isTransient(code) ? .undelivered : .failed
        default: return .other
        }
    }

    /// By RFC 3463: class 4, or mailbox full (x.2.2), or network and routing (x.4.x).
    private static func isTransient(_ code: String?) -> Bool {
        guard let parts = code?.split(separator: "."), parts.count == 3 else { return code?.hasPrefix("4") ?? false }
        return parts[0] == "4" || (parts[1] == "2" && parts[2] == "2") || parts[1] == "4"
    }
}
