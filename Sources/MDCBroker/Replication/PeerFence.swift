// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// Refuses what comes on a connection that its sender has given up for another one. A request that was sent and not answered
/// in time is sent again; where both are carried out the first must not come after something newer. What came on the newest
/// connection of a node for a use proves that nothing on those before it counts any more.
///
/// A transaction's marker in the first protocol, where all transactions of a producer have one epoch, would end the next
/// transaction; a change of a share partition's state would undo a later one.
final class PeerFence: Sendable {
    /// A connection of a node, as its client id tells: `USE:NODE:BROKEREPOCH:NUMBER`, see ``PeerRequests``.
    struct Sender: Equatable, Sendable {
        fileprivate struct Key: Hashable {
            var use: PeerRequests.Use
            var node: Int32
        }

        fileprivate let key: Key
        private let brokerEpoch: Int64
        private let number: UInt64

        init?(_ use: PeerRequests.Use, clientID: String?) {
            let parts = (clientID ?? "").split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count == 4, parts[0] == use.rawValue,
                let node = Int32(parts[1]), let epoch = Int64(parts[2]), let number = UInt64(parts[3])
            else { return nil }
            key = Key(use: use, node: node)
            (brokerEpoch, self.number) = (epoch, number)
        }

        fileprivate func isNewer(than other: Sender) -> Bool {
            (brokerEpoch, number) > (other.brokerEpoch, other.number)
        }
    }

    /// More senders than this there are not.
    private static let capacity = 10_000
    private let newest = Mutex<[Sender.Key: Sender]>([:])

    /// Runs `write`, unless a newer connection of the sender has been heard of; nil where it did not. Others wait meanwhile,
    /// so that nothing is written in between. Who is no node of the cluster (nil) passes.
    func pass<Value: Sendable>(_ sender: Sender?, _ write: () -> Value) -> Value? {
        guard let sender else { return write() }
        return newest.withLock { newest in
            if let known = newest[sender.key], known.isNewer(than: sender) { return nil }
            guard newest[sender.key] != nil || newest.count < Self.capacity else { return nil }
            newest[sender.key] = sender
            return write()
        }
    }
}
