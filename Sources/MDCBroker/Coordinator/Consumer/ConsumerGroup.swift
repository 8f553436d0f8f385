// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// A member of a consumer group.
struct ConsumerMember: Equatable, Sendable {
    /// What the member has to do next. The raw values are those of the records.
    enum State: Int8, Sendable {
        /// It has its target.
        case stable = 0
        /// It must let go of partitions first.
        case unrevoked = 1
        /// Some of its target still belongs to others.
        case unreleased = 2
    }

    let id: String
    var instanceID: String?
    var rackID: String?
    var clientID = ""
    var clientHost = ""
    /// Ascending.
    var subscribedNames: [String] = []
    var subscribedPattern: String?
    /// How long it may take to let go of partitions, in milliseconds.
    var rebalanceTimeout: Int32 = -1
    var serverAssignor: String?
    /// −2 for a static member that is away for a moment.
    var epoch: Int32 = 0
    var previousEpoch: Int32 = 0
    var state = State.stable
    var assigned = PartitionSet()
    var pendingRevocation = PartitionSet()
    /// When its session ends, on the monotonic clock.
    var sessionDeadline = Int64.max
    /// When it must have let go.
    var revocationDeadline = Int64.max
    /// Set for a member that speaks the classic protocol.
    var classic: ClassicSide?

    init(id: String) { self.id = id }

    var nextDeadline: Int64 {
        guard let classic else { return min(sessionDeadline, revocationDeadline) }
        return min(sessionDeadline, revocationDeadline, classic.joinDeadline, classic.syncDeadline)
    }

    /// How long the member may be silent, in milliseconds.
    func sessionTimeout(_ settings: GroupSettings) -> Int64 {
        Int64(classic?.sessionTimeout ?? settings.consumerSessionTimeout)
    }

    /// Whether the record of what the member wants would be the same.
    func saysSame(as other: ConsumerMember) -> Bool {
        subscribedNames == other.subscribedNames && subscribedPattern == other.subscribedPattern
            && serverAssignor == other.serverAssignor && rebalanceTimeout == other.rebalanceTimeout
            && instanceID == other.instanceID && rackID == other.rackID && clientID == other.clientID
            && clientHost == other.clientHost && classic?.sessionTimeout == other.classic?.sessionTimeout
            && classic?.offers == other.classic?.offers
    }

    /// Whether the record of what the member has would be the same.
    func hasSame(as other: ConsumerMember) -> Bool {
        epoch == other.epoch && previousEpoch == other.previousEpoch && state == other.state
            && assigned == other.assigned && pendingRevocation == other.pendingRevocation
    }

    // MARK: Records

    var metadataValue: ConsumerGroupMemberMetadataValue {
        ConsumerGroupMemberMetadataValue(
            instanceId: instanceID,
            rackId: rackID,
            clientId: clientID,
            clientHost: clientHost,
            subscribedTopicNames: subscribedNames,
            subscribedTopicRegex: subscribedPattern,
            rebalanceTimeoutMs: rebalanceTimeout,
            serverAssignor: serverAssignor,
            classicMemberMetadata: classic?.record
        )
    }

    mutating func apply(_ value: ConsumerGroupMemberMetadataValue) {
        instanceID = value.instanceId
        rackID = value.rackId
        clientID = value.clientId
        clientHost = value.clientHost
        subscribedNames = value.subscribedTopicNames
        subscribedPattern = value.subscribedTopicRegex
        rebalanceTimeout = value.rebalanceTimeoutMs
        serverAssignor = value.serverAssignor
        classic = value.classicMemberMetadata.map(ClassicSide.init)
    }

    var currentValue: ConsumerGroupCurrentMemberAssignmentValue {
        ConsumerGroupCurrentMemberAssignmentValue(
            memberEpoch: epoch,
            previousMemberEpoch: previousEpoch,
            state: state.rawValue,
            assignedPartitions: assigned.sorted.map { .init(topicId: $0.topic, partitions: $0.partitions) },
            partitionsPendingRevocation: pendingRevocation.sorted.map {
                .init(topicId: $0.topic, partitions: $0.partitions)
            }
        )
    }

