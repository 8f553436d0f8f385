// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
public import Logging
import MDCLog
import MDCModel
import MDCRaft
import NIOConcurrencyHelpers
import NIOCore
import NIOHTTP1
import NIOPosix
public import ServiceLifecycle
import Synchronization

/// A node: the whole broker in one service, in a process of its own or inside another.
///
/// Start: data folder, logs (recovered), metadata, partitions, coordinators, listeners. Stop: in the reverse order, within
/// `shutdown.timeout.ms`.
public final class Broker: Service {
    /// How far the broker is.
    public enum State: Hashable, Sendable {
        /// Not started yet.
        case created
        /// Recovering.
        case starting
        /// Serving clients.
        case ready
        /// Answering what is in service.
        case stopping
        /// Everything is closed.
        case stopped
    }

    /// Where a broker that is ready listens.
    public struct Addresses: Hashable, Sendable {
        /// Where clients connect; the real port where 0 was asked for.
        public var listen: HostPort
        /// What clients are told.
        public var advertised: HostPort
        /// Where the HTTP pages are; nil for nowhere.
        public var http: HostPort?
    }

    private struct Inner: Sendable {
        var state = State.created
        var addresses: Addresses?
        var waiters: [CheckedContinuation<Addresses?, Never>] = []
        var running: Running?
    }

    /// What exists while the broker runs.
    private struct Running: Sendable {
        var services: BrokerServices
        var server: ServerContext
        var listener: Listener
        var workers: [LoopWorker]
        var startedAt: Int64
    }

    private let configuration: BrokerConfiguration
    private let logger: Logger
    private let fileSystem: any FileSystem
    private let cluster: ClusterMembership?
    private let inner = Mutex(Inner())

    /// Makes a broker that does nothing until it is run.
    public convenience init(configuration: BrokerConfiguration, logger: Logger) {
        self.init(configuration: configuration, logger: logger, fileSystem: POSIXFileSystem())
    }

    /// The same on another disk, for tests.
    init(
        configuration: BrokerConfiguration,
        logger: Logger,
        fileSystem: any FileSystem,
        cluster: ClusterMembership? = nil
    ) {
        self.configuration = configuration
        self.cluster = cluster
        self.logger = logger
        self.fileSystem = fileSystem
    }

    /// How far the broker is.
    public var state: State { inner.withLock { $0.state } }
    /// What the node consists of, while it runs; for tests.
    var services: BrokerServices? { inner.withLock { $0.running?.services } }
    /// Where it listens; nil until it is ready.
    public var boundAddresses: Addresses? { inner.withLock { $0.addresses } }

    /// Waits until the broker serves; nil where it stopped before it did.
    public func whenReady() async -> Addresses? {
        await withCheckedContinuation { continuation in
            let now: Addresses?? = inner.withLock { inner in
                switch inner.state {
                case .ready: return .some(inner.addresses)
                case .stopping, .stopped: return .some(nil)
                case .created, .starting:
                    inner.waiters.append(continuation)
                    return nil
                }
            }
            if let now { continuation.resume(returning: now) }
        }
    }

    private func move(to state: State, addresses: Addresses? = nil) {
        let waiters = inner.withLock { inner -> [CheckedContinuation<Addresses?, Never>] in
            inner.state = state
            if let addresses { inner.addresses = addresses }
            guard state == .ready || state == .stopped else { return [] }
            defer { inner.waiters = [] }
            return inner.waiters
        }
        for waiter in waiters { waiter.resume(returning: state == .ready ? addresses : nil) }
    }

    // MARK: Running

    /// Serves until graceful shutdown or cancellation.
    /// - Throws: ``BrokerError`` where the node cannot start.
    public func run() async throws {
        move(to: .starting)
        defer { move(to: .stopped) }
        if let problem = configuration.problem { throw BrokerError(.invalidConfiguration, problem) }
        let threads = configuration.networkThreads > 0 ? configuration.networkThreads : System.coreCount
        let group = MultiThreadedEventLoopGroup(numberOfThreads: threads)
        let quorumGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let pools = BrokerThreads(quorum: quorumGroup.next())
        let timers = HeapTimerService()
        var failure: (any Error)?
        do {
            try await serve(group: group, threads: pools, timers: timers)
        } catch {
            failure = error
        }
        timers.stop()
        await pools.stop()
        try? await quorumGroup.shutdownGracefully()
        try? await group.shutdownGracefully()
        if let failure { throw failure }
    }

