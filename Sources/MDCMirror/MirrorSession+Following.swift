// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel

/// Topics, their settings and groups.
extension MirrorSession {
    // MARK: Checks

    /// Refuses what would make records go round for ever, and positions of another cluster.
    func checkDirection() async throws {
        if let sourceID, sourceID == targetID, configuration.prefix.isEmpty {
            throw MirrorError(
                .configuration,
                "source and target are the same cluster (\(sourceID)): give the copies a --prefix"
            )
        }
        for (partition, position) in try await target.groupOffsets(group) {
            guard let origin = MirrorOrigin(position.metadata) else { continue }
            if let sourceID, origin.clusterID != "-", origin.clusterID != sourceID {
                throw MirrorError(
                    .configuration,
                    "the mirror '\(configuration.name)' has copied \(partition.topic) from cluster \(origin.clusterID), and the "
                        + "source is \(sourceID): choose another name"
                )
            }
        }
        guard let targetID else { return }
        for listed in try await source.listGroups() where listed.id.hasPrefix(MirrorConfiguration.ownPrefix) {
            let name = String(listed.id.dropFirst(MirrorConfiguration.ownPrefix.count))
            if name == configuration.failback { continue }
            for (partition, position) in try await source.groupOffsets(listed.id)
            where MirrorOrigin(position.metadata)?.clusterID == targetID && isWanted(partition.topic)
                && configuration.prefix.isEmpty
            {
                throw MirrorError(
                    .configuration,
                    "the source has \(partition.topic) from the target, by the mirror '\(name)': every record would go round. Stop that one and give "
                        + "--failback \(name), or give this one a --prefix"
                )
            }
        }
    }

    func isWanted(_ topic: String) -> Bool {
        !topic.hasPrefix("__") && !topic.hasPrefix(MirrorConfiguration.ownPrefix) && configuration.isMirrored(topic)
    }

    func makeOffsetsTopic() async throws {
        if try await target.listTopics().contains(offsetsTopic) { return }
        do {
            try await target.createTopics([
                NewTopic(
                    offsetsTopic,
                    partitions: 1,
                    replicationFactor: configuration.replicationFactor,
                    configuration: ["cleanup.policy": "compact"]
                )
            ])
        } catch let error as ClientError where error.errorCode == .topicAlreadyExists {
            // Another one was quicker.
        }
    }

    // MARK: Topics

    /// Makes and changes topics at the target as the source has them, and begins to read those that are new.
    func followTopics() async throws {
        let found = try await mirrored(at: source) { self.isWanted($0) }
        let names = Set(found.map { renamed($0.name) })
        let there = try await mirrored(at: target) { names.contains($0) }
        let plan = TopicPlan(source: found, target: there, rename: renamed)
        try await carryOut(plan)
        var next = current()
        let gone = next.keys.filter { partition in !found.contains { $0.name == partition.topic } }
        for partition in gone { next[partition] = nil }
        var fresh: [TopicPartition] = []
        for topic in found {
            if let known = topics[topic.name], known != topic.id {
                // Stops it, below.
                for partition in next.keys where partition.topic == topic.name { next[partition] = nil }
            }
            topics[topic.name] = topic.id
            for number in 0..<topic.partitions {
                let partition = TopicPartition(topic: topic.name, partition: PartitionID(number))
                if next[partition] == nil { fresh.append(partition) }
            }
        }
        if fresh.isEmpty && gone.isEmpty { return }
        let begun = try await beginnings(of: fresh)
        next.merge(begun) { _, new in new }
        if next != current() { try await read(next) }
        // Where it began is kept, whether records come or not: after a restart the end would be another one.
        if !begun.isEmpty { try await keep(begun) }
    }

    /// Where new partitions begin; those that cannot go on are left out and told.
    private func beginnings(of partitions: [TopicPartition]) async throws -> [TopicPartition: Offset] {
        if partitions.isEmpty { return [:] }
        let committed = try await target.groupOffsets(group)
        let starts = try await source.beginningOffsets(partitions)
        let ends = try await source.endOffsets(partitions)
        var stopped: [String: String] = [:]
        var lost: Int64 = 0
        var result: [TopicPartition: Offset] = [:]
        for partition in partitions {
            guard let start = starts[partition], let end = ends[partition] else { continue }
            guard let position = committed[renamed(partition)] else {
                result[partition] = max(
                    start,
                    brought[partition]?.targetEnd ?? (configuration.startsAtEnd ? end : start)
                )
                continue
            }
            let remedy =
                "; to copy it from its start into the same topic: mdc mirror forget --name \(configuration.name) --topic \(renamed(partition.topic))"
            if let origin = MirrorOrigin(position.metadata), let id = topics[partition.topic],
                origin != MirrorOrigin(clusterID: sourceID, topicID: id)
            {
                stopped[partition.topic] = "it was deleted and made again at the source" + remedy
            } else if position.offset > end {
                stopped[partition.topic] =
                    "the source ends at \(end) in partition \(partition.partition), before what was copied (\(position.offset))"
                    + remedy
            } else {
                if position.offset < start { lost += start - position.offset }
                result[partition] = max(position.offset, start)
            }
        }
        for (topic, reason) in stopped {
            for partition in result.keys where partition.topic == topic { result[partition] = nil }
            logger.error("a topic is not mirrored any more", metadata: ["topic": "\(topic)", "reason": "\(reason)"])
        }
        if lost > 0 {
            logger.error("the source deleted records before they were read", metadata: ["offsets": "\(lost)"])
        }
        let (told, missing) = (stopped, lost)
        report { status in
            status.stopped = told
            status.lost += missing
        }
        return result
    }

