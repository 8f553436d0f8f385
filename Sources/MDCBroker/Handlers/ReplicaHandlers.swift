// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// ElectLeaders, versions 0–2. With one replica a partition, the preferred one leads already.
struct ElectLeadersHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: ElectLeadersRequest, _ context: RequestContext) {
        guard request.electionType == 0 || request.electionType == 1 else {
            return context.respond(ElectLeadersResponse(errorCode: ErrorCode.invalidRequest.rawValue))
        }
        let image = services.metadata.image
        var response = ElectLeadersResponse()
        // Asked for everything, Kafka names only the partitions whose leader it changed.
        for topic in request.topicPartitions ?? [] {
            response.replicaElectionResults.append(
                .init(
                    topic: topic.topic,
                    partitionResult: topic.partitions.map { index in
                        let isKnown = image.topic(topic.topic)?.partitions.indices.contains(Int(index)) == true
                        return .init(
                            partitionId: index,
                            errorCode: (isKnown ? ErrorCode.electionNotNeeded : .unknownTopicOrPartition).rawValue,
                            errorMessage: isKnown
                                ? "the partition has its preferred leader" : "there is no \(topic.topic)-\(index)"
                        )
                    }
                )
            )
        }
        context.respond(response)
    }
}

/// AlterPartitionReassignments, versions 0–1: on one node, every partition stays where it is.
struct AlterPartitionReassignmentsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: AlterPartitionReassignmentsRequest, _ context: RequestContext) {
        var response = AlterPartitionReassignmentsResponse(
            allowReplicationFactorChange: request.allowReplicationFactorChange,
            errorMessage: nil
        )
        if context.version == 0 { response.allowReplicationFactorChange = true }
        for topic in request.topics {
            response.responses.append(
                .init(
                    name: topic.name,
                    partitions: topic.partitions.map { asked in
                        do throws(Refusal) {
                            try check(topic.name, asked.partitionIndex, asked.replicas, request)
                            return .init(partitionIndex: asked.partitionIndex, errorMessage: nil)
                        } catch {
                            return .init(
                                partitionIndex: asked.partitionIndex,
                                errorCode: error.code.rawValue,
                                errorMessage: error.message
                            )
                        }
                    }
                )
            )
        }
        context.respond(response)
    }

    private func check(
        _ topic: String,
        _ index: Int32,
        _ replicas: [Int32]?,
        _ request: AlterPartitionReassignmentsRequest
    ) throws(Refusal) {
        let image = services.metadata.image
        let node = services.configuration.nodeID
        guard
            let partition = image.topic(topic)?.partitions.indices.contains(Int(index)) == true
                ? image.topic(topic)?.partitions[Int(index)] : nil
        else { throw Refusal(code: .unknownTopicOrPartition, message: "there is no \(topic)-\(index)") }
        guard let replicas else {
            throw Refusal(code: .noReassignmentInProgress, message: "\(topic)-\(index) is not being moved")
        }
        func refuse(_ message: String) throws(Refusal) {
            throw Refusal(code: .invalidReplicaAssignment, message: message)
        }
        if replicas.isEmpty { try refuse("a partition needs a replica") }
        if Set(replicas).count != replicas.count { try refuse("a node is named twice") }
        if let other = replicas.first(where: { $0 != node }) {
            try refuse("there is no node \(other); \(node) is the only one")
        }
        if !request.allowReplicationFactorChange && replicas.count != partition.replicas.count {
            throw Refusal(code: .invalidReplicationFactor, message: "the number of replicas would change")
        }
    }
}

/// ListPartitionReassignments, version 0: nothing is ever under way on one node.
struct ListPartitionReassignmentsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: ListPartitionReassignmentsRequest, _ context: RequestContext) {
        context.respond(ListPartitionReassignmentsResponse(errorMessage: nil))
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
