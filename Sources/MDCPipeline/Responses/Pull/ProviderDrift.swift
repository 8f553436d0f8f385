// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// What a provider's own report says beside what its callbacks told us: the outcome of one pull.
public struct ProviderDrift: Codable, Sendable, Hashable {
    /// The provider.
    public var provider: String
    /// When it was asked.
    public var at: Timestamp
    /// Messages that were submitted from then on,
    public var from: Timestamp
    /// until then.
    public var to: Timestamp
    /// Messages of ours that the provider has taken in that time.
    public var messages = 0
    /// Entries of its report.
    public var reports = 0
    /// Entries that say what we know.
    public var agreed = 0
    /// Ends that no callback told us of: their receipts are now on the log.
    public var missed = 0
    /// Entries that say another end than the one we know.
    public var contradicting = 0
    /// Entries of no message that we know.
    public var unknown = 0
    /// Messages of ours that the report does not have.
    public var absent = 0
    /// Why it could not be asked, or not for all; the counts are of what could.
    public var failure: String?

    /// Whether push and pull say different things.
    public var isDrifting: Bool { missed + contradicting + unknown + absent > 0 }

    /// Nothing counted yet.
    public init(provider: String, at: Timestamp, from: Timestamp, to: Timestamp) {
        self.provider = provider
        self.at = at
        self.from = from
        self.to = to
    }

    /// Compares.
    ///
    /// - Parameter elders: Messages from before the time, of which the report may speak.
    /// - Returns: The receipts to write for what callbacks did not tell, under our references.
    mutating func compare(
        _ known: [StoredMessage],
        elders: [StoredMessage] = [],
        with reports: [ProviderReceipt]
    ) -> [ProviderReceipt] {
        messages = known.count
        self.reports = reports.count
        var byID: [String: StoredMessage] = [:]
        var byProviderID: [String: StoredMessage] = [:]
        for message in elders + known {
            byID[message.id] = message
            if let id = message.providerMessageID { byProviderID[id] = message }
        }
        var seen: Set<String> = []
        var receipts: [ProviderReceipt] = []
        for report in reports {
            let reference = report.reference.flatMap { MessageReference($0) }
            guard let message = reference.flatMap({ byID[$0.messageID] }) ?? byProviderID[report.providerMessageID]
            else {
                unknown += 1
                continue
            }
            seen.insert(message.id)
            // An attempt before the latest was dealt with when that one was made.
            if let reference, reference.attempt < message.attempt { continue }
            guard let isDelivered = report.status.isEnd else { continue }
            switch message.status {
            case .delivered, .failed, .expired:
                if (message.status == .delivered) == isDelivered { agreed += 1 } else { contradicting += 1 }
            case .sent, .cancelled: agreed += 1
            case .scheduled, .queued, .retrying: break
            case .accepted:
                missed += 1
                var receipt = report
                receipt.reference =
                    message.message?.reference(attempt: message.attempt)
                    ?? MessageReference(messageID: message.id, attempt: message.attempt).description
                if let id = message.providerMessageID { receipt.providerMessageID = id }
                receipts.append(receipt)
            }
        }
        absent = known.count { !seen.contains($0.id) }
        return receipts
    }
}

extension ProviderReceipt.Status {
    /// Whether it was delivered, if the report says how it ended.
    fileprivate var isEnd: Bool? {
        switch self {
        case .delivered: true
        case .failed, .undelivered, .expired: false
        case .sent, .other: nil
        }
    }
}
