// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import Logging
    import MDCLog
    import MDCModel

    @testable import MDCBroker

    /// A cluster while it runs: nodes, clients, faults and what must hold. See docs/cluster-simulation.md.
    final class ClusterSimulator {
        /// The topics that are written to and read.
        private(set) var topics: [ClusterTopic] = []
        let seed: UInt64
        let scheduler = ClusterScheduler()
        let network: ClusterNetwork
        let nodes: [ClusterNode]
        var workload: SimulationRandom
        var checker = ClusterChecker()
        /// The node whose disk was emptied last.
        var lastEmptied: Int32?
        private(set) var isHealed = false
        private(set) var failure: String?
        private(set) var lastTrace: [String] = []
        private let onTrace: ((String) -> Void)?
        private let milliseconds: Int
        private let faults: [ClusterFault]
        private(set) var producers: [ClusterProducer] = []
        private(set) var consumers: [ClusterConsumer] = []
        private(set) var transactors: [ClusterTransactor] = []
        var producerIDs: Set<Int64> = []
        /// What operators were told is there.
        var createdTopics: [String] = []
        /// Ends faults that last.
        var healers: [() -> Void] = []
        var counts = ClusterCounts()

        /// - Parameters:
        ///   - kept: the numbers of the faults that happen; nil for all.
        ///   - kinds: those that happen at all; none for all.
        init(seed: UInt64, milliseconds: Int, kept: [Int]?, kinds: [String] = [], onTrace: ((String) -> Void)?) {
            self.seed = seed
            self.milliseconds = milliseconds
            self.onTrace = onTrace
            var random = SimulationRandom(seed: seed)
            network = ClusterNetwork(scheduler, seed: random.next())
            workload = SimulationRandom(seed: random.next())
            let all = ClusterFault.plan(seed: random.next(), microseconds: Int64(milliseconds) * 1000, named: kinds)
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
            // Not every sequence has everything, for all of it takes time.
            let (hasRemade, hasTransactions) = (random.once(in: 2), random.once(in: 2))
            topics = [ClusterTopic(name: Self.mainTopic, partitions: 2)]
            if hasRemade { topics.append(ClusterTopic(name: Self.remadeTopic, partitions: 1)) }
            if hasTransactions {
                topics += [
                    ClusterTopic(name: Self.ledgerTopic, partitions: 2, kind: .ledger),
                    ClusterTopic(name: InternalTopic.transactionState.name, partitions: 2, kind: .coordinators),
                ]
                for number in 1...3 {
                    let isSecond = random.once(in: 2)
                    transactors.append(
                        ClusterTransactor(number: number, isSecond: isSecond, connection: network.connectionID())
                    )
                }
            }
            for topic in topics where topic.kind != .coordinators {
                for index in 0..<(topic.kind == .plain ? topic.partitions * 2 : 0) {
                    producers.append(
                        ClusterProducer(
                            number: producers.count,
                            topic: topic.name,
                            partition: Int32(index % topic.partitions),
                            window: random.pick([1, 1, 2, 4]),
                            connection: network.connectionID()
                        )
                    )
                }
                for index in 0..<topic.partitions {
                    consumers.append(ClusterConsumer(topic: topic.name, partition: Int32(index)))
                }
            }
        }

        static let mainTopic = "orders"
        static let remadeTopic = "visits"
        let topicName = mainTopic
        let partitions = 2

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
            every(20_000) { $0.makeTopics() }
            every(200_000) { $0.tendVoters() }
            for producer in producers { every(25_000) { $0.produce(producer) } }
            for client in transactors { every(30_000) { $0.transact(client) } }
            for consumer in consumers { every(40_000) { $0.consume(consumer) } }
            every(150_000) { $0.look() }
            scheduler.run(until: Int64(milliseconds) * 1000) { failure != nil }
            if failure == nil { recover() }
            if failure != nil { note("! \(failure ?? "")") }
            counts.events = scheduler.count
            counts.acknowledged = checker.acknowledgedCount
            counts.read = checker.readCount
            counts.metadata = checker.metadataCount
            counts.transactions = checker.ledger.committedCount
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
            guard topics.contains(where: { $0.name == topic }), let services = node.services,
                case .found(let partition) = services.registry.find(name: topic, partition: index)
            else { return }
            counts.leaderships += 1
            if node.disk.hasCrashed || node.isFull || !partition.log.damage.isEmpty { return }
            let epoch = partition.leaderEpoch.rawValue
            note("  node \(node.id) leads \(topic)-\(index) in epoch \(epoch), \(partition.log.logEndOffset) records")
            check { checker throws(Wrong) in try checker.checkLeader(node, partition.log, index, epoch) }
        }

        // MARK: Looking

        func check(_ body: (inout ClusterChecker) throws(Wrong) -> Void) {
            guard failure == nil else { return }
            let isUp = nodes.map { !$0.disk.hasCrashed }
            do throws(Wrong) {
                try body(&checker)
            } catch {
                // The look itself may have been the call at which the power was to fail.
                if isUp == nodes.map({ !$0.disk.hasCrashed }) { fail(error.description) }
            }
        }

        func look() { for node in nodes { look(at: node) } }

        private func look(at node: ClusterNode) {
            guard let services = node.services, !node.isClosed else { return }
            check { checker throws(Wrong) in
                try checker.checkMetadata(node)
                for topic in topics {
                    for partition in Int32(0)..<Int32(topic.partitions) {
                        let name = TopicPartition(topic: topic.name, partition: PartitionID(partition))
                        guard let log = services.logs.partition(name), log.damage.isEmpty, !node.disk.hasCrashed,
                            !node.isFull
                        else { continue }
                        try checker.checkLog(node, log, partition)
                    }
                }
            }
        }
    }
#endif
