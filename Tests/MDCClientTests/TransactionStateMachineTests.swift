// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCClient

/// The calls of a transactional producer, and what errors do to them.
@Suite struct TransactionStateMachineTests {
    private static let partition = TopicPartition(topic: "t", partition: 0)
    private static let passing = ClientError(.timeout, "late")
    private static let fenced = ClientError.transaction(.producerFenced, "test")

    private func ready(isSecond: Bool = false) throws -> TransactionStateMachine {
        var machine = TransactionStateMachine()
        try machine.startInitialization()
        machine.initializationEnded(nil)
        machine.isSecond = isSecond
        return machine
    }

    @Test func callsOutOfOrderAreRefused() throws {
        var machine = TransactionStateMachine()
        #expect(machine.appendError?.code == .invalidState)
        #expect(throws: ClientError.self) { try machine.begin() }
        #expect(throws: ClientError.self) { try machine.startEnd(isCommit: true) }
        try machine.startInitialization()
        #expect(throws: ClientError.self) { try machine.startInitialization() }
        machine.initializationEnded(nil)
        #expect(throws: ClientError.self) { try machine.startInitialization() }
        #expect(machine.appendError?.code == .invalidState)
        try machine.begin()
        #expect(machine.appendError == nil)
        #expect(throws: ClientError.self) { try machine.begin() }
        try machine.startEnd(isCommit: true)
        #expect(machine.appendError?.code == .invalidState)
        #expect(throws: ClientError.self) { try machine.startEnd(isCommit: false) }
        machine.ended(nil)
        try machine.begin()
    }

    @Test func initializationMayBeRepeatedUnlessItIsFinal() throws {
        var machine = TransactionStateMachine()
        try machine.startInitialization()
        machine.initializationEnded(Self.passing)
        try machine.startInitialization()
        machine.initializationEnded(ClientError.transaction(.transactionalIdAuthorizationFailed, "test"))
        #expect(throws: ClientError.self) { try machine.startInitialization() }
    }

    @Test func partitionsJoinFirst() throws {
        var machine = try ready()
        try machine.begin()
        let early = machine.admits(Self.partition)
        #expect(!early && !machine.hasBegun)
        machine.added([Self.partition])
        let added = machine.admits(Self.partition)
        #expect(added && machine.hasBegun)
        try machine.startEnd(isCommit: true)
        machine.ended(nil)
        try machine.begin()
        let later = machine.admits(Self.partition)
        #expect(!later, "each transaction begins without partitions")
    }

    @Test func partitionsJoinByBeingWrittenTo() throws {
        var machine = try ready(isSecond: true)
        try machine.begin()
        #expect(!machine.hasBegun)
        let admitted = machine.admits(Self.partition)
        #expect(admitted && machine.hasBegun && machine.knows(group: "g"))
    }

    @Test func failedTransactionCanOnlyBeAborted() throws {
        var machine = try ready(isSecond: true)
        try machine.begin()
        machine.fail(Self.passing)
        #expect(machine.isHalted && machine.appendError?.code == .transactionFailed)
        #expect(throws: ClientError.self) { try machine.startEnd(isCommit: true) }
        try machine.startEnd(isCommit: false)
        #expect(machine.isHalted, "nothing is sent again while it is aborted")
        machine.ended(nil)
        try machine.begin()
        #expect(!machine.isHalted)
    }

    @Test func endWithoutAnswerMayBeAskedForAgain() throws {
        var machine = try ready(isSecond: true)
        try machine.begin()
        try machine.startEnd(isCommit: true)
        machine.ended(Self.passing)
        #expect(throws: ClientError.self) { try machine.startEnd(isCommit: false) }
        try machine.startEnd(isCommit: true)
        machine.ended(nil)
        try machine.begin()
    }

    @Test func refusedCommitMustBeAborted() throws {
        var machine = try ready(isSecond: true)
        try machine.begin()
        try machine.startEnd(isCommit: true)
        machine.ended(ClientError.transaction(.invalidTxnState, "test"))
        try machine.startEnd(isCommit: false)
    }

    @Test func fencedProducerIsOfNoMoreUse() throws {
        for isCommit in [true, false] {
            var machine = try ready(isSecond: true)
            try machine.begin()
            try machine.startEnd(isCommit: isCommit)
            machine.ended(Self.fenced)
            #expect(throws: ClientError.self) { try machine.startEnd(isCommit: false) }
            #expect(machine.appendError?.code == .fenced)
        }
    }
}

