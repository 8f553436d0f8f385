// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCMirror
import MDCModel
import Testing

@Suite struct PlanTests {
    private func topic(_ name: String, _ partitions: Int32, _ settings: [String: String] = [:]) -> MirroredTopic {
        MirroredTopic(name: name, id: .zero, partitions: partitions, settings: settings)
    }

    @Test func whatIsMissingIsMadeWithItsSettings() {
        let plan = TopicPlan(
            source: [
                topic(
                    "a",
                    3,
                    ["retention.ms": "5", "min.insync.replicas": "2", "message.timestamp.type": "LogAppendTime"]
                )
            ],
            target: [],
            rename: { "eu.\($0)" }
        )
        #expect(plan.create == [topic("eu.a", 3, ["retention.ms": "5"])])
        #expect(plan.grow.isEmpty && plan.change.isEmpty)
    }

    @Test func whatDiffersIsChangedAndTheTargetsOwnStays() {
        let plan = TopicPlan(
            source: [
                topic("a", 6, ["retention.ms": "5"]), topic("b", 1), topic("c", 1, ["cleanup.policy": "compact"]),
            ],
            target: [
                topic("a", 3, ["retention.ms": "6", "min.insync.replicas": "2"]),
                topic("b", 4, ["segment.bytes": "1048576"]),
                topic("c", 1, ["cleanup.policy": "compact"]),
            ],
            rename: { $0 }
        )
        #expect(plan.create.isEmpty)
        #expect(plan.grow == ["a": 6])
        #expect(plan.wider == ["b"])
        #expect(plan.change == ["a": ["retention.ms": .set("5")], "b": ["segment.bytes": .delete]])
    }

    @Test func groupsAreMovedForwardOnly() {
        let place = { (number: Int32) in TopicPartition(topic: "a", partition: PartitionID(number)) }
        let plan = GroupPlan(
            source: [place(0): 10, place(1): 10, place(2): 10, place(3): 10],
            target: [place(1): 11, place(2): 20],
            translate: { partition, offset in partition.partition == 3 ? nil : (partition, offset + 1) }
        )
        #expect(plan.offsets == [place(0): 11])
    }
}
