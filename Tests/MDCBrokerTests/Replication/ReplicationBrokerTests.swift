// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import Testing

@testable import MDCBroker

@Suite("Replication between brokers", .serialized)
struct ReplicationBrokerTests {
    private static let configs = ["min.insync.replicas": "2"]

    private func produce(_ client: RawKafkaConnection, _ values: [String], acks: Int16 = -1) throws -> ErrorCode {
        ErrorCode(rawValue: try client.produce("t", try RawKafkaConnection.batch(values), acks: acks).errorCode)
    }

    /// Produces, and again where the leader is not ready.
    private func produceUntilTaken(_ client: RawKafkaConnection, _ values: [String]) async throws {
        try await StaticCluster.eventually("a produce request is taken") { try self.produce(client, values) == .none }
    }

    private func readAll(_ client: RawKafkaConnection) throws -> [String] {
        var values: [String] = []
        while true {
            let data = try client.fetch("t", from: Int64(values.count))
            let found = try RawKafkaConnection.values(data)
            if found.isEmpty { return values }
            values += found
        }
    }

    private func log(_ cluster: StaticCluster, _ node: Int32) -> PartitionLog? {
        cluster.nodes[node]?.broker.services?.logs.partition(TopicPartition(topic: "t", partition: 0))
    }

    @Test("what is acknowledged by all is on the disks of all, and is read once")
    func producesToAll() async throws {
        try await StaticCluster.with { cluster in
            _ = cluster.controller.create("t", replicas: [[1, 2, 3]], configs: Self.configs)
            let client = try cluster.connect(1)
            for number in 0..<20 { #expect(try produce(client, ["a\(number)", "b\(number)"]) == .none) }
            for node in Int32(1)...3 {
                #expect((log(cluster, node)?.syncedEndOffset ?? 0) >= 40, "node \(node)")
            }
            #expect(try readAll(client) == (0..<20).flatMap { ["a\($0)", "b\($0)"] })
            // Others say that they do not lead, and to whom to turn is in the metadata.
            let other = try cluster.connect(2)
            #expect(try produce(other, ["x"]) == .notLeaderOrFollower)
            #expect(try other.fetch("t", from: 0).errorCode == ErrorCode.notLeaderOrFollower.rawValue)
        }
    }

    @Test("a follower that is gone leaves the in-sync set, writes go on, and it comes back")
    func followerGoes() async throws {
        try await StaticCluster.with { cluster in
            let id = cluster.controller.create("t", replicas: [[1, 2, 3]], configs: Self.configs)
            let client = try cluster.connect(1)
            #expect(try produce(client, ["before"]) == .none)
            try await cluster.stop(3)
            #expect(try produce(client, ["while"]) == .none)
            #expect(cluster.controller.partition(id)?.isr == [1, 2])
            // With one left, acks=all is refused at once, and nothing is written.
            cluster.controller.change(id) { $0.isr = [1] }
            #expect(try produce(client, ["too few"]) == .notEnoughReplicas)
            try await cluster.start(3)
            try await StaticCluster.eventually("all are in sync again") {
                cluster.controller.partition(id)?.isr == [1, 2, 3]
            }
            #expect(try produce(client, ["after"]) == .none)
            #expect((log(cluster, 3)?.syncedEndOffset ?? 0) == 3)
            #expect(try readAll(client) == ["before", "while", "after"])
        }
    }

    @Test("a new leader's history wins: what the old one wrote alone is cut")
    func leaderChanges() async throws {
        try await StaticCluster.with { cluster in
            let id = cluster.controller.create("t", replicas: [[1, 2, 3]], configs: Self.configs)
            let client = try cluster.connect(1)
            #expect(try produce(client, ["kept"]) == .none)
            // Nobody copies from node 1 any longer; what it takes now is its own. (acks=1 promises no more.)
            cluster.controller.lost(1)
            cluster.controller.change(id) {
                $0.leader = 2
                $0.isr = [2, 3]
            }
            #expect(try produce(client, ["lost 1", "lost 2"], acks: 1) == .none)
            let second = try cluster.connect(2)
            try await produceUntilTaken(second, ["new"])
            // Node 1 learns of it as its metadata comes.
            try await cluster.stop(1)
            try await cluster.start(1)
            try await StaticCluster.eventually("node 1 is in sync again") {
                cluster.controller.partition(id)?.isr.contains(1) == true
            }
            #expect(try readAll(second) == ["kept", "new"])
            let ends = [1, 2, 3].map { self.log(cluster, $0)?.logEndOffset }
            #expect(ends == [2, 2, 2])
            // And back: every log is the same.
            cluster.controller.change(id) { $0.leader = 1 }
            let first = try cluster.connect(1)
            try await produceUntilTaken(first, ["again"])
            #expect(try readAll(first) == ["kept", "new", "again"])
        }
    }

    @Test("a replica whose disk was emptied is copied anew before it counts")
    func emptiedDisk() async throws {
        try await StaticCluster.with { cluster in
            let id = cluster.controller.create("t", replicas: [[1, 2, 3]], configs: Self.configs)
            let client = try cluster.connect(1)
            for number in 0..<50 { #expect(try produce(client, ["\(number)"]) == .none) }
            try await cluster.stop(2)
            cluster.controller.change(id) { $0.isr = [1, 3] }
            try cluster.nodes[2]?.wipe()
            try await cluster.start(2)
            try await StaticCluster.eventually("node 2 is in sync again") {
                cluster.controller.partition(id)?.isr == [1, 2, 3]
            }
            #expect((log(cluster, 2)?.syncedEndOffset ?? 0) == 50)
            cluster.controller.change(id) { $0.leader = 2 }
            let second = try cluster.connect(2)
            try await produceUntilTaken(second, ["last"])
            #expect(try readAll(second) == (0..<50).map { "\($0)" } + ["last"])
        }
    }

    @Test("a deposed leader answers who waits; a topic that is deleted goes from all disks")
    func deposed() async throws {
        try await StaticCluster.with { cluster in
            let id = cluster.controller.create("t", replicas: [[1, 2, 3]], configs: Self.configs)
            let client = try cluster.connect(1)
            #expect(try produce(client, ["one"]) == .none)
            cluster.controller.change(id) { $0.leader = 3 }
            #expect(try produce(client, ["two"]) == .notLeaderOrFollower)
            cluster.controller.remove(id)
            for node in Int32(1)...3 { #expect(log(cluster, node) == nil) }
            #expect(try produce(client, ["three"]) == .unknownTopicOrPartition)
        }
    }

    @Test("a leader whose data folder fails gives its leaderships up, and others go on")
    func leadersFolderFails() async throws {
        let disk = FailingFolder()
        let cluster = StaticCluster()
        try await cluster.start(1, fileSystem: disk)
        for id in Int32(2)...3 { try await cluster.start(id) }
        do {
            let id = cluster.controller.create("t", replicas: [[1, 2, 3]], configs: Self.configs)
            #expect(try produce(try cluster.connect(1), ["before"]) == .none)
            disk.fail(try #require(cluster.nodes[1]).directory + "/data", .writes)
            _ = try produce(try cluster.connect(1), ["refused"])
            try await StaticCluster.eventually("another node leads") {
                let partition = cluster.controller.partition(id)
                return partition?.leader == 2 && partition?.isr == [2, 3]
            }
            let client = try cluster.connect(2)
            try await produceUntilTaken(client, ["after"])
            try await StaticCluster.eventually("what is committed can be read") {
                try self.readAll(client) == ["before", "after"]
            }
        } catch {
            await cluster.stopAll()
            throw error
        }
        await cluster.stopAll()
    }
}
