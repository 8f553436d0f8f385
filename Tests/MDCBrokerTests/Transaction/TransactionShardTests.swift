// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCBroker

@Suite struct TransactionShardTests {
    // MARK: InitProducerId

    @Test func firstProducerGetsEpochZero() {
        var harness = TransactionHarness()
        let (code, producer) = harness.initialize()
        #expect(code == .none && producer == ProducerIdentity(id: 1_001, epoch: 0))
        #expect(harness.status() == .empty)
    }

    @Test func secondProducerFencesTheFirst() {
        var harness = TransactionHarness()
        let first = harness.initialize().producer
        let second = harness.initialize().producer
        #expect(second == ProducerIdentity(id: first.id, epoch: first.epoch + 1))
        #expect(harness.add(first) == .producerFenced)
        #expect(harness.add(second) == .none)
    }

    @Test func timeoutsOutOfRangeAreRefused() {
        var harness = TransactionHarness()
        #expect(harness.initialize(timeout: 0).code == .invalidTransactionTimeout)
        #expect(harness.initialize(timeout: 900_001).code == .invalidTransactionTimeout)
        #expect(harness.initialize(timeout: 900_000).code == .none)
    }

    @Test func newProducerAbortsWhatIsUnderWay() {
        var harness = TransactionHarness()
        let first = harness.initialize().producer
        #expect(harness.add(first) == .none)
        #expect(harness.initialize().code == .concurrentTransactions)
        #expect(harness.status() == .prepareAbort)
        #expect(harness.initialize().code == .concurrentTransactions)
        // The marker carries a higher epoch than the records, so that late ones are fenced at the partition too.
        #expect(harness.orders.map(\.producer.epoch) == [first.epoch + 1])
        #expect(harness.orders.map(\.isCommit) == [false])
        harness.mark()
        #expect(harness.status() == .completeAbort)
        let second = harness.initialize()
        #expect(second.code == .none && second.producer.epoch == first.epoch + 2)
        #expect(harness.endAndMark(first, commit: true).code == .producerFenced)
    }

    @Test func producerThatKnowsItsEpochGetsTheNext() {
        var harness = TransactionHarness()
        let first = harness.initialize().producer
        let second = harness.initialize(expected: first)
        #expect(second.code == .none && second.producer.epoch == 1)
        // The answer was lost: the same request gets the same answer.
        #expect(harness.initialize(expected: first) == second)
        let third = harness.initialize(expected: second.producer)
        #expect(third.producer.epoch == 2)
        #expect(harness.initialize(expected: first).code == .producerFenced)
        #expect(harness.initialize(expected: ProducerIdentity(id: 77, epoch: 2)).code == .producerFenced)
    }

    @Test func zombieDoesNotAbortItsSuccessorsTransaction() {
        var harness = TransactionHarness()
        let zombie = harness.initialize().producer
        let producer = harness.initialize().producer
        #expect(harness.add(producer) == .none)
        #expect(harness.initialize(expected: zombie).code == .producerFenced)
        #expect(harness.status() == .ongoing)
    }

