// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Where a partition is led, seen from this node.
enum LeaderPlace: Equatable, Sendable {
    case here
    case node(Int32)
    /// There is no leader now.
    case nowhere
    /// There is no such partition (any more).
    case gone
}

extension MetadataImage {
    /// Where a partition is led, for `node`.
    func place(of partition: TopicPartition, for node: Int32) -> LeaderPlace {
        let index = Int(partition.partition.rawValue)
        guard let topic = topic(partition.topic), topic.partitions.indices.contains(index) else { return .gone }
        let leader = topic.partitions[index].leader
        return leader == node ? .here : leader < 0 ? .nowhere : .node(leader)
    }
}
