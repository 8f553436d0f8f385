// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Where a transactional id stands. The numbers are those of the log. `dead` and `prepareEpochFence` are never written
/// here: a step changes memory and log in one go, so there is no state between the decision and its record. They exist
/// because Kafka's log and its tools know them.
enum TransactionStatus: Int8, CaseIterable, Sendable {
    case empty = 0
    case ongoing = 1
    case prepareCommit = 2
    case prepareAbort = 3
    case completeCommit = 4
    case completeAbort = 5
    case dead = 6
    case prepareEpochFence = 7

    /// The name that ListTransactions and DescribeTransactions use.
    var name: String {
        switch self {
        case .empty: "Empty"
        case .ongoing: "Ongoing"
        case .prepareCommit: "PrepareCommit"
        case .prepareAbort: "PrepareAbort"
        case .completeCommit: "CompleteCommit"
        case .completeAbort: "CompleteAbort"
        case .dead: "Dead"
        case .prepareEpochFence: "PrepareEpochFence"
        }
    }

    /// The outcome is decided and markers are being written.
    var isPreparing: Bool { self == .prepareCommit || self == .prepareAbort }
    /// Nothing is going on: the id may be forgotten.
    var isIdle: Bool { self == .empty || self == .completeCommit || self == .completeAbort }
}

/// A producer at one of its epochs.
struct ProducerIdentity: Hashable, Sendable {
    var id: Int64
    var epoch: Int16

    /// What is answered beside an error.
    static let none = ProducerIdentity(id: -1, epoch: -1)
}

/// The version of the transaction protocol that a client speaks: with 2 (KIP-890's second part) the epoch grows with
/// each transaction and partitions are added by writing to them.
enum TransactionVersion {
    static let first: Int16 = 0
    static let second: Int16 = 2
}

/// An order to end a transaction in its partitions.
struct MarkerOrder: Equatable, Sendable {
    var transactionalID: String
    /// What the marker carries.
    var producer: ProducerIdentity
    var isCommit: Bool
    /// Whether the marker's epoch is one higher than that of the transaction's records.
    var bumpsEpoch: Bool
    /// In order.
    var partitions: [TopicPartition]
}

/// What happens to a shard of transactions.
enum TransactionEvent: Sendable {
    /// InitProducerId. `fresh` is a producer id that nobody has, where one was asked for (see
    /// ``TransactionResponse/needsProducerID``).
    case initialize(id: String, timeout: Int32, expected: ProducerIdentity?, fresh: Int64?)
    /// Partitions join the transaction, which begins if need be.
    case add(id: String, producer: ProducerIdentity, partitions: [TopicPartition], version: Int16)
    /// Whether partitions are in the transaction.
    case verify(id: String, producer: ProducerIdentity, partitions: [TopicPartition])
    case end(id: String, producer: ProducerIdentity, isCommit: Bool, version: Int16, fresh: Int64?)
    /// The markers of an order are on disk; where `isDone` is false some could not be written and will be tried again.
    case marked(MarkerOrder, isDone: Bool)
    case describe(id: String)
    case list(ListTransactionsRequest)
}

/// The answer to an event.
enum TransactionResponse: Equatable, Sendable {
    /// Of `initialize` and `end`: an error, or the producer as it goes on.
    case producer(ErrorCode, ProducerIdentity)
    /// Nothing was done: send the event again with a fresh producer id.
    case needsProducerID
    case code(ErrorCode)
    /// Of `verify`: those that are not in the transaction.
    case missing([TopicPartition])
    case describe(DescribeTransactionsResponse.TransactionState)
    case list([ListTransactionsResponse.TransactionState])
}

/// An answer that a step releases.
typealias TransactionAnswer = ShardAnswer<TransactionResponse>

/// What a step wants done: append `records` as one batch; once they are committed, send `answers` and carry out `markers`.
struct TransactionResult: Equatable, Sendable {
    var records: [CoordinatorRecord] = []
    var answers: [TransactionAnswer] = []
    var markers: [MarkerOrder] = []
}

/// The settings of transaction coordinators, by their Kafka names.
struct TransactionSettings: Equatable, Sendable {
    /// `transaction.max.timeout.ms`
    var maxTimeout: Int32 = 900_000
    /// `transactional.id.expiration.ms`
    var expiration: Int64 = 7 * 24 * 3_600_000
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`
    var expirationCheckInterval: Int64 = 3_600_000
    /// `transaction.partition.verification.enable`
    var verifiesPartitions = true
}
