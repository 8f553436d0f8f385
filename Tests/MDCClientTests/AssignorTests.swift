// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore
import Testing

@testable import MDCClient

private func tp(_ topic: String, _ partition: Int32) -> TopicPartition {
    TopicPartition(topic: topic, partition: PartitionID(partition))
}

private func member(
    _ id: String,
    _ topics: [String],
    owned: [TopicPartition] = [],
    generation: Int32 = -1,
    instance: String? = nil
) -> AssignableMember {
    AssignableMember(
        id: id,
        instanceID: instance,
        subscription: MemberSubscription(topics: topics, owned: owned, generation: generation)
    )
}

private func names(_ partitions: [TopicPartition]?) -> String {
    (partitions ?? []).sorted().map(\.description).joined(separator: " ")
}

@Suite("Sharing out partitions")
struct AssignorTests {
    @Test("range: runs of neighbours, the first members get one more, topic by topic")
    func range() {
        let result = Assignors.assign(
            .range,
            members: [member("b", ["x", "y"]), member("a", ["x", "y"]), member("c", ["y"])],
            partitionCounts: ["x": 3, "y": 4]
        )
        #expect(names(result["a"]) == "x-0 x-1 y-0 y-1")
        #expect(names(result["b"]) == "x-2 y-2")
        #expect(names(result["c"]) == "y-3")
    }

    @Test("round robin: one each in turn, past members that do not read the topic")
    func roundRobin() {
        let result = Assignors.assign(
            .roundRobin,
            members: [member("a", ["x"]), member("b", ["x", "y"]), member("c", ["y"])],
            partitionCounts: ["x": 3, "y": 3]
        )
        #expect(names(result["a"]) == "x-0 x-2")
        #expect(names(result["b"]) == "x-1 y-0 y-2")
        #expect(names(result["c"]) == "y-1")
    }

    @Test("static members are ordered by their names")
    func staticMembers() {
        let result = Assignors.assign(
            .range,
            members: [member("1", ["x"], instance: "z"), member("2", ["x"], instance: "a")],
            partitionCounts: ["x": 3]
        )
        #expect(names(result["2"]) == "x-0 x-1")
    }

    @Test(
        "topics that do not exist and members without topics get nothing",
        arguments: ConsumerConfiguration.Assignor.allCases
    )
    func nothing(assignor: ConsumerConfiguration.Assignor) {
        let result = Assignors.assign(
            assignor,
            members: [member("a", ["x", "gone"]), member("b", [])],
            partitionCounts: ["x": 1]
        )
        #expect(names(result["a"]) == "x-0")
        #expect(result["b"] == [])
    }

    @Test("sticky: a new member waits for the others to give up, then gets its share, and nothing else moves")
    func stickyTwoRounds() {
        let all = (0..<6).map { tp("x", $0) }
        let first = Assignors.assign(.cooperativeSticky, members: [member("a", ["x"])], partitionCounts: ["x": 6])
        #expect(names(first["a"]) == names(all))
        let second = Assignors.assign(
            .cooperativeSticky,
            members: [member("a", ["x"], owned: all, generation: 1), member("b", ["x"])],
            partitionCounts: ["x": 6]
        )
        #expect(second["a"]?.count == 3)
        #expect(second["b"] == [], "its partitions are still held by another")
        let third = Assignors.assign(
            .cooperativeSticky,
            members: [member("a", ["x"], owned: second["a"] ?? [], generation: 2), member("b", ["x"], generation: 2)],
            partitionCounts: ["x": 6]
        )
        #expect(third["a"] == second["a"])
        #expect(third["b"]?.count == 3)
    }

    @Test("sticky: of two claims the newer generation counts, and equal ones cancel out")
    func conflictingClaims() {
        let newer = Assignors.assign(
            .cooperativeSticky,
            members: [
                member("a", ["x"], owned: [tp("x", 0), tp("x", 1)], generation: 4),
                member("b", ["x"], owned: [tp("x", 0)], generation: 5),
            ],
            partitionCounts: ["x": 2]
        )
        #expect(names(newer["a"]) == "x-1")
        #expect(newer["b"] == [], "the other claimant has to give it up first")
    }

