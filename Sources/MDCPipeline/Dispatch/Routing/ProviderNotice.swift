// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import NIOCore

/// What is known of a provider by all workers: a record of the compacted topic `mdc.providers`.
public struct ProviderNotice: Sendable, Hashable, Codable {
    /// What a notice speaks of; a provider has one notice of each kind.
    public enum Kind: String, Sendable, Hashable, CaseIterable, Codable {
        /// The circuit breaker: `open` or `closed`.
        case circuit
        /// An operator's word: `paused` or `running`.
        case pause
        /// What its reports say: `good` or `poor`.
        case health
        /// What a pull found beside what was pushed: `agreeing`, `drifting` or `failed`; `reason` is a ``ProviderDrift`` as JSON.
        case drift
    }

    /// The provider.
    public var provider: String
    /// The kind.
    public var kind: Kind
    /// `open`, `closed`, `paused`, `running`, `good`, `poor`.
    public var state: String
    /// Until when it holds (`open`).
    public var until: Timestamp?
    /// For people.
    public var reason: String?
    /// When it was said.
    public var at: Timestamp
    /// Who said it.
    public var by: String

    /// Makes a value from its parts.
    public init(
        provider: String,
        kind: Kind,
        state: String,
        until: Timestamp? = nil,
        reason: String? = nil,
        at: Timestamp,
        by: String
    ) {
        self.provider = provider
        self.kind = kind
        self.state = state
        self.until = until
        self.reason = reason
        self.at = at
        self.by = by
    }

    /// The key of its record.
    var key: String { "\(kind.rawValue):\(provider)" }
}

extension ProviderNotice: JSONDocumentCoding {
    func write(to writer: inout JSONWriter) {
        writer.member("provider", provider)
        writer.member("kind", kind.rawValue)
        writer.member("state", state)
        writer.member("until", until)
        writer.member("reason", reason)
        writer.member("at", at)
        writer.member("by", by)
    }

    init(from cursor: inout JSONCursor) throws {
        var notice = ProviderNotice(provider: "", kind: .circuit, state: "", at: 0, by: "")
        try cursor.object { name, cursor in
            switch name {
            case "provider": notice.provider = try cursor.string()
            case "kind": notice.kind = try choice(&cursor, "kind")
            case "state": notice.state = try cursor.string()
            case "until": notice.until = try cursor.optionalInteger().map(Timestamp.init)
            case "reason": notice.reason = try cursor.optionalString()
            case "at": notice.at = Timestamp(try cursor.integer())
            case "by": notice.by = try cursor.string()
            default: try cursor.skip()
            }
        }
        _ = try required(notice.provider.isEmpty ? nil : notice.provider, "provider")
        self = notice
    }
}
