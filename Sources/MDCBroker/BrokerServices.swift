// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCLog
import MDCModel
import NIOCore
import NIOPosix
import Synchronization

/// What handlers share.
final class BrokerServices: Sendable {
    /// The node's settings.
    let live: LiveConfiguration
    let logger: Logger
    let logs: LogManager
    let metadata: MetadataStore
    let partitions: PartitionRegistry
    let controller: Controller
    let membership: BrokerLifecycle
    let timers: HeapTimerService
    /// For what blocks: cold reads, loading.
    let blocking: NIOThreadPool
    let groups: GroupCoordinatorService
    let transactions: TransactionCoordinatorService
    let shareStates: ShareCoordinatorService
    /// The share partitions and share sessions of this node.
    let shares: SharePartitionManager
    let fetchSessions: Mutex<FetchSessionCache>
    let quotas: QuotaManager
    let syncRounds: SyncRoundMetrics
    /// Id of the data folder.
    let directoryID: KafkaUUID
    /// The replicas of partitions that other nodes hold too; nil on a node that is alone.
    let replicas: ReplicaManager?
    /// Requests of this node to others.
    let peers: PeerRequests
    /// Keeps what is late of other nodes away.
    let fence = PeerFence()
    private let advertisedAddress: Mutex<HostPort>

    init(
        live: LiveConfiguration,
        logger: Logger,
        logs: LogManager,
        metadata: MetadataStore,
        partitions: PartitionRegistry,
        controller: Controller,
        membership: BrokerLifecycle,
        timers: HeapTimerService,
        blocking: NIOThreadPool,
        directoryID: KafkaUUID,
        replicas: ReplicaManager? = nil,
        peers: PeerRequests
    ) {
        self.live = live
        let configuration = live.current
        self.logger = logger
        self.logs = logs
        syncRounds = SyncRoundMetrics(logs)
        self.metadata = metadata
        self.partitions = partitions
        self.controller = controller
        self.membership = membership
        self.timers = timers
        self.blocking = blocking
        self.directoryID = directoryID
        self.replicas = replicas
        self.peers = peers
        quotas = controller.quotas
        let address = configuration.advertise ?? configuration.listen
        advertisedAddress = Mutex(address)
        fetchSessions = Mutex(FetchSessionCache(capacity: configuration.fetchSessionSlots))
        let access = BrokerInternalTopics(
            configuration: configuration,
            metadata: metadata,
            partitions: partitions,
            controller: controller,
            timers: timers,
            blocking: blocking,
            address: address
        )
        internalTopics = access
        shareStates = ShareCoordinatorService(
            access: access,
            updatesPerSnapshot: configuration.shareSnapshotUpdateRecords,
            peers: replicas == nil ? nil : (configuration.nodeID, peers, metadata),
            logger: logger
        )
        let shareSettings: @Sendable (String) -> ShareGroupSettings = { group in
            live.current.shareGroupSettings(metadata.image.groupConfigs[group] ?? [:])
        }
        let shares = SharePartitionManager(
            registry: partitions,
            states: shareStates,
            access: access,
            settings: shareSettings,
            maxSessions: configuration.shareMaxSessions,
            logger: logger
        )
        self.shares = shares
        let groups = GroupCoordinatorService(
            access: access,
            settings: configuration.groupSettings,
            logger: logger,
            shareSettings: shareSettings,
            shareStates: shareStates,
            whenShareStatesGo: { shares.reset($0, topics: nil) }
        )
        self.groups = groups
        transactions = TransactionCoordinatorService(
            access: access,
            node: BrokerTransactionNode(
                node: configuration.nodeID,
                partitions: partitions,
                metadata: metadata,
                controller: controller,
                groups: groups,
                peers: peers
            ),
            settings: configuration.transactionSettings,
            logger: logger
        )
        groups.prepareTransactions = { [transactions] in transactions.prepare($0) }
        live.observe { groups.update($0.groupSettings) }
        let (shareStates, transactions) = (shareStates, transactions)
        replicas?.whenLeadershipChanges { topic, partition, count, leads in
            switch topic {
            case InternalTopic.consumerOffsets.name:
                if leads { groups.elected(partition, of: count) } else { groups.resigned(partition) }
            case InternalTopic.transactionState.name:
                if leads { transactions.elected(partition, of: count) } else { transactions.resigned(partition) }
            case InternalTopic.shareGroupState.name:
                if leads { shareStates.elected(partition, of: count) } else { shareStates.resigned(partition) }
            default: break
            }
        }
    }

