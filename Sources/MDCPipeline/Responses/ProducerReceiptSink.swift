// SPDX-License-Identifier: Apache-2.0

public import MDCClient
import MDCModel
import NIOCore

/// Appends receipts to `mdc.responses.<channel>`, keyed by message, and waits for the broker's acknowledgement.
///
/// The producer must ask for `acks=all` (its default), so that acknowledged means durable. How long a receipt may take is the
/// producer's delivery time-out.
public struct ProducerReceiptSink: ReceiptSink {
    private let producer: Producer
    private let topicPrefix: String

    /// - Parameter topicPrefix: `<prefix>.<channel>` is the topic.
    public init(producer: Producer, topicPrefix: String = "mdc.responses") {
        self.producer = producer
        self.topicPrefix = topicPrefix
    }

    public func append(_ receipts: [ProviderReceipt]) async throws {
        if receipts.count == 1, let receipt = receipts.first {
            _ = try await producer.send(record(receipt))
            return
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for receipt in receipts {
                let record = record(receipt)
                group.addTask { _ = try await producer.send(record) }
            }
            try await group.waitForAll()
        }
    }

    private func record(_ receipt: ProviderReceipt) -> ProducerRecord {
        ProducerRecord(
            topic: "\(topicPrefix).\(receipt.channel.rawValue)",
            key: ByteBuffer(string: receipt.recordKey),
            value: receipt.json()
        )
    }
}
