// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// ElectLeaders, versions 0–2.
struct ElectLeadersHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: ElectLeadersRequest, _ context: RequestContext) {
        guard request.electionType == 0 || request.electionType == 1 else {
            context.connection.worker.metrics.failed(.electLeaders, .invalidRequest)
            return context.respond(ElectLeadersResponse(errorCode: ErrorCode.invalidRequest.rawValue))
        }
        let isUnclean = request.electionType == 1
        services.controller.run { controller in
            // Asked for everything, only the partitions are named whose leader changed, or should and could not.
            let wanted =
                request.topicPartitions
                ?? Self.candidates(controller.metadata.image, isUnclean: isUnclean)
            let changes = wanted.flatMap { topic in
                topic.partitions.map {
                    ControllerChange.electLeader(topic: topic.topic, partition: $0, isUnclean: isUnclean)
                }
            }
            var results = controller.perform(all: changes)[...]
            var response = ElectLeadersResponse()
            for topic in wanted {
                var answer = ElectLeadersResponse.ReplicaElectionResult(topic: topic.topic)
                for index in topic.partitions {
                    guard let result = results.popFirst() else { break }
                    let refusal = result.refusal
                    if request.topicPartitions == nil, refusal?.code == .electionNotNeeded { continue }
                    if let refusal { context.connection.worker.metrics.failed(.electLeaders, refusal.code) }
                    answer.partitionResult.append(
                        .init(
                            partitionId: index,
                            errorCode: (refusal?.code ?? .none).rawValue,
                            errorMessage: refusal?.message
                        )
                    )
                }
                if !answer.partitionResult.isEmpty { response.replicaElectionResults.append(answer) }
            }
            context.respond(response)
        }
    }

    /// The partitions that an election could change.
    private static func candidates(
        _ image: MetadataImage,
        isUnclean: Bool
    ) -> [ElectLeadersRequest.TopicPartitions] {
        image.topics.values.sorted { $0.name < $1.name }.compactMap { topic in
            let indices = topic.partitions.indices.filter { index in
                let partition = topic.partitions[index]
                return isUnclean ? partition.leader == -1 : partition.leader != partition.replicas.first
            }
            return indices.isEmpty ? nil : .init(topic: topic.name, partitions: indices.map { Int32($0) })
        }
    }
}

/// AlterPartitionReassignments, versions 0–1.
struct AlterPartitionReassignmentsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: AlterPartitionReassignmentsRequest, _ context: RequestContext) {
        services.controller.run { controller in
            let mayResize = context.version == 0 || request.allowReplicationFactorChange
            var changes: [ControllerChange] = []
            var early: [Refusal?] = []
            for topic in request.topics {
                for asked in topic.partitions {
                    let refusal =
                        mayResize ? nil : Self.resizes(controller.metadata.image, topic.name, asked)
                    early.append(refusal)
                    guard refusal == nil else { continue }
                    changes.append(
                        .reassign(topic: topic.name, partition: asked.partitionIndex, replicas: asked.replicas)
                    )
                }
            }
            var results = controller.perform(all: changes)[...]
            var refusals = early.map { $0 ?? results.popFirst()?.refusal }[...]
            var response = AlterPartitionReassignmentsResponse(
                allowReplicationFactorChange: mayResize,
                errorMessage: nil
            )
            for topic in request.topics {
                response.responses.append(
                    .init(
                        name: topic.name,
                        partitions: topic.partitions.map { asked in
                            let refusal = refusals.popFirst() ?? nil
                            if let refusal {
                                context.connection.worker.metrics.failed(.alterPartitionReassignments, refusal.code)
                            }
                            return .init(
                                partitionIndex: asked.partitionIndex,
                                errorCode: (refusal?.code ?? .none).rawValue,
                                errorMessage: refusal?.message
                            )
                        }
                    )
                )
            }
            context.respond(response)
        }
    }

    private static func resizes(
        _ image: MetadataImage,
        _ topic: String,
        _ asked: AlterPartitionReassignmentsRequest.ReassignablePartition
    ) -> Refusal? {
        guard let replicas = asked.replicas, let partitions = image.topic(topic)?.partitions,
            partitions.indices.contains(Int(asked.partitionIndex))
        else { return nil }
        let partition = partitions[Int(asked.partitionIndex)]
        let count = partition.replicas.count - partition.addingReplicas.count
        guard replicas.count != count else { return nil }
        return Refusal(
            code: .invalidReplicationFactor,
            message: "\(topic)-\(asked.partitionIndex) has \(count) replicas, \(replicas.count) are named, and the "
                + "request does not allow another number"
        )
    }
}

/// ListPartitionReassignments, version 0.
struct ListPartitionReassignmentsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: ListPartitionReassignmentsRequest, _ context: RequestContext) {
        let image = services.metadata.image
        var response = ListPartitionReassignmentsResponse(errorMessage: nil)
        if let topics = request.topics {
            for topic in topics {
                add(topic.name, image.topic(topic.name)?.partitions ?? [], Set(topic.partitionIndexes), &response)
            }
        } else {
            for topic in image.topics.values.sorted(by: { $0.name < $1.name }) {
                add(topic.name, topic.partitions, nil, &response)
            }
        }
        context.respond(response)
    }

    private func add(
        _ name: String,
        _ partitions: [PartitionImage],
        _ wanted: Set<Int32>?,
        _ response: inout ListPartitionReassignmentsResponse
    ) {
        var moving: [ListPartitionReassignmentsResponse.OngoingPartitionReassignment] = []
        for (index, partition) in partitions.enumerated() where partition.isMoving {
            guard wanted?.contains(Int32(index)) ?? true else { continue }
            moving.append(
                .init(
                    partitionIndex: Int32(index),
                    replicas: partition.replicas,
                    addingReplicas: partition.addingReplicas,
                    removingReplicas: partition.removingReplicas
                )
            )
        }
        if !moving.isEmpty { response.topics.append(.init(name: name, partitions: moving)) }
    }
}

/// GetTelemetrySubscriptions and PushTelemetry, version 0 (KIP-714): nobody is asked for metrics.
struct TelemetryHandler: Sendable {
    /// Milliseconds after which a client asks again.
    private static let interval: Int32 = 300_000

    func subscriptions(_ request: GetTelemetrySubscriptionsRequest, _ context: RequestContext) {
        var random = SystemRandomNumberGenerator()
        let known = request.clientInstanceId
        context.respond(
            GetTelemetrySubscriptionsResponse(
                clientInstanceId: known == .zero ? KafkaUUID.random(using: &random) : known,
                subscriptionId: 0,
                // Zstd, LZ4, gzip, snappy: the order in which they are liked.
                acceptedCompressionTypes: [4, 3, 1, 2],
                pushIntervalMs: Self.interval,
                telemetryMaxBytes: 0,
                deltaTemporality: true,
                requestedMetrics: []
            )
        )
    }

    func push(_ request: PushTelemetryRequest, _ context: RequestContext) {
        context.respond(PushTelemetryResponse(errorCode: ErrorCode.unknownSubscriptionId.rawValue))
    }
}
