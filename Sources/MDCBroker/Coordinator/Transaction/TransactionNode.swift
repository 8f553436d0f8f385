// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCLog
import MDCModel
import NIOCore

/// What ends a transaction in one partition.
struct TransactionEndMarker: Equatable, Sendable {
    var producer: ProducerIdentity
    var isCommit: Bool
    /// Whether its epoch is higher than that of the transaction's records (KIP-890's second part). Then one that comes
    /// twice is told from the one that ends the next transaction.
    var bumpsEpoch: Bool
    var coordinatorEpoch: Int32

    /// The control batch.
    func batch(at time: Timestamp) -> ByteBuffer {
        var out = ByteBuffer()
        ControlRecord(kind: isCommit ? .commit : .abort, coordinatorEpoch: coordinatorEpoch).writeBatch(
            producerID: ProducerID(producer.id),
            producerEpoch: producer.epoch,
            timestamp: time,
            into: &out
        )
        return out
    }
}

/// What transaction coordinators need of the node beside their topic.
protocol TransactionNode: Sendable {
    /// Calls `done`, perhaps at once, with a producer id that nobody ever had.
    func newProducerID(_ done: @escaping @Sendable (Result<Int64, CoordinatorStorageError>) -> Void)
    /// Sees to it that groups have a place for their offsets, then calls `done`.
    func prepareGroups(_ done: @escaping @Sendable (ErrorCode) -> Void)
    /// The epoch of the coordinator that a partition of `__transaction_state` makes this node.
    func coordinatorEpoch(partition: Int32) -> Int32
    /// Writes a marker; `done` is called, from any thread, when it is committed or cannot be written.
    func write(
        _ marker: TransactionEndMarker,
        to partition: TopicPartition,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    )
}

/// The node that this process is.
final class BrokerTransactionNode: TransactionNode {
    private let partitions: PartitionRegistry
    private let controller: Controller
    private let groups: GroupCoordinatorService

    init(partitions: PartitionRegistry, controller: Controller, groups: GroupCoordinatorService) {
        self.partitions = partitions
        self.controller = controller
        self.groups = groups
    }

    func newProducerID(_ done: @escaping @Sendable (Result<Int64, CoordinatorStorageError>) -> Void) {
        controller.newProducerID { result in
            done(result.mapError { CoordinatorStorageError(code: $0.code, description: $0.message) })
        }
    }

    func prepareGroups(_ done: @escaping @Sendable (ErrorCode) -> Void) { groups.prepare(done) }

    func coordinatorEpoch(partition: Int32) -> Int32 {
        let name = InternalTopic.transactionState.name
        guard case .found(let found) = partitions.find(name: name, partition: partition) else { return 0 }
        return found.leaderEpoch.rawValue
    }

    func write(
        _ marker: TransactionEndMarker,
        to partition: TopicPartition,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    ) {
        if partition.topic == InternalTopic.consumerOffsets.name {
            return groups.endTransaction(marker, partition: partition.partition.rawValue, done)
        }
        guard case .found(let found) = partitions.find(name: partition.topic, partition: partition.partition.rawValue)
        else { return done(.unknownTopicOrPartition) }
        do throws(LogError) {
            let end = try found.append(marker, now: Timestamp(mdc_wall_clock_ms()))
            found.whenCommitted(upTo: end) { result in
                switch result {
                case .success: done(.none)
                case .failure: done(found.isDeleted ? .unknownTopicOrPartition : .notLeaderOrFollower)
                }
            }
        } catch {
            done(error.kafkaError)
        }
    }
}
