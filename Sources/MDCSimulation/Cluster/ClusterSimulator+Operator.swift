// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import MDCModel
    import MDCRaft

    @testable import MDCBroker

    /// A topic that clients use.
    final class ClusterTopic {
        enum Kind { case plain, ledger, coordinators }

        let name: String
        let partitions: Int
        let kind: Kind
        var isAsking = false

        init(name: String, partitions: Int, kind: Kind = .plain) {
            self.name = name
            self.partitions = partitions
            self.kind = kind
        }
    }

    /// What an operator does, whatever else happens: makes the topics that clients want, and mends what only operators can.
    extension ClusterSimulator {
        /// The services of the node that leads the quorum by the newest epoch.
        var activeController: (node: ClusterNode, services: ClusterNode.Services)? {
            nodes.compactMap { node in node.services.map { (node, $0) } }
                .filter { $0.1.quorum.controller != nil }
                .max { $0.1.quorum.node.status.softState.epoch < $1.1.quorum.node.status.softState.epoch }
        }

        func makeTopics() {
            guard !network.nodes.isEmpty else { return }
            for topic in topics where !topic.isAsking {
                let node = workload.pick(network.nodes)
                guard let services = node.services, services.store.image.topic(topic.name) == nil,
                    // Until all have registered there are too few nodes for three replicas.
                    services.store.image.brokers.values.filter({ !$0.isFenced }).count == nodes.count
                else { continue }
                topic.isAsking = true
                var new = NewTopic(name: topic.name, partitions: Int32(topic.partitions), replicationFactor: 3)
                let isInternal = topic.kind == .coordinators
                if isInternal { new.configs = ["cleanup.policy": "compact"] }
                let id = TopicID.random(using: &workload)
                let asked = Unsafe(topic)
                node.perform {
                    services.quorum.submit(.createTopic(new, id: id, isInternal: isInternal)) { _ in
                        asked.value.isAsking = false
                    }
                }
                scheduler.after(6_000_000) { topic.isAsking = false }
            }
        }

        /// A voter whose disk was emptied is taken out, and comes in again with the disk that it has now.
        func tendVoters() {
            guard let (controller, services) = activeController else { return }
            let status = services.quorum.node.status
            guard status.isMembershipCommitted else { return }
            for voter in status.membership.voters where voter.isPinned {
                let node = nodes.first { $0.id == voter.node.rawValue }
                guard let directory = node?.directory, directory != voter.directory else { continue }
                note("voter \(voter) is taken out")
                let old = QuorumMember(node: voter.node.rawValue, directory: voter.directory)
                return controller.perform { services.quorum.submit(.removeVoter(old)) { _ in } }
            }
            for id in Int32(1)...3 where !status.membership.voters.contains(where: { $0.node.rawValue == id }) {
                guard let directory = nodes.first(where: { $0.id == id })?.directory,
                    status.membership.observers.contains(RaftReplica(node: BrokerID(id), directory: directory))
                else { continue }
                note("node \(id) is to vote again")
                let new = QuorumMember(node: id, directory: directory)
                return controller.perform { services.quorum.submit(.addVoter(new)) { _ in } }
            }
        }

        /// Whether a disk may be lost now: what was lost before has been made up for, and the quorum knows its voters' disks.
        func mayLoseDisk(of victim: ClusterNode) -> Bool {
            guard let (_, services) = activeController else { return false }
            let status = services.quorum.node.status
            guard status.isMembershipCommitted else { return false }
            for id in Int32(1)...3 {
                guard let node = nodes.first(where: { $0.id == id }), let directory = node.directory,
                    let own = node.services?.quorum.node.status,
                    own.softState.epoch <= status.softState.epoch, own.applied > 0
                else { return false }
                let member = RaftReplica(node: BrokerID(id), directory: directory)
                guard status.membership.voters.contains(member), own.membership.voters.contains(member),
                    own.membership.voters.allSatisfy(\.isPinned)
                else { return false }
            }
            guard let last = lastEmptied, last != victim.id else { return true }
            return services.store.image.topics.values.allSatisfy { topic in
                topic.partitions.allSatisfy { $0.isr.count == $0.replicas.count && !$0.isMoving }
            }
        }
    }
#endif
