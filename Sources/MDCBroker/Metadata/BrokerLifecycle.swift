// SPDX-License-Identifier: Apache-2.0

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
        /// The last change that a sign of life has brought about, such as the end of a fencing.
        var mustApply: Int64 = 0
        /// Asks for nothing any more.
        var isLeaving = false
        var lastComplaint: Int64 = 0
    }

    private let controller: Controller
    private let timers: any TimerService
    private let environment: NodeEnvironment
    private let logger: Logger
    private let state = Mutex(State())

    init(
        controller: Controller,
        timers: any TimerService,
        environment: NodeEnvironment = .system,
        logger: Logger
    ) {
        self.environment = environment
        self.controller = controller
        self.timers = timers
        self.logger = logger
    }

    /// Of this run; -1 until the node has registered.
    var epoch: Int64 { state.withLock { $0.epoch } }
    /// Whether the node has registered, has caught up and is not fenced.
    var isActive: Bool { state.withLock { $0.isActive } }

    /// Whether the controller has answered within a session. Where it has not, others may lead what this node believes to lead.
    var isInContact: Bool {
        let now = now()
        return state.withLock {
            $0.lastAnswer == 0 || now - $0.lastAnswer <= controller.live.started.brokerSessionMilliseconds
        }
    }

    private func now() -> Int64 { environment.monotonic() }

    // MARK: Life

    /// Registers, from now on, under this address.
    func start(_ address: HostPort) {
        turn(address)
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
        await withCheckedContinuation { next in leave { next.resume() } }
    }

    /// The same; `done` is called once, from any thread.
    func leave(_ done: @escaping @Sendable () -> Void) {
        let epoch = stop()
        let node = controller.live.started.nodeID
        guard epoch >= 0, controller.metadata.image.brokers.values.contains(where: { $0.id != node && !$0.isFenced })
        else { return done() }
        sayGoodbye(node, epoch, deadline: now() + 2_000, done)
    }

    private func sayGoodbye(_ node: Int32, _ epoch: Int64, deadline: Int64, _ done: @escaping @Sendable () -> Void) {
        guard now() < deadline else { return done() }
        controller.quorum.submit(.heartbeat(id: node, epoch: epoch, isReady: false, isLeaving: true)) { answer in
            if case .done(let index, _) = answer { return self.controller.whenCarriedOut(index, done) }
            _ = self.timers.schedule(after: .milliseconds(50)) {
                self.sayGoodbye(node, epoch, deadline: deadline, done)
            }
        }
    }

    /// No more signs of life; tells the epoch of this run.
    private func stop() -> Int64 {
        state.withLock { state in
            state.isActive = false
            state.isLeaving = true
            return state.epoch
        }
    }

    /// Registers or gives a sign of life, and comes back after a while.
    private func turn(_ address: HostPort) {
        if state.withLock({ $0.isLeaving }) { return }
        if epoch < 0 { register(address) } else { beat(address) }
    }

    private func next(_ address: HostPort, after milliseconds: Int64) {
        _ = timers.schedule(after: .milliseconds(milliseconds)) { self.turn(address) }
    }

    private func refused(_ refusal: Refusal, _ address: HostPort) {
        let now = now()
        let complains = state.withLock { state -> Bool in
            if refusal.code == .staleBrokerEpoch || refusal.code == .brokerIdNotRegistered { state.epoch = -1 }
            guard now - state.lastComplaint > 5_000 else { return false }
            defer { state.lastComplaint = now }
            // An election at the start is no news.
            return state.lastComplaint > 0
        }
        if complains { logger.warning("no word from the controller", metadata: ["reason": "\(refusal.message)"]) }
        next(address, after: 20)
    }

    private func register(_ address: HostPort) {
        let configuration = controller.live.started
        let broker = BrokerImage(
            id: configuration.nodeID,
            epoch: -1,
            incarnation: controller.incarnation,
            directory: controller.identity.directoryID,
            host: address.host,
            port: Int32(address.port),
            rack: configuration.rack
        )
        controller.quorum.submit(.registerBroker(broker)) { answer in
            switch answer {
            case .refused(let refusal): self.refused(refusal, address)
            case .done(let index, let epoch):
                self.controller.whenCarriedOut(index) {
                    self.state.withLock { $0.epoch = epoch }
                    self.logger.info("registered", metadata: ["brokerEpoch": "\(epoch)"])
                    self.next(address, after: 5)
                }
            }
        }
    }

    private func beat(_ address: HostPort) {
        let node = controller.live.started.nodeID
        controller.quorum.submit(.heartbeat(id: node, epoch: epoch, isReady: true, isLeaving: false)) { answer in
            switch answer {
            case .refused(let refusal): self.refused(refusal, address)
            case .done(let index, let value):
                // To carry out that many partitions have a leader again may take longer than a session: life goes on.
                let isActive = value == 1
                let applied = self.state.withLock { state in
                    state.lastAnswer = self.now()
                    state.mustApply = max(state.mustApply, index)
                    return state.mustApply
                }
                self.next(address, after: isActive ? self.controller.live.current.brokerHeartbeatMilliseconds : 5)
                self.controller.whenCarriedOut(applied) { self.answered(isActive: isActive) }
            }
        }
    }

    private func answered(isActive: Bool) {
        let isNews = state.withLock { state -> Bool in
            guard !state.isLeaving else { return false }
            defer { state.isActive = isActive }
            return state.isActive != isActive
        }
        if isNews { logger.info(isActive ? "the node is not fenced" : "the node is fenced") }
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
        propose(change, deadline: now() + 30_000, done)
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
                guard mayTryAgain, self.now() < deadline else { return done(.failure(refusal)) }
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
        if PlantedReplicationBugs.planted.contains(.ignoresBrokerEpoch) { return true }
        return brokerEpoch == -1 || broker.epoch == brokerEpoch
    }
}
