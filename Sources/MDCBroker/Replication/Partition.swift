// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Synchronization

/// Waits until a partition has more to read.
protocol PartitionWaiter: AnyObject, Sendable {
    /// Something more can be read. May come from any thread, must not block, and may come more than once.
    func partitionAdvanced()
    /// The broker stops: answer with what there is. May come from any thread.
    func brokerStops()
}

/// A partition that this node leads, in one leader epoch: another epoch is another object.
final class Partition: Sendable {
    let topicPartition: TopicPartition
    let topicID: TopicID
    let log: PartitionLog
    /// The node's id and this partition's leader epoch.
    let leader: Int32
    let leaderEpoch: LeaderEpoch
    let isInternal: Bool
    private let minInSyncReplicas: Atomic<Int32>
    /// Delayed operations that look at this partition.
    private let waiters = Mutex<[ObjectIdentifier: any PartitionWaiter]>([:])
    private let hasWaiters = Atomic<Bool>(false)
    /// Followers' fetches, which wait for what is written, not for what is committed.
    private let followerWaiters = Mutex<[ObjectIdentifier: any PartitionWaiter]>([:])
    private let hasFollowerWaiters = Atomic<Bool>(false)
    /// The other replicas; nil on a node that is alone.
    let replication: LeaderReplication?
    private let deleted = Atomic<Bool>(false)
    /// Writes that are about to begin a transaction here.
    let tickets = Mutex(TransactionTickets())

    init(
        topicPartition: TopicPartition,
        topicID: TopicID,
        log: PartitionLog,
        leader: Int32,
        leaderEpoch: LeaderEpoch,
        minInSync: Int32,
        replication: LeaderReplication? = nil
    ) {
        self.topicPartition = topicPartition
        self.topicID = topicID
        self.log = log
        self.leader = leader
        self.leaderEpoch = leaderEpoch
        minInSyncReplicas = Atomic(minInSync)
        self.replication = replication
        isInternal = InternalTopic.all.contains { $0.name == topicPartition.topic }
    }

    /// In-sync replicas that `acks=all` needs.
    var minInSync: Int32 {
        get { minInSyncReplicas.load(ordering: .relaxed) }
        set {
            minInSyncReplicas.store(newValue, ordering: .relaxed)
            replication?.set(minInSync: Int(newValue))
        }
    }
    /// How many replicas are in sync, this one included.
    var inSyncCount: Int { replication?.inSyncCount ?? 1 }
    /// Whether the topic has been deleted since, or led elsewhere.
    var isDeleted: Bool { deleted.load(ordering: .acquiring) }
    /// End of what consumers may read: on stable storage of every in-sync replica.
    var highWatermark: Offset { log.highWatermark }

    /// End of what a reader of this isolation level may read.
    func readableEnd(readCommitted: Bool) -> Offset { readCommitted ? log.lastStableOffset : log.highWatermark }

    /// Whether other nodes hold replicas, so that what is durable here is not committed by that.
    private var sharedReplication: LeaderReplication? {
        guard let replication, !replication.isAlone else { return nil }
        return replication
    }

    /// Appends batches on the calling thread; blocks no longer than writing to the page cache takes.
    func append(_ batches: ByteBuffer, as origin: AppendOrigin, now: Timestamp) throws(LogError) -> AppendResult {
        let result = try log.append(batches, as: origin, leaderEpoch: leaderEpoch, now: now)
        // Where no sync round will announce it, readers are told at once.
        if sharedReplication != nil {
            notifyFollowers()
            if log.durableEndOffset > result.lastOffset { durableAdvanced() }
        } else if hasWaiters.load(ordering: .acquiring), log.durableEndOffset > result.lastOffset {
            notifyWaiters()
        }
        return result
    }

    /// More is on disk here. From a sync thread, once a round.
    func durableAdvanced() {
        guard let replication = sharedReplication else { return notifyWaiters() }
        if replication.durableAdvanced() { notifyWaiters() }
    }

    /// A follower asks from `offset` on. Throws ``LeaderReplica/Refusal``.
    func fetched(by id: Int32, brokerEpoch: Int64, from offset: Offset, logStart: Offset) throws(LeaderReplica.Refusal)
    {
        guard let replication else { throw .notAReplica }
        if try replication.fetched(by: id, brokerEpoch: brokerEpoch, from: offset, logStart: logStart) {
            notifyWaiters()
        }
    }

    /// Calls `done` when everything before `offset` is committed: on stable storage here and on the in-sync replicas. It
    /// fails with `.notLeader` or `.notEnoughReplicas` where that cannot be waited for any longer.
    func whenCommitted(upTo offset: Offset, _ done: @escaping @Sendable (Result<Void, LogError>) -> Void) {
        guard let replication = sharedReplication else { return log.whenDurable(upTo: offset, done) }
        replication.whenCommitted(upTo: offset, done)
    }

    /// Whether everything before `offset` is committed already.
    func isCommitted(upTo offset: Offset) -> Bool {
        (sharedReplication == nil ? log.durableEndOffset : log.highWatermark) >= offset
    }

    /// Whether the high watermark has come as far as any leader before may have told clients (KIP-207).
    var isHighWatermarkKnown: Bool { replication?.isHighWatermarkKnown ?? true }

    // MARK: Waiting

    /// Notes a waiter, who must look again afterwards: an advance in between is not announced.
    func addWaiter(_ waiter: any PartitionWaiter) {
        waiters.withLock { $0[ObjectIdentifier(waiter)] = waiter }
        hasWaiters.store(true, ordering: .sequentiallyConsistent)
    }

    func removeWaiter(_ waiter: any PartitionWaiter) {
        waiters.withLock { waiters in
            waiters[ObjectIdentifier(waiter)] = nil
            if waiters.isEmpty { hasWaiters.store(false, ordering: .releasing) }
        }
    }

