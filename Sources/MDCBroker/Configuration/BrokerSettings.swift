// SPDX-License-Identifier: Apache-2.0

import MDCLog

/// The type of a setting, with the numbers that DescribeConfigs uses.
public enum SettingType: Int8, Sendable {
    case boolean = 1
    case string = 2
    case int = 3
    case short = 4
    case long = 5
    case double = 6
    case list = 7
}

/// A setting of the node, by its name in Kafka.
public struct BrokerSetting: Sendable {
    /// Kafka's name, or ours where Kafka has nothing of the kind.
    public var name: String
    /// What kind of value it takes.
    public var type: SettingType
    /// What it does, with its unit and range.
    public var documentation: String
    /// Puts a value into the configuration; returns what is wrong with it, or nil.
    var apply: @Sendable (inout BrokerConfiguration, String) -> String?
    /// The value as text.
    var value: @Sendable (BrokerConfiguration) -> String?
}

/// All settings of the node.
public enum BrokerSettings {
    /// By name.
    public static let byName: [String: BrokerSetting] = Dictionary(
        uniqueKeysWithValues: (node + network + topics + topicSynonyms + fetch + groups + shareGroups + rules).map {
            ($0.name, $0)
        }
    )
    /// Those that give topics their defaults.
    static let topicDefaults: Set<String> = Set(topicSynonyms.map(\.name))

    static func integer<T: FixedWidthInteger & Sendable>(
        _ name: String,
        _ type: SettingType,
        _ path: any (WritableKeyPath<BrokerConfiguration, T> & Sendable),
        _ range: ClosedRange<T>,
        _ documentation: String
    ) -> BrokerSetting {
        BrokerSetting(
            name: name,
            type: type,
            documentation: documentation,
            apply: { configuration, text in
                guard let value = T(text) else { return "expected a whole number" }
                guard range.contains(value) else {
                    return "expected a number from \(range.lowerBound) to \(range.upperBound)"
                }
                configuration[keyPath: path] = value
                return nil
            },
            value: { String($0[keyPath: path]) }
        )
    }

    private static func boolean(
        _ name: String,
        _ path: any (WritableKeyPath<BrokerConfiguration, Bool> & Sendable),
        _ documentation: String
    ) -> BrokerSetting {
        BrokerSetting(
            name: name,
            type: .boolean,
            documentation: documentation,
            apply: { configuration, text in
                guard let value = Bool(text) else { return "expected true or false" }
                configuration[keyPath: path] = value
                return nil
            },
            value: { String($0[keyPath: path]) }
        )
    }

    private static let node: [BrokerSetting] = [
        integer("node.id", .int, \.nodeID, 0...Int32.max, "The id of the node in its cluster."),
        BrokerSetting(
            name: "log.dirs",
            type: .list,
            documentation: "The data folders, separated by commas; the first holds the metadata.",
            apply: { configuration, text in
                let folders = text.split(separator: ",", omittingEmptySubsequences: false).map {
                    String($0.drop { $0 == " " })
                }
                guard !folders.contains("") else { return "expected folders, separated by commas" }
                configuration.dataDirectories = folders
                return nil
            },
            value: { $0.dataDirectories.joined(separator: ",") }
        ),
        BrokerSetting(
            name: "listeners",
            type: .list,
            documentation: "Where clients connect, HOST:PORT or PLAINTEXT://HOST:PORT.",
            apply: { address($1, \.listen, &$0) },
            value: { $0.listen.description }
        ),
        BrokerSetting(
            name: "advertised.listeners",
            type: .list,
            documentation: "What clients are told to connect to.",
            apply: { configuration, text in
                var listen = configuration
                if let problem = address(text, \.listen, &listen) { return problem }
                configuration.advertise = listen.listen
                return nil
            },
            value: { $0.advertise?.description }
        ),
        BrokerSetting(
            name: "controller.listeners",
            type: .list,
            documentation: "Where controllers talk to one another.",
            apply: { configuration, text in
                guard let address = HostPort(text) else { return "expected HOST:PORT" }
                configuration.controllerListen = address
                return nil
            },
            value: { $0.controllerListen?.description }
        ),
        BrokerSetting(
            name: "controller.quorum.voters",
            type: .list,
            documentation: "The voters, ID@HOST:PORT with commas between.",
            apply: { configuration, text in
                var voters: [Voter] = []
                for part in text.split(separator: ",") {
                    let halves = part.split(separator: "@", maxSplits: 1)
                    guard halves.count == 2, let id = Int32(halves[0]), let address = HostPort(String(halves[1])) else {
                        return "expected ID@HOST:PORT, got \(part)"
                    }
                    voters.append(Voter(id: id, address: address))
                }
                configuration.voters = voters
                return nil
            },
            value: { $0.voters.isEmpty ? nil : $0.voters.map { "\($0.id)@\($0.address)" }.joined(separator: ",") }
        ),
        BrokerSetting(
            name: "http.listeners",
            type: .string,
            documentation: "Where /livez, /readyz and /metrics are; none for nowhere.",
            apply: { configuration, text in
                if text == "none" {
                    configuration.http = nil
                    return nil
                }
                guard let address = HostPort(text) else { return "expected HOST:PORT or none" }
                configuration.http = address
                return nil
            },
            value: { $0.http?.description ?? "none" }
        ),
        BrokerSetting(
            name: "broker.rack",
            type: .string,
            documentation: "The rack of the node.",
            apply: {
                $0.rack = $1
                return nil
            },
            value: { $0.rack }
        ),
        integer(
            "shutdown.timeout.ms",
            .long,
            \.shutdownTimeoutMilliseconds,
            0...3_600_000,
            "How long requests in service may take when the node stops."
        ),
    ]

