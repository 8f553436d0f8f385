// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCBroker

@Suite("The leader of a partition")
struct LeaderReplicaTests {
    private func leader(
        inSync: [Int32] = [1, 2, 3],
        minInSync: Int = 2,
        end: Offset = 0,
        mark: Offset = 0
    ) -> LeaderReplica {
        LeaderReplica(
            node: 1,
            leaderEpoch: 5,
            partitionEpoch: 10,
            replicas: [1, 2, 3],
            inSync: inSync,
            highWatermark: mark,
            logEnd: end,
            durableEnd: end,
            settings: .init(lagMilliseconds: 2000, readmissionMilliseconds: 500, minInSync: minInSync),
            now: 0
        )
    }

    @discardableResult
    private func fetch(
        _ leader: inout LeaderReplica,
        _ node: Int32,
        _ offset: Offset,
        end: Offset,
        at now: Int64,
        run: Int64 = 1
    ) throws -> LeaderReplica.Outcome {
        try leader.fetched(by: node, brokerEpoch: run, from: offset, logStart: 0, logEnd: end, now: now) { _, _ in true
        }
    }

    @Test("the high watermark is the least durable end of all that are in sync")
    func highWatermark() throws {
        var leader = leader()
        #expect(leader.durable(to: 10).highWatermark == nil)
        #expect(try fetch(&leader, 2, 8, end: 10, at: 1).highWatermark == nil)
        #expect(try fetch(&leader, 3, 4, end: 10, at: 2).highWatermark == 4)
        #expect(try fetch(&leader, 3, 10, end: 10, at: 3).highWatermark == 8)
        // What the leader itself has not brought to disk is not committed, though others have it.
        #expect(try fetch(&leader, 2, 12, end: 12, at: 4).highWatermark == 10)
        #expect(try fetch(&leader, 3, 12, end: 12, at: 5).highWatermark == nil)
        #expect(leader.durable(to: 12).highWatermark == 12)
        // A fetch from further back is late, or of one who has lost something: nothing goes back.
        #expect(try fetch(&leader, 2, 9, end: 12, at: 6).highWatermark == nil)
        #expect(leader.highWatermark == 12)
    }

    @Test("a replica that lags leaves after the time, one change at a time")
    func shrinks() throws {
        var leader = leader()
        _ = leader.durable(to: 10)
        try fetch(&leader, 2, 10, end: 10, at: 100)
        #expect(leader.tick(now: 1900) { _, _ in true }.proposal == nil)
        try fetch(&leader, 2, 10, end: 10, at: 1950)
        let proposal = try #require(leader.tick(now: 2001, mayEnter: { _, _ in true }).proposal)
        #expect(proposal.inSync.map(\.node) == [1, 2])
        #expect(proposal.partitionEpoch == 10 && proposal.leaderEpoch == 5)
        // Until it is committed, the old set holds.
        #expect(leader.highWatermark == 0)
        #expect(leader.tick(now: 2100) { _, _ in true }.proposal == nil)
        let outcome = leader.answered(proposal, .committed(inSync: [1, 2], partitionEpoch: 11), now: 2200)
        #expect(outcome.highWatermark == 10)
        #expect(leader.pending == nil && leader.partitionEpoch == 11)
    }

    @Test("whoever is about to enter counts at once (trap 4)")
    func pendingMembers() throws {
        var leader = leader(inSync: [1, 2])
        _ = leader.durable(to: 10)
        try fetch(&leader, 2, 10, end: 10, at: 1)
        #expect(leader.highWatermark == 10)
        let proposal = try #require(try fetch(&leader, 3, 10, end: 10, at: 2).proposal)
        #expect(proposal.inSync.map(\.node) == [1, 2, 3])
        _ = leader.durable(to: 20)
        #expect(try fetch(&leader, 2, 20, end: 20, at: 3).highWatermark == nil)
        // It may have been committed: the answer changes nothing until the state is here.
        #expect(leader.answered(proposal, .outdated, now: 4).highWatermark == nil)
        #expect(leader.maximalInSync == [1, 2, 3])
        let outcome = leader.update(partitionEpoch: 12, replicas: [1, 2, 3], inSync: [1, 2], now: 5)
        #expect(outcome.highWatermark == 20)
    }