    private func serve(
        group: MultiThreadedEventLoopGroup,
        threads: BrokerThreads,
        timers: HeapTimerService
    ) async throws {
        let startedAt = mdc_monotonic_ns()
        let pages = try await bindHTTP(group, threads.blocking)
        let services: BrokerServices
        do {
            services = try await threads.control.runIfActive {
                try self.open(group: group, threads: threads, timers: timers)
            }
        } catch {
            await pages?.close()
            throw error
        }
        let workers = group.makeIterator().map { LoopWorker(eventLoop: $0, metrics: LoopMetrics()) }
        let server = ServerContext(
            live: services.live,
            handlers: .broker(services),
            quotas: services.quotas,
            logger: logger
        )
        server.whenConnectionCloses { services.shares.connectionClosed($0.id) }
        do {
            let listener = try await Listener.bind(configuration.listen, group: group, workers: workers, server: server)
            services.advertised = configuration.advertise ?? Self.reachable(listener.address)
            for worker in workers { worker.metrics.probe(worker.eventLoop) }
            let ticker = group.next().scheduleRepeatedTask(initialDelay: .milliseconds(250), delay: .milliseconds(250))
            { _ in
                server.memory.tick(now: mdc_monotonic_ns())
            }
            inner.withLock {
                $0.running = Running(
                    services: services,
                    server: server,
                    listener: listener,
                    workers: workers,
                    startedAt: mdc_wall_clock_ms()
                )
            }
            do {
                services.replicas?.start(services.peers)
                try await join(services)
                try await listener.accept()
                let addresses = Addresses(
                    listen: listener.address,
                    advertised: services.advertised,
                    http: pages?.address
                )
                if let cluster, let replicas = services.replicas {
                    cluster.whenServing(replicas, addresses.advertised)
                }
                move(to: .ready, addresses: addresses)
                logger.info(
                    "ready",
                    metadata: [
                        "node": "\(configuration.nodeID)", "listen": "\(addresses.listen)",
                        "advertised": "\(addresses.advertised)",
                        "milliseconds": "\((mdc_monotonic_ns() - startedAt) / 1_000_000)",
                    ]
                )
                await Self.untilShutdown()
            } catch is CancellationError {
                logger.info("stopped before the node could serve")
            }
            move(to: .stopping)
            ticker.cancel()
            await stop(services, server, listener, threads)
        } catch {
            await services.controller.quorum.stop()
            services.controller.stop()
            await threads.stopDisk()
            try? services.logs.close()
            await pages?.close()
            throw error
        }
        await pages?.close()
    }

    /// Takes part in the quorum, registers, and waits until the node may serve. Throws `CancellationError` where it is to
    /// stop before that.
    private func join(_ services: BrokerServices) async throws {
        try await services.controller.quorum.start()
        services.membership.start(services.advertised)
        let result = await cancelWhenGracefulShutdown { () -> Result<Void, any Error> in
            do {
                try await services.membership.whenActive()
                return .success(())
            } catch {
                return .failure(error)
            }
        }
        try result.get()
        services.startCoordinators()
    }

    /// 0.0.0.0 and :: are no addresses to connect to.
    private static func reachable(_ address: HostPort) -> HostPort {
        address.host == "0.0.0.0" || address.host == "::" ? HostPort(host: "127.0.0.1", port: address.port) : address
    }

    private static func untilShutdown() async {
        let stream = AsyncStream<Void> { continuation in
            continuation.onTermination = { _ in }
            _ = continuation
        }
        await cancelWhenGracefulShutdown {
            for await _ in stream {}
        }
    }

    // MARK: Starting

