// SPDX-License-Identifier: Apache-2.0

/// Settings of a consumer. The names and meanings are those of Kafka's settings.
public struct ConsumerConfiguration: Sendable {
    /// Where to begin when a partition has no committed offset, or an impossible one.
    public enum OffsetReset: Sendable, Hashable {
        /// With the oldest record.
        case earliest
        /// With what comes from now on.
        case latest
        /// Nowhere: `poll` throws `ClientError` (`noOffset`).
        case none
    }

    /// What a reader sees of transactions.
    public enum Isolation: Int8, Sendable {
        /// Every record.
        case readUncommitted = 0
        /// Committed records only, up to the last stable offset.
        case readCommitted = 1
    }

    /// How a group shares out its partitions. All members need one in common.
    public enum Assignor: String, Sendable, CaseIterable {
        /// As balanced as can be, moving as little as can be; members keep what they keep while the group rebalances.
        case cooperativeSticky = "cooperative-sticky"
        /// Runs of neighbouring partitions, topic by topic. Everything is given up at each rebalance.
        case range = "range"
        /// One partition each in turn. Everything is given up at each rebalance.
        case roundRobin = "roundrobin"
    }

    /// Addresses, time limits and back-off.
    public var client: ClientConfiguration
    /// `group.id`; nil for a consumer that assigns its partitions itself and commits nothing.
    public var groupID: String?
    /// `group.instance.id`: a static member, which may be away for `sessionTimeout` without a rebalance (KIP-345).
    public var groupInstanceID: String?
    /// `auto.offset.reset`.
    public var autoOffsetReset: OffsetReset = .earliest
    /// `isolation.level`.
    public var isolation: Isolation = .readUncommitted
    /// `partition.assignment.strategy`, by preference. Cooperative assignors cannot be mixed with the others.
    public var assignors: [Assignor] = [.cooperativeSticky]
    /// `enable.auto.commit`: offsets of records that earlier calls of `poll` returned are committed by themselves.
    public var enableAutoCommit = false
    /// `auto.commit.interval.ms`.
    public var autoCommitInterval: Duration = .seconds(5)
    /// `session.timeout.ms`: how long the group waits for a silent member.
    public var sessionTimeout: Duration = .seconds(45)
    /// `heartbeat.interval.ms`.
    public var heartbeatInterval: Duration = .seconds(3)
    /// `max.poll.interval.ms`: a member that does not poll for so long leaves the group, until it polls again. It is
    /// also how long the group waits for members to join a rebalance.
    public var maxPollInterval: Duration = .seconds(300)
    /// `fetch.min.bytes`.
    public var fetchMinBytes = 1
    /// `fetch.max.wait.ms`.
    public var fetchMaxWait: Duration = .milliseconds(500)
    /// `fetch.max.bytes`: bound of one fetch answer.
    public var fetchMaxBytes = 16 * 1024 * 1024
    /// `max.partition.fetch.bytes`: bound of one partition in a fetch answer, and how much of a partition is read ahead.
    public var maxPartitionFetchBytes = 1024 * 1024
    /// Bytes read ahead for all partitions together; beyond, fetching pauses until `poll` takes some.
    public var maxBufferedBytes = 64 * 1024 * 1024
    /// Bound of one batch when decompressed, in bytes.
    public var maxDecompressedBatchBytes = 256 * 1024 * 1024
    /// `check.crcs`: whether the checksum of every fetched batch is verified.
    public var checkCRCs = true
    /// `client.rack`.
    public var rack: String = ""

    /// Settings with defaults.
    public init(client: ClientConfiguration = ClientConfiguration(), groupID: String? = nil) {
        self.client = client
        self.groupID = groupID
    }

    /// Settings with defaults, for these brokers.
    public init(bootstrapServers: [String], groupID: String? = nil, clientID: String = "mdc-consumer") {
        client = ClientConfiguration(bootstrapServers: bootstrapServers, clientID: clientID)
        self.groupID = groupID
    }

    /// Throws `ClientError` (`configuration`) on what cannot be.
    func validate() throws {
        func require(_ condition: Bool, _ message: String) throws {
            if !condition { throw ClientError(.configuration, message) }
        }
        try require(groupID != "", "groupID is empty: name the group, or pass nil")
        try require(!assignors.isEmpty, "assignors is empty: name at least one")
        try require(Set(assignors).count == assignors.count, "assignors names one twice")
        try require(
            assignors == [.cooperativeSticky] || !assignors.contains(.cooperativeSticky),
            "cooperative-sticky cannot be mixed with range or roundrobin in one member"
        )
        try require(
            heartbeatInterval < sessionTimeout,
            "heartbeatInterval must be shorter than sessionTimeout, usually a third of it"
        )
        try require(fetchMinBytes >= 0 && fetchMaxBytes > 0, "fetchMinBytes and fetchMaxBytes must not be negative")
        try require(maxPartitionFetchBytes > 0, "maxPartitionFetchBytes must be at least 1")
        try require(maxBufferedBytes >= maxPartitionFetchBytes, "maxBufferedBytes is below maxPartitionFetchBytes")
    }
}
