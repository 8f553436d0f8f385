// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// A member of a classic group.
struct ClassicGroupMember: Equatable, Sendable {
    /// One assignor that the member offers, and what it tells the leader under it.
    struct Offer: Equatable, Sendable {
        var name: String
        var metadata: ByteBuffer
    }

    let id: String
    /// Set for a static member (KIP-345).
    var instanceID: String?
    var clientID: String
    var clientHost: String
    /// How long a rebalance waits for it, in milliseconds.
    var rebalanceTimeout: Int32
    /// How long it may be silent, in milliseconds.
    var sessionTimeout: Int32
    /// In the member's order of preference.
    var offers: [Offer]
    /// What the leader gave it in this generation.
    var assignment = ByteBuffer()
    /// Whether it has not been answered yet: it does not know its id and cannot send heartbeats.
    var isNew: Bool
    /// Its JoinGroup that waits for the others.
    var joinToken: RequestToken?
    /// Its SyncGroup that waits for the leader.
    var syncToken: RequestToken?
    /// When its session ends, on the monotonic clock. Does not count while one of its requests waits here, unless it is new.
    var deadline: Int64
    /// Order of joining: makes elections and listings repeatable.
    let order: UInt64

    /// Whether its silence counts at all right now.
    var canExpire: Bool { isNew || (joinToken == nil && syncToken == nil) }

    /// What it told under the assignor `name`; nothing where it does not offer that.
    func metadata(for name: String) -> ByteBuffer { offers.first { $0.name == name }?.metadata ?? ByteBuffer() }

    /// Whether `protocols` offers the same as it did before.
    func offersSame(as protocols: [JoinGroupRequest.JoinGroupRequestProtocol]) -> Bool {
        offers.count == protocols.count
            && zip(offers, protocols).allSatisfy { $0.name == $1.name && $0.metadata == $1.metadata }
    }
}