    mutating func apply(_ value: ConsumerGroupCurrentMemberAssignmentValue) {
        epoch = value.memberEpoch
        previousEpoch = value.previousMemberEpoch
        state = State(rawValue: value.state) ?? .stable
        assigned = PartitionSet(value.assignedPartitions.map { ($0.topicId, $0.partitions) })
        pendingRevocation = PartitionSet(value.partitionsPendingRevocation.map { ($0.topicId, $0.partitions) })
    }
}

/// A group of the consumer protocol (KIP-848), in which the coordinator assigns. A pure state machine.
struct ConsumerGroup: Equatable, Sendable {
    /// What the group is doing, as listed to administrators.
    enum State: String, Sendable {
        case empty = "Empty"
        /// The target assignment is older than the group.
        case assigning = "Assigning"
        /// Members move towards the target.
        case reconciling = "Reconciling"
        case stable = "Stable"
    }

    let id: String
    /// Grows with each change of members, subscriptions or topics.
    var epoch: Int32 = 0
    /// The group epoch that the target was computed for.
    var targetEpoch: Int32 = 0
    var target: [String: PartitionSet] = [:]
    var members: [String: ConsumerMember] = [:]
    /// Instance id → member id.
    var staticMembers: [String: String] = [:]
    /// Who has each partition, or has yet to let go of it.
    var owners: [TopicID: [Int32: String]] = [:]
    /// The topics that somebody reads, as of the group epoch; nil after loading.
    var knownTopics: [String: GroupTopicImage.Topic]?
    /// The version of the topics that `knownTopics` was found in.
    var resolvedVersion: UInt64?
    /// No deadline of a member lies before this.
    var earliestDeadline = Int64.max
    /// Compiled patterns of the members.
    var patterns: [String: TopicPattern] = [:]

    init(id: String) { self.id = id }

    var state: State {
        if members.isEmpty { return .empty }
        if epoch > targetEpoch { return .assigning }
        let isDone = members.values.allSatisfy { $0.state == .stable && ($0.epoch == targetEpoch || $0.epoch == -2) }
        return isDone ? .stable : .reconciling
    }

    var nextDeadline: Int64? { earliestDeadline == .max ? nil : earliestDeadline }

    mutating func note(deadline: Int64) { earliestDeadline = min(earliestDeadline, deadline) }

    // MARK: Subscriptions

    /// The topics of `image` that `member` reads.
    func topics(of member: ConsumerMember, _ image: GroupTopicImage) -> [GroupTopicImage.Topic] {
        var found = member.subscribedNames.compactMap { image.byName[$0] }
        if let text = member.subscribedPattern, !text.isEmpty, let pattern = patterns[text] {
            for topic in image.byName.values where pattern.matches(topic.name) { found.append(topic) }
        }
        return found
    }

    /// All topics that anyone reads.
    func allTopics(_ image: GroupTopicImage) -> [String: GroupTopicImage.Topic] {
        var all: [String: GroupTopicImage.Topic] = [:]
        for member in members.values { for topic in topics(of: member, image) { all[topic.name] = topic } }
        return all
    }

    func isSubscribed(to topic: String) -> Bool {
        members.values.contains { member in
            member.subscribedNames.contains(topic)
                || member.subscribedPattern.flatMap { patterns[$0] }?.matches(topic) == true
        }
    }

    /// The assignor that most members ask for.
    var assignor: ServerAssignor {
        var votes: [ServerAssignor: Int] = [:]
        for member in members.values {
            if let name = member.serverAssignor, let choice = ServerAssignor(rawValue: name) {
                votes[choice, default: 0] += 1
            }
        }
        return ServerAssignor.allCases.max { votes[$0] ?? 0 < votes[$1] ?? 0 }.flatMap {
            votes[$0] == nil ? nil : $0
        } ?? .uniform
    }

