// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCBroker

/// Scripts of wishes and time for the active controller.
@Suite("The active controller")
struct ControllerStateTests {
    private static let session: Int64 = 1000
    /// Nodes 1 to 3; none of the scripts' time is up for the controller's own node, 9.
    private struct Script {
        var state = ControllerState(image: MetadataImage(), node: 9, sessionMilliseconds: session, now: 0)
        var configuration = BrokerConfiguration()
        var now: Int64 = 0
        let topic = TopicID(high: 7, low: 7)

        init(nodes: ClosedRange<Int32> = 1...3) throws {
            for node in nodes { try start(node) }
        }

        @discardableResult
        mutating func ask(_ change: ControllerChange) throws(Refusal) -> Int64 {
            try state.perform(change, configuration, now: now).value
        }

        /// Registers and is caught up at once. Returns the broker epoch.
        @discardableResult
        mutating func start(_ node: Int32, incarnation: UInt64 = 1, directory: UInt64 = 1) throws(Refusal) -> Int64 {
            let epoch = try register(node, incarnation: incarnation, directory: directory)
            try beat(node)
            return epoch
        }

        mutating func register(
            _ node: Int32,
            incarnation: UInt64 = 1,
            directory: UInt64 = 1,
            features: [String: ClosedRange<Int16>] = [:]
        ) throws(Refusal) -> Int64 {
            let broker = BrokerImage(
                id: node,
                epoch: -1,
                incarnation: KafkaUUID(high: UInt64(node), low: incarnation),
                directory: KafkaUUID(high: UInt64(node), low: directory),
                host: "127.0.0.1",
                port: 9000 + node,
                rack: nil,
                features: features
            )
            return try ask(.registerBroker(broker))
        }

        @discardableResult
        mutating func beat(_ node: Int32, isLeaving: Bool = false) throws(Refusal) -> Int64 {
            let epoch = state.image.brokers[node]?.epoch ?? -1
            return try ask(.heartbeat(id: node, epoch: epoch, isReady: true, isLeaving: isLeaving))
        }

        /// A topic of one partition on nodes 1, 2 and 3.
        mutating func create(partitions: [[Int32]] = [[1, 2, 3]], configs: [String: String] = [:]) throws(Refusal) {
            var new = NewTopic(name: "t", partitions: -1, replicationFactor: -1, configs: configs)
            for (index, nodes) in partitions.enumerated() { new.assignments[Int32(index)] = nodes }
            try ask(.createTopic(new, id: topic, isInternal: false))
        }

        func partition(_ index: Int = 0) throws -> PartitionImage {
            try #require(state.image.topic("t")?.partitions[index])
        }

        /// What the leader would ask for now; the members with the epochs of their present runs.
        func alteration(_ isr: [Int32], _ index: Int = 0) throws -> PartitionAlteration {
            let now = try partition(index)
            return PartitionAlteration(
                topicID: topic,
                partition: Int32(index),
                leaderEpoch: now.leaderEpoch,
                partitionEpoch: now.partitionEpoch,
                isr: isr,
                epochs: isr.map { state.image.brokers[$0]?.epoch ?? -1 },
                node: now.leader,
                brokerEpoch: state.image.brokers[now.leader]?.epoch ?? -1
            )
        }

        /// Demands that a wish is refused with `code`, and that nothing has changed.
        mutating func refuses(
            _ code: ErrorCode,
            _ change: ControllerChange,
            _ location: SourceLocation = #_sourceLocation
        ) {
            let before = state.image.version
            do throws(Refusal) {
                try ask(change)
                Issue.record("not refused", sourceLocation: location)
            } catch {
                #expect(error.code == code, "\(error.message)", sourceLocation: location)
            }
            #expect(state.image.version == before, sourceLocation: location)
        }
    }

    // MARK: Brokers

    @Test("Each run of a broker has an epoch of its own; the same run asked twice has one")
    func registration() throws {
        var script = try Script(nodes: 1...2)
        let first = try #require(script.state.image.brokers[1]?.epoch)
        let again = try script.register(1, incarnation: 1)
        #expect(again == first)
        #expect(script.state.image.isActive(1))

        let second = try script.register(1, incarnation: 2)
        #expect(second > first && second > (script.state.image.brokers[2]?.epoch ?? .max))
        #expect(!script.state.image.isActive(1), "fenced until it says that it has caught up")
        script.refuses(.staleBrokerEpoch, .heartbeat(id: 1, epoch: first, isReady: true, isLeaving: false))
        script.refuses(.brokerIdNotRegistered, .heartbeat(id: 5, epoch: 0, isReady: true, isLeaving: false))
        let early = try script.ask(.heartbeat(id: 1, epoch: second, isReady: false, isLeaving: false))
        #expect(early == 0)
        let ready = try script.beat(1)
        #expect(ready == 1)
        #expect(script.state.image.isActive(1))
    }

