// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import MDCProtocol
import NIOCore

/// A transactional id in a listing.
public struct TransactionListing: Sendable, Hashable {
    /// The transactional id.
    public let id: String
    /// The producer that it belongs to.
    public let producerID: Int64
    /// The state of its transaction, such as `Ongoing` or `CompleteCommit`.
    public let state: String
}

/// A transactional id with its transaction.
public struct TransactionDescription: Sendable, Hashable {
    /// The transactional id.
    public let id: String
    /// The broker that coordinates it.
    public let coordinator: BrokerID
    /// The state of its transaction.
    public let state: String
    /// The producer that it belongs to.
    public let producerID: Int64
    /// The producer's epoch.
    public let producerEpoch: Int16
    /// After how many milliseconds the coordinator aborts a transaction.
    public let timeoutMilliseconds: Int32
    /// When the transaction began; nil where none did.
    public let startedAt: Timestamp?
    /// The partitions in the transaction.
    public let partitions: [TopicPartition]
}

/// An idempotent or transactional producer, as a partition knows it.
public struct ProducerDescription: Sendable, Hashable {
    /// Its id.
    public let producerID: Int64
    /// Its epoch.
    public let producerEpoch: Int16
    /// The sequence number of its last record; -1 for none.
    public let lastSequence: Int32
    /// When it last wrote; nil where that is not known.
    public let lastTimestamp: Timestamp?
    /// The epoch of the coordinator that last ended a transaction of it; -1 for none.
    public let coordinatorEpoch: Int32
    /// Where its open transaction begins; nil where none is open.
    public let transactionStart: Offset?
}

extension Admin {
    /// The transactional ids that fit all filters, sorted: each broker is asked for those that it coordinates.
    /// - Parameters:
    ///   - states: Names of states, such as `Ongoing`; all where empty.
    ///   - producerIDs: All where empty.
    ///   - longerThan: Only transactions under way for longer than so many milliseconds.
    ///   - pattern: A regular expression (RE2) that the whole id must match.
    public func listTransactions(
        states: [String] = [],
        producerIDs: [Int64] = [],
        longerThan: Int64? = nil,
        pattern: String? = nil
    ) async throws -> [TransactionListing] {
        try await core.retrying(until: core.apiDeadline) {
            try await core.eventLoop.flatSubmit { self.core.refreshMetadata() }.get()
            let brokers = try await core.onLoop { self.core.metadata.brokers.keys.sorted() }
            let oldest: Int16 = pattern != nil ? 2 : longerThan != nil ? 1 : 0
            var found: [TransactionListing] = []
            for broker in brokers {
                let response = try await core.request(
                    ListTransactionsRequest.self,
                    to: .broker(broker),
                    versions: oldest...2
                ) { version in
                    ListTransactionsRequest(
                        stateFilters: states,
                        producerIdFilters: producerIDs,
                        durationFilter: version >= 1 ? longerThan ?? -1 : -1,
                        transactionalIdPattern: version >= 2 ? pattern : nil
                    )
                }
                try Self.check(response.errorCode, "listing transactions of broker \(broker)")
                if let unknown = response.unknownStateFilters.first {
                    throw ClientError(.configuration, "there is no transaction state '\(unknown)'")
                }
                found += response.transactionStates.map {
                    TransactionListing(id: $0.transactionalId, producerID: $0.producerId, state: $0.transactionState)
                }
            }
            return found.sorted { $0.id < $1.id }
        }
    }

    /// Describes transactional ids. Throws `ClientError` (`TRANSACTIONAL_ID_NOT_FOUND`) for one that does not exist.
    public func describeTransactions(_ ids: [String]) async throws -> [TransactionDescription] {
        var result: [TransactionDescription] = []
        for id in ids {
            let state = try await core.coordinatorRequest(
                of: .transaction(id),
                DescribeTransactionsRequest.self,
                until: core.apiDeadline
            ) { _ in
                DescribeTransactionsRequest(transactionalIds: [id])
            } read: { response in
                guard let state = response.transactionStates.first else {
                    throw ClientError(.protocolViolation, "the broker's answer leaves transactional id '\(id)' out")
                }
                try Self.check(state.errorCode, "describing transactional id '\(id)'")
                return state
            }
            let coordinator = try await core.onLoop { self.core.coordinators[.transaction(id)] }
            result.append(
                TransactionDescription(
                    id: id,
                    coordinator: BrokerID(coordinator ?? -1),
                    state: state.transactionState,
                    producerID: state.producerId,
                    producerEpoch: state.producerEpoch,
                    timeoutMilliseconds: state.transactionTimeoutMs,
                    startedAt: state.transactionStartTimeMs < 0 ? nil : Timestamp(state.transactionStartTimeMs),
                    partitions: state.topics.flatMap { topic in
                        topic.partitions.map { TopicPartition(topic: topic.topic, partition: PartitionID($0)) }
                    }.sorted()
                )
            )
        }
        return result
    }