    // MARK: Members

    /// Puts a member in or exchanges it, keeping track of who has what.
    mutating func put(_ member: ConsumerMember) {
        let old = members[member.id]
        if old?.assigned != member.assigned || old?.pendingRevocation != member.pendingRevocation {
            if let old { disown(old) }
            for (topic, partition) in member.assigned.union(member.pendingRevocation).all {
                owners[topic, default: [:]][partition] = member.id
            }
        }
        if let instanceID = member.instanceID { staticMembers[instanceID] = member.id }
        if let text = member.subscribedPattern, patterns[text] == nil { patterns[text] = TopicPattern(text) }
        members[member.id] = member
        note(deadline: member.nextDeadline)
    }

    mutating func remove(_ memberID: String) {
        guard let member = members.removeValue(forKey: memberID) else { return }
        disown(member)
        target[memberID] = nil
        if let instanceID = member.instanceID, staticMembers[instanceID] == memberID { staticMembers[instanceID] = nil }
        let used = Set(members.values.compactMap(\.subscribedPattern))
        patterns = patterns.filter { used.contains($0.key) }
    }

    private mutating func disown(_ member: ConsumerMember) {
        for (topic, partition) in member.assigned.union(member.pendingRevocation).all
        where owners[topic]?[partition] == member.id {
            owners[topic]?[partition] = nil
            if owners[topic]?.isEmpty == true { owners[topic] = nil }
        }
    }

    /// Whether another than `memberID` has the partition.
    func isTaken(_ topic: TopicID, _ partition: Int32, by memberID: String) -> Bool {
        if let owner = owners[topic]?[partition] { return owner != memberID }
        return false
    }

    mutating func renewAllSessions(_ now: CoordinatorTime, _ settings: GroupSettings) {
        for (memberID, member) in members {
            members[memberID]?.sessionDeadline = now.monotonic + member.sessionTimeout(settings)
            guard member.state == .unrevoked else { continue }
            members[memberID]?.revocationDeadline = now.monotonic + Int64(max(member.rebalanceTimeout, 0))
        }
        earliestDeadline = members.values.map(\.nextDeadline).min() ?? .max
    }

    // MARK: Errors

    /// Whether a member may read its group's offsets.
    func fetchError(memberID: String?, epoch: Int32) -> ErrorCode {
        if memberID == nil && epoch < 0 { return .none }
        guard let member = members[memberID ?? ""] else { return .unknownMemberId }
        if member.epoch == epoch { return .none }
        return member.classic == nil ? .staleMemberEpoch : .illegalGeneration
    }

    /// Whether a member may commit.
    func commitError(memberID: String, epoch: Int32, version: Int16) -> ErrorCode {
        if epoch < 0 && members.isEmpty { return .none }
        guard let member = members[memberID] else { return .unknownMemberId }
        if member.classic != nil { return member.epoch == epoch ? .none : .illegalGeneration }
        // Before version 9 a client cannot make sense of a stale epoch.
        if version < 9 { return .unsupportedVersion }
        return member.epoch == epoch ? .none : .staleMemberEpoch
    }

    // MARK: Records

    /// Removes the group from the log.
    func appendTombstones(_ out: inout CoordinatorResult) {
        for memberID in members.keys.sorted() { appendTombstones(of: memberID, &out) }
        out.records.append(.targetMetadata(id, epoch: nil))
        out.records.append(.consumerGroup(id, epoch: nil))
    }

    /// Removes a member from the log.
    func appendTombstones(of memberID: String, _ out: inout CoordinatorResult) {
        out.records.append(.currentMember(id, memberID, nil))
        out.records.append(.targetMember(id, memberID, nil))
        out.records.append(.consumerMember(id, memberID, nil))
    }
}