    /// The brokers that clients may connect to.
    func liveBrokers(_ image: MetadataImage) -> [BrokerImage] {
        image.brokers.values.filter { !$0.isFenced }.sorted { $0.id < $1.id }
    }

    /// The active controller, as far as this node knows; -1 where there is none now.
    var controllerID: Int32 { controller.quorum.status.leader }

    /// Whom a client should send what is for the controller: any node passes it on, so this one, for the client has just
    /// reached it. Named by its name, a controller that has died would be asked for until the client's metadata is old:
    /// clients look for another controller when a connection breaks, but not again after that.
    func controllerForClients(_ brokers: [BrokerImage]) -> Int32 {
        let started = live.started
        let own = brokers.first { $0.id == started.nodeID }
        return own?.id ?? brokers.first { $0.id == controllerID }?.id ?? brokers.first?.id ?? -1
    }

    /// Loads what the coordinators here keep; when the node's partitions are in service.
    func startCoordinators() {
        shareStates.start()
        groups.start()
        transactions.start()
    }

    /// The settings in force; a copy.
    var configuration: BrokerConfiguration { live.current }

    private let internalTopics: BrokerInternalTopics

    /// What clients are told to connect to.
    var advertised: HostPort {
        get { advertisedAddress.withLock { $0 } }
        set {
            advertisedAddress.withLock { $0 = newValue }
            internalTopics.address.withLock { $0 = newValue }
        }
    }

    /// The node's time.
    func now() -> Timestamp { Timestamp(mdc_wall_clock_ms()) }
}

/// What coordinators need of the node.
final class BrokerInternalTopics: InternalTopicAccess {
    private let configuration: BrokerConfiguration
    private let metadata: MetadataStore
    private let partitions: PartitionRegistry
    private let controller: Controller
    private let timers: any TimerService
    private let blocking: any WorkQueue
    private let environment: NodeEnvironment
    let address: Mutex<HostPort>
    private let cachedImage = Mutex<GroupTopicImage>(GroupTopicImage(version: .max))

    init(
        configuration: BrokerConfiguration,
        metadata: MetadataStore,
        partitions: PartitionRegistry,
        controller: Controller,
        timers: any TimerService,
        blocking: any WorkQueue,
        address: HostPort,
        environment: NodeEnvironment = .system
    ) {
        self.configuration = configuration
        self.metadata = metadata
        self.partitions = partitions
        self.controller = controller
        self.timers = timers
        self.blocking = blocking
        self.address = Mutex(address)
        self.environment = environment
    }

    func partitionCount(of topic: InternalTopic) -> Int32? {
        metadata.image.topic(topic.name).map { Int32($0.partitions.count) }
    }

    func create(
        _ topic: InternalTopic,
        _ done: @escaping @Sendable (Result<Int32, CoordinatorStorageError>) -> Void
    ) {
        var configs = ["cleanup.policy": "compact", "segment.bytes": String(configuration.offsetsTopicSegmentBytes)]
        let count: Int32
        if topic == .transactionState {
            count = configuration.transactionTopicPartitions
            configs["segment.bytes"] = String(configuration.transactionTopicSegmentBytes)
        } else if topic == .shareGroupState {
            // Not compacted by key: see ShareStateShard. What is redundant is cut off at the start.
            count = configuration.shareStateTopicPartitions
            configs = [
                "cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1",
                "segment.bytes": String(configuration.shareStateTopicSegmentBytes),
            ]
        } else {
            count = configuration.offsetsTopicPartitions
        }
        let request = NewTopic(name: topic.name, partitions: count, replicationFactor: -1, configs: configs)
        controller.run { controller in
            if let known = controller.metadata.image.topic(topic.name) {
                return done(.success(Int32(known.partitions.count)))
            }
            switch controller.create(request, validateOnly: false, isInternal: true) {
            case .success(let topic): done(.success(Int32(topic.partitions.count)))
            case .failure(let refusal):
                done(.failure(CoordinatorStorageError(code: refusal.code, description: refusal.message)))
            }
        }
    }

