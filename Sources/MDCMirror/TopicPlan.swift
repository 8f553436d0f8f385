// SPDX-License-Identifier: Apache-2.0

public import MDCClient
public import MDCModel

/// A topic as one side has it.
public struct MirroredTopic: Sendable, Equatable {
    /// The name on that side.
    public var name: String
    /// Its id; all zeros where the cluster has none.
    public var id: TopicID
    /// Its number of partitions.
    public var partitions: Int32
    /// The settings that were made for it.
    public var settings: [String: String]

    /// Makes a description.
    public init(name: String, id: TopicID, partitions: Int32, settings: [String: String] = [:]) {
        self.name = name
        self.id = id
        self.partitions = partitions
        self.settings = settings
    }
}

/// What has to be made and changed at the target so that its topics are as the source's: pure.
public struct TopicPlan: Sendable, Equatable {
    /// Settings that are the target's own affair, or would change records.
    public static let ownSettings: Set<String> = [
        "message.timestamp.type", "min.insync.replicas", "unclean.leader.election.enable",
        "leader.replication.throttled.replicas", "follower.replication.throttled.replicas",
        "remote.storage.enable", "local.retention.ms", "local.retention.bytes",
    ]

    /// Topics to create, with their settings.
    public var create: [MirroredTopic] = []
    /// New numbers of partitions.
    public var grow: [String: Int32] = [:]
    /// Settings to change.
    public var change: [String: [String: ConfigChange]] = [:]
    /// Topics that have more partitions at the target than at the source: told once, and mirrored all the same.
    public var wider: [String] = []

    /// Compares both sides; `rename` gives a topic's name at the target.
    public init(source: [MirroredTopic], target: [MirroredTopic], rename: (String) -> String) {
        let there = Dictionary(uniqueKeysWithValues: target.map { ($0.name, $0) })
        for topic in source.sorted(by: { $0.name < $1.name }) {
            let name = rename(topic.name)
            let wanted = topic.settings.filter { !Self.ownSettings.contains($0.key) }
            guard let found = there[name] else {
                create.append(MirroredTopic(name: name, id: topic.id, partitions: topic.partitions, settings: wanted))
                continue
            }
            if found.partitions < topic.partitions { grow[name] = topic.partitions }
            if found.partitions > topic.partitions { wider.append(name) }
            var changes: [String: ConfigChange] = [:]
            for (setting, value) in wanted where found.settings[setting] != value { changes[setting] = .set(value) }
            for setting in found.settings.keys where wanted[setting] == nil && !Self.ownSettings.contains(setting) {
                changes[setting] = .delete
            }
            if !changes.isEmpty { change[name] = changes }
        }
    }

    /// Whether nothing has to be done.
    public var isEmpty: Bool { create.isEmpty && grow.isEmpty && change.isEmpty }
}

/// Which offsets of a group have to be set at the target: pure.
public struct GroupPlan: Sendable, Equatable {
    /// The offsets to set, by partition of the target.
    public var offsets: [TopicPartition: Offset] = [:]

    /// Translates what the group has at the source and takes what is further on than what it has at the target.
    ///
    /// - Parameters:
    ///   - source: The group's offsets at the source.
    ///   - target: Its offsets at the target.
    ///   - translate: The target's partition and offset for one of the source; nil where it is not mirrored.
    public init(
        source: [TopicPartition: Offset],
        target: [TopicPartition: Offset],
        translate: (TopicPartition, Offset) -> (TopicPartition, Offset)?
    ) {
        for (partition, offset) in source {
            guard let (place, wanted) = translate(partition, offset) else { continue }
            if let has = target[place], has >= wanted { continue }
            offsets[place] = wanted
        }
    }
}
