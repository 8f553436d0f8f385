// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCRaft
import Testing

/// Refusals: what a caller gets that asks for too much, or starts from a log that cannot be.
@Suite struct RaftNodeTests {
    private let replica = RaftReplica(node: 1, directory: KafkaUUID(high: 1, low: 1))

    private func leader(of cluster: inout Cluster) -> BrokerID {
        cluster.members[1]!.node!.campaign()
        for _ in 0..<20 {
            for id in cluster.ids { cluster.work(id) }
            let arriving = cluster.network
            cluster.network = []
            for message in arriving { cluster.deliver(message) }
        }
        return 1
    }

    @Test func proposalsBeyondTheLimitsAreRefused() throws {
        var options = RaftOptions()
        options.maxProposalBytes = 100
        options.maxUncommittedBytes = 250
        var cluster = Cluster(voters: 3, options: options, seed: 1)
        let id = leader(of: &cluster)
        #expect(throws: RaftError.self) { try cluster.members[2]!.node!.propose([1]) }
        let bytes = [UInt8](repeating: 1, count: 100)
        expect(.tooLarge) { () throws(RaftError) in _ = try cluster.members[id]!.node!.propose(bytes + [1]) }
        // Nothing arrives anywhere: what is proposed stays uncommitted.
        try cluster.members[id]!.node!.propose(bytes)
        try cluster.members[id]!.node!.propose(bytes)
        expect(.busy) { () throws(RaftError) in _ = try cluster.members[id]!.node!.propose(bytes) }
        #expect(cluster.members[id]!.node!.status.uncommittedBytes == 232)
        // Once it is committed there is room again.
        for _ in 0..<10 {
            for id in cluster.ids { cluster.work(id) }
            let arriving = cluster.network
            cluster.network = []
            for message in arriving { cluster.deliver(message) }
        }
        #expect(cluster.members[id]!.node!.status.uncommittedBytes == 0)
        try cluster.members[id]!.node!.propose(bytes)
    }

    @Test func theLeaderIsNamedToWhoAsksAnother() {
        var cluster = Cluster(voters: 3, options: RaftOptions(), seed: 1)
        _ = leader(of: &cluster)
        do throws(RaftError) {
            try cluster.members[3]!.node!.propose([1])
            Issue.record("a follower took a proposal")
        } catch {
            #expect(error.code == .notLeader)
            #expect(error.leader == cluster.replica(1))
        }
    }

    @Test func optionsOutOfRangeAreRefused() {
        var options = RaftOptions()
        options.electionTicks = 4
        let storage = MemoryStorage(membership: RaftMembership(voters: [replica]))
        expect(.invalidOptions) { () throws(RaftError) in
            _ = try RaftNode(replica: replica, options: options, storage: storage, seed: 1)
        }
        expect(.invalidOptions) { () throws(RaftError) in
            let nameless = RaftReplica(node: 1, directory: .zero)
            _ = try RaftNode(replica: nameless, storage: storage, seed: 1)
        }
    }

    @Test func aLogThatDoesNotContinueItsSnapshotIsRefused() {
        struct Broken: RaftLogStorage {
            var hardState = RaftHardState(epoch: 2)
            var snapshot = RaftSnapshotMetadata(index: 5, epoch: 1)
            var firstIndex: RaftIndex { 9 }
            var lastIndex: RaftIndex { 12 }
            func epoch(at index: RaftIndex) -> RaftEpoch? { 2 }
            func entries(in range: Range<RaftIndex>, maxBytes: Int) -> [RaftEntry] { [] }
            func snapshotBytes(of index: RaftIndex, from position: Int64, maxBytes: Int) -> (
                bytes: [UInt8], isLast: Bool
            )? { nil }
        }
        expect(.inconsistentStorage) { () throws(RaftError) in
            _ = try RaftNode(replica: replica, storage: Broken(), seed: 1)
        }
    }

    private func expect(_ code: RaftError.Code, _ body: () throws(RaftError) -> Void) {
        do throws(RaftError) {
            try body()
            Issue.record("expected \(code)")
        } catch {
            #expect(error.code == code)
            #expect(!error.message.isEmpty)
        }
    }
}
