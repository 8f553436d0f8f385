// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// What outlives a session: counts, and what is known of records that made one end.
final class TopologyShared: Sendable {
    struct State {
        var isPaused = false
        var isStopping = false
        var isRunning = false
        var restarts: Int64 = 0
        var commits: Int64 = 0
        var deadLetters: Int64 = 0
        var lag: [TopicPartition: Int64] = [:]
        var inFlight = 0
        var stages: [StageStatus] = []
        /// Records that are dead letters when they are read again (exactly once: their session was thrown away).
        var poison: [SourcePosition: StageFailure] = [:]
    }

    let state = Mutex(State())
    let metrics: [String: StageMetrics]

    init(_ topology: Topology) {
        var metrics: [String: StageMetrics] = [:]
        for source in topology.sources { metrics[source.name] = StageMetrics(name: source.name, tasks: 1) }
        for stage in topology.stages {
            metrics[stage.name] = StageMetrics(name: stage.name, tasks: stage.options.parallelism)
        }
        self.metrics = metrics
    }

    var mustStop: Bool { state.withLock { $0.isStopping } || Task.isCancelled }
    var isPaused: Bool { state.withLock { $0.isPaused } }
}

/// One life of a worker, from joining the group to the first failure; then another one begins, from what was committed.
///
/// Turns: the main loop reads and commits while it holds `turn`; the group's callbacks take it too, so that partitions come and go between
/// two turns only.
final class TopologySession: Sendable {
    struct State {
        var tracker = RecordTracker()
        /// The first failure; the session ends with it.
        var failure: (any Error)?
        var isClosing = false
        /// Since when a transaction is open, and how many records it has.
        var epoch: (began: ContinuousClock.Instant, records: Int)?
        var isSourcePaused = false
    }

    struct Dispatch: Sendable {
        let record: ConsumerRecord
        let tree: RecordTracker.TreeID
    }

    let topology: Topology
    let settings: TopologySettings
    let shared: TopologyShared
    let logger: Logger
    let eventLoopGroup: any EventLoopGroup
    let consumer: Consumer
    let producer: Producer
    /// In the order of the flow; sources last.
    let stages: [StageRuntime]
    let sources: [String: StageRuntime]
    let tasks: [StageTask]
    let dispatches: BoundedQueue<Dispatch>
    let turn = TurnLock()
    /// Records of sources under way, for their dead letters.
    let originals = Mutex<[RecordTracker.TreeID: ConsumerRecord]>([:])
    let state = Mutex(State())

    var isExact: Bool { topology.guarantee == .exactlyOnce }
    /// Whether everything under way ends before a commit: offsets, state and outputs then belong together.
    let hasBarrier: Bool

    init(
        _ topology: Topology,
        _ settings: TopologySettings,
        shared: TopologyShared,
        eventLoopGroup: any EventLoopGroup,
        logger: Logger
    ) throws {
        self.topology = topology
        self.settings = settings
        self.shared = shared
        self.logger = logger
        self.eventLoopGroup = eventLoopGroup
        hasBarrier = topology.guarantee == .exactlyOnce || topology.stages.contains { $0.options.isStateful }
        var reading = ConsumerConfiguration(client: settings.client, groupID: TopologyNames.group(of: topology.name))
        reading.isolation = .readCommitted
        reading.groupInstanceID = settings.instance
        reading.sessionTimeout = settings.sessionTimeout
        reading.heartbeatInterval = min(settings.sessionTimeout / 4, .seconds(3))
        consumer = try Consumer(reading, eventLoopGroup: eventLoopGroup, logger: logger)
        var writing = ProducerConfiguration(client: settings.client)
        writing.allowAutoTopicCreation = false
        if topology.guarantee == .exactlyOnce {
            let name = settings.instance ?? "w-" + String(UInt64.random(in: 0...UInt64.max), radix: 36)
            writing.transactionalID = TopologyNames.group(of: topology.name) + "." + name
            writing.transactionTimeout = settings.transactionTimeout
        }
        producer = try Producer(writing, eventLoopGroup: eventLoopGroup, logger: logger)
        let built = try Self.build(topology, settings, shared)
        stages = built.stages
        sources = built.sources
        dispatches = BoundedQueue(capacity: settings.inFlightMax + settings.transactionRecordsMax)
        tasks = built.stages.flatMap { stage in stage.queues.indices.map { StageTask(stage: stage, index: $0) } }
    }

