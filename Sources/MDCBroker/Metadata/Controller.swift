// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCLog
import MDCModel
import NIOConcurrencyHelpers
import NIOCore
import NIOPosix
import Synchronization

/// A topic to be made.
struct NewTopic: Equatable, Sendable {
    var name: String
    /// -1 for the node's default.
    var partitions: Int32
    /// -1 for the node's default.
    var replicationFactor: Int16
    /// The replicas of each partition, where the creator chose them.
    var assignments: [Int32: [Int32]] = [:]
    var configs: [String: String] = [:]
}

/// Why a change of the metadata was refused.
struct Refusal: Error, Equatable {
    var code: ErrorCode
    var message: String
}

/// This node's side of the metadata: asks the active controller for changes, one at a time on a thread of its own, and
/// carries out what is committed on another.
final class Controller: Sendable {
    /// How far committed changes are carried out here, and who waits for more.
    private struct Progress: Sendable {
        var index: Int64 = 0
        var waiters: [(index: Int64, done: @Sendable () -> Void)] = []
        /// Topics that this node could not make the logs of.
        var failures: [TopicID: LogError] = [:]
        /// Whether what this node leads in this run is in service.
        var isCurrent = false
        var fatal: BrokerError?
        /// Whether clients are served.
        var isServing = false
    }

    let metadata: MetadataStore
    let quorum: QuorumNode
    /// What clients may use; follows the metadata.
    let quotas = QuotaManager()
    /// The node's settings.
    let live: LiveConfiguration
    let logs: LogManager
    let registry: PartitionRegistry
    let logger: Logger
    /// Of this run of the node.
    let incarnation: KafkaUUID
    let identity: DataIdentity
    private let thread: any WorkQueue
    private let carrier: any WorkQueue
    private let progress = Mutex(Progress())
    private let isStopping = Atomic(false)
    /// Who is told of deleted topics, and of leaderships that may have changed. Closures in locks are in structures
    /// (`GroupCommit.Handlers` tells why).
    struct Handlers: Sendable {
        var deleted: (@Sendable ([String]) -> Void)?
        var leadership: (@Sendable (MetadataImage) -> Void)?
    }
    let handlers = Mutex(Handlers())
    /// Who carries out what the metadata say of partitions; without it, this node serves what it leads, alone.
    let replicas = Mutex<(any ReplicaApplying)?>(nil)
    /// Producer ids that are reserved and not given out.
    private let producerIDs = Mutex<Range<Int64>>(0..<0)
    private static let producerIDBlock: Int64 = 1000
    /// How long a change waits for a quorum.
    static let patience: UInt64 = 10_000_000_000

    /// - Parameters:
    ///   - thread: where changes are asked for.
    ///   - carrier: where they are carried out; it may wait for the disk.
    init(
        live: LiveConfiguration,
        metadata: MetadataStore,
        quorum: QuorumNode,
        identity: DataIdentity,
        logs: LogManager,
        registry: PartitionRegistry,
        thread: any WorkQueue,
        carrier: any WorkQueue,
        environment: NodeEnvironment = .system,
        logger: Logger
    ) {
        self.live = live
        self.metadata = metadata
        self.quorum = quorum
        self.identity = identity
        self.logs = logs
        self.registry = registry
        self.thread = thread
        self.carrier = carrier
        self.logger = logger
        var random = environment.generator
        incarnation = KafkaUUID.random(using: &random)
    }

    /// Runs `body` on the control thread, after what was given to it before.
    func run(_ body: @escaping @Sendable (Controller) -> Void) {
        thread.submit { _ in body(self) }
    }

    /// Sets what is told the names of deleted topics.
    func whenDeleted(_ handler: @escaping @Sendable ([String]) -> Void) { handlers.withLock { $0.deleted = handler } }

    /// Sets what is told that leaderships may have changed.
    func whenLeadershipChanges(_ handler: @escaping @Sendable (MetadataImage) -> Void) {
        handlers.withLock { $0.leadership = handler }
    }

    var configuration: BrokerConfiguration { live.current }

    /// Seconds of a quota that may be used at once.
    var quotaWindow: Double { Double(configuration.quotaWindowSeconds) }

    // MARK: Changes

    /// Asks the active controller and waits until the change is carried out here; on the control thread. While there is no
    /// controller it asks again, for a while.
    @discardableResult
    func perform(_ change: ControllerChange) throws(Refusal) -> Int64 {
        let deadline = mdc_monotonic_ns() + Self.patience
        while true {
            switch ask(change) {
            case .done(let index, let value):
                waitUntilCarriedOut(index)
                return value
            case .refused(let refusal):
                let mayTryAgain = refusal.code == .notController || refusal.code == .requestTimedOut
                guard mayTryAgain, mdc_monotonic_ns() < deadline, !isStopping.load(ordering: .relaxed) else {
                    throw refusal
                }
                // Nobody sets it: a pause.
                if ConditionLock(value: 0).lock(whenValue: 1, timeoutSeconds: 0.02) { return 0 }
            }
        }
    }

