// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import Synchronization

/// What is committed is carried out on this node; all on the carrier's thread.
extension Controller {
    /// Settings and quotas.
    func settle(_ delta: MetadataStore.Delta) {
        guard let records = delta.records else {
            restoreConfiguration()
            putIntoForce(configuration)
            return
        }
        var topics: Set<String> = []
        var isBroker = false
        var isQuota = false
        for record in records {
            switch record {
            case .configChanged(.topic(let name), _, _): topics.insert(name)
            case .configChanged(.broker, _, _): isBroker = true
            case .quotaChanged: isQuota = true
            default: break
            }
        }
        if isBroker {
            restoreConfiguration()
            putIntoForce(configuration)
        } else {
            if isQuota { quotas.update(delta.image.quotas, window: quotaWindow) }
            for name in topics { if let topic = delta.image.topic(name) { putIntoForce(topic, configuration) } }
        }
    }

    /// Puts into service what this node leads, and takes out what it does not lead any more. Tells for which topics that
    /// failed.
    func serve(_ delta: MetadataStore.Delta, all: Bool) -> [TopicID: LogError] {
        var touched: Set<TopicID> = []
        var created: Set<TopicID> = []
        var deleted: Set<TopicID> = []
        var isEverything = all || delta.records == nil
        for record in delta.records ?? [] {
            if case .topicCreated(_, let id, _, _) = record { created.insert(id) }
            switch record {
            case .topicCreated(_, let id, _, _), .partitionsAdded(let id, _), .partitionState(let id, _, _),
                .partitionChanged(let id, _, _, _, _):
                touched.insert(id)
            case .topicDeleted(let id): deleted.insert(id)
            case .nodeStarted, .brokerRegistered, .brokerFencing, .brokerUnregistered: isEverything = true
            default: break
            }
        }
        if delta.records == nil { deleted = Set(registry.topicIDs.filter { delta.image.topic($0) == nil }) }
        // In an order that does not depend on the process: what happens can be repeated in a simulation.
        for id in deleted.sorted() { remove(id) }
        var failures: [TopicID: LogError] = [:]
        let topics = isEverything ? Array(delta.image.topics.values) : touched.compactMap(delta.image.topic)
        for topic in topics.sorted(by: { $0.id < $1.id }) {
            do throws(LogError) {
                // What was made in this run is in no folder yet, not even in one that cannot be listed.
                try serve(topic, isNew: !all && created.contains(topic.id))
            } catch {
                failures[topic.id] = error
                logger.error("a topic is not served", metadata: ["topic": "\(topic.name)", "error": "\(error)"])
            }
        }
        if isEverything || !touched.isEmpty { handlers.withLock { $0 }.leadership?(delta.image) }
        return failures
    }

    private func remove(_ id: TopicID) {
        replicas.withLock { $0 }?.remove(topicID: id)
        var names: Set<String> = []
        for partition in registry.remove(id: id) { names.insert(partition.topicPartition.topic) }
        for log in logs.allPartitions where log.topicID == id {
            names.insert(log.topicPartition.topic)
            do throws(LogError) {
                try logs.deletePartition(log.topicPartition)
            } catch {
                logger.warning("a deleted topic's folder stays until the next start", metadata: ["error": "\(error)"])
            }
        }
        if !names.isEmpty { handlers.withLock { $0 }.deleted?(Array(names)) }
    }

    /// Removes the folders of topics that were deleted when the node stopped; others that nobody knows are left alone.
    func removeLeftovers(_ image: MetadataImage) {
        for log in logs.allPartitions where log.topicPartition != MetadataStore.topicPartition {
            let known = image.topic(log.topicPartition.topic)?.id
            if known == log.topicID { continue }
            if known != nil, PlantedReplicationBugs.planted.contains(.ignoresTopicID) { continue }
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

    private func serve(_ topic: TopicImage, isNew: Bool) throws(LogError) {
        let node = configuration.nodeID
        if let replicas = replicas.withLock({ $0 }) {
            for (index, image) in topic.partitions.enumerated() {
                let isHere =
                    image.replicas.contains(node)
                    || logs.partition(TopicPartition(topic: topic.name, partition: PartitionID(Int32(index)))) != nil
                guard isHere else { continue }
                if image.leader == node {
                    try removeUnfinished(TopicPartition(topic: topic.name, partition: PartitionID(Int32(index))))
                }
                try replicas.apply(topic: topic, partition: Int32(index), state: image, isNew: isNew)
            }
            return
        }
        let settings = TopicSettings.settings(topic.configs, defaults: configuration.topicDefaults)
        var added: [Partition] = []
        for (index, image) in topic.partitions.enumerated() {
            let name = TopicPartition(topic: topic.name, partition: PartitionID(Int32(index)))
            let known = registry.local(topic.id, Int32(index))
            guard image.leader == node else {
                if known != nil { registry.remove(topic.id, Int32(index)) }
                registry.note(topic.id, Int32(index), offline: nil)
                continue
            }
            if let known, known.leaderEpoch.rawValue == image.leaderEpoch { continue }
            if logs.isOutOfReach(name, isNew: isNew) {
                noteOffline(name, topic.id)
                continue
            }
            let log = try open(name, topic.id, settings, isNew: isNew)
            log.beginEpoch(LeaderEpoch(image.leaderEpoch))
            added.append(
                Partition(
                    topicPartition: name,
                    topicID: topic.id,
                    log: log,
                    leader: image.leader,
                    leaderEpoch: LeaderEpoch(image.leaderEpoch),
                    minInSync: topic.minInSync(onNode: configuration.minInSyncReplicas)
                )
            )
        }
        registry.add(added)
    }

    /// The log of a partition that this node leads is in a data folder that has failed: the others are served without it.
    private func noteOffline(_ name: TopicPartition, _ id: TopicID) {
        let reason = logs.offlineReason(of: name)?.message ?? "its data folder has failed"
        registry.note(id, name.partition.rawValue, offline: reason)
        logger.error("a partition is not served", metadata: ["partition": "\(name)", "error": "\(reason)"])
    }

    private func open(
        _ name: TopicPartition,
        _ id: TopicID,
        _ settings: LogSettings,
        isNew: Bool
    ) throws(LogError) -> PartitionLog {
        try removeUnfinished(name)
        guard let known = logs.partition(name) else {
            return try logs.createPartition(name, topicID: id, settings: settings, isNew: isNew)
        }
        guard known.topicID == id else {
            throw LogError(
                .inconsistentTopicID,
                "the folder \(name) holds another topic of that name; move it away"
            )
        }
        try known.update(settings: settings)
        return known
    }
}
