// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What a quota limits, by Kafka's name.
enum QuotaKey: String, CaseIterable, Sendable {
    /// Bytes of Produce requests a second.
    case producerByteRate = "producer_byte_rate"
    /// Bytes of Fetch answers a second.
    case consumerByteRate = "consumer_byte_rate"
    /// Time on event loops, in percent of one thread.
    case requestPercentage = "request_percentage"
    /// Partitions made or deleted a second.
    case controllerMutationRate = "controller_mutation_rate"
    /// Connections a second, of an address.
    case connectionCreationRate = "connection_creation_rate"

    /// Whether only whole numbers make sense.
    var isWhole: Bool { self != .requestPercentage && self != .controllerMutationRate }
    /// The position in tables.
    var index: Int {
        switch self {
        case .producerByteRate: 0
        case .consumerByteRate: 1
        case .requestPercentage: 2
        case .controllerMutationRate: 3
        case .connectionCreationRate: 4
        }
    }
}

/// One name, or everyone who has no quota of their own.
enum QuotaName: Hashable, Sendable {
    case named(String)
    case everyone

    /// As the protocol writes it: nil for everyone.
    var text: String? {
        switch self {
        case .named(let name): name
        case .everyone: nil
        }
    }
}

/// Whose quota: a user, a client id, both together, or an address.
struct QuotaEntity: Hashable, Sendable {
    var user: QuotaName?
    var clientID: QuotaName?
    var ip: QuotaName?

    static let types = ["user", "client-id", "ip"]

    init(user: QuotaName? = nil, clientID: QuotaName? = nil, ip: QuotaName? = nil) {
        self.user = user
        self.clientID = clientID
        self.ip = ip
    }

    /// Reads the parts of a request. Throws INVALID_REQUEST where they name nobody who can have a quota.
    init(parts: [(type: String, name: String?)]) throws(Refusal) {
        if parts.isEmpty {
            throw Refusal(code: .invalidRequest, message: "the entity is empty; name a user, a client-id or an ip")
        }
        self.init()
        for (type, name) in parts {
            if name?.isEmpty == true {
                throw Refusal(code: .invalidRequest, message: "the name of \(type) is empty; null stands for everyone")
            }
            guard Self.types.contains(type) else {
                throw Refusal(
                    code: .invalidRequest,
                    message: "there are no quotas for \(type); use user, client-id or ip"
                )
            }
            guard self[type] == nil else {
                throw Refusal(code: .invalidRequest, message: "the entity names \(type) twice")
            }
            self[type] = name.map { .named($0) } ?? .everyone
        }
        if ip != nil && (user != nil || clientID != nil) {
            throw Refusal(code: .invalidRequest, message: "an ip stands alone, without user and client-id")
        }
        if case .named(let address)? = ip, !Self.isAddress(address) {
            throw Refusal(code: .invalidRequest, message: "\(address) is no IPv4 or IPv6 address")
        }
    }

    /// The part of a type; nil where the entity has none.
    subscript(type: String) -> QuotaName? {
        get {
            switch type {
            case "user": user
            case "client-id": clientID
            case "ip": ip
            default: nil
            }
        }
        set {
            switch type {
            case "user": user = newValue
            case "client-id": clientID = newValue
            case "ip": ip = newValue
            default: break
            }
        }
    }

    /// The parts, in the order of ``types``.
    var parts: [(type: String, name: String?)] {
        Self.types.compactMap { type in self[type].map { (type, $0.text) } }
    }

    /// Four numbers with dots between, or hexadecimal groups with colons between.
    private static func isAddress(_ text: String) -> Bool {
        if text.utf8.contains(UInt8(ascii: ":")) {
            let groups = text.split(separator: ":", omittingEmptySubsequences: false)
            return (3...8).contains(groups.count)
                && groups.allSatisfy { $0.count <= 4 && ($0.isEmpty || UInt16($0, radix: 16) != nil) }
        }
        let numbers = text.split(separator: ".", omittingEmptySubsequences: false)
        return numbers.count == 4 && numbers.allSatisfy { UInt8($0) != nil }
    }
}

/// The limit that applies to someone, and who shares it.
struct QuotaLimit: Equatable, Sendable {
    /// Those whose use counts together.
    struct Share: Hashable, Sendable {
        var key: QuotaKey
        var user: String?
        var clientID: String?
        var ip: String?
    }

    var share: Share
    /// Units a second.
    var rate: Double
}