    private func ask(_ change: ControllerChange) -> QuorumAnswer {
        let done = ConditionLock<Int>(value: 0)
        let answer = Mutex<QuorumAnswer?>(nil)
        quorum.submit(change) { result in
            answer.withLock { $0 = result }
            done.lock()
            done.unlock(withValue: 1)
        }
        guard done.lock(whenValue: 1, timeoutSeconds: 10) else {
            return .refused(Refusal(code: .requestTimedOut, message: "no quorum agreed in time; try again"))
        }
        done.unlock()
        return answer.withLock { $0 }
            ?? .refused(Refusal(code: .requestTimedOut, message: "no quorum agreed in time; try again"))
    }

    func waitUntilCarriedOut(_ index: Int64) {
        let done = ConditionLock<Int>(value: 0)
        whenCarriedOut(index) {
            done.lock()
            done.unlock(withValue: 1)
        }
        if done.lock(whenValue: 1, timeoutSeconds: 30) { done.unlock() }
    }

    /// Calls `done` when everything up to `index` is carried out on this node; at once, or from its thread.
    func whenCarriedOut(_ index: Int64, _ done: @escaping @Sendable () -> Void) {
        let isNow = progress.withLock { progress -> Bool in
            if progress.index >= index { return true }
            progress.waiters.append((index, done))
            return false
        }
        if isNow { done() }
    }

    /// What the controller would make of a change now. Nothing is changed.
    func preview(_ change: ControllerChange) throws(Refusal) -> MetadataImage {
        var state = ControllerState(image: metadata.image, node: live.started.nodeID, sessionMilliseconds: 1, now: 0)
        _ = try state.perform(change, configuration, now: 0)
        return state.image
    }

    var isStopped: Bool { isStopping.load(ordering: .relaxed) }

    /// Asks for nothing any more.
    func stop() { isStopping.store(true, ordering: .relaxed) }

    // MARK: Carrying out

    /// Follows the metadata from now on.
    func start() {
        restoreConfiguration()
        let image = metadata.image
        quotas.update(image.quotas, window: quotaWindow)
        registry.note(image)
        metadata.onChange { delta in self.carrier.submit { _ in self.carryOut(delta) } }
    }

    private func carryOut(_ delta: MetadataStore.Delta) {
        if !delta.image.clusterID.isEmpty {
            do throws(BrokerError) {
                try identity.settle(delta.image.clusterID)
            } catch {
                logger.critical("the node does not serve", metadata: ["error": "\(error)"])
                progress.withLock { $0.fatal = error }
                return
            }
        }
        let isCurrent = delta.image.brokers[configuration.nodeID]?.incarnation == incarnation
        let isFirst = progress.withLock { progress -> Bool in
            defer { progress.isCurrent = isCurrent }
            return isCurrent && !progress.isCurrent
        }
        registry.note(delta.image)
        settle(delta)
        if isFirst { removeLeftovers(delta.image) }
        // What this node led in an earlier run it does not lead in this one, until it is told so (trap 7).
        if isCurrent || PlantedReplicationBugs.planted.contains(.actsOnOldMetadata) {
            let failures = serve(delta, all: isFirst)
            progress.withLock { progress in
                progress.failures.merge(failures) { _, new in new }
                // What cannot be opened at the start is for the operator to see, before anybody is served.
                if !progress.isServing, let failure = failures.values.first {
                    progress.fatal = BrokerError(.storage, failure.message, cause: failure)
                }
            }
        }
        let ready = progress.withLock { progress -> [@Sendable () -> Void] in
            progress.index = max(progress.index, delta.index)
            let ready = progress.waiters.filter { $0.index <= delta.index }.map(\.done)
            if !ready.isEmpty { progress.waiters.removeAll { $0.index <= delta.index } }
            return ready
        }
        for done in ready { done() }
    }

    /// The node serves clients from now on.
    func beginServing() { progress.withLock { $0.isServing = true } }

    /// Why this node must not go on; nil where all is well.
    var fatalError: BrokerError? { progress.withLock { $0.fatal } }

    /// Why the logs of a topic could not be made here; said once.
    func takeFailure(of id: TopicID) -> LogError? { progress.withLock { $0.failures.removeValue(forKey: id) } }

    // MARK: Producer ids

    /// Calls `done` with an id that no producer ever had; at once where one is reserved, else from the control thread.
    func newProducerID(_ done: @escaping @Sendable (Result<Int64, Refusal>) -> Void) {
        if let id = takeProducerID() { return done(.success(id)) }
        run { controller in
            do throws(Refusal) {
                if let id = controller.takeProducerID() { return done(.success(id)) }
                let first = try controller.perform(.reserveProducerIDs(count: Self.producerIDBlock))
                controller.producerIDs.withLock { $0 = first + 1..<first + Self.producerIDBlock }
                done(.success(first))
            } catch {
                done(.failure(error))
            }
        }
    }

    private func takeProducerID() -> Int64? {
        producerIDs.withLock { ids in
            guard let first = ids.first else { return nil }
            ids = first + 1..<ids.upperBound
            return first
        }
    }
}
