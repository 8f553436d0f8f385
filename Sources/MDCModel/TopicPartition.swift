// SPDX-License-Identifier: Apache-2.0

/// One partition of a topic, by the topic's name.
public struct TopicPartition: Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The name of the topic.
    public let topic: String
    /// The number of the partition.
    public let partition: PartitionID

    /// Names a partition.
    public init(topic: String, partition: PartitionID) {
        self.topic = topic
        self.partition = partition
    }

    /// `<topic>-<partition>`, which is also the name of the partition's folder.
    public var description: String { "\(topic)-\(partition)" }

    public static func < (lhs: TopicPartition, rhs: TopicPartition) -> Bool {
        (lhs.topic, lhs.partition) < (rhs.topic, rhs.partition)
    }
}