    @Test("A node with another's id is refused while the other runs, and taken when it is fenced")
    func duplicate() throws {
        var script = try Script()
        let other = BrokerImage(
            id: 1,
            epoch: -1,
            incarnation: KafkaUUID(high: 1, low: 2),
            directory: KafkaUUID(high: 1, low: 2),
            host: "127.0.0.1",
            port: 9100
        )
        script.refuses(.duplicateBrokerRegistration, .registerBroker(other))
        _ = script.state.isGone(1)
        let epoch = try script.ask(.registerBroker(other))
        #expect(epoch > 2)
    }

    @Test("Who is silent for the session's length is fenced, and a replica in sync leads")
    func fencing() throws {
        var script = try Script()
        try script.create()
        let before = try script.partition()
        #expect(before.leader == 1 && before.isr == [1, 2, 3])

        script.now = Self.session - 1
        try script.beat(2)
        try script.beat(3)
        let nothing = script.state.tick(now: script.now)
        #expect(nothing.isEmpty)
        script.now = Self.session
        let fenced = script.state.tick(now: script.now)
        #expect(fenced.count == 1)
        let after = try script.partition()
        #expect(after.leader == 2 && after.isr == [2, 3] && after.elr.isEmpty)
        #expect(after.leaderEpoch == before.leaderEpoch + 1 && after.partitionEpoch > before.partitionEpoch)

        // It comes back, but is in no ISR before its leader says so.
        try script.beat(1)
        #expect(try script.partition() == after)
        try script.ask(.alterPartition(script.alteration([1, 2, 3])))
        #expect(try script.partition().isr == [1, 2, 3])
        // Back to the preferred leader in time.
        script.now = 2900
        for node in 1...3 as ClosedRange<Int32> { try script.beat(node) }
        _ = script.state.tick(now: 3000)
        #expect(try script.partition().leader == 1)
    }

    @Test("Nobody out of ISR and ELR leads without an operator's word")
    func election() throws {
        var script = try Script()
        try script.create(configs: ["min.insync.replicas": "1"])
        try script.ask(.alterPartition(script.alteration([1])))
        _ = script.state.isGone(1)
        var partition = try script.partition()
        #expect(partition.leader == -1 && partition.isr == [1] && partition.elr.isEmpty)
        script.refuses(.preferredLeaderNotAvailable, .electLeader(topic: "t", partition: 0, isUnclean: false))
        try script.ask(.electLeader(topic: "t", partition: 0, isUnclean: true))
        partition = try script.partition()
        #expect(partition.leader == 2 && partition.isr == [2])
    }

    @Test("Who leaves an ISR below the minimum stays eligible, and leads where nobody is in sync")
    func eligible() throws {
        var script = try Script()
        try script.create()
        _ = script.state.isGone(3)
        #expect(try script.partition().elr.isEmpty, "two of three are enough")
        _ = script.state.isGone(2)
        #expect(try script.partition().elr == [2])
        _ = script.state.isGone(1)
        var partition = try script.partition()
        #expect(partition.leader == -1 && partition.isr == [1] && partition.elr == [2])

        // Node 3 may lack what was acknowledged after it had left; node 2 does not.
        try script.beat(3)
        #expect(try script.partition().leader == -1)
        try script.beat(2)
        partition = try script.partition()
        #expect(partition.leader == 2 && partition.isr == [2] && partition.elr == [1])
        // As many as the minimum are in sync: from now on things are committed without node 1.
        try script.ask(.alterPartition(script.alteration([2, 3])))
        #expect(try script.partition().elr.isEmpty)
    }

    @Test("A node whose disk was emptied is in no ISR and is not eligible")
    func emptied() throws {
        var script = try Script()
        try script.create()
        _ = script.state.isGone(3)
        _ = script.state.isGone(2)
        _ = script.state.isGone(1)
        try script.start(2, incarnation: 2, directory: 2)
        var partition = try script.partition()
        #expect(partition.leader == -1 && partition.isr == [1] && partition.elr.isEmpty)
        try script.start(1, incarnation: 2, directory: 2)
        partition = try script.partition()
        #expect(partition.leader == -1 && partition.isr.isEmpty)
    }