    @Test func producerMayAbortItsOwnTransactionByBeginningAgain() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer) == .none)
        #expect(harness.initialize(expected: producer).code == .concurrentTransactions)
        harness.mark()
        let next = harness.initialize(expected: producer)
        #expect(next.code == .none && next.producer == ProducerIdentity(id: producer.id, epoch: producer.epoch + 1))
        #expect(harness.add(next.producer) == .none)
    }

    @Test func unknownIDsProducerGetsAFreshOne() {
        // The id expired while its producer slept.
        var harness = TransactionHarness()
        let (code, producer) = harness.initialize(expected: ProducerIdentity(id: 5, epoch: 9))
        #expect(code == .none && producer == ProducerIdentity(id: 1_001, epoch: 0))
    }

    // MARK: First protocol

    @Test func commitAndAbortKeepTheEpoch() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        for commit in [true, false, true] {
            #expect(harness.add(producer, [harnessPartition(0), harnessPartition(1)]) == .none)
            let token = harness.end(producer, commit: commit)
            #expect(harness.answers[token] == nil, "the answer waits for the markers")
            #expect(harness.status() == (commit ? .prepareCommit : .prepareAbort))
            #expect(harness.orders.map(\.partitions) == [[harnessPartition(0), harnessPartition(1)]])
            harness.mark()
            #expect(harness.answers[token] == .producer(.none, producer))
            #expect(harness.status() == (commit ? .completeCommit : .completeAbort))
            #expect(harness.shard.transactions["t"]?.partitions == [])
        }
    }

    @Test func endIsRepeatable() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer) == .none)
        let first = harness.end(producer, commit: true)
        let early = harness.end(producer, commit: true)
        #expect(harness.answers[early] == .producer(.concurrentTransactions, .none))
        let other = harness.end(producer, commit: false)
        #expect(harness.answers[other] == .producer(.invalidTxnState, .none))
        harness.mark()
        #expect(harness.answers[first] == .producer(.none, producer))
        #expect(harness.endAndMark(producer, commit: true).code == .none)
        #expect(harness.endAndMark(producer, commit: false).code == .invalidTxnState)
    }

    @Test func endOfNothingIsRefused() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.endAndMark(producer, commit: true).code == .invalidTxnState)
        #expect(harness.endAndMark(producer, commit: false).code == .invalidTxnState)
        #expect(harness.endAndMark(ProducerIdentity(id: 1, epoch: 0), commit: true).code == .invalidProducerIdMapping)
        #expect(harness.endAndMark(producer, commit: true, "nobody").code == .invalidProducerIdMapping)
    }

    @Test func nothingJoinsWhileTheTransactionEnds() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer) == .none)
        _ = harness.end(producer, commit: true)
        #expect(harness.add(producer) == .concurrentTransactions)
        harness.mark()
        #expect(harness.add(producer) == .none)
    }

    @Test func failedMarkersDoNotHoldTheAnswer() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer) == .none)
        let token = harness.end(producer, commit: true)
        harness.mark(isDone: false)
        #expect(harness.answers[token] == .producer(.none, producer))
        #expect(harness.status() == .prepareCommit)
        harness.mark()
        #expect(harness.status() == .completeCommit)
    }

    @Test func markersOfAnEarlierTransactionCompleteNothing() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer) == .none)
        _ = harness.end(producer, commit: true)
        let old = harness.orders[0]
        harness.mark()
        #expect(harness.add(producer, [harnessPartition(3)]) == .none)
        _ = harness.end(producer, commit: false)
        harness.send(.marked(old, isDone: true))
        #expect(harness.status() == .prepareAbort)
    }

    @Test func verifyTellsWhatIsMissing() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer) == .none)
        let asked = [harnessPartition(0), harnessPartition(1)]
        let token = harness.send(.verify(id: "t", producer: producer, partitions: asked))
        #expect(harness.answers[token] == .missing([harnessPartition(1)]))
        _ = harness.endAndMark(producer, commit: true)
        let after = harness.send(.verify(id: "t", producer: producer, partitions: asked))
        #expect(harness.answers[after] == .missing(asked))
        let zombie = harness.send(
            .verify(id: "t", producer: ProducerIdentity(id: producer.id, epoch: -1), partitions: asked)
        )
        #expect(harness.answers[zombie] == .code(.producerFenced))
    }

    // MARK: Second protocol

    @Test func eachEndTakesTheNextEpoch() {
        var harness = TransactionHarness()
        var producer = harness.initialize().producer
        for round in 1...3 {
            #expect(harness.add(producer, version: TransactionVersion.second) == .none)
            let (code, next) = harness.endAndMark(producer, commit: true, version: TransactionVersion.second)
            #expect(code == .none && next == ProducerIdentity(id: producer.id, epoch: Int16(round)))
            // The repetition of a request whose answer was lost.
            let again = harness.endAndMark(producer, commit: true, version: TransactionVersion.second)
            #expect(again.code == .none && again.producer == next)
            #expect(
                harness.endAndMark(producer, commit: false, version: TransactionVersion.second).code == .invalidTxnState
            )
            #expect(harness.add(producer, version: TransactionVersion.second) == .producerFenced)
            producer = next
        }
    }

    @Test func markersOfTheSecondProtocolCarryTheNextEpoch() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer, version: TransactionVersion.second) == .none)
        _ = harness.end(producer, commit: true, version: TransactionVersion.second)
        #expect(harness.orders[0].producer.epoch == producer.epoch + 1 && harness.orders[0].bumpsEpoch)
    }

    @Test func emptyAbortTakesTheNextEpochAndIsNoFence() {
        // KAFKA-18464: an abort of nothing must not fence the producer that asks for it.
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        let (code, next) = harness.endAndMark(producer, commit: false, version: TransactionVersion.second)
        #expect(code == .none && next.epoch == producer.epoch + 1)
        let again = harness.endAndMark(next, commit: false, version: TransactionVersion.second)
        #expect(again.code == .none && again.producer.epoch == next.epoch + 1)
        #expect(harness.add(again.producer, version: TransactionVersion.second) == .none)
        #expect(
            harness.endAndMark(again.producer, commit: true, version: TransactionVersion.second).code == .none
        )
    }

    @Test func emptyCommitIsRefused() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(
            harness.endAndMark(producer, commit: true, version: TransactionVersion.second).code == .invalidTxnState
        )
    }

    @Test func timeoutOfTheSecondProtocolRaisesTheEpochOnce() {
        // KAFKA-19367: raised twice, the producer's own end would look like a zombie's of long ago.
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer, version: TransactionVersion.second) == .none)
        harness.advance(60_000)
        #expect(harness.orders.map(\.producer.epoch) == [producer.epoch + 1])
        harness.mark()
        #expect(harness.shard.transactions["t"]?.epoch == producer.epoch + 1)
    }

    // MARK: Epochs used up

    @Test func usedUpEpochsGiveANewProducerID() {
        var harness = TransactionHarness()
        let producer = harness.initializeAtLastEpoch()
        #expect(producer.epoch == Transaction.lastUsableEpoch)
        let next = harness.initialize(expected: producer)
        #expect(next.code == .none && next.producer.epoch == 0 && next.producer.id != producer.id)
        #expect(harness.initialize(expected: producer) == next, "a repetition names the id before")
        #expect(harness.add(producer) == .invalidProducerIdMapping)
        #expect(harness.add(next.producer) == .none)
    }

    @Test func endOfTheLastEpochGivesANewProducerID() {
        var harness = TransactionHarness()
        let producer = harness.initializeAtLastEpoch()
        #expect(harness.add(producer, version: TransactionVersion.second) == .none)
        let token = harness.end(producer, commit: true, version: TransactionVersion.second)
        // The marker has the one epoch that no producer ever has.
        #expect(harness.orders.map(\.producer) == [ProducerIdentity(id: producer.id, epoch: .max)])
        harness.crash()
        harness.mark()
        #expect(harness.answers[token] == nil, "the crash took the connection")
        let (code, next) = harness.endAndMark(producer, commit: true, version: TransactionVersion.second)
        #expect(code == .none && next.epoch == 0 && next.id != producer.id)
        #expect(harness.add(next, version: TransactionVersion.second) == .none)
    }

    @Test func fencingTheLastEpochDoesNotOverflow() {
        var harness = TransactionHarness()
        let producer = harness.initializeAtLastEpoch()
        #expect(harness.add(producer) == .none)
        harness.advance(60_000)
        #expect(harness.orders.map(\.producer.epoch) == [.max])
        harness.mark()
        let next = harness.initialize(expected: producer)
        #expect(next.code == .producerFenced)
        let fresh = harness.initialize()
        #expect(fresh.code == .none && fresh.producer.epoch == 0 && fresh.producer.id != producer.id)
    }

    // MARK: Time

    @Test func timeoutAborts() {
        var harness = TransactionHarness()
        let producer = harness.initialize(timeout: 5_000).producer
        #expect(harness.add(producer) == .none)
        harness.advance(4_999)
        #expect(harness.status() == .ongoing)
        harness.advance(1)
        #expect(harness.status() == .prepareAbort)
        harness.mark()
        let token = harness.end(producer, commit: true)
        #expect(harness.answers[token] == .producer(.producerFenced, .none))
    }

    @Test func timeoutGoesOnAfterACrash() {
        var harness = TransactionHarness()
        let producer = harness.initialize(timeout: 5_000).producer
        #expect(harness.add(producer) == .none)
        harness.advance(3_000)
        harness.crash()
        harness.advance(1_999)
        #expect(harness.status() == .ongoing)
        harness.advance(1)
        #expect(harness.status() == .prepareAbort)
    }

    @Test func unusedIDsAreForgotten() {
        var settings = TransactionSettings()
        settings.expiration = 10_000
        settings.expirationCheckInterval = 1_000
        var harness = TransactionHarness(settings: settings)
        _ = harness.initialize("idle")
        let producer = harness.initialize("busy", timeout: 900_000).producer
        #expect(harness.add(producer, [harnessPartition(0)], "busy") == .none)
        harness.advance(12_000)
        #expect(Set(harness.shard.transactions.keys) == ["busy"])
        harness.crash()
        #expect(Set(harness.shard.transactions.keys) == ["busy"])
    }

    // MARK: Crashes

    @Test func decidedTransactionsAreCarriedOutAfterACrash() {
        for commit in [true, false] {
            var harness = TransactionHarness()
            let producer = harness.initialize().producer
            #expect(harness.add(producer, [harnessPartition(2), harnessPartition(1)]) == .none)
            _ = harness.end(producer, commit: commit)
            let before = harness.orders
            harness.crash()
            #expect(harness.orders == before)
            harness.mark()
            #expect(harness.status() == (commit ? .completeCommit : .completeAbort))
        }
    }

    @Test func ongoingTransactionsSurviveACrash() {
        var harness = TransactionHarness()
        let producer = harness.initialize().producer
        #expect(harness.add(producer) == .none)
        harness.crash()
        #expect(harness.add(producer, [harnessPartition(1)]) == .none)
        _ = harness.end(producer, commit: true)
        #expect(harness.orders.map(\.partitions) == [[harnessPartition(0), harnessPartition(1)]])
    }

    // MARK: Records

    @Test func recordsOfBothVersionsAreRead() throws {
        var harness = TransactionHarness()
        let value = TransactionLogValue(
            producerId: 7,
            producerEpoch: 3,
            transactionTimeoutMs: 1_000,
            transactionStatus: TransactionStatus.prepareCommit.rawValue,
            transactionPartitions: [.init(topic: "p", partitionIds: [4])],
            transactionLastUpdateTimestampMs: 5,
            transactionStartTimestampMs: 4
        )
        for version: Int16 in [0, 1] {
            var key = ByteBuffer(integer: Int16(0))
            try TransactionLogKey(transactionalId: "v\(version)").write(into: &key, version: 0)
            var bytes = ByteBuffer(integer: version)
            try value.write(into: &bytes, version: version)
            try harness.shard.replay(CoordinatorRecord(key: key, value: bytes), now: harness.now)
            #expect(harness.shard.transactions["v\(version)"]?.logValue == value)
            try harness.shard.replay(CoordinatorRecord(key: key, value: nil), now: harness.now)
            #expect(harness.shard.transactions["v\(version)"] == nil)
        }
        var unknown = ByteBuffer(integer: Int16(9))
        unknown.writeString("?")
        try harness.shard.replay(CoordinatorRecord(key: unknown, value: nil), now: harness.now)
        #expect(throws: ProtocolError.self) {
            try harness.shard.replay(CoordinatorRecord(key: ByteBuffer(), value: nil), now: harness.now)
        }
    }

    // MARK: Administration

    @Test func listFiltersAndDescribeTells() {
        var harness = TransactionHarness()
        let first = harness.initialize("one").producer
        let second = harness.initialize("two").producer
        #expect(harness.add(second, [harnessPartition(1, "b"), harnessPartition(0, "a")], "two") == .none)
        harness.advance(2_000)
        func names(_ request: ListTransactionsRequest) -> [String] {
            let token = harness.send(.list(request))
            guard case .list(let found)? = harness.answers[token] else { return ["?"] }
            return found.map(\.transactionalId)
        }
        #expect(names(ListTransactionsRequest()) == ["one", "two"])
        #expect(names(ListTransactionsRequest(stateFilters: ["Ongoing"])) == ["two"])
        #expect(names(ListTransactionsRequest(producerIdFilters: [first.id])) == ["one"])
        #expect(names(ListTransactionsRequest(durationFilter: 1_000)) == ["two"])
        #expect(names(ListTransactionsRequest(durationFilter: 3_000)) == [])
        #expect(names(ListTransactionsRequest(transactionalIdPattern: "o.*")) == ["one"])
        let token = harness.send(.describe(id: "two"))
        guard case .describe(let state)? = harness.answers[token] else {
            Issue.record("no description")
            return
        }
        #expect(state.transactionState == "Ongoing" && state.producerId == second.id && state.producerEpoch == 0)
        #expect(state.topics.map(\.topic) == ["a", "b"] && state.topics.map(\.partitions) == [[0], [1]])
        let unknown = harness.send(.describe(id: "three"))
        guard case .describe(let missing)? = harness.answers[unknown] else { return }
        #expect(missing.errorCode == ErrorCode.transactionalIdNotFound.rawValue)
    }
}
