// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import MDCProtocol
import NIOCore

/// A node that has registered.
public struct NodeDescription: Sendable, Hashable {
    /// Its id.
    public let id: BrokerID
    /// Where clients reach it.
    public let host: String
    /// Where clients reach it.
    public let port: Int
    /// Its rack, where it has one.
    public let rack: String?
    /// Whether it leads nothing, because it is down or has not caught up; false where the broker does not tell.
    public let isFenced: Bool
}

/// A partition that is on its way to other nodes.
public struct ReassignmentDescription: Sendable, Hashable {
    /// The partition.
    public let partition: TopicPartition
    /// Its replicas now, with those that come and those that go.
    public let replicas: [BrokerID]
    /// Those that come.
    public let adding: [BrokerID]
    /// Those that go when all others are in sync.
    public let removing: [BrokerID]
}

/// The quorum that decides about the metadata.
public struct QuorumDescription: Sendable, Hashable {
    /// One copy of the metadata log.
    public struct Replica: Sendable, Hashable {
        /// The node.
        public let node: BrokerID
        /// The id of its data folder; all zeros where the broker does not tell.
        public let directory: KafkaUUID
        /// Whether it votes.
        public let isVoter: Bool
        /// The offset behind its last record; -1 where nobody knows.
        public let logEnd: Int64
        /// When it was last heard of, in milliseconds since 1970; nil where that is not known.
        public let lastHeard: Timestamp?
        /// When it last had everything; nil where that is not known.
        public let lastCaughtUp: Timestamp?
    }

    /// The node that leads.
    public let leader: BrokerID
    /// Grows with each election.
    public let epoch: Int32
    /// The offset behind the last committed record.
    public let highWatermark: Int64
    /// All copies, voters first.
    public let replicas: [Replica]
}

/// A feature whose level the cluster agrees upon.
public struct FeatureDescription: Sendable, Hashable {
    /// Its name, such as `metadata.version`.
    public let name: String
    /// The levels that the broker has.
    public let supported: ClosedRange<Int16>
    /// The level in force; nil where the feature is off.
    public let level: Int16?
}

extension Admin {
    // MARK: Nodes

    /// All nodes, also those that are fenced where the broker tells of them.
    public func describeNodes() async throws -> [NodeDescription] {
        let response = try await core.retrying(until: core.apiDeadline) {
            try await core.request(DescribeClusterRequest.self, to: .any, versions: 0...2) { version in
                DescribeClusterRequest(endpointType: 1, includeFencedBrokers: version >= 2)
            }
        }
        try Self.check(response.errorCode, "asking for the nodes", response.errorMessage)
        return response.brokers.sorted { $0.brokerId < $1.brokerId }.map {
            NodeDescription(
                id: BrokerID($0.brokerId),
                host: $0.host,
                port: Int($0.port),
                rack: $0.rack,
                isFenced: $0.isFenced
            )
        }
    }

    /// Forgets a node that is stopped for good. Throws `ClientError` where it runs, or is not known.
    public func unregisterNode(_ id: BrokerID) async throws {
        try await controllerRequest(UnregisterBrokerRequest.self) { _ in
            UnregisterBrokerRequest(brokerId: id.rawValue)
        } read: { response in
            try Self.check(response.errorCode, "unregistering node \(id)", response.errorMessage)
        }
    }

    // MARK: Leaders and replicas

    /// Has preferred leaders lead, or with `unclean` any replica where no eligible one is left: what the others had
    /// acknowledged may be lost then. Gives the errors of partitions where that was not possible.
    /// - Parameter partitions: nil for all that need it.
    public func electLeaders(
        _ partitions: [TopicPartition]? = nil,
        unclean: Bool = false
    ) async throws -> [TopicPartition: ClientError] {
        let topics = partitions.map { Dictionary(grouping: $0, by: \.topic).sorted { $0.key < $1.key } }
        return try await controllerRequest(ElectLeadersRequest.self, versions: (unclean ? 1 : 0)...2) { version in
            ElectLeadersRequest(
                electionType: version >= 1 && unclean ? 1 : 0,
                topicPartitions: topics?.map { .init(topic: $0.key, partitions: $0.value.map(\.partition.rawValue)) },
                timeoutMs: 30_000
            )
        } read: { response in
            try Self.check(response.errorCode, "electing leaders")
            var failures: [TopicPartition: ClientError] = [:]
            for topic in response.replicaElectionResults {
                for result in topic.partitionResult where result.errorCode != 0 {
                    let name = TopicPartition(topic: topic.topic, partition: PartitionID(result.partitionId))
                    failures[name] = .broker(
                        ErrorCode(rawValue: result.errorCode),
                        "electing a leader of \(name)",
                        detail: result.errorMessage
                    )
                }
            }
            return failures
        }
    }

