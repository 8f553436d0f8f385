// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// A member of a share group.
struct ShareMember: Equatable, Sendable {
    let id: String
    var rackID: String?
    var clientID = ""
    var clientHost = ""
    /// Ascending.
    var subscribedNames: [String] = []
    var epoch: Int32 = 0
    var previousEpoch: Int32 = 0
    var assigned = PartitionSet()
    /// When its session ends, on the monotonic clock.
    var sessionDeadline = Int64.max

    init(id: String) { self.id = id }

    var metadataValue: ShareGroupMemberMetadataValue {
        ShareGroupMemberMetadataValue(
            rackId: rackID,
            clientId: clientID,
            clientHost: clientHost,
            subscribedTopicNames: subscribedNames
        )
    }

    mutating func apply(_ value: ShareGroupMemberMetadataValue) {
        rackID = value.rackId
        clientID = value.clientId
        clientHost = value.clientHost
        subscribedNames = value.subscribedTopicNames
    }

    var currentValue: ShareGroupCurrentMemberAssignmentValue {
        ShareGroupCurrentMemberAssignmentValue(
            memberEpoch: epoch,
            previousMemberEpoch: previousEpoch,
            state: 0,
            assignedPartitions: assigned.sorted.map { .init(topicId: $0.topic, partitions: $0.partitions) }
        )
    }

    mutating func apply(_ value: ShareGroupCurrentMemberAssignmentValue) {
        epoch = value.memberEpoch
        previousEpoch = value.previousMemberEpoch
        assigned = PartitionSet(value.assignedPartitions.map { ($0.topicId, $0.partitions) })
    }
}

/// A share group (KIP-932): its members read the same partitions together, record by record. Here is who the members are
/// and which partitions each asks; what becomes of the records is decided by ``SharePartitionWindow``. A pure state machine.
struct ShareGroup: Equatable, Sendable {
    /// What the group is doing, as listed to administrators.
    enum State: String, Sendable {
        case empty = "Empty"
        case stable = "Stable"
    }

    /// A topic whose partitions have a state at the share coordinator.
    struct InitializedTopic: Equatable, Sendable {
        var name: String
        /// Ascending.
        var partitions: [Int32]
    }

    let id: String
    /// Grows with each change of members, subscriptions or topics.
    var epoch: Int32 = 0
    /// The group epoch that the target was computed for.
    var targetEpoch: Int32 = 0
    var target: [String: PartitionSet] = [:]
    var members: [String: ShareMember] = [:]
    /// Only these partitions are given out.
    var initialized: [TopicID: InitializedTopic] = [:]
    /// The partitions that could be given out as of the group epoch; nil after loading.
    var knownPartitions: PartitionSet?
    /// The version of the topics that `knownPartitions` was found in.
    var resolvedVersion: UInt64?
    /// No deadline of a member lies before this.
    var earliestDeadline = Int64.max

    init(id: String) { self.id = id }

    var state: State { members.isEmpty ? .empty : .stable }
    var nextDeadline: Int64? { earliestDeadline == .max ? nil : earliestDeadline }

    // MARK: Topics

    /// The topics that anyone reads.
    func subscribedTopics(_ image: GroupTopicImage) -> [GroupTopicImage.Topic] {
        var names: Set<String> = []
        for member in members.values { names.formUnion(member.subscribedNames) }
        return names.sorted().compactMap { image.byName[$0] }
    }

    func isSubscribed(to topic: String) -> Bool { members.values.contains { $0.subscribedNames.contains(topic) } }

    /// The partitions that are read and have no state yet.
    func uninitialized(_ image: GroupTopicImage) -> PartitionSet {
        PartitionSet(
            subscribedTopics(image).map { topic in
                let known = Set(initialized[topic.id]?.partitions ?? [])
                return (topic.id, (0..<topic.partitionCount).filter { !known.contains($0) })
            }
        )
    }

    /// The partitions that may be given out.
    private func available(_ image: GroupTopicImage) -> PartitionSet {
        PartitionSet(
            subscribedTopics(image).map { topic in
                (topic.id, initialized[topic.id]?.partitions.filter { $0 < topic.partitionCount } ?? [])
            }
        )
    }

    /// Notes that partitions have a state at the share coordinator.
    mutating func noteInitialized(
        _ partitions: PartitionSet,
        _ image: GroupTopicImage,
        _ out: inout CoordinatorResult
    ) {
        var changed = false
        for (topicID, list) in partitions.topics {
            guard let topic = image.byID[topicID] else { continue }
            let known = initialized[topicID]?.partitions ?? []
            let all = Set(known + list).sorted()
            guard all != known else { continue }
            initialized[topicID] = InitializedTopic(name: topic.name, partitions: all)
            changed = true
        }
        // Topics that are gone have no state any more.
        for topicID in initialized.keys where image.byID[topicID] == nil {
            initialized[topicID] = nil
            changed = true
        }
        guard changed else { return }
        out.records.append(.shareState(id, stateValue))
        out.changesGroups = true
        assignAnew(image, force: false, isStale: true, &out)
    }