    private static func address(
        _ text: String,
        _ path: WritableKeyPath<BrokerConfiguration, HostPort>,
        _ configuration: inout BrokerConfiguration
    ) -> String? {
        var rest = text[...]
        if let scheme = text.firstRange(of: "://") {
            guard text[..<scheme.lowerBound].uppercased() == "PLAINTEXT" else { return "only PLAINTEXT is served" }
            rest = text[scheme.upperBound...]
        }
        guard let address = HostPort(String(rest)) else { return "expected HOST:PORT" }
        configuration[keyPath: path] = address
        return nil
    }

    private static let network: [BrokerSetting] = [
        integer("num.network.threads", .int, \.networkThreads, 0...256, "Event loops; 0 for one a core."),
        integer(
            "socket.request.max.bytes",
            .int,
            \.requestMaxBytes,
            1024...2_000_000_000,
            "The most bytes of a request."
        ),
        integer("max.connections", .int, \.maxConnections, 1...1_000_000, "The most connections."),
        integer(
            "max.connections.per.ip",
            .int,
            \.maxConnectionsPerIP,
            0...Int(Int32.max),
            "The most connections from one address."
        ),
        integer(
            "connections.max.idle.ms",
            .long,
            \.connectionsMaxIdleMilliseconds,
            -1...Int64.max,
            "A connection that is silent for so long is closed; -1 for never."
        ),
        integer(
            "queued.max.request.bytes",
            .long,
            \.queuedMaxRequestBytes,
            1 << 20...Int.max,
            "Bytes of requests that are being received, over all connections."
        ),
        integer(
            "max.in.flight.requests",
            .int,
            \.maxInFlightRequests,
            1...100_000,
            "Requests of a connection in service before reading from it stops."
        ),
        integer(
            "max.pending.response.bytes",
            .int,
            \.maxPendingResponseBytes,
            65_536...2_000_000_000,
            "Bytes of answers that wait for a slow reader before reading from it stops."
        ),
    ]

    private static let topics: [BrokerSetting] = [
        boolean("auto.create.topics.enable", \.autoCreateTopics, "Whether asking for an unknown topic creates it."),
        boolean("delete.topic.enable", \.deleteTopicsEnabled, "Whether topics may be deleted."),
        integer(
            "num.partitions",
            .int,
            \.defaultPartitions,
            1...10_000,
            "Partitions of a topic whose creator did not say."
        ),
        integer(
            "default.replication.factor",
            .short,
            \.defaultReplicationFactor,
            -1...1000,
            "Replicas of a topic whose creator did not say; -1 for min(3, nodes)."
        ),
        integer("min.insync.replicas", .int, \.minInSyncReplicas, 1...1000, "In-sync replicas that acks=all needs."),
        integer(
            "replica.lag.time.max.ms",
            .long,
            \.replicaLagMilliseconds,
            100...3_600_000,
            "After how long a replica that has not caught up is no longer in sync."
        ),
        integer(
            "replica.compare.interval.ms",
            .long,
            \.replicaCompareMilliseconds,
            0...Int64.max / 4,
            "How often a replica is compared with its leader by checksum; 0 for never."
        ),
        integer(
            "leader.replication.throttled.rate",
            .long,
            \.leaderThrottledRate,
            0...Int64.max,
            "Bytes a second to replicas out of sync that topics name in leader.replication.throttled.replicas."
        ),
        integer(
            "follower.replication.throttled.rate",
            .long,
            \.followerThrottledRate,
            0...Int64.max,
            "Bytes a second into replicas out of sync that topics name in follower.replication.throttled.replicas."
        ),
        integer("log.sync.threads", .int, \.syncThreads, 1...64, "Threads that bring appends to disk."),
        integer(
            "log.retention.check.interval.ms",
            .long,
            \.retentionCheckMilliseconds,
            1...Int64.max,
            "Milliseconds between looks at retention."
        ),
        integer(
            "producer.id.expiration.ms",
            .int,
            \.producerExpirationMilliseconds,
            1...Int64(Int32.max),
            "How long the state of an idle producer is kept."
        ),
        integer("max.open.files", .int, \.maxOpenFiles, 16...10_000_000, "Segment files kept open."),
        hours("log.retention.minutes", 60_000), hours("log.retention.hours", 3_600_000),
        BrokerSetting(
            name: "log.roll.hours",
            type: .int,
            documentation: "Hours after which a segment is rolled.",
            apply: { configuration, text in
                guard let value = Int64(text), (1...1_000_000_000).contains(value) else {
                    return "expected a number from 1"
                }
                configuration.topicDefaults.segmentMilliseconds = value * 3_600_000
                return nil
            },
            value: { String($0.topicDefaults.segmentMilliseconds / 3_600_000) }
        ),
    ]

