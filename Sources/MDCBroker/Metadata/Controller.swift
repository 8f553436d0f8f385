// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCLog
import MDCModel
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

/// Makes changes of the metadata, one at a time, on a thread of its own, and carries them out on this node.
final class Controller: Sendable {
    let metadata: MetadataStore
    /// What clients may use; follows the metadata.
    let quotas = QuotaManager()
    /// The node's settings.
    let live: LiveConfiguration
    private let logs: LogManager
    let registry: PartitionRegistry
    let logger: Logger
    private let thread: NIOThreadPool
    private let onDeleted = Mutex<(@Sendable ([String]) -> Void)?>(nil)
    /// Producer ids that are reserved and not given out.
    private let producerIDs = Mutex<Range<Int64>>(0..<0)
    private static let producerIDBlock: Int64 = 1000

    init(
        live: LiveConfiguration,
        metadata: MetadataStore,
        logs: LogManager,
        registry: PartitionRegistry,
        thread: NIOThreadPool,
        logger: Logger
    ) {
        self.live = live
        self.metadata = metadata
        self.logs = logs
        self.registry = registry
        self.thread = thread
        self.logger = logger
    }

    /// Runs `body` on the control thread, after what was given to it before.
    func run(_ body: @escaping @Sendable (Controller) -> Void) {
        thread.submit { _ in body(self) }
    }

    /// Sets what is told the names of deleted topics.
    func whenDeleted(_ handler: @escaping @Sendable ([String]) -> Void) { onDeleted.withLock { $0 = handler } }

    private var configuration: BrokerConfiguration { live.current }

    /// Seconds of a quota that may be used at once.
    var quotaWindow: Double { Double(configuration.quotaWindowSeconds) }

    private func now() -> Timestamp { Timestamp(mdc_wall_clock_ms()) }

    func commit(_ records: [MetadataRecord]) throws(Refusal) {
        do throws(BrokerError) {
            try metadata.commit(records, now: now())
            registry.note(metadata.image)
        } catch {
            logger.error("metadata was not written", metadata: ["error": "\(error)"])
            throw Refusal(code: .kafkaStorageError, message: error.description)
        }
    }

    // MARK: Starting

    /// Begins this node's run and puts its partitions into service.
    func start() throws(Refusal) {
        restoreConfiguration()
        var records: [MetadataRecord] = []
        let image = metadata.image
        if image.clusterID.isEmpty {
            var random = SystemRandomNumberGenerator()
            records.append(.clusterCreated(id: KafkaUUID.random(using: &random).description))
        }
        let node = configuration.nodeID
        records.append(.nodeStarted(id: node, brokerEpoch: (image.brokerEpochs[node] ?? -1) + 1))
        try commit(records)
        let started = metadata.image
        quotas.update(started.quotas, window: quotaWindow)
        removeLeftovers(started)
        for topic in started.topics.values {
            do throws(LogError) {
                try serve(topic, from: 0)
            } catch {
                throw Refusal(code: .kafkaStorageError, message: "\(topic.name): \(error)")
            }
        }
    }

    /// Removes the folders of topics that were deleted when the node stopped; others that nobody knows are left alone.
    private func removeLeftovers(_ image: MetadataImage) {
        for log in logs.allPartitions where log.topicPartition != MetadataStore.topicPartition {
            if image.topic(log.topicPartition.topic)?.id == log.topicID { continue }
            if image.deleted.contains(log.topicID) {
                do throws(LogError) {
                    try logs.deletePartition(log.topicPartition)
                } catch {
                    logger.warning("a deleted topic's folder stays", metadata: ["error": "\(error)"])
                }
            } else {
                logger.warning(
                    "the data folder has a partition of no known topic; it is left alone",
                    metadata: ["partition": "\(log.topicPartition)"]
                )
            }
        }
    }

