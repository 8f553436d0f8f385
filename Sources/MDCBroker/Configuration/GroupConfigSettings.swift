// SPDX-License-Identifier: Apache-2.0

/// A setting of one group, by its name in Kafka. It overrides a setting of the node.
struct GroupConfigSetting: Sendable {
    var name: String
    /// The node's setting that gives its default.
    var synonym: String?
    var type: SettingType
    var documentation: String
    /// What holds where the group sets nothing.
    var inherited: @Sendable (BrokerConfiguration) -> String
    /// What is wrong with a value; nil where nothing is.
    var problem: @Sendable (BrokerConfiguration, String) -> String?
    /// Puts a value, which was checked, into a group's settings.
    var apply: @Sendable (inout ShareGroupSettings, String) -> Void
}

/// All settings of groups: those of consumer groups and of share groups.
enum GroupConfigSettings {
    /// In the order they are listed.
    static let all: [GroupConfigSetting] = consumers + times + records
    /// By name.
    static let byName: [String: GroupConfigSetting] = Dictionary(uniqueKeysWithValues: all.map { ($0.name, $0) })

    private static func integer(
        _ name: String,
        _ synonym: String,
        _ path: any (KeyPath<BrokerConfiguration, Int32> & Sendable),
        _ target: any (WritableKeyPath<ShareGroupSettings, Int32> & Sendable),
        _ documentation: String,
        _ range: @escaping @Sendable (BrokerConfiguration) -> (least: Int32, most: Int32)
    ) -> GroupConfigSetting {
        GroupConfigSetting(
            name: name,
            synonym: synonym,
            type: .int,
            documentation: documentation,
            inherited: { String($0[keyPath: path]) },
            problem: { configuration, text in
                let (least, most) = range(configuration)
                guard let value = Int32(text) else { return "expected a whole number" }
                guard value >= least, value <= most else { return "expected a number from \(least) to \(most)" }
                return nil
            },
            apply: { settings, text in if let value = Int32(text) { settings[keyPath: target] = value } }
        )
    }

    private static func choice(
        _ name: String,
        _ standard: String,
        _ type: SettingType,
        _ documentation: String,
        _ problem: @escaping @Sendable (String) -> String?,
        _ apply: @escaping @Sendable (inout ShareGroupSettings, String) -> Void
    ) -> GroupConfigSetting {
        GroupConfigSetting(
            name: name,
            synonym: nil,
            type: type,
            documentation: documentation,
            inherited: { _ in standard },
            problem: { problem($1) },
            apply: apply
        )
    }

    /// Those of consumer groups; `GroupSettings.with(_:)` puts them into force.
    private static let consumers: [GroupConfigSetting] = [
        consumer(
            "consumer.session.timeout.ms",
            "group.consumer.session.timeout.ms",
            \.consumerGroupSessionTimeout,
            "Session timeout of the group's members.",
            1_000...3_600_000
        ),
        consumer(
            "consumer.heartbeat.interval.ms",
            "group.consumer.heartbeat.interval.ms",
            \.consumerGroupHeartbeatInterval,
            "Heartbeat interval of the group's members.",
            100...3_600_000
        ),
    ]

    private static func consumer(
        _ name: String,
        _ synonym: String,
        _ path: any (KeyPath<BrokerConfiguration, Int32> & Sendable),
        _ documentation: String,
        _ range: ClosedRange<Int32>
    ) -> GroupConfigSetting {
        GroupConfigSetting(
            name: name,
            synonym: synonym,
            type: .int,
            documentation: documentation,
            inherited: { String($0[keyPath: path]) },
            problem: { _, text in
                guard let value = Int32(text) else { return "expected a whole number" }
                return range.contains(value) ? nil : "expected a number from \(range.lowerBound) to \(range.upperBound)"
            },
            apply: { _, _ in }
        )
    }

    private static let times: [GroupConfigSetting] = [
        integer(
            "share.session.timeout.ms",
            "group.share.session.timeout.ms",
            \.shareGroupSessionTimeout,
            \.sessionTimeout,
            "Session timeout of the group's members."
        ) { ($0.shareGroupMinSessionTimeout, $0.shareGroupMaxSessionTimeout) },
        integer(
            "share.heartbeat.interval.ms",
            "group.share.heartbeat.interval.ms",
            \.shareGroupHeartbeatInterval,
            \.heartbeatInterval,
            "Heartbeat interval of the group's members."
        ) { ($0.shareGroupMinHeartbeatInterval, $0.shareGroupMaxHeartbeatInterval) },
        integer(
            "share.record.lock.duration.ms",
            "group.share.record.lock.duration.ms",
            \.shareRecordLockDuration,
            \.recordLockDuration,
            "How long a member has a record before others may get it."
        ) { ($0.shareMinRecordLockDuration, $0.shareMaxRecordLockDuration) },
    ]

    private static let records: [GroupConfigSetting] = [
        integer(
            "share.delivery.count.limit",
            "group.share.delivery.count.limit",
            \.shareDeliveryCountLimit,
            \.deliveryCountLimit,
            "How often a record is delivered before it is given up."
        ) { _ in (2, 10) },
        integer(
            "share.partition.max.record.locks",
            "group.share.partition.max.record.locks",
            \.sharePartitionMaxRecordLocks,
            \.maxRecordLocks,
            "Records of one partition that the group may have in flight before it reads no further."
        ) { _ in (100, 10_000) },
        choice(
            "share.auto.offset.reset",
            "latest",
            .string,
            "Where the group begins in a partition it never read: earliest, latest, by_duration:PnDTnHnMnS.",
            { ShareOffsetReset($0) == nil ? "expected earliest, latest or by_duration:PnDTnHnMnS" : nil },
            { settings, text in if let reset = ShareOffsetReset(text) { settings.autoOffsetReset = reset } }
        ),
        choice(
            "share.isolation.level",
            "read_uncommitted",
            .string,
            "Whether records of open and aborted transactions are delivered: read_uncommitted, read_committed.",
            {
                $0 == "read_uncommitted" || $0 == "read_committed"
                    ? nil : "expected read_uncommitted or read_committed"
            },
            { $0.readCommitted = $1 == "read_committed" }
        ),
        choice(
            "share.renew.acknowledge.enable",
            "true",
            .boolean,
            "Whether members may renew the locks of their records.",
            { $0 == "true" || $0 == "false" ? nil : "expected true or false" },
            { $0.renewEnabled = $1 == "true" }
        ),
    ]
}

extension BrokerConfiguration {
    /// The settings of a share group that has set `overrides`.
    func shareGroupSettings(_ overrides: [String: String]) -> ShareGroupSettings {
        var settings = ShareGroupSettings()
        settings.sessionTimeout = shareGroupSessionTimeout
        settings.heartbeatInterval = shareGroupHeartbeatInterval
        settings.maxSize = shareGroupMaxSize
        settings.recordLockDuration = shareRecordLockDuration
        settings.deliveryCountLimit = shareDeliveryCountLimit
        settings.maxRecordLocks = sharePartitionMaxRecordLocks
        for (name, value) in overrides { GroupConfigSettings.byName[name]?.apply(&settings, value) }
        return settings
    }
}
