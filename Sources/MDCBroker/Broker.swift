// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
public import Logging
import MDCLog
import MDCModel
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
        let control = NIOThreadPool(numberOfThreads: 1)
        let blocking = NIOThreadPool(numberOfThreads: 2)
        control.start()
        blocking.start()
        let timers = HeapTimerService()
        var failure: (any Error)?
        do {
            try await serve(group: group, control: control, blocking: blocking, timers: timers)
        } catch {
            failure = error
        }
        timers.stop()
        try? await control.shutdownGracefully()
        try? await blocking.shutdownGracefully()
        try? await group.shutdownGracefully()
        if let failure { throw failure }
    }

    private func serve(
        group: MultiThreadedEventLoopGroup,
        control: NIOThreadPool,
        blocking: NIOThreadPool,
        timers: HeapTimerService
    ) async throws {
        let startedAt = mdc_monotonic_ns()
        let pages = try await bindHTTP(group, blocking)
        let services: BrokerServices
        do {
            services = try await control.runIfActive {
                try self.open(group: group, control: control, blocking: blocking, timers: timers)
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
            services.replicas?.start()
            let addresses = Addresses(
                listen: listener.address,
                advertised: services.advertised,
                http: pages?.address
            )
            if let cluster, let replicas = services.replicas { cluster.whenServing(replicas, addresses.advertised) }
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
            move(to: .stopping)
            ticker.cancel()
            await stop(services, server, listener, blocking)
        } catch {
            try? services.logs.close()
            await pages?.close()
            throw error
        }
        await pages?.close()
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
        control: NIOThreadPool,
        blocking: NIOThreadPool,
        timers: HeapTimerService
    ) throws -> BrokerServices {
        let folder = try DataFolder.read(
            configuration.dataDirectory,
            nodeID: configuration.nodeID,
            fileSystem: fileSystem
        )
        let logs = try openLogs(fileSystem)
        do {
            let log =
                try logs.partition(MetadataStore.topicPartition)
                ?? logs.createPartition(
                    MetadataStore.topicPartition,
                    topicID: MetadataStore.topicID,
                    settings: metadataSettings
                )
            try log.update(settings: metadataSettings)
            let metadata = try MetadataStore(
                log: log,
                fileSystem: fileSystem,
                snapshotBytes: configuration.metadataSnapshotBytes,
                logger: logger
            )
            metadata.leftoverTopics { Set(logs.allPartitions.map(\.topicID)) }
            let registry = PartitionRegistry()
            let live = LiveConfiguration(configuration)
            let controller = Controller(
                live: live,
                metadata: metadata,
                logs: logs,
                registry: registry,
                thread: control,
                logger: logger
            )
            do throws(Refusal) {
                try controller.start()
            } catch {
                throw BrokerError(.storage, error.message)
            }
            let directoryID = try format(folder, metadata.image.clusterID, fileSystem)
            logs.onDurableAdvance { advanced in
                for log in advanced { registry.partition(of: log)?.durableAdvanced() }
            }
            let replicas = cluster.map {
                ReplicaManager(
                    live: live,
                    logs: logs,
                    registry: registry,
                    proposing: $0.proposing,
                    directory: $0.directory,
                    group: group,
                    blocking: blocking,
                    logger: logger
                )
            }
            let services = BrokerServices(
                live: live,
                logger: logger,
                logs: logs,
                metadata: metadata,
                partitions: registry,
                controller: controller,
                timers: timers,
                blocking: blocking,
                directoryID: directoryID,
                replicas: replicas
            )
            let groups = services.groups
            let (shareStates, shares) = (services.shareStates, services.shares)
            controller.whenDeleted {
                groups.topicsDeleted($0)
                shares.topicsDeleted()
                shareStates.topicsDeleted()
            }
            shareStates.start()
            groups.start()
            services.transactions.start()
            return services
        } catch {
            try? logs.close()
            throw error
        }
    }

    private var metadataSettings: LogSettings {
        var settings = LogSettings()
        // Whole segments go when a snapshot covers them.
        settings.segmentBytes = max(16_384, min(configuration.metadataSnapshotBytes / 4, 64 << 20))
        settings.retentionMilliseconds = -1
        settings.retentionBytes = -1
        settings.segmentMilliseconds = .max
        settings.maxMessageBytes = 64 << 20
        settings.durability = .fsync
        return settings
    }

    private func openLogs(_ fileSystem: any FileSystem) throws(BrokerError) -> LogManager {
        var logging = LogConfiguration(directories: [configuration.dataDirectory])
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
                    "another process uses the data folder \(configuration.dataDirectory); stop it first",
                    cause: error
                )
            }
            throw BrokerError(.storage, "the data folder \(configuration.dataDirectory) cannot be opened", cause: error)
        }
    }

    /// Writes the identity of a new folder; checks that of an old one.
    private func format(
        _ folder: DataFolder?,
        _ clusterID: String,
        _ fileSystem: any FileSystem
    ) throws(BrokerError) -> KafkaUUID {
        if let folder {
            guard folder.clusterID == clusterID else {
                throw BrokerError(
                    .dataFolder,
                    "the data folder \(configuration.dataDirectory) says cluster \(folder.clusterID), its metadata "
                        + "\(clusterID); parts of two folders were mixed"
                )
            }
            return folder.directoryID
        }
        var random = SystemRandomNumberGenerator()
        let new = DataFolder(
            clusterID: clusterID,
            nodeID: configuration.nodeID,
            directoryID: KafkaUUID.random(using: &random)
        )
        try new.write(configuration.dataDirectory, fileSystem: fileSystem)
        return new.directoryID
    }

    // MARK: Stopping

    private func stop(
        _ services: BrokerServices,
        _ server: ServerContext,
        _ listener: Listener,
        _ blocking: NIOThreadPool
    ) async {
        await listener.close()
        services.replicas?.stop()
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
        let logs = services.logs
        let logger = logger
        // Not `runIfActive`: a cancelled task must close the logs too.
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            blocking.submit { _ in
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
            let state = state
            return state == .ready
                ? .init(status: .ok, body: "ready\n") : .init(status: .serviceUnavailable, body: "\(state)\n")
        case "/metrics":
            return .init(status: .ok, contentType: "text/plain; version=0.0.4; charset=utf-8", body: metrics())
        default: return nil
        }
    }

    private func metrics() -> String {
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
