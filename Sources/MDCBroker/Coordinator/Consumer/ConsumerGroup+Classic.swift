// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// What is kept of a member of a consumer group that speaks the classic protocol.
struct ClassicSide: Equatable, Sendable {
    /// How long it may be silent, in milliseconds.
    var sessionTimeout: Int32
    /// The assignors that it offers. Nobody runs them while the coordinator assigns; a downgrade needs them.
    var offers: [ClassicGroupMember.Offer]
    /// By when it must join again, since it was told to; on the monotonic clock.
    var joinDeadline = Int64.max
    /// By when it must fetch what it was given.
    var syncDeadline = Int64.max

    init(sessionTimeout: Int32, offers: [ClassicGroupMember.Offer]) {
        self.sessionTimeout = sessionTimeout
        self.offers = offers
    }

    init(_ record: ConsumerGroupMemberMetadataValue.ClassicMemberMetadata) {
        self.init(
            sessionTimeout: record.sessionTimeoutMs,
            offers: record.supportedProtocols.map { .init(name: $0.name, metadata: $0.metadata) }
        )
    }

    var record: ConsumerGroupMemberMetadataValue.ClassicMemberMetadata {
        .init(
            sessionTimeoutMs: sessionTimeout,
            supportedProtocols: offers.map { .init(name: $0.name, metadata: $0.metadata) }
        )
    }
}

/// Members of the classic protocol in a consumer group (KIP-848, online migration): each JoinGroup is answered at once
/// with the member's epoch as its generation, SyncGroup fetches what the coordinator assigned, and a heartbeat tells the
/// member to join again when there is something to revoke or to take.
extension ConsumerGroup {
    var hasOnlyClassicMembers: Bool { members.values.allSatisfy { $0.classic != nil } }

    /// Whether a member that offers `protocols` can live with the classic members that are there.
    func supports(_ type: String, _ protocols: [JoinGroupRequest.JoinGroupRequestProtocol]) -> Bool {
        guard type == "consumer" else { return false }
        let others = members.values.compactMap(\.classic)
        return protocols.contains { offered in
            others.allSatisfy { $0.offers.contains { $0.name == offered.name } }
        }
    }

    // MARK: Join

    mutating func classicJoin(
        _ join: ClassicGroup.Join,
        _ image: GroupTopicImage,
        _ out: inout CoordinatorResult
    ) -> JoinGroupResponse {
        let request = join.request
        let refuse = { (code: ErrorCode) in JoinGroupResponse.error(code, memberID: request.memberId) }
        if members[request.memberId] == nil && members.count >= Int(join.settings.consumerMaxSize) {
            return refuse(.groupMaxSizeReached)
        }
        guard supports(request.protocolType, request.protocols),
            let subscription = request.protocols.first?.metadata.subscription
        else { return refuse(.inconsistentGroupProtocol) }
        if join.origin.apiVersion >= 4 && request.memberId.isEmpty && request.groupInstanceId == nil {
            return .error(.memberIdRequired, memberID: join.newMemberID)
        }
        let (code, found) = classicMember(for: join, &out)
        guard var member = found else { return refuse(code) }
        let before = members[member.id]
        let hasChanged = update(&member, join, subscription)
        if before.map({ !$0.saysSame(as: member) }) ?? true {
            out.records.append(.consumerMember(id, member.id, member.metadataValue))
        }
        out.changesGroups = true
        put(member)
        assignAnew(image, force: hasChanged || before == nil, &out)
        reconcile(&member, owned: image.partitions(subscription.ownedPartitions), join.now)
        if before.map({ !$0.hasSame(as: member) }) ?? true {
            out.records.append(.currentMember(id, member.id, member.currentValue))
        }
        member.classic?.syncDeadline = join.now.monotonic + Int64(join.rebalanceTimeout)
        put(member)
        return JoinGroupResponse(
            errorCode: 0,
            generationId: member.epoch,
            protocolType: "consumer",
            protocolName: request.protocols.first?.name,
            leader: "",
            memberId: member.id
        )
    }

    /// The member that a JoinGroup speaks for, or why there is none.
    private mutating func classicMember(
        for join: ClassicGroup.Join,
        _ out: inout CoordinatorResult
    ) -> (ErrorCode, ConsumerMember?) {
        let memberID = join.request.memberId
        guard let instanceID = join.request.groupInstanceId else {
            let id = memberID.isEmpty ? join.newMemberID : memberID
            return (.none, members[id] ?? ConsumerMember(id: id))
        }
        guard let presentID = staticMembers[instanceID], let present = members[presentID] else {
            return memberID.isEmpty ? (.none, ConsumerMember(id: join.newMemberID)) : (.unknownMemberId, nil)
        }
        if memberID.isEmpty { return (.none, takeOver(present, as: join.newMemberID, &out)) }
        return presentID == memberID ? (.none, present) : (.fencedInstanceId, nil)
    }