    /// Opens the folder and everything in it; blocks, on the control thread.
    private func open(
        group: MultiThreadedEventLoopGroup,
        threads: BrokerThreads,
        timers: HeapTimerService
    ) throws -> BrokerServices {
        let folders = try DataFolders(
            reading: configuration.dataDirectories,
            nodeID: configuration.nodeID,
            fileSystem: fileSystem
        )
        let logs = try openLogs(fileSystem)
        do {
            let live = LiveConfiguration(configuration)
            let failed = Set(logs.directoryUsage().filter { $0.offlineReason != nil }.map(\.path))
            let identity = try folders.format { failed.contains($0) }
            let (store, quorum) = try openQuorum(logs, identity, live, threads)
            let registry = PartitionRegistry()
            let controller = Controller(
                live: live,
                metadata: store,
                quorum: quorum,
                identity: identity,
                logs: logs,
                registry: registry,
                thread: threads.control,
                carrier: threads.carrier,
                logger: logger
            )
            controller.start()
            logs.onDurableAdvance { advanced in
                for log in advanced { registry.partition(of: log)?.durableAdvanced() }
            }
            let membership = BrokerLifecycle(controller: controller, timers: timers, logger: logger)
            var replicas: ReplicaManager?
            if cluster != nil || configuration.isClustered {
                replicas = ReplicaManager(
                    live: live,
                    logs: logs,
                    registry: registry,
                    proposing: cluster?.proposing ?? membership,
                    directory: cluster?.directory ?? membership,
                    group: group,
                    blocking: threads.blocking,
                    checkpoint: HighWatermarkCheckpoint(
                        directory: configuration.dataDirectory,
                        fileSystem: fileSystem,
                        logger: logger
                    ),
                    logger: logger
                )
            }
            if cluster == nil, let replicas { controller.replicas.withLock { $0 = replicas } }
            let services = BrokerServices(
                live: live,
                logger: logger,
                logs: logs,
                metadata: store,
                partitions: registry,
                controller: controller,
                membership: membership,
                timers: timers,
                blocking: threads.blocking,
                directoryID: identity.directoryID,
                replicas: replicas,
                peers: PeerRequests(
                    node: configuration.nodeID,
                    directory: cluster?.directory ?? membership,
                    group: group
                )
            )
            let groups = services.groups
            let (shareStates, shares) = (services.shareStates, services.shares)
            controller.whenDeleted {
                groups.topicsDeleted($0)
                shares.topicsDeleted()
                shareStates.topicsDeleted()
            }
            return services
        } catch {
            try? logs.close()
            throw error
        }
    }

    /// Opens the metadata log and what drives it.
    private func openQuorum(
        _ logs: LogManager,
        _ identity: DataIdentity,
        _ live: LiveConfiguration,
        _ threads: BrokerThreads
    ) throws -> (MetadataStore, QuorumNode) {
        if logs.directoryUsage().contains(where: { $0.path == configuration.dataDirectory && $0.offlineReason != nil })
        {
            throw BrokerError(
                .dataFolder,
                "the first data folder, \(configuration.dataDirectory), cannot be used, and it holds the metadata; replace "
                    + "or remount the disk and start again"
            )
        }
        let log =
            try logs.partition(MetadataStore.topicPartition)
            ?? logs.createPartition(
                MetadataStore.topicPartition,
                topicID: MetadataStore.topicID,
                settings: metadataSettings
            )
        guard log.dataDirectory == configuration.dataDirectory else {
            throw BrokerError(
                .dataFolder,
                "the metadata are in \(log.dataDirectory), not in \(configuration.dataDirectory): name the folders in the "
                    + "order in which they were named before"
            )
        }
        try log.update(settings: metadataSettings)
        let replica = RaftReplica(node: BrokerID(configuration.nodeID), directory: identity.directoryID)
        let others = configuration.voters.filter { $0.id != configuration.nodeID }
        // Nodes know only each other's addresses at first; alone, there is nothing to find out. Who is not among them joins,
        // and is told.
        let isNamed = configuration.voters.contains { $0.id == configuration.nodeID }
        let named = configuration.voters.map { RaftReplica(node: BrokerID($0.id), directory: .zero) }
        let voters = others.isEmpty ? [replica] : isNamed ? named : []
        let quorumLog = try QuorumLog(
            log: log,
            fileSystem: fileSystem,
            voters: voters,
            thread: threads.disk,
            now: Timestamp(mdc_wall_clock_ms()),
            logger: logger
        )
        if !identity.clusterID.isEmpty, quorumLog.lastIndex == 0 {
            throw BrokerError(
                .dataFolder,
                "the data folder \(configuration.dataDirectory) says cluster \(identity.clusterID), but has no metadata; "
                    + "parts of two folders were mixed, or the folder of the metadata is lost: restore it from a backup"
            )
        }
        let store = MetadataStore(image: quorumLog.startImage, index: quorumLog.snapshot.index)
        let quorum = try QuorumNode(
            replica: replica,
            log: quorumLog,
            store: store,
            live: live,
            eventLoop: threads.quorum,
            leftovers: { Set(logs.allPartitions.map(\.topicID)) },
            logger: logger
        )
        try checkVoters(Set(quorum.status.raft.membership.voters.map(\.node.rawValue)), of: replica)
        return (store, quorum)
    }