    @Test("A restarted leader leads in another epoch, alone or not")
    func restartedLeader() throws {
        var script = try Script()
        try script.create()
        let before = try script.partition()
        // So fast that nobody noticed that it was gone.
        _ = try script.register(1, incarnation: 2)
        #expect(try script.partition().leader == 2)
        #expect(try script.partition().isr == [2, 3])

        var alone = try Script()
        try alone.create(partitions: [[1]])
        try alone.start(1, incarnation: 2)
        let after = try alone.partition()
        #expect(after.leader == 1 && after.isr == [1] && after.leaderEpoch > before.leaderEpoch)
    }

    @Test("Who leaves in order is fenced at once")
    func leaving() throws {
        var script = try Script()
        try script.create()
        try script.beat(1, isLeaving: true)
        #expect(try script.partition().leader == 2)
        script.refuses(.invalidRequest, .unregisterBroker(id: 2))
        try script.ask(.unregisterBroker(id: 1))
        #expect(script.state.image.brokers[1] == nil)
    }

    // MARK: ISR

    @Test("A leader that leaves itself out of the ISR resigns")
    func resignation() throws {
        var script = try Script()
        try script.create(configs: ["min.insync.replicas": "3"])
        let before = try script.partition()
        try script.ask(.alterPartition(script.alteration([2, 3])))
        let after = try script.partition()
        #expect(after.leader == 2 && after.isr == [2, 3] && after.elr.isEmpty)
        #expect(after.leaderEpoch == before.leaderEpoch + 1 && after.partitionEpoch == before.partitionEpoch + 1)
    }

    @Test("Another ISR is compare-and-set by leader, leader epoch, partition epoch and broker epoch")
    func compareAndSet() throws {
        var script = try Script()
        try script.create()
        let first = try script.alteration([1, 2])
        try script.ask(.alterPartition(first))
        #expect(try script.partition().isr == [1, 2])
        script.refuses(.invalidUpdateVersion, .alterPartition(first))

        let good = try script.alteration([1])
        var bad = good
        bad.leaderEpoch -= 1
        script.refuses(.fencedLeaderEpoch, .alterPartition(bad))
        bad = good
        bad.node = 2
        bad.brokerEpoch = script.state.image.brokers[2]?.epoch ?? -1
        script.refuses(.fencedLeaderEpoch, .alterPartition(bad))
        bad = good
        bad.brokerEpoch -= 1
        script.refuses(.staleBrokerEpoch, .alterPartition(bad))
        bad = good
        bad.topicID = .zero
        script.refuses(.unknownTopicId, .alterPartition(bad))
        for partition in [-1, 1, .max] as [Int32] {
            bad = good
            bad.partition = partition
            script.refuses(.unknownTopicId, .alterPartition(bad))
        }
        for (isr, epochs) in [
            ([3], [1]), ([2, 3], [1, 2]), ([1, 1], [0, 0]), ([1, 4], [0, 0]), ([], []), ([1, 2], [0]), ([1], []),
        ] {
            bad = good
            bad.isr = isr.map { Int32($0) }
            bad.epochs = epochs.map { Int64($0) }
            script.refuses(.invalidRequest, .alterPartition(bad))
        }
        try script.ask(.alterPartition(good))
        #expect(try script.partition().isr == [1])
    }

    @Test("Progress of an earlier run gets nobody into the ISR (KIP-903)")
    func earlierRun() throws {
        var script = try Script()
        try script.create()
        _ = script.state.isGone(3)
        try script.beat(3)
        // The leader has seen this run of node 3 at the log's end, and asks; meanwhile node 3 is started anew. It was in no
        // ISR, so that nothing about the partition changes.
        let late = try script.alteration([1, 2, 3])
        try script.start(3, incarnation: 2)
        #expect(try script.partition().partitionEpoch == late.partitionEpoch)
        script.refuses(.ineligibleReplica, .alterPartition(late))
        // Nor does a run that nobody named.
        var unknown = late
        unknown.epochs = [-1, -1, -1]
        script.refuses(.ineligibleReplica, .alterPartition(unknown))
        // The present run may; members are vouched for by being there.
        unknown.epochs[2] = script.state.image.brokers[3]?.epoch ?? -1
        try script.ask(.alterPartition(unknown))
        #expect(try script.partition().isr == [1, 2, 3])
    }

    @Test("No fenced node gets into an ISR")
    func fencedMember() throws {
        var script = try Script()
        try script.create()
        _ = script.state.isGone(3)
        script.refuses(.ineligibleReplica, .alterPartition(try script.alteration([1, 2, 3])))
    }

    // MARK: The minimum

