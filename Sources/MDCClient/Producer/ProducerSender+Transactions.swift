// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// Who commits offsets inside a transaction: a consumer of a group, at its generation.
public struct ConsumerGroupMetadata: Hashable, Sendable {
    /// The group.
    public var groupID: String
    /// The generation; -1 for a consumer that was assigned its partitions by hand.
    public var generation: Int32
    /// The member's id; empty for a consumer that was assigned its partitions by hand.
    public var memberID: String
    /// The static member's name.
    public var instanceID: String?

    /// Makes one. With the group alone nobody checks whether the partitions still belong to the consumer.
    public init(groupID: String, generation: Int32 = -1, memberID: String = "", instanceID: String? = nil) {
        self.groupID = groupID
        self.generation = generation
        self.memberID = memberID
        self.instanceID = instanceID
    }
}

/// The calls of a transactional producer. One at a time, by the application's order; records may be sent meanwhile.
extension ProducerSender {
    private var deadline: NIODeadline { .now() + TimeAmount(configuration.maxBlock) }

    private func transactionalID() throws -> String {
        guard let id = configuration.transactionalID else {
            throw ClientError(.invalidState, "the producer is not transactional; set transactionalID")
        }
        return id
    }

    private func withTransaction<Value>(
        _ body: (inout TransactionStateMachine) throws(ClientError) -> sending Value
    ) throws(ClientError) -> sending Value {
        try shared.withLock { shared throws(ClientError) in try body(&shared.machine.transaction) }
    }

    // MARK: Beginning

    func initTransactions() async throws {
        let id = try transactionalID()
        try withTransaction { transaction throws(ClientError) in try transaction.startInitialization() }
        do {
            try await takeNewEpoch(id, doing: "initTransactions", expected: nil)
            try withTransaction { $0.initializationEnded(nil) }
        } catch {
            let failure = Self.clientError(error)
            try withTransaction { $0.initializationEnded(failure) }
            throw failure
        }
    }

    /// Gets an epoch that fences all before it. `expected`: who this producer is, if it goes on.
    private func takeNewEpoch(_ id: String, doing: String, expected: (id: Int64, epoch: Int16)?) async throws {
        let timeout = Int32(clamping: TimeAmount(configuration.transactionTimeout).nanoseconds / 1_000_000)
        let versions: ClosedRange<Int16> = expected == nil ? 0...5 : 3...5
        let taken = try await core.coordinatorRequest(
            of: .transaction(id),
            InitProducerIdRequest.self,
            versions: versions,
            until: deadline
        ) { _ in
            InitProducerIdRequest(
                transactionalId: id,
                transactionTimeoutMs: timeout,
                producerId: expected?.id ?? -1,
                producerEpoch: expected?.epoch ?? -1
            )
        } read: { response -> (id: Int64, epoch: Int16) in
            guard response.errorCode == 0 else {
                throw ClientError.transaction(ErrorCode(rawValue: response.errorCode), doing)
            }
            return (response.producerId, response.producerEpoch)
        }
        let isSecond = try await core.onLoop { self.core.transactionVersion >= 2 }
        shared.withLock { shared in
            shared.machine.producerIDArrived(taken)
            shared.machine.transaction.isSecond = isSecond
        }
    }

    func beginTransaction() throws {
        _ = try transactionalID()
        try withTransaction { transaction throws(ClientError) in try transaction.begin() }
    }

    /// Adds partitions to the transaction before records go to them: the first protocol. On the event loop.
    func addPartitions(_ partitions: [TopicPartition]) {
        guard !isAddingPartitions, let id = configuration.transactionalID else { return }
        isAddingPartitions = true
        let (producerID, epoch) = shared.withLock { ($0.machine.producerID, $0.machine.producerEpoch) }
        let topics = Dictionary(grouping: Set(partitions)) { $0.topic }.map { topic, partitions in
            AddPartitionsToTxnRequest.AddPartitionsToTxnTopic(
                name: topic,
                partitions: partitions.map(\.partition.rawValue)
            )
        }
        let deadline = self.deadline
        Task {
            var failure: ClientError?
            do {
                try await core.coordinatorRequest(
                    of: .transaction(id),
                    AddPartitionsToTxnRequest.self,
                    versions: 0...3,
                    until: deadline
                ) { _ in
                    AddPartitionsToTxnRequest(
                        v3AndBelowTransactionalId: id,
                        v3AndBelowProducerId: producerID,
                        v3AndBelowProducerEpoch: epoch,
                        v3AndBelowTopics: topics
                    )
                } read: { response in
                    for topic in response.resultsByTopicV3AndBelow {
                        for partition in topic.resultsByPartition where partition.partitionErrorCode != 0 {
                            let code = ErrorCode(rawValue: partition.partitionErrorCode)
                            // The others are refused for the sake of one.
                            if code == .operationNotAttempted { continue }
                            throw ClientError.transaction(
                                code,
                                "adding \(topic.name)-\(partition.partitionIndex) to the transaction"
                            )
                        }
                    }
                }
            } catch {
                failure = Self.clientError(error)
            }
            let result = failure
            try? await core.onLoop {
                self.isAddingPartitions = false
                if let result {
                    self.giveUp(result)
                } else {
                    self.shared.withLock { $0.machine.transaction.added(partitions) }
                    self.drain()
                }
            }
        }
    }

    /// The transaction cannot succeed: what waits to be sent fails at once. On the event loop.
    private func giveUp(_ error: ClientError) {
        let dropped = shared.withLock { shared in
            shared.machine.transaction.fail(error)
            return shared.machine.dropUnsent()
        }
        for batch in dropped { finish(batch, .failure(error)) }
        afterProgress()
    }

