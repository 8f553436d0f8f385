// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCLog
    import MDCModel

    @testable import MDCBroker

    /// Something that goes wrong at a certain time. What it does follows from its own seed, so that a sequence from which others
    /// were taken away stays what it is.
    struct ClusterFault {
        enum Kind: CaseIterable {
            case kill, powerOfOne, powerOfAll, powerWithinChange, cutOneWay, cutOff, cutPair, slowDisk, slowNetwork
            case lossyNetwork, fullDisk, elect, killLeader, powerOfLeader, newTopic, reassign, wipe
        }

        var number: Int
        /// Microseconds.
        var time: Int64
        var kind: Kind
        var seed: UInt64

        /// The faults of a sequence.
        static func plan(seed: UInt64, microseconds: Int64) -> [ClusterFault] {
            var random = SimulationRandom(seed: seed)
            let pace = random.pick([150_000, 300_000, 600_000])
            // Most sequences have some kinds only, or the frequent ones would hide what the others do.
            let kinds = Kind.allCases.filter { _ in !random.once(in: 3) }
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
            case .wipe:
                // A voter that forgets is no voter: only a node that observes may lose its disk.
                guard let victim = nodes.first(where: { $0.id > 3 }), victim.services != nil else { return }
                note("\(name): node \(victim.id), for \(time / 1000) ms")
                victim.end(power: false, name)
                victim.wipe()
                scheduler.after(time) { [self] in start(victim) }
            case .newTopic:
                let id = TopicID.random(using: &random)
                let topic = NewTopic(name: "extra-\(fault.number)", partitions: 1, replicationFactor: 3)
                ask(.createTopic(topic, id: id, isInternal: false), name, &random) { [self] in
                    createdTopics.append(topic.name)
                }
            }
        }

        private func anyLeader(_ random: inout SimulationRandom) -> ClusterNode? {
            let leaders = network.nodes.filter {
                $0.services?.registry.all.contains { $0.topicPartition.topic == topicName } == true
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
