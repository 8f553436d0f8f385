// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCClient

/// A batch of `values` from `base` on.
func makeBatch(
    _ values: [String],
    base: Int64,
    epoch: Int32 = 0,
    codec: CompressionCodec = .none,
    producer: Int64 = -1,
    transactional: Bool = false
) throws -> ByteBuffer {
    var settings = RecordBatchBuilder.Settings(codec: codec)
    settings.baseOffset = Offset(base)
    settings.partitionLeaderEpoch = LeaderEpoch(epoch)
    settings.producerID = ProducerID(producer)
    settings.producerEpoch = producer >= 0 ? 0 : -1
    settings.baseSequence = producer >= 0 ? 0 : -1
    settings.isTransactional = transactional
    var builder = RecordBatchBuilder(settings)
    for value in values { builder.append(key: nil, value: ByteBuffer(string: value), timestamp: 1) }
    return try builder.build()
}

func joined(_ buffers: [ByteBuffer]) -> ByteBuffer {
    var all = ByteBuffer()
    for buffer in buffers { all.writeImmutableBuffer(buffer) }
    return all
}

@Suite("What the consumer reads next")
struct FetchStateTests {
    let now = NIODeadline.uptimeNanoseconds(1_000_000_000)

    func tp(_ partition: Int32) -> TopicPartition { TopicPartition(topic: "t", partition: PartitionID(partition)) }

    func state(
        reset: ConsumerConfiguration.OffsetReset = .earliest,
        _ change: (inout FetchState.Configuration) -> Void = { _ in }
    ) -> FetchState {
        var configuration = FetchState.Configuration()
        configuration.reset = reset
        change(&configuration)
        return FetchState(configuration, generator: SeededGenerator(seed: 1))
    }

    func plan(_ state: inout FetchState, epoch: Int32 = 3, at time: NIODeadline? = nil) -> [FetchState.Plan] {
        state.plan(now: time ?? now) { _ in (1, epoch) }.plans
    }

    /// Answers every partition of a plan with the same thing.
    func answer(
        _ state: inout FetchState,
        _ plan: FetchState.Plan,
        _ answer: FetchState.Answer,
        at time: NIODeadline? = nil
    ) -> [FetchState.AnswerAction] {
        let actions = plan.partitions.map { state.answered($0, answer, now: time ?? now) }
        state.fetchEnded(plan)
        return actions
    }

    @Test("begins at the committed offset, or where the policy says")
    func starts() throws {
        var state = state(reset: .latest)
        state.add(tp(0), at: .committed)
        state.add(tp(1), at: .committed)
        #expect(plan(&state).isEmpty)
        let lookups = state.takeLookups(now: now)
        #expect(lookups.count == 2)
        #expect(state.takeLookups(now: now).isEmpty, "looked up once")
        state.found(lookups[0], offset: 40, epoch: 2)
        state.notCommitted(lookups[1])
        let reset = state.takeLookups(now: now)
        #expect(reset.map(\.start) == [.reset(.latest)])
        state.found(reset[0], offset: 90, epoch: -1)
        let plans = plan(&state)
        #expect(plans.count == 1)
        #expect(Set(plans[0].partitions.map(\.offset)) == [40, 90])
        #expect(plans[0].partitions.allSatisfy { $0.leaderEpoch == 3 })
    }

    @Test("without a policy there is nowhere to begin, until a seek")
    func noPolicy() {
        var state = state(reset: .none)
        state.add(tp(0), at: .committed)
        state.notCommitted(state.takeLookups(now: now)[0])
        #expect(state.takeError()?.code == .noOffset)
        #expect(state.takeLookups(now: now).isEmpty)
        state.jump(tp(0), to: .offset(5))
        #expect(plan(&state).first?.partitions.first?.offset == 5)
    }

