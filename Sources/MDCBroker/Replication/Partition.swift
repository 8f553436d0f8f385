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

/// A partition that this node leads, in one leader epoch: another epoch is another object. One that it follows is one of these
/// too, for consumers that read here (KIP-392), and is in the registry apart.
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
    /// Whether another node leads it, and this one only lets consumers read.
    let isFollowed: Bool
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
        replication: LeaderReplication? = nil,
        isFollowed: Bool = false
    ) {
        self.topicPartition = topicPartition
        self.topicID = topicID
        self.log = log
        self.leader = leader
        self.leaderEpoch = leaderEpoch
        minInSyncReplicas = Atomic(minInSync)
        self.replication = replication
        self.isFollowed = isFollowed
        isInternal = InternalTopic.all.contains { $0.name == topicPartition.topic }
    }

    /// In-sync replicas that `acks=all` needs.
    var minInSync: Int32 {
        get { minInSyncReplicas.load(ordering: .relaxed) }
        set {
            minInSyncReplicas.store(newValue, ordering: .relaxed)
            if replication?.set(minInSync: Int(newValue)) == true { notifyWaiters() }
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
        guard let replication = sharedReplication, !PlantedReplicationBugs.planted.contains(.acknowledgesBeforeCommit)
        else { return log.whenDurable(upTo: offset, done) }
        replication.whenCommitted(upTo: offset, done)
    }

    /// Whether everything before `offset` is committed already.
    func isCommitted(upTo offset: Offset) -> Bool {
        (sharedReplication == nil ? log.durableEndOffset : log.highWatermark) >= offset
    }

    /// Whether the high watermark has come as far as any leader before may have told clients (KIP-207).
    var isHighWatermarkKnown: Bool { replication?.isHighWatermarkKnown ?? true }

    /// Whether the logs of all replicas in sync begin at `offset` or later, as far as this leader has heard.
    func startsEverywhere(at offset: Offset) -> Bool {
        log.logStartOffset >= offset && (sharedReplication?.startsEverywhere(at: offset) ?? true)
    }

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
        /// By partition; nil for those that others lead.
        var byName: [String: [Partition?]] = [:]
        var byID: [TopicID: [Partition?]] = [:]
        var byLog: [ObjectIdentifier: Partition] = [:]
        /// Those that this node is to lead, but whose data folder has failed: why.
        var offline: [TopicID: [Int32: String]] = [:]
        /// Those that this node follows.
        var followed: [TopicID: [Int32: Partition]] = [:]
    }

    private let state = Mutex(State())
    /// What else there is in the cluster.
    private let image = Mutex(MetadataImage())

    /// What a name or id with a partition's number leads to.
    enum Lookup {
        case found(Partition)
        /// Another node leads it, or none.
        case notLeader
        /// This node is to lead it, but its data folder has failed: KAFKA_STORAGE_ERROR.
        case offline(String)
        case noSuchTopic
        case noSuchPartition
    }

    /// Takes note of all topics there are.
    func note(_ image: MetadataImage) { self.image.withLock { $0 = image } }

    func find(name: String, partition: Int32) -> Lookup {
        if let found = Self.pick(state.withLock { $0.byName[name] }, partition) { return .found(found) }
        return explain(image.withLock { $0.topic(name) }, partition)
    }

    func find(id: TopicID, partition: Int32) -> Lookup {
        if let found = Self.pick(state.withLock { $0.byID[id] }, partition) { return .found(found) }
        return explain(image.withLock { $0.topic(id) }, partition)
    }

    /// A partition that this node leads.
    func local(_ id: TopicID, _ partition: Int32) -> Partition? { Self.pick(state.withLock { $0.byID[id] }, partition) }

    /// A topic as the metadata have it.
    func topic(_ id: TopicID) -> TopicImage? { image.withLock { $0.topic(id) } }

    // MARK: Followed partitions

    /// A partition that this node follows; by name, or by id where that is nil.
    func followed(name: String?, id: TopicID, _ partition: Int32) -> Partition? {
        var topic = id
        if let name {
            guard let known = image.withLock({ $0.topic(name)?.id }) else { return nil }
            topic = known
        }
        let wanted = topic
        return state.withLock { $0.followed[wanted]?[partition] }
    }

    /// This node follows a partition from now on.
    func follow(_ partition: Partition) {
        let index = partition.topicPartition.partition.rawValue
        let replaced = state.withLock {
            $0.followed[partition.topicID, default: [:]].updateValue(partition, forKey: index)
        }
        replaced?.markDeleted()
    }

    /// This node does not follow a partition any more, or not in this epoch.
    func unfollow(_ id: TopicID, _ partition: Int32) {
        let removed = state.withLock { state in
            let removed = state.followed[id]?.removeValue(forKey: partition)
            if state.followed[id]?.isEmpty == true { state.followed[id] = nil }
            return removed
        }
        removed?.markDeleted()
    }

    /// A followed partition's high watermark has advanced.
    func advanced(_ id: TopicID, _ partition: Int32) {
        state.withLock { $0.followed[id]?[partition] }?.notifyWaiters()
    }

    private static func pick(_ partitions: [Partition?]?, _ index: Int32) -> Partition? {
        guard let partitions, index >= 0, Int(index) < partitions.count else { return nil }
        return partitions[Int(index)]
    }

    private func explain(_ topic: TopicImage?, _ index: Int32) -> Lookup {
        guard let topic else { return .noSuchTopic }
        guard topic.partitions.indices.contains(Int(index)) else { return .noSuchPartition }
        return state.withLock { $0.offline[topic.id]?[index] }.map { .offline($0) } ?? .notLeader
    }

    /// Notes that the log of a partition that this node is to lead is out of reach, or (nil) that it is not, or not to be led.
    func note(_ id: TopicID, _ partition: Int32, offline reason: String?) {
        state.withLock { state in
            if reason == nil && state.offline.isEmpty { return }
            state.offline[id, default: [:]][partition] = reason
            if state.offline[id]?.isEmpty == true { state.offline[id] = nil }
        }
    }

    /// How many partitions this node is to lead whose data folders have failed.
    var offlineCount: Int { state.withLock { $0.offline.values.reduce(0) { $0 + $1.count } } }

    /// The partition of a log; nil for the metadata log and logs of deleted topics.
    func partition(of log: PartitionLog) -> Partition? {
        state.withLock { $0.byLog[ObjectIdentifier(log)] }
    }

    var all: [Partition] { state.withLock { state in state.byName.values.flatMap { $0.compactMap { $0 } } } }
    var topicIDs: [TopicID] { state.withLock { Array($0.byID.keys) } }

    /// Puts partitions of one topic into service. Those that take the place of one of an earlier epoch end its waiting.
    func add(_ partitions: [Partition]) {
        guard let first = partitions.first else { return }
        let replaced = state.withLock { state -> [Partition] in
            var list = state.byID[first.topicID] ?? []
            var replaced: [Partition] = []
            for partition in partitions {
                let index = Int(partition.topicPartition.partition.rawValue)
                while list.count <= index { list.append(nil) }
                if let old = list[index] { replaced.append(old) }
                list[index] = partition
                state.byLog[ObjectIdentifier(partition.log)] = partition
            }
            state.byName[first.topicPartition.topic] = list
            state.byID[first.topicID] = list
            return replaced
        }
        for partition in replaced { partition.markDeleted() }
    }

    /// Takes a partition out of service: this node does not lead it any more.
    func remove(_ id: TopicID, _ partition: Int32) {
        let removed = state.withLock { state -> Partition? in
            guard let removed = Self.pick(state.byID[id], partition) else { return nil }
            state.byID[id]?[Int(partition)] = nil
            state.byName[removed.topicPartition.topic]?[Int(partition)] = nil
            if state.byLog[ObjectIdentifier(removed.log)] === removed {
                state.byLog[ObjectIdentifier(removed.log)] = nil
            }
            return removed
        }
        removed?.markDeleted()
    }

    /// Takes a topic out of service.
    func remove(id: TopicID) -> [Partition] {
        let removed = state.withLock { state -> [Partition] in
            state.offline[id] = nil
            let removed = (state.byID.removeValue(forKey: id) ?? []).compactMap { $0 }
            for partition in removed {
                state.byLog[ObjectIdentifier(partition.log)] = nil
                // A topic of the same name may have been made since.
                if state.byName[partition.topicPartition.topic]?.contains(where: { $0 === partition }) == true {
                    state.byName[partition.topicPartition.topic] = nil
                }
            }
            return removed
        }
        for partition in removed { partition.markDeleted() }
        return removed
    }
}
