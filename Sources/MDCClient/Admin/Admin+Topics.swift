// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import MDCProtocol
import NIOCore

extension Admin {
    /// Milliseconds that the controller may take for one request.
    private static let operationTimeout: Int32 = 30_000

    /// Asks the controller, looking for it anew where it moved.
    func controllerRequest<Request: RequestMessage, Value: Sendable>(
        _ type: Request.Type,
        versions: ClosedRange<Int16> = Request.validVersions,
        make: @escaping @Sendable (Int16) -> Request,
        read: @escaping @Sendable (Request.Response) throws -> Value
    ) async throws -> Value {
        try await core.retrying(until: core.apiDeadline) {
            if try await core.onLoop({ self.core.metadata.lastUpdate == nil }) {
                try await core.eventLoop.flatSubmit { self.core.refreshMetadata() }.get()
            }
            do {
                return try read(try await core.request(type, to: .controller, versions: versions, make: make))
            } catch let error as ClientError where error.isRetriable {
                try? await core.eventLoop.flatSubmit { self.core.refreshMetadata() }.get()
                throw error
            }
        }
    }

    static func check(_ code: Int16, _ doing: @autoclosure () -> String, _ detail: String? = nil) throws {
        if code != 0 { throw ClientError.broker(ErrorCode(rawValue: code), doing(), detail: detail) }
    }

    /// Creates topics. Throws `ClientError` for the first that cannot be made (`errorCode` tells which way, such as
    /// `TOPIC_ALREADY_EXISTS`); the others are made all the same.
    public func createTopics(_ topics: [NewTopic], validateOnly: Bool = false) async throws {
        try await controllerRequest(CreateTopicsRequest.self) { version in
            CreateTopicsRequest(
                topics: topics.map { topic in
                    .init(
                        name: topic.name,
                        numPartitions: topic.partitions ?? (version >= 4 ? -1 : 1),
                        replicationFactor: topic.replicationFactor ?? (version >= 4 ? -1 : 1),
                        configs: topic.configuration.sorted { $0.key < $1.key }.map {
                            .init(name: $0.key, value: $0.value)
                        }
                    )
                },
                timeoutMs: Self.operationTimeout,
                validateOnly: version >= 1 ? validateOnly : false
            )
        } read: { response in
            for topic in response.topics where topic.errorCode == ErrorCode.notController.rawValue {
                try Self.check(topic.errorCode, "creating topic '\(topic.name)'")
            }
            for topic in response.topics {
                try Self.check(topic.errorCode, "creating topic '\(topic.name)'", topic.errorMessage)
            }
        }
    }

    /// Deletes topics with all their records. Throws `ClientError` for the first that cannot be deleted.
    public func deleteTopics(_ names: [String]) async throws {
        try await controllerRequest(DeleteTopicsRequest.self) { version in
            version >= 6
                ? DeleteTopicsRequest(topics: names.map { .init(name: $0) }, timeoutMs: Self.operationTimeout)
                : DeleteTopicsRequest(topicNames: names, timeoutMs: Self.operationTimeout)
        } read: { response in
            for topic in response.responses {
                try Self.check(topic.errorCode, "deleting topic '\(topic.name ?? "")'", topic.errorMessage)
            }
        }
    }

    /// Raises topics to these numbers of partitions. Throws `ClientError` for the first that cannot.
    public func createPartitions(_ counts: [String: Int32], validateOnly: Bool = false) async throws {
        try await controllerRequest(CreatePartitionsRequest.self) { _ in
            CreatePartitionsRequest(
                topics: counts.sorted { $0.key < $1.key }.map {
                    .init(name: $0.key, count: $0.value, assignments: nil)
                },
                timeoutMs: Self.operationTimeout,
                validateOnly: validateOnly
            )
        } read: { response in
            for topic in response.results {
                try Self.check(topic.errorCode, "adding partitions to '\(topic.name)'", topic.errorMessage)
            }
        }
    }

    private func metadata(_ topics: [String]?) async throws -> MetadataCache.Update {
        try await core.retrying(until: core.apiDeadline) {
            let response = try await core.request(MetadataRequest.self, to: .any) { version in
                // Version 0 says "all" with an empty list, later ones with null.
                let all: [MetadataRequest.MetadataRequestTopic]? = version == 0 ? [] : nil
                return MetadataRequest(
                    topics: topics.map { $0.map { .init(name: $0) } } ?? all,
                    allowAutoTopicCreation: version >= 4 ? false : true
                )
            }
            try Self.check(response.errorCode, "asking for metadata")
            return MetadataCache.Update(response)
        }
    }