    /// The node's defaults of topic settings.
    private static let topicSynonyms: [BrokerSetting] = TopicSettings.all.compactMap { topic in
        guard let synonym = topic.synonym, synonym != "min.insync.replicas" else { return nil }
        return BrokerSetting(
            name: synonym,
            type: topic.type,
            documentation: topic.documentation,
            apply: { topic.apply(&$0.topicDefaults, $1) },
            value: { topic.value($0.topicDefaults) }
        )
    }

    private static func hours(_ name: String, _ unit: Int64) -> BrokerSetting {
        BrokerSetting(
            name: name,
            type: .int,
            documentation: "log.retention.ms in a coarser unit; -1 for ever.",
            apply: { configuration, text in
                guard let value = Int64(text), (-1...1_000_000_000).contains(value) else {
                    return "expected a number from -1"
                }
                configuration.topicDefaults.retentionMilliseconds = value < 0 ? -1 : value * unit
                return nil
            },
            value: {
                $0.topicDefaults.retentionMilliseconds < 0
                    ? "-1" : String($0.topicDefaults.retentionMilliseconds / unit)
            }
        )
    }

    private static let fetch: [BrokerSetting] = [
        integer("fetch.max.bytes", .int, \.fetchMaxBytes, 1024...2_000_000_000, "The most bytes of a fetch response."),
        integer(
            "max.incremental.fetch.session.cache.slots",
            .int,
            \.fetchSessionSlots,
            0...1_000_000,
            "Incremental fetch sessions kept."
        ),
        integer(
            "fetch.copy.max.bytes",
            .int,
            \.fetchCopyMaxBytes,
            0...1 << 30,
            "Records of a fetch answer up to this sum are copied, the others go from file to socket."
        ),
    ]

    private static let rules: [BrokerSetting] = [
        integer(
            "quota.window.size.seconds",
            .int,
            \.quotaWindowSeconds,
            1...3600,
            "Seconds of a client's quota that may be used at once."
        ),
        integer(
            "topic.policy.max.partitions",
            .int,
            \.policyMaxPartitions,
            1...10_000,
            "The most partitions of a topic that a client makes."
        ),
        BrokerSetting(
            name: "topic.policy.name.pattern",
            type: .string,
            documentation: "A regular expression that the names of topics made by clients must match; empty for none.",
            apply: { configuration, text in
                guard text.isEmpty || TopicPattern(text) != nil else { return "expected a regular expression" }
                configuration.policyNamePattern = text
                return nil
            },
            value: { $0.policyNamePattern }
        ),
        BrokerSetting(
            name: "logging.format",
            type: .string,
            documentation: "How lines of the log on standard error look: text, or json for an object a line.",
            apply: { configuration, text in
                guard let format = LoggingFormat(rawValue: text) else { return "expected text or json" }
                configuration.loggingFormat = format
                return nil
            },
            value: { $0.loggingFormat.rawValue }
        ),
        boolean(
            "metrics.partitions.enable",
            \.showsPartitionMetrics,
            "Whether /metrics shows series for each partition."
        ),
        integer(
            "metadata.log.max.record.bytes.between.snapshots",
            .long,
            \.metadataSnapshotBytes,
            16_384...1 << 40,
            "Bytes of the metadata log after which a snapshot takes its place."
        ),
        integer(
            "controller.quorum.election.timeout.ms",
            .long,
            \.electionTimeoutMilliseconds,
            300...600_000,
            "Time without word from the quorum's leader before another is elected."
        ),
        integer(
            "broker.session.timeout.ms",
            .long,
            \.brokerSessionMilliseconds,
            500...600_000,
            "How long a broker may be silent before it is fenced."
        ),
        integer(
            "broker.heartbeat.interval.ms",
            .long,
            \.brokerHeartbeatMilliseconds,
            50...60_000,
            "Milliseconds between a broker's signs of life."
        ),
    ]

