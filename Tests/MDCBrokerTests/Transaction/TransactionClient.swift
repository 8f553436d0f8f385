// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

@testable import MDCBroker

/// The requests of a transactional producer, one by one, in the versions of either protocol.
struct TransactionClient {
    let connection: RawKafkaConnection
    let id: String
    /// Whether the second protocol is spoken: partitions join by being written to, each end takes a new epoch.
    var isSecond = false
    var producer = ProducerIdentity.none
    var sequences: [String: Int32] = [:]

    init(_ connection: RawKafkaConnection, _ id: String, isSecond: Bool = false) throws {
        self.connection = connection
        self.id = id
        self.isSecond = isSecond
        _ = try connection.call(
            FindCoordinatorRequest(keyType: 1, coordinatorKeys: [id]),
            version: 4
        )
    }

    /// InitProducerId, until the transaction before is over.
    mutating func begin(timeout: Int32 = 60_000) throws {
        var code = ErrorCode.none
        for _ in 0..<1_000 {
            let response = try connection.call(
                InitProducerIdRequest(transactionalId: id, transactionTimeoutMs: timeout),
                version: 4
            )
            code = ErrorCode(rawValue: response.errorCode)
            if code == .concurrentTransactions || code == .coordinatorLoadInProgress { continue }
            producer = ProducerIdentity(id: response.producerId, epoch: response.producerEpoch)
            sequences = [:]
            break
        }
        guard code == .none else { throw RawKafkaConnection.Failure(description: "InitProducerId: \(code)") }
    }

    func add(_ topic: String, _ partitions: [Int32] = [0]) throws -> ErrorCode {
        let response = try connection.call(
            AddPartitionsToTxnRequest(
                v3AndBelowTransactionalId: id,
                v3AndBelowProducerId: producer.id,
                v3AndBelowProducerEpoch: producer.epoch,
                v3AndBelowTopics: [.init(name: topic, partitions: partitions)]
            ),
            version: 3
        )
        return ErrorCode(rawValue: response.resultsByTopicV3AndBelow[0].resultsByPartition[0].partitionErrorCode)
    }

    /// The batch that comes next in a partition.
    mutating func batch(_ values: [String], _ topic: String, _ partition: Int32 = 0) throws -> ByteBuffer {
        var settings = RecordBatchBuilder.Settings()
        settings.producerID = ProducerID(producer.id)
        settings.producerEpoch = producer.epoch
        settings.isTransactional = true
        settings.baseSequence = sequences["\(topic)-\(partition)", default: 0]
        var builder = RecordBatchBuilder(settings)
        for value in values {
            builder.append(key: nil, value: ByteBuffer(string: value), headers: [], timestamp: 1_700_000_000_000)
        }
        return try builder.build()
    }

    func produceRequest(_ batch: ByteBuffer, _ topic: String, _ partition: Int32 = 0) -> ProduceRequest {
        ProduceRequest(
            transactionalId: id,
            acks: -1,
            timeoutMs: 10_000,
            topicData: [.init(name: topic, partitionData: [.init(index: partition, records: batch)])]
        )
    }

    mutating func produce(_ values: [String], _ topic: String, _ partition: Int32 = 0) throws -> ErrorCode {
        let request = produceRequest(try batch(values, topic, partition), topic, partition)
        let response = try connection.call(request, version: isSecond ? 12 : 11)
        let code = ErrorCode(rawValue: response.responses[0].partitionResponses[0].errorCode)
        if code == .none { sequences["\(topic)-\(partition)", default: 0] += Int32(values.count) }
        return code
    }

    @discardableResult
    mutating func end(commit: Bool) throws -> ErrorCode {
        let response = try connection.call(
            EndTxnRequest(
                transactionalId: id,
                producerId: producer.id,
                producerEpoch: producer.epoch,
                committed: commit
            ),
            version: isSecond ? 5 : 3
        )
        let code = ErrorCode(rawValue: response.errorCode)
        if isSecond && code == .none {
            producer = ProducerIdentity(id: response.producerId, epoch: response.producerEpoch)
            sequences = [:]
        }
        return code
    }

    func commitOffset(
        _ offset: Int64,
        _ topic: String,
        group: String,
        generation: Int32 = -1,
        member: String = "",
        version: Int16? = nil
    ) throws -> ErrorCode {
        let response = try connection.call(
            TxnOffsetCommitRequest(
                transactionalId: id,
                groupId: group,
                producerId: producer.id,
                producerEpoch: producer.epoch,
                generationId: generation,
                memberId: member,
                topics: [.init(name: topic, partitions: [.init(partitionIndex: 0, committedOffset: offset)])]
            ),
            version: version ?? (isSecond ? 5 : 3)
        )
        return ErrorCode(rawValue: response.topics[0].partitions[0].errorCode)
    }
}

extension RawKafkaConnection {
    /// All values that a reader of committed records sees: it drops what the lists of aborted transactions name.
    func committedValues(_ topic: String, partition: Int32 = 0) throws -> [String] {
        var values: [String] = []
        var offset: Int64 = 0
        while true {
            let data = try fetchCommitted(topic, partition: partition, from: offset)
            var aborted = (data.abortedTransactions ?? []).map { (id: $0.producerId, first: $0.firstOffset) }
            var active: Set<Int64> = []
            let start = offset
            var batches = RecordBatchIterator(data.records ?? ByteBuffer())
            while let batch = try batches.next() {
                let reader = try batch.reader()
                let header = reader.header
                offset = header.nextOffset.rawValue
                while let next = aborted.first, next.first <= header.lastOffset.rawValue {
                    active.insert(next.id)
                    aborted.removeFirst()
                }
                if header.attributes.isControl {
                    let record = try reader.records()[0]
                    if try ControlRecord(key: record.key, value: record.value).kind == .abort {
                        active.remove(header.producerID.rawValue)
                    }
                } else if !header.attributes.isTransactional || !active.contains(header.producerID.rawValue) {
                    values += try reader.records().map { String(buffer: $0.value ?? ByteBuffer()) }
                }
            }
            if offset == start { return values }
        }
    }

    func fetchCommitted(
        _ topic: String,
        partition: Int32 = 0,
        from offset: Int64 = 0
    ) throws -> FetchResponse.PartitionData {
        let response = try call(
            FetchRequest(
                maxWaitMs: 0,
                minBytes: 1,
                maxBytes: 1 << 22,
                isolationLevel: 1,
                topics: [
                    .init(
                        topic: topic,
                        partitions: [.init(partition: partition, fetchOffset: offset, partitionMaxBytes: 1 << 20)]
                    )
                ]
            ),
            version: 12
        )
        return response.responses[0].partitions[0]
    }

    /// A committed offset as OffsetFetch tells it: -1 for none, -100 minus the code for an error.
    func committedOffset(_ topic: String, group: String, requireStable: Bool) throws -> Int64 {
        let response = try call(
            OffsetFetchRequest(
                groups: [.init(groupId: group, topics: [.init(name: topic, partitionIndexes: [0])])],
                requireStable: requireStable
            ),
            version: 9
        )
        let group = response.groups[0]
        if group.errorCode != 0 { return -100 - Int64(group.errorCode) }
        let partition = group.topics[0].partitions[0]
        return partition.errorCode == 0 ? partition.committedOffset : -100 - Int64(partition.errorCode)
    }
}
