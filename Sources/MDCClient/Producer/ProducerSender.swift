// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Logging
import MDCModel
import MDCProtocol
import NIOCore
import ServiceLifecycle
import Synchronization

/// Performs what `ProducerStateMachine` decides. Callers append under a lock on their own threads; everything else
/// happens on one event loop. Fields without a lock are touched on that loop only, hence unchecked.
final class ProducerSender: @unchecked Sendable {
    struct Shared {
        var machine: ProducerStateMachine
        /// Callers that wait for room, in order.
        var waiters = Deque<(id: UInt64, size: Int, continuation: CheckedContinuation<Void, any Error>)>()
        var nextWaiterID: UInt64 = 0
        var flushes: [(upTo: Int, continuation: CheckedContinuation<Void, any Error>)] = []
        /// The first failure of each generation that a flush waits for.
        var failures: [Int: ClientError] = [:]
    }

    let configuration: ProducerConfiguration
    let core: ClientCore
    let eventLoop: any EventLoop
    let logger: Logger
    let shared: Mutex<Shared>
    private let metrics: ProducerMetrics
    private let closing = ShutdownLatch()
    private var drainTimer: Scheduled<Void>?
    /// Whether partitions are being added to the transaction.
    var isAddingPartitions = false

    init(_ configuration: ProducerConfiguration, eventLoop: any EventLoop, logger: Logger) throws {
        self.configuration = configuration
        self.eventLoop = eventLoop
        self.logger = logger
        core = try ClientCore(configuration.client, eventLoop: eventLoop, logger: logger)
        metrics = ProducerMetrics(clientID: configuration.client.clientID)
        var settings = RecordBatchBuilder.Settings(
            codec: configuration.compression,
            compressionLevel: configuration.compressionLevel
        )
        settings.partitionLeaderEpoch = .unknown
        settings.isTransactional = configuration.transactionalID != nil
        shared = Mutex(
            Shared(
                machine: ProducerStateMachine(
                    ProducerStateMachine.Configuration(
                        isIdempotent: configuration.isIdempotent,
                        isTransactional: configuration.transactionalID != nil,
                        linger: TimeAmount(configuration.linger),
                        batchSize: configuration.batchSize,
                        maxRequestSize: configuration.maxRequestSize,
                        maxInFlight: configuration.maxInFlight,
                        bufferMemory: configuration.bufferMemory,
                        deliveryTimeout: TimeAmount(configuration.deliveryTimeout),
                        batchSettings: settings,
                        backoff: Backoff(
                            first: configuration.client.retryBackoff,
                            longest: configuration.client.retryBackoffMax
                        )
                    )
                )
            )
        )
        eventLoop.execute {
            self.core.allowAutoTopicCreation = configuration.allowAutoTopicCreation
            self.core.metadataListeners.append { [weak self] in self?.metadataChanged() }
        }
    }

    func untilShutdownOrClosed() async { await closing.wait() }

    // MARK: Accepting records

    /// Accepts a record where that needs no waiting; false where `enqueueWaiting` must be asked.
    func tryEnqueue(_ record: ProducerRecord, _ done: ProducerCompletion?) -> Bool {
        let timestamp = record.timestamp ?? WallClock.now()
        let result = shared.withLock { shared in
            // Whoever waits goes first.
            shared.waiters.isEmpty
                ? shared.machine.append(record, timestamp: timestamp, now: .now(), done: done) : .full(size: 0)
        }
        guard case .accepted(let wake) = result else { return false }
        if wake { wakeLoop() }
        return true
    }

    private func wakeLoop() {
        eventLoop.execute { self.drain() }
    }

    func enqueueWaiting(_ record: ProducerRecord, _ done: ProducerCompletion?) async throws {
        let deadline = NIODeadline.now() + TimeAmount(configuration.maxBlock)
        let timestamp = record.timestamp ?? WallClock.now()
        var mayPass = false
        while true {
            try Task.checkCancellation()
            let result = shared.withLock { shared -> ProducerStateMachine.AppendResult in
                if !mayPass, !shared.waiters.isEmpty { return .full(size: 0) }
                return shared.machine.append(record, timestamp: timestamp, now: .now(), done: done)
            }
            switch result {
            case .accepted(let wake):
                if wake { wakeLoop() }
                return
            case .refused(let error):
                throw error
            case .unknownTopic:
                let topic = try await core.waitForTopic(record.topic, until: deadline)
                shared.withLock { $0.machine.updateTopic(topic.name, leaders: topic.partitions.map(\.leader)) }
            case .full(let size):
                try await waitForRoom(size, until: deadline)
                mayPass = true
            }
        }
    }