    @Test("The minimum is the topic's word or a majority; a node's own setting never makes it less")
    func minimum() throws {
        func topic(_ replicas: [Int32], adding: [Int32] = [], _ setting: String? = nil) -> TopicImage {
            TopicImage(
                name: "t",
                id: TopicID(high: 1, low: 1),
                partitions: [PartitionImage(replicas: replicas, isr: [1], leader: 1, addingReplicas: adding)],
                configs: setting.map { ["min.insync.replicas": $0] } ?? [:]
            )
        }
        #expect(topic([1, 2, 3]).minInSync == 2 && topic([1, 2, 3]).minInSync(onNode: 3) == 2)
        #expect(topic([1, 2, 3], "3").minInSync == 3 && topic([1, 2, 3], "3").minInSync(onNode: 1) == 3)
        #expect(topic([1]).minInSync == 1 && topic([1]).minInSync(onNode: 2) == 2)
        #expect(topic([1], "1").minInSync(onNode: 2) == 1)
        // A number that no topic can have is no reason to stop.
        #expect(topic([1], "99999999999").minInSync(onNode: 1) == .max)
        // Of six replicas in a move three are added: the other partitions have three.
        #expect(topic([4, 5, 6, 1, 2, 3], adding: [4, 5, 6]).minInSync == 2)
    }

    @Test("Where the minimum changes, who is eligible by the former is so no more if others commit now")
    func changedMinimum() throws {
        var script = try Script()
        try script.create(configs: ["min.insync.replicas": "3"])
        _ = script.state.isGone(3)
        #expect(try script.partition().elr == [3])
        let before = try script.partition().partitionEpoch
        try script.ask(.configure(.topic("t"), ["min.insync.replicas": "2"]))
        #expect(try script.partition().elr.isEmpty)
        #expect(try script.partition().partitionEpoch == before + 1)

        // Nothing is committed by one of three: node 2 has everything, whatever the minimum was.
        var few = try Script()
        try few.create(configs: ["min.insync.replicas": "3"])
        _ = few.state.isGone(3)
        _ = few.state.isGone(2)
        try few.ask(.configure(.topic("t"), ["min.insync.replicas": "2"]))
        #expect(try few.partition().elr == [3, 2])
    }

