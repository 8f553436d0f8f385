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

/// A partition that this node leads.
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
    private let deleted = Atomic<Bool>(false)
    /// Writes that are about to begin a transaction here.
    let tickets = Mutex(TransactionTickets())

    init(
        topicPartition: TopicPartition,
        topicID: TopicID,
        log: PartitionLog,
        leader: Int32,
        leaderEpoch: LeaderEpoch,
        minInSync: Int32
    ) {
        self.topicPartition = topicPartition
        self.topicID = topicID
        self.log = log
        self.leader = leader
        self.leaderEpoch = leaderEpoch
        minInSyncReplicas = Atomic(minInSync)
        isInternal = InternalTopic.all.contains { $0.name == topicPartition.topic }
    }

    /// In-sync replicas that `acks=all` needs.
    var minInSync: Int32 {
        get { minInSyncReplicas.load(ordering: .relaxed) }
        set { minInSyncReplicas.store(newValue, ordering: .relaxed) }
    }
    /// Whether the topic has been deleted since.
    var isDeleted: Bool { deleted.load(ordering: .acquiring) }
    /// End of what consumers may read: on stable storage of every in-sync replica.
    var highWatermark: Offset { log.highWatermark }

    /// End of what a reader of this isolation level may read.
    func readableEnd(readCommitted: Bool) -> Offset { readCommitted ? log.lastStableOffset : log.highWatermark }

    /// Appends batches on the calling thread; blocks no longer than writing to the page cache takes.
    func append(_ batches: ByteBuffer, as origin: AppendOrigin, now: Timestamp) throws(LogError) -> AppendResult {
        let result = try log.append(batches, as: origin, leaderEpoch: leaderEpoch, now: now)
        // Where no sync round will announce it, readers are told at once.
        if hasWaiters.load(ordering: .acquiring), log.durableEndOffset > result.lastOffset { notifyWaiters() }
        return result
    }

    /// Calls `done` when everything before `offset` is committed: on stable storage here and on the in-sync replicas.
    func whenCommitted(upTo offset: Offset, _ done: @escaping @Sendable (Result<Void, LogError>) -> Void) {
        log.whenDurable(upTo: offset, done)
    }

    /// Whether everything before `offset` is committed already.
    func isCommitted(upTo offset: Offset) -> Bool { log.durableEndOffset >= offset }

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

    /// The broker stops: nobody waits any longer.
    func endWaiting() {
        guard hasWaiters.load(ordering: .sequentiallyConsistent) else { return }
        let waiting = waiters.withLock { Array($0.values) }
        for waiter in waiting { waiter.brokerStops() }
    }

    /// The topic is gone: readers are told.
    func markDeleted() {
        deleted.store(true, ordering: .releasing)
        notifyWaiters()
    }
}

/// The partitions that this node leads.
final class PartitionRegistry: Sendable {
    private struct State {
        var byName: [String: [Partition]] = [:]
        var byID: [TopicID: [Partition]] = [:]
        var byLog: [ObjectIdentifier: Partition] = [:]
    }

    private let state = Mutex(State())

    /// What a name or id with a partition's number leads to.
    enum Lookup {
        case found(Partition)
        case noSuchTopic
        case noSuchPartition
    }

    func find(name: String, partition: Int32) -> Lookup {
        Self.pick(state.withLock { $0.byName[name] }, partition)
    }

    func find(id: TopicID, partition: Int32) -> Lookup {
        Self.pick(state.withLock { $0.byID[id] }, partition)
    }

    private static func pick(_ partitions: [Partition]?, _ index: Int32) -> Lookup {
        guard let partitions else { return .noSuchTopic }
        guard index >= 0, Int(index) < partitions.count else { return .noSuchPartition }
        return .found(partitions[Int(index)])
    }

    /// The partition of a log; nil for the metadata log and logs of deleted topics.
    func partition(of log: PartitionLog) -> Partition? {
        state.withLock { $0.byLog[ObjectIdentifier(log)] }
    }

    var all: [Partition] { state.withLock { state in state.byName.values.flatMap { $0 } } }

    /// Puts a topic's partitions into service, or adds to those in service.
    func add(_ partitions: [Partition]) {
        guard let first = partitions.first else { return }
        state.withLock { state in
            state.byName[first.topicPartition.topic, default: []] += partitions
            state.byID[first.topicID, default: []] += partitions
            for partition in partitions { state.byLog[ObjectIdentifier(partition.log)] = partition }
        }
    }

    /// Takes a topic out of service.
    func remove(topic: String) -> [Partition] {
        let removed = state.withLock { state -> [Partition] in
            let removed = state.byName.removeValue(forKey: topic) ?? []
            for partition in removed {
                state.byID[partition.topicID] = nil
                state.byLog[ObjectIdentifier(partition.log)] = nil
            }
            return removed
        }
        for partition in removed { partition.markDeleted() }
        return removed
    }
}
