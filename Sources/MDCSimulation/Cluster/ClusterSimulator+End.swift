// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCLog
    import MDCModel
    import MDCRaft

    @testable import MDCBroker

    /// After healing: what the cluster must come to by itself.
    extension ClusterSimulator {
        /// Moves end where each partition has three replicas again.
        func restoreReplicas() {
            guard let (node, services) = activeController else { return }
            for topic in topics.compactMap({ services.store.image.topic($0.name) }) {
                for (index, state) in topic.partitions.enumerated() where state.replicas.count != 3 || state.isMoving {
                    let target = state.replicas.filter { !state.removingReplicas.contains($0) }
                    guard target.count != 3 else { continue }
                    let change = ControllerChange.reassign(
                        topic: topic.name,
                        partition: Int32(index),
                        replicas: [1, 2, 3]
                    )
                    node.perform { services.quorum.submit(change) { _ in } }
                }
            }
        }

        /// Why the cluster is not yet as it should be.
        func unsettled() -> String? {
            let image = nodes[0].services?.store.image
            for node in nodes {
                guard let services = node.services else { return "node \(node.id) does not run" }
                guard services.membership.isActive else { return "node \(node.id) is fenced" }
                guard services.store.image.topics == image?.topics, services.store.image.brokers == image?.brokers
                else {
                    return "nodes 1 and \(node.id) know different metadata"
                }
            }
            let voters = activeController?.services.quorum.node.status.membership.voters ?? []
            for id in Int32(1)...3 where !voters.contains(where: { $0.node.rawValue == id }) {
                return "node \(id) does not vote"
            }
            for producer in producers where producer.id == nil || !producer.batches.isEmpty {
                return
                    "producer \(producer.number) has \(producer.batches.count) batches that are not acknowledged, the first "
                    + "is \(producer.batches.first?.values.first ?? "none"), target \(producer.batches.first?.target ?? [])"
            }
            for client in transactors where client.transaction != nil {
                return "producer \(client.id) has not ended its transaction"
            }
            for topic in topics {
                guard let known = image?.topic(topic.name) else { return "there is no topic \(topic.name)" }
                for (index, state) in known.partitions.enumerated() {
                    if let problem = unsettled(known, Int32(index), state) {
                        return "\(topic.name)-\(index) \(problem)"
                    }
                }
            }
            return nil
        }

        private func unsettled(_ topic: TopicImage, _ index: Int32, _ state: PartitionImage) -> String? {
            guard state.leader >= 0, state.isr.count == 3, !state.isMoving else {
                return "has the leader \(state.leader) and \(state.isr) in sync"
            }
            let logs = state.replicas.compactMap { log(of: $0, topic.name, index) }
            guard let leader = log(of: state.leader, topic.name, index), logs.count == state.replicas.count else {
                return "has no log on some of \(state.replicas)"
            }
            guard logs.allSatisfy(\.damage.isEmpty) else { return "is damaged" }
            for log in logs
            where log.logEndOffset != leader.logEndOffset || log.highWatermark != leader.logEndOffset {
                return "ends at \(logs.map(\.logEndOffset)), high watermarks \(logs.map(\.highWatermark))"
            }
            // A deletion that nobody was told of may be on some replicas only, but not on the leader alone.
            guard logs.allSatisfy({ $0.logStartOffset >= leader.logStartOffset }) else {
                return "begins at \(logs.map(\.logStartOffset))"
            }
            guard leader.lastStableOffset == leader.logEndOffset else {
                return "ends at \(leader.logEndOffset), and is stable to \(leader.lastStableOffset) only"
            }
            for consumer in consumers where consumer.topicName == topic.name && consumer.partition == index {
                guard consumer.place.topic == topic.id, consumer.position == leader.logEndOffset.rawValue else {
                    return "has a consumer at \(consumer.position) of \(leader.logEndOffset)"
                }
            }
            return nil
        }

        private func log(of node: Int32, _ topic: String, _ partition: Int32) -> PartitionLog? {
            nodes.first { $0.id == node }?.services?.logs
                .partition(TopicPartition(topic: topic, partition: PartitionID(partition)))
        }

        /// What must be true at the end.
        func compare() {
            look()
            guard let image = nodes[0].services?.store.image else { return }
            for name in createdTopics where image.topic(name) == nil {
                return fail("the topic \(name) was made, and is not there")
            }
            for topic in topics.compactMap({ image.topic($0.name) }) {
                for (index, state) in topic.partitions.enumerated() {
                    let replicas = nodes.filter { state.replicas.contains($0.id) }.compactMap { node in
                        log(of: node.id, topic.name, Int32(index)).map { (node, $0) }
                    }
                    if let (node, log) = replicas.first(where: { $0.1.topicID != topic.id }) {
                        return fail("\(topic.name)-\(index) on node \(node.id) is that of the topic \(log.topicID)")
                    }
                    // Each replica compacts by itself.
                    if replicas.contains(where: { $0.1.settings.isCompacted }) { continue }
                    check { checker throws(Wrong) in try checker.checkReplicas(replicas, Int32(index)) }
                }
            }
            check { checker throws(Wrong) in try checker.checkLedger() }
        }
    }
#endif