    /// Who votes is in the metadata, and changes at run time; the settings say where to begin. What cannot have come about
    /// that way is a mistake.
    private func checkVoters(_ members: Set<Int32>, of replica: RaftReplica) throws(BrokerError) {
        let own = replica.node.rawValue
        let wanted = Set(configuration.voters.map(\.id)).union(configuration.voters.isEmpty ? [own] : [])
        if members == wanted || members.isEmpty { return }
        let mistake =
            members == [own]
            ? "other nodes join it: start those with the --voters of this one"
            : configuration.isClustered
                && !members.isDisjoint(with: wanted) ? nil : "start the node with the voters that it had"
        if let mistake {
            throw BrokerError(
                .invalidConfiguration,
                "the metadata in \(configuration.dataDirectory) are kept by the nodes \(members.sorted()), but "
                    + "controller.quorum.voters names \(wanted.sorted()); \(mistake)"
            )
        }
        logger.notice(
            "the voters have changed since the settings were written; the metadata count",
            metadata: ["voters": "\(members.sorted())", "settings": "\(wanted.sorted())"]
        )
    }

    private var metadataSettings: LogSettings { configuration.metadataLogSettings }

    private func openLogs(_ fileSystem: any FileSystem) throws(BrokerError) -> LogManager {
        var logging = LogConfiguration(directories: configuration.dataDirectories)
        logging.defaultSettings = configuration.topicDefaults
        logging.syncParallelism = configuration.syncThreads
        logging.retentionCheckMilliseconds = configuration.retentionCheckMilliseconds
        logging.producerExpirationMilliseconds = configuration.producerExpirationMilliseconds
        logging.maxOpenFiles = configuration.maxOpenFiles
        do throws(LogError) {
            let logs = try LogManager.open(configuration: logging, fileSystem: fileSystem, logger: logger)
            for report in logs.recoveryReports {
                logger.info(
                    "recovered",
                    metadata: ["partition": "\(report.topicPartition)", "cut": "\(report.cutBytes)"]
                )
            }
            return logs
        } catch {
            if error.code == .locked {
                throw BrokerError(
                    .dataFolder,
                    "another process uses the data folder \(configuration.dataDirectories.joined(separator: " or ")); "
                        + "stop it first",
                    cause: error
                )
            }
            throw BrokerError(
                .storage,
                "the data folder \(configuration.dataDirectories.joined(separator: " or ")) cannot be opened",
                cause: error
            )
        }
    }

    // MARK: Stopping

