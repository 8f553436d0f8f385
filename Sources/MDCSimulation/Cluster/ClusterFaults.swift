// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCLog
    import MDCModel

    @testable import MDCBroker

    /// Something that goes wrong at a certain time. What it does follows from its own seed, so that a sequence from which others
    /// were taken away stays what it is.
    struct ClusterFault {
        enum Kind: String, CaseIterable {
            case kill, powerOfOne, powerOfAll, powerWithinChange, cutOneWay, cutOff, cutPair, slowDisk, slowNetwork
            case lossyNetwork, fullDisk, elect, killLeader, powerOfLeader, newTopic, reassign, wipe
            case remake, stopInOrder, rollingRestart, deleteRecords, rot
        }

        var number: Int
        /// Microseconds.
        var time: Int64
        var kind: Kind
        var seed: UInt64

        /// The faults of a sequence; of these kinds alone, where some are named.
        static func plan(seed: UInt64, microseconds: Int64, named: [String]) -> [ClusterFault] {
            var random = SimulationRandom(seed: seed)
            let pace = random.pick([150_000, 300_000, 600_000])
            // Most sequences have some kinds only, or the frequent ones would hide what the others do.
            var kinds = Kind.allCases.filter { _ in !random.once(in: 3) }
            if !named.isEmpty { kinds = named.compactMap { Kind(rawValue: $0) } }
            var faults: [ClusterFault] = []
            var time: Int64 = 1_000_000
            while time < microseconds {
                time += Int64(random.number(in: pace / 5...2 * pace))
                faults.append(
                    ClusterFault(
                        number: faults.count,
                        time: time,
                        kind: kinds.isEmpty ? .kill : random.pick(kinds),
                        seed: random.next()
                    )
                )
            }
            return faults
        }
    }

    extension ClusterSimulator {
        func happen(_ fault: ClusterFault) {
            guard !isHealed else { return }
            var random = SimulationRandom(seed: fault.seed)
            let victim = random.pick(nodes)
            let time = Int64(random.number(in: 40_000...2_500_000))
            let name = "fault \(fault.number): \(fault.kind)"
            switch fault.kind {
            case .kill: stop(victim, power: false, for: time, name)
            case .powerOfOne: stop(victim, power: true, for: time, name)
            case .killLeader, .powerOfLeader:
                guard let leader = anyLeader(&random) else { return }
                stop(leader, power: fault.kind == .powerOfLeader, for: time, name)
            case .powerOfAll:
                for node in nodes { stop(node, power: true, for: Int64(random.number(in: 20_000...900_000)), name) }
            case .powerWithinChange:
                guard victim.services != nil else { return }
                let changes = random.below(40)
                note("\(name): node \(victim.id), at its change \(changes)")
                victim.disk.crashAfter(changes: changes)
            case .cutOneWay, .cutPair:
                let other = random.pick(nodes.filter { $0.id != victim.id })
                let cuts = [[victim.id, other.id]] + (fault.kind == .cutPair ? [[other.id, victim.id]] : [])
                cut(cuts, for: time, name)
            case .cutOff:
                let others = nodes.filter { $0.id != victim.id }.map(\.id) + (random.once(in: 2) ? [-1] : [])
                let way = random.below(3)
                cut(
                    others.flatMap { (way != 1 ? [[victim.id, $0]] : []) + (way != 2 ? [[$0, victim.id]] : []) },
                    for: time,
                    name
                )
            case .slowDisk, .slowNetwork, .lossyNetwork, .fullDisk:
                disturb(fault.kind, victim, for: time, name, &random)
            case .elect:
                let partition = Int32(random.below(partitions))
                ask(.electLeader(topic: topicName, partition: partition, isUnclean: false), name, &random)
            case .reassign:
                let partition = Int32(random.below(partitions))
                var replicas = nodes.map(\.id).shuffled(using: &random)
                // An emptied disk must not have been the only one.
                replicas.removeLast(random.below(nodes.count - 1))
                let name = "\(name) of \(partition) to \(replicas)"
                ask(.reassign(topic: topicName, partition: partition, replicas: replicas), name, &random)
            case .wipe: empty(victim, for: time, name)
            case .remake: remake(victim, for: time, name, &random)
            case .stopInOrder: stopInOrder(victim, for: time, name, then: {})
            case .rollingRestart:
                note("\(name)")
                rollingRestart(nodes.shuffled(using: &random)[...], name)
            case .deleteRecords: deleteRecords(name, &random)
            case .rot: rot(victim, for: time, name, &random)
            case .newTopic:
                let id = TopicID.random(using: &random)
                let topic = NewTopic(name: "extra-\(fault.number)", partitions: 1, replicationFactor: 3)
                ask(.createTopic(topic, id: id, isInternal: false), name, &random) { [self] in
                    createdTopics.append(topic.name)
                }
            }
        }

        /// Disks and networks that are slow, lossy or full for a while.
        private func disturb(
            _ kind: ClusterFault.Kind,
            _ victim: ClusterNode,
            for time: Int64,
            _ name: String,
            _ random: inout SimulationRandom
        ) {
            switch kind {
            case .slowDisk:
                note("\(name): node \(victim.id), for \(time / 1000) ms")
                victim.syncDelay = 20_000...random.pick([100_000, 400_000, 1_500_000])
                heal(after: time) { victim.syncDelay = 300...6_000 }
            case .slowNetwork:
                note("\(name), for \(time / 1000) ms")
                network.delay = random.pick([20_000, 60_000, 200_000])
                heal(after: time) { [network] in network.delay = 1_500 }
            case .lossyNetwork:
                note("\(name), for \(time / 1000) ms")
                (network.lost, network.doubled) = (random.pick([20, 100, 300]), random.pick([0, 50, 200]))
                heal(after: time) { [network] in (network.lost, network.doubled) = (0, 0) }
            case .fullDisk:
                note("\(name): node \(victim.id), for \(time / 1000) ms")
                let calls: Set<SimulatedDisk.Call> = [.write, .allocate, .open, .makeDirectory]
                victim.disk.setFault(.init(kind: .noSpace, after: random.below(10), count: .max, calls: calls))
                victim.isFull = true
                heal(after: time) {
                    victim.disk.setFault(nil)
                    victim.isFull = false
                }
            default: break
            }
        }

        // MARK: Disks and topics that go

        /// A node comes back with an empty disk, a little later.
        private func empty(_ victim: ClusterNode, for time: Int64, _ name: String) {
            guard victim.services != nil, mayLoseDisk(of: victim) else { return }
            note("\(name): node \(victim.id), for \(time / 1000) ms")
            victim.end(power: false, name)
            victim.wipe()
            lastEmptied = victim.id
            scheduler.after(time) { [self] in start(victim) }
        }

        /// A topic is deleted, often while a node is down, which finds another one of the name when it comes back.
        private func remake(_ victim: ClusterNode, for time: Int64, _ name: String, _ random: inout SimulationRandom) {
            guard let id = network.nodes.first?.services?.store.image.topic(Self.remadeTopic)?.id else { return }
            if random.once(in: 2) { stop(victim, power: random.once(in: 2), for: time, name) }
            ask(.deleteTopic(id: id), "\(name): the topic is deleted", &random)
        }

        private func deleteRecords(_ name: String, _ random: inout SimulationRandom) {
            let topic = random.pick(topics.filter { $0.kind == .plain })
            let partition = Int32(random.below(topic.partitions))
            let leaders = network.nodes.filter { node in
                node.services?.registry.all.contains {
                    $0.topicPartition == TopicPartition(topic: topic.name, partition: PartitionID(partition))
                } == true
            }
            guard !leaders.isEmpty else { return }
            let node = random.pick(leaders)
            guard let services = node.services, let id = services.store.image.topic(topic.name)?.id,
                let ends = node.server?.offsets(id, partition), let end = ends.end, end > ends.start
            else { return }
            let offset = ends.start + 1 + Int64(random.below(Int(end - ends.start)))
            note("\(name): those of \(topic.name)-\(partition) before \(offset), of node \(node.id)")
            checker.deletes(id, partition, before: offset)
            let me = Unsafe(self)
            node.perform {
                node.server?.deleteRecords(id, partition, before: offset) { result in
                    guard case .success(let start) = result else { return }
                    me.value.note("  the records before \(start) are deleted")
                    me.value.checker.deleted(id, partition, before: start.rawValue)
                }
            }
        }

        /// A bit of a sealed segment flips at rest, while the node runs or not; scrubbing finds it.
        private func rot(_ victim: ClusterNode, for time: Int64, _ name: String, _ random: inout SimulationRandom) {
            guard victim.services != nil, !victim.isLeaving, !victim.isFull, mayLoseDisk(of: victim) else { return }
            let topic = random.pick(topics.filter { $0.kind != .coordinators })
            let folder = "/\(topic.name)-\(random.below(topic.partitions))/"
            // Segments get their footers; what rots before that only checksums of batches can tell.
            victim.perform { _ = victim.services?.logs.runScrub() }
            let files = Set(victim.disk.files().map(\.path))
            let segments = files.filter { path in
                path.contains(folder) && path.hasSuffix(".log") && files.contains(String(path.dropLast(4)) + ".footer")
            }
            guard victim.services != nil, !segments.isEmpty else { return }
            let wanted = random.pick(segments.sorted())
            let isDown = random.once(in: 2)
            if isDown { victim.end(power: random.once(in: 2), name) }
            guard let place = victim.disk.flipBit({ $0 == wanted }) else { return }
            note("\(name): node \(victim.id), \(place)\(isDown ? ", down for \(time / 1000) ms" : "")")
            lastEmptied = victim.id
            let scrub = { [self] in
                start(victim)
                victim.perform { _ = victim.services?.logs.runScrub() }
            }
            if isDown { scheduler.after(time, scrub) } else { scrub() }
        }

        // MARK: Orderly stops

        private func stopInOrder(_ node: ClusterNode, for time: Int64, _ name: String, then: @escaping () -> Void) {
            guard node.services != nil, !node.isLeaving else { return then() }
            note("\(name): node \(node.id), for \(time / 1000) ms")
            let run = node.run
            node.stopInOrder("in order")
            waitForEnd(of: node, run) { [self] in
                scheduler.after(time) { [self] in
                    start(node)
                    then()
                }
            }
        }

        private func waitForEnd(of node: ClusterNode, _ run: UInt64, _ body: @escaping () -> Void) {
            scheduler.after(10_000) { [self] in
                if node.services == nil || node.run != run { return body() }
                waitForEnd(of: node, run, body)
            }
        }

        /// One after the other, each when the one before takes part again.
        private func rollingRestart(_ rest: ArraySlice<ClusterNode>, _ name: String) {
            guard let node = rest.first, !isHealed else { return }
            stopInOrder(node, for: 50_000, name) { [self] in
                waitForService(of: node) { [self] in rollingRestart(rest.dropFirst(), name) }
            }
        }

        private func waitForService(of node: ClusterNode, _ body: @escaping () -> Void) {
            scheduler.after(50_000) { [self] in
                if isHealed { return }
                if node.services?.membership.isActive == true { return body() }
                waitForService(of: node, body)
            }
        }

        private func anyLeader(_ random: inout SimulationRandom) -> ClusterNode? {
            let leaders = network.nodes.filter {
                $0.services?.registry.all.contains { partition in
                    topics.contains { $0.name == partition.topicPartition.topic }
                } == true
            }
            return leaders.isEmpty ? nil : random.pick(leaders)
        }

        private func heal(after time: Int64, _ body: @escaping () -> Void) {
            scheduler.after(time, body)
            healers.append(body)
        }

        private func cut(_ cuts: [[Int32]], for time: Int64, _ name: String) {
            note("\(name): \(cuts.map { "\($0[0])→\($0[1])" }.joined(separator: " ")), for \(time / 1000) ms")
            for cut in cuts { network.cuts.insert(cut) }
            scheduler.after(time) { [network] in for cut in cuts { network.cuts.remove(cut) } }
        }

        private func stop(_ node: ClusterNode, power: Bool, for time: Int64, _ name: String) {
            guard node.services != nil else { return }
            note("\(name): node \(node.id), for \(time / 1000) ms")
            node.end(power: power, name)
            scheduler.after(time) { [self] in start(node) }
        }

        /// A change that an operator wants, once, of any node.
        private func ask(
            _ change: ControllerChange,
            _ name: String,
            _ random: inout SimulationRandom,
            done: @escaping () -> Void = {}
        ) {
            guard !network.nodes.isEmpty else { return }
            let node = random.pick(network.nodes)
            note("\(name), asked of node \(node.id)")
            let whenDone = Unsafe(done)
            node.perform {
                node.services?.quorum.submit(change) { answer in
                    if case .done = answer { whenDone.value() }
                }
            }
        }
    }
#endif
