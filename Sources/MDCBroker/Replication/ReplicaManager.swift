// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCLog
import MDCModel
import NIOCore
import NIOPosix
import Synchronization

/// Carries out on this node what the metadata says of partitions: makes their logs, leads or follows them, and takes them
/// out of service.
///
/// ``apply(topic:partition:state:)`` and ``remove(topicID:)`` come from one thread at a time, which may block, and must
/// tell nothing that was decided before this run of the node was registered: a node that acts on its old leadership may
/// write other records at the same epoch and offset than its followers have.
final class ReplicaManager: ReplicaApplying {
    /// A topic, a partition of it, how many it has, and whether this node begins or ceases to lead it.
    typealias LeadershipHandler = @Sendable (String, Int32, Int, Bool) -> Void

    private enum Role {
        case none
        case leader(Partition)
        /// Of this node, in the state's leader epoch.
        case follower(of: Int32)
    }

    private struct Replica {
        var topic: String
        var state: PartitionImage
        var log: PartitionLog
        var role = Role.none
    }

    /// A leadership that this node cannot exercise.
    struct Resignation {
        var topicPartition: TopicPartition
        var state: PartitionImage
        var isAsked = false
    }

    private struct State {
        var replicas: [ReplicaFetcher.Key: Replica] = [:]
        /// Leaderships of partitions whose data folders have failed, and that are to be given up.
        var resigning: [ReplicaFetcher.Key: Resignation] = [:]
        var fetchers: [Int32: ReplicaFetcher] = [:]
        var ticker: RepeatedTask?
        /// Keeps the high watermarks.
        var saver: RepeatedTask?
        var isStopped = false
        /// Replicas that are other than their leader's, and are emptied once they are out of the in-sync set.
        var differing: Set<ReplicaFetcher.Key> = []
        var comparer: ReplicaComparer?
        /// Of leaderships that are over.
        var shrinks = 0
        var expansions = 0
    }

    let node: Int32
    let directory: any BrokerDirectory
    private let live: LiveConfiguration
    private let logs: LogManager
    let registry: PartitionRegistry
    private let proposing: any PartitionChangeProposing
    private let group: any EventLoopGroup
    private let blocking: any WorkQueue
    private let checkpoint: HighWatermarkCheckpoint
    private let environment: NodeEnvironment
    private let logger: Logger
    let throttle: ReplicationThrottle
    private let state = Mutex(State())
    /// Closures in locks are in structures (`GroupCommit.Handlers` tells why).
    private struct Handlers: Sendable {
        var leadership: LeadershipHandler?
    }
    private let handlers = Mutex(Handlers())
    /// One change of roles at a time: those that the metadata ask for, and rebuilds.
    private let order = Mutex(())

    init(
        live: LiveConfiguration,
        logs: LogManager,
        registry: PartitionRegistry,
        proposing: any PartitionChangeProposing,
        directory: any BrokerDirectory,
        group: any EventLoopGroup,
        blocking: any WorkQueue,
        checkpoint: HighWatermarkCheckpoint,
        environment: NodeEnvironment = .system,
        logger: Logger
    ) {
        node = live.current.nodeID
        self.live = live
        self.logs = logs
        self.registry = registry
        self.proposing = proposing
        self.directory = directory
        self.group = group
        self.blocking = blocking
        self.checkpoint = checkpoint
        self.environment = environment
        self.logger = logger
        let throttle = ReplicationThrottle(node: live.current.nodeID) {
            UInt64(clamping: environment.monotonic()) * 1_000_000
        }
        self.throttle = throttle
        live.observe { throttle.set(leaderRate: $0.leaderThrottledRate, followerRate: $0.followerThrottledRate) }
        // What a log had brought to disk need not have been committed: until its leader tells, what was known to be is.
        for log in logs.allPartitions where log.topicPartition != MetadataStore.topicPartition {
            let known = checkpoint[log.topicPartition] ?? 0
            log.updateHighWatermark(max(min(known, log.durableEndOffset), log.logStartOffset))
        }
    }