    /// Removes an empty folder without a topic's id: the node was killed between making the folder and writing the id.
    /// The metadata has the topic since before that, so the folder is made anew.
    private func removeUnfinished(_ name: TopicPartition) throws(LogError) {
        guard let log = logs.partition(name), log.topicID == .zero, log.logEndOffset == 0 else { return }
        logger.info("a folder whose creation was interrupted is made anew", metadata: ["partition": "\(name)"])
        try logs.deletePartition(name)
    }

    /// Opens or makes the logs of a topic's partitions from `first` on and puts them into service.
    private func serve(_ topic: TopicImage, from first: Int) throws(LogError) {
        let settings = TopicSettings.settings(topic.configs, defaults: configuration.topicDefaults)
        var partitions: [Partition] = []
        for (index, image) in topic.partitions.enumerated().dropFirst(first) {
            guard image.leader == configuration.nodeID else { continue }
            let name = TopicPartition(topic: topic.name, partition: PartitionID(Int32(index)))
            let log: PartitionLog
            try removeUnfinished(name)
            if let known = logs.partition(name) {
                guard known.topicID == topic.id else {
                    throw LogError(
                        .inconsistentTopicID,
                        "the folder \(name) holds another topic of that name; move it away"
                    )
                }
                log = known
                try log.update(settings: settings)
            } else {
                log = try logs.createPartition(name, topicID: topic.id, settings: settings)
            }
            log.beginEpoch(LeaderEpoch(image.leaderEpoch))
            partitions.append(
                Partition(
                    topicPartition: name,
                    topicID: topic.id,
                    log: log,
                    leader: image.leader,
                    leaderEpoch: LeaderEpoch(image.leaderEpoch),
                    minInSync: minInSync(topic.configs)
                )
            )
        }
        registry.add(partitions)
    }

    func minInSync(_ configs: [String: String]) -> Int32 {
        configs["min.insync.replicas"].flatMap { Int32($0) } ?? configuration.minInSyncReplicas
    }

    // MARK: Topics

    /// Why a name cannot be a topic's; nil where it can.
    static func nameProblem(_ name: String) -> String? {
        if name.isEmpty { return "the topic's name is empty" }
        if name == "." || name == ".." { return "the topic's name cannot be \(name)" }
        if name.utf8.count > 249 {
            return "the topic's name has \(name.utf8.count) characters; at most 249 are possible"
        }
        let isLegal = name.utf8.allSatisfy { byte in
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 45
                || byte == 46 || byte == 95
        }
        return isLegal ? nil : "the topic's name \(name) is illegal: use a-z, A-Z, 0-9, . _ and - only"
    }

    /// Makes a topic; on the control thread.
    func create(_ new: NewTopic, validateOnly: Bool, isInternal: Bool = false) -> Result<TopicImage, Refusal> {
        do throws(Refusal) {
            let topic = try check(new, isInternal: isInternal)
            if validateOnly { return .success(topic) }
            try commit([
                .topicCreated(
                    name: topic.name,
                    id: topic.id,
                    replicas: topic.partitions.map(\.replicas),
                    configs: topic.configs
                )
            ])
            do throws(LogError) {
                try serve(topic, from: 0)
            } catch {
                try commit([.topicDeleted(id: topic.id)])
                throw Refusal(code: error.kafkaError, message: error.message)
            }
            logger.info(
                "topic created",
                metadata: ["topic": "\(topic.name)", "id": "\(topic.id)", "partitions": "\(topic.partitions.count)"]
            )
            return .success(topic)
        } catch {
            return .failure(error)
        }
    }

