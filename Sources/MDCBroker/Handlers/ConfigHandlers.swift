// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

extension ConfigResource {
    /// Reads a resource of a request to node `nodeID`.
    init(type: Int8, name: String, nodeID: Int32) throws(Refusal) {
        switch type {
        case 2: self = .topic(name)
        case 4:
            if name.isEmpty {
                self = .broker(nil)
                return
            }
            guard let id = Int32(name) else {
                throw Refusal(code: .invalidRequest, message: "\(name) is no node's id")
            }
            guard id == nodeID else {
                throw Refusal(code: .invalidRequest, message: "this is node \(nodeID); ask node \(name)")
            }
            self = .broker(id)
        case 32: self = .group(name)
        default:
            throw Refusal(code: .invalidRequest, message: "resources of type \(type) have no settings here")
        }
    }
}

/// DescribeConfigs, versions 1–4.
struct DescribeConfigsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DescribeConfigsRequest, _ context: RequestContext) {
        var response = DescribeConfigsResponse()
        for resource in request.resources {
            var result = DescribeConfigsResponse.DescribeConfigsResult(
                errorMessage: nil,
                resourceType: resource.resourceType,
                resourceName: resource.resourceName
            )
            do throws(Refusal) {
                let entries = try entries(resource)
                result.configs = entries.filter { resource.configurationKeys?.contains($0.name) ?? true }.map {
                    Self.describe($0, request, context.version)
                }
            } catch {
                result.errorCode = error.code.rawValue
                result.errorMessage = error.message
                context.connection.worker.metrics.failed(.describeConfigs, error.code)
            }
            response.results.append(result)
        }
        context.respond(response)
    }

    private func entries(_ resource: DescribeConfigsRequest.DescribeConfigsResource) throws(Refusal) -> [ConfigEntry] {
        let view = ConfigView(services: services)
        let name = resource.resourceName
        switch try ConfigResource(
            type: resource.resourceType,
            name: name,
            nodeID: services.configuration.nodeID
        ) {
        case .topic:
            if let problem = Controller.nameProblem(name) {
                throw Refusal(code: .invalidTopicException, message: problem)
            }
            guard let topic = services.metadata.image.topic(name) else {
                throw Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(name)")
            }
            return view.topic(topic)
        case .broker(nil): return view.sharedBroker()
        case .broker: return view.broker()
        case .group:
            if name.isEmpty { throw Refusal(code: .invalidRequest, message: "the group's name is empty") }
            return view.group(name)
        }
    }

    private static func describe(
        _ entry: ConfigEntry,
        _ request: DescribeConfigsRequest,
        _ version: Int16
    ) -> DescribeConfigsResponse.DescribeConfigsResourceResult {
        var result = DescribeConfigsResponse.DescribeConfigsResourceResult(
            name: entry.name,
            value: entry.value,
            readOnly: entry.isReadOnly,
            configSource: entry.source.rawValue
        )
        if request.includeSynonyms {
            result.synonyms = entry.origins.map { .init(name: $0.name, value: $0.value, source: $0.source.rawValue) }
        }
        if version >= 3 {
            result.configType = entry.type.rawValue
            if request.includeDocumentation { result.documentation = entry.documentation }
        }
        return result
    }
}

