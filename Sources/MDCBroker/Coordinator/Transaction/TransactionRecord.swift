// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// A record of `__transaction_state`, read. Key and value start with the version of their layout as an int16.
enum TransactionRecord: Equatable, Sendable {
    /// The state of a transactional id; nil where it was removed.
    case transaction(id: String, TransactionLogValue?)
    /// A kind that is newer than we are.
    case other(kind: Int16)

    /// Reads a record. Throws where the bytes do not fit the layout that they claim.
    init(_ record: CoordinatorRecord) throws(ProtocolError) {
        var key = record.key
        guard let kind = key.readInteger(as: Int16.self) else { throw Self.tooShort("key") }
        guard kind == 0 else {
            self = .other(kind: kind)
            return
        }
        let id = try TransactionLogKey(reading: &key, version: 0).transactionalId
        guard var value = record.value else {
            self = .transaction(id: id, nil)
            return
        }
        guard let version = value.readInteger(as: Int16.self) else { throw Self.tooShort("value") }
        self = .transaction(id: id, try TransactionLogValue(reading: &value, version: version))
    }

    private static func tooShort(_ part: String) -> ProtocolError {
        ProtocolError(
            .truncated,
            field: "__transaction_state \(part)",
            detail: "shorter than the two bytes of its version"
        )
    }
}

extension CoordinatorRecord {
    /// The state of a transactional id, or its removal. Version 1 of the value, as Kafka writes since transactions may
    /// take a new epoch each.
    static func transaction(_ id: String, _ transaction: Transaction?) -> CoordinatorRecord {
        var key = ByteBuffer(integer: Int16(0))
        var value: ByteBuffer?
        do {
            try TransactionLogKey(transactionalId: id).write(into: &key, version: 0)
            if let transaction {
                var bytes = ByteBuffer(integer: Int16(1))
                try transaction.logValue.write(into: &bytes, version: 1)
                value = bytes
            }
        } catch {
            preconditionFailure("a transaction's record cannot be encoded: \(error)")
        }
        return CoordinatorRecord(key: key, value: value)
    }
}

extension Transaction {
    /// What the log keeps.
    var logValue: TransactionLogValue {
        var topics: [TransactionLogValue.PartitionsSchema] = []
        for partition in partitions.sorted() {
            if topics.last?.topic != partition.topic { topics.append(.init(topic: partition.topic)) }
            topics[topics.count - 1].partitionIds.append(partition.partition.rawValue)
        }
        return TransactionLogValue(
            producerId: producerID,
            previousProducerId: previousProducerID,
            nextProducerId: nextProducerID,
            producerEpoch: epoch,
            transactionTimeoutMs: timeout,
            transactionStatus: status.rawValue,
            transactionPartitions: status == .empty ? nil : topics,
            transactionLastUpdateTimestampMs: lastUpdate.rawValue,
            transactionStartTimestampMs: startTimestamp.rawValue,
            clientTransactionVersion: clientVersion
        )
    }

    /// From the log. Nil where the status has a number that we do not know. What Kafka left between a decision and its
    /// record (never in a sound log) counts as ongoing.
    init?(id: String, _ value: TransactionLogValue, now: CoordinatorTime) {
        guard var status = TransactionStatus(rawValue: value.transactionStatus) else { return nil }
        if status == .prepareEpochFence { status = .ongoing }
        self.init(id: id, producerID: value.producerId, timeout: value.transactionTimeoutMs, now: now)
        self.status = status
        epoch = value.producerEpoch
        previousProducerID = value.previousProducerId
        nextProducerID = value.nextProducerId
        for topic in value.transactionPartitions ?? [] {
            for index in topic.partitionIds {
                partitions.insert(TopicPartition(topic: topic.topic, partition: PartitionID(index)))
            }
        }
        lastUpdate = Timestamp(value.transactionLastUpdateTimestampMs)
        startTimestamp = Timestamp(value.transactionStartTimestampMs)
        clientVersion = value.clientTransactionVersion
        if status == .ongoing {
            // What the machine was off counts too, but a clock that was set back must not prolong it.
            let left = startTimestamp.rawValue &+ Int64(timeout) &- now.wall.rawValue
            deadline = now.monotonic + min(max(left, 0), Int64(timeout))
        }
    }
}