    /// Begins to move partitions to other nodes; the first of a list is the preferred leader. A nil list cancels a move.
    /// Gives the errors of partitions where that was not possible.
    public func reassign(_ targets: [TopicPartition: [BrokerID]?]) async throws -> [TopicPartition: ClientError] {
        let topics = Dictionary(grouping: targets.sorted { $0.key < $1.key }, by: \.key.topic)
        return try await controllerRequest(AlterPartitionReassignmentsRequest.self) { _ in
            AlterPartitionReassignmentsRequest(
                timeoutMs: 30_000,
                topics: topics.sorted { $0.key < $1.key }.map { topic, partitions in
                    .init(
                        name: topic,
                        partitions: partitions.map { name, nodes in
                            .init(partitionIndex: name.partition.rawValue, replicas: nodes.map { $0.map(\.rawValue) })
                        }
                    )
                }
            )
        } read: { response in
            try Self.check(response.errorCode, "moving partitions", response.errorMessage)
            var failures: [TopicPartition: ClientError] = [:]
            for topic in response.responses {
                for result in topic.partitions where result.errorCode != 0 {
                    let name = TopicPartition(topic: topic.name, partition: PartitionID(result.partitionIndex))
                    failures[name] = .broker(
                        ErrorCode(rawValue: result.errorCode),
                        "moving \(name)",
                        detail: result.errorMessage
                    )
                }
            }
            return failures
        }
    }

    /// The partitions that are on their way to other nodes, sorted.
    public func listReassignments() async throws -> [ReassignmentDescription] {
        try await controllerRequest(ListPartitionReassignmentsRequest.self) { _ in
            ListPartitionReassignmentsRequest(timeoutMs: 30_000, topics: nil)
        } read: { response in
            try Self.check(response.errorCode, "asking for moves", response.errorMessage)
            return response.topics.flatMap { topic in
                topic.partitions.map {
                    ReassignmentDescription(
                        partition: TopicPartition(topic: topic.name, partition: PartitionID($0.partitionIndex)),
                        replicas: $0.replicas.map { BrokerID($0) },
                        adding: $0.addingReplicas.map { BrokerID($0) },
                        removing: $0.removingReplicas.map { BrokerID($0) }
                    )
                }
            }.sorted { $0.partition < $1.partition }
        }
    }

    /// Bytes of record batches that a node has of partitions; of those that it does not hold there is none. Throws
    /// `ClientError` where the node does not answer.
    public func describeReplicaSizes(
        on node: BrokerID,
        of partitions: [TopicPartition]
    ) async throws -> [TopicPartition: Int64] {
        try await core.eventLoop.flatSubmit { self.core.refreshMetadata() }.get()
        let response = try await core.request(DescribeLogDirsRequest.self, to: .broker(node.rawValue)) { _ in
            DescribeLogDirsRequest(
                topics: Dictionary(grouping: partitions, by: \.topic).sorted { $0.key < $1.key }.map {
                    .init(topic: $0.key, partitions: $0.value.map(\.partition.rawValue).sorted())
                }
            )
        }
        var sizes: [TopicPartition: Int64] = [:]
        for directory in response.results {
            for topic in directory.topics {
                for item in topic.partitions {
                    sizes[TopicPartition(topic: topic.name, partition: PartitionID(item.partitionIndex))] =
                        item.partitionSize
                }
            }
        }
        return sizes
    }

    // MARK: The quorum