    @Test("goes on behind what was fetched, reads ahead up to its limit, and goes on when poll took some")
    func readsAhead() throws {
        var state = state {
            $0.maxPartitionBytes = 100
            $0.slots = 1
        }
        state.add(tp(0), at: .offset(0))
        let first = plan(&state)[0]
        #expect(plan(&state).isEmpty, "one fetch at a time")
        let batch = try makeBatch(["a", "b", "c"], base: 0)
        #expect(answer(&state, first, .init(highWatermark: 9, records: batch)) == [.ready])
        let second = plan(&state)[0]
        #expect(second.partitions[0].offset == 3)
        let large = try makeBatch([String(repeating: "x", count: 200)], base: 3)
        _ = answer(&state, second, .init(records: large))
        #expect(plan(&state).isEmpty, "enough is buffered")
        let turn = state.takeTurns()[0]
        #expect(turn.chunk?.fetchOffset == 0)
        let more = state.advance(tp(0), version: turn.version, to: 3, epoch: 0, finished: batch.readableBytes)
        #expect(more)
        #expect(plan(&state).isEmpty)
        let next = state.takeTurns()[0]
        _ = state.advance(tp(0), version: next.version, to: 4, epoch: 0, finished: large.readableBytes)
        #expect(state.bufferedBytes == 0)
        #expect(plan(&state)[0].partitions[0].offset == 4)
        #expect(state.partitions[tp(0)]?.position == 4)
    }

    @Test("a partition that waits for room makes the others' polls short; a second slot serves newcomers")
    func slots() throws {
        var state = state { $0.maxPartitionBytes = 10 }
        state.add(tp(0), at: .offset(0))
        let first = plan(&state)[0]
        #expect(first.slot == 0 && !first.isBehind)
        state.add(tp(1), at: .offset(0))
        let second = plan(&state)[0]
        #expect(second.slot == 1 && second.partitions.map(\.partition) == [tp(1)])
        _ = answer(&state, first, .init(records: try makeBatch(["a"], base: 0)))
        #expect(plan(&state).isEmpty, "enough is buffered of one, and the other is being fetched")
        _ = answer(&state, second, .init())
        let third = plan(&state)[0]
        #expect(third.slot == 0 && !third.isBehind && third.partitions.map(\.partition) == [tp(1)])
        state.add(tp(2), at: .offset(0))
        let fourth = plan(&state)[0]
        #expect(fourth.slot == 1 && fourth.isBehind)
    }

    @Test("what was read before a seek is not returned after it")
    func seek() throws {
        var state = state()
        state.add(tp(0), at: .offset(0))
        let flying = plan(&state)[0]
        state.jump(tp(0), to: .offset(100))
        #expect(answer(&state, flying, .init(records: try makeBatch(["a"], base: 0))) == [.nothing])
        #expect(state.takeTurns().isEmpty)
        let next = plan(&state)[0]
        #expect(next.partitions[0].offset == 100)
        _ = answer(&state, next, .init(records: try makeBatch(["b", "c"], base: 100)))
        let turn = state.takeTurns()[0]
        state.jump(tp(0), to: .offset(7))
        let isCurrent = state.advance(tp(0), version: turn.version, to: 101, epoch: 0, finished: nil)
        #expect(!isCurrent)
        #expect(state.partitions[tp(0)]?.position == 7)
        #expect(state.bufferedBytes == 0)
    }

    @Test("paused partitions are neither fetched nor returned, and keep what was read ahead")
    func pause() throws {
        var state = state()
        state.add(tp(0), at: .offset(0))
        _ = answer(&state, plan(&state)[0], .init(records: try makeBatch(["a"], base: 0)))
        let known = state.setPaused(tp(0), true)
        let unknown = state.setPaused(tp(9), true)
        #expect(known && !unknown)
        #expect(state.takeTurns().isEmpty && plan(&state).isEmpty)
        _ = state.setPaused(tp(0), false)
        #expect(state.takeTurns().count == 1)
    }

    @Test("partitions that the application has not heard of yet wait")
    func held() {
        var state = state()
        state.add(tp(0), at: .committed, isHeld: true)
        #expect(state.takeLookups(now: now).isEmpty)
        state.jump(tp(0), to: .offset(3))
        #expect(plan(&state).isEmpty)
        state.release(tp(0))
        #expect(plan(&state)[0].partitions[0].offset == 3)
    }

