// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// The value of `leader.replication.throttled.replicas` and `follower.replication.throttled.replicas`: replicas of a topic as
/// pairs `partition:node`, or `*` for all of them. Source: KIP-73.
struct ThrottledReplicas: Equatable, Sendable {
    private(set) var isAll = false
    private(set) var nodes: [Int32: Set<Int32>] = [:]

    /// Nothing where the text is empty or `none`; nil where it is not such a list.
    init?(_ text: String) {
        if text.isEmpty || text == "none" { return }
        if text == "*" {
            isAll = true
            return
        }
        for pair in text.split(separator: ",", omittingEmptySubsequences: false) {
            let parts = pair.split(separator: ":", omittingEmptySubsequences: false)
            guard parts.count == 2, let partition = Int32(parts[0]), let node = Int32(parts[1]), partition >= 0,
                node >= 0
            else { return nil }
            nodes[partition, default: []].insert(node)
        }
    }

    var isEmpty: Bool { !isAll && nodes.isEmpty }

    /// Whether the replica of `partition` on `node` is named.
    func contains(_ partition: Int32, on node: Int32) -> Bool { isAll || nodes[partition]?.contains(node) == true }
}

/// Holds back what replicas copy that are not in sync, such as those of a move, so that clients keep their share of disks and
/// network (KIP-73): what this node as a leader sends to them, and what it as a follower takes, each by a rate for the node.
///
/// Only replicas that a topic names are held back, and only while they are out of the in-sync set: whoever is in sync stays
/// so. Where nobody is named, a fetch pays for one load of an atomic.
final class ReplicationThrottle: Sendable {
    /// What this node is to a partition.
    enum Side: Int, CaseIterable, Sendable {
        case leader
        case follower
    }

    private struct Limit {
        /// Bytes a second; `Int64.max` for no limit.
        var rate = Int64.max
        var bucket: QuotaBucket?
        var topics: [TopicID: ThrottledReplicas] = [:]
        var isInForce: Bool { rate != Int64.max && !topics.isEmpty }
    }

    private struct State {
        var limits = [Limit](repeating: Limit(), count: Side.allCases.count)
        var heldBack = [Int](repeating: 0, count: Side.allCases.count)
    }

    /// Seconds of the rate that may be used at once.
    private static let window = 1.0
    /// Nobody waits longer before he asks again: the rate may have been raised.
    private static let longestDelay: Int32 = 1_000

    private let node: Int32
    /// Monotonic nanoseconds.
    private let now: @Sendable () -> UInt64
    private let state = Mutex(State())
    private let inForce = Atomic<Bool>(false)

    init(node: Int32, now: @escaping @Sendable () -> UInt64) {
        self.node = node
        self.now = now
    }

    // MARK: Settings

    /// Puts rates into force, in bytes a second; `Int64.max` for none.
    func set(leaderRate: Int64, followerRate: Int64) {
        let now = now()
        change { state in
            for (side, rate) in [(Side.leader, leaderRate), (.follower, followerRate)] {
                guard state.limits[side.rawValue].rate != rate else { continue }
                state.limits[side.rawValue].rate = rate
                if rate == Int64.max {
                    state.limits[side.rawValue].bucket = nil
                } else if state.limits[side.rawValue].bucket == nil {
                    state.limits[side.rawValue].bucket = QuotaBucket(
                        rate: Double(rate),
                        window: Self.window,
                        now: now
                    )
                } else {
                    state.limits[side.rawValue].bucket?.change(rate: Double(rate), window: Self.window, now: now)
                }
            }
        }
    }

    /// Takes over which replicas a topic names; texts that are no lists name nobody.
    func note(_ id: TopicID, _ configs: [String: String]) {
        let named = [
            configs[TopicSettings.leaderThrottled].flatMap { ThrottledReplicas($0) },
            configs[TopicSettings.followerThrottled].flatMap { ThrottledReplicas($0) },
        ]
        change { state in
            for side in Side.allCases {
                let replicas = named[side.rawValue].flatMap { $0.isEmpty ? nil : $0 }
                if state.limits[side.rawValue].topics[id] != replicas {
                    state.limits[side.rawValue].topics[id] = replicas
                }
            }
        }
    }

    func forget(_ id: TopicID) { note(id, [:]) }

    private func change(_ body: (inout State) -> Void) {
        state.withLock { state in
            body(&state)
            inForce.store(state.limits.contains { $0.isInForce }, ordering: .releasing)
        }
    }

    // MARK: Use

    /// Whether this node's replica of a partition is to be held back on that side while it, or who copies from it, is not in sync.
    func names(_ id: TopicID, _ partition: Int32, _ side: Side) -> Bool {
        guard inForce.load(ordering: .acquiring) else { return false }
        return state.withLock { state in
            let limit = state.limits[side.rawValue]
            return limit.isInForce && limit.topics[id]?.contains(partition, on: node) == true
        }
    }

    /// Milliseconds until the rate allows more, a second at most; 0 where it does now.
    func delay(_ side: Side) -> Int32 {
        let now = now()
        return state.withLock { state in
            guard state.limits[side.rawValue].isInForce else { return 0 }
            let delay = state.limits[side.rawValue].bucket?.delay(now: now, atMost: Self.longestDelay) ?? 0
            if delay > 0 { state.heldBack[side.rawValue] += 1 }
            return delay
        }
    }

    /// Counts bytes that were copied.
    func record(_ side: Side, bytes: Int) {
        let now = now()
        state.withLock { state in
            _ = state.limits[side.rawValue].bucket?.record(Double(bytes), now: now, atMost: Self.longestDelay)
        }
    }

    /// How often a copy was held back.
    func heldBack(_ side: Side) -> Int { state.withLock { $0.heldBack[side.rawValue] } }
}