/// The producer's machine inside transactions.
@Suite struct TransactionalProducerTests {
    private func machine(isSecond: Bool) throws -> ProducerStateMachine {
        var configuration = ProducerStateMachine.Configuration()
        configuration.isTransactional = true
        configuration.linger = .zero
        var machine = ProducerStateMachine(configuration, generator: SeededGenerator(seed: 1))
        machine.updateTopic("t", leaders: [1, 1])
        try machine.transaction.startInitialization()
        machine.transaction.initializationEnded(nil)
        machine.transaction.isSecond = isSecond
        machine.producerIDArrived((id: 7, epoch: 0))
        try machine.transaction.begin()
        return machine
    }

    private func append(_ machine: inout ProducerStateMachine, to partition: Int32 = 0) throws {
        let record = ProducerRecord(topic: "t", partition: partition, key: nil, value: ByteBuffer(string: "v"))
        let result = machine.append(record, timestamp: 1, now: .uptimeNanoseconds(1_000_000_000), done: nil)
        guard case .accepted = result else { throw ClientError(.invalidState, "\(result)") }
    }

    private func drain(_ machine: inout ProducerStateMachine) -> ProducerStateMachine.DrainResult {
        machine.drain(now: .uptimeNanoseconds(2_000_000_000))
    }

    @Test func nothingIsSentBeforeItsPartitionIsAdded() throws {
        var machine = try machine(isSecond: false)
        try append(&machine)
        var plan = drain(&machine)
        let partition = TopicPartition(topic: "t", partition: 0)
        #expect(plan.requests.isEmpty && plan.partitionsToAdd == [partition] && !plan.needsProducerID)
        machine.transaction.added([partition])
        plan = drain(&machine)
        #expect(plan.requests.count == 1 && plan.requests[0].batches[0].producerID == 7)
    }

    @Test func newEpochStartsAtZero() throws {
        var machine = try machine(isSecond: true)
        for epoch: Int16 in 0..<3 {
            for sequence: Int32 in 0..<3 {
                try append(&machine)
                let plan = drain(&machine)
                let batch = plan.requests[0].batches[0]
                #expect(batch.producerEpoch == epoch && batch.baseSequence == sequence)
                _ = machine.batchEnded(batch, .acknowledged(baseOffset: 0, logAppendTime: -1), now: .now())
                machine.requestEnded(node: 1)
            }
            try machine.transaction.startEnd(isCommit: true)
            machine.transaction.ended(nil)
            machine.producerIDArrived((id: 7, epoch: epoch + 1))
            try machine.transaction.begin()
        }
    }

    @Test func fencedBatchFailsAndIsNotNumberedAnew() throws {
        var machine = try machine(isSecond: true)
        try append(&machine)
        let plan = drain(&machine)
        let action = machine.batchEnded(plan.requests[0].batches[0], .error(.invalidProducerEpoch, nil), now: .now())
        guard case .fail(_, let error) = action else {
            Issue.record("\(action)")
            return
        }
        #expect(error.errorCode == .invalidProducerEpoch)
    }

    @Test func abortDropsWhatWaitsAndDoesNotRepeatWhatIsUnderWay() throws {
        var machine = try machine(isSecond: true)
        try append(&machine)
        try append(&machine, to: 1)
        let plan = drain(&machine)
        try append(&machine)
        try machine.transaction.startEnd(isCommit: false)
        let dropped = machine.dropUnsent()
        #expect(dropped.count == 1, "the two under way stay until they are answered")
        for request in plan.requests {
            for batch in request.batches {
                let action = machine.batchEnded(batch, .noAnswer(ClientError(.connection, "gone")), now: .now())
                guard case .fail = action else {
                    Issue.record("\(action)")
                    return
                }
            }
            machine.requestEnded(node: request.node)
        }
        let generation = machine.startFlush()
        #expect(machine.isFlushed(upTo: generation))
        // Whether they were written is not known: their numbers cannot be used again.
        #expect(machine.needsNewEpoch)
        machine.producerIDArrived((id: 7, epoch: 1))
        machine.transaction.ended(nil)
        try machine.transaction.begin()
        try append(&machine)
        let next = drain(&machine).requests[0].batches[0]
        #expect(next.producerEpoch == 1 && next.baseSequence == 0)
    }
}