    /// The producers that partitions remember, asked from each partition's leader.
    public func describeProducers(
        _ partitions: [TopicPartition]
    ) async throws -> [TopicPartition: [ProducerDescription]] {
        var result: [TopicPartition: [ProducerDescription]] = [:]
        for partition in partitions {
            result[partition] = try await leaderRequest(partition, DescribeProducersRequest.self) { _ in
                DescribeProducersRequest(topics: [
                    .init(name: partition.topic, partitionIndexes: [partition.partition.rawValue])
                ])
            } read: { response in
                guard let found = response.topics.first?.partitions.first else {
                    throw ClientError(.protocolViolation, "the broker's answer leaves \(partition) out")
                }
                try Self.check(found.errorCode, "describing the producers of \(partition)", found.errorMessage)
                return found.activeProducers.map { producer in
                    ProducerDescription(
                        producerID: producer.producerId,
                        producerEpoch: Int16(clamping: producer.producerEpoch),
                        lastSequence: producer.lastSequence,
                        lastTimestamp: producer.lastTimestamp < 0 ? nil : Timestamp(producer.lastTimestamp),
                        coordinatorEpoch: producer.coordinatorEpoch,
                        transactionStart: producer.currentTxnStartOffset < 0
                            ? nil : Offset(producer.currentTxnStartOffset)
                    )
                }
            }
        }
        return result
    }

    /// Ends a transaction in one partition with an abort, whatever its coordinator thinks of it: for one that hangs,
    /// because its coordinator has forgotten it. `producer`: as the partition describes it.
    public func abortTransaction(in partition: TopicPartition, of producer: ProducerDescription) async throws {
        try await leaderRequest(partition, WriteTxnMarkersRequest.self) { _ in
            WriteTxnMarkersRequest(markers: [
                .init(
                    producerId: producer.producerID,
                    producerEpoch: producer.producerEpoch,
                    transactionResult: false,
                    topics: [.init(name: partition.topic, partitionIndexes: [partition.partition.rawValue])],
                    coordinatorEpoch: max(producer.coordinatorEpoch, 0)
                )
            ])
        } read: { response in
            guard let found = response.markers.first?.topics.first?.partitions.first else {
                throw ClientError(.protocolViolation, "the broker's answer leaves \(partition) out")
            }
            try Self.check(
                found.errorCode,
                "aborting the transaction of producer \(producer.producerID) in \(partition)"
            )
        }
    }

    /// Fences the producer that uses a transactional id, and aborts its transaction if one is under way.
    public func fenceProducer(_ id: String) async throws {
        try await core.coordinatorRequest(
            of: .transaction(id),
            InitProducerIdRequest.self,
            versions: 0...5,
            until: core.apiDeadline
        ) { _ in
            InitProducerIdRequest(transactionalId: id, transactionTimeoutMs: 1)
        } read: { response in
            try Self.check(response.errorCode, "fencing the producer of transactional id '\(id)'")
        }
    }

    /// Sends a request to a partition's leader, and again while that may help.
    private func leaderRequest<Request: RequestMessage, Value: Sendable>(
        _ partition: TopicPartition,
        _ type: Request.Type,
        make: @escaping @Sendable (Int16) -> Request,
        read: @escaping @Sendable (Request.Response) throws -> Value
    ) async throws -> Value {
        let topic = try await core.waitForTopic(partition.topic, until: core.apiDeadline)
        guard Int(partition.partition.rawValue) < topic.partitions.count, partition.partition >= 0 else {
            throw ClientError(
                .unknownTopicOrPartition,
                "topic \(partition.topic) has \(topic.partitions.count) partitions, no \(partition.partition)"
            )
        }
        return try await core.retrying(until: core.apiDeadline) {
            do {
                let leader = try await core.onLoop { self.core.metadata.leader(of: partition)?.broker }
                guard let leader else {
                    throw ClientError.broker(.leaderNotAvailable, "asking the leader of \(partition)")
                }
                return try read(try await core.request(type, to: .broker(leader), make: make))
            } catch let error as ClientError where error.isRetriable {
                try? await core.eventLoop.flatSubmit { self.core.refreshMetadata() }.get()
                throw error
            }
        }
    }
}
