// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

typealias TransactionHarness = ShardHarness<TransactionShard>

extension TransactionHarness {
    init(settings: TransactionSettings = TransactionSettings()) {
        self.init {
            TransactionShard(settings: settings, now: $0)
        } successor: { _, now, _ in
            TransactionShard(settings: settings, now: now)
        } check: { mirror, shard, _ in
            #expect(Set(mirror.transactions.keys) == Set(shard.transactions.keys))
            for (id, transaction) in shard.transactions {
                #expect(mirror.transactions[id]?.logValue == transaction.logValue)
            }
        }
    }

    /// Puts an id into the state that a producer at its last epoch has.
    mutating func initializeAtLastEpoch(_ id: String = "t") -> ProducerIdentity {
        _ = initialize(id)
        guard var transaction = shard.transactions[id] else { return .none }
        transaction.epoch = Transaction.lastUsableEpoch - 1
        let record = CoordinatorRecord.transaction(id, transaction)
        log.append(record)
        do {
            try shard.replay(record, now: now)
            try mirror.replay(record, now: now)
        } catch {
            Issue.record("\(error)")
        }
        return initialize(id).producer
    }

    // MARK: Short forms

    /// InitProducerId, with a fresh producer id where one is asked for.
    mutating func initialize(
        _ id: String = "t",
        timeout: Int32 = 60_000,
        expected: ProducerIdentity? = nil
    ) -> (code: ErrorCode, producer: ProducerIdentity) {
        var token = send(.initialize(id: id, timeout: timeout, expected: expected, fresh: nil))
        if answers[token] == .needsProducerID {
            nextProducerID += 1
            token = send(.initialize(id: id, timeout: timeout, expected: expected, fresh: nextProducerID))
        }
        guard case .producer(let code, let producer)? = answers[token] else {
            Issue.record("no answer to InitProducerId: \(String(describing: answers[token]))")
            return (.unknownServerError, .none)
        }
        return (code, producer)
    }

    mutating func add(
        _ producer: ProducerIdentity,
        _ partitions: [TopicPartition] = [harnessPartition(0)],
        _ id: String = "t",
        version: Int16 = TransactionVersion.first
    ) -> ErrorCode {
        let token = send(.add(id: id, producer: producer, partitions: partitions, version: version))
        guard case .code(let code)? = answers[token] else { return .unknownServerError }
        return code
    }

    /// EndTxn; the answer may wait for the markers.
    mutating func end(
        _ producer: ProducerIdentity,
        commit: Bool,
        _ id: String = "t",
        version: Int16 = TransactionVersion.first
    ) -> RequestToken {
        let token = send(.end(id: id, producer: producer, isCommit: commit, version: version, fresh: nil))
        guard answers[token] == .needsProducerID else { return token }
        nextProducerID += 1
        return send(.end(id: id, producer: producer, isCommit: commit, version: version, fresh: nextProducerID))
    }

    /// EndTxn, the markers, and the answer.
    mutating func endAndMark(
        _ producer: ProducerIdentity,
        commit: Bool,
        _ id: String = "t",
        version: Int16 = TransactionVersion.first
    ) -> (code: ErrorCode, producer: ProducerIdentity) {
        let token = end(producer, commit: commit, id, version: version)
        mark()
        guard case .producer(let code, let next)? = answers[token] else {
            Issue.record("no answer to EndTxn: \(String(describing: answers[token]))")
            return (.unknownServerError, .none)
        }
        return (code, next)
    }

    /// Carries out all orders.
    mutating func mark(isDone: Bool = true) {
        let due = orders
        if isDone { orders = [] }
        for order in due { send(.marked(order, isDone: isDone)) }
    }

    func status(_ id: String = "t") -> TransactionStatus? { shard.transactions[id]?.status }
}

func harnessPartition(_ index: Int32, _ topic: String = "p") -> TopicPartition {
    TopicPartition(topic: topic, partition: PartitionID(index))
}
