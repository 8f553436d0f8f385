// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// All transaction coordinators of a node: finds the shard of a transactional id, gets producer ids, and joins the answers
/// of requests that name many ids.
final class TransactionCoordinatorService: Sendable {
    /// Called once with the response.
    typealias Reply<Response> = @Sendable (Response) -> Void

    let access: any InternalTopicAccess
    let node: any TransactionNode
    let settings: TransactionSettings
    private let shards: ShardTable<TransactionShard>

    init(
        access: any InternalTopicAccess,
        node: any TransactionNode,
        settings: TransactionSettings,
        logger: Logger
    ) {
        self.access = access
        self.node = node
        self.settings = settings
        let dispatch = MarkerDispatch(node: node, access: access, logger: logger)
        shards = ShardTable(access: access, logger: logger) { partition in
            ShardRuntime(partition: partition, access: access, logger: logger) {
                TransactionShard(settings: settings, now: $0)
            } carryOut: { order, runtime, incarnation in
                dispatch.carryOut(order, runtime, incarnation)
            }
        }
    }

    // MARK: Life

    /// Loads every shard. Blocks; called once before the node serves.
    func start() { shards.start() }

    /// Answers everyone who waits and gives all shards up.
    func stop() { shards.stop() }

    /// This node begins to lead a partition of the coordinator's topic, or ceases to.
    func elected(_ partition: Int32, of count: Int) { shards.elected(partition, of: count) }
    func resigned(_ partition: Int32) { shards.resigned(partition) }

    /// Sees to it that `__transaction_state` exists, then calls `done` with an error code.
    func prepare(_ done: @escaping @Sendable (ErrorCode) -> Void) { shards.prepare(done) }

    /// Sends an event to the shard of `id`.
    func submit(_ id: String, _ event: TransactionEvent, _ completion: @escaping TransactionCompletion) {
        // Without the topic there are no coordinators; looking for one creates it.
        guard let shard = shards.shard(of: id) else { return completion(.failed(.notCoordinator)) }
        shard.submit(event, completion)
    }

    /// Sends the event that `make` makes, and again with a fresh producer id where one is needed.
    private func submitWithProducerID(
        _ id: String,
        _ make: @escaping @Sendable (Int64?) -> TransactionEvent,
        _ completion: @escaping @Sendable (ErrorCode, ProducerIdentity) -> Void
    ) {
        let finish: TransactionCompletion = { outcome in
            switch outcome {
            case .response(.producer(let code, let producer)): completion(code, producer)
            case .failed(let code): completion(code, .none)
            default: completion(.unknownServerError, .none)
            }
        }
        submit(id, make(nil)) { [self] outcome in
            guard case .response(.needsProducerID) = outcome else { return finish(outcome) }
            node.newProducerID { [self] result in
                switch result {
                case .success(let fresh): submit(id, make(fresh), finish)
                case .failure: completion(.coordinatorNotAvailable, .none)
                }
            }
        }
    }

    // MARK: InitProducerId

    /// InitProducerId with a transactional id, versions 0–6.
    func initProducerID(
        _ request: InitProducerIdRequest,
        version: Int16,
        _ reply: @escaping Reply<InitProducerIdResponse>
    ) {
        let refuse = { (code: ErrorCode) in
            reply(InitProducerIdResponse(errorCode: code.rawValue, producerEpoch: -1))
        }
        guard let id = request.transactionalId, !id.isEmpty else { return refuse(.invalidRequest) }
        // Transactions that an outside coordinator decides on (KIP-939) are not served: nobody may ask for them.
        if request.enable2Pc { return refuse(.transactionalIdAuthorizationFailed) }
        if request.keepPreparedTxn { return refuse(.unsupportedVersion) }
        guard (request.producerId < 0) == (request.producerEpoch < 0) else { return refuse(.invalidRequest) }
        let expected =
            request.producerId < 0
            ? nil : ProducerIdentity(id: request.producerId, epoch: request.producerEpoch)
        let timeout = request.transactionTimeoutMs
        submitWithProducerID(id) {
            .initialize(id: id, timeout: timeout, expected: expected, fresh: $0)
        } _: { code, producer in
            reply(
                InitProducerIdResponse(
                    errorCode: Self.fencing(code, since: 4, version).rawValue,
                    producerId: producer.id,
                    producerEpoch: producer.epoch
                )
            )
        }
    }

