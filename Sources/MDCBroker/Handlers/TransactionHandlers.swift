// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import NIOCore
import NIOPosix
import Synchronization

extension HandlerTable {
    /// The APIs of transactions, except InitProducerId, which plain idempotent producers use too.
    mutating func registerTransactionHandlers(_ services: BrokerServices) {
        let transactions = services.transactions
        let groups = services.groups
        register(AddPartitionsToTxnRequest.self, AddPartitionsToTxnHandler(services: services).handle)
        register(AddOffsetsToTxnRequest.self) { request, context in
            transactions.addOffsets(request, version: context.version) { response in
                context.note(response.errorCode)
                context.respond(response)
            }
        }
        register(EndTxnRequest.self) { request, context in
            transactions.endTransaction(request, version: context.version) { response in
                context.note(response.errorCode)
                context.respond(response)
            }
        }
        register(TxnOffsetCommitRequest.self) { request, context in
            transactions.commitOffsets(request, context.origin, groups: groups) { response in
                for topic in response.topics {
                    for partition in topic.partitions { context.note(partition.errorCode) }
                }
                context.respond(response)
            }
        }
        register(WriteTxnMarkersRequest.self, WriteTxnMarkersHandler(services: services).handle)
        register(DescribeTransactionsRequest.self) { request, context in
            transactions.describe(request) { context.respond($0) }
        }
        register(ListTransactionsRequest.self) { request, context in
            transactions.list(request) { context.respond($0) }
        }
    }
}

extension RequestContext {
    /// Counts an error of the answer.
    func note(_ code: Int16) {
        if code != 0 { connection.worker.metrics.failed(apiKey, ErrorCode(rawValue: code)) }
    }
}

/// AddPartitionsToTxn, versions 0–5. Up to 3 a client's: one transaction; from 4 on a broker's: several, and a mode that
/// only asks.
struct AddPartitionsToTxnHandler: Sendable {
    typealias Transaction = AddPartitionsToTxnRequest.AddPartitionsToTxnTransaction
    typealias TopicResult = AddPartitionsToTxnResponse.AddPartitionsToTxnTopicResult
    let services: BrokerServices

    func handle(_ request: AddPartitionsToTxnRequest, _ context: RequestContext) {
        guard context.version >= 4 else {
            let transaction = Transaction(
                transactionalId: request.v3AndBelowTransactionalId,
                producerId: request.v3AndBelowProducerId,
                producerEpoch: request.v3AndBelowProducerEpoch,
                topics: request.v3AndBelowTopics
            )
            return serve(transaction, context) { topics in
                context.respond(AddPartitionsToTxnResponse(resultsByTopicV3AndBelow: topics))
            }
        }
        if request.transactions.isEmpty { return context.respond(AddPartitionsToTxnResponse()) }
        let results = ResultsInOrder<[TopicResult]>(request.transactions.count) { results in
            context.respond(
                AddPartitionsToTxnResponse(
                    resultsByTransaction: zip(request.transactions, results).map {
                        .init(transactionalId: $0.transactionalId, topicResults: $1)
                    }
                )
            )
        }
        for (index, transaction) in request.transactions.enumerated() {
            serve(transaction, context) { results.put($0, at: index) }
        }
    }

    private func serve(
        _ transaction: Transaction,
        _ context: RequestContext,
        _ done: @escaping @Sendable ([TopicResult]) -> Void
    ) {
        let version = context.version
        let answer: @Sendable (@Sendable (TopicPartition) -> ErrorCode) -> Void = { code in
            done(
                transaction.topics.map { topic in
                    .init(
                        name: topic.name,
                        resultsByPartition: topic.partitions.map { index in
                            let code = code(TopicPartition(topic: topic.name, partition: PartitionID(index)))
                            context.note(code.rawValue)
                            return .init(partitionIndex: index, partitionErrorCode: code.rawValue)
                        }
                    )
                }
            )
        }
        let partitions = transaction.topics.flatMap { topic in
            topic.partitions.map { TopicPartition(topic: topic.name, partition: PartitionID($0)) }
        }
        // One that does not exist spoils the request, so that a client does not begin a transaction it cannot go on with.
        let unknown = Set(partitions.filter { !exists($0) })
        if !unknown.isEmpty {
            return answer { unknown.contains($0) ? .unknownTopicOrPartition : .operationNotAttempted }
        }
        let producer = ProducerIdentity(id: transaction.producerId, epoch: transaction.producerEpoch)
        let told: @Sendable (ErrorCode) -> ErrorCode = {
            TransactionCoordinatorService.fencing($0, since: 2, version)
        }
        if transaction.verifyOnly {
            services.transactions.verify(partitions, in: transaction.transactionalId, producer) { result in
                switch result {
                case .success(let missing):
                    let missing = Set(missing)
                    let code: ErrorCode = version >= 5 ? .transactionAbortable : .invalidTxnState
                    answer { missing.contains($0) ? code : .none }
                case .failure(let refusal): answer { _ in told(refusal.code) }
                }
            }
        } else {
            services.transactions.add(
                partitions,
                to: transaction.transactionalId,
                producer,
                version: version >= 4 ? TransactionVersion.second : TransactionVersion.first
            ) { code in
                answer { _ in told(code) }
            }
        }
    }

