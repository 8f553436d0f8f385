// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import Logging
    import MDCLog
    import MDCModel
    import MDCRaft
    import NIOCore
    import Synchronization

    @testable import MDCBroker

    /// A node of the cluster: its disk, and while it runs the parts of a broker that decide, put together as `Broker` does.
    final class ClusterNode: @unchecked Sendable {
        // Sendable: a simulation has one thread.

        /// What there is while it runs.
        struct Services {
            let loop: SimulatedLoop
            let environment: NodeEnvironment
            let logs: LogManager
            let store: MetadataStore
            let quorum: QuorumNode
            let quorumLog: QuorumLog
            let controller: Controller
            let registry: PartitionRegistry
            let membership: BrokerLifecycle
            let replicas: ReplicaManager
            let coordinators: ClusterCoordinators
        }

        static let folder = "/data"

        let id: Int32
        let network: ClusterNetwork
        private(set) var disk: SimulatedDisk
        /// Another one in each run.
        private(set) var run: UInt64 = 0
        private(set) var services: Services?
        private(set) var server: ClusterServer?
        private(set) var transport: SimulatedTransport?
        /// Microseconds until the disk has what was written.
        var syncDelay: ClosedRange<Int> = 300...6_000
        /// Nothing can be made on its disk, so that it is no use looking there.
        var isFull = false
        /// The machine has lost power, not only the process.
        private(set) var hasLostPower = false
        /// The id of its data folder, as of its last start; nil where the disk is new.
        private(set) var directory: KafkaUUID?
        /// It is being stopped in order.
        private(set) var isLeaving = false
        /// Its logs are closed already: there is no looking at them.
        private(set) var isClosed = false
        private let configuration: BrokerConfiguration
        private var random: SimulationRandom
        private var isSyncing = false
        private var mustStop: String?
        /// Told of each end of a run, before anything of it is gone.
        var whenEnding: (ClusterNode, String) -> Void = { _, _ in }
        /// Told of leaderships that begin.
        var whenLeading: (ClusterNode, String, Int32) -> Void = { _, _, _ in }
        var log: (Logger.Level, String) -> Void = { _, _ in }

        init(id: Int32, voters: [Int32], network: ClusterNetwork, segmentBytes: Int, seed: UInt64) {
            self.id = id
            self.network = network
            random = SimulationRandom(seed: seed)
            disk = SimulatedDisk(seed: random.next())
            var configuration = BrokerConfiguration()
            configuration.nodeID = id
            configuration.dataDirectories = [Self.folder]
            configuration.listen = HostPort(host: "node", port: Int(id))
            configuration.controllerListen = HostPort(host: "node", port: Int(id))
            configuration.voters = voters.map { Voter(id: $0, address: HostPort(host: "node", port: Int($0))) }
            configuration.electionTimeoutMilliseconds = 500
            configuration.brokerSessionMilliseconds = 1_500
            configuration.brokerHeartbeatMilliseconds = 300
            configuration.replicaLagMilliseconds = 1_000
            configuration.metadataSnapshotBytes = 6_000
            configuration.topicDefaults.segmentBytes = segmentBytes
            configuration.topicDefaults.preallocates = false
            self.configuration = configuration
        }

        // MARK: Life

        /// Starts the process. Throws where that fails although nothing is wrong with the disk.
        func start() throws {
            precondition(services == nil)
            disk.restart()
            hasLostPower = false
            run += 1
            mustStop = nil
            isSyncing = false
            (isLeaving, isClosed) = (false, false)
            let loop = SimulatedLoop(network.scheduler, rate: 1 + Double(random.below(401) - 200) / 10_000)
            do {
                let services = try open(loop)
                self.services = services
            } catch {
                loop.die()
                throw error
            }
            guard let services else { return }
            directory = services.controller.identity.directoryID
            server = ClusterServer(self, services)
            network.started(self)
            loop.afterwards = { [unowned self] in afterwards() }
            perform {
                services.controller.start()
                services.replicas.watch()
                services.quorum.begin()
                services.membership.start(configuration.listen)
                upkeep(services)
                startCoordinators(services)
            }
        }

        /// Coordinators load what they keep when the node is in service.
        private func startCoordinators(_ services: Services) {
            services.loop.after(5_000) { [unowned self] in
                guard services.membership.isActive else { return startCoordinators(services) }
                services.coordinators.groups.start()
                services.coordinators.transactions.start()
            }
        }

        private func open(_ loop: SimulatedLoop) throws -> Services {
            let environment = makeEnvironment(loop)
            var handler = ClusterLogHandler()
            handler.write = { [unowned self] in log($0, $1) }
            let sink = handler
            let logger = Logger(label: "node", factory: { _ in sink })
            let folders = try DataFolders(reading: [Self.folder], nodeID: id, fileSystem: disk)
            var logging = LogConfiguration(directories: [Self.folder])
            logging.backgroundMode = .manual
            logging.minimumFreeBytes = 0
            logging.checkpointIntervalMilliseconds = 1_500
            logging.plantedBugs = PlantedLogBugs.inForce
            logging.defaultSettings = configuration.topicDefaults
            let logs = try LogManager.open(
                configuration: logging,
                fileSystem: disk,
                clock: LoopClock(loop: loop),
                logger: logger,
                onSyncFailure: { [unowned self] in mustStop = "a sync failed: \($0.message)" }
            )
            let identity = try folders.format(environment: environment) { _ in false }
            let live = LiveConfiguration(configuration)
            let pause = { [unowned self] in Int64(20 + random.below(random.once(in: 20) ? 20_000 : 500)) }
            let transport = SimulatedTransport(network, self)
            self.transport = transport
            let (store, quorum, quorumLog) = try openQuorum(
                logs,
                identity,
                live,
                SimulatedQueue(loop, delay: pause),
                loop,
                transport,
                environment,
                logger
            )
            return assemble(loop, environment, logs, identity, live, (store, quorum, quorumLog), logger, pause)
        }

        private func assemble(
            _ loop: SimulatedLoop,
            _ environment: NodeEnvironment,
            _ logs: LogManager,
            _ identity: DataIdentity,
            _ live: LiveConfiguration,
            _ metadata: (MetadataStore, QuorumNode, QuorumLog),
            _ logger: Logger,
            _ pause: @escaping () -> Int64
        ) -> Services {
            let (store, quorum, quorumLog) = metadata
            let registry = PartitionRegistry()
            let controller = Controller(
                live: live,
                metadata: store,
                quorum: quorum,
                identity: identity,
                logs: logs,
                registry: registry,
                thread: SimulatedQueue(loop, delay: pause),
                carrier: SimulatedQueue(loop, delay: pause),
                environment: environment,
                logger: logger
            )
            logs.onDurableAdvance { advanced in
                for log in advanced { registry.partition(of: log)?.durableAdvanced() }
            }
            let membership = BrokerLifecycle(
                controller: controller,
                timers: loop,
                environment: environment,
                logger: logger
            )
            let replicas = makeReplicas(loop, environment, logs, live, registry, membership, logger, pause)
            controller.replicas.withLock { $0 = replicas }
            let coordinators = ClusterCoordinators(
                configuration: configuration,
                store: store,
                registry: registry,
                controller: controller,
                membership: membership,
                loop: loop,
                blocking: SimulatedQueue(loop, delay: pause),
                environment: environment,
                network: network,
                node: self,
                logger: logger
            )
            replicas.whenLeadershipChanges { [unowned self] topic, index, count, begins in
                if begins { whenLeading(self, topic, index) }
                coordinators.changed(topic, index, count, leads: begins)
            }
            return Services(
                loop: loop,
                environment: environment,
                logs: logs,
                store: store,
                quorum: quorum,
                quorumLog: quorumLog,
                controller: controller,
                registry: registry,
                membership: membership,
                replicas: replicas,
                coordinators: coordinators
            )
        }

        private func makeReplicas(
            _ loop: SimulatedLoop,
            _ environment: NodeEnvironment,
            _ logs: LogManager,
            _ live: LiveConfiguration,
            _ registry: PartitionRegistry,
            _ membership: BrokerLifecycle,
            _ logger: Logger,
            _ pause: @escaping () -> Int64
        ) -> ReplicaManager {
            ReplicaManager(
                live: live,
                logs: logs,
                registry: registry,
                proposing: membership,
                directory: membership,
                group: loop,
                blocking: SimulatedQueue(loop, delay: pause),
                checkpoint: HighWatermarkCheckpoint(directory: Self.folder, fileSystem: disk, logger: logger),
                environment: environment,
                logger: logger
            )
        }

        private func makeEnvironment(_ loop: SimulatedLoop) -> NodeEnvironment {
            NodeEnvironment(
                monotonic: { [unowned loop] in loop.microseconds / 1000 },
                wall: { [unowned loop] in Timestamp(1_700_000_000_000 + loop.microseconds / 1000) },
                random: { [unowned self] in random.next() },
                stop: { [unowned self] in mustStop = $0 },
                connect: { [unowned self] address, _, whenReady, onFrame, onClose in
                    SimulatedLink(
                        network,
                        self,
                        to: Int32(address.port),
                        whenReady: whenReady,
                        onFrame: onFrame,
                        onClose: onClose
                    )
                }
            )
        }

        private func openQuorum(
            _ logs: LogManager,
            _ identity: DataIdentity,
            _ live: LiveConfiguration,
            _ thread: SimulatedQueue,
            _ loop: SimulatedLoop,
            _ transport: SimulatedTransport,
            _ environment: NodeEnvironment,
            _ logger: Logger
        ) throws -> (MetadataStore, QuorumNode, QuorumLog) {
            var settings = configuration.metadataLogSettings
            settings.preallocates = false
            let log =
                try logs.partition(MetadataStore.topicPartition)
                ?? logs.createPartition(
                    MetadataStore.topicPartition,
                    topicID: MetadataStore.topicID,
                    settings: settings
                )
            try log.update(settings: settings)
            let quorumLog = try QuorumLog(
                log: log,
                fileSystem: disk,
                // Who is not among the voters joins, and is told.
                voters: configuration.voters.contains { $0.id == id }
                    ? configuration.voters.map { RaftReplica(node: BrokerID($0.id), directory: .zero) } : [],
                thread: thread,
                now: environment.wall(),
                logger: logger
            )
            if !identity.clusterID.isEmpty, quorumLog.lastIndex == 0 {
                throw Wrong("node \(id) knows its cluster, but has lost its metadata")
            }
            let store = MetadataStore(image: quorumLog.startImage, index: quorumLog.snapshot.index)
            let quorum = try QuorumNode(
                replica: RaftReplica(node: BrokerID(id), directory: identity.directoryID),
                log: quorumLog,
                store: store,
                live: live,
                eventLoop: loop,
                leftovers: { [unowned logs] in Set(logs.allPartitions.map(\.topicID)) },
                transport: transport,
                environment: environment,
                logger: logger
            )
            return (store, quorum, quorumLog)
        }

        /// Ends the process, or with `power` the machine.
        func end(power: Bool, _ reason: String) {
            guard let services else { return }
            whenEnding(self, reason)
            self.services = nil
            network.ended(id)
            hasLostPower = power || disk.hasCrashed
            if power { disk.crash() } else { disk.kill() }
            services.loop.die()
            services.store.onChange { _ in }
            services.controller.replicas.withLock { $0 = nil }
            services.logs.onDurableAdvance { _ in }
            services.replicas.whenLeadershipChanges { _, _, _, _ in }
            server = nil
            transport = nil
        }

        /// Takes the disk away. The node must not run.
        func wipe() {
            precondition(services == nil)
            disk = SimulatedDisk(seed: random.next())
            directory = nil
        }

        /// Ends the process as an operator does: others lead what it leads, logs are closed. See `Broker.stop`.
        func stopInOrder(_ reason: String) {
            guard let services, !isLeaving else { return }
            isLeaving = true
            let me = Unsafe(self)
            perform {
                services.controller.stop()
                services.membership.leave { services.loop.execute { me.value.close(services, reason) } }
            }
        }

        private func close(_ services: Services, _ reason: String) {
            services.replicas.stop()
            services.coordinators.transactions.stop()
            services.coordinators.groups.stop()
            services.quorum.handOver()
            services.loop.after(50_000) { [unowned self] in
                services.quorum.takeNoPart()
                isClosed = true
                do {
                    try services.logs.close()
                } catch {
                    log(.warning, "the logs were not closed in order: \(error)")
                }
                end(power: false, reason)
            }
        }

        // MARK: Work

        /// Runs `body` as work of this node, and looks at what came of it.
        func perform(_ body: () -> Void) {
            guard services != nil else { return }
            body()
            afterwards()
        }

        private func afterwards() {
            guard let services else { return }
            if disk.hasCrashed { return end(power: true, "the power fails within a change of the disk") }
            if let reason = mustStop { return end(power: true, reason) }
            guard !isSyncing else { return }
            isSyncing = true
            services.loop.after(Int64(random.number(in: syncDelay))) { [unowned self] in
                isSyncing = false
                services.logs.runSyncRound()
            }
        }

        /// What the log engine's own threads would do.
        private func upkeep(_ services: Services) {
            services.loop.after(500_000) { [unowned self] in
                services.logs.runMaintenance()
                upkeep(services)
            }
        }
    }

    /// The clock of a node's log engine.
    private final class LoopClock: LogClock, @unchecked Sendable {
        // Sendable: a simulation has one thread.
        private unowned let loop: SimulatedLoop
        init(loop: SimulatedLoop) { self.loop = loop }
        func now() -> Timestamp { Timestamp(1_700_000_000_000 + loop.microseconds / 1000) }
        func monotonic() -> UInt64 { UInt64(loop.microseconds) * 1000 }
    }

    /// Puts what a node logs into the trace.
    struct ClusterLogHandler: LogHandler, @unchecked Sendable {
        // Sendable: a simulation has one thread.
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.info
        var write: (Logger.Level, String) -> Void = { _, _ in }

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let values = (event.metadata ?? [:]).sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }
            write(event.level, "\(event.message)\(values.joined())")
        }
    }
#endif
