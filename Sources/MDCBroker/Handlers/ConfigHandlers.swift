// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Where the value of a setting comes from, with the numbers of DescribeConfigs.
enum ConfigSource: Int8, Sendable {
    case topic = 1
    case staticBroker = 4
    case defaultConfig = 5
    case group = 8
}

/// A setting with its value and where that comes from.
struct ConfigEntry: Sendable {
    var name: String
    var value: String?
    var source: ConfigSource
    var type: SettingType
    var documentation: String
    /// The node's setting behind a topic's, with its value and source.
    var synonym: (name: String, value: String?, source: ConfigSource)?
}

/// The settings in force.
struct ConfigView: Sendable {
    let services: BrokerServices

    func topic(_ topic: TopicImage) -> [ConfigEntry] {
        let configuration = services.configuration
        return TopicSettings.all.map { setting in
            let isMinInSync = setting.name == "min.insync.replicas"
            let inherited =
                isMinInSync ? String(configuration.minInSyncReplicas) : setting.value(configuration.topicDefaults)
            let isExplicit = setting.synonym.map { configuration.explicit[$0] != nil } ?? false
            let source: ConfigSource = isExplicit ? .staticBroker : .defaultConfig
            let own = topic.configs[setting.name]
            return ConfigEntry(
                name: setting.name,
                value: own ?? inherited,
                source: own == nil ? source : .topic,
                type: setting.type,
                documentation: setting.documentation,
                synonym: setting.synonym.map { ($0, inherited, source) }
            )
        }
    }

    func group(_ name: String) -> [ConfigEntry] {
        let configuration = services.configuration
        let own = services.metadata.image.groupConfigs[name] ?? [:]
        return GroupConfigSettings.all.map { setting in
            let isExplicit = setting.synonym.map { configuration.explicit[$0] != nil } ?? false
            let inherited = setting.inherited(configuration)
            let source: ConfigSource = isExplicit ? .staticBroker : .defaultConfig
            return ConfigEntry(
                name: setting.name,
                value: own[setting.name] ?? inherited,
                source: own[setting.name] == nil ? source : .group,
                type: setting.type,
                documentation: setting.documentation,
                synonym: setting.synonym.map { ($0, inherited, source) }
            )
        }
    }

    func broker() -> [ConfigEntry] {
        let configuration = services.configuration
        return BrokerSettings.byName.values.sorted { $0.name < $1.name }.map { setting in
            ConfigEntry(
                name: setting.name,
                value: setting.value(configuration),
                source: configuration.explicit[setting.name] == nil ? .defaultConfig : .staticBroker,
                type: setting.type,
                documentation: setting.documentation
            )
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
                resourceType: resource.resourceType,
                resourceName: resource.resourceName
            )
            switch entries(resource) {
            case .failure(let refusal):
                result.errorCode = refusal.code.rawValue
                result.errorMessage = refusal.message
            case .success(let (entries, isReadOnly)):
                result.configs = entries.filter { resource.configurationKeys?.contains($0.name) ?? true }.map {
                    Self.describe($0, request, context.version, isReadOnly)
                }
            }
            response.results.append(result)
        }
        context.respond(response)
    }

    private func entries(
        _ resource: DescribeConfigsRequest.DescribeConfigsResource
    ) -> Result<([ConfigEntry], Bool), Refusal> {
        let view = ConfigView(services: services)
        switch resource.resourceType {
        case 2:
            guard let topic = services.metadata.image.topic(resource.resourceName) else {
                return .failure(
                    Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(resource.resourceName)")
                )
            }
            return .success((view.topic(topic), false))
        case 4:
            guard resource.resourceName.isEmpty || Int32(resource.resourceName) == services.configuration.nodeID else {
                return .failure(
                    Refusal(
                        code: .invalidRequest,
                        message: "this is node \(services.configuration.nodeID); ask node \(resource.resourceName)"
                    )
                )
            }
            return .success((resource.resourceName.isEmpty ? [] : view.broker(), true))
        case 32: return .success((view.group(resource.resourceName), false))
        default:
            return .failure(
                Refusal(
                    code: .invalidRequest,
                    message: "resources of type \(resource.resourceType) have no settings here"
                )
            )
        }
    }

    private static func describe(
        _ entry: ConfigEntry,
        _ request: DescribeConfigsRequest,
        _ version: Int16,
        _ isReadOnly: Bool
    ) -> DescribeConfigsResponse.DescribeConfigsResourceResult {
        var result = DescribeConfigsResponse.DescribeConfigsResourceResult(
            name: entry.name,
            value: entry.value,
            readOnly: isReadOnly,
            configSource: entry.source.rawValue
        )
        if request.includeSynonyms {
            if entry.source == .topic || entry.source == .group {
                result.synonyms.append(.init(name: entry.name, value: entry.value, source: entry.source.rawValue))
            }
            if let synonym = entry.synonym {
                result.synonyms.append(.init(name: synonym.name, value: synonym.value, source: synonym.source.rawValue))
            }
        }
        if version >= 3 {
            result.configType = entry.type.rawValue
            if request.includeDocumentation { result.documentation = entry.documentation }
        }
        return result
    }
}