    private func check(_ new: NewTopic, isInternal: Bool) throws(Refusal) -> TopicImage {
        if let problem = Self.nameProblem(new.name) { throw Refusal(code: .invalidTopicException, message: problem) }
        if !isInternal
            && (new.name == MetadataStore.topicPartition.topic || InternalTopic.all.contains { $0.name == new.name })
        {
            throw Refusal(code: .invalidTopicException, message: "\(new.name) is kept for the broker")
        }
        let image = metadata.image
        if image.topic(new.name) != nil {
            throw Refusal(code: .topicAlreadyExists, message: "the topic \(new.name) exists already")
        }
        // Names that differ in . and _ alone would collide in metrics.
        let folded = String(new.name.map { $0 == "." ? "_" : $0 })
        if folded.contains("_"),
            let other = image.topics.keys.first(where: { String($0.map { $0 == "." ? "_" : $0 }) == folded })
        {
            throw Refusal(
                code: .invalidTopicException,
                message: "the name \(new.name) collides with \(other): . and _ count as one"
            )
        }
        if let problem = TopicSettings.problem(new.configs, defaults: configuration.topicDefaults) {
            throw Refusal(code: .invalidConfig, message: problem)
        }
        let replicas = try replicas(of: new)
        if !isInternal, let problem = policyProblem(new.name, partitions: replicas.count) {
            throw Refusal(code: .policyViolation, message: problem)
        }
        var random = SystemRandomNumberGenerator()
        return TopicImage(
            name: new.name,
            id: TopicID.random(using: &random),
            partitions: replicas.map { PartitionImage(replicas: $0, isr: $0, leader: $0[0]) },
            configs: new.configs
        )
    }

    private func replicas(of new: NewTopic) throws(Refusal) -> [[Int32]] {
        let node = configuration.nodeID
        if !new.assignments.isEmpty {
            guard new.partitions == -1, new.replicationFactor == -1 else {
                throw Refusal(
                    code: .invalidRequest,
                    message: "give either an assignment, or counts of partitions and replicas"
                )
            }
            for index in 0..<Int32(new.assignments.count) {
                guard let nodes = new.assignments[index] else {
                    throw Refusal(
                        code: .invalidReplicaAssignment,
                        message: "the assignment has no partition \(index); number them from 0"
                    )
                }
                guard nodes == [node] else {
                    throw Refusal(
                        code: .invalidReplicaAssignment,
                        message: "partition \(index) must be on node \(node), the only one"
                    )
                }
            }
            return Array(repeating: [node], count: new.assignments.count)
        }
        let count = new.partitions == -1 ? configuration.defaultPartitions : new.partitions
        guard (1...10_000).contains(count) else {
            throw Refusal(code: .invalidPartitions, message: "\(count) partitions; a topic has 1 to 10000")
        }
        let factor =
            new.replicationFactor == -1 ? max(1, min(configuration.defaultReplicationFactor, 1)) : new.replicationFactor
        guard factor == 1 else {
            throw Refusal(
                code: .invalidReplicationFactor,
                message: "the replication factor is \(factor), but the cluster has 1 node; use 1 or -1"
            )
        }
        return Array(repeating: [node], count: Int(count))
    }

    /// Deletes a topic; on the control thread.
    func delete(_ topic: TopicImage) throws(Refusal) {
        guard configuration.deleteTopicsEnabled else {
            throw Refusal(code: .topicDeletionDisabled, message: "delete.topic.enable is false")
        }
        if topic.isInternal {
            throw Refusal(code: .invalidTopicException, message: "\(topic.name) is kept for the broker")
        }
        try commit([.topicDeleted(id: topic.id)])
        for partition in registry.remove(id: topic.id) {
            do throws(LogError) {
                try logs.deletePartition(partition.topicPartition)
            } catch {
                logger.warning("a deleted topic's folder stays until the next start", metadata: ["error": "\(error)"])
            }
        }
        onDeleted.withLock { $0 }?([topic.name])
        logger.info("topic deleted", metadata: ["topic": "\(topic.name)", "id": "\(topic.id)"])
    }

