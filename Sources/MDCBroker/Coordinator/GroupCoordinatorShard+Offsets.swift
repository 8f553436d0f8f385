// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// Committed offsets: commit, fetch, delete, expire.
extension GroupCoordinatorShard {
    // MARK: Commit

    mutating func commitOffsets(
        _ request: OffsetCommitRequest,
        _ origin: RequestOrigin,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        let error = commitError(request, origin, now)
        var response = OffsetCommitResponse()
        let expiry = request.retentionTimeMs < 0 ? nil : now.wall + request.retentionTimeMs
        for topic in request.topics {
            var answered = OffsetCommitResponse.OffsetCommitResponseTopic(name: topic.name, topicId: topic.topicId)
            answered.partitions.reserveCapacity(topic.partitions.count)
            for partition in topic.partitions {
                var code = error
                let metadata = partition.committedMetadata ?? ""
                if code == .none && metadata.utf8.count > settings.maxOffsetMetadataBytes {
                    code = .offsetMetadataTooLarge
                }
                answered.partitions.append(
                    .init(partitionIndex: partition.partitionIndex, errorCode: code.rawValue)
                )
                guard code == .none else { continue }
                let change = OffsetChange(
                    group: request.groupId,
                    topic: topic.name,
                    partition: partition.partitionIndex,
                    value: CommittedOffset(
                        offset: partition.committedOffset,
                        // The record that can hold an expiry cannot hold an epoch; neither can the requests that ask for one.
                        leaderEpoch: expiry == nil ? partition.committedLeaderEpoch : -1,
                        metadata: metadata,
                        commitTimestamp: now.wall,
                        expireTimestamp: expiry
                    )
                )
                if !PlantedCoordinatorBug.offsetIsNotRecorded.isPlanted { out.records.append(change.record) }
                out.offsetChanges.append(change)
            }
            response.topics.append(answered)
        }
        out.answer(token, .commitOffsets(response))
    }

    /// Whether the group takes the commit. A member's commit also counts as a sign of life.
    private mutating func commitError(
        _ request: OffsetCommitRequest,
        _ origin: RequestOrigin,
        _ now: CoordinatorTime
    ) -> ErrorCode {
        let generation = request.generationIdOrMemberEpoch
        if consumerGroups[request.groupId] != nil {
            return consumerCommitError(request, origin)
        }
        // Members of share groups acknowledge records; they commit no offsets.
        if shareGroups[request.groupId] != nil { return .groupIdNotFound }
        guard let group = classicGroups[request.groupId] else {
            // Without a generation it is a client that assigns itself its partitions, or an administrator.
            return generation < 0 ? .none : .illegalGeneration
        }
        if generation < 0 && group.state == .empty { return .none }
        guard generation >= 0 || !request.memberId.isEmpty || request.groupInstanceId != nil else {
            return group.state == .empty ? .none : .unknownMemberId
        }
        let error = group.validate(request.memberId, request.groupInstanceId)
        if error != .none { return error }
        if generation != group.generation, !PlantedCoordinatorBug.oldGenerationCommits.isPlanted {
            return .illegalGeneration
        }
        // The leader is assigning: what is committed now would come too late for the next owner.
        if group.state == .completingRebalance { return .rebalanceInProgress }
        classicGroups[request.groupId]?.renewSession(request.memberId, now)
        return .none
    }

    // MARK: Fetch

    func fetchOffsets(
        _ request: OffsetFetchRequest.OffsetFetchRequestGroup,
        requireStable: Bool
    ) -> OffsetFetchResponse.OffsetFetchResponseGroup {
        var response = OffsetFetchResponse.OffsetFetchResponseGroup(groupId: request.groupId)
        if let group = consumerGroups[request.groupId] {
            let code = group.fetchError(memberID: request.memberId, epoch: request.memberEpoch)
            if code != .none {
                response.errorCode = code.rawValue
                return response
            }
        }
        if shareGroups[request.groupId] != nil {
            response.errorCode = ErrorCode.groupIdNotFound.rawValue
            return response
        }
        let stored = offsets.groups[request.groupId] ?? [:]
        let isUnstable = { (topic: String, partition: Int32) in
            requireStable && offsets.pending.contains(group: request.groupId, topic: topic, partition: partition)
        }
        if let topics = request.topics {
            response.topics = topics.map { topic in
                .init(
                    name: topic.name,
                    topicId: topic.topicId,
                    partitions: topic.partitionIndexes.map {
                        Self.fetched($0, stored[topic.name]?[$0], isUnstable: isUnstable(topic.name, $0))
                    }
                )
            }
        } else {
            response.topics = stored.sorted { $0.key < $1.key }.map { topic, partitions in
                .init(
                    name: topic,
                    partitions: partitions.sorted { $0.key < $1.key }.map {
                        Self.fetched($0.key, $0.value, isUnstable: isUnstable(topic, $0.key))
                    }
                )
            }
        }
        return response
    }

    private static func fetched(
        _ partition: Int32,
        _ value: CommittedOffset?,
        isUnstable: Bool
    ) -> OffsetFetchResponse.OffsetFetchResponsePartitions {
        // A transaction that is not decided may still change it; the client asks again.
        if isUnstable {
            return .init(
                partitionIndex: partition,
                committedOffset: -1,
                metadata: "",
                errorCode: ErrorCode.unstableOffsetCommit.rawValue
            )
        }
        return .init(
            partitionIndex: partition,
            committedOffset: value?.offset ?? -1,
            committedLeaderEpoch: value?.leaderEpoch ?? -1,
            metadata: value?.metadata ?? "",
            errorCode: 0
        )
    }