    /// How the metadata quorum is.
    public func describeQuorum() async throws -> QuorumDescription {
        try await controllerRequest(DescribeQuorumRequest.self) { _ in
            DescribeQuorumRequest(
                topics: [.init(topicName: "__cluster_metadata", partitions: [.init(partitionIndex: 0)])]
            )
        } read: { response in
            try Self.check(response.errorCode, "asking for the quorum", response.errorMessage)
            guard let partition = response.topics.first?.partitions.first else {
                throw ClientError(.protocolViolation, "the answer about the quorum has no partition")
            }
            try Self.check(partition.errorCode, "asking for the quorum", partition.errorMessage)
            func replicas(
                _ states: [DescribeQuorumResponse.ReplicaState],
                _ isVoter: Bool
            ) -> [QuorumDescription.Replica] {
                states.sorted { $0.replicaId < $1.replicaId }.map {
                    QuorumDescription.Replica(
                        node: BrokerID($0.replicaId),
                        directory: $0.replicaDirectoryId,
                        isVoter: isVoter,
                        logEnd: $0.logEndOffset,
                        lastHeard: $0.lastFetchTimestamp >= 0 ? Timestamp($0.lastFetchTimestamp) : nil,
                        lastCaughtUp: $0.lastCaughtUpTimestamp >= 0 ? Timestamp($0.lastCaughtUpTimestamp) : nil
                    )
                }
            }
            return QuorumDescription(
                leader: BrokerID(partition.leaderId),
                epoch: partition.leaderEpoch,
                highWatermark: partition.highWatermark,
                replicas: replicas(partition.currentVoters, true) + replicas(partition.observers, false)
            )
        }
    }

    /// Makes a voter of a node that observes the metadata. A directory of zeros stands for the one that it has.
    public func addVoter(_ node: BrokerID, directory: KafkaUUID = .zero) async throws {
        try await controllerRequest(AddRaftVoterRequest.self, versions: 0...0) { _ in
            AddRaftVoterRequest(
                clusterId: nil,
                timeoutMs: 30_000,
                voterId: node.rawValue,
                voterDirectoryId: directory
            )
        } read: { response in
            try Self.check(response.errorCode, "making a voter of node \(node)", response.errorMessage)
        }
    }

    /// Takes a node out of the quorum; it goes on as an observer. A directory of zeros stands for the one that it has.
    public func removeVoter(_ node: BrokerID, directory: KafkaUUID = .zero) async throws {
        try await controllerRequest(RemoveRaftVoterRequest.self, versions: 0...0) { _ in
            RemoveRaftVoterRequest(clusterId: nil, voterId: node.rawValue, voterDirectoryId: directory)
        } read: { response in
            try Self.check(response.errorCode, "taking node \(node) out of the quorum", response.errorMessage)
        }
    }

    // MARK: Features

    /// The features, with the levels of a broker and the level in force.
    public func describeFeatures() async throws -> [FeatureDescription] {
        let response = try await core.retrying(until: core.apiDeadline) {
            try await core.request(ApiVersionsRequest.self, to: .any, versions: 3...4) { _ in
                ApiVersionsRequest(clientSoftwareName: "mdc", clientSoftwareVersion: "1")
            }
        }
        try Self.check(response.errorCode, "asking for features")
        return response.supportedFeatures.filter { $0.minVersion <= $0.maxVersion }.sorted { $0.name < $1.name }.map {
            feature in
            FeatureDescription(
                name: feature.name,
                supported: feature.minVersion...feature.maxVersion,
                level: response.finalizedFeatures.first { $0.name == feature.name }?.maxVersionLevel
            )
        }
    }

    /// Puts other levels of features into force, all or none. Throws `ClientError` where a node does not have one.
    /// - Parameter downgrade: whether levels may only go down; else they may only go up.
    public func updateFeatures(
        _ levels: [String: Int16],
        downgrade: Bool = false,
        validateOnly: Bool = false
    ) async throws {
        try await controllerRequest(UpdateFeaturesRequest.self, versions: 1...2) { _ in
            UpdateFeaturesRequest(
                timeoutMs: 30_000,
                featureUpdates: levels.sorted { $0.key < $1.key }.map {
                    .init(feature: $0.key, maxVersionLevel: $0.value, upgradeType: downgrade ? 2 : 1)
                },
                validateOnly: validateOnly
            )
        } read: { response in
            try Self.check(response.errorCode, "changing features", response.errorMessage)
            for result in response.results {
                try Self.check(result.errorCode, "changing \(result.feature)", result.errorMessage)
            }
        }
    }
}