    private func now() -> Int64 { environment.monotonic() }

    /// Sets what is told of leaderships that begin, each epoch anew, and end. It must not block.
    func whenLeadershipChanges(_ handler: @escaping LeadershipHandler) { handlers.withLock { $0.leadership = handler } }

    // MARK: Running

    /// Begins to watch followers for lag, and to compare replicas.
    func start(_ peers: PeerRequests) {
        let comparer = ReplicaComparer(
            manager: self,
            peers: peers,
            eventLoop: group.next(),
            blocking: blocking,
            interval: { [live] in live.current.replicaCompareMilliseconds },
            logger: logger
        )
        state.withLock { $0.comparer = comparer }
        comparer.start()
        watch()
    }

    /// Begins to watch followers for lag.
    func watch() {
        let interval = TimeAmount.milliseconds(max(50, min(250, lagMilliseconds / 4)))
        let ticker = group.next().scheduleRepeatedTask(initialDelay: interval, delay: interval) { [weak self] _ in
            self?.tick()
        }
        let pause = TimeAmount.milliseconds(Self.checkpointMilliseconds)
        let saver = group.next().scheduleRepeatedTask(initialDelay: pause, delay: pause) { [weak self, blocking] _ in
            blocking.submit { [weak self] _ in self?.saveHighWatermarks() }
        }
        state.withLock {
            $0.ticker = ticker
            $0.saver = saver
        }
    }

    private static let checkpointMilliseconds: Int64 = 5_000

    private func saveHighWatermarks() {
        checkpoint.save {
            let logs = state.withLock { $0.replicas.values.map(\.log) }
            return Dictionary(
                logs.map { ($0.topicPartition, $0.highWatermark) },
                uniquingKeysWith: { $1 }
            )
        }
    }

    func stop() {
        state.withLock { $0.comparer }?.stop()
        let (ticker, saver, fetchers) = state.withLock { state in
            state.isStopped = true
            return (state.ticker, state.saver, Array(state.fetchers.values))
        }
        ticker?.cancel()
        saver?.cancel()
        for fetcher in fetchers { fetcher.stop() }
        if saver != nil { saveHighWatermarks() }
    }

    private var lagMilliseconds: Int64 { live.current.replicaLagMilliseconds }

    private func tick() {
        var failed: [Partition] = []
        for partition in registry.all.sorted(by: {
            ($0.topicID, $0.topicPartition.partition) < ($1.topicID, $1.topicPartition.partition)
        }) {
            partition.replication?.tick()
            if partition.log.isFolderOffline || !partition.log.damage.isEmpty { failed.append(partition) }
        }
        resign(failed)
        rebuildDamaged()
    }

    /// What scrubbing has found damaged is copied anew from the leader.
    private func rebuildDamaged() {
        let damaged = state.withLock { state in
            state.replicas.filter { key, replica in
                guard case .follower = replica.role, !state.differing.contains(key) else { return false }
                return !replica.log.damage.isEmpty
            }
            .keys.sorted { ($0.topicID, $0.index) < ($1.topicID, $1.index) }
        }
        for key in damaged { blocking.submit { [weak self] _ in self?.rebuild(key) } }
    }

    // MARK: Failed data folders