    /// PRODUCER_FENCED is known to clients from some version on; before it was INVALID_PRODUCER_EPOCH.
    static func fencing(_ code: ErrorCode, since first: Int16, _ version: Int16) -> ErrorCode {
        code == .producerFenced && version < first ? .invalidProducerEpoch : code
    }

    // MARK: Ending

    /// EndTxn, versions 0–5.
    func endTransaction(_ request: EndTxnRequest, version: Int16, _ reply: @escaping Reply<EndTxnResponse>) {
        let id = request.transactionalId
        if id.isEmpty { return reply(EndTxnResponse(errorCode: ErrorCode.invalidRequest.rawValue)) }
        let producer = ProducerIdentity(id: request.producerId, epoch: request.producerEpoch)
        let isCommit = request.committed
        let protocolVersion = version >= 5 ? TransactionVersion.second : TransactionVersion.first
        submitWithProducerID(id) {
            .end(id: id, producer: producer, isCommit: isCommit, version: protocolVersion, fresh: $0)
        } _: { code, next in
            reply(
                EndTxnResponse(
                    errorCode: Self.fencing(code, since: 2, version).rawValue,
                    producerId: version >= 5 ? next.id : -1,
                    producerEpoch: version >= 5 ? next.epoch : -1
                )
            )
        }
    }

    // MARK: Adding

    /// Adds partitions to a transaction.
    func add(
        _ partitions: [TopicPartition],
        to id: String,
        _ producer: ProducerIdentity,
        version: Int16,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    ) {
        if id.isEmpty { return done(.invalidRequest) }
        submit(id, .add(id: id, producer: producer, partitions: partitions, version: version)) { outcome in
            switch outcome {
            case .response(.code(let code)): done(code)
            case .failed(let code): done(code)
            default: done(.unknownServerError)
            }
        }
    }

    /// Tells which partitions are not in a transaction.
    func verify(
        _ partitions: [TopicPartition],
        in id: String,
        _ producer: ProducerIdentity,
        _ done: @escaping @Sendable (Result<[TopicPartition], TransactionRefusal>) -> Void
    ) {
        submit(id, .verify(id: id, producer: producer, partitions: partitions)) { outcome in
            switch outcome {
            case .response(.missing(let missing)): done(.success(missing))
            case .response(.code(let code)), .failed(let code): done(.failure(TransactionRefusal(code: code)))
            default: done(.failure(TransactionRefusal(code: .unknownServerError)))
            }
        }
    }

    /// AddOffsetsToTxn, versions 0–4: the group's partition of `__consumer_offsets` joins the transaction.
    func addOffsets(
        _ request: AddOffsetsToTxnRequest,
        version: Int16,
        _ reply: @escaping Reply<AddOffsetsToTxnResponse>
    ) {
        guard let partition = offsetsPartition(of: request.groupId) else {
            // Some clients look for the group's coordinator only afterwards.
            return node.prepareGroups { [self] code in
                guard code == .none, offsetsPartition(of: request.groupId) != nil else {
                    let told: ErrorCode = code == .none ? .coordinatorNotAvailable : code
                    return reply(AddOffsetsToTxnResponse(errorCode: told.rawValue))
                }
                addOffsets(request, version: version, reply)
            }
        }
        add(
            [partition],
            to: request.transactionalId,
            ProducerIdentity(id: request.producerId, epoch: request.producerEpoch),
            version: TransactionVersion.first
        ) { code in
            reply(AddOffsetsToTxnResponse(errorCode: Self.fencing(code, since: 2, version).rawValue))
        }
    }

    /// Where the offsets of a group live; nil while `__consumer_offsets` does not exist.
    func offsetsPartition(of groupID: String) -> TopicPartition? {
        guard let count = access.partitionCount(of: .consumerOffsets) else { return nil }
        return TopicPartition(
            topic: InternalTopic.consumerOffsets.name,
            partition: PartitionID(GroupCoordinatorService.partition(of: groupID, count: count))
        )
    }

    // MARK: Admission of writes