    /// A static member comes back under a new id, with all that it had.
    private mutating func takeOver(
        _ old: ConsumerMember,
        as newID: String,
        _ out: inout CoordinatorResult
    ) -> ConsumerMember {
        let inherited = target[old.id] ?? PartitionSet()
        appendTombstones(of: old.id, &out)
        remove(old.id)
        var member = ConsumerMember(id: newID)
        member.apply(old.metadataValue)
        member.assigned = old.assigned
        member.epoch = targetEpoch
        target[newID] = inherited
        out.records.append(.consumerMember(id, newID, member.metadataValue))
        out.records.append(.targetMember(id, newID, inherited.targetValue))
        out.records.append(.currentMember(id, newID, member.currentValue))
        put(member)
        return member
    }

    /// Takes over what a JoinGroup says; whether the member reads other topics now.
    private func update(
        _ member: inout ConsumerMember,
        _ join: ClassicGroup.Join,
        _ subscription: ConsumerProtocolSubscription
    ) -> Bool {
        let names = member.subscribedNames
        let pattern = member.subscribedPattern
        member.instanceID = join.request.groupInstanceId ?? member.instanceID
        member.rackID = subscription.rackId ?? member.rackID
        member.rebalanceTimeout = join.rebalanceTimeout
        member.subscribedNames = Set(subscription.topics).sorted()
        member.subscribedPattern = nil
        member.serverAssignor = nil
        member.clientID = join.origin.clientID
        member.clientHost = join.origin.clientHost
        member.classic = ClassicSide(
            sessionTimeout: join.request.sessionTimeoutMs,
            offers: join.request.protocols.map { .init(name: $0.name, metadata: $0.metadata) }
        )
        member.sessionDeadline = join.now.monotonic + Int64(join.request.sessionTimeoutMs)
        return names != member.subscribedNames || pattern != nil
    }

    // MARK: Sync and heartbeat

    /// The classic member that a request speaks for.
    private func classicMember(
        _ memberID: String,
        _ instanceID: String?,
        _ generation: Int32
    ) -> (ErrorCode, ConsumerMember?) {
        if let instanceID {
            guard let present = staticMembers[instanceID] else { return (.unknownMemberId, nil) }
            if present != memberID { return (.fencedInstanceId, nil) }
        }
        guard let member = members[memberID], member.classic != nil else { return (.unknownMemberId, nil) }
        return member.epoch == generation ? (.none, member) : (.illegalGeneration, nil)
    }

    mutating func classicSync(
        _ request: SyncGroupRequest,
        _ image: GroupTopicImage,
        _ now: CoordinatorTime
    ) -> SyncGroupResponse {
        let (code, found) = classicMember(request.memberId, request.groupInstanceId, request.generationId)
        guard var member = found, let offer = member.classic?.offers.first else { return .error(code) }
        if let type = request.protocolType, type != "consumer" { return .error(.inconsistentGroupProtocol) }
        if let name = request.protocolName, name != offer.name { return .error(.inconsistentGroupProtocol) }
        // One that has to let go of partitions first fetches what is left to it.
        if epoch > member.epoch && member.state != .unrevoked {
            wantJoin(&member, now)
            return .error(.rebalanceInProgress)
        }
        member.classic?.syncDeadline = .max
        members[member.id] = member
        return SyncGroupResponse(
            errorCode: 0,
            protocolType: "consumer",
            protocolName: offer.name,
            assignment: image.classicAssignment(member.assigned, version: offer.metadata.consumerProtocolVersion)
        )
    }

    mutating func classicHeartbeat(_ request: HeartbeatRequest, _ now: CoordinatorTime) -> ErrorCode {
        let (code, found) = classicMember(request.memberId, request.groupInstanceId, request.generationId)
        guard var member = found else { return code }
        member.sessionDeadline = now.monotonic + Int64(member.classic?.sessionTimeout ?? 0)
        if member.epoch < epoch || member.state == .unrevoked
            || member.state == .unreleased && hasFreePartitions(for: member)
        {
            wantJoin(&member, now)
            return .rebalanceInProgress
        }
        members[member.id] = member
        note(deadline: member.nextDeadline)
        return .none
    }

    /// Whether all that the member waits for has been let go of.
    private func hasFreePartitions(for member: ConsumerMember) -> Bool {
        let missing = (target[member.id] ?? PartitionSet()).subtracting(member.assigned)
        return missing.filter { isTaken($0, $1, by: member.id) }.isEmpty
    }

    /// The member was told to join again and has its rebalance timeout for it.
    private mutating func wantJoin(_ member: inout ConsumerMember, _ now: CoordinatorTime) {
        if member.classic?.joinDeadline == .max {
            member.classic?.joinDeadline = now.monotonic + Int64(max(member.rebalanceTimeout, 0))
        }
        members[member.id] = member
        note(deadline: member.nextDeadline)
    }

    // MARK: Migration

