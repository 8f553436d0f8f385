// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

/// Drives a shard by hand: a clock that moves when told, a log in memory, and a check after every step that replaying the
/// log gives the state that the shard has.
struct TransactionHarness {
    var shard: TransactionShard
    /// What the log alone says, kept up record by record.
    private var mirror: TransactionShard
    var now = CoordinatorTime(monotonic: 1_000_000, wall: 1_700_000_000_000)
    var log: [CoordinatorRecord] = []
    var nextToken: RequestToken = 1
    /// Answers by token. A second answer to one token is a failure.
    var answers: [RequestToken: TransactionResponse] = [:]
    var parked: Set<RequestToken> = []
    /// Orders to write markers that were not carried out yet.
    var orders: [MarkerOrder] = []
    var nextProducerID: Int64 = 1_000
    let settings: TransactionSettings

    init(settings: TransactionSettings = TransactionSettings()) {
        self.settings = settings
        shard = TransactionShard(settings: settings, now: now)
        mirror = shard
    }

    /// Sends an event; returns the token of its answer.
    @discardableResult
    mutating func send(_ event: TransactionEvent) -> RequestToken {
        let token = nextToken
        nextToken += 1
        parked.insert(token)
        take(shard.handle(event, token: token, now: now))
        return token
    }

    /// Lets `milliseconds` pass, waking the shard whenever it asks for it.
    mutating func advance(_ milliseconds: Int64) {
        let end = now.monotonic + milliseconds
        while shard.nextDeadline <= end {
            move(to: max(shard.nextDeadline, now.monotonic))
            take(shard.tick(now))
        }
        move(to: end)
    }

    private mutating func move(to monotonic: Int64) {
        now.wall = now.wall + (monotonic - now.monotonic)
        now.monotonic = monotonic
    }

    private mutating func take(_ result: TransactionResult) {
        log += result.records
        for record in result.records {
            do { try mirror.replay(record, now: now) } catch { Issue.record("\(error)") }
        }
        for answer in result.answers {
            #expect(parked.remove(answer.token) != nil, "answered twice: \(answer)")
            answers[answer.token] = answer.response
        }
        orders += result.markers
        #expect(Set(mirror.transactions.keys) == Set(shard.transactions.keys))
        for (id, transaction) in shard.transactions {
            #expect(mirror.transactions[id]?.logValue == transaction.logValue)
        }
    }

    /// Stops without warning and starts from the log.
    mutating func crash() {
        var copy = TransactionShard(settings: settings, now: now)
        for record in log {
            do { try copy.replay(record, now: now) } catch { Issue.record("\(error)") }
        }
        orders = []
        parked = []
        take(copy.activate(now: now))
        shard = copy
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
