// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

@Suite struct ProducerTests {
    private func code(
        _ log: PartitionLog,
        _ batch: ByteBuffer,
        as origin: AppendOrigin = .client
    ) -> LogError.Code? {
        do throws(LogError) {
            try log.append(batch, as: origin)
            return nil
        } catch {
            return error.code
        }
    }

    @Test func duplicatesOfTheLastFiveBatches() throws {
        let node = try TestNode()
        let log = try node.make()
        for number in 0..<10 {
            try log.append(try BatchMaker.idempotent(1, sequence: Int32(number * 2)).batch(["a", "b"]))
        }
        for number in 5..<10 {
            let again = try log.append(try BatchMaker.idempotent(1, sequence: Int32(number * 2)).batch(["a", "b"]))
            #expect(again.isDuplicate && again.firstOffset == Offset(Int64(number * 2)))
            #expect(again.lastOffset == Offset(Int64(number * 2 + 1)))
        }
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 8).batch(["a", "b"])) == .duplicateSequence)
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 21).batch(["a"])) == .outOfOrderSequence)
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 20).batch(["a"])) == nil)
        #expect(log.logEndOffset == 21)
    }

    @Test func sequencesWrapAround() throws {
        let node = try TestNode()
        let log = try node.make()
        #expect(code(log, try BatchMaker.idempotent(1, sequence: Int32.max - 1).batch(["a", "b", "c"])) == nil)
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 2).batch(["d"])) == .outOfOrderSequence)
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 1).batch(["d"])) == nil)
        #expect(
            try log.append(try BatchMaker.idempotent(1, sequence: Int32.max - 1).batch(["a", "b", "c"])).isDuplicate
        )
    }

    @Test func epochs() throws {
        let node = try TestNode()
        let log = try node.make()
        // An unknown producer may begin anywhere (KIP-360).
        #expect(code(log, try BatchMaker.idempotent(1, epoch: 3, sequence: 40).batch(["a"])) == nil)
        #expect(code(log, try BatchMaker.idempotent(1, epoch: 2, sequence: 41).batch(["a"])) == .invalidProducerEpoch)
        #expect(code(log, try BatchMaker.idempotent(1, epoch: 4, sequence: 41).batch(["a"])) == .outOfOrderSequence)
        #expect(code(log, try BatchMaker.idempotent(1, epoch: 4, sequence: 0).batch(["a"])) == nil)
        #expect(code(log, try BatchMaker.idempotent(1, epoch: 3, sequence: 41).batch(["a"])) == .invalidProducerEpoch)
    }

    @Test func idleProducersAreForgotten() throws {
        let node = try TestNode()
        let log = try node.make()
        try log.append(try BatchMaker.idempotent(1, sequence: 0).batch(["a"]))
        try log.append(try BatchMaker.idempotent(2, sequence: 0, isTransactional: true).batch(["b"]))
        node.clock.advance(by: 25 * 3_600_000)
        node.manager.runMaintenance()
        #expect(log.activeProducers.map(\.producerID) == [2])
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 17).batch(["c"])) == nil)
    }

    @Test func transactionsAndTheLastStableOffset() throws {
        let node = try TestNode()
        let log = try node.make()
        try log.append(try BatchMaker.idempotent(1, sequence: 0, isTransactional: true).batch(["a1", "a2"]))  // 0, 1
        try log.append(try BatchMaker.idempotent(2, sequence: 0, isTransactional: true).batch(["b1"]))  // 2
        try log.append(try BatchMaker().batch(["plain"]))  // 3
        node.manager.runSyncRound()
        #expect(log.lastStableOffset == 0)
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 2).batch(["x"])) == .invalidTransactionState)
        try log.append(BatchMaker.marker(1, commit: false), as: .coordinator)  // 4
        // The marker is not durable yet, so the transaction is undecided to readers.
        #expect(log.lastStableOffset == 0)
        node.manager.runSyncRound()
        #expect(log.lastStableOffset == 2)
        try log.append(BatchMaker.marker(2, commit: true), as: .coordinator)  // 5
        node.manager.runSyncRound()
        #expect(log.lastStableOffset == 6)
        let aborted = AbortedTransaction(producerID: 1, firstOffset: 0, lastOffset: 4, lastStableOffset: 2)
        #expect(log.abortedTransactions(in: 0..<6) == [aborted])
        #expect(log.abortedTransactions(in: 4..<6) == [aborted])
        #expect(log.abortedTransactions(in: 5..<6) == [])
        #expect(log.abortedTransactions(in: 0..<1) == [aborted])
        #expect(
            code(log, BatchMaker.marker(1, epoch: -1 + 1, commit: true, coordinatorEpoch: -1), as: .coordinator)
                == .coordinatorFenced
        )
        // Aborted sequence numbers may come again, and are no duplicates then.
        #expect(
            code(log, try BatchMaker.idempotent(1, sequence: 0, isTransactional: true).batch(["a1", "a2"]))
                == .outOfOrderSequence
        )
        for isClean in [false, true] {
            if isClean { try node.manager.close() }
            let again = try TestNode(isClean ? node.folder : try node.folder.copy())
            #expect(again.log.lastStableOffset == 6)
            #expect(again.log.abortedTransactions(in: 0..<6) == [aborted])
        }
    }

    @Test func theHighWatermarkBoundsTheLastStableOffset() throws {
        let node = try TestNode()
        let log = try node.make()
        try log.append(try BatchMaker().batch(["a"]))
        try log.append(try BatchMaker.idempotent(1, sequence: 0, isTransactional: true).batch(["b"]))
        try log.append(BatchMaker.marker(1, commit: true), as: .coordinator)
        try log.append(try BatchMaker().batch(["c"]))
        node.manager.runSyncRound()
        for (mark, stable) in [(0, 0), (1, 1), (2, 1), (3, 3), (4, 4)] as [(Offset, Offset)] {
            log.updateHighWatermark(mark)
            #expect(log.lastStableOffset == stable)
        }
    }

    @Test func failedBatchInAnAppendLeavesNothingBehind() throws {
        let node = try TestNode()
        let log = try node.make()
        var buffer = try BatchMaker.idempotent(1, sequence: 0).batch(["a"])
        buffer.writeImmutableBuffer(try BatchMaker.idempotent(1, sequence: 1).batch(["b"]))
        var gap = buffer
        gap.writeImmutableBuffer(try BatchMaker.idempotent(1, sequence: 9).batch(["c"]))
        #expect(code(log, gap) == .outOfOrderSequence)
        #expect(log.logEndOffset == 0 && log.activeProducers.isEmpty)
        #expect(code(log, buffer) == nil)
        #expect(log.activeProducers.first?.lastSequence == 1)
    }
}
