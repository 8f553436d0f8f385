// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Partitions: who is in sync, who leads, where they are.
extension ControllerState {
    private func find(_ name: String, _ index: Int32) throws(Refusal) -> (TopicImage, PartitionImage) {
        guard let topic = image.topic(name), topic.partitions.indices.contains(Int(index)) else {
            throw Refusal(code: .unknownTopicOrPartition, message: "there is no \(name)-\(index)")
        }
        return (topic, topic.partitions[Int(index)])
    }

    /// Compare-and-set of the ISR by the leader (trap 4), never with a replica that is fenced (trap 5). A leader that leaves
    /// itself out, since its disk has failed, resigns: another member leads.
    func alter(_ change: PartitionAlteration) throws(Refusal) -> [MetadataRecord] {
        guard let topic = image.topic(change.topicID),
            topic.partitions.indices.contains(Int(change.partition))
        else { throw Refusal(code: .unknownTopicId, message: "there is no topic \(change.topicID)") }
        let now = topic.partitions[Int(change.partition)]
        let name = "\(topic.name)-\(change.partition)"
        guard let broker = image.brokers[change.node], broker.epoch == change.brokerEpoch else {
            throw Refusal(code: .staleBrokerEpoch, message: "node \(change.node) has registered anew")
        }
        guard now.leader == change.node, now.leaderEpoch == change.leaderEpoch else {
            throw Refusal(
                code: .fencedLeaderEpoch,
                message: "\(name) is led by node \(now.leader) in epoch \(now.leaderEpoch)"
            )
        }
        guard
            now.partitionEpoch == change.partitionEpoch
                || PlantedReplicationBugs.planted.contains(.comparesNoPartitionEpoch)
        else {
            throw Refusal(
                code: .invalidUpdateVersion,
                message: "\(name) has changed since: its partition epoch is \(now.partitionEpoch)"
            )
        }
        guard !change.isr.isEmpty, Set(change.isr).count == change.isr.count,
            change.isr.contains(now.leader) || change.isr.allSatisfy({ now.isr.contains($0) }),
            change.isr.allSatisfy({ now.replicas.contains($0) }), change.epochs.count == change.isr.count
        else { throw Refusal(code: .invalidRequest, message: "the ISR \(change.isr) of \(name) is not possible") }
        if let fenced = change.isr.first(where: { !image.isActive($0) }) {
            throw Refusal(code: .ineligibleReplica, message: "node \(fenced) is fenced and cannot be in sync")
        }
        for (member, epoch) in zip(change.isr, change.epochs) {
            // Who is in sync already may not have been heard of in this leader epoch; who is new must have been.
            if epoch == -1 && now.isr.contains(member) { continue }
            // Who has been started since may have lost what it had (KIP-903).
            guard
                image.brokers[member]?.epoch == epoch
                    || PlantedReplicationBugs.planted.contains(.ignoresBrokerEpoch)
            else {
                throw Refusal(code: .ineligibleReplica, message: "node \(member) has registered anew since")
            }
        }
        let resigning = change.isr.contains(now.leader) ? nil : now.leader
        var next = now
        next.partitionEpoch += 1
        next.isr = now.replicas.filter { change.isr.contains($0) }
        if next.isr.count >= topic.minInSync {
            next.elr = []
        } else {
            let left = now.isr.filter { !next.isr.contains($0) }
            next.elr = (now.elr + left).filter { !next.isr.contains($0) && $0 != resigning }
        }
        if resigning != nil, let chosen = next.isr.first {
            next.leader = chosen
            next.leaderEpoch += 1
        }
        complete(&next)
        return [.partitionState(id: topic.id, partition: change.partition, state: next)]
    }