    @Test("an offset out of range goes where the policy says, after what is buffered")
    func outOfRange() throws {
        var state = state()
        state.add(tp(0), at: .offset(0))
        _ = answer(&state, plan(&state)[0], .init(records: try makeBatch(["a"], base: 0)))
        #expect(answer(&state, plan(&state)[0], .init(error: .offsetOutOfRange)) == [.ready])
        let lookup = state.takeLookups(now: now)[0]
        #expect(lookup.start == .reset(.earliest))
        state.found(lookup, offset: 50, epoch: -1)
        #expect(state.partitions[tp(0)]?.position == 0)
        let turn = state.takeTurns()[0]
        _ = state.advance(tp(0), version: turn.version, to: 1, epoch: 0, finished: turn.chunk?.records.readableBytes)
        #expect(state.partitions[tp(0)]?.position == 50)
    }

    @Test(
        "errors of a leader that moved ask for metadata and pause the partition",
        arguments: [
            ErrorCode.notLeaderOrFollower, .fencedLeaderEpoch, .unknownLeaderEpoch, .unknownTopicOrPartition,
            .unknownTopicId,
        ]
    )
    func staleLeader(code: ErrorCode) {
        var state = state()
        state.add(tp(0), at: .offset(0))
        #expect(answer(&state, plan(&state)[0], .init(error: code)) == [.refresh])
        #expect(plan(&state).isEmpty)
        let later = state.nextUnmute(now: now)
        #expect(later != nil)
        #expect(plan(&state, at: later).count == 1)
    }

    @Test("an error that does not pass is told by poll")
    func fatal() {
        var state = state()
        state.add(tp(0), at: .offset(0))
        #expect(answer(&state, plan(&state)[0], .init(error: .topicAuthorizationFailed)) == [.ready])
        #expect(state.takeError()?.errorCode == .topicAuthorizationFailed)
        #expect(state.takeError() == nil)
    }

    @Test("after a change of leader the position is validated; a log that was cut is followed")
    func validation() throws {
        var state = state()
        state.add(tp(0), at: .offset(0))
        _ = answer(&state, plan(&state, epoch: 3)[0], .init(records: try makeBatch(["a", "b"], base: 0, epoch: 3)))
        #expect(plan(&state, epoch: 4).isEmpty)
        let validation = state.takeValidations(now: now)
        #expect(validation.map(\.fetchEpoch) == [3] && validation.map(\.leaderEpoch) == [4])
        #expect(state.validated(validation[0], endOffset: 2) == nil)
        #expect(plan(&state, epoch: 4)[0].partitions[0].offset == 2)

        var cut = self.state()
        cut.add(tp(0), at: .offset(0))
        _ = answer(&cut, plan(&cut, epoch: 3)[0], .init(records: try makeBatch(["a", "b"], base: 0, epoch: 3)))
        #expect(plan(&cut, epoch: 4).isEmpty)
        let second = cut.takeValidations(now: now)[0]
        #expect(cut.validated(second, endOffset: 1) == 1)
        #expect(cut.partitions[tp(0)]?.position == 1)
        #expect(cut.takeTurns().isEmpty)
    }

    @Test("a batch larger than what was asked for is asked for with more room")
    func truncated() throws {
        var state = state { $0.maxPartitionBytes = 100 }
        state.add(tp(0), at: .offset(0))
        let batch = try makeBatch([String(repeating: "x", count: 500)], base: 0)
        let part = try #require(batch.getSlice(at: batch.readerIndex, length: 100))
        #expect(answer(&state, plan(&state)[0], .init(records: part)) == [.nothing])
        #expect(plan(&state)[0].partitions[0].maxBytes == 200)
    }

    @Test("partitions take turns at the head of the request")
    func fairness() {
        var state = state { $0.slots = 1 }
        for partition in 0..<3 { state.add(tp(Int32(partition)), at: .offset(0)) }
        var heads: [TopicPartition] = []
        for _ in 0..<3 {
            let next = plan(&state)[0]
            heads.append(next.partitions[0].partition)
            _ = answer(&state, next, .init())
        }
        #expect(Set(heads).count == 3)
    }
}

@Suite("Reading what was fetched")
struct ChunkCursorTests {
    let tp = TopicPartition(topic: "t", partition: 0)

