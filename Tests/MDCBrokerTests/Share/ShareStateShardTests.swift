// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCBroker

/// The states of share partitions: fencing, merging, snapshots, and what the log says of them.
struct ShareStateShardTests {
    private var shard = ShareStateShard(updatesPerSnapshot: 3)
    private var log: [CoordinatorRecord] = []
    private let key = SharePartitionKey("g", TopicID(high: 3, low: 4), 1)
    private let other = SharePartitionKey("g", TopicID(high: 3, low: 4), 2)

    @discardableResult
    private mutating func send(_ event: ShareStateEvent, _ key: SharePartitionKey) -> ShareStateAnswer {
        let step = shard.step(event, of: key, now: 5)
        log += step.records
        shard.apply(step, end: Int64(log.count))
        return step.answer
    }

    private func write(
        _ batches: [ShareStateBatch],
        start: Int64 = -1,
        state: Int32 = 1,
        leader: Int32 = 0
    ) -> ShareStateEvent {
        .write(
            ShareStateWrite(
                stateEpoch: state,
                leaderEpoch: leader,
                startOffset: start,
                deliveryCompleteCount: 4,
                batches: batches
            )
        )
    }

    private func batch(_ first: Int64, _ last: Int64, _ state: ShareDeliveryState = .acknowledged) -> ShareStateBatch {
        ShareStateBatch(first: first, last: last, state: state, deliveryCount: 1)
    }

    private func replayed(from: Int64 = 0) throws -> ShareStateShard {
        var copy = ShareStateShard(updatesPerSnapshot: 3)
        for (offset, record) in log.enumerated() where offset >= from { try copy.replay(record, at: Int64(offset)) }
        copy.activate()
        return copy
    }

    @Test("written, read, and refused to those whose epoch is over")
    mutating func epochs() {
        #expect(send(.read(leaderEpoch: 0), key).state == .absent)
        send(.initialize(stateEpoch: 1, startOffset: -1), key)
        send(write([batch(4, 6)], start: 3), key)
        let read = send(.read(leaderEpoch: 2), key).state
        #expect(read.startOffset == 3 && read.batches == [batch(4, 6)] && read.stateEpoch == 1)
        // The read of a later leader shuts out the earlier one.
        #expect(send(write([], leader: 1), key).code == .fencedLeaderEpoch)
        #expect(send(.read(leaderEpoch: 1), key).code == .fencedLeaderEpoch)
        #expect(send(.initialize(stateEpoch: 0, startOffset: 5), key).code == .fencedStateEpoch)
        #expect(send(.restart(startOffset: 9), key).code == .none)
        #expect(send(write([batch(10, 10)], leader: 2), key).code == .fencedStateEpoch)
        let summary = send(.summary(leaderEpoch: -1), key).state
        #expect(summary.startOffset == 9 && summary.stateEpoch == 2 && summary.batches.isEmpty)
        send(.delete, key)
        #expect(send(.summary(leaderEpoch: -1), key).state == .absent && shard.count == 0)
    }

    @Test("after each record the log says what memory says, with and without what is redundant")
    mutating func replay() throws {
        send(.initialize(stateEpoch: 1, startOffset: 0), key)
        send(.initialize(stateEpoch: 1, startOffset: 0), other)
        for index in Int64(0)..<40 {
            send(write([batch(index * 2, index * 2, index % 3 == 0 ? .archived : .acknowledged)]), key)
            if index % 9 == 0 { send(write([], start: index), key) }
            if index == 20 { send(.restart(startOffset: 7), other) }
            #expect(try replayed() == shard)
            #expect(try replayed(from: shard.redundantBefore) == shard)
        }
        #expect(log.count > 40)
    }

    @Test("a state that nobody writes does not hold the log")
    mutating func repetition() throws {
        send(.initialize(stateEpoch: 1, startOffset: 0), other)
        send(.initialize(stateEpoch: 1, startOffset: 0), key)
        for index in Int64(0)..<1_000 { send(write([], start: index), key) }
        #expect(shard.redundantBefore > 800, "the old snapshot was not repeated")
        #expect(try replayed(from: shard.redundantBefore) == shard)
    }

    @Test("states of topics that are gone are removed from the log too")
    mutating func removal() throws {
        send(.initialize(stateEpoch: 1, startOffset: 0), key)
        send(write([batch(1, 1)]), key)
        let step = shard.removeTopics { $0 == key.topicID }
        log += step.records
        shard.apply(step, end: Int64(log.count))
        #expect(shard.count == 0)
        #expect(try replayed().count == 0)
    }

    @Test("later batches lie over earlier ones")
    func overlay() {
        let base = [batch(0, 9), batch(10, 19, .archived)]
        #expect(ShareState.overlay(base, [batch(5, 12, .available)]).map(\.first) == [0, 5, 13])
        #expect(ShareState.overlay(base, [batch(0, 19)]) == [batch(0, 19)])
        #expect(ShareState.overlay(base, [batch(25, 26)]).count == 3)
        #expect(ShareState.overlay([batch(5, 9)], [batch(0, 4)]) == [batch(0, 9)])
        #expect(ShareState.overlay([batch(5, 9), batch(20, 25)], [batch(12, 14)]).map(\.first) == [5, 12, 20])
        var state = ShareState()
        state.merge([batch(0, 9), batch(12, 14)], startOffset: 8)
        #expect(state.batches == [batch(8, 9), batch(12, 14)])
    }

    @Test("a share partition's name is read back, also where the group's id has colons")
    func names() {
        let odd = SharePartitionKey("a:b:", TopicID(high: 9, low: 8), 3)
        #expect(SharePartitionKey(odd.description) == odd)
        for bad in ["", "g", "g:1", "g:notanid:1", ":\(odd.topicID):1", "g:\(odd.topicID):x", "g:\(odd.topicID):-1"] {
            #expect(SharePartitionKey(bad) == nil, "\(bad)")
        }
    }

    @Test("records have Kafka's layout")
    func layout() throws {
        let key = SharePartitionKey("g", TopicID(high: 0, low: 1), 2)
        let state = ShareState(
            snapshotEpoch: 1,
            stateEpoch: 2,
            leaderEpoch: 3,
            startOffset: 4,
            deliveryCompleteCount: 5,
            createTimestamp: 6,
            writeTimestamp: 7,
            batches: [batch(4, 5)]
        )
        let record = CoordinatorRecord.shareSnapshot(key, state)
        func hex(_ buffer: ByteBuffer) -> String {
            buffer.readableBytesView.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
        #expect(hex(record.key) == "0000" + "000167" + "00000000000000000000000000000001" + "00000002")
        let value = try #require(record.value)
        #expect(
            hex(value) == "0000" + "00000001" + "00000002" + "00000003" + "0000000000000004" + "0000000000000006"
                + "0000000000000007" + "02" + "0000000000000004" + "0000000000000005" + "02" + "0001" + "00"
                + "01" + "00" + "04" + "00000005"
        )
        #expect(hex(CoordinatorRecord.shareUpdate(key, nil).key).hasPrefix("0001"))
    }
}