    /// Whether a write may join a transaction. `adds`: the write itself adds its partitions (KIP-890's second part),
    /// else they must have been added before. Codes are those that a client of Produce or TxnOffsetCommit is told;
    /// TRANSACTION_ABORTABLE where a partition was not added.
    func admit(
        _ partitions: [TopicPartition],
        to id: String,
        _ producer: ProducerIdentity,
        adds: Bool,
        attempts: Int = 5,
        _ done: @escaping @Sendable (ErrorCode) -> Void
    ) {
        if !adds && !settings.verifiesPartitions { return done(.none) }
        let finish: @Sendable (ErrorCode) -> Void = { [self] code in
            switch code {
            case .concurrentTransactions where attempts > 1:
                // The transaction before is about to be complete.
                _ = access.schedule(after: 20) { [self] in
                    admit(partitions, to: id, producer, adds: adds, attempts: attempts - 1, done)
                }
            case .producerFenced: done(.invalidProducerEpoch)
            default: done(code)
            }
        }
        if id.isEmpty { return done(.invalidRequest) }
        switch coordinator(of: id) {
        case .here: break
        case .node(let remote): return node.ask(remote, toAdmit: partitions, to: id, producer, adds: adds, finish)
        case .nowhere, .gone: return finish(.coordinatorNotAvailable)
        }
        if adds { return add(partitions, to: id, producer, version: TransactionVersion.second, finish) }
        verify(partitions, in: id, producer) { result in
            switch result {
            case .success(let missing): finish(missing.isEmpty ? .none : .transactionAbortable)
            case .failure(let refusal): finish(refusal.code)
            }
        }
    }

    /// Where the coordinator of a transactional id is.
    private func coordinator(of id: String) -> LeaderPlace {
        guard let count = access.partitionCount(of: .transactionState) else { return .here }
        let index = GroupCoordinatorService.partition(of: id, count: count)
        return node.place(TopicPartition(topic: InternalTopic.transactionState.name, partition: PartitionID(index)))
    }

    // MARK: Administration

    /// DescribeTransactions, version 0.
    func describe(_ request: DescribeTransactionsRequest, _ reply: @escaping Reply<DescribeTransactionsResponse>) {
        let ids = request.transactionalIds
        gather(
            ids.map { id in { self.submit(id, .describe(id: id), $0) } }
        ) { outcomes in
            var response = DescribeTransactionsResponse()
            for (id, outcome) in zip(ids, outcomes) {
                switch outcome {
                case .response(.describe(let state)): response.transactionStates.append(state)
                // Where there is no coordinator at all, there is no transaction.
                case .failed(.notCoordinator) where self.access.partitionCount(of: .transactionState) == nil:
                    response.transactionStates.append(
                        .init(errorCode: ErrorCode.transactionalIdNotFound.rawValue, transactionalId: id)
                    )
                case .failed(let code):
                    response.transactionStates.append(.init(errorCode: code.rawValue, transactionalId: id))
                default:
                    response.transactionStates.append(
                        .init(errorCode: ErrorCode.unknownServerError.rawValue, transactionalId: id)
                    )
                }
            }
            reply(response)
        }
    }

    /// ListTransactions, versions 0–2.
    func list(_ request: ListTransactionsRequest, _ reply: @escaping Reply<ListTransactionsResponse>) {
        if let pattern = request.transactionalIdPattern, !pattern.isEmpty, TopicPattern(pattern) == nil {
            return reply(ListTransactionsResponse(errorCode: ErrorCode.invalidRegularExpression.rawValue))
        }
        let names = Set(TransactionStatus.allCases.map(\.name))
        let unknown = request.stateFilters.filter { !names.contains($0) }
        gather(shards.all.map { shard in { shard.submit(.list(request), $0) } }) { outcomes in
            var response = ListTransactionsResponse(unknownStateFilters: unknown)
            for outcome in outcomes {
                switch outcome {
                case .response(.list(let states)): response.transactionStates += states
                // Another node has it, and is asked as well.
                case .failed(.notCoordinator): break
                // An incomplete list must not pass for a complete one.
                case .failed(let code): response.errorCode = code.rawValue
                default: response.errorCode = ErrorCode.unknownServerError.rawValue
                }
            }
            if response.errorCode != 0 { response.transactionStates = [] }
            reply(response)
        }
    }

    /// Runs `calls` and gives `done` their outcomes, in their order.
    private func gather(
        _ calls: [(@escaping TransactionCompletion) -> Void],
        _ done: @escaping @Sendable ([TransactionOutcome]) -> Void
    ) {
        if calls.isEmpty { return done([]) }
        let gathering = ResultsInOrder(calls.count, done)
        for (index, call) in calls.enumerated() { call { gathering.put($0, at: index) } }
    }

    /// How many transactional ids are in each state.
    func counts() -> [TransactionStatus: Int] {
        shards.all.reduce(into: [:]) { counts, shard in
            counts.merge(shard.inspect(\.counts) ?? [:], uniquingKeysWith: +)
        }
    }
}
