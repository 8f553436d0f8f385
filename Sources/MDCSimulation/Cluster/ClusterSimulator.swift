// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import Logging
    import MDCLog
    import MDCModel

    @testable import MDCBroker

    /// A cluster while it runs: nodes, clients, faults and what must hold. See docs/cluster-simulation.md.
    final class ClusterSimulator {
        let topicName = "orders"
        let partitions = 2
        let seed: UInt64
        let scheduler = ClusterScheduler()
        let network: ClusterNetwork
        let nodes: [ClusterNode]
        var workload: SimulationRandom
        var checker = ClusterChecker()
        private(set) var isHealed = false
        private(set) var failure: String?
        private(set) var lastTrace: [String] = []
        private let onTrace: ((String) -> Void)?
        private let milliseconds: Int
        private let faults: [ClusterFault]
        private var producers: [ClusterProducer] = []
        private var consumers: [ClusterConsumer] = []
        private var isAskingForTopic = false
        var producerIDs: Set<Int64> = []
        /// What operators were told is there.
        var createdTopics: [String] = []
        /// Ends faults that last.
        var healers: [() -> Void] = []
        private(set) var counts = ClusterCounts()

        /// - Parameter kept: the numbers of the faults that happen; nil for all.
        init(seed: UInt64, milliseconds: Int, kept: [Int]?, onTrace: ((String) -> Void)?) {
            self.seed = seed
            self.milliseconds = milliseconds
            self.onTrace = onTrace
            var random = SimulationRandom(seed: seed)
            network = ClusterNetwork(scheduler, seed: random.next())
            workload = SimulationRandom(seed: random.next())
            let all = ClusterFault.plan(seed: random.next(), microseconds: Int64(milliseconds) * 1000)
            faults = kept.map { kept in all.filter { kept.contains($0.number) } } ?? all
            let segmentBytes = random.pick([600, 2_000, 20_000])
            var made: [ClusterNode] = []
            // Three that vote, and in some sequences one that only has data.
            for id in Int32(1)...(random.once(in: 3) ? 4 : 3) {
                made.append(
                    ClusterNode(
                        id: id,
                        voters: [1, 2, 3],
                        network: network,
                        segmentBytes: segmentBytes,
                        seed: random.next()
                    )
                )
            }
            nodes = made
            for index in 0..<partitions * 2 {
                producers.append(
                    ClusterProducer(
                        number: index,
                        partition: Int32(index % partitions),
                        window: random.pick([1, 1, 2, 4]),
                        connection: network.connectionID()
                    )
                )
            }
            for index in 0..<partitions { consumers.append(ClusterConsumer(partition: Int32(index))) }
        }

        var faultNumbers: [Int] { faults.map(\.number) }

        func note(_ text: @autoclosure () -> String) {
            let line = "\(scheduler.now / 1000).\(scheduler.now % 1000 / 100) \(text())"
            onTrace?(line)
            lastTrace.append(line)
            if lastTrace.count > 400 { lastTrace.removeFirst(200) }
        }

        func fail(_ what: String) {
            if failure == nil { failure = what }
        }

        /// What is too much for the end of the trace.
        func onlyTrace(_ text: @autoclosure () -> String) { onTrace?("\(scheduler.now / 1000) \(text())") }

        // MARK: Running

        func run() {
            for node in nodes {
                let id = node.id
                node.whenEnding = { [unowned self] in ending($0, $1) }
                node.whenLeading = { [unowned self] in leading($0, $1, $2) }
                node.log = { [unowned self] level, text in
                    if level >= .info { note("  node \(id): \(text)") }
                }
                start(node)
            }
            for fault in faults {
                scheduler.at(fault.time) { [unowned self] in
                    counts.faults += 1
                    happen(fault)
                }
            }
            every(20_000) { $0.makeTopic() }
            for producer in producers { every(25_000) { $0.produce(producer) } }
            for consumer in consumers { every(40_000) { $0.consume(consumer) } }
            every(150_000) { $0.look() }
            scheduler.run(until: Int64(milliseconds) * 1000) { failure != nil }
            if failure == nil { recover() }
            if failure != nil { note("! \(failure ?? "")") }
            counts.events = scheduler.count
            counts.acknowledged = checker.acknowledgedCount
            counts.read = checker.readCount
            counts.metadata = checker.metadataCount
            for node in nodes {
                node.whenEnding = { _, _ in }
                node.end(power: true, "the end")
            }
            scheduler.clear()
            healers = []
        }

        private func every(_ microseconds: Int, _ body: @escaping (ClusterSimulator) -> Void) {
            scheduler.after(Int64(microseconds / 2 + workload.below(microseconds))) { [unowned self] in
                body(self)
                every(microseconds, body)
            }
        }

        /// Faults are over: everything must come right by itself.
        private func recover() {
            note("healing")
            isHealed = true
            network.cuts = []
            (network.lost, network.doubled, network.delay) = (0, 0, 1_500)
            for node in nodes {
                node.disk.setFault(nil)
                node.disk.crashAfter(changes: nil)
                node.syncDelay = 300...6_000
            }
            for heal in healers { heal() }
            for node in nodes { start(node) }
            let end = scheduler.now + 60_000_000
            var problem: String?
            while failure == nil, scheduler.now < end {
                scheduler.run(until: scheduler.now + 250_000) { failure != nil }
                restoreReplicas()
                problem = unsettled()
                if problem == nil { break }
            }
            if failure != nil { return }
            if let problem { return fail("60 s after healing \(problem)") }
            compare()
        }

        /// Moves end where each partition has three replicas again.
        private func restoreReplicas() {
            for node in nodes {
                guard let services = node.services, services.quorum.controller != nil,
                    let topic = services.store.image.topic(topicName)
                else { continue }
                for (index, state) in topic.partitions.enumerated() where state.replicas.count != 3 || state.isMoving {
                    let target = state.replicas.filter { !state.removingReplicas.contains($0) }
                    guard target.count != 3 else { continue }
                    let change = ControllerChange.reassign(
                        topic: topicName,
                        partition: Int32(index),
                        replicas: [1, 2, 3]
                    )
                    node.perform { services.quorum.submit(change) { _ in } }
                }
            }
        }

        /// Why the cluster is not yet as it should be.
        private func unsettled() -> String? {
            guard createdAt != nil else { return "the topic could not be made" }
            let image = nodes[0].services?.store.image
            guard let topic = image?.topic(topicName) else { return "node 1 does not know the topic" }
            for node in nodes {
                guard let services = node.services else { return "node \(node.id) does not run" }
                guard services.membership.isActive else { return "node \(node.id) is fenced" }
                guard services.store.image.topics == image?.topics, services.store.image.brokers == image?.brokers
                else {
                    return "nodes 1 and \(node.id) know different metadata"
                }
            }
            for producer in producers where producer.id == nil || !producer.batches.isEmpty {
                return
                    "producer \(producer.number) has \(producer.batches.count) batches that are not acknowledged, the first "
                    + "is \(producer.batches.first?.values.first ?? "none"), target \(producer.batches.first?.target ?? [])"
            }
            for (index, state) in topic.partitions.enumerated() {
                guard state.leader >= 0, state.isr.count == 3, !state.isMoving else {
                    return "partition \(index) has the leader \(state.leader) and \(state.isr) in sync"
                }
                let logs = state.replicas.compactMap { log(of: $0, Int32(index)) }
                guard let leader = log(of: state.leader, Int32(index)), logs.count == state.replicas.count else {
                    return "partition \(index) has no log on some of \(state.replicas)"
                }
                for log in logs
                where log.logEndOffset != leader.logEndOffset || log.highWatermark != leader.logEndOffset {
                    return
                        "partition \(index) ends at \(logs.map(\.logEndOffset)), high watermarks \(logs.map(\.highWatermark))"
                }
                for consumer in consumers where consumer.partition == Int32(index) {
                    guard consumer.position == leader.logEndOffset.rawValue else {
                        return "the consumer of partition \(index) is at \(consumer.position) of \(leader.logEndOffset)"
                    }
                }
            }
            return nil
        }

        private func log(of node: Int32, _ partition: Int32) -> PartitionLog? {
            nodes.first { $0.id == node }?.services?.logs
                .partition(TopicPartition(topic: topicName, partition: PartitionID(partition)))
        }

        /// What must be true at the end.
        private func compare() {
            look()
            guard let topic = nodes[0].services?.store.image.topic(topicName) else { return }
            for name in createdTopics where nodes[0].services?.store.image.topic(name) == nil {
                return fail("the topic \(name) was made, and is not there")
            }
            for (index, state) in topic.partitions.enumerated() {
                let replicas = nodes.filter { state.replicas.contains($0.id) }.compactMap { node in
                    log(of: node.id, Int32(index)).map { (node, $0) }
                }
                check { checker throws(Wrong) in try checker.checkReplicas(replicas, Int32(index)) }
            }
        }

        // MARK: Nodes

        func start(_ node: ClusterNode) {
            guard node.services == nil, failure == nil else { return }
            counts.starts += 1
            do {
                try node.start()
                note("node \(node.id) starts, run \(node.run)")
            } catch {
                fail("node \(node.id) cannot start: \(error)")
            }
        }

        private func ending(_ node: ClusterNode, _ reason: String) {
            counts.ends += 1
            look(at: node)
            note("node \(node.id) ends: \(reason)")
            let (id, run) = (node.id, node.run)
            let isPower = node.disk.hasCrashed
            if isPower, !isHealed {
                // Nobody else starts a machine whose power failed by itself.
                scheduler.after(Int64(200_000 + workload.below(1_000_000))) { [unowned self] in start(node) }
            }
            for other in nodes where other.id != id {
                tellOfEnd(of: id, run, to: other, after: Int64(500 + workload.below(20_000)), isPower: isPower)
            }
        }

        /// Others notice that a process is gone: its machine resets connections, and refuses new ones.
        private func tellOfEnd(of id: Int32, _ run: UInt64, to other: ClusterNode, after delay: Int64, isPower: Bool) {
            scheduler.after(delay) { [unowned self] in
                guard !network.isCut(id, other.id), !network.isCut(other.id, id) else { return }
                other.perform { other.transport?.lost(id) }
                guard nodes.first(where: { $0.id == id })?.services == nil, !isPower else { return }
                other.perform { other.services?.quorum.isGone(id) }
                tellOfEnd(of: id, run, to: other, after: Int64(25_000 + workload.below(450_000)), isPower: false)
            }
        }

        private func leading(_ node: ClusterNode, _ topic: String, _ index: Int32) {
            guard topic == topicName, let services = node.services,
                case .found(let partition) = services.registry.find(name: topic, partition: index)
            else { return }
            counts.leaderships += 1
            if node.disk.hasCrashed || node.isFull { return }
            let epoch = partition.leaderEpoch.rawValue
            note("  node \(node.id) leads partition \(index) in epoch \(epoch), \(partition.log.logEndOffset) records")
            check { checker throws(Wrong) in try checker.checkLeader(node, partition.log, index, epoch) }
        }

        // MARK: Looking

        private func check(_ body: (inout ClusterChecker) throws(Wrong) -> Void) {
            guard failure == nil else { return }
            let isUp = nodes.map { !$0.disk.hasCrashed }
            do throws(Wrong) {
                try body(&checker)
            } catch {
                // The look itself may have been the call at which the power was to fail.
                if isUp == nodes.map({ !$0.disk.hasCrashed }) { fail(error.description) }
            }
        }

        private func look() { for node in nodes { look(at: node) } }

        private func look(at node: ClusterNode) {
            guard let services = node.services else { return }
            check { checker throws(Wrong) in
                try checker.checkMetadata(node)
                for partition in Int32(0)..<Int32(partitions) {
                    let name = TopicPartition(topic: topicName, partition: PartitionID(partition))
                    guard let log = services.logs.partition(name), !node.disk.hasCrashed, !node.isFull else { continue }
                    try checker.checkLog(node, log, partition)
                }
            }
        }

        // MARK: The topic

        private var createdAt: Int64?

        private func makeTopic() {
            guard createdAt == nil, !isAskingForTopic, !network.nodes.isEmpty else { return }
            let node = workload.pick(network.nodes)
            guard let services = node.services else { return }
            if services.store.image.topic(topicName) != nil {
                createdAt = scheduler.now
                return
            }
            // Until all have registered there are too few nodes for three replicas.
            guard services.store.image.brokers.values.filter({ !$0.isFenced }).count == nodes.count else {
                return
            }
            isAskingForTopic = true
            let new = NewTopic(name: topicName, partitions: Int32(partitions), replicationFactor: 3)
            let id = TopicID.random(using: &workload)
            let me = Unsafe(self)
            node.perform {
                services.quorum.submit(.createTopic(new, id: id, isInternal: false)) { _ in
                    me.value.isAskingForTopic = false
                }
            }
            scheduler.after(6_000_000) { [unowned self] in isAskingForTopic = false }
        }
    }
#endif