    private func waitForRoom(_ size: Int, until deadline: NIODeadline) async throws {
        let id = shared.withLock { shared -> UInt64 in
            shared.nextWaiterID += 1
            return shared.nextWaiterID
        }
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let closed = shared.withLock { shared -> Bool in
                    shared.waiters.append((id, size, continuation))
                    shared.machine.isUnderPressure = true
                    return closing.isTriggered
                }
                if closed || Task.isCancelled {
                    return endWait(id, Task.isCancelled ? CancellationError() : ClientCore.closedError)
                }
                eventLoop.execute {
                    self.resumeWaiters()
                    self.drain()
                    self.eventLoop.scheduleTask(deadline: deadline) {
                        self.endWait(
                            id,
                            ClientError(
                                .timeout,
                                "no room for the record within maxBlock (\(self.configuration.maxBlock)): bufferMemory (\(self.configuration.bufferMemory) bytes) is full of records that no broker acknowledged"
                            )
                        )
                    }
                }
            }
        } onCancel: {
            endWait(id, CancellationError())
        }
    }

    private func endWait(_ id: UInt64, _ error: any Error) {
        let waiter = shared.withLock { shared in
            shared.waiters.firstIndex { $0.id == id }.map { shared.waiters.remove(at: $0) }
        }
        waiter?.continuation.resume(throwing: error)
    }

    /// Lets in as many callers as there is room for.
    private func resumeWaiters() {
        let ready = shared.withLock { shared -> [CheckedContinuation<Void, any Error>] in
            var room = shared.machine.configuration.bufferMemory - shared.machine.bufferedBytes
            var ready: [CheckedContinuation<Void, any Error>] = []
            while let first = shared.waiters.first, first.size <= room {
                room -= max(first.size, 1)
                ready.append(first.continuation)
                shared.waiters.removeFirst()
            }
            shared.machine.isUnderPressure = !shared.waiters.isEmpty
            return ready
        }
        for continuation in ready { continuation.resume() }
    }

    nonisolated(nonsending) func send(_ record: ProducerRecord) async throws -> RecordMetadata {
        let promise = eventLoop.makePromise(of: RecordMetadata.self)
        let done: ProducerCompletion = { promise.completeWith($0.mapError { $0 as any Error }) }
        do {
            if !tryEnqueue(record, done) { try await enqueueWaiting(record, done) }
        } catch {
            promise.fail(error)
        }
        return try await promise.futureResult.get()
    }

    // MARK: Draining (event loop)

    private func metadataChanged() {
        shared.withLock { shared in
            for name in shared.machine.knownTopics {
                guard let topic = core.metadata.topic(name) else { continue }
                shared.machine.updateTopic(name, leaders: topic.partitions.map(\.leader))
            }
        }
        drain()
    }

    func drain() {
        guard !core.isClosed else { return }
        let plan = shared.withLock { $0.machine.drain(now: .now()) }
        if !plan.expired.isEmpty {
            for (batch, error) in plan.expired { finish(batch, .failure(error)) }
            afterProgress()
        }
        if plan.needsProducerID { requestProducerID(attempt: 0) }
        if !plan.partitionsToAdd.isEmpty { addPartitions(plan.partitionsToAdd) }
        if !plan.topicsWithoutLeader.isEmpty { core.refreshMetadata() }
        for request in plan.requests { send(request) }
        drainTimer?.cancel()
        drainTimer = plan.nextDrain.map { time in
            eventLoop.assumeIsolated().scheduleTask(deadline: time) { self.drain() }
        }
    }

    private func requestProducerID(attempt: Int) {
        core.send(InitProducerIdRequest.self, to: .any, versions: 0...5) { _ in
            InitProducerIdRequest(transactionalId: nil, transactionTimeoutMs: Int32.max)
        }.assumeIsolated().whenComplete { result in
            let failure: ClientError
            switch result {
            case .success(let response) where response.errorCode == 0:
                self.shared.withLock {
                    $0.machine.producerIDArrived((id: response.producerId, epoch: response.producerEpoch))
                }
                return self.drain()
            case .success(let response):
                failure = .broker(ErrorCode(rawValue: response.errorCode), "asking for a producer id")
            case .failure(let error):
                failure = Self.clientError(error)
            }
            if failure.code == .closed { return }
            if failure.isRetriable {
                let pause = self.core.retryBackoff.delay(attempt: attempt, using: &self.core.generator)
                // Batches may expire meanwhile.
                self.eventLoop.assumeIsolated().scheduleTask(in: pause) {
                    self.requestProducerID(attempt: attempt + 1)
                    self.drain()
                }
                return
            }
            self.logger.debug("no producer id", metadata: [LogKey.error: "\(failure)"])
            let abandoned = self.shared.withLock { shared in
                shared.machine.producerIDArrived(nil)
                return shared.machine.abandonAll()
            }
            for batch in abandoned { self.finish(batch, .failure(failure)) }
            self.afterProgress()
        }
    }

    static func clientError(_ error: any Error) -> ClientError {
        error as? ClientError ?? ClientError(.connection, "the request failed", cause: error)
    }

    // MARK: Produce requests (event loop)

    private func send(_ plan: ProducerStateMachine.PlannedRequest) {
        var byTopic: [String: [(ProducerBatch, ByteBuffer)]] = [:]
        for batch in plan.batches {
            do {
                byTopic[batch.topic, default: []].append((batch, try batch.encode()))
            } catch {
                // Does not happen with the codecs that there are; the batch would fail the same way again.
                let failure = ClientError(.invalidState, "the batch cannot be compressed", cause: error)
                shared.withLock { shared in
                    _ = shared.machine.batchEnded(batch, .error(.unknownServerError, nil), now: .now())
                }
                finish(batch, .failure(failure))
            }
        }
        let topicData = byTopic.map { topic, batches in
            ProduceRequest.TopicProduceData(
                name: topic,
                topicId: core.metadata.topicID(topic),
                partitionData: batches.map { .init(index: $0.0.partition, records: $0.1) }
            )
        }
        // Since version 13 topics go by their ids alone.
        var newest: Int16 = topicData.contains { $0.topicId == .zero } ? 12 : 13
        let transactionalID = configuration.transactionalID
        // From version 12 on the broker adds partitions to the transaction by itself.
        if transactionalID != nil, !shared.withLock({ $0.machine.transaction.isSecond }) { newest = 11 }
        let acks = configuration.acks.rawValue
        let timeout = Int32(clamping: TimeAmount(configuration.client.requestTimeout).nanoseconds / 1_000_000)
        metrics.sent(requests: 1)
        core.send(
            ProduceRequest.self,
            to: .broker(plan.node),
            versions: 3...newest,
            timeout: configuration.client.requestTimeout + .seconds(1),
            unanswered: acks == 0 ? ProduceResponse() : nil
        ) { _ in
            ProduceRequest(transactionalId: transactionalID, acks: acks, timeoutMs: timeout, topicData: topicData)
        }.assumeIsolated().whenComplete { result in
            self.answered(plan, result)
        }
    }

    private func answered(_ plan: ProducerStateMachine.PlannedRequest, _ result: Result<ProduceResponse, any Error>) {
        var outcomes: [TopicPartition: ProduceResponse.PartitionProduceResponse] = [:]
        var failure: ClientError?
        switch result {
        case .failure(let error):
            failure = Self.clientError(error)
        case .success(let response):
            for topic in response.responses {
                let name = topic.name.isEmpty ? core.metadata.topicName(topic.topicId) ?? "" : topic.name
                for partition in topic.partitionResponses {
                    let key = TopicPartition(topic: name, partition: PartitionID(partition.index))
                    outcomes[key] = partition
                    applyHint(key, partition, response.nodeEndpoints)
                }
            }
        }
        let now = NIODeadline.now()
        var actions: [ProducerStateMachine.BatchAction] = []
        shared.withLock { shared in
            for batch in plan.batches {
                let key = TopicPartition(topic: batch.topic, partition: PartitionID(batch.partition))
                let outcome = Self.outcome(failure, outcomes[key], acks: configuration.acks)
                let action = shared.machine.batchEnded(batch, outcome, now: now)
                if case .split(let batch) = action {
                    actions.append(Self.split(batch, &shared.machine))
                } else {
                    actions.append(action)
                }
            }
            shared.machine.requestEnded(node: plan.node)
        }
        perform(actions, failure)
        afterProgress()
        drain()
    }

    private static func outcome(
        _ failure: ClientError?,
        _ answer: ProduceResponse.PartitionProduceResponse?,
        acks: ProducerConfiguration.Acknowledgement
    ) -> ProducerStateMachine.BatchOutcome {
        if let failure { return .noAnswer(failure) }
        if acks == .none { return .acknowledged(baseOffset: -1, logAppendTime: -1) }
        guard let answer else {
            return .noAnswer(ClientError(.protocolViolation, "the broker's answer leaves a partition out"))
        }
        guard answer.errorCode == 0 else {
            let reason = answer.errorMessage ?? answer.recordErrors.first?.batchIndexErrorMessage
            return .error(ErrorCode(rawValue: answer.errorCode), reason)
        }
        return .acknowledged(baseOffset: answer.baseOffset, logAppendTime: answer.logAppendTimeMs)
    }

    private static func split(
        _ batch: ProducerBatch,
        _ machine: inout ProducerStateMachine
    ) -> ProducerStateMachine.BatchAction {
        do {
            machine.replace(batch, with: try batch.split(settings: machine.configuration.batchSettings))
            return .repeat(refresh: false)
        } catch {
            machine.abandon(batch)
            return .fail(
                batch,
                ClientError(.recordTooLarge, "the broker finds the batch too large", cause: error)
            )
        }
    }

    private func perform(_ actions: [ProducerStateMachine.BatchAction], _ failure: ClientError?) {
        var refresh = false
        for action in actions {
            switch action {
            case .succeed(let batch, let baseOffset, let logAppendTime):
                metrics.acknowledged(records: Int(batch.recordCount), bytes: batch.reservedBytes)
                finish(batch, .success((baseOffset, logAppendTime)))
            case .fail(let batch, let error):
                finish(batch, .failure(error))
            case .repeat(let wantsRefresh):
                metrics.repeated()
                refresh = refresh || wantsRefresh
            case .split:
                preconditionFailure("split is performed under the lock")
            }
        }
        if refresh { core.refreshMetadata() }
    }

    /// A broker that is not the leader may tell who is (KIP-951).
    private func applyHint(
        _ key: TopicPartition,
        _ partition: ProduceResponse.PartitionProduceResponse,
        _ endpoints: [ProduceResponse.NodeEndpoint]
    ) {
        guard partition.errorCode != 0, partition.currentLeader.leaderId >= 0 else { return }
        let endpoint = endpoints.first { $0.nodeId == partition.currentLeader.leaderId }.map {
            MetadataCache.Broker(address: BrokerAddress(host: $0.host, port: Int($0.port)), rack: $0.rack)
        }
        let isNews = core.metadata.applyLeaderHint(
            key,
            leader: partition.currentLeader.leaderId,
            leaderEpoch: partition.currentLeader.leaderEpoch,
            endpoint: endpoint
        )
        if isNews, let topic = core.metadata.topic(key.topic) {
            shared.withLock { $0.machine.updateTopic(key.topic, leaders: topic.partitions.map(\.leader)) }
        }
    }

    func finish(
        _ batch: ProducerBatch,
        _ result: Result<(baseOffset: Int64, logAppendTime: Int64), ClientError>
    ) {
        if case .failure(let error) = result {
            metrics.failed(records: Int(batch.recordCount))
            shared.withLock { shared in
                if !shared.flushes.isEmpty, shared.failures[batch.generation] == nil {
                    shared.failures[batch.generation] = error
                }
                if shared.machine.configuration.isTransactional { shared.machine.transaction.fail(error) }
            }
        }
        batch.complete(result)
    }

    /// Batches are done: there may be room, and flushes may be complete.
    func afterProgress() {
        if shared.withLock({ !$0.waiters.isEmpty }) { resumeWaiters() }
        let done = shared.withLock { shared -> [(CheckedContinuation<Void, any Error>, ClientError?)] in
            guard !shared.flushes.isEmpty else { return [] }
            var done: [(CheckedContinuation<Void, any Error>, ClientError?)] = []
            shared.flushes.removeAll { flush in
                guard shared.machine.isFlushed(upTo: flush.upTo) else { return false }
                let failure = shared.failures.filter { $0.key <= flush.upTo }.min { $0.key < $1.key }?.value
                done.append((flush.continuation, failure))
                return true
            }
            if shared.flushes.isEmpty { shared.failures = [:] }
            return done
        }
        for (continuation, failure) in done {
            if let failure { continuation.resume(throwing: failure) } else { continuation.resume() }
        }
    }

    // MARK: Flush and close

    func flush() async throws {
        try await withCheckedThrowingContinuation { continuation in
            let isDone = shared.withLock { shared -> Bool in
                let upTo = shared.machine.startFlush()
                if shared.machine.isFlushed(upTo: upTo) { return true }
                shared.flushes.append((upTo, continuation))
                return false
            }
            if isDone { return continuation.resume() }
            eventLoop.execute {
                // The client may have been closed between the two.
                if self.core.isClosed { self.abandonEverything() } else { self.drain() }
            }
        }
    }

    func close() async throws {
        shared.withLock { $0.machine.close() }
        let waiting = shared.withLock { shared -> [CheckedContinuation<Void, any Error>] in
            closing.trigger()
            defer { shared.waiters.removeAll() }
            return shared.waiters.map(\.continuation)
        }
        for continuation in waiting { continuation.resume(throwing: ClientCore.closedError) }
        let result: Result<Void, any Error>
        do {
            result = .success(try await flush())
        } catch {
            result = .failure(error)
        }
        try? await core.onLoop {
            self.core.closeOnLoop()
            self.drainTimer?.cancel()
            self.abandonEverything()
        }
        try result.get()
    }

    private func abandonEverything() {
        let left = shared.withLock { $0.machine.abandonAll() }
        for batch in left { finish(batch, .failure(ClientCore.closedError)) }
        afterProgress()
    }
}
