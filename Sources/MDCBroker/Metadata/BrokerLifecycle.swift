// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCModel
import Synchronization

/// This node as a broker of the cluster: registers, gives signs of life, leaves in order; and speaks for the leaders of
/// partitions here.
final class BrokerLifecycle: Sendable {
    private struct State: Sendable {
        /// -1 until registered.
        var epoch: Int64 = -1
        /// Whether the controller lets this node lead.
        var isActive = false
        /// When the controller last answered, in milliseconds.
        var lastAnswer: Int64 = 0
        var task: Task<Void, Never>?
    }

    private let controller: Controller
    private let timers: HeapTimerService
    private let logger: Logger
    private let state = Mutex(State())

    init(controller: Controller, timers: HeapTimerService, logger: Logger) {
        self.controller = controller
        self.timers = timers
        self.logger = logger
    }

    /// Of this run; -1 until the node has registered.
    var epoch: Int64 { state.withLock { $0.epoch } }
    /// Whether the node has registered, has caught up and is not fenced.
    var isActive: Bool { state.withLock { $0.isActive } }

    private static func now() -> Int64 { Int64(mdc_monotonic_ns() / 1_000_000) }

    // MARK: Life

    /// Registers, from now on, under this address.
    func start(_ address: HostPort) {
        let task = Task { await self.run(address) }
        state.withLock { $0.task = task }
    }

    /// Waits until the node may serve. Throws what keeps it from that for good.
    func whenActive() async throws {
        while !isActive {
            if let error = controller.fatalError { throw error }
            try await Task.sleep(for: .milliseconds(2))
        }
        if let error = controller.fatalError { throw error }
        controller.beginServing()
    }

    /// Has others lead what this node leads, if there are others. Takes at most two seconds.
    func leave() async {
        let (epoch, task) = state.withLock { state in
            state.isActive = false
            return (state.epoch, state.task)
        }
        task?.cancel()
        let node = controller.live.started.nodeID
        guard epoch >= 0, controller.metadata.image.brokers.values.contains(where: { $0.id != node && !$0.isFenced })
        else { return }
        let deadline = Self.now() + 2_000
        // Not `Task.sleep`: the task may be cancelled by now.
        await Task.detached {
            while Self.now() < deadline {
                let answer = await self.ask(.heartbeat(id: node, epoch: epoch, isReady: false, isLeaving: true))
                if case .done(let index, _) = answer {
                    await withCheckedContinuation { next in self.controller.whenCarriedOut(index) { next.resume() } }
                    return
                }
                try? await Task.sleep(for: .milliseconds(50))
            }
        }.value
    }

    private func ask(_ change: ControllerChange) async -> QuorumAnswer {
        await withCheckedContinuation { next in controller.quorum.submit(change) { next.resume(returning: $0) } }
    }

    private func run(_ address: HostPort) async {
        var lastComplaint: Int64 = 0
        while !Task.isCancelled {
            let answer = await epoch < 0 ? register(address) : beat()
            var wait = controller.live.current.brokerHeartbeatMilliseconds
            if case .refused(let refusal) = answer {
                if refusal.code == .staleBrokerEpoch || refusal.code == .brokerIdNotRegistered {
                    state.withLock { $0.epoch = -1 }
                }
                if Self.now() - lastComplaint > 5_000 {
                    // An election at the start is no news.
                    if lastComplaint > 0 {
                        logger.warning("no word from the controller", metadata: ["reason": "\(refusal.message)"])
                    }
                    lastComplaint = Self.now()
                }
                wait = 20
            } else if !isActive {
                wait = 5
            }
            try? await Task.sleep(for: .milliseconds(wait))
        }
    }

    private func register(_ address: HostPort) async -> QuorumAnswer {
        let configuration = controller.live.started
        let answer = await ask(
            .registerBroker(
                BrokerImage(
                    id: configuration.nodeID,
                    epoch: -1,
                    incarnation: controller.incarnation,
                    directory: controller.identity.directoryID,
                    host: address.host,
                    port: Int32(address.port),
                    rack: configuration.rack
                )
            )
        )
        if case .done(let index, let epoch) = answer {
            await withCheckedContinuation { next in controller.whenCarriedOut(index) { next.resume() } }
            state.withLock { $0.epoch = epoch }
            logger.info("registered", metadata: ["brokerEpoch": "\(epoch)"])
        }
        return answer
    }

    private func beat() async -> QuorumAnswer {
        let node = controller.live.started.nodeID
        let answer = await ask(.heartbeat(id: node, epoch: epoch, isReady: true, isLeaving: false))
        guard !Task.isCancelled, case .done(let index, let value) = answer else { return answer }
        await withCheckedContinuation { next in controller.whenCarriedOut(index) { next.resume() } }
        let wasActive = state.withLock { state -> Bool in
            defer { state.isActive = value == 1 }
            state.lastAnswer = Self.now()
            return state.isActive
        }
        if wasActive != (value == 1) {
            logger.info(value == 1 ? "the node is not fenced" : "the node is fenced")
        }
        return answer
    }
}

// MARK: - For replication

extension BrokerLifecycle: PartitionChangeProposing {
    func alterPartition(
        topicID: TopicID,
        partition: Int32,
        leaderEpoch: Int32,
        partitionEpoch: Int32,
        newISR: [(node: Int32, brokerEpoch: Int64)],
        _ done: @escaping @Sendable (Result<PartitionImage, Refusal>) -> Void
    ) {
        let change = PartitionAlteration(
            topicID: topicID,
            partition: partition,
            leaderEpoch: leaderEpoch,
            partitionEpoch: partitionEpoch,
            isr: newISR.map(\.node),
            epochs: newISR.map(\.brokerEpoch),
            node: controller.live.started.nodeID,
            brokerEpoch: ownBrokerEpoch
        )
        propose(change, deadline: Self.now() + 30_000, done)
    }

    private func propose(
        _ change: PartitionAlteration,
        deadline: Int64,
        _ done: @escaping @Sendable (Result<PartitionImage, Refusal>) -> Void
    ) {
        controller.quorum.submit(.alterPartition(change)) { answer in
            switch answer {
            case .done(let index, _):
                self.controller.whenCarriedOut(index) {
                    guard let topic = self.controller.metadata.image.topic(change.topicID),
                        topic.partitions.indices.contains(Int(change.partition))
                    else {
                        return done(.failure(Refusal(code: .unknownTopicId, message: "the topic is deleted")))
                    }
                    done(.success(topic.partitions[Int(change.partition)]))
                }
            case .refused(let refusal):
                let mayTryAgain = refusal.code == .notController || refusal.code == .requestTimedOut
                guard mayTryAgain, Self.now() < deadline else { return done(.failure(refusal)) }
                _ = self.timers.schedule(after: .milliseconds(50)) { self.propose(change, deadline: deadline, done) }
            }
        }
    }
}

extension BrokerLifecycle: BrokerDirectory {
    func endpoint(of node: Int32) -> (host: String, port: Int)? {
        controller.metadata.image.brokers[node].map { ($0.host, Int($0.port)) }
    }

    var ownBrokerEpoch: Int64 {
        let own = controller.metadata.image.brokers[controller.live.started.nodeID]
        return own.flatMap { $0.incarnation == controller.incarnation ? $0.epoch : nil } ?? -1
    }

    func isInService(_ node: Int32, brokerEpoch: Int64) -> Bool {
        guard let broker = controller.metadata.image.brokers[node], !broker.isFenced else { return false }
        return brokerEpoch == -1 || broker.epoch == brokerEpoch
    }
}
