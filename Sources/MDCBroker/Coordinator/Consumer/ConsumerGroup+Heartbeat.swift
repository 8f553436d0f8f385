// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// The one request of the consumer protocol.
extension ConsumerGroup {
    /// One heartbeat on its way through the group.
    struct Heartbeat {
        var request: ConsumerGroupHeartbeatRequest
        var origin: RequestOrigin
        /// The member's id: its own, or the one that it is given (version 0).
        var memberID: String
        var now: CoordinatorTime
        var settings: GroupSettings
        var image: GroupTopicImage

        /// What the member says it has; nil where it does not say.
        var owned: PartitionSet? {
            request.topicPartitions.map { PartitionSet($0.map { ($0.topicId, $0.partitions) }) }
        }
        var isJoin: Bool { request.memberEpoch == 0 }
    }

    mutating func heartbeat(
        _ beat: Heartbeat,
        _ out: inout CoordinatorResult
    ) -> ConsumerGroupHeartbeatResponse {
        let (code, found) = member(for: beat, &out)
        guard var member = found else { return .refusal(code) }
        let before = members[member.id]
        let changedSubscription = update(&member, beat)
        member.sessionDeadline = beat.now.monotonic + Int64(beat.settings.consumerSessionTimeout)
        if before.map({ !$0.saysSame(as: member) }) ?? true {
            out.records.append(.consumerMember(id, member.id, member.metadataValue))
            out.changesGroups = true
        }
        put(member)
        assignAnew(beat.image, force: changedSubscription || before == nil, &out)
        let assignedBefore = before?.assigned
        reconcile(&member, owned: beat.owned, beat.now)
        if before.map({ !$0.hasSame(as: member) }) ?? true {
            out.records.append(.currentMember(id, member.id, member.currentValue))
            out.changesGroups = true
        }
        put(member)
        var response = ConsumerGroupHeartbeatResponse(
            memberId: member.id,
            memberEpoch: member.epoch,
            heartbeatIntervalMs: beat.settings.consumerHeartbeatInterval
        )
        // A member that joins or tells its whole state gets the whole answer; others only what changed.
        if beat.isJoin || beat.request.isFull || assignedBefore != member.assigned {
            response.assignment = .init(
                topicPartitions: member.assigned.sorted.map { .init(topicId: $0.topic, partitions: $0.partitions) }
            )
        }
        return response
    }

    // MARK: Who

    /// The member that the heartbeat speaks for, or why there is none.
    private mutating func member(
        for beat: Heartbeat,
        _ out: inout CoordinatorResult
    ) -> (ErrorCode, ConsumerMember?) {
        let request = beat.request
        if let instanceID = request.instanceId {
            guard let presentID = staticMembers[instanceID], let present = members[presentID] else {
                return beat.isJoin ? admit(beat) : (.unknownMemberId, nil)
            }
            if presentID != beat.memberID {
                guard beat.isJoin else { return (.fencedInstanceId, nil) }
                // The classic protocol has no word for going away for a moment.
                guard present.epoch == -2 || present.classic != nil else { return (.unreleasedInstanceId, nil) }
                return (.none, replace(present, beat, &out))
            }
        }
        guard let member = members[beat.memberID] else {
            return beat.isJoin ? admit(beat) : (.unknownMemberId, nil)
        }
        if beat.isJoin { return (.none, rejoined(member)) }
        if request.memberEpoch > member.epoch { return (.fencedMemberEpoch, nil) }
        if request.memberEpoch < member.epoch {
            // The answer that raised the epoch may have been lost; then the member has no more than it was given.
            guard request.memberEpoch == member.previousEpoch, let owned = beat.owned,
                owned.isSubset(of: member.assigned)
            else { return (.fencedMemberEpoch, nil) }
        }
        return (.none, member)
    }

    private func admit(_ beat: Heartbeat) -> (ErrorCode, ConsumerMember?) {
        if members.count >= Int(beat.settings.consumerMaxSize) { return (.groupMaxSizeReached, nil) }
        var member = ConsumerMember(id: beat.memberID)
        member.instanceID = beat.request.instanceId
        return (.none, member)
    }