    @Test("A move that ends with another number of replicas changes the minimum of all partitions")
    func moved() throws {
        var script = try Script(nodes: 1...5)
        try script.create(partitions: [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]])
        for node in [3, 4, 5] as [Int32] { _ = script.state.isGone(node) }
        #expect(try script.partition(1).elr == [5], "two of five commit nothing")
        try script.ask(.reassign(topic: "t", partition: 0, replicas: [1, 2, 3]))
        #expect(script.state.image.topic("t")?.minInSync == 2)
        #expect(try script.partition(1).elr.isEmpty, "two of three do")
    }

    // MARK: Moves

    @Test("A move adds its replicas, ends when they are in sync, and has the new first replica lead")
    func moves() throws {
        var script = try Script(nodes: 1...4)
        try script.create()
        script.refuses(.noReassignmentInProgress, .reassign(topic: "t", partition: 0, replicas: nil))
        for bad: [Int32] in [[], [1, 1], [1, 9]] {
            script.refuses(.invalidReplicaAssignment, .reassign(topic: "t", partition: 0, replicas: bad))
        }
        script.refuses(.unknownTopicOrPartition, .reassign(topic: "t", partition: 7, replicas: [1]))
        try script.ask(.reassign(topic: "t", partition: 0, replicas: [4, 2, 3]))
        var now = try script.partition()
        #expect(now.replicas == [4, 2, 3, 1] && now.addingReplicas == [4] && now.removingReplicas == [1])
        #expect(now.isr.sorted() == [1, 2, 3] && now.leader == 1 && now.isMoving)

        try script.ask(.alterPartition(try script.alteration([1, 2, 3, 4])))
        now = try script.partition()
        #expect(now.replicas == [4, 2, 3] && now.isr == [4, 2, 3] && !now.isMoving)
        #expect(now.leader == 4 && now.leaderEpoch == 1)
        // Asked for where it is already, nothing changes.
        let version = script.state.image.version
        try script.ask(.reassign(topic: "t", partition: 0, replicas: [4, 2, 3]))
        #expect(script.state.image.version == version)
    }

    @Test("A move that is taken back, or replaced by another, leaves no replica behind")
    func cancelledMoves() throws {
        var script = try Script(nodes: 1...5)
        try script.create()
        try script.ask(.reassign(topic: "t", partition: 0, replicas: [4, 5]))
        try script.ask(.alterPartition(try script.alteration([1, 2, 3, 4])))
        #expect(try script.partition().isMoving, "node 5 is not in sync yet")
        try script.ask(.reassign(topic: "t", partition: 0, replicas: [1, 5]))
        var now = try script.partition()
        #expect(now.replicas == [1, 5, 2, 3] && now.addingReplicas == [5] && now.removingReplicas == [2, 3])
        #expect(now.isr == [1, 2, 3])
        try script.ask(.reassign(topic: "t", partition: 0, replicas: nil))
        now = try script.partition()
        #expect(now.replicas.sorted() == [1, 2, 3] && now.isr.sorted() == [1, 2, 3] && !now.isMoving)
        #expect(now.leader == 1 && now.leaderEpoch == 0)
    }

    @Test("Preferred leaders are elected where they are in sync; others only where nobody leads, and by an operator")
    func elections() throws {
        var script = try Script()
        try script.create()
        script.refuses(.electionNotNeeded, .electLeader(topic: "t", partition: 0, isUnclean: false))
        script.refuses(.electionNotNeeded, .electLeader(topic: "t", partition: 0, isUnclean: true))
        _ = script.state.isGone(1)
        script.refuses(.preferredLeaderNotAvailable, .electLeader(topic: "t", partition: 0, isUnclean: false))
        try script.start(1, incarnation: 2)
        script.refuses(.preferredLeaderNotAvailable, .electLeader(topic: "t", partition: 0, isUnclean: false))
        try script.ask(.alterPartition(try script.alteration([1, 2, 3])))
        let before = try script.partition().leaderEpoch
        try script.ask(.electLeader(topic: "t", partition: 0, isUnclean: false))
        #expect(try script.partition().leader == 1 && script.partition().leaderEpoch == before + 1)
    }

    // MARK: Features

    @Test("Levels go up where every node has them, and down only when asked to; all or none")
    func features() throws {
        func wish(_ name: String, _ level: Int16, _ direction: FeatureUpdate.Direction) -> ControllerChange {
            .updateFeatures([FeatureUpdate(name: name, level: level, direction: direction)])
        }
        var script = try Script(nodes: 1...2)
        let name = Features.transactionVersion
        #expect(script.state.image.level(of: name) == 2 && script.state.image.featuresEpoch == 0)
        script.refuses(.invalidUpdateVersion, wish(name, 1, .upgrade))
        script.refuses(.invalidUpdateVersion, wish(name, 3, .upgrade))
        script.refuses(.invalidUpdateVersion, wish("other.version", 1, .upgrade))
        script.refuses(.invalidUpdateVersion, wish(Features.metadataVersion, 0, .unsafeDowngrade))
        try script.ask(wish(name, 1, .safeDowngrade))
        #expect(script.state.image.level(of: name) == 1 && script.state.image.featuresEpoch == 1)
        script.refuses(.invalidUpdateVersion, wish(name, 2, .safeDowngrade))

        // An older node, which does not have level 2, may join now; as long as it is there, the level stays.
        let levels = Features.base.merging([name: 0...1]) { $1 }
        _ = try script.register(3, features: levels)
        script.refuses(.invalidUpdateVersion, wish(name, 2, .upgrade))
        script.refuses(
            .invalidUpdateVersion,
            .updateFeatures([
                FeatureUpdate(name: Features.shareVersion, level: 0, direction: .safeDowngrade),
                FeatureUpdate(name: name, level: 2, direction: .upgrade),
            ])
        )
        #expect(script.state.image.level(of: Features.shareVersion) == 1, "all or none")
        try script.ask(.unregisterBroker(id: 3))
        try script.ask(wish(name, 2, .upgrade))
        #expect(script.state.image.level(of: name) == 2 && script.state.image.featuresEpoch == 2)
        #expect(throws: Refusal.self) { try script.register(3, incarnation: 2, features: levels) }
        // What is decided already is no decision.
        try script.ask(wish(name, 2, .upgrade))
        #expect(script.state.image.featuresEpoch == 2)
    }

    // MARK: Wishes that nobody has

    @Test("Numbers that would overflow are refused")
    func overflow() throws {
        var script = try Script()
        script.refuses(.invalidRequest, .reserveProducerIDs(count: .max))
        let first = try script.ask(.reserveProducerIDs(count: .min))
        let second = try script.ask(.reserveProducerIDs(count: 1000))
        #expect(first == 0 && second == 1)
        try script.create()
        script.refuses(.invalidPartitions, .addPartitions(topic: "t", count: .max, assignments: nil))
        script.refuses(.invalidPartitions, .addPartitions(topic: "t", count: .min, assignments: nil))
    }
}
