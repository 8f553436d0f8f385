// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Metadata, versions 0–13.
struct MetadataHandler: Sendable {
    let services: BrokerServices

    /// The bits of what may be done where nothing is forbidden (KIP-430).
    static let topicOperations: Int32 = 0b0000_1101_1111_1000
    static let clusterOperations: Int32 = 0b0001_1111_1010_0000

    func handle(_ request: MetadataRequest, _ context: RequestContext) {
        let image = services.metadata.image
        // Version 0 has no null: an empty list asks for everything.
        let isAll = request.topics == nil || (context.version == 0 && request.topics?.isEmpty == true)
        let wanted = isAll ? [] : request.topics ?? []
        let missing = wanted.compactMap { $0.topicId == .zero ? $0.name : nil }.filter { image.topic($0) == nil }
        let mayCreate = services.configuration.autoCreateTopics && request.allowAutoTopicCreation
        guard mayCreate, !missing.isEmpty else {
            return answer(request, context, isAll ? nil : wanted, refusals: [:])
        }
        services.controller.run { controller in
            var refusals: [String: ErrorCode] = [:]
            for name in missing {
                let new = NewTopic(name: name, partitions: -1, replicationFactor: -1)
                if case .failure(let refusal) = controller.create(new, validateOnly: false),
                    refusal.code != .topicAlreadyExists
                {
                    refusals[name] = refusal.code
                }
            }
            self.answer(request, context, wanted, refusals: refusals)
        }
    }

    private func answer(
        _ request: MetadataRequest,
        _ context: RequestContext,
        _ wanted: [MetadataRequest.MetadataRequestTopic]?,
        refusals: [String: ErrorCode]
    ) {
        let image = services.metadata.image
        let live = services.liveBrokers(image)
        var response = MetadataResponse(
            brokers: live.map { .init(nodeId: $0.id, host: $0.host, port: $0.port, rack: $0.rack) },
            clusterId: image.clusterID,
            controllerId: services.controllerForClients(live)
        )
        if let wanted {
            response.topics = wanted.map { entry in find(entry, image, refusals, context.version) }
        } else {
            response.topics = image.topics.values.sorted { $0.name < $1.name }.map(Self.describe)
        }
        if request.includeTopicAuthorizedOperations {
            for index in response.topics.indices where response.topics[index].errorCode == 0 {
                response.topics[index].topicAuthorizedOperations = Self.topicOperations
            }
        }
        if request.includeClusterAuthorizedOperations { response.clusterAuthorizedOperations = Self.clusterOperations }
        for topic in response.topics where topic.errorCode != 0 {
            context.connection.worker.metrics.failed(.metadata, ErrorCode(rawValue: topic.errorCode))
        }
        context.respond(response)
    }

    private func find(
        _ entry: MetadataRequest.MetadataRequestTopic,
        _ image: MetadataImage,
        _ refusals: [String: ErrorCode],
        _ version: Int16
    ) -> MetadataResponse.MetadataResponseTopic {
        if entry.topicId != .zero {
            if let topic = image.topic(entry.topicId) { return Self.describe(topic) }
            return .init(
                errorCode: ErrorCode.unknownTopicId.rawValue,
                name: version >= 12 ? nil : "",
                topicId: entry.topicId
            )
        }
        let name = entry.name ?? ""
        if let topic = image.topic(name) { return Self.describe(topic) }
        let isIllegal = Controller.nameProblem(name) != nil
        let code = refusals[name] ?? (isIllegal ? .invalidTopicException : .unknownTopicOrPartition)
        return .init(errorCode: code.rawValue, name: name)
    }

    private static func describe(_ topic: TopicImage) -> MetadataResponse.MetadataResponseTopic {
        .init(
            name: topic.name,
            topicId: topic.id,
            isInternal: topic.isInternal,
            partitions: topic.partitions.enumerated().map { index, partition in
                .init(
                    errorCode: (partition.leader == -1 ? ErrorCode.leaderNotAvailable : .none).rawValue,
                    partitionIndex: Int32(index),
                    leaderId: partition.leader,
                    leaderEpoch: partition.leaderEpoch,
                    replicaNodes: partition.replicas,
                    isrNodes: partition.isr
                )
            }
        )
    }
}

/// DescribeTopicPartitions, version 0: metadata page by page (KIP-966).
struct DescribeTopicPartitionsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DescribeTopicPartitionsRequest, _ context: RequestContext) {
        let image = services.metadata.image
        if let cursor = request.cursor, cursor.partitionIndex < 0 {
            context.connection.worker.metrics.failed(.describeTopicPartitions, .invalidRequest)
            return context.respond(
                DescribeTopicPartitionsResponse(
                    topics: request.topics.map { .init(errorCode: ErrorCode.invalidRequest.rawValue, name: $0.name) }
                )
            )
        }
        var names = request.topics.isEmpty ? Array(image.topics.keys) : request.topics.map(\.name)
        names = Array(Set(names)).sorted()
        var response = DescribeTopicPartitionsResponse()
        var left = max(1, min(Int(request.responsePartitionLimit), 2000))
        for name in names {
            if let cursor = request.cursor, name < cursor.topicName { continue }
            let first = request.cursor?.topicName == name ? max(0, Int(request.cursor?.partitionIndex ?? 0)) : 0
            guard let topic = image.topic(name) else {
                let code: ErrorCode =
                    Controller.nameProblem(name) == nil ? .unknownTopicOrPartition : .invalidTopicException
                response.topics.append(.init(errorCode: code.rawValue, name: name))
                continue
            }
            guard left > 0 else {
                response.nextCursor = .init(topicName: name, partitionIndex: Int32(first))
                break
            }
            let shown = topic.partitions.enumerated().dropFirst(first).prefix(left)
            response.topics.append(
                .init(
                    name: name,
                    topicId: topic.id,
                    isInternal: topic.isInternal,
                    partitions: shown.map { index, partition in
                        .init(
                            errorCode: (partition.leader == -1 ? ErrorCode.leaderNotAvailable : .none).rawValue,
                            partitionIndex: Int32(index),
                            leaderId: partition.leader,
                            leaderEpoch: partition.leaderEpoch,
                            replicaNodes: partition.replicas,
                            isrNodes: partition.isr,
                            eligibleLeaderReplicas: partition.elr,
                            lastKnownElr: []
                        )
                    },
                    topicAuthorizedOperations: MetadataHandler.topicOperations
                )
            )
            left -= shown.count
            if first + shown.count < topic.partitions.count {
                response.nextCursor = .init(topicName: name, partitionIndex: Int32(first + shown.count))
                break
            }
        }
        context.respond(response)
    }
}