    /// Has others lead what is in data folders that have failed, where others are in sync. Asks again until it is so.
    private func resign(_ failed: [Partition]) {
        let due = state.withLock { state -> [(ReplicaFetcher.Key, Resignation)] in
            if state.isStopped { return [] }
            for partition in failed {
                let key = ReplicaFetcher.Key(
                    topicID: partition.topicID,
                    index: partition.topicPartition.partition.rawValue
                )
                guard let replica = state.replicas[key], replica.state.leader == node else { continue }
                let isAsked = state.resigning[key]?.isAsked ?? false
                state.resigning[key] = Resignation(
                    topicPartition: partition.topicPartition,
                    state: replica.state,
                    isAsked: isAsked
                )
            }
            let due = state.resigning.filter { !$0.value.isAsked && $0.value.state.isr.contains { $0 != node } }
            for key in due.keys { state.resigning[key]?.isAsked = true }
            return due.sorted { $0.key < $1.key }
        }
        for (key, resignation) in due {
            logger.error(
                "the log of a partition is damaged, or its data folder has failed; another replica is to lead it",
                metadata: ["partition": "\(resignation.topicPartition)"]
            )
            proposing.alterPartition(
                topicID: key.topicID,
                partition: key.index,
                leaderEpoch: resignation.state.leaderEpoch,
                partitionEpoch: resignation.state.partitionEpoch,
                newISR: resignation.state.isr.filter { $0 != node }.map { (node: $0, brokerEpoch: -1) }
            ) { [weak self] _ in
                guard let self, !self.state.withLock({ $0.isStopped }) else { return }
                // Whatever the answer: the metadata tell whether it is to be asked again.
                self.group.next().scheduleTask(in: .milliseconds(500)) { [weak self] in
                    self?.state.withLock { $0.resigning[key]?.isAsked = false }
                }
            }
        }
    }

    /// The log of a replica is in a data folder that could not be opened: the rest of the node goes on.
    private func isOffline(_ key: ReplicaFetcher.Key, _ topic: TopicImage, _ new: PartitionImage, isNew: Bool) -> Bool {
        let name = TopicPartition(topic: topic.name, partition: PartitionID(key.index))
        let isLeader = new.leader == node
        guard new.replicas.contains(node), logs.isOutOfReach(name, isNew: isNew) else {
            registry.note(key.topicID, key.index, offline: nil)
            return false
        }
        let reason = logs.offlineReason(of: name)?.message ?? "its data folder has failed"
        registry.note(key.topicID, key.index, offline: isLeader ? reason : nil)
        logger.error("a replica is not there", metadata: ["partition": "\(name)", "error": "\(reason)"])
        if isLeader {
            state.withLock { $0.resigning[key] = Resignation(topicPartition: name, state: new) }
        }
        return true
    }

    // MARK: Metadata

    /// Leads or follows a partition as `state` says. Does nothing where that, or something newer, was applied before.
    /// Blocks on the disk where a log is made. Throws where the log cannot be opened; the rest of the node goes on.
    func apply(
        topic: TopicImage,
        partition index: Int32,
        state new: PartitionImage,
        isNew: Bool = false
    ) throws(LogError) {
        try order.withLock { _ throws(LogError) in try carryOut(topic, index, new, isNew: isNew) }
    }

    private func carryOut(_ topic: TopicImage, _ index: Int32, _ new: PartitionImage, isNew: Bool) throws(LogError) {
        let key = ReplicaFetcher.Key(topicID: topic.id, index: index)
        let known = state.withLock { state in
            // It is noted anew where the node still leads what it cannot write.
            if let resigning = state.resigning[key], resigning.state.partitionEpoch < new.partitionEpoch {
                state.resigning[key] = nil
            }
            return state.replicas[key]
        }
        if let known, (new.leaderEpoch, new.partitionEpoch) <= (known.state.leaderEpoch, known.state.partitionEpoch) {
            // Another partition's replicas may have changed what a majority is.
            if case .leader(let partition) = known.role, partition.minInSync != minInSync(topic) {
                partition.minInSync = minInSync(topic)
            }
            return
        }
        if known == nil, isOffline(key, topic, new, isNew: isNew) { return }
        guard new.replicas.contains(node) else {
            if let known {
                drop(key, known, topic.partitions.count)
            } else if let log = logs.partition(TopicPartition(topic: topic.name, partition: PartitionID(index))),
                log.topicID == topic.id
            {
                logger.info(
                    "a replica that was moved away is removed",
                    metadata: ["partition": "\(log.topicPartition)"]
                )
                try logs.deletePartition(log.topicPartition)
            }
            return
        }
        var replica: Replica
        if let known {
            replica = known
        } else {
            replica = Replica(topic: topic.name, state: new, log: try open(topic, index, isNew: isNew))
        }
        let before = replica.state
        replica.state = new
        if new.leader == node {
            lead(&replica, topic, index, before)
        } else {
            follow(&replica, topic, index, before)
        }
        let result = replica
        state.withLock { $0.replicas[key] = result }
    }