    // MARK: Offsets

    func sendOffsets(
        _ offsets: [TopicPartition: OffsetAndMetadata],
        group: ConsumerGroupMetadata
    ) async throws {
        let id = try transactionalID()
        if offsets.isEmpty { return }
        try withTransaction { transaction throws(ClientError) in try transaction.startOffsets() }
        do {
            try await sendOffsets(offsets, group, id)
        } catch {
            let failure = Self.clientError(error)
            try await core.onLoop { self.giveUp(failure) }
            throw failure
        }
    }

    private func sendOffsets(
        _ offsets: [TopicPartition: OffsetAndMetadata],
        _ group: ConsumerGroupMetadata,
        _ id: String
    ) async throws {
        let (producerID, epoch, isSecond, isKnown) = shared.withLock { shared in
            (
                shared.machine.producerID, shared.machine.producerEpoch, shared.machine.transaction.isSecond,
                shared.machine.transaction.knows(group: group.groupID)
            )
        }
        if !isKnown {
            try await core.coordinatorRequest(
                of: .transaction(id),
                AddOffsetsToTxnRequest.self,
                versions: 0...3,
                until: deadline
            ) { _ in
                AddOffsetsToTxnRequest(
                    transactionalId: id,
                    producerId: producerID,
                    producerEpoch: epoch,
                    groupId: group.groupID
                )
            } read: { response in
                guard response.errorCode == 0 else {
                    throw ClientError.transaction(
                        ErrorCode(rawValue: response.errorCode),
                        "adding group '\(group.groupID)' to the transaction"
                    )
                }
            }
            shared.withLock { $0.machine.transaction.added(group: group.groupID) }
        }
        let topics = Dictionary(grouping: offsets) { $0.key.topic }.sorted { $0.key < $1.key }
        // Below version 3 the request has no place for the member, and nobody would notice that it is one of the past.
        let oldest: Int16 = group.generation >= 0 ? 3 : 0
        try await core.coordinatorRequest(
            group: group.groupID,
            TxnOffsetCommitRequest.self,
            versions: oldest...(isSecond ? 5 : 4),
            until: deadline
        ) { version in
            TxnOffsetCommitRequest(
                transactionalId: id,
                groupId: group.groupID,
                producerId: producerID,
                producerEpoch: epoch,
                generationId: version >= 3 ? group.generation : -1,
                memberId: version >= 3 ? group.memberID : "",
                groupInstanceId: version >= 3 ? group.instanceID : nil,
                topics: topics.map { name, partitions in
                    .init(
                        name: name,
                        partitions: partitions.map { partition, offset in
                            .init(
                                partitionIndex: partition.partition.rawValue,
                                committedOffset: offset.offset.rawValue,
                                committedLeaderEpoch: version >= 2 ? offset.leaderEpoch.rawValue : -1,
                                committedMetadata: offset.metadata
                            )
                        }
                    )
                }
            )
        } read: { response in
            for topic in response.topics {
                for partition in topic.partitions where partition.errorCode != 0 {
                    throw ClientError.transaction(
                        ErrorCode(rawValue: partition.errorCode),
                        "committing the offset of \(topic.name)-\(partition.partitionIndex) in the transaction"
                    )
                }
            }
        }
    }

    // MARK: Ending

    func endTransaction(isCommit: Bool) async throws {
        let id = try transactionalID()
        try withTransaction { transaction throws(ClientError) in try transaction.startEnd(isCommit: isCommit) }
        if isCommit {
            do {
                try await flush()
            } catch {
                let failure = Self.clientError(error)
                try withTransaction { $0.fail(failure) }
                throw ClientError(
                    failure.code == .fenced ? .fenced : .transactionFailed,
                    "records of the transaction were not delivered; abort it",
                    cause: failure
                )
            }
        } else {
            let aborted = ClientError(.transactionFailed, "the transaction was aborted before the record was sent")
            try await core.onLoop { self.giveUp(aborted) }
            // What is under way is not sent again; its answers are waited for, good or bad.
            try? await flush()
        }
        do {
            try await end(id, isCommit: isCommit)
            try withTransaction { $0.ended(nil) }
        } catch {
            let failure = Self.clientError(error)
            try withTransaction { $0.ended(failure) }
            throw failure
        }
    }

    private func end(_ id: String, isCommit: Bool) async throws {
        let (producer, isSecond, hasBegun) = shared.withLock { shared in
            (
                (id: shared.machine.producerID, epoch: shared.machine.producerEpoch),
                shared.machine.transaction.isSecond, shared.machine.transaction.hasBegun
            )
        }
        if hasBegun {
            let next = try await core.coordinatorRequest(
                of: .transaction(id),
                EndTxnRequest.self,
                versions: isSecond ? 5...5 : 0...4,
                until: deadline
            ) { _ in
                EndTxnRequest(
                    transactionalId: id,
                    producerId: producer.id,
                    producerEpoch: producer.epoch,
                    committed: isCommit
                )
            } read: { response -> (id: Int64, epoch: Int16) in
                guard response.errorCode == 0 else {
                    throw ClientError.transaction(
                        ErrorCode(rawValue: response.errorCode),
                        isCommit ? "committing the transaction" : "aborting the transaction"
                    )
                }
                return (response.producerId, response.producerEpoch)
            }
            if isSecond, next.id >= 0 { return shared.withLock { $0.machine.producerIDArrived(next) } }
        }
        // Where records may or may not have been written, their sequence numbers cannot be used again in this epoch.
        if shared.withLock({ $0.machine.needsNewEpoch }) {
            try await takeNewEpoch(id, doing: "taking a new epoch after an abort", expected: producer)
        }
    }
}