    /// Tells everyone who waits.
    func notifyWaiters() {
        guard hasWaiters.load(ordering: .sequentiallyConsistent) else { return }
        let waiting = waiters.withLock { Array($0.values) }
        for waiter in waiting { waiter.partitionAdvanced() }
    }

    /// Notes a follower's fetch, which waits for anything that is written.
    func addFollowerWaiter(_ waiter: any PartitionWaiter) {
        followerWaiters.withLock { $0[ObjectIdentifier(waiter)] = waiter }
        hasFollowerWaiters.store(true, ordering: .sequentiallyConsistent)
    }

    func removeFollowerWaiter(_ waiter: any PartitionWaiter) {
        followerWaiters.withLock { waiters in
            waiters[ObjectIdentifier(waiter)] = nil
            if waiters.isEmpty { hasFollowerWaiters.store(false, ordering: .releasing) }
        }
    }

    private func notifyFollowers() {
        guard hasFollowerWaiters.load(ordering: .sequentiallyConsistent) else { return }
        let waiting = followerWaiters.withLock { Array($0.values) }
        for waiter in waiting { waiter.partitionAdvanced() }
    }

    /// The broker stops: nobody waits any longer.
    func endWaiting() {
        let waiting = waiters.withLock { Array($0.values) } + followerWaiters.withLock { Array($0.values) }
        for waiter in waiting { waiter.brokerStops() }
    }

    /// The topic is gone, or led elsewhere or in another epoch: readers and writers are told.
    func markDeleted() {
        deleted.store(true, ordering: .sequentiallyConsistent)
        replication?.retire()
        notifyWaiters()
        notifyFollowers()
    }
}

/// The partitions that this node leads.
final class PartitionRegistry: Sendable {
    private struct State {
        /// By number; nil where another node leads, or none.
        var byName: [String: [Partition?]] = [:]
        var byID: [TopicID: [Partition?]] = [:]
        var byLog: [ObjectIdentifier: Partition] = [:]
        /// Of topics whose partitions are set one by one.
        var names: [TopicID: String] = [:]
        var ids: [String: TopicID] = [:]
    }

    private let state = Mutex(State())

    /// What a name or id with a partition's number leads to.
    enum Lookup {
        case found(Partition)
        case noSuchTopic
        case noSuchPartition
        /// The partition is led elsewhere, or not at all.
        case notLeader
    }

    func find(name: String, partition: Int32) -> Lookup {
        Self.pick(state.withLock { $0.byName[name] }, partition)
    }

    func find(id: TopicID, partition: Int32) -> Lookup {
        Self.pick(state.withLock { $0.byID[id] }, partition)
    }

    private static func pick(_ partitions: [Partition?]?, _ index: Int32) -> Lookup {
        guard let partitions else { return .noSuchTopic }
        guard index >= 0, Int(index) < partitions.count else { return .noSuchPartition }
        return partitions[Int(index)].map { .found($0) } ?? .notLeader
    }

    /// The partition of a log; nil for the metadata log, logs of deleted topics, and those that are led elsewhere.
    func partition(of log: PartitionLog) -> Partition? {
        state.withLock { $0.byLog[ObjectIdentifier(log)] }
    }

    var all: [Partition] { state.withLock { state in state.byName.values.flatMap { $0.compactMap { $0 } } } }

    /// Puts a topic's partitions into service, or adds to those in service.
    func add(_ partitions: [Partition]) {
        guard let first = partitions.first else { return }
        state.withLock { state in
            state.byName[first.topicPartition.topic, default: []] += partitions.map { $0 }
            state.byID[first.topicID, default: []] += partitions.map { $0 }
            for partition in partitions { state.byLog[ObjectIdentifier(partition.log)] = partition }
        }
    }

    /// Sets who leads a partition here: nil for nobody. The one before is told that it leads no longer.
    func set(_ partition: Partition?, topic: String, id: TopicID, index: Int32, count: Int) {
        let index = Int(index)
        let before = state.withLock { state -> Partition? in
            var slots = state.byID[id] ?? []
            if slots.count < max(count, index + 1) {
                slots += Array(repeating: nil, count: max(count, index + 1) - slots.count)
            }
            let before = slots[index]
            slots[index] = partition
            state.byID[id] = slots
            state.byName[topic] = slots
            state.names[id] = topic
            state.ids[topic] = id
            if let before { state.byLog[ObjectIdentifier(before.log)] = nil }
            if let partition { state.byLog[ObjectIdentifier(partition.log)] = partition }
            return before
        }
        if before !== partition { before?.markDeleted() }
    }

    /// Takes a topic out of service.
    func remove(topic: String) -> [Partition] {
        let removed = state.withLock { state -> [Partition] in
            let slots = state.byName.removeValue(forKey: topic) ?? []
            let removed = slots.compactMap { $0 }
            for (id, slots) in state.byID where slots.contains(where: { $0?.topicPartition.topic == topic }) {
                state.byID[id] = nil
            }
            for partition in removed { state.byLog[ObjectIdentifier(partition.log)] = nil }
            return removed
        }
        for partition in removed { partition.markDeleted() }
        return removed
    }

    /// Takes a topic out of service whose partitions were set one by one.
    func remove(id: TopicID) {
        let removed = state.withLock { state -> [Partition] in
            let removed = (state.byID.removeValue(forKey: id) ?? []).compactMap { $0 }
            // A topic of that name may have been made anew.
            if let name = state.names.removeValue(forKey: id), state.ids[name] == id {
                state.byName[name] = nil
                state.ids[name] = nil
            }
            for partition in removed { state.byLog[ObjectIdentifier(partition.log)] = nil }
            return removed
        }
        for partition in removed { partition.markDeleted() }
    }
}
