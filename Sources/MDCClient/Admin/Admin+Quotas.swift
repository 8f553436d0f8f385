// SPDX-License-Identifier: Apache-2.0

import MDCProtocol

/// Whose quota: a user, a client id, both together, or an address.
public struct QuotaEntity: Sendable, Hashable {
    /// One name, or everyone who has no quota of their own.
    public enum Name: Sendable, Hashable {
        /// This one.
        case named(String)
        /// Everyone without a quota of their own.
        case everyone

        var text: String? {
            switch self {
            case .named(let name): name
            case .everyone: nil
            }
        }
    }

    /// The user; nil where the quota is not by user.
    public var user: Name?
    /// The client id; nil where the quota is not by client id.
    public var clientID: Name?
    /// The address; nil where the quota is not by address.
    public var ip: Name?

    /// Names an entity.
    public init(user: Name? = nil, clientID: Name? = nil, ip: Name? = nil) {
        self.user = user
        self.clientID = clientID
        self.ip = ip
    }

    fileprivate var parts: [(type: String, name: String?)] {
        [("user", user), ("client-id", clientID), ("ip", ip)].compactMap { type, name in name.map { (type, $0.text) } }
    }

    fileprivate init(parts: [(type: String, name: String?)]) {
        self.init()
        for (type, text) in parts {
            let name: Name = text.map { .named($0) } ?? .everyone
            switch type {
            case "user": user = name
            case "client-id": clientID = name
            case "ip": ip = name
            default: break
            }
        }
    }
}

/// The quotas of an entity.
public struct QuotaListing: Sendable, Hashable {
    /// Whose.
    public let entity: QuotaEntity
    /// Units a second by name, such as `producer_byte_rate`.
    public let values: [String: Double]
}

extension Admin {
    /// The quotas that are set: all, or those of one entity exactly.
    public func describeQuotas(_ entity: QuotaEntity? = nil) async throws -> [QuotaListing] {
        let response = try await core.retrying(until: core.apiDeadline) {
            try await self.core.request(DescribeClientQuotasRequest.self, to: .any) { _ in
                DescribeClientQuotasRequest(
                    components: (entity?.parts ?? []).map {
                        .init(entityType: $0.type, matchType: $0.name == nil ? 1 : 0, match: $0.name)
                    },
                    strict: entity != nil
                )
            }
        }
        try Self.check(response.errorCode, "describing quotas", response.errorMessage)
        return (response.entries ?? []).map { entry in
            QuotaListing(
                entity: QuotaEntity(parts: entry.entity.map { ($0.entityType, $0.entityName) }),
                values: Dictionary(entry.values.map { ($0.key, $0.value) }, uniquingKeysWith: { $1 })
            )
        }
    }

    /// Sets or (nil) removes quotas of an entity. Throws `ClientError` where the broker refuses.
    public func alterQuotas(
        _ entity: QuotaEntity,
        _ changes: [String: Double?],
        validateOnly: Bool = false
    ) async throws {
        try await controllerRequest(AlterClientQuotasRequest.self) { _ in
            AlterClientQuotasRequest(
                entries: [
                    .init(
                        entity: entity.parts.map { .init(entityType: $0.type, entityName: $0.name) },
                        ops: changes.sorted { $0.key < $1.key }.map {
                            .init(key: $0.key, value: $0.value ?? 0, remove: $0.value == nil)
                        }
                    )
                ],
                validateOnly: validateOnly
            )
        } read: { response in
            for entry in response.entries { try Self.check(entry.errorCode, "changing quotas", entry.errorMessage) }
        }
    }
}
