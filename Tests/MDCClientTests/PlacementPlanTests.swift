// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCClient

/// Plans of moves, on random clusters by seed and a few by hand.
@Suite("Plans of moves")
struct PlacementPlanTests {
    private static func name(_ index: Int) -> TopicPartition {
        TopicPartition(topic: "t\(index % 7)", partition: PartitionID(Int32(index / 7)))
    }

    private static func counts(_ partitions: [PlacementPlan.Partition]) -> (
        held: [BrokerID: Int], first: [BrokerID: Int]
    ) {
        var held: [BrokerID: Int] = [:]
        var first: [BrokerID: Int] = [:]
        for partition in partitions {
            for node in partition.replicas { held[node, default: 0] += 1 }
            if let node = partition.replicas.first { first[node, default: 0] += 1 }
        }
        return (held, first)
    }

    private static func apply(_ plan: PlacementPlan, to partitions: [PlacementPlan.Partition]) -> [PlacementPlan
        .Partition]
    {
        let moves = Dictionary(uniqueKeysWithValues: plan.moves.map { ($0.partition, $0.to) })
        return partitions.map { PlacementPlan.Partition($0.name, moves[$0.name] ?? $0.replicas) }
    }

    private static func random(_ nodes: Int, _ factor: Int, _ count: Int, _ seed: UInt64) -> [PlacementPlan.Partition] {
        var state = seed
        func next() -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33)
        }
        return (0..<count).map { index in
            var ring = (1...Int32(nodes)).map { BrokerID($0) }
            var replicas: [BrokerID] = []
            for _ in 0..<factor { replicas.append(ring.remove(at: next() % ring.count)) }
            return PlacementPlan.Partition(name(index), replicas)
        }
    }

    @Test(
        "After a rebalance no node holds or leads two more than another, and every partition has as many replicas as before"
    )
    func even() {
        for seed in 1...40 as ClosedRange<UInt64> {
            let nodes = Int(seed % 5) + 3
            let factor = Int(seed % 3) + 1
            let partitions = Self.random(nodes - 1, min(factor, nodes - 1), 20 + Int(seed), seed)
            let all = (1...Int32(nodes)).map { PlacementPlan.Node(BrokerID($0)) }
            let plan = PlacementPlan.rebalance(partitions, over: all)
            let after = Self.apply(plan, to: partitions)
            let (held, _) = Self.counts(after)
            let numbers = all.map { held[$0.id] ?? 0 }
            #expect((numbers.max() ?? 0) - (numbers.min() ?? 0) <= 1, "seed \(seed): \(numbers)")
            for (old, new) in zip(partitions, after) {
                #expect(Set(new.replicas).count == old.replicas.count, "seed \(seed)")
            }
            #expect(
                PlacementPlan.rebalance(after, over: all).moves.isEmpty,
                "seed \(seed): a second time there is nothing to do"
            )
        }
    }

    @Test("Leaders alone are evened out without a copy")
    func leaders() {
        let partitions = (0..<9).map { PlacementPlan.Partition(Self.name($0), [1, 2, 3]) }
        let plan = PlacementPlan.rebalance(partitions, over: [.init(1), .init(2), .init(3)], leadersOnly: true)
        #expect(plan.moves.allSatisfy { !$0.copies } && plan.moves.count == 6)
        let first = Self.counts(Self.apply(plan, to: partitions)).first
        #expect(first == [1: 3, 2: 3, 3: 3])
    }

    @Test("A drained node holds nothing; the others share what it held, in other racks where there are some")
    func drain() {
        let nodes = [
            PlacementPlan.Node(1, rack: "a"), .init(2, rack: "a"), .init(3, rack: "b"), .init(4, rack: "b"),
        ]
        let partitions = (0..<8).map { PlacementPlan.Partition(Self.name($0), $0 % 2 == 0 ? [1, 3] : [3, 1]) }
        let plan = PlacementPlan.drain(1, partitions, to: nodes)
        let after = Self.apply(plan, to: partitions)
        #expect(plan.stuck.isEmpty && plan.moves.count == 8)
        #expect(after.allSatisfy { Set($0.replicas) == [2, 3] }, "node 2 is the other one in rack a")
    }

    @Test("Where there is no other node a drain says so, or goes on with one replica less")
    func stuck() {
        let partitions = [
            PlacementPlan.Partition(Self.name(0), [1, 2]), PlacementPlan.Partition(Self.name(1), [1]),
        ]
        let plan = PlacementPlan.drain(1, partitions, to: [.init(1), .init(2)])
        #expect(plan.stuck == [Self.name(0)] && plan.moves.map(\.to) == [[2]])
        let fewer = PlacementPlan.drain(1, partitions, to: [.init(1), .init(2)], allowsFewer: true)
        #expect(fewer.stuck.isEmpty && fewer.moves.map(\.to) == [[2], [2]])
        #expect(
            PlacementPlan.drain(1, [.init(Self.name(1), [1])], to: [.init(1)], allowsFewer: true).stuck == [
                Self.name(1)
            ]
        )
    }
}
