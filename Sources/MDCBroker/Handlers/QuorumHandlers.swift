// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

extension HandlerTable {
    mutating func registerQuorumHandlers(_ services: BrokerServices) {
        register(DescribeQuorumRequest.self, DescribeQuorumHandler(services: services).handle)
        register(UnregisterBrokerRequest.self, UnregisterBrokerHandler(services: services).handle)
        register(UpdateFeaturesRequest.self, UpdateFeaturesHandler(services: services).handle)
        let voters = VoterHandlers(services: services)
        register(AddRaftVoterRequest.self, voters.add)
        register(RemoveRaftVoterRequest.self, voters.remove)
    }
}

/// DescribeQuorum, versions 0–2: any node asks the leader of the quorum.
struct DescribeQuorumHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DescribeQuorumRequest, _ context: RequestContext) {
        let version = context.version
        services.controller.quorum.describeQuorum { description in
            var response = DescribeQuorumResponse(errorMessage: nil)
            for topic in request.topics {
                response.topics.append(
                    .init(
                        topicName: topic.topicName,
                        partitions: topic.partitions.map {
                            Self.answer(topic.topicName, $0.partitionIndex, description, version)
                        }
                    )
                )
            }
            for partition in response.topics.flatMap(\.partitions) where partition.errorCode != 0 {
                context.connection.worker.metrics.failed(.describeQuorum, ErrorCode(rawValue: partition.errorCode))
            }
            if version >= 2, let description { response.nodes = nodes(description) }
            context.respond(response)
        }
    }

    private static func answer(
        _ topic: String,
        _ index: Int32,
        _ description: QuorumDescription?,
        _ version: Int16
    ) -> DescribeQuorumResponse.PartitionData {
        func refuse(_ code: ErrorCode, _ message: String) -> DescribeQuorumResponse.PartitionData {
            .init(
                partitionIndex: index,
                errorCode: code.rawValue,
                errorMessage: version >= 2 ? message : nil,
                leaderId: -1
            )
        }
        guard topic == MetadataStore.topicPartition.topic, index == 0 else {
            return refuse(
                .unknownTopicOrPartition,
                "only \(MetadataStore.topicPartition.topic)-0 is kept by a quorum, not \(topic)-\(index)"
            )
        }
        guard let description else {
            return refuse(.notLeaderOrFollower, "the quorum has no leader now; try again")
        }
        func states(_ isVoter: Bool) -> [DescribeQuorumResponse.ReplicaState] {
            description.replicas.filter { $0.isVoter == isVoter }.map { replica in
                .init(
                    replicaId: replica.member.node,
                    replicaDirectoryId: version >= 2 ? replica.member.directory : .zero,
                    logEndOffset: replica.logEnd,
                    lastFetchTimestamp: version >= 1 ? replica.lastHeard : -1,
                    lastCaughtUpTimestamp: version >= 1 ? replica.lastCaughtUp : -1
                )
            }
        }
        return .init(
            partitionIndex: index,
            errorMessage: nil,
            leaderId: description.leader,
            leaderEpoch: description.epoch,
            highWatermark: description.highWatermark,
            currentVoters: states(true),
            observers: states(false)
        )
    }

    /// Where the controllers listen, as far as this node knows.
    private func nodes(_ description: QuorumDescription) -> [DescribeQuorumResponse.Node] {
        let image = services.metadata.image
        let settings = services.live.started
        var addresses = image.controllers
        for voter in settings.voters {
            addresses[voter.id] = ControllerEndpoint(host: voter.address.host, port: Int32(voter.address.port))
        }
        if addresses[settings.nodeID] == nil { addresses[settings.nodeID] = services.controller.quorum.ownEndpoint }
        return Set(description.replicas.map(\.member.node)).sorted().compactMap { id in
            addresses[id].map {
                .init(nodeId: id, listeners: [.init(name: "CONTROLLER", host: $0.host, port: UInt16($0.port))])
            }
        }
    }
}