    /// Ends a reassignment whose new replicas are all in sync.
    private func complete(_ partition: inout PartitionImage) {
        guard partition.isMoving else { return }
        let target = partition.replicas.filter { !partition.removingReplicas.contains($0) }
        let added = partition.addingReplicas
        let isEarly = PlantedReplicationBugs.planted.contains(.endsMovesEarly)
        guard isEarly || added.allSatisfy({ partition.isr.contains($0) }),
            isEarly || target.contains(where: { partition.isr.contains($0) })
        else { return }
        if isEarly { partition.isr = target }
        partition.replicas = target
        partition.isr.removeAll { !target.contains($0) }
        partition.elr.removeAll { !target.contains($0) }
        partition.addingReplicas = []
        partition.removingReplicas = []
        guard !target.contains(partition.leader) else { return }
        partition.leader = target.first { partition.isr.contains($0) && image.isActive($0) } ?? -1
        partition.leaderEpoch += 1
    }

    /// Begins, changes or (nil) cancels a move to other nodes.
    func reassign(_ name: String, _ index: Int32, _ replicas: [Int32]?) throws(Refusal) -> [MetadataRecord] {
        let (topic, now) = try find(name, index)
        let current = now.replicas.filter { !now.addingReplicas.contains($0) }
        guard let target = replicas ?? (now.isMoving ? current : nil) else {
            throw Refusal(code: .noReassignmentInProgress, message: "\(name)-\(index) is not being moved")
        }
        if target.isEmpty || Set(target).count != target.count {
            throw Refusal(code: .invalidReplicaAssignment, message: "name each node once, and at least one")
        }
        if let unknown = target.first(where: { image.brokers[$0] == nil }) {
            throw Refusal(code: .invalidReplicaAssignment, message: "there is no node \(unknown)")
        }
        var next = now
        next.addingReplicas = target.filter { !current.contains($0) }
        next.removingReplicas = current.filter { !target.contains($0) }
        next.replicas = target + next.removingReplicas
        next.isr = next.replicas.filter { now.isr.contains($0) }
        next.elr = now.elr.filter { next.replicas.contains($0) }
        guard !next.isr.isEmpty else {
            throw Refusal(
                code: .invalidReplicaAssignment,
                message: "only added replicas of \(name)-\(index) are in sync; let the move end first"
            )
        }
        complete(&next)
        if next.leader != -1, !next.replicas.contains(next.leader) || !next.isr.contains(next.leader) {
            next.leader = next.isr.first { image.isActive($0) } ?? -1
            next.leaderEpoch += 1
        }
        guard next != now else { return [] }
        next.partitionEpoch = now.partitionEpoch + 1
        return [.partitionState(id: topic.id, partition: index, state: next)]
    }

    /// The preferred leader, or any replica at all.
    func electLeader(_ name: String, _ index: Int32, isUnclean: Bool) throws(Refusal) -> [MetadataRecord] {
        let (topic, now) = try find(name, index)
        if isUnclean {
            guard now.leader == -1 else {
                throw Refusal(code: .electionNotNeeded, message: "node \(now.leader) leads \(name)-\(index)")
            }
            guard let chosen = now.replicas.first(where: image.isActive) else {
                throw Refusal(
                    code: .eligibleLeadersNotAvailable,
                    message: "no replica of \(name)-\(index) runs; its nodes are \(now.replicas)"
                )
            }
            var next = now.led(by: chosen)
            next.isr = [chosen]
            next.elr = []
            return [.partitionState(id: topic.id, partition: index, state: next)]
        }
        guard let preferred = now.replicas.first, now.leader != preferred else {
            throw Refusal(code: .electionNotNeeded, message: "the partition has its preferred leader")
        }
        // A registry without brokers is that of a node of its own.
        guard now.isr.contains(preferred), image.isActive(preferred) else {
            throw Refusal(
                code: .preferredLeaderNotAvailable,
                message: "node \(preferred), which \(name)-\(index) prefers, does not run or is not in sync"
            )
        }
        return [.partitionState(id: topic.id, partition: index, state: now.led(by: preferred))]
    }
}