    /// A member that starts over owns nothing, whatever we thought.
    private func rejoined(_ member: ConsumerMember) -> ConsumerMember {
        var member = member
        member.epoch = 0
        member.previousEpoch = 0
        member.state = .stable
        member.assigned = PartitionSet()
        member.pendingRevocation = PartitionSet()
        member.revocationDeadline = .max
        return member
    }

    /// A static member comes back under a new id and takes over what the old one was meant to have.
    private mutating func replace(
        _ old: ConsumerMember,
        _ beat: Heartbeat,
        _ out: inout CoordinatorResult
    ) -> ConsumerMember {
        let inherited = target[old.id] ?? PartitionSet()
        appendTombstones(of: old.id, &out)
        out.changesGroups = true
        remove(old.id)
        var member = ConsumerMember(id: beat.memberID)
        member.apply(old.metadataValue)
        target[member.id] = inherited
        out.records.append(.consumerMember(id, member.id, member.metadataValue))
        out.records.append(.targetMember(id, member.id, inherited.targetValue))
        put(member)
        return member
    }

    // MARK: What it wants

    /// Takes over what the heartbeat says of the member; whether it reads other topics now.
    private func update(_ member: inout ConsumerMember, _ beat: Heartbeat) -> Bool {
        let request = beat.request
        let names = member.subscribedNames
        let pattern = member.subscribedPattern
        let assignor = member.serverAssignor
        if let topics = request.subscribedTopicNames { member.subscribedNames = Set(topics).sorted() }
        if let text = request.subscribedTopicRegex { member.subscribedPattern = text.isEmpty ? nil : text }
        if let name = request.serverAssignor { member.serverAssignor = name }
        if let rack = request.rackId { member.rackID = rack }
        if request.rebalanceTimeoutMs >= 0 { member.rebalanceTimeout = request.rebalanceTimeoutMs }
        member.clientID = beat.origin.clientID
        member.clientHost = beat.origin.clientHost
        member.classic = nil
        return names != member.subscribedNames || pattern != member.subscribedPattern
            || assignor != member.serverAssignor
    }

    // MARK: Target

    /// Raises the group epoch if the group or its topics changed, and computes the target that belongs to it.
    mutating func assignAnew(_ image: GroupTopicImage, force: Bool, _ out: inout CoordinatorResult) {
        // Looking through all members is for when something changed, not for every heartbeat.
        if force || resolvedVersion != image.version {
            let topics = allTopics(image)
            if force || knownTopics != topics {
                knownTopics = topics
                raiseEpoch(&out)
            }
            resolvedVersion = image.version
        }
        guard targetEpoch < epoch, !members.isEmpty else { return }
        let subscribers = members.values.sorted { $0.id < $1.id }.map { member in
            ServerAssignor.Subscriber(
                memberID: member.id,
                instanceID: member.instanceID,
                topics: Set(self.topics(of: member, image).map(\.id)),
                previous: target[member.id] ?? PartitionSet()
            )
        }
        let counts = Dictionary(
            (knownTopics ?? [:]).values.map { ($0.id, $0.partitionCount) },
            uniquingKeysWith: { $1 }
        )
        let next = assignor.assign(subscribers, partitionCounts: counts)
        for memberID in members.keys.sorted() where target[memberID] != next[memberID] {
            out.records.append(.targetMember(id, memberID, (next[memberID] ?? PartitionSet()).targetValue))
        }
        target = next
        targetEpoch = epoch
        out.records.append(.targetMetadata(id, epoch: epoch))
        out.changesGroups = true
    }

    mutating func raiseEpoch(_ out: inout CoordinatorResult) {
        epoch += 1
        out.records.append(.consumerGroup(id, epoch: epoch))
        out.changesGroups = true
    }

    // MARK: Reconciliation