/// UnregisterBroker, version 0.
struct UnregisterBrokerHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: UnregisterBrokerRequest, _ context: RequestContext) {
        services.controller.run { controller in
            do throws(Refusal) {
                try controller.perform(.unregisterBroker(id: request.brokerId))
                context.respond(UnregisterBrokerResponse(errorMessage: nil))
            } catch {
                context.connection.worker.metrics.failed(.unregisterBroker, error.code)
                context.respond(UnregisterBrokerResponse(errorCode: error.code.rawValue, errorMessage: error.message))
            }
        }
    }
}

/// UpdateFeatures, versions 0–2.
struct UpdateFeaturesHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: UpdateFeaturesRequest, _ context: RequestContext) {
        services.controller.run { controller in
            var response = UpdateFeaturesResponse(errorMessage: nil)
            // From version 2 on all or none are changed, and only one answer is given; before that, each by itself.
            let groups = context.version >= 2 ? [request.featureUpdates] : request.featureUpdates.map { [$0] }
            for group in groups {
                let refusal = Self.perform(group, request.validateOnly, context.version, controller)
                if let refusal { context.connection.worker.metrics.failed(.updateFeatures, refusal.code) }
                let code = (refusal?.code ?? .none).rawValue
                if context.version >= 2 {
                    response.errorCode = code
                    response.errorMessage = refusal?.message
                } else {
                    response.results += group.map {
                        .init(feature: $0.feature, errorCode: code, errorMessage: refusal?.message)
                    }
                }
            }
            context.respond(response)
        }
    }

    private static func perform(
        _ updates: [UpdateFeaturesRequest.FeatureUpdateKey],
        _ validateOnly: Bool,
        _ version: Int16,
        _ controller: Controller
    ) -> Refusal? {
        do throws(Refusal) {
            var wanted: [FeatureUpdate] = []
            for update in updates {
                let number = version == 0 ? (update.allowDowngrade ? 2 : 1) : update.upgradeType
                guard let direction = FeatureUpdate.Direction(rawValue: number) else {
                    throw Refusal(code: .invalidRequest, message: "the upgrade type \(number) is none of 1, 2 and 3")
                }
                wanted.append(
                    FeatureUpdate(name: update.feature, level: update.maxVersionLevel, direction: direction)
                )
            }
            if validateOnly {
                _ = try controller.preview(.updateFeatures(wanted))
            } else {
                try controller.perform(.updateFeatures(wanted))
            }
            return nil
        } catch {
            return error
        }
    }
}

/// AddRaftVoter, versions 0 and 1, and RemoveRaftVoter, version 0 (KIP-853, KIP-1186). Both are answered once committed.
struct VoterHandlers: Sendable {
    let services: BrokerServices

    func add(_ request: AddRaftVoterRequest, _ context: RequestContext) {
        let member = QuorumMember(node: request.voterId, directory: request.voterDirectoryId)
        perform(.addVoter(member), request.clusterId, context) { refusal in
            context.respond(
                AddRaftVoterResponse(errorCode: (refusal?.code ?? .none).rawValue, errorMessage: refusal?.message)
            )
        }
    }

    func remove(_ request: RemoveRaftVoterRequest, _ context: RequestContext) {
        let member = QuorumMember(node: request.voterId, directory: request.voterDirectoryId)
        perform(.removeVoter(member), request.clusterId, context) { refusal in
            context.respond(
                RemoveRaftVoterResponse(errorCode: (refusal?.code ?? .none).rawValue, errorMessage: refusal?.message)
            )
        }
    }

    private func perform(
        _ change: ControllerChange,
        _ clusterID: String?,
        _ context: RequestContext,
        _ done: @escaping @Sendable (Refusal?) -> Void
    ) {
        services.controller.run { controller in
            let own = controller.metadata.image.clusterID
            var refusal: Refusal?
            if let clusterID, clusterID != own {
                refusal = Refusal(code: .inconsistentClusterId, message: "this is cluster \(own), not \(clusterID)")
            } else {
                do throws(Refusal) {
                    try controller.perform(change)
                } catch {
                    refusal = error
                }
            }
            if let refusal { context.connection.worker.metrics.failed(context.apiKey, refusal.code) }
            done(refusal)
        }
    }
}