    /// The names of all topics, sorted; those of the broker itself only with `includeInternal`.
    public func listTopics(includeInternal: Bool = false) async throws -> [String] {
        try await metadata(nil).topics.filter { $0.error == .none && (includeInternal || !$0.isInternal) }.map(\.name)
            .sorted()
    }

    /// Describes topics; nil for all. Throws `ClientError` (`unknownTopicOrPartition`) for one that does not exist.
    public func describeTopics(_ names: [String]? = nil) async throws -> [TopicDescription] {
        if names?.isEmpty == true { return [] }
        return try await metadata(names).topics.sorted { $0.name < $1.name }.map { topic in
            try Self.check(topic.error.rawValue, "describing topic '\(topic.name)'")
            return TopicDescription(
                name: topic.name,
                id: topic.id,
                isInternal: topic.isInternal,
                partitions: topic.partitions.enumerated().map { index, partition in
                    TopicDescription.Partition(
                        id: PartitionID(Int32(index)),
                        leader: partition.leader >= 0 ? BrokerID(partition.leader) : nil,
                        leaderEpoch: LeaderEpoch(partition.leaderEpoch),
                        replicas: partition.replicas.map { BrokerID($0) },
                        inSyncReplicas: partition.inSyncReplicas.map { BrokerID($0) }
                    )
                }
            )
        }
    }

    /// The brokers and who controls them.
    public func describeCluster() async throws -> ClusterDescription {
        let response = try await core.retrying(until: core.apiDeadline) {
            // No topics: an empty list, which version 0 cannot say.
            try await core.request(MetadataRequest.self, to: .any, versions: 1...13) { version in
                MetadataRequest(topics: [], allowAutoTopicCreation: version >= 4 ? false : true)
            }
        }
        try Self.check(response.errorCode, "describing the cluster")
        return ClusterDescription(
            clusterID: response.clusterId,
            controllerID: response.controllerId >= 0 ? BrokerID(response.controllerId) : nil,
            brokers: response.brokers.sorted { $0.nodeId < $1.nodeId }.map {
                BrokerDescription(id: BrokerID($0.nodeId), host: $0.host, port: Int($0.port), rack: $0.rack)
            }
        )
    }

    /// What versions of each request the broker serves, by the request's number.
    public func apiVersions() async throws -> [APIVersionRange] {
        let response = try await core.retrying(until: core.apiDeadline) {
            try await core.request(ApiVersionsRequest.self, to: .any, versions: 0...3) { version in
                version >= 3
                    ? ApiVersionsRequest(clientSoftwareName: "mdc", clientSoftwareVersion: "1") : ApiVersionsRequest()
            }
        }
        try Self.check(response.errorCode, "asking for versions")
        return response.apiKeys.filter { $0.minVersion <= $0.maxVersion }.sorted { $0.apiKey < $1.apiKey }.map {
            APIVersionRange(apiKey: $0.apiKey, versions: $0.minVersion...$0.maxVersion)
        }
    }

    /// Deletes the records of partitions before an offset (-1: up to the end). Gives the new first offsets.
    public func deleteRecords(before offsets: [TopicPartition: Offset]) async throws -> [TopicPartition: Offset] {
        try await core.retrying(until: core.apiDeadline) {
            var byLeader: [Int32: [TopicPartition: Offset]] = [:]
            for (partition, offset) in offsets {
                _ = try await core.waitForTopic(partition.topic, until: core.apiDeadline)
                guard let leader = try await core.onLoop({ self.core.metadata.leader(of: partition)?.broker }) else {
                    throw ClientError.broker(.leaderNotAvailable, "deleting records of \(partition)")
                }
                byLeader[leader, default: [:]][partition] = offset
            }
            var result: [TopicPartition: Offset] = [:]
            for (leader, part) in byLeader {
                let topics = Dictionary(grouping: part) { $0.key.topic }
                let response = try await core.request(DeleteRecordsRequest.self, to: .broker(leader)) { _ in
                    DeleteRecordsRequest(
                        topics: topics.map { topic, partitions in
                            .init(
                                name: topic,
                                partitions: partitions.map {
                                    .init(partitionIndex: $0.key.partition.rawValue, offset: $0.value.rawValue)
                                }
                            )
                        },
                        timeoutMs: Self.operationTimeout
                    )
                }
                for topic in response.topics {
                    for partition in topic.partitions {
                        let key = TopicPartition(topic: topic.name, partition: PartitionID(partition.partitionIndex))
                        try Self.check(partition.errorCode, "deleting records of \(key)")
                        result[key] = Offset(partition.lowWatermark)
                    }
                }
            }
            return result
        }
    }
}