    /// The stages, each knowing who reads it: the last first.
    private static func build(
        _ topology: Topology,
        _ settings: TopologySettings,
        _ shared: TopologyShared
    ) throws -> (stages: [StageRuntime], sources: [String: StageRuntime]) {
        let ordered = try topology.ordered()
        var firstTask: [String: Int] = [:]
        var nextTask = 1
        for name in topology.stageNames {
            firstTask[name] = nextTask
            nextTask += ordered.first { $0.name == name }?.options.parallelism ?? 1
        }
        var made: [String: StageRuntime] = [:]
        func runtime(_ name: String, _ stage: Topology.Stage?) -> StageRuntime {
            var readers: [StageRuntime.Reader] = []
            for reader in ordered {
                guard let other = made[reader.name] else { continue }
                for input in Set(reader.inputs) where input.stage == name {
                    readers.append(.init(stage: other, stream: input.stream))
                }
            }
            return StageRuntime(
                name: name,
                stage: stage,
                firstTaskID: firstTask[name] ?? 0,
                readers: readers,
                queueCapacity: settings.queueCapacity,
                metrics: shared.metrics[name] ?? StageMetrics(name: name, tasks: 1),
                store: stage?.options.isStateful == true
                    ? StateStore(topic: TopologyNames.state(of: topology.name, stage: name)) : nil
            )
        }
        for stage in ordered.reversed() { made[stage.name] = runtime(stage.name, stage) }
        var sources: [String: StageRuntime] = [:]
        for source in topology.sources { sources[source.name] = runtime(source.name, nil) }
        return (ordered.compactMap { made[$0.name] }, sources)
    }

    // MARK: Life

    /// Works until the runner is to stop, or something fails.
    func run() async throws {
        if isExact { try await producer.initTransactions() }
        await withTaskGroup(of: Void.self) { group in
            for task in tasks { group.addTask { await task.run(self) } }
            group.addTask { await self.dispatch() }
            do {
                try await open()
                try await work()
                await close()
            } catch {
                fail(error)
            }
            state.withLock { $0.isClosing = true }
            dispatches.close()
            for stage in stages { for queue in stage.queues { queue.close() } }
        }
        await abandon()
        if let failure = state.withLock({ $0.failure }) { throw failure }
    }

    private func open() async throws {
        for task in tasks { try await task.open(self) }
        try await consumer.subscribe(
            topology.sourceTopics,
            onAssigned: { await self.assigned(Set($0)) },
            onRevoked: { await self.revoked(Set($0)) },
            onLost: { await self.lost(Set($0)) }
        )
        shared.state.withLock { $0.isRunning = true }
    }

    /// Leaves the group in order: what is under way is ended and committed when the group takes the partitions.
    private func close() async {
        await consumer.close()
        if isFailed { return }
        do {
            try await producer.close()
        } catch {
            logger.debug("closing the producer failed", metadata: ["error": "\(error)"])
        }
    }

    /// Lets go of everything after a failure, or of what is left after a close.
    private func abandon() async {
        if isExact, isFailed, state.withLock({ $0.epoch != nil }) { try? await producer.abortTransaction() }
        for task in tasks { await task.close() }
        await consumer.close()
        try? await producer.close()
        shared.state.withLock { $0.isRunning = false }
    }

    var isEnding: Bool { state.withLock { $0.isClosing } }
    var isFailed: Bool { state.withLock { $0.failure != nil } }