/// IncrementalAlterConfigs, versions 0–1: topics, nodes, groups.
struct IncrementalAlterConfigsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: IncrementalAlterConfigsRequest, _ context: RequestContext) {
        services.controller.run { controller in
            var response = IncrementalAlterConfigsResponse()
            let names = request.resources.map { "\($0.resourceType) \($0.resourceName)" }
            for (resource, name) in zip(request.resources, names) {
                var result = IncrementalAlterConfigsResponse.AlterConfigsResourceResponse(
                    errorMessage: nil,
                    resourceType: resource.resourceType,
                    resourceName: resource.resourceName
                )
                do throws(Refusal) {
                    guard names.count(where: { $0 == name }) == 1 else {
                        throw Refusal(
                            code: .invalidRequest,
                            message: "the request names \(resource.resourceName) more than once"
                        )
                    }
                    try self.alter(resource, controller, request.validateOnly)
                } catch {
                    result.errorCode = error.code.rawValue
                    result.errorMessage = error.message
                    context.connection.worker.metrics.failed(.incrementalAlterConfigs, error.code)
                }
                response.responses.append(result)
            }
            context.respond(response)
        }
    }

    private func alter(
        _ request: IncrementalAlterConfigsRequest.AlterConfigsResource,
        _ controller: Controller,
        _ validateOnly: Bool
    ) throws(Refusal) {
        let resource = try ConfigResource(
            type: request.resourceType,
            name: request.resourceName,
            nodeID: services.configuration.nodeID
        )
        let current = try controller.overrides(of: resource)
        var changes: [String: String?] = [:]
        for config in request.configs {
            guard changes.updateValue(nil, forKey: config.name) == nil else {
                throw Refusal(code: .invalidRequest, message: "\(config.name) is changed twice")
            }
            changes[config.name] = .some(try value(config, resource, current))
        }
        try controller.configure(resource, changes, validateOnly: validateOnly)
    }

    /// The new value of a setting; nil to remove it. Operations: 0 set, 1 delete, 2 append, 3 subtract.
    private func value(
        _ config: IncrementalAlterConfigsRequest.AlterableConfig,
        _ resource: ConfigResource,
        _ current: [String: String]
    ) throws(Refusal) -> String? {
        if config.configOperation == 1 { return nil }
        guard let value = config.value else {
            throw Refusal(
                code: .invalidRequest,
                message: "\(config.name) has no value; delete it to restore its default"
            )
        }
        if config.configOperation == 0 { return value }
        let configuration = services.configuration
        let inForce: String?
        switch resource {
        case .topic:
            let setting = TopicSettings.byName[config.name]
            inForce = setting?.type == .list ? setting?.value(configuration.topicDefaults) : nil
        case .broker:
            let setting = BrokerSettings.byName[config.name]
            inForce = setting?.type == .list ? setting?.value(configuration) ?? "" : nil
        case .group: inForce = nil
        }
        guard config.configOperation == 2 || config.configOperation == 3, let inForce else {
            throw Refusal(code: .invalidConfig, message: "\(config.name) is no list; only set and delete apply to it")
        }
        var items = (current[config.name] ?? inForce).split(separator: ",").map(String.init)
        for item in value.split(separator: ",").map(String.init) {
            if config.configOperation == 3 { items.removeAll { $0 == item } }
            if config.configOperation == 2 && !items.contains(item) { items.append(item) }
        }
        return items.joined(separator: ",")
    }
}

/// AlterConfigs, versions 0–2: replaces all settings of a resource.
struct AlterConfigsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: AlterConfigsRequest, _ context: RequestContext) {
        services.controller.run { controller in
            var response = AlterConfigsResponse()
            for resource in request.resources {
                var result = AlterConfigsResponse.AlterConfigsResourceResponse(
                    errorMessage: nil,
                    resourceType: resource.resourceType,
                    resourceName: resource.resourceName
                )
                do throws(Refusal) {
                    try self.replace(resource, controller, request.validateOnly)
                } catch {
                    result.errorCode = error.code.rawValue
                    result.errorMessage = error.message
                    context.connection.worker.metrics.failed(.alterConfigs, error.code)
                }
                response.responses.append(result)
            }
            context.respond(response)
        }
    }

    private func replace(
        _ request: AlterConfigsRequest.AlterConfigsResource,
        _ controller: Controller,
        _ validateOnly: Bool
    ) throws(Refusal) {
        let resource = try ConfigResource(
            type: request.resourceType,
            name: request.resourceName,
            nodeID: services.configuration.nodeID
        )
        var changes: [String: String?] = [:]
        for key in try controller.overrides(of: resource).keys { changes[key] = .some(nil) }
        for config in request.configs {
            guard let value = config.value else {
                throw Refusal(
                    code: .invalidRequest,
                    message: "\(config.name) has no value; leave it out to restore its default"
                )
            }
            changes[config.name] = value
        }
        try controller.configure(resource, changes, validateOnly: validateOnly)
    }
}

/// ListConfigResources, versions 0–1: what has settings. Version 0 asks for client metrics alone, of which there are none.
struct ListConfigResourcesHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: ListConfigResourcesRequest, _ context: RequestContext) {
        let known: Set<Int8> = [2, 4, 8, 16, 32]
        var wanted = Set(request.resourceTypes)
        if context.version == 0 { wanted = [16] } else if wanted.isEmpty { wanted = known }
        guard wanted.isSubset(of: known) else {
            return context.respond(ListConfigResourcesResponse(errorCode: ErrorCode.unsupportedVersion.rawValue))
        }
        let image = services.metadata.image
        let node = String(services.configuration.nodeID)
        var response = ListConfigResourcesResponse()
        if wanted.contains(2) {
            response.configResources += image.topics.keys.sorted().map { .init(resourceName: $0, resourceType: 2) }
        }
        if wanted.contains(4) { response.configResources.append(.init(resourceName: node, resourceType: 4)) }
        if wanted.contains(32) {
            response.configResources += image.groupConfigs.keys.sorted().map {
                .init(resourceName: $0, resourceType: 32)
            }
        }
        context.respond(response)
    }
}
