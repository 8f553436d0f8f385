// SPDX-License-Identifier: Apache-2.0

import MDCModel

@testable import MDCPipeline

/// A seeded generator (SplitMix64), so that a failing case can be repeated.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { state = seed }
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

enum Make {
    static func message(
        _ id: String = "m1",
        channel: Channel = .sms,
        lane: String = "normal",
        policy: RetryPolicy? = nil,
        expiresAt: Timestamp? = nil,
        key: String? = nil,
        createdAt: Timestamp = 1_000
    ) -> Message {
        Message(
            id: id,
            channel: channel,
            lane: lane,
            to: "+919876543210",
            sender: "MDC",
            content: MessageContent(text: "hello"),
            idempotencyKey: key,
            expiresAt: expiresAt,
            retryPolicy: policy,
            createdAt: createdAt
        )
    }

    static func submitted(_ message: Message, at: Timestamp = 1_000) -> TimelineEvent {
        TimelineEvent(
            messageID: message.id,
            channel: message.channel,
            at: at,
            component: "ingest",
            kind: .submitted,
            status: .queued,
            message: message
        )
    }

    static func accepted(_ id: String = "m1", attempt: Int = 1, providerID: String = "p1", at: Timestamp = 1_010)
        -> TimelineEvent
    {
        TimelineEvent(
            messageID: id,
            channel: .sms,
            at: at,
            component: "dispatcher",
            kind: .accepted,
            attempt: attempt,
            status: .accepted,
            provider: "gateway",
            providerMessageID: providerID,
            dueAt: at + 60_000
        )
    }

    static func deferred(_ id: String = "m1", attempt: Int = 1, at: Timestamp = 1_010, until: Timestamp? = nil)
        -> TimelineEvent
    {
        TimelineEvent(
            messageID: id,
            channel: .sms,
            at: at,
            component: "dispatcher",
            kind: .deferred,
            attempt: attempt,
            provider: "gateway",
            code: "BUSY",
            detail: "come back",
            dueAt: until
        )
    }

    static func receipt(
        _ status: ProviderReceipt.Status,
        reference: String? = "m1.1",
        providerID: String = "p1",
        code: String? = nil
    ) -> ProviderReceipt {
        ProviderReceipt(
            provider: "gateway",
            channel: .sms,
            providerMessageID: providerID,
            status: status,
            code: code,
            at: 2_000,
            reference: reference
        )
    }
}