    /// The consumer group that a classic one becomes: its generation is the epoch, and everyone keeps what it has.
    init(upgrading group: ClassicGroup, _ image: GroupTopicImage, now: CoordinatorTime) {
        self.init(id: group.id)
        epoch = group.generation
        targetEpoch = group.generation
        for old in group.membersInOrder where !old.isNew {
            let metadata = group.protocolName.map { old.metadata(for: $0) } ?? old.offers.first?.metadata
            let subscription = metadata?.subscription ?? ConsumerProtocolSubscription()
            var member = ConsumerMember(id: old.id)
            member.instanceID = old.instanceID
            member.rackID = subscription.rackId
            member.clientID = old.clientID
            member.clientHost = old.clientHost
            member.subscribedNames = Set(subscription.topics).sorted()
            member.rebalanceTimeout = old.rebalanceTimeout
            member.epoch = epoch
            member.previousEpoch = epoch
            // While the leader assigns nobody has been given anything yet, but may still hold what it had.
            let held =
                old.assignment.readableBytes > 0
                ? image.partitions(classic: old.assignment) : image.partitions(subscription.ownedPartitions)
            member.assigned = held.filter { !isTaken($0, $1, by: old.id) }
            member.classic = ClassicSide(sessionTimeout: old.sessionTimeout, offers: old.offers)
            member.sessionDeadline = now.monotonic + Int64(old.sessionTimeout)
            target[member.id] = member.assigned
            put(member)
        }
    }

    /// All that there is to know of the group, for the log.
    func appendAll(_ out: inout CoordinatorResult) {
        let ordered = members.values.sorted { $0.id < $1.id }
        for member in ordered { out.records.append(.consumerMember(id, member.id, member.metadataValue)) }
        out.records.append(.consumerGroup(id, epoch: epoch))
        for member in ordered {
            out.records.append(.targetMember(id, member.id, (target[member.id] ?? PartitionSet()).targetValue))
        }
        out.records.append(.targetMetadata(id, epoch: targetEpoch))
        for member in ordered { out.records.append(.currentMember(id, member.id, member.currentValue)) }
    }

    /// The classic group that this one becomes when only classic members are left. Stable; everyone keeps its target.
    func downgraded(_ image: GroupTopicImage, now: CoordinatorTime) -> ClassicGroup {
        var group = ClassicGroup(id: id, now: now)
        group.generation = epoch
        group.protocolType = "consumer"
        for member in members.values.sorted(by: { $0.id < $1.id }) {
            guard let classic = member.classic else { continue }
            let version = classic.offers.first?.metadata.consumerProtocolVersion ?? 0
            group.add(
                ClassicGroupMember(
                    id: member.id,
                    instanceID: member.instanceID,
                    clientID: member.clientID,
                    clientHost: member.clientHost,
                    rebalanceTimeout: member.rebalanceTimeout,
                    sessionTimeout: classic.sessionTimeout,
                    offers: classic.offers,
                    assignment: image.classicAssignment(target[member.id] ?? PartitionSet(), version: version),
                    isNew: false,
                    deadline: now.monotonic + Int64(classic.sessionTimeout),
                    order: group.takeOrder()
                )
            )
        }
        group.protocolName = group.selectProtocol()
        group.state = .stable
        group.previousState = .stable
        return group
    }
}

extension GroupTopicImage {
    /// Partitions by name as partitions by id; those of topics that are gone are left out.
    func partitions(_ list: [ConsumerProtocolSubscription.TopicPartition]) -> PartitionSet {
        PartitionSet(list.compactMap { entry in byName[entry.topic].map { ($0.id, entry.partitions) } })
    }

    /// What a classic assignment gives.
    func partitions(classic bytes: ByteBuffer) -> PartitionSet {
        var rest = bytes
        guard let version = rest.readInteger(as: Int16.self), version >= 0 else { return PartitionSet() }
        var reader = MessageReader(rest)
        guard let assignment = try? ConsumerProtocolAssignment(from: &reader, version: min(version, 3)) else {
            return PartitionSet()
        }
        return PartitionSet(
            assignment.assignedPartitions.compactMap { entry in byName[entry.topic].map { ($0.id, entry.partitions) } }
        )
    }

    /// Partitions as a client of the classic protocol wants them.
    func classicAssignment(_ partitions: PartitionSet, version: Int16) -> ByteBuffer {
        let message = ConsumerProtocolAssignment(
            assignedPartitions: partitions.sorted.compactMap { entry in
                byID[entry.topic].map { .init(topic: $0.name, partitions: entry.partitions) }
            }
        )
        var buffer = ByteBuffer()
        buffer.writeInteger(version)
        do {
            try message.write(into: &buffer, version: version)
        } catch {
            preconditionFailure("an assignment cannot be encoded: \(error)")
        }
        return buffer
    }
}

extension ByteBuffer {
    /// The version that a ConsumerProtocolSubscription begins with, as far as we know it.
    var consumerProtocolVersion: Int16 { max(0, min(getInteger(at: readerIndex, as: Int16.self) ?? 0, 3)) }
}