    // MARK: Delete

    mutating func deleteOffsets(_ request: OffsetDeleteRequest, _ token: RequestToken, _ out: inout CoordinatorResult) {
        let groupID = request.groupId
        var error = ErrorCode.none
        if !exists(groupID) { error = .groupIdNotFound }
        if let group = classicGroups[groupID], !group.members.isEmpty, group.protocolType != "consumer" {
            error = .nonEmptyGroup
        }
        guard error == .none else {
            return out.answer(token, .deleteOffsets(OffsetDeleteResponse(errorCode: error.rawValue)))
        }
        var response = OffsetDeleteResponse()
        for topic in request.topics {
            let isSubscribed =
                classicGroups[groupID]?.isSubscribed(to: topic.name)
                ?? consumerGroups[groupID]?.isSubscribed(to: topic.name) ?? false
            let code: ErrorCode = isSubscribed ? .groupSubscribedToTopic : .none
            response.topics.append(
                .init(
                    name: topic.name,
                    partitions: topic.partitions.map {
                        .init(partitionIndex: $0.partitionIndex, errorCode: code.rawValue)
                    }
                )
            )
            guard !isSubscribed else { continue }
            for partition in topic.partitions
            where offsets[groupID, topic.name, partition.partitionIndex] != nil
                || offsets.pending.contains(group: groupID, topic: topic.name, partition: partition.partitionIndex)
            {
                remove(
                    [OffsetChange(group: groupID, topic: topic.name, partition: partition.partitionIndex)],
                    &out
                )
            }
        }
        out.answer(token, .deleteOffsets(response))
    }

    /// The offsets of topics that are gone must not be found by topics of the same name that come later.
    mutating func topicsDeleted(_ names: Set<String>, _ token: RequestToken, _ out: inout CoordinatorResult) {
        for group in offsets.groups.keys.sorted() {
            remove(offsets.removals(of: group) { topic, _ in names.contains(topic) }, &out)
        }
        for group in offsets.pending.groups.sorted() {
            remove(offsets.pendingRemovals(of: group) { names.contains($0) }, &out)
        }
        out.answer(token, .done(.none))
    }

    func remove(_ changes: [OffsetChange], _ out: inout CoordinatorResult) {
        out.offsetChanges += changes
        for change in changes { out.records.append(change.record) }
    }

    // MARK: Expiry

    /// Drops what has not been used for the retention, and groups that have nothing left. At most some thousand records
    /// a step; the rest follows at once in the next.
    mutating func expireOffsets(_ now: CoordinatorTime, _ out: inout CoordinatorResult) {
        nextExpiryCheck = now.monotonic + settings.offsetsRetentionCheckInterval
        let groupIDs = Set(offsets.groups.keys).union(classicGroups.keys).union(consumerGroups.keys)
        for groupID in groupIDs.sorted() {
            if out.records.count >= 5_000 {
                nextExpiryCheck = now.monotonic + 1
                return
            }
            let expired = expiredOffsets(of: groupID, now)
            remove(expired, &out)
            let all = offsets.groups[groupID]?.values.reduce(0) { $0 + $1.count } ?? 0
            if expired.count == all && !offsets.pending.contains(group: groupID) { dropIfUnused(groupID, &out) }
        }
    }

    /// The offsets of a group that nobody uses count from when it became empty; those of a topic that a living group no
    /// longer reads, and those of a group without members ever, from their commit (KIP-211).
    private func expiredOffsets(of groupID: String, _ now: CoordinatorTime) -> [OffsetChange] {
        let group = classicGroups[groupID]
        let consumers = consumerGroups[groupID]
        return offsets.removals(of: groupID) { topic, value in
            if let expiry = value.expireTimestamp, group?.members.isEmpty ?? true { return now.wall >= expiry }
            var since = value.commitTimestamp
            if let group, group.protocolType != nil {
                if group.state == .empty {
                    since = max(since, group.stateTimestamp)
                } else if group.state != .stable || group.isSubscribed(to: topic) {
                    return false
                }
            } else if let consumers, consumers.isSubscribed(to: topic) {
                return false
            }
            return now.wall - since >= settings.offsetsRetention
        }
        // What a transaction is about to change is in use.
        .filter { !offsets.pending.contains(group: groupID, topic: $0.topic, partition: $0.partition) }
    }

    private mutating func dropIfUnused(_ groupID: String, _ out: inout CoordinatorResult) {
        if let group = classicGroups[groupID], group.state == .empty, group.pendingJoins.isEmpty {
            // One of generation 0 never reached the log.
            if group.generation > 0 { out.records.append(.classicGroup(groupID, nil)) }
            classicGroups[groupID] = nil
            out.changesGroups = true
        }
        dropConsumerGroupIfUnused(groupID, &out)
    }
}

extension OffsetChange {
    /// The removal of an offset.
    init(group: String, topic: String, partition: Int32) {
        self.init(group: group, topic: topic, partition: partition, value: nil)
    }
}