/// All quotas that are set, and which of them applies to whom.
struct QuotaTable: Equatable, Sendable {
    private(set) var entries: [QuotaEntity: [QuotaKey: Double]] = [:]

    /// Sets or (nil) removes a quota.
    mutating func set(_ entity: QuotaEntity, _ key: QuotaKey, _ value: Double?) {
        entries[entity, default: [:]][key] = value
        if entries[entity]?.isEmpty == true { entries[entity] = nil }
    }

    /// Whether anyone has a quota of `key`.
    func limits(_ key: QuotaKey) -> Bool { entries.values.contains { $0[key] != nil } }

    /// What is wrong with a value; nil where it can be set.
    static func problem(_ entity: QuotaEntity, _ name: String, _ value: Double?) -> String? {
        let possible = QuotaKey.allCases.filter { ($0 == .connectionCreationRate) == (entity.ip != nil) }
        guard let key = possible.first(where: { $0.rawValue == name }) else {
            return "\(name) cannot be set here; use one of \(possible.map(\.rawValue).joined(separator: ", "))"
        }
        guard let value else { return nil }
        guard value.isFinite, value >= 0, value > 0 || key == .connectionCreationRate else {
            return "\(name) must be a positive number"
        }
        if key.isWhole && value != value.rounded() { return "\(name) must be a whole number" }
        if value > 9e18 { return "\(name) is too large" }
        return nil
    }

    /// The limit of a client. The most particular quota applies: the user's with the client's, before the user's, before the
    /// client's; a name before everyone.
    func limit(_ key: QuotaKey, user: String, clientID: String) -> QuotaLimit? {
        let users: [QuotaName?] = [.named(user), .everyone, nil]
        for userPart in users {
            let clients: [QuotaName?] = [.named(clientID), .everyone] + (userPart == nil ? [] : [nil])
            for clientPart in clients {
                guard let rate = entries[QuotaEntity(user: userPart, clientID: clientPart)]?[key] else { continue }
                return QuotaLimit(
                    share: .init(
                        key: key,
                        user: userPart == nil ? nil : user,
                        clientID: clientPart == nil ? nil : clientID
                    ),
                    rate: rate
                )
            }
        }
        return nil
    }

    /// The limit of connections from an address.
    func connectionLimit(ip: String) -> QuotaLimit? {
        let rate =
            entries[QuotaEntity(ip: .named(ip))]?[.connectionCreationRate]
            ?? entries[QuotaEntity(ip: .everyone)]?[.connectionCreationRate]
        return rate.map { QuotaLimit(share: .init(key: .connectionCreationRate, ip: ip), rate: $0) }
    }
}

/// A bucket that fills at a rate, up to a window's worth, and that use may take below zero: who took more than there was waits
/// until it is paid back. In the long run nobody gets more than the rate; after a rest one window is free.
struct QuotaBucket: Equatable, Sendable {
    /// Units a second.
    private(set) var rate: Double
    private var burst: Double
    private var level: Double
    private var updatedAt: UInt64

    /// - Parameters:
    ///   - window: seconds of the rate that may be used at once.
    ///   - now: monotonic nanoseconds.
    init(rate: Double, window: Double, now: UInt64) {
        self.rate = rate
        burst = rate * window
        level = burst
        updatedAt = now
    }

    private mutating func refill(_ now: UInt64) {
        if now > updatedAt { level = min(burst, level + rate * Double(now - updatedAt) / 1e9) }
        updatedAt = max(updatedAt, now)
    }

    /// The quota was changed: what was used stays used, as a share of the window.
    mutating func change(rate newRate: Double, window: Double, now: UInt64) {
        refill(now)
        let share = burst > 0 ? level / burst : 1
        rate = newRate
        burst = newRate * window
        level = max(share, -10) * burst
    }

    /// Milliseconds until what was used is paid back, rounded up; at most `limit`.
    mutating func delay(now: UInt64, atMost limit: Int32) -> Int32 {
        refill(now)
        guard level < 0 || burst <= 0 else { return 0 }
        guard rate > 0 else { return limit }
        let milliseconds = (-level / rate * 1000).rounded(.up)
        return milliseconds >= Double(limit) ? limit : Int32(milliseconds)
    }

    /// Takes `amount`; returns the milliseconds to wait then.
    mutating func record(_ amount: Double, now: UInt64, atMost limit: Int32) -> Int32 {
        refill(now)
        level -= amount
        return delay(now: now, atMost: limit)
    }

    /// Whether it is as if it had never been used.
    mutating func isFull(now: UInt64) -> Bool {
        refill(now)
        return level >= burst
    }
}
