// SPDX-License-Identifier: Apache-2.0

/// The names of the centre's topics.
public enum Topics {
    /// Drafts from any Kafka client.
    public static let inbox = "mdc.inbox"
    /// Timers: records to deliver later.
    public static let timers = "mdc.timers"
    /// Idempotency keys that were used lately.
    public static let keys = "mdc.keys"
    /// What is known of the providers: circuits, pauses, health; compacted.
    public static let providers = "mdc.providers"
    /// Recipients that are not written to; compacted.
    public static let suppressions = "mdc.suppressions"
    /// Templates of messages by tenant, name and version, compacted.
    public static let templates = "mdc.templates"
    /// The timelines of all messages.
    public static let events = "mdc.events"
    /// The final state of each message, compacted.
    public static let messages = "mdc.messages"
    /// Records that could not be used, with the reason.
    public static let deadLetter = "mdc.dead-letter"
    /// Reports to clients.
    public static let feedback = "mdc.feedback"
    /// The keys of the HTTP interface by id, compacted.
    public static let apiKeys = "mdc.api-keys"
    /// The clients' webhooks by id, with their signing keys, compacted.
    public static let webhooks = "mdc.webhooks"
    /// Who asked the HTTP interface for what.
    public static let audit = "mdc.audit"

    /// The lane of a channel.
    public static func dispatch(_ channel: Channel, _ lane: String) -> String {
        "mdc.dispatch.\(channel.rawValue).\(lane)"
    }

    /// Providers' reports about the messages of a channel.
    public static func responses(_ channel: Channel) -> String { "mdc.responses.\(channel.rawValue)" }

    /// The partition count of `mdc.events`, `mdc.responses.*` and `mdc.feedback`: equal, so that they are worked on together.
    public static let keyedPartitions = 4
    /// The partition count of `mdc.inbox` and `mdc.timers`.
    public static let otherPartitions = 2
}