    private func exists(_ partition: TopicPartition) -> Bool {
        switch services.partitions.find(name: partition.topic, partition: partition.partition.rawValue) {
        // Its leader need not be this node.
        case .found, .notLeader, .offline: true
        case .noSuchTopic, .noSuchPartition: false
        }
    }
}

/// WriteTxnMarkers, versions 1–2: how another coordinator, or an administrator, ends a transaction here.
struct WriteTxnMarkersHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: WriteTxnMarkersRequest, _ context: RequestContext) {
        let work = request.markers.enumerated().flatMap { index, marker in
            marker.topics.flatMap { topic in
                topic.partitionIndexes.map {
                    (index, marker, TopicPartition(topic: topic.name, partition: PartitionID($0)))
                }
            }
        }
        let results = ResultsInOrder<ErrorCode>(work.count) { codes in
            var response = WriteTxnMarkersResponse(markers: request.markers.map { .init(producerId: $0.producerId) })
            for ((index, _, partition), code) in zip(work, codes) {
                context.note(code.rawValue)
                let result = WriteTxnMarkersResponse.WritableTxnMarkerPartitionResult(
                    partitionIndex: partition.partition.rawValue,
                    errorCode: code.rawValue
                )
                let last = response.markers[index].topics.count - 1
                if last >= 0, response.markers[index].topics[last].name == partition.topic {
                    response.markers[index].topics[last].partitions.append(result)
                } else {
                    response.markers[index].topics.append(.init(name: partition.topic, partitions: [result]))
                }
            }
            context.respond(response)
        }
        let node = services.transactions.node
        let sender = PeerFence.Sender(.markers, clientID: context.clientID)
        // Off the loop: a marker for offsets takes the lock of their coordinator.
        services.blocking.submit { _ in
            if services.fence.pass(sender, { write(work, node, results) }) == nil {
                context.closeConnection("the sender of these markers has made a newer connection")
            }
        }
    }

    private typealias Work = (Int, WriteTxnMarkersRequest.WritableTxnMarker, TopicPartition)

    private func write(_ work: [Work], _ node: any TransactionNode, _ results: ResultsInOrder<ErrorCode>) {
        for (position, (_, marker, partition)) in work.enumerated() {
            node.write(
                TransactionEndMarker(
                    producer: ProducerIdentity(id: marker.producerId, epoch: marker.producerEpoch),
                    isCommit: marker.transactionResult,
                    bumpsEpoch: marker.transactionVersion >= 2,
                    coordinatorEpoch: marker.coordinatorEpoch
                ),
                to: partition
            ) { results.put($0, at: position) }
        }
        if work.isEmpty { results.finishEmpty() }
    }
}

/// Waits for several results, which come in any order from any thread.
final class ResultsInOrder<Value: Sendable>: Sendable {
    private let state: Mutex<(values: [Value?], missing: Int)>
    private let done: @Sendable ([Value]) -> Void

    init(_ count: Int, _ done: @escaping @Sendable ([Value]) -> Void) {
        state = Mutex((Array(repeating: nil, count: count), count))
        self.done = done
    }

    func put(_ value: Value, at index: Int) {
        let complete: [Value]? = state.withLock { state in
            state.values[index] = value
            state.missing -= 1
            return state.missing == 0 ? state.values.compactMap { $0 } : nil
        }
        if let complete { done(complete) }
    }

    /// For when there is nothing to wait for.
    func finishEmpty() { done([]) }
}
