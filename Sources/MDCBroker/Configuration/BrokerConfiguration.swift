// SPDX-License-Identifier: Apache-2.0

public import MDCLog

/// A host and a port to listen on or to announce.
public struct HostPort: Hashable, Sendable, CustomStringConvertible {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    public var host: String
    /// 0 to let the system choose when listening.
    public var port: Int

    /// Makes an address.
    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// Reads `HOST:PORT` or `[IPV6]:PORT`; nil where the text is neither.
    public init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (0...65535).contains(port)
        else { return nil }
        var host = String(text[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = String(host.dropFirst().dropLast())
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty else { return nil }
        self.init(host: host, port: port)
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// How lines of the process's log look.
public enum LoggingFormat: String, CaseIterable, Sendable {
    /// For people.
    case text
    /// One JSON object a line.
    case json
}

/// A voter of the metadata quorum.
public struct Voter: Hashable, Sendable {
    /// The node.
    public var id: Int32
    /// Where its controller listens.
    public var address: HostPort

    /// Makes a voter.
    public init(id: Int32, address: HostPort) {
        self.id = id
        self.address = address
    }
}

/// Everything a node can be told. Each setting has Kafka's name in ``BrokerSettings``.
public struct BrokerConfiguration: Sendable {
    // MARK: Identity and addresses

    /// The id of the node in its cluster, from 0.
    public var nodeID: Int32 = 1
    /// The data folders, each made and formatted when empty. The first holds the metadata; a new partition goes to the one
    /// with the fewest.
    public var dataDirectories = ["./mdc-data"]
    /// The first data folder, which holds the metadata; to set it makes it the only one.
    public var dataDirectory: String {
        get { dataDirectories.first ?? "" }
        set { dataDirectories = [newValue] }
    }
    /// Where clients connect.
    public var listen = HostPort(host: "127.0.0.1", port: 9092)
    /// What clients are told to connect to; what is listened on where nil.
    public var advertise: HostPort?
    /// Where controllers talk to one another.
    public var controllerListen: HostPort?
    /// The voters of the metadata quorum; empty for a node of its own.
    public var voters: [Voter] = []
    /// Where `/livez`, `/readyz` and `/metrics` are; nil for nowhere.
    public var http: HostPort? = HostPort(host: "127.0.0.1", port: 9464)
    /// The least time without word from the quorum's leader before another is elected, in milliseconds
    /// (`controller.quorum.election.timeout.ms`).
    public var electionTimeoutMilliseconds: Int64 = 1_000
    /// How long a broker may be silent before it is fenced, in milliseconds (`broker.session.timeout.ms`).
    public var brokerSessionMilliseconds: Int64 = 3_000
    /// Milliseconds between a broker's signs of life (`broker.heartbeat.interval.ms`).
    public var brokerHeartbeatMilliseconds: Int64 = 500
    /// The rack of the node (`broker.rack`).
    public var rack: String?

    // MARK: Network

    /// Event loops; 0 for one a core.
    public var networkThreads = 0
    /// The most bytes of a request (`socket.request.max.bytes`).
    public var requestMaxBytes = 104_857_600
    /// The most connections (`max.connections`).
    public var maxConnections = 10_000
    /// The most connections from one address (`max.connections.per.ip`).
    public var maxConnectionsPerIP = Int(Int32.max)
    /// How long a connection may be silent, in milliseconds (`connections.max.idle.ms`); -1 for ever.
    public var connectionsMaxIdleMilliseconds: Int64 = 600_000
    /// Bytes of requests that are being received, over all connections (`queued.max.request.bytes`).
    public var queuedMaxRequestBytes = 128 << 20
    /// Requests of one connection that are in service before reading stops.
    public var maxInFlightRequests = 256
    /// Bytes of answers that wait for a slow reader before reading stops.
    public var maxPendingResponseBytes = 16 << 20

    // MARK: Topics

    /// Whether asking for the metadata of an unknown topic creates it.
    public var autoCreateTopics = true
    /// Partitions of a topic whose creator did not say.
    public var defaultPartitions: Int32 = 1
    /// Replicas of a topic whose creator did not say; -1 for min(3, nodes).
    public var defaultReplicationFactor: Int16 = -1
    /// Whether topics may be deleted.
    public var deleteTopicsEnabled = true
    /// In-sync replicas that an `acks=all` append needs.
    public var minInSyncReplicas: Int32 = 1
    /// Milliseconds after which a replica that has not caught up is no longer in sync.
    public var replicaLagMilliseconds: Int64 = 2000
    /// Milliseconds between two comparisons of a replica with its leader; 0 for none.
    public var replicaCompareMilliseconds: Int64 = 6 * 3_600_000
    /// Bytes a second that this node as a leader sends to throttled replicas, and that it as a follower takes into them.
    public var leaderThrottledRate = Int64.max
    public var followerThrottledRate = Int64.max
    /// What topics have that set nothing themselves.
    public var topicDefaults = LogSettings()

    // MARK: Log

    /// Sync threads.
    public var syncThreads = 4
    /// Milliseconds between looks at retention; the first is no later than 8 s after the start.
    public var retentionCheckMilliseconds: Int64 = 5_000
    /// How long an idle producer's state is kept, in milliseconds.
    public var producerExpirationMilliseconds: Int64 = 86_400_000
    /// Segment files kept open.
    public var maxOpenFiles = 4096

    // MARK: Fetch

    /// The most bytes of a fetch response (`fetch.max.bytes`).
    public var fetchMaxBytes = 57_671_680
    /// Incremental fetch sessions kept (`max.incremental.fetch.session.cache.slots`).
    public var fetchSessionSlots = 1_000
    /// Records of a fetch answer up to this many bytes are copied; the others go from the file to the socket.
    public var fetchCopyMaxBytes = 1 << 20

    // MARK: Groups

    /// Partitions of `__consumer_offsets`.
    public var offsetsTopicPartitions: Int32 = 16
    /// Bytes of a segment of `__consumer_offsets`.
    public var offsetsTopicSegmentBytes = 100 << 20
    /// Partitions of `__transaction_state`.
    public var transactionTopicPartitions: Int32 = 50
    /// Bytes of a segment of `__transaction_state`.
    public var transactionTopicSegmentBytes = 100 << 20
    /// `transaction.max.timeout.ms`.
    public var transactionMaxTimeout: Int32 = 900_000
    /// `transactional.id.expiration.ms`.
    public var transactionalIDExpiration: Int64 = 604_800_000
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    public var transactionalIDExpirationCheckInterval: Int64 = 3_600_000
    /// `transaction.partition.verification.enable`.
    public var verifiesTransactionPartitions = true
    /// `group.min.session.timeout.ms`.
    public var groupMinSessionTimeout: Int32 = 6_000
    /// `group.max.session.timeout.ms`.
    public var groupMaxSessionTimeout: Int32 = 1_800_000
    /// `group.max.size`.
    public var groupMaxSize: Int32 = .max
    /// `group.initial.rebalance.delay.ms`.
    public var groupInitialRebalanceDelay: Int64 = 200
    /// `offset.metadata.max.bytes`.
    public var offsetMetadataMaxBytes = 4_096
    /// `offsets.retention.minutes`.
    public var offsetsRetentionMinutes: Int64 = 10_080
    /// `offsets.retention.check.interval.ms`.
    public var offsetsRetentionCheckInterval: Int64 = 600_000
    /// `group.consumer.session.timeout.ms`.
    public var consumerGroupSessionTimeout: Int32 = 45_000
    /// `group.consumer.heartbeat.interval.ms`.
    public var consumerGroupHeartbeatInterval: Int32 = 5_000
    /// `group.consumer.max.size`.
    public var consumerGroupMaxSize: Int32 = .max
    /// `group.consumer.migration.policy`.
    public var groupMigrationPolicy = GroupMigrationPolicy.bidirectional

    // MARK: Share groups

    /// `group.share.session.timeout.ms`, and what groups may set it to.
    public var shareGroupSessionTimeout: Int32 = 45_000
    /// `group.share.min.session.timeout.ms`.
    public var shareGroupMinSessionTimeout: Int32 = 45_000
    /// `group.share.max.session.timeout.ms`.
    public var shareGroupMaxSessionTimeout: Int32 = 60_000
    /// `group.share.heartbeat.interval.ms`, and what groups may set it to.
    public var shareGroupHeartbeatInterval: Int32 = 5_000
    /// `group.share.min.heartbeat.interval.ms`.
    public var shareGroupMinHeartbeatInterval: Int32 = 5_000
    /// `group.share.max.heartbeat.interval.ms`.
    public var shareGroupMaxHeartbeatInterval: Int32 = 15_000
    /// `group.share.max.size`.
    public var shareGroupMaxSize: Int32 = 200
    /// `group.share.record.lock.duration.ms`, and what groups may set it to.
    public var shareRecordLockDuration: Int32 = 30_000
    /// `group.share.min.record.lock.duration.ms`.
    public var shareMinRecordLockDuration: Int32 = 15_000
    /// `group.share.max.record.lock.duration.ms`.
    public var shareMaxRecordLockDuration: Int32 = 60_000
    /// `group.share.delivery.count.limit`.
    public var shareDeliveryCountLimit: Int32 = 5
    /// `group.share.partition.max.record.locks`.
    public var sharePartitionMaxRecordLocks: Int32 = 2_000
    /// `group.share.max.share.sessions`.
    public var shareMaxSessions = 2_000
    /// Partitions of `__share_group_state`.
    public var shareStateTopicPartitions: Int32 = 16
    /// Bytes of a segment of `__share_group_state`.
    public var shareStateTopicSegmentBytes = 100 << 20
    /// Updates of a share partition's state between two snapshots of it.
    public var shareSnapshotUpdateRecords = 500

    // MARK: Policies

    /// The most partitions of a topic that a client makes (`topic.policy.max.partitions`).
    public var policyMaxPartitions: Int32 = 10_000
    /// What the names of topics that clients make must match (`topic.policy.name.pattern`); empty for no rule.
    public var policyNamePattern = ""

    // MARK: Logs of the process

    /// How lines of the log look (`logging.format`).
    public var loggingFormat = LoggingFormat.text

    // MARK: Metrics

    /// Whether `/metrics` shows series for each partition (`metrics.partitions.enable`).
    public var showsPartitionMetrics = false

    // MARK: Metadata

    /// Bytes of the metadata log after which a snapshot of the metadata takes its place
    /// (`metadata.log.max.record.bytes.between.snapshots`).
    public var metadataSnapshotBytes = 8 << 20

    // MARK: Quotas

    /// Seconds of a quota that a client may use at once (`quota.window.size.seconds`).
    public var quotaWindowSeconds: Int64 = 1

    // MARK: Stopping

    /// How long requests in service may take when the broker stops, in milliseconds.
    public var shutdownTimeoutMilliseconds: Int64 = 10_000

    /// The keys that were set by file or option, with the text they were set to: what DescribeConfigs shows as static.
    public private(set) var explicit: [String: String] = [:]

    /// The defaults.
    public init() {}

    /// Sets one setting by its name.
    /// - Throws: `.invalidConfiguration` where the name is unknown (with the nearest known one) or the value does not fit.
    public mutating func set(_ name: String, to value: String) throws(BrokerError) {
        guard let setting = BrokerSettings.byName[name] else {
            let near = Spelling.nearest(to: name, among: BrokerSettings.byName.keys)
            let hint = near.map { "; did you mean \($0)?" } ?? ""
            throw BrokerError(.invalidConfiguration, "there is no setting \(name)\(hint)")
        }
        if let problem = setting.apply(&self, value) {
            throw BrokerError(.invalidConfiguration, "\(name)=\(value): \(problem)")
        }
        explicit[name] = value
    }

    /// Sets one setting from `key=value`.
    public mutating func set(assignment: String) throws(BrokerError) {
        guard let equals = assignment.firstIndex(of: "=") else {
            throw BrokerError(.invalidConfiguration, "\(assignment) is not of the form key=value")
        }
        try set(String(assignment[..<equals]), to: String(assignment[assignment.index(after: equals)...]))
    }

    /// Sets everything that a TOML file of `text` says. Tables are prefixes: `[log] retention.ms = 1` is `log.retention.ms`.
    /// - Parameter path: for messages.
    public mutating func apply(toml text: String, path: String) throws(BrokerError) {
        for entry in try TOMLReader.read(text, path: path) {
            do throws(BrokerError) {
                try set(entry.key, to: entry.value)
            } catch {
                throw BrokerError(.invalidConfiguration, "\(path):\(entry.line): \(error.message)")
            }
        }
    }

    /// Whether the node is, or can become, one of several.
    var isClustered: Bool { controllerListen != nil || voters.count > 1 }

    /// What makes the settings as a whole unusable; nil where nothing does.
    public var problem: String? {
        if nodeID < 0 { return "node.id is \(nodeID), but ids start at 0" }
        if dataDirectories.isEmpty || dataDirectories.contains("") { return "log.dirs is empty; name a folder" }
        if Set(dataDirectories).count != dataDirectories.count { return "log.dirs names a folder twice" }
        if queuedMaxRequestBytes < requestMaxBytes {
            return "queued.max.request.bytes (\(queuedMaxRequestBytes)) is below socket.request.max.bytes "
                + "(\(requestMaxBytes)); raise it, so that the largest request can arrive"
        }
        if let advertise, advertise.port == 0 { return "advertised.listeners needs a port" }
        if !voters.isEmpty {
            if !voters.contains(where: { $0.id == nodeID }), controllerListen == nil {
                return "controller.quorum.voters does not name node \(nodeID): to join that cluster it needs "
                    + "controller.listeners (--controller-listen HOST:PORT)"
            }
            if Set(voters.map(\.id)).count != voters.count { return "controller.quorum.voters names a node twice" }
            if voters.count > 1 && controllerListen == nil {
                return "with several voters a node needs controller.listeners (--controller-listen HOST:PORT)"
            }
        }
        if brokerSessionMilliseconds < 2 * brokerHeartbeatMilliseconds {
            return "broker.session.timeout.ms (\(brokerSessionMilliseconds)) must be at least twice "
                + "broker.heartbeat.interval.ms (\(brokerHeartbeatMilliseconds))"
        }
        return topicDefaults.problem
    }

    /// The settings of the transaction coordinator.
    var transactionSettings: TransactionSettings {
        var settings = TransactionSettings()
        settings.maxTimeout = transactionMaxTimeout
        settings.expiration = transactionalIDExpiration
        settings.expirationCheckInterval = transactionalIDExpirationCheckInterval
        settings.verifiesPartitions = verifiesTransactionPartitions
        return settings
    }

    /// The settings of the group coordinator.
    var groupSettings: GroupSettings {
        var settings = GroupSettings()
        settings.minSessionTimeout = groupMinSessionTimeout
        settings.maxSessionTimeout = groupMaxSessionTimeout
        settings.maxSize = groupMaxSize
        settings.initialRebalanceDelay = groupInitialRebalanceDelay
        settings.maxOffsetMetadataBytes = offsetMetadataMaxBytes
        settings.offsetsRetention = offsetsRetentionMinutes * 60_000
        settings.offsetsRetentionCheckInterval = offsetsRetentionCheckInterval
        settings.consumerSessionTimeout = consumerGroupSessionTimeout
        settings.consumerHeartbeatInterval = consumerGroupHeartbeatInterval
        settings.consumerMaxSize = consumerGroupMaxSize
        settings.migrationPolicy = groupMigrationPolicy
        settings.shareSessionTimeout = shareGroupSessionTimeout
        return settings
    }
}
