// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// Performs what `FetchState` and `GroupMembershipStateMachine` decide.
///
/// What the application's threads and the event loop share stands in `shared`, under a lock. The membership, timers
/// and the core are touched on the event loop only, hence unchecked. The application's callbacks run one after
/// another in a task of their own.
final class ConsumerDriver: @unchecked Sendable {
    struct Shared {
        var fetch: FetchState
        /// Partitions that are being given up, with where reading had got to: they can still be committed.
        var revoking: [TopicPartition: OffsetAndMetadata] = [:]
        /// What auto-commit may commit: positions when the application last came back to `poll`.
        var consumed: [TopicPartition: OffsetAndMetadata] = [:]
        var mode = Mode.none
        var isClosed = false
        var hasSignal = false
        var waiter: (id: UInt64, continuation: CheckedContinuation<Void, Never>)?
        var nextWaiterID: UInt64 = 0
        var fetchIsScheduled = false
        var isPolling = false
        var lastPoll: NIODeadline
        var isExpelled = false
        var memberID: String?
    }

    enum Mode { case none, assigned, subscribed }

    let configuration: ConsumerConfiguration
    let core: ClientCore
    let eventLoop: any EventLoop
    let logger: Logger
    let metrics: ConsumerMetrics
    let shared: Mutex<Shared>
    let polling = AsyncLock()
    let closing = ShutdownLatch()
    let callbacks: CallbackQueue
    /// Touched by the holder of `polling` only.
    var cursors: [TopicPartition: ChunkCursor] = [:]

    // Event loop only.
    var membership: GroupMembershipStateMachine
    var membershipTimer: Scheduled<Void>?
    var fetchTimer: Scheduled<Void>?
    var autoCommitTimer: Scheduled<Void>?
    var missingTopicTimer: Scheduled<Void>?
    var isLeft = false

    init(_ configuration: ConsumerConfiguration, eventLoop: any EventLoop, logger: Logger) throws {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.logger = logger
        core = try ClientCore(configuration.client, eventLoop: eventLoop, logger: logger)
        metrics = ConsumerMetrics(clientID: configuration.client.clientID, groupID: configuration.groupID)
        let backoff = Backoff(
            first: configuration.client.retryBackoff,
            longest: configuration.client.retryBackoffMax
        )
        membership = GroupMembershipStateMachine(
            GroupMembershipStateMachine.Configuration(
                instanceID: configuration.groupInstanceID,
                assignors: configuration.assignors,
                sessionTimeout: TimeAmount(configuration.sessionTimeout),
                heartbeatInterval: TimeAmount(configuration.heartbeatInterval),
                maxPollInterval: TimeAmount(configuration.maxPollInterval),
                backoff: backoff
            )
        )
        shared = Mutex(
            Shared(
                fetch: FetchState(
                    FetchState.Configuration(
                        maxPartitionBytes: configuration.maxPartitionFetchBytes,
                        maxBufferedBytes: configuration.maxBufferedBytes,
                        reset: configuration.autoOffsetReset,
                        backoff: backoff
                    )
                ),
                lastPoll: .now()
            )
        )
        callbacks = CallbackQueue()
        eventLoop.execute {
            self.core.metadataListeners.append { [weak self] in self?.metadataChanged() }
        }
    }

    func untilShutdownOrClosed() async { await closing.wait() }

    // MARK: Subscription and assignment

    func checkOpen() throws {
        if shared.withLock({ $0.isClosed }) { throw ClientCore.closedError }
    }

    func subscribe(
        _ topics: [String],
        onAssigned: Consumer.RebalanceCallback?,
        onRevoked: Consumer.RebalanceCallback?,
        onLost: Consumer.RebalanceCallback?
    ) async throws {
        try checkOpen()
        guard configuration.groupID != nil else {
            throw ClientError(
                .configuration,
                "subscribe needs ConsumerConfiguration.groupID; without a group use assign"
            )
        }
        guard !topics.isEmpty else { throw ClientError(.invalidState, "subscribe to at least one topic") }
        try shared.withLock { shared in
            guard shared.mode != .assigned else {
                throw ClientError(.invalidState, "this consumer uses assign; use another one for subscribe")
            }
            shared.mode = .subscribed
            shared.lastPoll = .now()
        }
        callbacks.set(onAssigned: onAssigned, onRevoked: onRevoked, onLost: onLost ?? onRevoked)
        try await core.onLoop {
            self.core.topicsOfInterest.formUnion(topics)
            self.core.refreshMetadata()
            self.perform(self.membership.subscribe(topics, now: .now()))
            self.startAutoCommit()
        }
    }

