// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// One entry of a message's timeline: what a component did with it or learned about it.
///
/// Entries are appended to `mdc.events`, keyed by message id, and never changed. A step that is repeated after a crash may
/// be written twice; `identity` is then the same, and readers keep the first.
public struct TimelineEvent: Codable, Sendable, Hashable {
    /// What happened.
    public enum Kind: String, Codable, Sendable, Hashable, CaseIterable {
        /// The centre accepted the message: it is durable.
        case submitted
        /// It waits for its send-at time.
        case scheduled
        /// A dispatcher took it from its lane and asks the provider.
        case dispatched
        /// A dispatcher took an attempt that it may have sent already before a crash.
        case redelivered
        /// A provider would not take it now, and another one is asked.
        case rerouted
        /// Someone asked for it not to be sent.
        case cancelRequested
        /// It cannot be called back: `detail` says why.
        case cancelRefused
        /// The provider took it.
        case accepted
        /// The provider refused it for good.
        case rejected
        /// The provider refused it for now.
        case deferred
        /// The provider gave no answer: it is not known whether it took the message.
        case inDoubt
        /// No provider was asked, and none will be: expired, suppressed or called back.
        case withheld
        /// The provider reported about it.
        case receipt
        /// A report that changes nothing: a repeated, late or contradicting one; `detail` says which.
        case receiptIgnored
        /// No report came in time.
        case receiptMissing
        /// Another attempt is set for a later time.
        case retryScheduled
        /// The end: `status` is final.
        case final
    }

    /// The message.
    public var messageID: String
    /// The channel of the message, that is the collection that a store keeps it in.
    public var channel: Channel
    /// When it happened.
    public var at: Timestamp
    /// The component that wrote the entry: `ingest`, `dispatcher`, `responses`, `timers`.
    public var component: String
    /// What happened.
    public var kind: Kind
    /// The attempt it belongs to, from 1.
    public var attempt: Int
    /// The status of the message after the entry; nil: not changed by it.
    public var status: MessageStatus?
    /// The end that the entry leads to. Only the response handler ends a message, with an entry `final`: so two that see
    /// different ends at the same time, such as a refusal and a late report, cannot both write theirs.
    public var leadsTo: MessageStatus?
    /// The provider.
    public var provider: String?
    /// The provider's id of the message.
    public var providerMessageID: String?
    /// The provider's or our code of an error.
    public var code: String?
    /// For people: reason, circumstances.
    public var detail: String?
    /// Why it goes by this provider: rule, order, who was passed over. Where there is a choice.
    public var route: String?
    /// When the next step is due (scheduled, retryScheduled).
    public var dueAt: Timestamp?
    /// What the attempt cost, in millionths of the unit of the providers' prices (accepted, where a price is set).
    public var cost: Int64?
    /// The message itself: with `submitted` only, so that the stream of events is all that a store needs.
    public var message: Message?

    /// Makes a value from its parts.
    public init(
        messageID: String,
        channel: Channel,
        at: Timestamp,
        component: String,
        kind: Kind,
        attempt: Int = 1,
        status: MessageStatus? = nil,
        leadsTo: MessageStatus? = nil,
        provider: String? = nil,
        providerMessageID: String? = nil,
        code: String? = nil,
        detail: String? = nil,
        route: String? = nil,
        dueAt: Timestamp? = nil,
        cost: Int64? = nil,
        message: Message? = nil
    ) {
        self.messageID = messageID
        self.channel = channel
        self.at = at
        self.component = component
        self.kind = kind
        self.attempt = attempt
        self.status = status
        self.leadsTo = leadsTo
        self.provider = provider
        self.providerMessageID = providerMessageID
        self.code = code
        self.detail = detail
        self.route = route
        self.dueAt = dueAt
        self.cost = cost
        self.message = message
    }
}

/// Where a message stands.
public enum MessageStatus: String, Codable, Sendable, Hashable, CaseIterable {
    /// Waits for its send-at time.
    case scheduled
    /// In its lane.
    case queued
    /// The provider has it; a report is awaited.
    case accepted
    /// Waits for its next attempt.
    case retrying
    /// Final: the provider proved delivery.
    case delivered
    /// Final: the provider took it and offers no proof of delivery (push).
    case sent
    /// Final: refused, or all attempts failed.
    case failed
    /// Final: its time ran out, or no report came.
    case expired
    /// Final: called back before a provider was asked.
    case cancelled

    /// Whether nothing more happens.
    public var isFinal: Bool {
        switch self {
        case .delivered, .sent, .failed, .expired, .cancelled: true
        case .scheduled, .queued, .accepted, .retrying: false
        }
    }
}
