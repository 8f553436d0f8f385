// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import MDCProtocol
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
    /// The epoch of the coordinator that a partition of `__transaction_state` makes this node; nil where it is none.
    func coordinatorEpoch(partition: Int32) -> Int32?
    /// Where a partition is led.
    func place(_ partition: TopicPartition) -> LeaderPlace
    /// Writes a marker here; `done` is called, from any thread, when it is committed or cannot be written. May block.
    func write(
        _ marker: TransactionEndMarker,
        to partition: TopicPartition,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    )
    /// Has another node write a marker; `done` is called with what became of each partition.
    func send(
        _ marker: TransactionEndMarker,
        _ partitions: [TopicPartition],
        to node: Int32,
        _ done: @escaping @Sendable ([TopicPartition: ErrorCode]) -> Void
    )
    /// Asks the coordinator on another node whether a write may join a transaction; see
    /// ``TransactionCoordinatorService/admit(_:to:_:adds:attempts:_:)``.
    func ask(
        _ node: Int32,
        toAdmit partitions: [TopicPartition],
        to id: String,
        _ producer: ProducerIdentity,
        adds: Bool,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    )
}

/// The node that this process is.
final class BrokerTransactionNode: TransactionNode {
    private let node: Int32
    private let partitions: PartitionRegistry
    private let metadata: MetadataStore
    private let controller: Controller
    private let groups: GroupCoordinatorService
    private let peers: PeerRequests
    private let environment: NodeEnvironment

    /// Milliseconds after which another node's answer is not waited for any longer.
    private static let markerTimeout: Int64 = 5_000
    private static let admissionTimeout: Int64 = 3_000

    init(
        node: Int32,
        partitions: PartitionRegistry,
        metadata: MetadataStore,
        controller: Controller,
        groups: GroupCoordinatorService,
        peers: PeerRequests,
        environment: NodeEnvironment = .system
    ) {
        self.node = node
        self.environment = environment
        self.partitions = partitions
        self.metadata = metadata
        self.controller = controller
        self.groups = groups
        self.peers = peers
    }

    func newProducerID(_ done: @escaping @Sendable (Result<Int64, CoordinatorStorageError>) -> Void) {
        controller.newProducerID { result in
            done(result.mapError { CoordinatorStorageError(code: $0.code, description: $0.message) })
        }
    }

    func prepareGroups(_ done: @escaping @Sendable (ErrorCode) -> Void) { groups.prepare(done) }

    func coordinatorEpoch(partition: Int32) -> Int32? {
        let name = InternalTopic.transactionState.name
        guard case .found(let found) = partitions.find(name: name, partition: partition) else { return nil }
        return found.leaderEpoch.rawValue
    }

    func place(_ partition: TopicPartition) -> LeaderPlace {
        metadata.image.place(of: partition, for: node)
    }

    func write(
        _ marker: TransactionEndMarker,
        to partition: TopicPartition,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    ) {
        switch partitions.find(name: partition.topic, partition: partition.partition.rawValue) {
        case .noSuchTopic, .noSuchPartition: done(.unknownTopicOrPartition)
        case .notLeader: done(.notLeaderOrFollower)
        case .offline: done(.kafkaStorageError)
        case .found(let found):
            // What cannot be committed now is not written, or each attempt would leave a marker.
            guard found.inSyncCount >= found.minInSync else { return done(.notEnoughReplicas) }
            if partition.topic == InternalTopic.consumerOffsets.name {
                return groups.endTransaction(marker, partition: partition.partition.rawValue, done)
            }
            do throws(LogError) {
                let end = try found.append(marker, now: environment.wall())
                found.whenCommitted(upTo: end) { result in
                    switch result {
                    case .success: done(.none)
                    case .failure: done(found.isDeleted ? .notLeaderOrFollower : .notEnoughReplicasAfterAppend)
                    }
                }
            } catch {
                done(error.kafkaError)
            }
        }
    }

    func send(
        _ marker: TransactionEndMarker,
        _ partitions: [TopicPartition],
        to remote: Int32,
        _ done: @escaping @Sendable ([TopicPartition: ErrorCode]) -> Void
    ) {
        let request = WriteTxnMarkersRequest(
            markers: [
                .init(
                    producerId: marker.producer.id,
                    producerEpoch: marker.producer.epoch,
                    transactionResult: marker.isCommit,
                    topics: partitions.byTopic.map { .init(name: $0, partitionIndexes: $1) },
                    coordinatorEpoch: marker.coordinatorEpoch,
                    transactionVersion: marker.bumpsEpoch ? 2 : 0
                )
            ]
        )
        peers.send(request, version: 2, to: remote, .markers, within: Self.markerTimeout) { response in
            var codes: [TopicPartition: ErrorCode] = [:]
            for partition in partitions { codes[partition] = .requestTimedOut }
            for topic in response?.markers.first?.topics ?? [] {
                for partition in topic.partitions {
                    let name = TopicPartition(topic: topic.name, partition: PartitionID(partition.partitionIndex))
                    codes[name] = ErrorCode(rawValue: partition.errorCode)
                }
            }
            done(codes)
        }
    }

    func ask(
        _ remote: Int32,
        toAdmit partitions: [TopicPartition],
        to id: String,
        _ producer: ProducerIdentity,
        adds: Bool,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    ) {
        let request = AddPartitionsToTxnRequest(
            transactions: [
                .init(
                    transactionalId: id,
                    producerId: producer.id,
                    producerEpoch: producer.epoch,
                    verifyOnly: !adds,
                    topics: partitions.byTopic.map { .init(name: $0, partitions: $1) }
                )
            ]
        )
        peers.send(request, version: 5, to: remote, .admission, within: Self.admissionTimeout) { response in
            guard let response, response.errorCode == 0, let results = response.resultsByTransaction.first else {
                return done(.coordinatorNotAvailable)
            }
            let codes = results.topicResults.flatMap { $0.resultsByPartition }.map(\.partitionErrorCode)
            guard codes.count == partitions.count else { return done(.coordinatorNotAvailable) }
            switch ErrorCode(rawValue: codes.first { $0 != 0 } ?? 0) {
            // It has not heard of the topic yet.
            case .unknownTopicOrPartition, .operationNotAttempted: done(.coordinatorNotAvailable)
            case let code: done(code)
            }
        }
    }
}

extension [TopicPartition] {
    /// The numbers of the partitions by topic, both in order.
    fileprivate var byTopic: [(String, [Int32])] {
        Dictionary(grouping: self, by: \.topic).sorted { $0.key < $1.key }
            .map { ($0.key, $0.value.map(\.partition.rawValue).sorted()) }
    }
}
