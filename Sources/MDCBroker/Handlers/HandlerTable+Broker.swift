// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

extension HandlerTable {
    /// All APIs that a node serves.
    static func broker(_ services: BrokerServices) -> HandlerTable {
        var table = HandlerTable()
        let produce = ProduceHandler(services: services)
        table.register(.produce) { produce.handle($0) }
        let fetch = FetchHandler(services: services)
        table.register(.fetch) { fetch.handle($0) }
        table.register(ListOffsetsRequest.self, ListOffsetsHandler(services: services).handle)
        table.register(MetadataRequest.self, MetadataHandler(services: services).handle)
        table.register(CreateTopicsRequest.self, CreateTopicsHandler(services: services).handle)
        table.register(DeleteTopicsRequest.self, DeleteTopicsHandler(services: services).handle)
        table.register(CreatePartitionsRequest.self, CreatePartitionsHandler(services: services).handle)
        table.register(DeleteRecordsRequest.self, DeleteRecordsHandler(services: services).handle)
        table.register(OffsetForLeaderEpochRequest.self, OffsetForLeaderEpochHandler(services: services).handle)
        table.register(InitProducerIdRequest.self, InitProducerIDHandler(services: services).handle)
        table.register(DescribeConfigsRequest.self, DescribeConfigsHandler(services: services).handle)
        table.register(AlterConfigsRequest.self, AlterConfigsHandler(services: services).handle)
        table.register(IncrementalAlterConfigsRequest.self, IncrementalAlterConfigsHandler(services: services).handle)
        table.register(DescribeClusterRequest.self, DescribeClusterHandler(services: services).handle)
        table.register(DescribeLogDirsRequest.self, DescribeLogDirsHandler(services: services).handle)
        table.register(DescribeProducersRequest.self, DescribeProducersHandler(services: services).handle)
        table.register(DescribeTopicPartitionsRequest.self, DescribeTopicPartitionsHandler(services: services).handle)
        table.registerReplicaHandlers(services)
        table.register(ListConfigResourcesRequest.self, ListConfigResourcesHandler(services: services).handle)
        table.register(DescribeClientQuotasRequest.self, DescribeClientQuotasHandler(services: services).handle)
        table.register(AlterClientQuotasRequest.self, AlterClientQuotasHandler(services: services).handle)
        table.registerGroupHandlers(services.groups)
        table.registerTransactionHandlers(services)
        table.registerShareHandlers(services)
        table.registerQuorumHandlers(services)
        table.registerAPIVersions(services.metadata)
        return table
    }

    private mutating func registerReplicaHandlers(_ services: BrokerServices) {
        register(ElectLeadersRequest.self, ElectLeadersHandler(services: services).handle)
        register(AlterPartitionReassignmentsRequest.self, AlterPartitionReassignmentsHandler(services: services).handle)
        register(ListPartitionReassignmentsRequest.self, ListPartitionReassignmentsHandler(services: services).handle)
        let telemetry = TelemetryHandler()
        register(GetTelemetrySubscriptionsRequest.self, telemetry.subscriptions)
        register(PushTelemetryRequest.self, telemetry.push)
    }

    /// ApiVersions, versions 0–4, of all that is registered before.
    private mutating func registerAPIVersions(_ metadata: MetadataStore) {
        let implemented = implemented.union([.apiVersions])
        register(ApiVersionsRequest.self) { request, context in
            if context.version >= 3,
                !Self.isName(request.clientSoftwareName) || !Self.isName(request.clientSoftwareVersion)
            {
                var answer = APIVersions.answer(version: context.version, implemented: implemented)
                answer.errorCode = ErrorCode.invalidRequest.rawValue
                answer.apiKeys = []
                return context.respond(answer)
            }
            let image = metadata.image
            context.respond(
                APIVersions.answer(
                    version: context.version,
                    implemented: implemented,
                    supportedFeatures: Features.supported.sorted { $0.key < $1.key }.map { name, levels in
                        .init(name: name, minVersion: levels.lowerBound, maxVersion: levels.upperBound)
                    },
                    finalizedFeatures: image.finalizedFeatures.map { name, level in
                        .init(name: name, maxVersionLevel: level, minVersionLevel: level)
                    },
                    finalizedFeaturesEpoch: image.featuresEpoch
                )
            )
        }
    }

    /// The pattern of KIP-511: letters, digits, dots and dashes, beginning and ending in a letter or digit.
    private static func isName(_ text: String) -> Bool {
        func isAlphanumeric(_ byte: UInt8) -> Bool {
            (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
        }
        guard let first = text.utf8.first, let last = text.utf8.last, isAlphanumeric(first), isAlphanumeric(last) else {
            return false
        }
        return text.utf8.allSatisfy { isAlphanumeric($0) || $0 == 45 || $0 == 46 }
    }
}