    /// Gives the replicas of a topic here, led or followed, its settings of now.
    func configure(_ topic: TopicImage) {
        throttle.note(topic.id, topic.configs)
        let settings = TopicSettings.settings(topic.configs, defaults: live.current.topicDefaults)
        let minInSync = minInSync(topic)
        let replicas = state.withLock { state in
            topic.partitions.indices.compactMap {
                state.replicas[ReplicaFetcher.Key(topicID: topic.id, index: Int32($0))]
            }
        }
        for replica in replicas {
            if case .leader(let partition) = replica.role { partition.minInSync = minInSync }
            do throws(LogError) {
                try replica.log.update(settings: settings)
            } catch {
                logger.warning(
                    "a partition keeps its settings",
                    metadata: ["partition": "\(replica.log.topicPartition)", "reason": "\(error.message)"]
                )
            }
        }
    }

    /// Takes a deleted topic out of service and its logs from the disk. Blocks.
    func remove(topicID: TopicID) {
        order.withLock { _ in removeReplicas(of: topicID) }
        throttle.forget(topicID)
    }

    private func removeReplicas(of topicID: TopicID) {
        let gone = state.withLock { state in
            for key in state.resigning.keys where key.topicID == topicID { state.resigning[key] = nil }
            let gone = state.replicas.filter { $0.key.topicID == topicID }
            for key in gone.keys { state.replicas[key] = nil }
            return gone
        }
        for (key, replica) in gone.sorted(by: { $0.key < $1.key }) { drop(key, replica, nil) }
        _ = registry.remove(id: topicID)
    }

    /// The node holds this replica no longer; the topic goes on with `count` partitions elsewhere, or (nil) is gone.
    private func drop(_ key: ReplicaFetcher.Key, _ replica: Replica, _ partitions: Int?) {
        state.withLock { _ = $0.differing.remove(key) }
        stopFollowing(key, replica)
        count(replica)
        registry.remove(key.topicID, key.index)
        state.withLock { $0.replicas[key] = nil }
        if let partitions, case .leader = replica.role {
            handlers.withLock { $0 }.leadership?(replica.topic, key.index, partitions, false)
        }
        do throws(LogError) {
            try logs.deletePartition(replica.log.topicPartition)
        } catch {
            logger.warning("a replica's folder stays until the next start", metadata: ["error": "\(error)"])
        }
    }

    private func open(_ topic: TopicImage, _ index: Int32, isNew: Bool) throws(LogError) -> PartitionLog {
        throttle.note(topic.id, topic.configs)
        let name = TopicPartition(topic: topic.name, partition: PartitionID(index))
        let settings = TopicSettings.settings(topic.configs, defaults: live.current.topicDefaults)
        if let log = logs.partition(name) {
            if log.topicID == topic.id || PlantedReplicationBugs.planted.contains(.ignoresTopicID) {
                try log.update(settings: settings)
                return log
            }
            // The metadata knows one topic of a name: this one was deleted while the node was down.
            logger.warning(
                "a folder of a deleted topic of the same name is removed",
                metadata: ["partition": "\(name)"]
            )
            try logs.deletePartition(name)
        }
        let log = try logs.createPartition(name, topicID: topic.id, settings: settings, isNew: isNew)
        log.updateHighWatermark(0)
        // Of a topic of this name that was deleted.
        checkpoint.lower(name, to: 0)
        return log
    }

    // MARK: Leading

    private func minInSync(_ topic: TopicImage) -> Int32 {
        topic.minInSync(onNode: live.current.minInSyncReplicas)
    }