    /// Forgets topics whose state was removed.
    mutating func forgetTopics(_ topics: some Sequence<TopicID>, _ out: inout CoordinatorResult) {
        var changed = false
        for topic in topics where initialized.removeValue(forKey: topic) != nil { changed = true }
        guard changed else { return }
        out.records.append(.shareState(id, initialized.isEmpty ? nil : stateValue))
        out.changesGroups = true
    }

    // MARK: Target

    /// Raises the group epoch if the group or its topics changed, and computes the target that belongs to it.
    mutating func assignAnew(
        _ image: GroupTopicImage,
        force: Bool,
        isStale: Bool = false,
        _ out: inout CoordinatorResult
    ) {
        if force || isStale || resolvedVersion != image.version {
            let partitions = available(image)
            if force || knownPartitions != partitions {
                knownPartitions = partitions
                raiseEpoch(&out)
            }
            resolvedVersion = image.version
        }
        guard targetEpoch < epoch, !members.isEmpty else { return }
        let subscribers = members.values.map { member in
            ShareAssignor.Subscriber(
                memberID: member.id,
                topics: Set(member.subscribedNames.compactMap { image.byName[$0]?.id }),
                previous: target[member.id] ?? PartitionSet()
            )
        }
        let next = ShareAssignor.assign(subscribers, partitions: knownPartitions ?? PartitionSet())
        for memberID in members.keys.sorted() where target[memberID] != next[memberID] {
            out.records.append(.shareTargetMember(id, memberID, (next[memberID] ?? PartitionSet()).shareTargetValue))
        }
        target = next
        targetEpoch = epoch
        out.records.append(.shareTargetMetadata(id, epoch: epoch))
        out.changesGroups = true
    }

    mutating func raiseEpoch(_ out: inout CoordinatorResult) {
        epoch += 1
        out.records.append(.shareGroup(id, epoch: epoch))
        out.changesGroups = true
    }

    // MARK: Leaving and time

    mutating func leave(_ memberID: String, _ image: GroupTopicImage, _ out: inout CoordinatorResult) {
        guard members.removeValue(forKey: memberID) != nil else { return }
        appendTombstones(of: memberID, &out)
        target[memberID] = nil
        raiseEpoch(&out)
        assignAnew(image, force: false, &out)
    }

    /// Fences the members whose session ended.
    mutating func tick(_ now: CoordinatorTime, _ image: GroupTopicImage, _ out: inout CoordinatorResult) {
        guard earliestDeadline <= now.monotonic else { return }
        let expired = members.values.filter { $0.sessionDeadline <= now.monotonic }.map(\.id).sorted()
        for memberID in expired { leave(memberID, image, &out) }
        earliestDeadline = members.values.map(\.sessionDeadline).min() ?? .max
    }

    mutating func note(deadline: Int64) { earliestDeadline = min(earliestDeadline, deadline) }

    mutating func renewAllSessions(_ now: CoordinatorTime, timeout: Int32) {
        for memberID in members.keys { members[memberID]?.sessionDeadline = now.monotonic + Int64(timeout) }
        earliestDeadline = members.values.map(\.sessionDeadline).min() ?? .max
    }

    // MARK: Records

    /// What the group knows of states at the share coordinator, as a record.
    var stateValue: ShareGroupStatePartitionMetadataValue {
        ShareGroupStatePartitionMetadataValue(
            initializedTopics: initialized.sorted { $0.key < $1.key }.map {
                .init(topicId: $0.key, topicName: $0.value.name, partitions: $0.value.partitions)
            }
        )
    }

    mutating func apply(_ value: ShareGroupStatePartitionMetadataValue?) {
        initialized = [:]
        for topic in value?.initializedTopics ?? [] {
            initialized[topic.topicId] = InitializedTopic(name: topic.topicName, partitions: topic.partitions.sorted())
        }
    }

    /// Removes the group from the log.
    func appendTombstones(_ out: inout CoordinatorResult) {
        for memberID in members.keys.sorted() { appendTombstones(of: memberID, &out) }
        out.records.append(.shareTargetMetadata(id, epoch: nil))
        if !initialized.isEmpty { out.records.append(.shareState(id, nil)) }
        out.records.append(.shareGroup(id, epoch: nil))
    }

    private func appendTombstones(of memberID: String, _ out: inout CoordinatorResult) {
        out.records.append(.shareCurrentMember(id, memberID, nil))
        out.records.append(.shareTargetMember(id, memberID, nil))
        out.records.append(.shareMember(id, memberID, nil))
    }
}

extension PartitionSet {
    /// As the record of a share group's target assignment.
    var shareTargetValue: ShareGroupTargetAssignmentMemberValue {
        ShareGroupTargetAssignmentMemberValue(
            topicPartitions: sorted.map { .init(topicId: $0.topic, partitions: $0.partitions) }
        )
    }
}