    func assign(_ positions: [TopicPartition: StartPosition]) async throws {
        try checkOpen()
        if positions.values.contains(.committed), configuration.groupID == nil {
            throw ClientError(
                .configuration,
                "committed offsets need ConsumerConfiguration.groupID; name offsets instead"
            )
        }
        try shared.withLock { shared in
            guard shared.mode != .subscribed else {
                throw ClientError(.invalidState, "this consumer is subscribed; use another one for assign")
            }
            shared.mode = .assigned
            for gone in shared.fetch.turns { shared.fetch.remove(gone) }
            shared.consumed = [:]
            for (partition, start) in positions { shared.fetch.add(partition, at: start) }
        }
        try await core.onLoop {
            self.core.topicsOfInterest.formUnion(positions.keys.map(\.topic))
            self.core.refreshMetadata()
            self.startAutoCommit()
            self.runFetches()
        }
    }

    var assignment: Set<TopicPartition> { shared.withLock { Set($0.fetch.partitions.keys) } }
    var paused: Set<TopicPartition> {
        shared.withLock { Set($0.fetch.partitions.filter(\.value.isPaused).keys) }
    }
    var memberID: String? { shared.withLock { $0.memberID } }
    var lag: [TopicPartition: Int64] {
        shared.withLock { shared in
            shared.fetch.partitions.compactMapValues { state in
                guard let position = state.position else { return nil }
                let end =
                    configuration.isolation == .readCommitted ? state.lastStableOffset : state.highWatermark
                return end < 0 ? nil : max(0, end - position.rawValue)
            }
        }
    }

    private static func notAssigned(_ partition: TopicPartition) -> ClientError {
        ClientError(.partitionNotAssigned, "\(partition) is not assigned to this consumer")
    }

    func position(_ partition: TopicPartition) throws -> Offset? {
        try shared.withLock { shared in
            guard let state = shared.fetch.partitions[partition] else { throw Self.notAssigned(partition) }
            return state.position
        }
    }

    func seek(_ partition: TopicPartition, to start: StartPosition) throws {
        try shared.withLock { shared in
            guard shared.fetch.jump(partition, to: start) else { throw Self.notAssigned(partition) }
            if case .offset(let offset) = start {
                shared.consumed[partition] = OffsetAndMetadata(offset)
            } else {
                shared.consumed[partition] = nil
            }
        }
        scheduleFetches()
    }

    func setPaused(_ partitions: [TopicPartition], _ paused: Bool) throws {
        try shared.withLock { shared in
            for partition in partitions where !shared.fetch.setPaused(partition, paused) {
                throw Self.notAssigned(partition)
            }
        }
        if !paused {
            wakePoll()
            scheduleFetches()
        }
    }

    func listOffsets(_ partitions: [(TopicPartition, Int64)]) async throws -> [TopicPartition: OffsetAndTimestamp] {
        try checkOpen()
        return try await core.listOffsets(
            partitions,
            isolation: configuration.isolation.rawValue,
            until: core.apiDeadline
        )
    }

    // MARK: Close

    /// `commitsAll`: auto-commit takes in what the last `poll` returned, for the application is done with it.
    func close(commitsAll: Bool = true) async {
        let (isFirst, mode) = shared.withLock { shared in
            defer { shared.isClosed = true }
            return (!shared.isClosed, shared.mode)
        }
        closing.trigger()
        guard isFirst else { return await callbacks.untilEnded() }
        wakePoll()
        if configuration.enableAutoCommit, configuration.groupID != nil {
            if commitsAll { noteConsumed() }
            await autoCommit()
        }
        if mode == .subscribed {
            // The application may commit in its callback, so the membership ends after it.
            let owned = try? await core.onLoop { () -> [TopicPartition] in
                self.isLeft = true
                self.membershipTimer?.cancel()
                return self.membership.owned.sorted()
            }
            if let owned, !owned.isEmpty {
                stopReading(owned, mayCommit: true)
                await callbacks.runLast { await $0.onRevoked?(owned) }
            }
            await leaveGroup()
        }
        callbacks.end()
        try? await core.onLoop {
            self.fetchTimer?.cancel()
            self.autoCommitTimer?.cancel()
            self.missingTopicTimer?.cancel()
            self.core.closeOnLoop()
        }
        shared.withLock { shared in
            for partition in shared.fetch.turns { shared.fetch.remove(partition) }
            shared.revoking = [:]
            shared.memberID = nil
        }
        await callbacks.untilEnded()
    }
}