    private func lead(_ replica: inout Replica, _ topic: TopicImage, _ index: Int32, _ before: PartitionImage) {
        let new = replica.state
        if case .leader(let partition) = replica.role, before.leaderEpoch == new.leaderEpoch {
            let advanced = partition.replication?.update(
                partitionEpoch: new.partitionEpoch,
                replicas: new.replicas,
                inSync: new.isr,
                minInSync: Int(minInSync(topic))
            )
            if advanced == true { partition.notifyWaiters() }
            return
        }
        stopFollowing(ReplicaFetcher.Key(topicID: topic.id, index: index), replica)
        let log = replica.log
        let epoch = LeaderEpoch(new.leaderEpoch)
        log.lead(in: epoch)
        let isAlone = new.replicas == [node]
        if isAlone { log.commitWhatIsDurable() }
        let leader = LeaderReplica(
            node: node,
            leaderEpoch: new.leaderEpoch,
            partitionEpoch: new.partitionEpoch,
            replicas: new.replicas,
            inSync: new.isr,
            highWatermark: log.highWatermark,
            logEnd: log.logEndOffset,
            durableEnd: log.durableEndOffset,
            settings: LeaderReplica.Settings(
                lagMilliseconds: lagMilliseconds,
                minInSync: Int(minInSync(topic))
            ),
            now: now()
        )
        let partition = Partition(
            topicPartition: log.topicPartition,
            topicID: topic.id,
            log: log,
            leader: node,
            leaderEpoch: epoch,
            minInSync: minInSync(topic),
            replication: LeaderReplication(topicID: topic.id, log: log, replica: leader, hooks: hooks)
        )
        count(replica)
        replica.role = .leader(partition)
        registry.add([partition])
        // What became durable before the partition was in the registry was announced to nobody.
        partition.durableAdvanced()
        handlers.withLock { $0 }.leadership?(topic.name, index, topic.partitions.count, true)
        logger.debug("leads", metadata: ["partition": "\(log.topicPartition)", "epoch": "\(epoch)"])
    }

    private var hooks: ReplicationHooks {
        ReplicationHooks(
            propose: { [weak self] in self?.propose($0, $1) },
            mayEnter: { [directory] in directory.isInService($0, brokerEpoch: $1) },
            now: environment.monotonic
        )
    }

    private func propose(_ replication: LeaderReplication, _ proposal: LeaderReplica.Proposal) {
        let partition = replication.topicPartition
        logger.info(
            "asks for a change of the in-sync set",
            metadata: ["partition": "\(partition)", "inSync": "\(proposal.inSync.map(\.node))"]
        )
        let node = node
        proposing.alterPartition(
            topicID: replication.topicID,
            partition: partition.partition.rawValue,
            leaderEpoch: proposal.leaderEpoch,
            partitionEpoch: proposal.partitionEpoch,
            newISR: proposal.inSync.map { (node: $0.node, brokerEpoch: $0.brokerEpoch) }
        ) { [weak self] result in
            let verdict = Self.verdict(result, proposal, node)
            if verdict == .unknown {
                // Nobody could tell: asked again after a while.
                guard let self, !self.state.withLock({ $0.isStopped }) else { return }
                self.group.next().scheduleTask(in: .milliseconds(200)) {
                    _ = replication.answered(proposal, .unknown)
                }
                return
            }
            guard replication.answered(proposal, verdict), let self else { return }
            if case .found(let partition) = self.registry.find(
                id: replication.topicID,
                partition: partition.partition.rawValue
            ) {
                partition.notifyWaiters()
            }
        }
    }

    private static func verdict(
        _ result: Result<PartitionImage, Refusal>,
        _ proposal: LeaderReplica.Proposal,
        _ node: Int32
    ) -> LeaderReplica.Verdict {
        switch result {
        case .success(let image):
            guard image.leader == node, image.leaderEpoch == proposal.leaderEpoch,
                image.partitionEpoch > proposal.partitionEpoch
            else { return .outdated }
            return .committed(inSync: image.isr, partitionEpoch: image.partitionEpoch)
        case .failure(let refusal):
            switch refusal.code {
            case .fencedLeaderEpoch, .invalidUpdateVersion, .notLeaderOrFollower, .unknownTopicId,
                .unknownTopicOrPartition:
                return .outdated
            case .ineligibleReplica, .invalidRequest, .operationNotAttempted: return .refused
            default: return .unknown
            }
        }
    }

