// SPDX-License-Identifier: Apache-2.0

import Crypto
import Foundation
public import MDCModel

/// Where a tenant wants to be told what becomes of its messages, and of which events.
public struct Webhook: Codable, Sendable, Hashable, Identifiable {
    /// A key that signs what is posted.
    public struct SigningKey: Codable, Sendable, Hashable {
        /// `whsec_` and the key in base64.
        public var value: String
        /// No longer used after this time; nil: the present key.
        public var expiresAt: Timestamp?
    }

    /// Its id.
    public var id: String
    /// Whose messages it is about.
    public var tenant: String
    /// Where to post.
    public var url: String
    /// Such as `message.delivered`; `message.*` for all.
    public var events: Set<String>
    /// One key, or two while a new one is being introduced.
    public var keys: [SigningKey]
    /// When it was made: events before that are not posted.
    public var createdAt: Timestamp
    /// Since when nothing is posted, by order.
    public var disabledAt: Timestamp?

    /// The events that can be asked for: the statuses that a message comes to.
    public static let eventTypes = MessageStatus.allCases.map { "message.\($0.rawValue)" }
    /// What is asked for where nothing is said: how messages end.
    public static let finalTypes = Set(MessageStatus.allCases.filter(\.isFinal).map { "message.\($0.rawValue)" })

    /// Makes a webhook with a random id and key.
    ///
    /// - Throws: ``PipelineError`` with code `configuration` that says what to change.
    public init(tenant: String, url: String, events: Set<String>, now: Timestamp) throws(PipelineError) {
        guard let parts = URLComponents(string: url), let scheme = parts.scheme?.lowercased(),
            ["http", "https"].contains(scheme), let host = parts.host, !host.isEmpty, parts.user == nil,
            parts.fragment == nil, url.utf8.count <= 2_000
        else {
            throw PipelineError(.configuration, "url: write https://HOST/PATH, without a user or a fragment")
        }
        let isLoopback = ["127.0.0.1", "localhost", "::1", "[::1]"].contains(host)
        guard scheme == "https" || isLoopback else {
            throw PipelineError(
                .configuration,
                "url: reports hold recipients; use https (http is for this machine only)"
            )
        }
        for event in events.sorted() where event != "message.*" && !Self.eventTypes.contains(event) {
            throw PipelineError(
                .configuration,
                "events: '\(event)' is not known; there are message.* and \(Self.eventTypes.joined(separator: ", "))"
            )
        }
        guard !events.isEmpty, !tenant.isEmpty else {
            throw PipelineError(.configuration, "events and tenant: name at least one")
        }
        var generator = SystemRandomNumberGenerator()
        id = "wh_" + hexadecimal((0..<8).map { _ in UInt8.random(in: 0...255, using: &generator) })
        self.tenant = tenant
        self.url = url
        self.events = events
        keys = [SigningKey(value: Self.randomKey(), expiresAt: nil)]
        createdAt = now
    }

    /// Puts a new key in the place of the present one, which signs as well for a while.
    public mutating func rotate(now: Timestamp, overlapMilliseconds: Int64) {
        var old = keys.filter { $0.expiresAt == nil }
        for index in old.indices { old[index].expiresAt = now + overlapMilliseconds }
        // Two at a time: one that was on its way out is gone.
        keys = [SigningKey(value: Self.randomKey(), expiresAt: nil)] + old.suffix(1)
    }

    private static func randomKey() -> String {
        "whsec_" + SymmetricKey(size: .bits256).withUnsafeBytes { Data($0).base64EncodedString() }
    }

    /// Whether it asks for an event.
    func wants(_ type: String) -> Bool { events.contains(type) || events.contains("message.*") }

    /// The keys that sign at a point in time, the present one first.
    func keys(at now: Timestamp) -> [String] {
        keys.filter { $0.expiresAt.map { $0 > now } ?? true }.map(\.value)
    }
}

/// How a webhook fares: kept beside it, so that its owner's changes and ours do not overwrite each other.
public struct WebhookHealth: Codable, Sendable, Hashable {
    /// Since when every post has failed.
    public var failingSince: Timestamp?
    /// Since when nothing is posted because it kept failing, or said that it is gone.
    public var disabledAt: Timestamp?
    /// For people: what it answered last.
    public var reason: String?

    /// Makes a value from its parts.
    public init(failingSince: Timestamp? = nil, disabledAt: Timestamp? = nil, reason: String? = nil) {
        self.failingSince = failingSince
        self.disabledAt = disabledAt
        self.reason = reason
    }
}

/// What `mdc.webhooks` holds under a key: a webhook under its id, how it fares under `<id>.health`.
struct WebhookEntry: Codable, Sendable {
    var webhook: Webhook?
    var health: WebhookHealth?

    static func healthKey(_ id: String) -> String { id + ".health" }
}

/// The form of the Standard Webhooks specification, 1.0: three headers, of which one signs the two others and the body.
enum StandardWebhook {
    /// The values of `webhook-id`, `webhook-timestamp` and `webhook-signature`.
    static func headers(id: String, now: Timestamp, body: String, keys: [String]) -> [(name: String, value: String)] {
        let seconds = String(now.rawValue / 1_000)
        let signatures = keys.compactMap { signature(key: $0, id: id, seconds: seconds, body: body) }
        return [
            ("webhook-id", id), ("webhook-timestamp", seconds),
            ("webhook-signature", signatures.joined(separator: " ")),
        ]
    }

    /// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`; nil if the key is none.
    static func signature(key: String, id: String, seconds: String, body: String) -> String? {
        guard key.hasPrefix("whsec_"), let bytes = Data(base64Encoded: String(key.dropFirst(6))) else { return nil }
        let code = HMAC<Crypto.SHA256>.authenticationCode(
            for: Data("\(id).\(seconds).\(body)".utf8),
            using: SymmetricKey(data: bytes)
        )
        return "v1," + Data(code).base64EncodedString()
    }
}