    /// Raises the number of a topic's partitions; on the control thread.
    func grow(_ name: String, to count: Int32, assignments: [[Int32]]?, validateOnly: Bool) throws(Refusal) {
        guard let topic = metadata.image.topic(name) else {
            throw Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(name)")
        }
        let current = topic.partitions.count
        guard count > current, count <= 10_000 else {
            throw Refusal(
                code: .invalidPartitions,
                message: "\(name) has \(current) partitions; the new count must be more, and at most 10000"
            )
        }
        let added = Int(count) - current
        if topic.isInternal { throw Refusal(code: .invalidTopicException, message: "\(name) is kept for the broker") }
        if let problem = policyProblem(name, partitions: Int(count)) {
            throw Refusal(code: .policyViolation, message: problem)
        }
        if let assignments {
            guard assignments.count == added, assignments.allSatisfy({ $0 == [configuration.nodeID] }) else {
                throw Refusal(
                    code: .invalidReplicaAssignment,
                    message: "\(added) assignments to node \(configuration.nodeID) alone are expected"
                )
            }
        }
        if validateOnly { return }
        try commit([
            .partitionsAdded(id: topic.id, replicas: Array(repeating: [configuration.nodeID], count: added))
        ])
        guard let grown = metadata.image.topic(name) else { return }
        do throws(LogError) {
            try serve(grown, from: current)
        } catch {
            throw Refusal(code: error.kafkaError, message: error.message)
        }
    }

    /// Sets or (nil) removes overrides of a topic's settings; on the control thread.
    func configure(_ name: String, _ changes: [String: String?], validateOnly: Bool) throws(Refusal) {
        guard let topic = metadata.image.topic(name) else {
            throw Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(name)")
        }
        var configs = topic.configs
        for (key, value) in changes { configs[key] = value }
        for key in changes.keys where TopicSettings.byName[key] == nil {
            let near = Spelling.nearest(to: key, among: TopicSettings.byName.keys).map { "; did you mean \($0)?" } ?? ""
            throw Refusal(code: .invalidConfig, message: "there is no topic setting \(key)\(near)")
        }
        if let problem = TopicSettings.problem(configs, defaults: configuration.topicDefaults) {
            throw Refusal(code: .invalidConfig, message: problem)
        }
        if validateOnly { return }
        try commit(
            changes.sorted { $0.key < $1.key }.map { .configChanged(.topic(name), key: $0.key, value: $0.value) }
        )
        let settings = TopicSettings.settings(configs, defaults: configuration.topicDefaults)
        for index in topic.partitions.indices {
            guard case .found(let partition) = registry.find(name: name, partition: Int32(index)) else { continue }
            partition.minInSync = minInSync(configs)
            do throws(LogError) {
                try partition.log.update(settings: settings)
            } catch {
                throw Refusal(code: .invalidConfig, message: error.message)
            }
        }
    }

    /// Changes the settings of a group, which need not exist.
    func configure(group: String, _ changes: [String: String?], validateOnly: Bool) throws(Refusal) {
        if group.isEmpty { throw Refusal(code: .invalidRequest, message: "name the group") }
        for (key, value) in changes {
            guard let setting = GroupConfigSettings.byName[key] else {
                let near = Spelling.nearest(to: key, among: GroupConfigSettings.byName.keys)
                let hint = near.map { "; did you mean \($0)?" } ?? ""
                throw Refusal(code: .invalidConfig, message: "there is no group setting \(key)\(hint)")
            }
            if let value, let problem = setting.problem(configuration, value) {
                throw Refusal(code: .invalidConfig, message: "\(key)=\(value): \(problem)")
            }
        }
        if validateOnly { return }
        try commit(
            changes.sorted { $0.key < $1.key }.map { .configChanged(.group(group), key: $0.key, value: $0.value) }
        )
    }

    // MARK: Producer ids

    /// Calls `done` with an id that no producer ever had; at once where one is reserved, else from the control thread.
    func newProducerID(_ done: @escaping @Sendable (Result<Int64, Refusal>) -> Void) {
        if let id = takeProducerID() { return done(.success(id)) }
        run { controller in
            do throws(Refusal) {
                if let id = controller.takeProducerID() { return done(.success(id)) }
                let first = controller.metadata.image.nextProducerID
                let next = first + Self.producerIDBlock
                try controller.commit([.producerIDsReserved(next: next)])
                controller.producerIDs.withLock { $0 = first + 1..<next }
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
