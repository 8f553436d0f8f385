// SPDX-License-Identifier: Apache-2.0

/// Where receipts are made durable.
public protocol ReceiptSink: Sendable {
    /// Returns once all the receipts are durable.
    ///
    /// - Throws: if that is not certain for one of them. The provider is then asked to report again, so a receipt
    ///   may be appended twice; its readers tell by its content.
    func append(_ receipts: [ProviderReceipt]) async throws
}
