// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// Settings of a producer. The names and meanings are those of Kafka's settings.
public struct ProducerConfiguration: Sendable {
    /// Who must have a batch before it counts as delivered.
    public enum Acknowledgement: Int16, Sendable {
        /// Nobody: records may be lost silently, and offsets stay unknown.
        case none = 0
        /// The leader.
        case leader = 1
        /// Every in-sync replica.
        case all = -1
    }

    /// Addresses, time limits and back-off.
    public var client: ClientConfiguration
    /// `acks`. An idempotent producer needs `all`.
    public var acks: Acknowledgement = .all
    /// `enable.idempotence`: repetitions after a fault neither duplicate nor reorder records.
    public var isIdempotent = true
    /// `linger.ms`: how long a batch waits for more records. 0 sends as soon as a connection is free.
    public var linger: Duration = .milliseconds(5)
    /// `batch.size`: a batch is sent at this many bytes, before compression. A larger record makes a batch of its own.
    public var batchSize = 256 * 1024
    /// `max.request.size`: bound of one record and of one request, in bytes.
    public var maxRequestSize = 1_048_576
    /// `max.in.flight.requests.per.connection`; at most 5 where the producer is idempotent.
    public var maxInFlight = 5
    /// `buffer.memory`: bytes of records that are accepted and not acknowledged; beyond, `send` and `enqueue` wait.
    public var bufferMemory = 64 * 1024 * 1024
    /// `max.block.ms`: how long `send` and `enqueue` wait for room or for metadata before they throw.
    public var maxBlock: Duration = .seconds(60)
    /// `delivery.timeout.ms`: how long a record may take from its acceptance to its acknowledgement, all repetitions
    /// included. An expired record may still have been written, if an answer was lost.
    public var deliveryTimeout: Duration = .seconds(120)
    /// `compression.type`.
    public var compression: CompressionCodec = .none
    /// `compression.<codec>.level`; nil for the codec's default.
    public var compressionLevel: Int?
    /// `transactional.id`: makes the producer transactional. Stable over restarts, and used by one producer at a time: a
    /// new one fences the one before.
    public var transactionalID: String?
    /// `transaction.timeout.ms`: the coordinator aborts a transaction that takes longer.
    public var transactionTimeout: Duration = .seconds(60)
    /// Whether a topic that does not exist may be made by asking for it, where the broker allows that.
    public var allowAutoTopicCreation = true

    /// Settings with defaults.
    public init(client: ClientConfiguration = ClientConfiguration()) {
        self.client = client
    }

    /// Settings with defaults, for these brokers.
    public init(bootstrapServers: [String], clientID: String = "mdc-producer") {
        client = ClientConfiguration(bootstrapServers: bootstrapServers, clientID: clientID)
    }

    /// Throws `ClientError` (`configuration`) on what cannot be.
    func validate() throws {
        func require(_ condition: Bool, _ message: String) throws {
            if !condition { throw ClientError(.configuration, message) }
        }
        try require(batchSize > 0, "batchSize is \(batchSize); it must be at least 1 byte")
        try require(maxRequestSize >= 1024, "maxRequestSize is \(maxRequestSize); it must be at least 1024 bytes")
        try require(
            bufferMemory >= maxRequestSize,
            "bufferMemory (\(bufferMemory)) is below maxRequestSize (\(maxRequestSize)): one record may not fit"
        )
        try require(maxInFlight >= 1, "maxInFlight is \(maxInFlight); it must be at least 1")
        try require(linger >= .zero, "linger is negative")
        if let transactionalID {
            try require(!transactionalID.isEmpty, "transactionalID is empty; leave it nil for no transactions")
            try require(isIdempotent, "a transactional producer is idempotent; leave isIdempotent = true")
            try require(transactionTimeout >= .milliseconds(1), "transactionTimeout is below 1 ms")
        }
        if isIdempotent {
            try require(acks == .all, "an idempotent producer needs acks = all; set isIdempotent = false for less")
            try require(
                maxInFlight <= 5,
                "an idempotent producer may have at most 5 requests in flight, for the broker remembers 5 batches; got \(maxInFlight)"
            )
        }
    }
}