    @Test("with fewer in sync than the minimum nothing is committed, and who waits is told")
    func minimum() throws {
        var leader = leader()
        let outcome = leader.update(partitionEpoch: 11, replicas: [1, 2, 3], inSync: [1], now: 1)
        #expect(outcome.fellBelowMinimum)
        #expect(leader.durable(to: 10).highWatermark == nil)
        #expect(leader.update(partitionEpoch: 12, replicas: [1, 2, 3], inSync: [1, 2], now: 2) == .init())
        #expect(try fetch(&leader, 2, 10, end: 10, at: 3).highWatermark == 10)
    }

    @Test("who may enter has the epoch's start and all that is committed")
    func entry() throws {
        var leader = leader(inSync: [1, 2], end: 100, mark: 50)
        // All that is committed as far as this leader knows, but an earlier one may have committed up to the epoch's start.
        #expect(try fetch(&leader, 3, 60, end: 100, at: 1).proposal == nil)
        #expect(try fetch(&leader, 3, 100, end: 100, at: 2).proposal?.inSync.map(\.node) == [1, 2, 3])
    }

    @Test("a run of a broker says nothing of the next one (trap 5)")
    func brokerEpochs() throws {
        var leader = leader()
        _ = leader.durable(to: 10)
        try fetch(&leader, 2, 10, end: 10, at: 1, run: 7)
        try fetch(&leader, 3, 10, end: 10, at: 1, run: 7)
        #expect(leader.highWatermark == 10)
        _ = leader.durable(to: 20)
        try fetch(&leader, 3, 20, end: 20, at: 2, run: 7)
        // The next run begins elsewhere; a late fetch of the one before is refused.
        try fetch(&leader, 2, 3, end: 20, at: 3, run: 8)
        #expect(throws: LeaderReplica.Refusal.staleBrokerEpoch) {
            try fetch(&leader, 2, 20, end: 20, at: 4, run: 7)
        }
        #expect(throws: LeaderReplica.Refusal.notAReplica) { try fetch(&leader, 9, 20, end: 20, at: 4) }
        #expect(leader.highWatermark == 10)
    }

    @Test("who is in sync and lacks what is committed is dropped at once")
    func lostItsDisk() throws {
        var leader = leader()
        _ = leader.durable(to: 10)
        try fetch(&leader, 2, 10, end: 10, at: 1)
        try fetch(&leader, 3, 10, end: 10, at: 1)
        let proposal = try fetch(&leader, 3, 0, end: 10, at: 2, run: 2).proposal
        #expect(proposal?.inSync == [.init(node: 1, brokerEpoch: -1), .init(node: 2, brokerEpoch: 1)])
    }

    @Test("who was dropped must keep up for a while, and longer each time")
    func hysteresis() throws {
        var leader = leader()
        _ = leader.durable(to: 10)
        try fetch(&leader, 2, 10, end: 10, at: 1900)
        let out = try #require(leader.tick(now: 2600, mayEnter: { _, _ in true }).proposal)
        _ = leader.answered(out, .committed(inSync: [1, 2], partitionEpoch: 11), now: 2600)
        #expect(try fetch(&leader, 3, 10, end: 10, at: 3000).proposal == nil)
        try fetch(&leader, 2, 10, end: 10, at: 3300)
        #expect(try fetch(&leader, 3, 10, end: 10, at: 3400).proposal == nil)
        #expect(try fetch(&leader, 3, 10, end: 10, at: 3501).proposal?.contains(3) == true)
    }

    @Test("a proposal that nobody answered is the same again; a refused one waits")
    func answers() throws {
        var leader = leader(inSync: [1, 2])
        let proposal = try #require(try fetch(&leader, 3, 0, end: 0, at: 1).proposal)
        #expect(leader.answered(proposal, .unknown, now: 2).proposal == proposal)
        _ = leader.answered(proposal, .refused, now: 3)
        #expect(leader.pending == nil)
        #expect(try fetch(&leader, 3, 0, end: 0, at: 4).proposal == nil)
        #expect(try fetch(&leader, 3, 0, end: 0, at: 600).proposal != nil)
    }
}

