// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCBroker

/// Scripts of markers that other nodes write, or do not.
@Suite("Markers outstanding")
struct MarkersOutstandingTests {
    private typealias Action = MarkersOutstanding.Action
    private typealias Batch = MarkersOutstanding.Batch

    private static let marker = TransactionEndMarker(
        producer: ProducerIdentity(id: 7, epoch: 1),
        isCommit: true,
        bumpsEpoch: false,
        coordinatorEpoch: 3
    )

    private static func partition(_ index: Int32) -> TopicPartition { harnessPartition(index) }

    /// The state machine, the leaders and the clock.
    private struct Script {
        var outstanding = MarkersOutstanding()
        var leaders: [Int32: LeaderPlace] = [0: .here, 1: .node(2), 2: .node(3), 3: .node(2)]
        var now: Int64 = 1000

        private func locate(_ partition: TopicPartition) -> LeaderPlace {
            leaders[partition.partition.rawValue] ?? .gone
        }

        mutating func add(_ indexes: [Int32]) -> [Action] {
            outstanding.add(marker, indexes.map(MarkersOutstandingTests.partition), now: now, locate: locate).actions
        }

        mutating func ended(_ attempt: UInt64, _ index: Int32, _ code: ErrorCode) -> [Action] {
            outstanding.ended(1, attempt, partition(index), code, now: now)
        }

        /// The time goes to the next deadline.
        mutating func next() -> [Action] {
            guard let deadline = outstanding.nextDeadline else { return [] }
            now = max(now, deadline)
            return outstanding.tick(now, locate: locate)
        }
    }

    private static func batch(_ attempt: UInt64, _ indexes: [Int32]) -> Batch {
        Batch(order: 1, attempt: attempt, marker: marker, partitions: indexes.map(partition))
    }

    @Test("each leader gets its partitions; the shard is told when the last is written")
    func split() {
        var script = Script()
        #expect(
            script.add([0, 1, 2, 3]) == [
                .send(Self.batch(1, [1, 3]), to: 2), .send(Self.batch(1, [2]), to: 3), .write(Self.batch(1, [0])),
            ]
        )
        #expect(script.ended(1, 1, .none) == [])
        #expect(script.ended(1, 3, .none) == [])
        #expect(script.ended(1, 0, .none) == [])
        #expect(script.outstanding.count == 1)
        #expect(script.ended(1, 2, .none) == [.report(1, isDone: true)])
        #expect(script.outstanding.count == 0)
        #expect(script.outstanding.nextDeadline == nil)
    }

    @Test("an order without partitions, or whose topics are deleted, is done")
    func nothing() {
        var script = Script()
        #expect(script.add([]) == [.report(1, isDone: true)])
        #expect(
            script.outstanding.add(Self.marker, [Self.partition(9)], now: 0) { _ in .gone }.actions == [
                .report(2, isDone: true)
            ]
        )
    }

    @Test("a node that fails: the client is told after the first round, the new leader is asked, once each time")
    func newLeader() {
        var script = Script()
        _ = script.add([0, 1, 2])
        #expect(script.ended(1, 0, .none) == [])
        #expect(script.ended(1, 2, .none) == [])
        #expect(
            script.ended(1, 1, .requestTimedOut) == [.report(1, isDone: false), .complain(1, [Self.partition(1)])]
        )
        // Nobody leads at first.
        script.leaders[1] = .nowhere
        #expect(script.next() == [])
        #expect(script.next() == [])
        script.leaders[1] = .node(3)
        #expect(script.next() == [.send(Self.batch(4, [1]), to: 3)])
        // An answer to the attempt before, which comes late, and one that comes twice.
        #expect(script.ended(1, 1, .none) == [])
        #expect(script.ended(4, 1, .notLeaderOrFollower) == [])
        #expect(script.ended(4, 1, .none) == [])
        script.leaders[1] = .here
        #expect(script.next() == [.write(Self.batch(5, [1]))])
        #expect(script.ended(5, 1, .none) == [.report(1, isDone: true)])
    }

    @Test("a node that does not answer: the client is told after a second")
    func silence() {
        var script = Script()
        _ = script.add([1])
        #expect(script.outstanding.nextDeadline == 1000 + MarkersOutstanding.patience)
        #expect(script.next() == [.report(1, isDone: false), .complain(1, [Self.partition(1)])])
        // Nothing is sent a second time while the first is under way.
        #expect(script.outstanding.nextDeadline == nil)
        #expect(script.ended(1, 1, .none) == [.report(1, isDone: true)])
    }

    @Test(
        "what something newer has written counts as written",
        arguments: [
            ErrorCode.invalidProducerEpoch, .transactionCoordinatorFenced, .producerFenced,
        ]
    )
    func superseded(_ code: ErrorCode) {
        var script = Script()
        _ = script.add([1])
        #expect(script.ended(1, 1, code) == [.report(1, isDone: true)])
    }

    @Test("pauses grow to half a second, no further; a topic that is deleted in between ends it")
    func pauses() {
        var script = Script()
        _ = script.add([1])
        var pauses: [Int64] = []
        for attempt in UInt64(1)...8 {
            _ = script.ended(attempt, 1, .notLeaderOrFollower)
            let before = script.now
            guard case .send(let batch, to: 2)? = script.next().first else {
                Issue.record("nothing was sent")
                return
            }
            #expect(batch.attempt == attempt + 1)
            pauses.append(script.now - before)
        }
        #expect(pauses == [50, 100, 200, 400, 500, 500, 500, 500])
        _ = script.ended(9, 1, .unknownTopicOrPartition)
        script.leaders[1] = .gone
        #expect(script.next() == [.report(1, isDone: true)])
    }

    @Test("an order of a coordinator that is none any more is dropped")
    func abandoned() {
        var script = Script()
        _ = script.add([1])
        script.outstanding.abandon(1)
        #expect(script.ended(1, 1, .none) == [])
        #expect(script.outstanding.count == 0)
        #expect(script.next() == [])
    }

    @Test("the newest connection of a node fences those before it, also across its restarts")
    func fence() throws {
        let fence = PeerFence()
        func pass(_ id: String?) -> Bool {
            var isRun = false
            let passed = fence.pass(PeerFence.Sender(.markers, clientID: id)) { isRun = true } != nil
            #expect(passed == isRun)
            return passed
        }
        #expect(pass("txn-markers:1:5:1"))
        #expect(pass("txn-markers:1:5:1"))
        #expect(pass("txn-markers:1:5:3"))
        #expect(!pass("txn-markers:1:5:1"))
        // Another node has numbers of its own; an administrator's tool has none.
        #expect(pass("txn-markers:2:1:1"))
        #expect(pass("adminclient-1"))
        #expect(pass(nil))
        #expect(pass("txn-markers:1:6:1"))
        #expect(!pass("txn-markers:1:5:9"))
        // Another use has other connections.
        #expect(fence.pass(PeerFence.Sender(.shareStates, clientID: "share-states:1:5:1")) {} != nil)
    }
}