    private func stop(
        _ services: BrokerServices,
        _ server: ServerContext,
        _ listener: Listener,
        _ threads: BrokerThreads
    ) async {
        services.controller.stop()
        await services.membership.leave()
        await listener.close()
        services.replicas?.stop()
        services.peers.stop()
        services.transactions.stop()
        services.shares.stop()
        services.groups.stop()
        services.shareStates.stop()
        for connection in server.allConnections { connection.onLoop { $0.drain() } }
        let deadline = mdc_monotonic_ns() + UInt64(services.configuration.shutdownTimeoutMilliseconds) * 1_000_000
        // Long polls end by themselves, soon; what does not in time is cut off.
        while !server.allConnections.isEmpty && mdc_monotonic_ns() < deadline {
            for partition in services.partitions.all { partition.endWaiting() }
            await Self.pause(milliseconds: 5)
        }
        for connection in server.allConnections { connection.close("the broker stops") }
        await services.controller.quorum.stop()
        await threads.stopDisk()
        let logs = services.logs
        let logger = logger
        // Not `runIfActive`: a cancelled task must close the logs too.
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            threads.blocking.submit { _ in
                do throws(LogError) {
                    try logs.close()
                } catch {
                    logger.warning("the logs were not closed in order", metadata: ["error": "\(error)"])
                }
                continuation.resume()
            }
        }
        logger.info("stopped")
    }

    /// Sleeps, though the task may be cancelled.
    private static func pause(milliseconds: Int64) async {
        await Task.detached { try? await Task.sleep(for: .milliseconds(milliseconds)) }.value
    }

    // MARK: Pages

    private func bindHTTP(
        _ group: MultiThreadedEventLoopGroup,
        _ blocking: NIOThreadPool
    ) async throws(BrokerError) -> HTTPServer? {
        guard let address = configuration.http else { return nil }
        return try await HTTPServer.bind(address, group: group, blocking: blocking) { [weak self] in self?.page($0) }
    }

    private func page(_ path: String) -> HTTPServer.Answer? {
        switch path {
        case "/livez": return .init(status: .ok, body: "alive\n")
        case "/readyz":
            if let reason = unreadiness { return .init(status: .serviceUnavailable, body: reason + "\n") }
            return .init(status: .ok, body: "ready\n")
        case "/metrics":
            return .init(status: .ok, contentType: "text/plain; version=0.0.4; charset=utf-8", body: metrics())
        default: return nil
        }
    }

    /// Why clients are not served; nil where they are.
    private var unreadiness: String? {
        let (state, services) = inner.withLock { ($0.state, $0.running?.services) }
        guard let services, state == .starting || state == .ready else { return "\(state)" }
        if state == .ready, services.membership.isActive { return nil }
        let quorum = services.controller.quorum.status
        let image = services.metadata.image
        let name = configuration.nodeID
        if let error = services.controller.fatalError { return "\(state): \(error)" }
        if quorum.leader < 0 {
            let voters = quorum.raft.membership.voters.map(\.node.rawValue)
            let known = voters.isEmpty ? "no voter has answered" : "the voters are the nodes \(voters)"
            return "\(state): the metadata quorum has no leader; \(known)"
        }
        guard let broker = image.brokers[name], broker.incarnation == services.controller.incarnation else {
            return "\(state): not registered with the controller, node \(quorum.leader), yet"
        }
        return broker.isFenced
            ? "fenced: the controller, node \(quorum.leader), has not heard from this node in time, or it is catching up"
            : "\(state): waits for an answer of the controller, node \(quorum.leader)"
    }

    /// The page `/metrics`.
    func metrics() -> String {
        var report = MetricsReport()
        report.add("mdc_memory_resident_bytes", "gauge", "Memory that the process holds.", max(0, mdc_resident_bytes()))
        guard let running = inner.withLock({ $0.running }) else { return report.page }
        MetricsCollector(
            services: running.services,
            server: running.server,
            workers: running.workers,
            startedAt: running.startedAt
        ).add(to: &report)
        return report.page
    }
}

/// The threads beside the event loops of clients.
struct BrokerThreads: Sendable {
    /// The metadata quorum's.
    let quorum: any EventLoop
    /// Asks for changes of the metadata, and waits.
    let control = NIOThreadPool(numberOfThreads: 1)
    /// Carries out changes of the metadata.
    let carrier = NIOThreadPool(numberOfThreads: 1)
    /// Writes the metadata log.
    let disk = NIOThreadPool(numberOfThreads: 1)
    /// For what blocks: cold reads, loading.
    let blocking = NIOThreadPool(numberOfThreads: 2)

    init(quorum: any EventLoop) {
        self.quorum = quorum
        for pool in [control, carrier, disk, blocking] { pool.start() }
    }

    /// Nothing is written or made after this.
    func stopDisk() async {
        try? await control.shutdownGracefully()
        try? await carrier.shutdownGracefully()
        try? await disk.shutdownGracefully()
    }

    func stop() async {
        await stopDisk()
        try? await blocking.shutdownGracefully()
    }
}
