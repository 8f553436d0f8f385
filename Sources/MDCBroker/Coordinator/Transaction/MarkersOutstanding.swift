// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// The markers that the transaction coordinators of this node still owe partitions, wherever these are led. Pure: orders,
/// answers, time and the leaders there are come in; what to write, send and tell comes back.
///
/// A marker is sent until it is known to be written: a node that does not answer, or leads no more, is left, and the leader of
/// then is asked. The first round is told of, or what a second of it achieved, so that a client need not wait for a node that is
/// down; what is decided stays decided.
struct MarkersOutstanding: Sendable {
    /// A marker for some partitions of one leader.
    struct Batch: Equatable, Sendable {
        var order: UInt64
        /// Names the attempt: an answer to one that was given up says nothing.
        var attempt: UInt64
        var marker: TransactionEndMarker
        /// In order.
        var partitions: [TopicPartition]
    }

    enum Action: Equatable, Sendable {
        /// Write it on this node.
        case write(Batch)
        case send(Batch, to: Int32)
        /// Tell the shard: everything is written, or all has been tried once.
        case report(UInt64, isDone: Bool)
        /// These could not be written and are tried again.
        case complain(UInt64, [TopicPartition])
    }

    private struct Target {
        /// The attempt under way; nil between two.
        var attempt: UInt64?
        var failures = 0
        /// When it is tried next.
        var due: Int64
    }

    private struct Outstanding {
        var marker: TransactionEndMarker
        var targets: [TopicPartition: Target]
        /// When the shard is told in any case; nil once it has been.
        var reportAt: Int64?
    }

    /// Milliseconds after which the shard is told that something is still to be written.
    static let patience: Int64 = 1000
    static let longestPause: Int64 = 500

    private var orders: [UInt64: Outstanding] = [:]
    private var lastOrder: UInt64 = 0
    private var lastAttempt: UInt64 = 0

    /// Markers that are still to be written, for metrics and tests.
    var count: Int { orders.values.reduce(0) { $0 + $1.targets.count } }

    /// When ``tick(_:locate:)`` is wanted next; nil for not at all.
    var nextDeadline: Int64? { orders.keys.lazy.compactMap { deadline(of: $0) }.min() }

    /// The same for one order.
    func deadline(of order: UInt64) -> Int64? {
        guard let order = orders[order] else { return nil }
        let due = order.targets.values.lazy.filter { $0.attempt == nil }.map(\.due).min()
        return [due, order.reportAt].compactMap { $0 }.min()
    }

    /// Takes an order; returns its number.
    mutating func add(
        _ marker: TransactionEndMarker,
        _ partitions: [TopicPartition],
        now: Int64,
        locate: (TopicPartition) -> LeaderPlace
    ) -> (order: UInt64, actions: [Action]) {
        lastOrder += 1
        let targets = Dictionary(partitions.map { ($0, Target(due: now)) }, uniquingKeysWith: { first, _ in first })
        orders[lastOrder] = Outstanding(marker: marker, targets: targets, reportAt: now + Self.patience)
        return (lastOrder, attempt(lastOrder, now, locate) + settle(lastOrder, now))
    }

    /// An attempt came to its end for a partition, with this code.
    mutating func ended(
        _ order: UInt64,
        _ attempt: UInt64,
        _ partition: TopicPartition,
        _ code: ErrorCode,
        now: Int64
    ) -> [Action] {
        guard var target = orders[order]?.targets[partition], target.attempt == attempt else { return [] }
        switch code {
        case .none, .invalidProducerEpoch, .transactionCoordinatorFenced, .producerFenced:
            // Written, or something newer has been written there already.
            orders[order]?.targets[partition] = nil
        default:
            target.attempt = nil
            target.failures += 1
            target.due = now + min(25 << Int64(min(target.failures, 5)), Self.longestPause)
            orders[order]?.targets[partition] = target
        }
        return settle(order, now)
    }

    /// Time has passed: what is due is tried again.
    mutating func tick(_ now: Int64, locate: (TopicPartition) -> LeaderPlace) -> [Action] {
        var actions: [Action] = []
        for order in orders.keys.sorted() { actions += attempt(order, now, locate) + settle(order, now) }
        return actions
    }

    /// The order is another coordinator's business now, or has been given anew.
    mutating func abandon(_ order: UInt64) { orders[order] = nil }

    private mutating func attempt(_ id: UInt64, _ now: Int64, _ locate: (TopicPartition) -> LeaderPlace) -> [Action] {
        guard var order = orders[id] else { return [] }
        var here: [TopicPartition] = []
        var byNode: [Int32: [TopicPartition]] = [:]
        lastAttempt += 1
        for (partition, target) in order.targets.sorted(by: { $0.key < $1.key })
        where target.attempt == nil && target.due <= now {
            switch locate(partition) {
            case .here: here.append(partition)
            case .node(let node): byNode[node, default: []].append(partition)
            case .gone:
                order.targets[partition] = nil
                continue
            case .nowhere:
                order.targets[partition]?.failures += 1
                order.targets[partition]?.due = now + Self.longestPause / 5
                continue
            }
            order.targets[partition]?.attempt = lastAttempt
        }
        orders[id] = order
        let batch = { [lastAttempt] (partitions: [TopicPartition]) in
            Batch(order: id, attempt: lastAttempt, marker: order.marker, partitions: partitions)
        }
        return byNode.sorted { $0.key < $1.key }.map { .send(batch($0.value), to: $0.key) }
            + (here.isEmpty ? [] : [.write(batch(here))])
    }

    /// What the shard is to be told of an order by now.
    private mutating func settle(_ id: UInt64, _ now: Int64) -> [Action] {
        guard let order = orders[id] else { return [] }
        if order.targets.isEmpty {
            orders[id] = nil
            return [.report(id, isDone: true)]
        }
        guard let reportAt = order.reportAt else { return [] }
        let isTried = order.targets.values.allSatisfy { $0.attempt == nil && $0.failures > 0 }
        guard isTried || reportAt <= now else { return [] }
        orders[id]?.reportAt = nil
        return [.report(id, isDone: false), .complain(id, order.targets.keys.sorted())]
    }
}
