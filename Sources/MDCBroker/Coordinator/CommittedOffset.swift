// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Where a group stands in one partition.
struct CommittedOffset: Equatable, Sendable {
    var offset: Int64
    /// The leader epoch of the last record consumed; -1 when not known (KIP-320).
    var leaderEpoch: Int32 = -1
    /// Whatever the client stored with it.
    var metadata: String = ""
    var commitTimestamp: Timestamp
    /// Set only where an old client asked for its own retention (OffsetCommit v2–4).
    var expireTimestamp: Timestamp?

    init(
        offset: Int64,
        leaderEpoch: Int32 = -1,
        metadata: String = "",
        commitTimestamp: Timestamp,
        expireTimestamp: Timestamp? = nil
    ) {
        self.offset = offset
        self.leaderEpoch = leaderEpoch
        self.metadata = metadata
        self.commitTimestamp = commitTimestamp
        self.expireTimestamp = expireTimestamp
    }

    init(_ value: OffsetCommitValue) {
        self.init(
            offset: value.offset,
            leaderEpoch: value.leaderEpoch,
            metadata: value.metadata,
            commitTimestamp: Timestamp(value.commitTimestamp),
            expireTimestamp: value.expireTimestamp < 0 ? nil : Timestamp(value.expireTimestamp)
        )
    }
}

/// A committed offset that changes; nil removes it.
struct OffsetChange: Equatable, Sendable {
    var group: String
    var topic: String
    var partition: Int32
    var value: CommittedOffset?

    var record: CoordinatorRecord { .offset(group: group, topic: topic, partition: partition, value) }
}

/// The committed offsets of the groups of one shard.
struct OffsetStore: Equatable, Sendable {
    /// By group, topic and partition. A group or topic without offsets has no entry.
    private(set) var groups: [String: [String: [Int32: CommittedOffset]]] = [:]
    /// What transactions that are not decided want to commit.
    private(set) var pending = PendingOffsets()

    subscript(group: String, topic: String, partition: Int32) -> CommittedOffset? {
        groups[group]?[topic]?[partition]
    }

    func hasOffsets(_ group: String) -> Bool { groups[group] != nil || pending.contains(group: group) }

    /// Applies a change that is no part of a transaction.
    mutating func apply(_ change: OffsetChange) {
        if !pending.isEmpty {
            if change.value == nil {
                pending.remove(group: change.group, topic: change.topic, partition: change.partition)
            } else {
                pending.outdate(group: change.group, topic: change.topic, partition: change.partition)
            }
        }
        set(change)
    }

    /// Keeps a change until the transaction of `producer` ends.
    mutating func hold(_ change: OffsetChange, of producer: Int64) { pending.hold(change, of: producer) }

    /// Ends the transaction of `producer`.
    mutating func endTransaction(of producer: Int64, isCommit: Bool) {
        for change in pending.end(producer, isCommit: isCommit) { set(change) }
    }

    private mutating func set(_ change: OffsetChange) {
        if let value = change.value {
            groups[change.group, default: [:]][change.topic, default: [:]][change.partition] = value
            return
        }
        guard groups[change.group]?[change.topic] != nil else { return }
        groups[change.group]?[change.topic]?[change.partition] = nil
        if groups[change.group]?[change.topic]?.isEmpty == true { groups[change.group]?[change.topic] = nil }
        if groups[change.group]?.isEmpty == true { groups[change.group] = nil }
    }

    /// The removal of every offset of `group` for which `condition` holds.
    func removals(
        of group: String,
        where condition: (_ topic: String, CommittedOffset) -> Bool = { _, _ in true }
    ) -> [OffsetChange] {
        var changes: [OffsetChange] = []
        for (topic, partitions) in (groups[group] ?? [:]).sorted(by: { $0.key < $1.key }) {
            for (partition, value) in partitions.sorted(by: { $0.key < $1.key }) where condition(topic, value) {
                changes.append(OffsetChange(group: group, topic: topic, partition: partition, value: nil))
            }
        }
        return changes
    }

    /// The removal of offsets of `group` that only undecided transactions know, for which `condition` holds.
    func pendingRemovals(of group: String, where condition: (_ topic: String) -> Bool = { _ in true }) -> [OffsetChange]
    {
        pending.places(of: group)
            .filter { condition($0.topic) && self[group, $0.topic, $0.partition] == nil }
            .map { OffsetChange(group: group, topic: $0.topic, partition: $0.partition, value: nil) }
    }
}