    /// What the mirror brought that this one leads back. Says what the target never gave away.
    func readBrought() async throws -> [TopicPartition: OffsetMap] {
        guard let failback = configuration.failback else { return [:] }
        let topic = MirrorConfiguration.offsetsTopic(of: failback)
        guard try await source.listTopics().contains(topic) else {
            throw MirrorError(
                .configuration,
                "no mirror '\(failback)' has written to the source: there is no topic \(topic)"
            )
        }
        let taken = try await source.groupOffsets(MirrorConfiguration.group(of: failback))
        let there = Set(try await target.listTopics())
        let own = try await target.groupOffsets(group)
        let ends = try await target.endOffsets(taken.keys.filter { there.contains($0.topic) && own[$0] == nil })
        for (partition, position) in taken {
            guard let end = ends[partition], end > position.offset else { continue }
            logger.warning(
                "the target has records that it never gave away; they stay before the new ones",
                metadata: ["partition": "\(partition)", "offsets": "\(end - position.offset)"]
            )
        }
        return try await readMaps(of: failback, at: configuration.source)
    }

    /// The partition and offset at the target for a place at the source; nil where it is not mirrored.
    private func place(of partition: TopicPartition, _ offset: Offset) -> (TopicPartition, Offset)? {
        guard topics[partition.topic] != nil else { return nil }
        // What came from the target has its place there from before.
        if let map = brought[partition], let end = map.targetEnd, offset < end {
            return map.translateBack(offset).map { (renamed(partition), $0) }
        }
        return maps[partition]?.translate(offset).map { (renamed(partition), $0) }
    }

    private func mirrored(at cluster: Admin, where isWanted: (String) -> Bool) async throws -> [MirroredTopic] {
        let described = try await cluster.describeTopics().filter { !$0.isInternal && isWanted($0.name) }
        if described.isEmpty { return [] }
        let settings = try await cluster.describeConfigs(described.map { .topic($0.name) })
        return described.map { topic in
            let own =
                settings[.topic(topic.name)]?.filter { $0.isOverridden && !$0.isReadOnly && !$0.isSensitive } ?? []
            return MirroredTopic(
                name: topic.name,
                id: topic.id,
                partitions: Int32(topic.partitions.count),
                settings: Dictionary(own.compactMap { entry in entry.value.map { (entry.name, $0) } }) { first, _ in
                    first
                }
            )
        }
    }

    private func carryOut(_ plan: TopicPlan) async throws {
        for topic in plan.create { try await create(topic) }
        if !plan.grow.isEmpty { try await target.createPartitions(plan.grow) }
        for (topic, changes) in plan.change {
            for (setting, change) in changes where !refused.contains("\(topic) \(setting)") {
                do {
                    try await target.alterConfigs([.topic(topic): [setting: change]])
                } catch let error as ClientError where !error.isRetriable && error.code == .broker {
                    refused.insert("\(topic) \(setting)")
                    logger.warning(
                        "the target does not take a setting",
                        metadata: ["topic": "\(topic)", "setting": "\(setting)", "error": "\(error)"]
                    )
                }
            }
        }
    }

    private func create(_ topic: MirroredTopic) async throws {
        var new = NewTopic(
            topic.name,
            partitions: topic.partitions,
            replicationFactor: configuration.replicationFactor,
            configuration: topic.settings
        )
        do {
            try await target.createTopics([new])
        } catch let error as ClientError where error.errorCode == .topicAlreadyExists {
            return
        } catch let error as ClientError where error.errorCode == .invalidConfig {
            // One by one at the next look, so that those it knows are set.
            logger.warning(
                "the target does not take all settings of a topic",
                metadata: ["topic": "\(topic.name)", "error": "\(error)"]
            )
            new.configuration = [:]
            try await target.createTopics([new])
        }
    }

    // MARK: Groups

    /// Moves groups that have no members at the target to where they are at the source.
    func followGroups() async throws {
        let wanted = try await source.listGroups().filter { group in
            !group.id.hasPrefix(MirrorConfiguration.ownPrefix) && configuration.isGroupMirrored(group.id)
                && (group.protocolType == "consumer" || group.protocolType.isEmpty || group.type == "consumer")
                && group.type != "share"
        }
        if wanted.isEmpty { return }
        let states = Dictionary(try await target.listGroups().map { ($0.id, $0.state.lowercased()) }) { first, _ in
            first
        }
        for group in wanted {
            // Whoever reads there by now is further than we know.
            if let state = states[group.id], !["", "empty", "dead"].contains(state) { continue }
            let there = try await target.groupOffsets(group.id).mapValues(\.offset)
            let here = try await source.groupOffsets(group.id).mapValues(\.offset)
            let plan = GroupPlan(source: here, target: there, translate: place)
            if plan.offsets.isEmpty { continue }
            do {
                try await target.alterGroupOffsets(group.id, plan.offsets.mapValues { OffsetAndMetadata($0) })
                report { $0.groupOffsets += Int64(plan.offsets.count) }
            } catch let error as ClientError where error.code == .broker && !error.isRetriable {
                // Somebody has joined meanwhile.
                logger.info("a group's offsets were not set", metadata: ["group": "\(group.id)", "error": "\(error)"])
            }
        }
    }
}