    func endpoint(of topic: InternalTopic, partition: Int32) -> CoordinatorEndpoint? {
        guard let image = metadata.image.topic(topic.name), image.partitions.indices.contains(Int(partition)),
            let leader = metadata.image.brokers[image.partitions[Int(partition)].leader]
        else { return nil }
        return CoordinatorEndpoint(nodeID: leader.id, host: leader.host, port: leader.port)
    }

    private func find(_ topic: InternalTopic, _ index: Int32) throws(CoordinatorStorageError) -> Partition {
        guard case .found(let partition) = partitions.find(name: topic.name, partition: index) else {
            throw CoordinatorStorageError(
                code: .notCoordinator,
                description: "\(topic.name)-\(index) is not led by this node"
            )
        }
        return partition
    }

    private static func translate(_ error: LogError) -> CoordinatorStorageError {
        CoordinatorStorageError(code: error.kafkaError, description: error.message)
    }

    func append(
        _ batch: ByteBuffer,
        to topic: InternalTopic,
        partition: Int32
    ) throws(CoordinatorStorageError) -> Offset {
        let partition = try find(topic, partition)
        do throws(LogError) {
            return try partition.append(batch, as: .coordinator, now: environment.wall()).lastOffset + 1
        } catch {
            throw Self.translate(error)
        }
    }

    func whenCommitted(
        upTo offset: Offset,
        of topic: InternalTopic,
        partition: Int32,
        _ done: @escaping @Sendable (Result<Void, CoordinatorStorageError>) -> Void
    ) {
        do throws(CoordinatorStorageError) {
            try find(topic, partition).whenCommitted(upTo: offset) { done($0.mapError(Self.translate)) }
        } catch {
            done(.failure(error))
        }
    }

    func endOffset(of topic: InternalTopic, partition: Int32) throws(CoordinatorStorageError) -> Offset {
        try find(topic, partition).log.logEndOffset
    }

    func read(
        _ topic: InternalTopic,
        partition: Int32,
        from offset: Offset
    ) throws(CoordinatorStorageError) -> InternalTopicRead {
        let log = try find(topic, partition).log
        do throws(LogError) {
            let end = log.logEndOffset
            let start = max(offset, log.logStartOffset)
            guard start < end else { return InternalTopicRead(batches: ByteBuffer(), nextOffset: nil) }
            let read = try log.read(from: start, maxBytes: 1 << 20, minOneBatch: true, upTo: end)
            guard !read.slices.isEmpty else { return InternalTopicRead(batches: ByteBuffer(), nextOffset: nil) }
            var batches = ByteBuffer()
            try read.copy(into: &batches)
            return InternalTopicRead(batches: batches, nextOffset: read.nextOffset < end ? read.nextOffset : nil)
        } catch {
            throw Self.translate(error)
        }
    }

    func trim(_ topic: InternalTopic, partition: Int32, before offset: Offset) {
        guard case .found(let partition) = partitions.find(name: topic.name, partition: partition) else { return }
        do throws(LogError) {
            try partition.log.deleteRecords(before: offset)
        } catch {
            // It stays; the next time covers it.
            return
        }
    }

    func topicImage() -> GroupTopicImage {
        let image = metadata.image
        return cachedImage.withLock { cached in
            if cached.version != image.version {
                cached = GroupTopicImage(
                    version: image.version,
                    image.topics.values.map {
                        .init(name: $0.name, id: $0.id, partitionCount: Int32($0.partitions.count))
                    },
                    groupConfigs: image.groupConfigs
                )
            }
            return cached
        }
    }

    var topicImageVersion: UInt64 { metadata.image.version }

    func now() -> CoordinatorTime {
        CoordinatorTime(
            monotonic: environment.monotonic(),
            wall: environment.wall()
        )
    }

    func schedule(after milliseconds: Int64, _ work: @escaping @Sendable () -> Void) -> @Sendable () -> Void {
        let handle = timers.schedule(after: .milliseconds(milliseconds), work)
        return { handle.cancel() }
    }

    func runBlocking(_ work: @escaping @Sendable () -> Void) { blocking.submit { _ in work() } }
}
