// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// A provider's report about a message, in our form: the value of a record on `mdc.responses.<channel>`.
public struct ProviderReceipt: Codable, Sendable, Hashable {
    /// What the report says.
    public enum Status: String, Codable, Sendable, Hashable, CaseIterable {
        /// On its way: not an end.
        case sent
        /// Proof of delivery.
        case delivered
        /// Not delivered for now (phone off, mailbox full): worth another attempt.
        case undelivered
        /// Not delivered, and never will be.
        case failed
        /// The provider gave up after its own time limit.
        case expired
        /// Something else, such as a complaint or an opened mail: noted, changes nothing.
        case other
    }

    /// The provider's name (``Provider/name``).
    public var provider: String
    /// The channel of its messages.
    public var channel: Channel
    /// The provider's id of the message; empty where it only echoes our reference.
    public var providerMessageID: String
    /// What the report says.
    public var status: Status
    /// The provider's code.
    public var code: String?
    /// The provider's words.
    public var reason: String?
    /// When the provider says that it happened; else when the report arrived.
    public var at: Timestamp
    /// ``MessageReference`` text, where the provider echoes it.
    public var reference: String?

    /// Makes a value from its parts.
    public init(
        provider: String,
        channel: Channel,
        providerMessageID: String,
        status: Status,
        code: String? = nil,
        reason: String? = nil,
        at: Timestamp,
        reference: String? = nil
    ) {
        self.provider = provider
        self.channel = channel
        self.providerMessageID = providerMessageID
        self.status = status
        self.code = code
        self.reason = reason
        self.at = at
        self.reference = reference
    }

    /// The key of its record: reports of one message go to one partition, in order.
    ///
    /// It is the reference's message id where there is one, else the provider's id.
    public var recordKey: String {
        if let reference, let parsed = MessageReference(reference) { return parsed.messageID }
        return providerMessageID
    }
}