    /// Ends the session; the first error counts.
    func fail(_ error: any Error) {
        state.withLock { state in
            if state.failure == nil, !state.isClosing { state.failure = error }
        }
    }

    func checkFailure() throws {
        if let failure = state.withLock({ $0.failure }) { throw failure }
    }

    // MARK: Main loop

    private func work() async throws {
        var nextCommit = ContinuousClock.now + settings.commitInterval
        var nextTicks = tickingTasks.map { ($0, ContinuousClock.now + $0.interval) }
        while !shared.mustStop {
            try checkFailure()
            await turn.acquire()
            do {
                try await read()
                for index in nextTicks.indices where ContinuousClock.now >= nextTicks[index].1 {
                    if !shared.isPaused { try await tick(nextTicks[index].0.task) }
                    nextTicks[index].1 = .now + nextTicks[index].0.interval
                }
                if isExact, isEpochFull { try await commitBarrier() }
                if ContinuousClock.now >= nextCommit {
                    try await commitProgress()
                    nextCommit = .now + settings.commitInterval
                }
            } catch {
                turn.release()
                throw error
            }
            turn.release()
            report()
        }
    }

    private var tickingTasks: [(task: StageTask, interval: Duration)] {
        tasks.compactMap { task in task.stage.stage?.options.tickInterval.map { (task, $0) } }
    }

    private var isEpochFull: Bool {
        guard let epoch = state.withLock({ $0.epoch }) else { return false }
        return epoch.records >= settings.transactionRecordsMax
            || ContinuousClock.now - epoch.began >= settings.transactionInterval
    }

    /// Opens a transaction unless one is open.
    func openEpoch() throws {
        guard isExact, state.withLock({ $0.epoch == nil }) else { return }
        try producer.beginTransaction()
        state.withLock { $0.epoch = (.now, 0) }
    }

    /// Reads records and hands them over; with too many under way, or while the topology is paused, none.
    private func read() async throws {
        let inFlight = state.withLock { $0.tracker.inFlight }
        let mustPause = shared.isPaused || inFlight >= settings.inFlightMax
        let assigned = Array(consumer.assignment)
        if mustPause {
            try? consumer.pause(assigned)
        } else if state.withLock({ $0.isSourcePaused }) || !consumer.paused.isEmpty {
            try? consumer.resume(assigned)
        }
        state.withLock { $0.isSourcePaused = mustPause }
        // Polled all the same: a member that does not poll is taken for dead.
        let idle = isExact ? min(settings.transactionInterval / 4, .milliseconds(50)) : .milliseconds(50)
        let wait: Duration = mustPause ? .milliseconds(5) : idle
        let records = try await consumer.poll(maxRecords: max(settings.inFlightMax - inFlight, 1), timeout: wait)
        let partitions = Set(records.map(\.topicPartition))
        if !records.isEmpty {
            if topology.guarantee == .atMostOnce { try await commitPositions() }
            try openEpoch()
        }
        var begun: [Dispatch] = []
        state.withLock { state in
            for record in records {
                let source = SourcePosition(partition: record.topicPartition, offset: record.offset)
                if let tree = state.tracker.begin(source) { begun.append(Dispatch(record: record, tree: tree)) }
            }
            state.epoch?.records += begun.count
        }
        for partition in partitions.union(assigned) {
            if let position = try? consumer.position(partition) {
                state.withLock { $0.tracker.skip(partition, to: position) }
            }
        }
        for dispatch in begun { await dispatches.push(dispatch, bypassing: true) }
    }

    private func report() {
        let inFlight = state.withLock { $0.tracker.inFlight }
        let lag = consumer.lag
        let status = stages.map(\.status) + sources.values.map(\.status)
        shared.state.withLock { state in
            state.inFlight = inFlight
            state.lag = lag
            state.stages = status
        }
    }
}
