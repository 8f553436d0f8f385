// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// CreateTopics, versions 2–7.
struct CreateTopicsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: CreateTopicsRequest, _ context: RequestContext) {
        services.controller.run { controller in
            let counts = Dictionary(request.topics.map { ($0.name, 1) }, uniquingKeysWith: +)
            var response = CreateTopicsResponse()
            var answered: Set<String> = []
            for topic in request.topics where answered.insert(topic.name).inserted {
                var result = CreateTopicsResponse.CreatableTopicResult(name: topic.name, configs: nil)
                if counts[topic.name] != 1 {
                    result.errorCode = ErrorCode.invalidRequest.rawValue
                    result.errorMessage = "the request lists \(topic.name) more than once"
                } else {
                    fill(&result, create(topic, controller, request.validateOnly, context))
                }
                if context.version < 5 { result.configs = nil }
                response.topics.append(result)
                if result.errorCode != 0 {
                    context.connection.worker.metrics.failed(.createTopics, ErrorCode(rawValue: result.errorCode))
                }
            }
            context.respond(response)
        }
    }

    private func create(
        _ topic: CreateTopicsRequest.CreatableTopic,
        _ controller: Controller,
        _ validateOnly: Bool,
        _ context: RequestContext
    ) -> Result<TopicImage, Refusal> {
        var new = NewTopic(
            name: topic.name,
            partitions: topic.numPartitions,
            replicationFactor: topic.replicationFactor
        )
        for assignment in topic.assignments { new.assignments[assignment.partitionIndex] = assignment.brokerIds }
        if new.assignments.count != topic.assignments.count {
            return .failure(Refusal(code: .invalidReplicaAssignment, message: "a partition is assigned twice"))
        }
        for config in topic.configs {
            guard let value = config.value else {
                return .failure(Refusal(code: .invalidConfig, message: "\(config.name) has no value"))
            }
            new.configs[config.name] = value
        }
        guard !validateOnly else { return controller.create(new, validateOnly: true) }
        do throws(Refusal) {
            // A request that would be refused anyway uses up nothing.
            let topic = try controller.create(new, validateOnly: true).get()
            try controller.admitMutations(topic.partitions.count, strictFrom: 6, context)
        } catch {
            return .failure(error)
        }
        return controller.create(new, validateOnly: false)
    }

    private func fill(
        _ result: inout CreateTopicsResponse.CreatableTopicResult,
        _ outcome: Result<TopicImage, Refusal>
    ) {
        switch outcome {
        case .failure(let refusal):
            result.errorCode = refusal.code.rawValue
            result.errorMessage = refusal.message
        case .success(let topic):
            result.topicId = topic.id
            result.numPartitions = Int32(topic.partitions.count)
            result.replicationFactor = Int16(topic.partitions.first?.replicas.count ?? 1)
            result.configs = ConfigView(services: services).topic(topic).map { entry in
                .init(name: entry.name, value: entry.value, configSource: entry.source.rawValue)
            }
        }
    }
}

/// DeleteTopics, versions 1–6.
struct DeleteTopicsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DeleteTopicsRequest, _ context: RequestContext) {
        services.controller.run { controller in
            var response = DeleteTopicsResponse()
            let topics: [DeleteTopicsRequest.DeleteTopicState] =
                context.version >= 6 ? request.topics : request.topicNames.map { .init(name: $0) }
            for entry in topics { response.responses.append(self.delete(entry, controller, context)) }
            context.respond(response)
        }
    }

    private func delete(
        _ entry: DeleteTopicsRequest.DeleteTopicState,
        _ controller: Controller,
        _ context: RequestContext
    ) -> DeleteTopicsResponse.DeletableTopicResult {
        let image = services.metadata.image
        var result = DeleteTopicsResponse.DeletableTopicResult(name: entry.name, topicId: entry.topicId)
        do throws(Refusal) {
            let found: TopicImage?
            if let name = entry.name {
                guard entry.topicId == .zero else {
                    throw Refusal(code: .invalidRequest, message: "give a topic's name or its id, not both")
                }
                found = image.topic(name)
            } else {
                found = image.topic(entry.topicId)
            }
            guard let topic = found else {
                throw Refusal(
                    code: entry.name == nil ? .unknownTopicId : .unknownTopicOrPartition,
                    message: "there is no such topic"
                )
            }
            result.name = topic.name
            result.topicId = topic.id
            try controller.admitMutations(topic.partitions.count, strictFrom: 5, context)
            try controller.delete(topic)
        } catch {
            result.errorCode = error.code.rawValue
            if context.version >= 5 { result.errorMessage = error.message }
            context.connection.worker.metrics.failed(.deleteTopics, error.code)
        }
        return result
    }
}

/// CreatePartitions, versions 0–3.
struct CreatePartitionsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: CreatePartitionsRequest, _ context: RequestContext) {
        services.controller.run { controller in
            var response = CreatePartitionsResponse()
            for topic in request.topics {
                var result = CreatePartitionsResponse.CreatePartitionsTopicResult(name: topic.name)
                do throws(Refusal) {
                    let added = Int(topic.count) - (controller.metadata.image.topic(topic.name)?.partitions.count ?? 0)
                    let assignments = topic.assignments?.map(\.brokerIds)
                    try controller.grow(topic.name, to: topic.count, assignments: assignments, validateOnly: true)
                    if !request.validateOnly {
                        try controller.admitMutations(added, strictFrom: 3, context)
                        try controller.grow(topic.name, to: topic.count, assignments: assignments, validateOnly: false)
                    }
                } catch {
                    result.errorCode = error.code.rawValue
                    result.errorMessage = error.message
                }
                response.results.append(result)
            }
            context.respond(response)
        }
    }
}