@Suite("A follower of a partition")
struct FollowerReplicaTests {
    private func log(
        end: Offset,
        durable: Offset? = nil,
        start: Offset = 0,
        epochs: [(LeaderEpoch, Offset)]
    ) -> FollowerReplica.Log {
        FollowerReplica.Log(
            start: start,
            end: end,
            durableEnd: durable ?? end,
            lastEpoch: epochs.last { $0.1 < end }?.0 ?? .unknown,
            endOfEpoch: { asked in
                guard let index = epochs.lastIndex(where: { $0.0 <= asked }) else { return (.unknown, -1) }
                return (epochs[index].0, index + 1 < epochs.count ? epochs[index + 1].1 : end)
            }
        )
    }

    private func answer(
        _ follower: inout FollowerReplica,
        _ log: FollowerReplica.Log,
        _ answer: FollowerReplica.Answer
    ) -> FollowerReplica.Action {
        follower.answered(answer, to: follower.position(log), log)
    }

    @Test("it asks from what is on disk, and counts the leader's high watermark only so far")
    func durableEnd() {
        var follower = FollowerReplica(leader: 1, leaderEpoch: 3)
        let log = log(end: 10, durable: 7, epochs: [(1, 0)])
        #expect(follower.position(log).offset == 7)
        #expect(answer(&follower, log, .init(highWatermark: 9, logStart: 0, hasRecords: true)) == .append)
        #expect(follower.highWatermark(log) == 7)
    }

    @Test("histories are cut where they part, by epoch alone (traps 1 and 2)")
    func divergence() {
        var follower = FollowerReplica(leader: 1, leaderEpoch: 9)
        let log = log(end: 30, epochs: [(1, 0), (3, 10), (5, 20)])
        // The leader's epoch 3 ended earlier than ours.
        #expect(answer(&follower, log, .init(divergence: (3, 15))) == .truncate(to: 15))
        // The leader's epoch 3 went on longer: ours ends at 20.
        #expect(answer(&follower, log, .init(divergence: (3, 25))) == .truncate(to: 20))
        // An epoch that we do not have: back to the end of the one before it, and ask again.
        #expect(answer(&follower, log, .init(divergence: (4, 28))) == .truncate(to: 20))
        #expect(answer(&follower, log, .init(divergence: (2, 8))) == .truncate(to: 10))
    }

    @Test("an answer to something else says nothing")
    func staleAnswers() {
        var follower = FollowerReplica(leader: 1, leaderEpoch: 9)
        let log = log(end: 30, epochs: [(1, 0)])
        var asked = follower.position(log)
        asked.offset = 20
        #expect(follower.answered(.init(divergence: (0, 1)), to: asked, log) == .none)
        asked = follower.position(log)
        asked.leaderEpoch = 8
        #expect(follower.answered(.init(divergence: (0, 1)), to: asked, log) == .none)
    }

    @Test("out of range: begins anew where the leader begins, and else throws nothing away")
    func outOfRange() {
        var follower = FollowerReplica(leader: 1, leaderEpoch: 9)
        let full = log(end: 30, epochs: [(1, 0)])
        #expect(answer(&follower, full, .init(error: .offsetOutOfRange, logStart: 50)) == .reset(to: 50))
        #expect(answer(&follower, full, .init(error: .offsetOutOfRange, logStart: 10)) == .refuse)
        let empty = log(end: 30, start: 30, epochs: [])
        #expect(answer(&follower, empty, .init(error: .offsetOutOfRange, logStart: 10)) == .reset(to: 10))
        #expect(answer(&follower, full, .init(error: .unknownLeaderEpoch)) == .retry(.unknownLeaderEpoch))
    }

    @Test("the start follows the leader's, up to what is committed")
    func logStart() {
        var follower = FollowerReplica(leader: 1, leaderEpoch: 9)
        let log = log(end: 30, epochs: [(1, 0)])
        _ = answer(&follower, log, .init(highWatermark: 25, logStart: 28))
        #expect(follower.newLogStart(log) == 25)
    }
}
