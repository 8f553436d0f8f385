// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import NIOPosix

/// DescribeCluster, versions 0–2.
struct DescribeClusterHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DescribeClusterRequest, _ context: RequestContext) {
        guard request.endpointType == 1 else {
            return context.respond(
                DescribeClusterResponse(
                    errorCode: (request.endpointType == 2 ? ErrorCode.mismatchedEndpointType : .unsupportedEndpointType)
                        .rawValue,
                    errorMessage: "this listener answers for brokers (endpoint type 1)"
                )
            )
        }
        let image = services.metadata.image
        let brokers =
            request.includeFencedBrokers ? image.brokers.values.sorted { $0.id < $1.id } : services.liveBrokers(image)
        context.respond(
            DescribeClusterResponse(
                clusterId: image.clusterID,
                controllerId: services.controllerID,
                brokers: brokers.map {
                    .init(
                        brokerId: $0.id,
                        host: $0.host,
                        port: $0.port,
                        rack: $0.rack,
                        isFenced: context.version >= 2 && $0.isFenced
                    )
                },
                clusterAuthorizedOperations: request.includeClusterAuthorizedOperations
                    ? MetadataHandler.clusterOperations : Int32.min
            )
        )
    }
}

/// InitProducerId, versions 0–6: idempotent producers; transactional ones go to their coordinator.
struct InitProducerIDHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: InitProducerIdRequest, _ context: RequestContext) {
        if request.transactionalId != nil {
            return services.transactions.initProducerID(request, version: context.version) { response in
                if response.errorCode != 0 {
                    context.connection.worker.metrics.failed(
                        .initProducerId,
                        ErrorCode(rawValue: response.errorCode)
                    )
                }
                context.respond(response)
            }
        }
        // A producer that lost its place asks to go on with a higher epoch (KIP-360); a new id serves it as well.
        services.controller.newProducerID { result in
            switch result {
            case .success(let id): context.respond(InitProducerIdResponse(producerId: id, producerEpoch: 0))
            case .failure(let refusal):
                context.respond(InitProducerIdResponse(errorCode: refusal.code.rawValue, producerEpoch: -1))
            }
        }
    }
}

/// DescribeLogDirs, versions 1–5.
struct DescribeLogDirsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DescribeLogDirsRequest, _ context: RequestContext) {
        services.blocking.submit { _ in
            let wanted = request.topics.map { topics in
                Dictionary(topics.map { ($0.topic, Set($0.partitions)) }, uniquingKeysWith: { $0.union($1) })
            }
            let usage = services.logs.usage().filter { usage in
                guard usage.topicPartition != MetadataStore.topicPartition else { return false }
                guard let wanted else { return true }
                return wanted[usage.topicPartition.topic]?.contains(usage.topicPartition.partition.rawValue) ?? false
            }
            var response = DescribeLogDirsResponse()
            for directory in services.logs.directoryUsage() {
                var result = DescribeLogDirsResponse.DescribeLogDirsResult(
                    errorCode: (directory.offlineReason == nil ? ErrorCode.none : .kafkaStorageError).rawValue,
                    logDir: directory.path,
                    totalBytes: Int64(clamping: directory.totalBytes ?? 0),
                    usableBytes: Int64(clamping: directory.availableBytes ?? 0)
                )
                for item in usage where item.directory == directory.path {
                    let partition = DescribeLogDirsResponse.DescribeLogDirsPartition(
                        partitionIndex: item.topicPartition.partition.rawValue,
                        partitionSize: Int64(item.sizeInBytes)
                    )
                    if result.topics.last?.name == item.topicPartition.topic {
                        result.topics[result.topics.count - 1].partitions.append(partition)
                    } else {
                        result.topics.append(.init(name: item.topicPartition.topic, partitions: [partition]))
                    }
                }
                response.results.append(result)
            }
            context.respond(response)
        }
    }
}

/// DescribeProducers, version 0.
struct DescribeProducersHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DescribeProducersRequest, _ context: RequestContext) {
        var response = DescribeProducersResponse()
        for topic in request.topics {
            var result = DescribeProducersResponse.TopicResponse(name: topic.name)
            for index in topic.partitionIndexes {
                var answer = DescribeProducersResponse.PartitionResponse(partitionIndex: index)
                switch services.find(topic.name, index) {
                case .failure(let refusal):
                    answer.errorCode = refusal.code.rawValue
                    answer.errorMessage = refusal.message
                case .success(let partition):
                    answer.activeProducers = partition.log.activeProducers.map { producer in
                        .init(
                            producerId: producer.producerID.rawValue,
                            producerEpoch: Int32(producer.producerEpoch),
                            lastSequence: producer.lastSequence,
                            lastTimestamp: producer.lastTimestamp.rawValue,
                            coordinatorEpoch: producer.coordinatorEpoch,
                            currentTxnStartOffset: producer.currentTransactionFirstOffset?.rawValue ?? -1
                        )
                    }
                }
                result.partitions.append(answer)
            }
            response.topics.append(result)
        }
        context.respond(response)
    }
}