    private static let groups: [BrokerSetting] = [
        integer(
            "offsets.topic.num.partitions",
            .int,
            \.offsetsTopicPartitions,
            1...10_000,
            "Partitions of __consumer_offsets, at its creation."
        ),
        integer(
            "offsets.topic.segment.bytes",
            .int,
            \.offsetsTopicSegmentBytes,
            1 << 20...1 << 30,
            "Bytes of a segment of __consumer_offsets, at its creation."
        ),
        integer(
            "transaction.state.log.num.partitions",
            .int,
            \.transactionTopicPartitions,
            1...10_000,
            "Partitions of __transaction_state, at its creation."
        ),
        integer(
            "transaction.state.log.segment.bytes",
            .int,
            \.transactionTopicSegmentBytes,
            1 << 20...1 << 30,
            "Bytes of a segment of __transaction_state, at its creation."
        ),
        integer(
            "transaction.max.timeout.ms",
            .int,
            \.transactionMaxTimeout,
            1...Int32.max,
            "The longest timeout that a producer may ask for its transactions."
        ),
        integer(
            "transactional.id.expiration.ms",
            .int,
            \.transactionalIDExpiration,
            1...Int64(Int32.max),
            "How long an unused transactional id is remembered."
        ),
        integer(
            "transaction.remove.expired.transaction.cleanup.interval.ms",
            .int,
            \.transactionalIDExpirationCheckInterval,
            1...Int64(Int32.max),
            "Milliseconds between looks for expired transactional ids."
        ),
        boolean(
            "transaction.partition.verification.enable",
            \.verifiesTransactionPartitions,
            "Whether a write into a transaction is checked with its coordinator."
        ),
        integer(
            "group.min.session.timeout.ms",
            .int,
            \.groupMinSessionTimeout,
            1...Int32.max,
            "Least session timeout."
        ),
        integer(
            "group.max.session.timeout.ms",
            .int,
            \.groupMaxSessionTimeout,
            1...Int32.max,
            "Greatest session timeout."
        ),
        integer("group.max.size", .int, \.groupMaxSize, 1...Int32.max, "The most members of a classic group."),
        integer(
            "group.initial.rebalance.delay.ms",
            .int,
            \.groupInitialRebalanceDelay,
            0...600_000,
            "How long the first rebalance of an empty group waits for more members."
        ),
        integer(
            "offset.metadata.max.bytes",
            .int,
            \.offsetMetadataMaxBytes,
            0...1 << 24,
            "The most bytes of the text beside a committed offset."
        ),
        integer(
            "offsets.retention.minutes",
            .int,
            \.offsetsRetentionMinutes,
            1...Int64(Int32.max),
            "How long the offsets of an empty group are kept."
        ),
        integer(
            "offsets.retention.check.interval.ms",
            .long,
            \.offsetsRetentionCheckInterval,
            1...Int64(Int32.max),
            "Milliseconds between looks for expired offsets."
        ),
        integer(
            "group.consumer.session.timeout.ms",
            .int,
            \.consumerGroupSessionTimeout,
            1...Int32.max,
            "Session timeout of the consumer protocol."
        ),
        integer(
            "group.consumer.heartbeat.interval.ms",
            .int,
            \.consumerGroupHeartbeatInterval,
            1...Int32.max,
            "Heartbeat interval of the consumer protocol."
        ),
        integer(
            "group.consumer.max.size",
            .int,
            \.consumerGroupMaxSize,
            1...Int32.max,
            "The most members of a consumer group."
        ),
        BrokerSetting(
            name: "group.consumer.migration.policy",
            type: .string,
            documentation:
                "Whether groups with members change their protocol: bidirectional, upgrade, downgrade, disabled.",
            apply: { configuration, text in
                guard let policy = GroupMigrationPolicy(rawValue: text.lowercased()) else {
                    return "expected bidirectional, upgrade, downgrade or disabled"
                }
                configuration.groupMigrationPolicy = policy
                return nil
            },
            value: { $0.groupMigrationPolicy.rawValue }
        ),
    ]
}
