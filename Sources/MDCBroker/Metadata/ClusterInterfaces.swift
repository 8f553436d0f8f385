// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What a partition's leader asks the active controller for.
protocol PartitionChangeProposing: Sendable {
    /// Asks for another ISR, with compare-and-set: refused with FENCED_LEADER_EPOCH or INVALID_UPDATE_VERSION where the
    /// epochs are not those of now. Asks again by itself while the quorum has no leader. `done` comes once, from any
    /// thread, with the partition as it is after the change; the change also comes as metadata.
    func alterPartition(
        topicID: TopicID,
        partition: Int32,
        leaderEpoch: Int32,
        partitionEpoch: Int32,
        newISR: [Int32],
        _ done: @escaping @Sendable (Result<PartitionImage, Refusal>) -> Void
    )
}

/// Where the nodes of the cluster are.
protocol BrokerDirectory: Sendable {
    /// Where clients and followers connect to a node; nil where it is unknown.
    func endpoint(of node: Int32) -> (host: String, port: Int)?
}
