// SPDX-License-Identifier: Apache-2.0

public import MDCClient

/// How a worker runs a topology.
public struct TopologySettings: Sendable {
    /// Where the cluster is.
    public var client: ClientConfiguration
    /// The worker's name, one running worker each: what is started again under it takes its place at once, without a rebalance, and ends
    /// the transaction that it left open. Nil: a new name each time; the group waits `sessionTimeout` for a worker that died, and
    /// readers of committed records `transactionTimeout`.
    public var instance: String?
    /// Records of sources under way at once; then the sources are paused.
    public var inFlightMax = 1_000
    /// Records that wait for one task; whoever emits more waits.
    public var queueCapacity = 256
    /// Pause before a record is tried again; it doubles up to `retryBackoffMax`.
    public var retryBackoff = Duration.milliseconds(100)
    /// Longest pause before a record is tried again.
    public var retryBackoffMax = Duration.seconds(5)
    /// How often offsets are committed.
    public var commitInterval = Duration.seconds(1)
    /// How long a transaction collects records (exactly once).
    public var transactionInterval = Duration.milliseconds(200)
    /// How many records of sources a transaction collects at most.
    public var transactionRecordsMax = 5_000
    /// After this a transaction whose worker died is aborted by the cluster.
    public var transactionTimeout = Duration.seconds(30)
    /// How long the group waits for a silent worker.
    public var sessionTimeout = Duration.seconds(15)
    /// How long partitions that are taken away, and a shutdown, wait for what is under way.
    public var drainTimeout = Duration.seconds(20)
    /// Replicas of topics that are made; nil: the cluster's default.
    public var replicationFactor: Int16?

    /// Settings with defaults.
    public init(client: ClientConfiguration = ClientConfiguration()) { self.client = client }

    /// Settings with defaults, for these brokers.
    public init(bootstrapServers: [String]) {
        client = ClientConfiguration(bootstrapServers: bootstrapServers, clientID: "mdc-topology")
    }

    func validate() throws(TopologyError) {
        func require(_ condition: Bool, _ message: @autoclosure () -> String) throws(TopologyError) {
            if !condition { throw TopologyError(.configuration, message()) }
        }
        try require(instance != "", "the instance name is empty: leave it nil, or name the worker")
        try require(inFlightMax > 0, "inFlightMax is \(inFlightMax); it must be at least 1")
        try require(queueCapacity > 0, "queueCapacity is \(queueCapacity); it must be at least 1")
        try require(
            transactionRecordsMax > 0,
            "transactionRecordsMax is \(transactionRecordsMax); it must be at least 1"
        )
        try require(
            transactionInterval < transactionTimeout,
            "transactionInterval must be shorter than transactionTimeout, or every transaction is aborted"
        )
    }
}
