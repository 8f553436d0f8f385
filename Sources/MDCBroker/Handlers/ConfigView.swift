// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Where the value of a setting comes from, with the numbers of DescribeConfigs.
enum ConfigSource: Int8, Sendable {
    case topic = 1
    case broker = 2
    case allBrokers = 3
    case staticBroker = 4
    case defaultConfig = 5
    case group = 8
}

/// A setting with its value and where that comes from.
struct ConfigEntry: Sendable {
    /// A value that is set somewhere.
    struct Origin: Equatable, Sendable {
        var name: String
        var value: String?
        var source: ConfigSource
    }

    var name: String
    var type: SettingType
    var documentation: String
    var isReadOnly = false
    /// Everything that is set, the one in force first; never empty.
    var origins: [Origin]

    var value: String? { origins[0].value }
    var source: ConfigSource { origins[0].source }
}

/// The settings in force.
struct ConfigView: Sendable {
    let services: BrokerServices

    /// Where a setting of the node is set, the one in force first.
    private func origins(_ setting: BrokerSetting) -> [ConfigEntry.Origin] {
        let image = services.metadata.image
        let started = services.live.started
        var origins: [ConfigEntry.Origin] = []
        if setting.isDynamic {
            if let value = image.brokerConfigs[started.nodeID]?[setting.name] {
                origins.append(.init(name: setting.name, value: value, source: .broker))
            }
            if let value = image.brokerConfigs[nil]?[setting.name] {
                origins.append(.init(name: setting.name, value: value, source: .allBrokers))
            }
        }
        for name in [setting.name] + Self.coarser(setting.name) {
            if let value = started.explicit[name] {
                origins.append(.init(name: name, value: value, source: .staticBroker))
            }
        }
        let initial = BrokerConfiguration()
        origins.append(.init(name: setting.name, value: setting.value(initial), source: .defaultConfig))
        // The value in force is what the setting says now, in the form we write it; what it was set to may look otherwise.
        origins[0].value = setting.value(services.configuration)
        return origins
    }

    /// Other names of the same setting.
    private static func coarser(_ name: String) -> [String] {
        switch name {
        case "log.retention.ms": ["log.retention.minutes", "log.retention.hours"]
        case "log.roll.ms": ["log.roll.hours"]
        default: []
        }
    }

    func topic(_ topic: TopicImage) -> [ConfigEntry] {
        let defaults = services.configuration.topicDefaults
        return TopicSettings.all.map { setting in
            var origins: [ConfigEntry.Origin] = []
            if let own = topic.configs[setting.name] {
                origins.append(.init(name: setting.name, value: own, source: .topic))
            }
            if let synonym = setting.synonym.flatMap({ BrokerSettings.byName[$0] }) {
                origins += self.origins(synonym)
            } else {
                origins.append(.init(name: setting.name, value: setting.value(defaults), source: .defaultConfig))
            }
            return ConfigEntry(
                name: setting.name,
                type: setting.type,
                documentation: setting.documentation,
                origins: origins
            )
        }
    }

    /// The settings of this node.
    func broker() -> [ConfigEntry] {
        BrokerSettings.byName.values.sorted { $0.name < $1.name }.map { setting in
            ConfigEntry(
                name: setting.name,
                type: setting.type,
                documentation: setting.documentation,
                isReadOnly: !setting.isDynamic,
                origins: origins(setting)
            )
        }
    }

    /// What was set for all nodes while they ran.
    func sharedBroker() -> [ConfigEntry] {
        (services.metadata.image.brokerConfigs[nil] ?? [:]).sorted { $0.key < $1.key }.compactMap { name, value in
            guard let setting = BrokerSettings.byName[name] else { return nil }
            return ConfigEntry(
                name: name,
                type: setting.type,
                documentation: setting.documentation,
                origins: [.init(name: name, value: value, source: .allBrokers)]
            )
        }
    }

    func group(_ name: String) -> [ConfigEntry] {
        let own = services.metadata.image.groupConfigs[name] ?? [:]
        let configuration = services.configuration
        return GroupConfigSettings.all.map { setting in
            var origins: [ConfigEntry.Origin] = []
            if let value = own[setting.name] {
                origins.append(.init(name: setting.name, value: value, source: .group))
            }
            if let synonym = setting.synonym.flatMap({ BrokerSettings.byName[$0] }) {
                origins += self.origins(synonym)
            } else {
                let inherited = setting.inherited(configuration)
                origins.append(.init(name: setting.name, value: inherited, source: .defaultConfig))
            }
            return ConfigEntry(
                name: setting.name,
                type: setting.type,
                documentation: setting.documentation,
                origins: origins
            )
        }
    }
}