    /// Takes the member one step towards its target.
    func reconcile(_ member: inout ConsumerMember, owned: PartitionSet?, _ now: CoordinatorTime) {
        switch member.state {
        case .stable where member.epoch == targetEpoch:
            break
        case .unrevoked:
            // Without word from the member nothing counts as let go.
            guard let owned, owned.intersection(member.pendingRevocation).isEmpty else { return }
            advance(&member, owned: owned)
        case .stable, .unreleased:
            advance(&member, owned: owned)
        }
        if member.state != .unrevoked {
            member.revocationDeadline = .max
        } else if member.revocationDeadline == .max {
            member.revocationDeadline = now.monotonic + Int64(max(member.rebalanceTimeout, 0))
        }
    }

    private func advance(_ member: inout ConsumerMember, owned: PartitionSet?) {
        let wanted = target[member.id] ?? PartitionSet()
        let kept = member.assigned.intersection(wanted)
        let revoked = member.assigned.subtracting(wanted)
        if !revoked.isEmpty && owned.map({ !$0.intersection(revoked).isEmpty }) ?? true {
            member.previousEpoch = member.epoch
            member.state = .unrevoked
            member.assigned = kept
            member.pendingRevocation = revoked
            return
        }
        let memberID = member.id
        let free = wanted.filter {
            PlantedCoordinatorBug.partitionIsGivenTwice.isPlanted || !isTaken($0, $1, by: memberID)
        }
        member.previousEpoch = member.epoch
        member.epoch = targetEpoch
        member.assigned = kept.union(free)
        member.pendingRevocation = PartitionSet()
        member.state = free.union(kept) == wanted ? .stable : .unreleased
    }

    // MARK: Leaving and time

    /// Takes a member out, for good.
    mutating func leave(_ memberID: String, _ out: inout CoordinatorResult) {
        guard members[memberID] != nil else { return }
        appendTombstones(of: memberID, &out)
        remove(memberID)
        raiseEpoch(&out)
    }

    /// A static member goes away for a moment: it keeps its place until its session ends.
    mutating func leaveForNow(_ memberID: String, _ now: CoordinatorTime, _ out: inout CoordinatorResult) {
        guard var member = members[memberID] else { return }
        member.previousEpoch = member.epoch
        member.epoch = -2
        member.state = .stable
        member.pendingRevocation = PartitionSet()
        member.assigned = target[memberID].map { member.assigned.intersection($0) } ?? PartitionSet()
        member.revocationDeadline = .max
        out.records.append(.currentMember(id, memberID, member.currentValue))
        out.changesGroups = true
        put(member)
    }

    /// Fences the members whose session ended or who did not let go in time.
    mutating func tick(_ now: CoordinatorTime, _ out: inout CoordinatorResult) {
        guard earliestDeadline <= now.monotonic else { return }
        earliestDeadline = .max
        for memberID in members.keys.sorted() {
            guard let deadline = members[memberID]?.nextDeadline else { continue }
            if deadline <= now.monotonic { leave(memberID, &out) } else { note(deadline: deadline) }
        }
    }
}

extension PartitionSet {
    /// As the record of a target assignment.
    var targetValue: ConsumerGroupTargetAssignmentMemberValue {
        ConsumerGroupTargetAssignmentMemberValue(
            topicPartitions: sorted.map { .init(topicId: $0.topic, partitions: $0.partitions) }
        )
    }
}

extension ConsumerGroupHeartbeatRequest {
    /// Whether the member tells everything, as it does after it lost the connection.
    var isFull: Bool {
        memberEpoch == 0
            || rebalanceTimeoutMs != -1 && (subscribedTopicNames != nil || subscribedTopicRegex != nil)
                && topicPartitions != nil
    }
}

extension ConsumerGroupHeartbeatResponse {
    static func refusal(_ code: ErrorCode, _ message: String? = nil) -> ConsumerGroupHeartbeatResponse {
        ConsumerGroupHeartbeatResponse(errorCode: code.rawValue, errorMessage: message)
    }
}