    func cursor(
        _ records: ByteBuffer,
        from offset: Offset = 0,
        readCommitted: Bool = false,
        aborted: [(producerID: Int64, firstOffset: Int64)] = []
    ) -> ChunkCursor {
        ChunkCursor(
            FetchedChunk(fetchOffset: offset, records: records, aborted: aborted),
            partition: tp,
            version: 1,
            position: offset,
            isReadCommitted: readCommitted,
            checksCRC: true,
            decompressionLimit: 1 << 20
        )
    }

    func values(_ records: [ConsumerRecord]) -> [String] { records.map { String(buffer: $0.value ?? ByteBuffer()) } }

    @Test("records come in order, in pieces, from the offset that was asked for", arguments: CompressionCodec.allCases)
    func pieces(codec: CompressionCodec) throws {
        let chunk = joined([
            try makeBatch(["a", "b", "c"], base: 10, epoch: 2, codec: codec),
            try makeBatch(["d", "e"], base: 13, epoch: 3, codec: codec),
        ])
        var cursor = cursor(chunk, from: 11)
        var records: [ConsumerRecord] = []
        let isPart = try cursor.read(2, into: &records)
        #expect(isPart)
        #expect(values(records) == ["b", "c"] && records.map(\.offset) == [11, 12])
        #expect(records[0].leaderEpoch == 2)
        #expect(cursor.position == 13)
        let hasMore = try cursor.read(10, into: &records)
        #expect(!hasMore)
        #expect(values(records) == ["b", "c", "d", "e"] && records.last?.leaderEpoch == 3)
        #expect(cursor.position == 15)
    }

    @Test("a batch that is cut short at the end is left for the next fetch")
    func cutShort() throws {
        let second = try makeBatch(["c"], base: 2)
        var chunk = try makeBatch(["a", "b"], base: 0)
        chunk.writeImmutableBuffer(second.getSlice(at: 0, length: 40) ?? ByteBuffer())
        var cursor = cursor(chunk)
        var records: [ConsumerRecord] = []
        _ = try cursor.read(10, into: &records)
        #expect(values(records) == ["a", "b"] && cursor.position == 2)
    }

    @Test("read-committed leaves out aborted transactions, and only those; markers are never returned")
    func transactions() throws {
        func marker(_ kind: ControlRecord.Kind, _ producer: Int64, _ base: Int64) throws -> ByteBuffer {
            var settings = RecordBatchBuilder.Settings()
            settings.baseOffset = Offset(base)
            settings.producerID = ProducerID(producer)
            settings.producerEpoch = 0
            settings.isTransactional = true
            settings.isControl = true
            let control = ControlRecord(kind: kind, coordinatorEpoch: 0)
            var builder = RecordBatchBuilder(settings)
            builder.append(key: control.key, value: control.value, timestamp: 1)
            return try builder.build()
        }
        let chunk = joined([
            try makeBatch(["a1"], base: 0, producer: 1, transactional: true),
            try makeBatch(["b1"], base: 1, producer: 2, transactional: true),
            try makeBatch(["plain"], base: 2),
            try marker(.abort, 1, 3), try marker(.commit, 2, 4),
            try makeBatch(["a2"], base: 5, producer: 1, transactional: true), try marker(.commit, 1, 6),
        ])
        var committed = cursor(chunk, readCommitted: true, aborted: [(1, 0)])
        var records: [ConsumerRecord] = []
        _ = try committed.read(10, into: &records)
        #expect(values(records) == ["b1", "plain", "a2"])
        #expect(committed.position == 7)
        var all = cursor(chunk)
        records = []
        _ = try all.read(10, into: &records)
        #expect(values(records) == ["a1", "b1", "plain", "a2"])
    }

    @Test("damage is told with its offset, after the records before it")
    func damage() throws {
        let good = try makeBatch(["a", "b"], base: 0)
        var bad = try makeBatch(["c"], base: 2)
        bad.setInteger(UInt8(0xFF), at: bad.writerIndex - 3)
        var cursor = cursor(joined([good, bad]))
        var records: [ConsumerRecord] = []
        do {
            _ = try cursor.read(10, into: &records)
            Issue.record("damage was not noticed")
        } catch let error as ClientError {
            #expect(error.code == .corruptRecords && error.message.contains("offset 2"))
        }
        #expect(values(records) == ["a", "b"])
    }
}
