// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import Testing

@testable import MDCBroker

/// Offsets of transactions that are not decided, beside those that are in force.
@Suite struct PendingOffsetsTests {
    private func change(_ offset: Int64?, _ group: String = "g", _ partition: Int32 = 0) -> OffsetChange {
        OffsetChange(
            group: group,
            topic: "t",
            partition: partition,
            value: offset.map { CommittedOffset(offset: $0, commitTimestamp: 1) }
        )
    }

    private func offset(_ store: OffsetStore, _ group: String = "g", _ partition: Int32 = 0) -> Int64? {
        store[group, "t", partition]?.offset
    }

    @Test func commitBringsIntoForceAndAbortDrops() {
        var store = OffsetStore()
        store.apply(change(1))
        store.hold(change(2), of: 7)
        #expect(offset(store) == 1)
        #expect(store.pending.contains(group: "g", topic: "t", partition: 0))
        #expect(!store.pending.contains(group: "g", topic: "t", partition: 1))
        store.endTransaction(of: 7, isCommit: false)
        #expect(offset(store) == 1 && store.pending.isEmpty)
        store.hold(change(3), of: 7)
        store.endTransaction(of: 8, isCommit: true)
        #expect(offset(store) == 1, "another producer's end is no end")
        store.endTransaction(of: 7, isCommit: true)
        #expect(offset(store) == 3 && store.pending.isEmpty && !store.pending.contains(group: "g"))
    }

    @Test func laterOfTheSameTransactionCounts() {
        var store = OffsetStore()
        store.hold(change(5), of: 7)
        store.hold(change(9), of: 7)
        store.endTransaction(of: 7, isCommit: true)
        #expect(offset(store) == 9)
    }

    /// The order of the log decides, not that of the ends.
    @Test func whatWasCommittedLaterIsNotTakenBack() {
        var store = OffsetStore()
        store.hold(change(2), of: 7)
        store.apply(change(3))
        #expect(store.pending.contains(group: "g", topic: "t", partition: 0), "it is still not decided")
        store.endTransaction(of: 7, isCommit: true)
        #expect(offset(store) == 3)

        store.hold(change(4), of: 7)
        store.hold(change(5), of: 8)
        store.endTransaction(of: 8, isCommit: true)
        store.endTransaction(of: 7, isCommit: true)
        #expect(offset(store) == 5)

        store.hold(change(6), of: 7)
        store.hold(change(7), of: 8)
        store.endTransaction(of: 7, isCommit: true)
        #expect(offset(store) == 6)
        store.endTransaction(of: 8, isCommit: true)
        #expect(offset(store) == 7)
    }

    @Test func deletedOffsetsDoNotComeBack() {
        var store = OffsetStore()
        store.hold(change(2), of: 7)
        store.hold(change(2, "g", 1), of: 7)
        store.hold(change(2, "other"), of: 7)
        #expect(store.hasOffsets("g"))
        #expect(store.pendingRemovals(of: "g").map(\.partition) == [0, 1])
        for removal in store.pendingRemovals(of: "g") { store.apply(removal) }
        #expect(!store.hasOffsets("g") && store.hasOffsets("other"))
        store.endTransaction(of: 7, isCommit: true)
        #expect(offset(store) == nil && offset(store, "other") == 2)
    }

    @Test func groupsWithSomethingPendingDoNotExpire() {
        var settings = GroupSettings()
        settings.offsetsRetention = 1_000
        settings.offsetsRetentionCheckInterval = 100
        var now = CoordinatorTime(monotonic: 1_000, wall: 1_700_000_000_000)
        var shard = GroupCoordinatorShard(settings: settings, seed: 1, now: now)
        func run(_ event: GroupEvent) -> GroupResponse? {
            let result = shard.handle(event, token: 1, now: now)
            shard.apply(result)
            return result.answers.first?.response
        }
        shard.offsets.apply(change(1))
        let producer = ProducerIdentity(id: 7, epoch: 0)
        guard case .transactionalCommitBegun(let ticket)? = run(.beginTransactionalCommit(producer)) else {
            Issue.record("no ticket")
            return
        }
        let request = TxnOffsetCommitRequest(
            transactionalId: "id",
            groupId: "g",
            producerId: producer.id,
            producerEpoch: producer.epoch,
            topics: [.init(name: "t", partitions: [.init(partitionIndex: 0, committedOffset: 4)])]
        )
        let origin = RequestOrigin(apiVersion: 3)
        _ = run(.commitTransactionalOffsets(request, origin, ticket: ticket))
        now.monotonic += 5_000
        now.wall = now.wall + 5_000
        shard.apply(shard.tick(now))
        #expect(shard.offsets["g", "t", 0]?.offset == 1, "what a transaction is about to change is in use")
        let marker = TransactionEndMarker(producer: producer, isCommit: true, bumpsEpoch: false, coordinatorEpoch: 0)
        _ = run(.endTransaction(marker))
        #expect(shard.offsets["g", "t", 0]?.offset == 4)
        // The ticket went with the end: a commit that was held up is refused.
        guard
            case .commitTransactionalOffsets(let late)? = run(
                .commitTransactionalOffsets(request, origin, ticket: ticket)
            )
        else {
            Issue.record("no answer")
            return
        }
        #expect(late.topics[0].partitions[0].errorCode == ErrorCode.invalidTxnState.rawValue)
        now.monotonic += 5_000
        now.wall = now.wall + 5_000
        shard.apply(shard.tick(now))
        #expect(!shard.exists("g"))
    }
}