    /// Keeps the counts of a leadership that ends.
    private func count(_ replica: Replica) {
        guard case .leader(let partition) = replica.role, let replication = partition.replication else { return }
        let shrinks = replication.shrinks.load(ordering: .relaxed)
        let expansions = replication.expansions.load(ordering: .relaxed)
        state.withLock { state in
            state.shrinks += shrinks
            state.expansions += expansions
        }
    }

    // MARK: Following

    private func follow(_ replica: inout Replica, _ topic: TopicImage, _ index: Int32, _ before: PartitionImage) {
        let new = replica.state
        let key = ReplicaFetcher.Key(topicID: topic.id, index: index)
        let differs = state.withLock { $0.differing.contains(key) }
        if case .follower(let leader) = replica.role, leader == new.leader, before.leaderEpoch == new.leaderEpoch,
            !differs
        {
            return
        }
        stopFollowing(key, replica)
        count(replica)
        let wasLeader = if case .leader = replica.role { true } else { false }
        replica.role = .none
        // First nobody finds the partition here any more, then nothing that is on its way gets into the log.
        registry.remove(topic.id, index)
        if wasLeader { handlers.withLock { $0 }.leadership?(topic.name, index, topic.partitions.count, false) }
        let log = replica.log
        let epoch = LeaderEpoch(new.leaderEpoch)
        log.follow(in: epoch)
        if PlantedReplicationBugs.planted.contains(.truncatesToHighWatermark) {
            try? log.truncate(to: log.highWatermark, following: epoch)
        }
        guard new.leader >= 0 else { return }
        if log.isFolderOffline {
            // With nothing new it would look as if it kept up. The leader drops it from the in-sync set as it lags.
            return logger.error("a replica in a failed folder waits", metadata: ["partition": "\(log.topicPartition)"])
        }
        if differs || !log.damage.isEmpty {
            guard !new.isr.contains(node) else {
                // It may be the last to have what is left of it. The leader drops it from the in-sync set as it lags.
                logger.error("a damaged replica waits", metadata: ["partition": "\(log.topicPartition)"])
                return
            }
            logger.warning(
                "a damaged replica is emptied and copied anew",
                metadata: ["partition": "\(log.topicPartition)", "leader": "\(new.leader)"]
            )
            do throws(LogError) {
                try log.reset(to: log.logStartOffset, following: epoch)
                log.updateHighWatermark(log.logStartOffset)
                checkpoint.lower(log.topicPartition, to: log.logStartOffset)
                state.withLock { _ = $0.differing.remove(key) }
            } catch {
                return logger.error("a damaged replica cannot be emptied", metadata: ["error": "\(error)"])
            }
        }
        replica.role = .follower(of: new.leader)
        registry.follow(
            Partition(
                topicPartition: log.topicPartition,
                topicID: topic.id,
                log: log,
                leader: new.leader,
                leaderEpoch: epoch,
                minInSync: 1,
                isFollowed: true
            )
        )
        fetcher(for: new.leader).add(log, index, FollowerReplica(leader: new.leader, leaderEpoch: new.leaderEpoch))
        logger.debug(
            "follows",
            metadata: ["partition": "\(log.topicPartition)", "leader": "\(new.leader)", "epoch": "\(epoch)"]
        )
    }

    // MARK: Comparing

    /// What this node follows in sync, with what of it is committed. Compacted logs are left out: each replica compacts by
    /// itself.
    func comparable() -> [ReplicaFetcher.Key: Comparable] {
        let replicas = state.withLock { $0.replicas }
        var found: [ReplicaFetcher.Key: Comparable] = [:]
        for (key, replica) in replicas {
            guard case .follower(let leader) = replica.role, replica.state.isr.contains(node),
                !replica.log.settings.isCompacted
            else { continue }
            found[key] = Comparable(
                log: replica.log,
                leader: leader,
                leaderEpoch: replica.state.leaderEpoch,
                start: replica.log.logStartOffset,
                end: replica.log.highWatermark
            )
        }
        return found
    }

