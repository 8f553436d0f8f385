// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore

/// What AWS SNS logs of its deliveries, as a log group's subscription brings it. Pure.
///
/// Three shapes carry the same thing, gzip of a JSON document with log events: `{"awslogs": {"data": …}}` of a subscription, the
/// `Records` of a Kinesis stream (`kinesis.data`), and the `records` of a Firehose that posts to an HTTP endpoint (`data`).
enum DeliveryLog {
    /// The largest body, in bytes; and the most bytes that all documents of one request unpack to.
    static let bodyBytesMax = 6 << 20
    static let unpackedMax = 32 << 20
    static let receiptsMax = 50_000

    /// What a request says.
    struct Batch: Sendable, Equatable {
        var receipts: [ProviderReceipt] = []
        /// Log events that say nothing of a delivery.
        var foreign = 0
        /// A Firehose wants it back.
        var requestID: String?
    }

    static func batch(_ body: ByteBuffer, provider: String) throws(CallbackProblem) -> Batch {
        guard let root = (try? JSONSerialization.jsonObject(with: Data(body.readableBytesView))) as? [String: Any]
        else {
            throw CallbackProblem(reason: "the body is no JSON object")
        }
        var batch = Batch(requestID: root["requestId"] as? String)
        var packed: [String] = []
        if let logs = root["awslogs"] as? [String: Any] {
            packed = [try text(logs["data"], "awslogs.data")]
        } else if let records = root["Records"] as? [[String: Any]] {
            for record in records {
                packed.append(try text((record["kinesis"] as? [String: Any])?["data"], "Records[].kinesis.data"))
            }
        } else if let records = root["records"] as? [[String: Any]] {
            for record in records { packed.append(try text(record["data"], "records[].data")) }
        } else {
            throw CallbackProblem(reason: "there is neither awslogs, Records nor records")
        }
        var left = unpackedMax
        for one in packed {
            for document in try unpack(one, &left) { try read(document, provider, &batch) }
        }
        return batch
    }

    private static func text(_ value: Any?, _ name: String) throws(CallbackProblem) -> String {
        guard let text = value as? String else { throw CallbackProblem(reason: "'\(name)' is missing, or no text") }
        return text
    }

    /// Base64, gzip, JSON; a stream that was made without compression brings the JSON itself.
    private static func unpack(_ packed: String, _ left: inout Int) throws(CallbackProblem) -> [[String: Any]] {
        guard let bytes = Data(base64Encoded: packed) else { throw CallbackProblem(reason: "the data is no base64") }
        var out = ByteBuffer()
        if bytes.starts(with: [0x1F, 0x8B]) {
            do {
                try bytes.withUnsafeBytes { try CompressionCodec.gzip.decompress($0, into: &out, limit: left) }
            } catch {
                throw CallbackProblem(reason: "the data cannot be unpacked: \(error)")
            }
        } else {
            out.writeBytes(bytes)
        }
        left -= out.readableBytes
        guard left >= 0 else { throw CallbackProblem(reason: "the data unpack to more than \(unpackedMax) bytes") }
        guard let document = (try? JSONSerialization.jsonObject(with: Data(out.readableBytesView))) as? [String: Any]
        else {
            throw CallbackProblem(reason: "what the data hold is no JSON object")
        }
        return [document]
    }

    private static func read(_ document: [String: Any], _ provider: String, _ batch: inout Batch)
        throws(CallbackProblem)
    {
        // Sent now and then to see whether someone listens.
        if document["messageType"] as? String == "CONTROL_MESSAGE" { return }
        guard let events = document["logEvents"] as? [[String: Any]] else {
            throw CallbackProblem(reason: "'logEvents' is missing")
        }
        for event in events {
            let at = (event["timestamp"] as? NSNumber)?.int64Value ?? wallClockMilliseconds()
            guard let message = event["message"] as? String,
                let log = (try? JSONSerialization.jsonObject(with: Data(message.utf8))) as? [String: Any],
                let receipt = receipt(log, provider, at: Timestamp(at))
            else {
                batch.foreign += 1
                continue
            }
            guard batch.receipts.count < receiptsMax else {
                throw CallbackProblem(reason: "more than \(receiptsMax) deliveries in one request")
            }
            batch.receipts.append(receipt)
        }
    }

    private static func receipt(_ log: [String: Any], _ provider: String, at: Timestamp) -> ProviderReceipt? {
        guard let notification = log["notification"] as? [String: Any], let id = notification["messageId"] as? String,
            (1...CallbackParser.nameBytesMax).contains(id.utf8.count), let status = log["status"] as? String
        else { return nil }
        let delivery = log["delivery"] as? [String: Any] ?? [:]
        let code = (delivery["statusCode"] as? NSNumber)?.stringValue
        let response = delivery["providerResponse"] as? String
        return ProviderReceipt(
            provider: provider,
            channel: .push,
            providerMessageID: id,
            status: self.status(status, code: code, response: response ?? ""),
            code: code,
            reason: response.map { String(decoding: $0.utf8.prefix(CallbackParser.reasonBytesMax), as: UTF8.self) },
            at: at
        )
    }

    /// `SUCCESS`: the platform took it. Failures that pass by themselves are worth another attempt; a token that is dead is not.
    static func status(_ status: String, code: String?, response: String) -> ProviderReceipt.Status {
        guard status != "SUCCESS" else { return .delivered }
        guard status == "FAILURE" else { return .other }
        let dead = [
            "NotRegistered", "Unregistered", "UNREGISTERED", "BadDeviceToken", "InvalidRegistration", "disabled",
        ]
        if dead.contains(where: { response.contains($0) }) { return .failed }
        switch code.flatMap({ Int($0) }) ?? 0 {
        case 408, 425, 429, 500...599: return .undelivered
        case 0: return .undelivered
        default: return .failed
        }
    }
}