/// IncrementalAlterConfigs, versions 0–1: topics.
struct IncrementalAlterConfigsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: IncrementalAlterConfigsRequest, _ context: RequestContext) {
        services.controller.run { controller in
            var response = IncrementalAlterConfigsResponse()
            for resource in request.resources {
                var result = IncrementalAlterConfigsResponse.AlterConfigsResourceResponse(
                    errorMessage: nil,
                    resourceType: resource.resourceType,
                    resourceName: resource.resourceName
                )
                do throws(Refusal) {
                    try self.alter(resource, controller, request.validateOnly)
                } catch {
                    result.errorCode = error.code.rawValue
                    result.errorMessage = error.message
                }
                response.responses.append(result)
            }
            context.respond(response)
        }
    }

    private func alter(
        _ resource: IncrementalAlterConfigsRequest.AlterConfigsResource,
        _ controller: Controller,
        _ validateOnly: Bool
    ) throws(Refusal) {
        if resource.resourceType == 32 { return try alterGroup(resource, controller, validateOnly) }
        guard resource.resourceType == 2 else {
            throw Refusal(
                code: .invalidRequest,
                message: "only the settings of topics and groups can be changed while the node runs"
            )
        }
        guard let topic = services.metadata.image.topic(resource.resourceName) else {
            throw Refusal(code: .unknownTopicOrPartition, message: "there is no topic \(resource.resourceName)")
        }
        var changes: [String: String?] = [:]
        for config in resource.configs {
            guard changes.updateValue(nil, forKey: config.name) == nil else {
                throw Refusal(code: .invalidRequest, message: "\(config.name) is changed twice")
            }
            changes[config.name] = .some(try value(config, topic))
        }
        try controller.configure(resource.resourceName, changes, validateOnly: validateOnly)
    }

    /// Settings of a group: set (0) and delete (1); none of them is a list.
    private func alterGroup(
        _ resource: IncrementalAlterConfigsRequest.AlterConfigsResource,
        _ controller: Controller,
        _ validateOnly: Bool
    ) throws(Refusal) {
        var changes: [String: String?] = [:]
        for config in resource.configs {
            guard config.configOperation == 0 || config.configOperation == 1 else {
                throw Refusal(
                    code: .invalidConfig,
                    message: "\(config.name) is no list; only set and delete apply to it"
                )
            }
            guard config.configOperation == 1 || config.value != nil else {
                throw Refusal(
                    code: .invalidConfig,
                    message: "\(config.name) has no value; delete it to restore its default"
                )
            }
            changes[config.name] = .some(config.configOperation == 1 ? nil : config.value)
        }
        try controller.configure(group: resource.resourceName, changes, validateOnly: validateOnly)
    }

    /// The new value of a setting; nil to remove it. Operations: 0 set, 1 delete, 2 append, 3 subtract.
    private func value(
        _ config: IncrementalAlterConfigsRequest.AlterableConfig,
        _ topic: TopicImage
    ) throws(Refusal) -> String? {
        if config.configOperation == 1 { return nil }
        guard let value = config.value else {
            throw Refusal(
                code: .invalidConfig,
                message: "\(config.name) has no value; delete it to restore its default"
            )
        }
        if config.configOperation == 0 { return value }
        guard config.configOperation == 2 || config.configOperation == 3,
            let setting = TopicSettings.byName[config.name], setting.type == .list
        else {
            throw Refusal(code: .invalidConfig, message: "\(config.name) is no list; only set and delete apply to it")
        }
        let current = topic.configs[config.name] ?? setting.value(services.configuration.topicDefaults)
        var items = current.split(separator: ",").map(String.init)
        for item in value.split(separator: ",").map(String.init) {
            items.removeAll { $0 == item }
            if config.configOperation == 2 { items.append(item) }
        }
        return items.joined(separator: ",")
    }
}

/// AlterConfigs, versions 0–2: replaces all settings of a topic.
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
                    if resource.resourceType == 32 {
                        var changes: [String: String?] = [:]
                        for key in controller.metadata.image.groupConfigs[resource.resourceName]?.keys ?? [:].keys {
                            changes[key] = .some(nil)
                        }
                        for config in resource.configs { changes[config.name] = .some(config.value) }
                        try controller.configure(
                            group: resource.resourceName,
                            changes,
                            validateOnly: request.validateOnly
                        )
                        response.responses.append(result)
                        continue
                    }
                    guard resource.resourceType == 2 else {
                        throw Refusal(
                            code: .invalidRequest,
                            message: "only the settings of topics and groups can be changed while the node runs"
                        )
                    }
                    var changes: [String: String?] = [:]
                    for key in controller.metadata.image.topic(resource.resourceName)?.configs.keys ?? [:].keys {
                        changes[key] = .some(nil)
                    }
                    for config in resource.configs { changes[config.name] = .some(config.value) }
                    try controller.configure(resource.resourceName, changes, validateOnly: request.validateOnly)
                } catch {
                    result.errorCode = error.code.rawValue
                    result.errorMessage = error.message
                }
                response.responses.append(result)
            }
            context.respond(response)
        }
    }
}