    /// Replicas that wait to leave the in-sync set.
    func withdrawing() -> [Comparable] {
        state.withLock { state in
            state.differing.compactMap { key in
                guard let replica = state.replicas[key], replica.state.isr.contains(node), replica.state.leader >= 0
                else { return nil }
                return Comparable(
                    log: replica.log,
                    leader: replica.state.leader,
                    leaderEpoch: replica.state.leaderEpoch,
                    start: replica.log.logStartOffset,
                    end: replica.log.highWatermark
                )
            }
        }
    }

    /// A replica is not what its leader has: it is no longer fetched for, leaves the in-sync set, and is then emptied and copied
    /// anew. Blocks.
    func rebuild(_ key: ReplicaFetcher.Key) {
        order.withLock { _ in
            guard var replica = state.withLock({ $0.replicas[key] }), case .follower = replica.role,
                let topic = registry.topic(key.topicID)
            else { return }
            state.withLock { _ = $0.differing.insert(key) }
            follow(&replica, topic, key.index, replica.state)
            let result = replica
            state.withLock { $0.replicas[key] = result }
        }
    }

    private func stopFollowing(_ key: ReplicaFetcher.Key, _ replica: Replica) {
        guard case .follower(let leader) = replica.role else { return }
        registry.unfollow(key.topicID, key.index)
        state.withLock { $0.fetchers[leader] }?.remove(key.topicID, key.index)
    }

    private func fetcher(for remote: Int32) -> ReplicaFetcher {
        state.withLock { state in
            if let fetcher = state.fetchers[remote] { return fetcher }
            let fetcher = ReplicaFetcher(
                remote: remote,
                node: node,
                eventLoop: group.next(),
                directory: directory,
                blocking: blocking,
                environment: environment,
                throttle: throttle,
                whenAdvanced: { [registry] in registry.advanced($0.topicID, $0.index) },
                whenCut: { [checkpoint] in checkpoint.lower($0.topicPartition, to: $0.highWatermark) },
                logger: logger
            )
            state.fetchers[remote] = fetcher
            return fetcher
        }
    }

    // MARK: Views

    /// What `/metrics` says of replication.
    struct Figures: Equatable {
        /// Partitions led here with fewer replicas in sync than there are, and than the minimum.
        var underReplicated = 0
        var underMinimum = 0
        var leaders = 0
        var followers = 0
        var shrinks = 0
        var expansions = 0
        /// Stretches that were compared with leaders, and those that differed.
        var comparisons = 0
        var differences = 0
        /// The largest number of records that a follower lacks of a partition that is led here.
        var largestLag: Int64 = 0
    }

    var figures: Figures {
        var figures = Figures()
        let replicas = state.withLock { state in
            figures.shrinks = state.shrinks
            figures.expansions = state.expansions
            figures.comparisons = state.comparer?.stretches.load(ordering: .relaxed) ?? 0
            figures.differences = state.comparer?.differences.load(ordering: .relaxed) ?? 0
            return Array(state.replicas.values)
        }
        for replica in replicas {
            switch replica.role {
            case .none: break
            case .follower: figures.followers += 1
            case .leader(let partition):
                figures.leaders += 1
                guard let replication = partition.replication else { continue }
                let leader = replication.replica
                if leader.inSync.count < leader.replicas.count { figures.underReplicated += 1 }
                if leader.isBelowMinimum { figures.underMinimum += 1 }
                figures.shrinks += replication.shrinks.load(ordering: .relaxed)
                figures.expansions += replication.expansions.load(ordering: .relaxed)
                for follower in leader.followers.values {
                    guard let end = follower.end else { continue }
                    figures.largestLag = max(figures.largestLag, leader.logEnd - end)
                }
            }
        }
        return figures
    }
}