    @Test(
        "sticky: whatever members come and go, it ends balanced, complete and without double owners",
        arguments: 1...40
    )
    func stickyConverges(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let counts: [String: Int32] = ["x": 7, "y": 5, "z": 1]
        var members: [String: [TopicPartition]] = [:]
        var topics: [String: [String]] = [:]
        var generation: Int32 = 1
        for step in 0..<20 {
            if members.isEmpty || Int.random(in: 0..<3, using: &generator) > 0 {
                let id = "m\(step)"
                members[id] = []
                topics[id] =
                    seed % 2 == 0 ? ["x", "y", "z"] : ["x", "y", "z"].filter { _ in Bool.random(using: &generator) }
            } else if let gone = members.keys.sorted().randomElement(using: &generator) {
                members[gone] = nil
            }
            // Rebalance until nothing is revoked any more: at most three rounds.
            var rounds = 0
            var isDone = members.isEmpty
            while !isDone {
                rounds += 1
                let result = Assignors.assign(
                    .cooperativeSticky,
                    members: members.map {
                        member($0.key, topics[$0.key] ?? [], owned: $0.value, generation: generation)
                    },
                    partitionCounts: counts
                )
                // Nobody may get what another still holds.
                for (id, partitions) in result {
                    for partition in partitions {
                        #expect(!members.contains { $0.key != id && $0.value.contains(partition) })
                    }
                }
                isDone = members.allSatisfy { Set($0.value).isSubset(of: Set(result[$0.key] ?? [])) }
                members = result
                generation += 1
                #expect(rounds <= 3)
                if rounds > 3 { break }
            }
            let given = members.values.flatMap { $0 }
            #expect(Set(given).count == given.count)
            let wanted = Set(members.keys.flatMap { topics[$0] ?? [] })
            #expect(given.count == wanted.reduce(0) { $0 + Int(counts[$1] ?? 0) })
            if seed % 2 == 0, !members.isEmpty {
                let loads = members.values.map(\.count)
                #expect((loads.max() ?? 0) - (loads.min() ?? 0) <= 1)
            }
        }
    }
}

@Suite("What members tell each other")
struct GroupProtocolTests {
    @Test("a subscription goes there and back; owned partitions only with the cooperative assignor")
    func subscription() throws {
        let subscription = MemberSubscription(topics: ["b", "a"], owned: [tp("a", 1), tp("a", 0)], generation: 7)
        let read = try GroupProtocol.decodeSubscription(
            GroupProtocol.encode(subscription, assignor: .cooperativeSticky)
        )
        #expect(read.topics == ["a", "b"])
        #expect(read.owned == [tp("a", 0), tp("a", 1)])
        #expect(read.generation == 7)
        let eager = try GroupProtocol.decodeSubscription(GroupProtocol.encode(subscription, assignor: .range))
        #expect(eager.owned.isEmpty && eager.generation == -1)
    }

    @Test("reads version 1 with the generation in Java's user data, and newer versions than it knows")
    func otherVersions() throws {
        var writer = MessageWriter()
        writer.integer(Int16(1))
        var userData = ByteBuffer()
        userData.writeInteger(Int32(9))
        try ConsumerProtocolSubscription(
            topics: ["t"],
            userData: userData,
            ownedPartitions: [.init(topic: "t", partitions: [2])]
        ).write(to: &writer, version: 1)
        let old = try GroupProtocol.decodeSubscription(writer.buffer)
        #expect(old.generation == 9 && old.owned == [tp("t", 2)])

        var newer = MessageWriter()
        newer.integer(Int16(12))
        try ConsumerProtocolSubscription(topics: ["t"], generationId: 3, rackId: "r").write(to: &newer, version: 3)
        newer.integer(Int64(0))
        #expect(try GroupProtocol.decodeSubscription(newer.buffer).generation == 3)
    }

    @Test("an assignment goes there and back; no bytes are an empty one")
    func assignment() throws {
        let partitions = [tp("a", 1), tp("a", 3), tp("b", 0)]
        #expect(try GroupProtocol.decodeAssignment(GroupProtocol.encode(assignment: partitions)) == partitions)
        #expect(try GroupProtocol.decodeAssignment(ByteBuffer()).isEmpty)
    }

    @Test("garbage is an error")
    func garbage() {
        #expect(throws: (any Error).self) { try GroupProtocol.decodeSubscription(ByteBuffer(bytes: [0])) }
        #expect(throws: (any Error).self) {
            try GroupProtocol.decodeSubscription(ByteBuffer(bytes: [0, 1, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0]))
        }
    }
}
