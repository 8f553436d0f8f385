// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// The offset APIs: topics are looked up here, because shards know groups only.
extension GroupCoordinatorService {
    func commitOffsets(
        _ request: OffsetCommitRequest,
        _ origin: RequestOrigin,
        _ reply: @escaping Reply<OffsetCommitResponse>
    ) {
        let image = access.topicImage()
        let byID = origin.apiVersion >= 10
        var known = request
        known.topics = []
        var unknown: [OffsetCommitResponse.OffsetCommitResponseTopic] = []
        for var topic in request.topics {
            if byID, let found = image.byID[topic.topicId] { topic.name = found.name }
            if image.byName[topic.name] != nil {
                known.topics.append(topic)
            } else {
                unknown.append(Self.refused(topic, byID ? .unknownTopicId : .unknownTopicOrPartition))
            }
        }
        let refusedTopics = unknown
        let asked = known
        if asked.topics.isEmpty { return reply(OffsetCommitResponse(topics: refusedTopics)) }
        submit(request.groupId, .commitOffsets(asked, origin)) { outcome in
            var response = OffsetCommitResponse()
            switch outcome {
            case .response(.commitOffsets(let committed)): response = committed
            case .failed(let code):
                // A commit that the log finds too big is told so in the words of this API.
                let told: ErrorCode = code == .unknownServerError ? .invalidCommitOffsetSize : code
                response.topics = asked.topics.map { Self.refused($0, told) }
            default: response.topics = asked.topics.map { Self.refused($0, .unknownServerError) }
            }
            response.topics += refusedTopics
            reply(response)
        }
    }

    private static func refused(
        _ topic: OffsetCommitRequest.OffsetCommitRequestTopic,
        _ code: ErrorCode
    ) -> OffsetCommitResponse.OffsetCommitResponseTopic {
        .init(
            name: topic.name,
            topicId: topic.topicId,
            partitions: topic.partitions.map { .init(partitionIndex: $0.partitionIndex, errorCode: code.rawValue) }
        )
    }

    // MARK: Fetch

    func fetchOffsets(
        _ request: OffsetFetchRequest,
        _ origin: RequestOrigin,
        _ reply: @escaping Reply<OffsetFetchResponse>
    ) {
        guard origin.apiVersion < 8 else { return fetchOffsetsOfGroups(request, origin, reply) }
        let group = OffsetFetchRequest.OffsetFetchRequestGroup(
            groupId: request.groupId,
            topics: request.topics?.map { .init(name: $0.name, partitionIndexes: $0.partitionIndexes) }
        )
        submit(request.groupId, .fetchOffsets(group, requireStable: request.requireStable)) { outcome in
            let fetched = Self.fetched(group, outcome)
            var response = OffsetFetchResponse(errorCode: fetched.errorCode)
            response.topics = fetched.topics.map { topic in
                .init(
                    name: topic.name,
                    partitions: topic.partitions.map {
                        .init(
                            partitionIndex: $0.partitionIndex,
                            committedOffset: $0.committedOffset,
                            committedLeaderEpoch: $0.committedLeaderEpoch,
                            metadata: $0.metadata,
                            errorCode: $0.errorCode
                        )
                    }
                )
            }
            if fetched.errorCode != 0 && origin.apiVersion < 2 {
                // Version 1 has no place for an error of the group.
                response.topics = Self.refused(group, ErrorCode(rawValue: fetched.errorCode))
            }
            reply(response)
        }
    }

    private static func refused(
        _ group: OffsetFetchRequest.OffsetFetchRequestGroup,
        _ code: ErrorCode
    ) -> [OffsetFetchResponse.OffsetFetchResponseTopic] {
        (group.topics ?? []).map { topic in
            .init(
                name: topic.name,
                partitions: topic.partitionIndexes.map {
                    .init(partitionIndex: $0, committedOffset: -1, metadata: "", errorCode: code.rawValue)
                }
            )
        }
    }

    private static func fetched(
        _ group: OffsetFetchRequest.OffsetFetchRequestGroup,
        _ outcome: GroupOutcome
    ) -> OffsetFetchResponse.OffsetFetchResponseGroup {
        switch outcome {
        case .response(.fetchOffsets(let response)): response
        case .failed(let code): .init(groupId: group.groupId, errorCode: code.rawValue)
        default: .init(groupId: group.groupId, errorCode: ErrorCode.unknownServerError.rawValue)
        }
    }

    /// Versions 8 and later: many groups, and from 10 on topics by id.
    private func fetchOffsetsOfGroups(
        _ request: OffsetFetchRequest,
        _ origin: RequestOrigin,
        _ reply: @escaping Reply<OffsetFetchResponse>
    ) {
        let image = access.topicImage()
        let byID = origin.apiVersion >= 10
        let calls = request.groups.map { group in
            { (done: @escaping GroupCompletion) in
                var known = group
                if byID {
                    known.topics = group.topics?.compactMap { topic in
                        guard let found = image.byID[topic.topicId] else { return nil }
                        return .init(
                            name: found.name,
                            topicId: topic.topicId,
                            partitionIndexes: topic.partitionIndexes
                        )
                    }
                }
                self.submit(group.groupId, .fetchOffsets(known, requireStable: request.requireStable), done)
            }
        }
        gather(calls) { outcomes in
            var response = OffsetFetchResponse()
            for (group, outcome) in zip(request.groups, outcomes) {
                var fetched = Self.fetched(group, outcome)
                if byID && fetched.errorCode == 0 { Self.nameByID(&fetched, group, image) }
                response.groups.append(fetched)
            }
            reply(response)
        }
    }

    /// Fills in the ids of topics that were found by name, leaves out those that are gone, and refuses the ids that
    /// nobody knows.
    private static func nameByID(
        _ fetched: inout OffsetFetchResponse.OffsetFetchResponseGroup,
        _ asked: OffsetFetchRequest.OffsetFetchRequestGroup,
        _ image: GroupTopicImage
    ) {
        fetched.topics = fetched.topics.compactMap { topic in
            guard let found = image.byName[topic.name] else { return nil }
            var topic = topic
            topic.topicId = found.id
            return topic
        }
        for topic in asked.topics ?? [] where image.byID[topic.topicId] == nil {
            fetched.topics.append(
                .init(
                    topicId: topic.topicId,
                    partitions: topic.partitionIndexes.map {
                        .init(
                            partitionIndex: $0,
                            committedOffset: -1,
                            metadata: "",
                            errorCode: ErrorCode.unknownTopicId.rawValue
                        )
                    }
                )
            )
        }
    }

    // MARK: Delete

    func deleteOffsets(_ request: OffsetDeleteRequest, _ reply: @escaping Reply<OffsetDeleteResponse>) {
        guard hasShards else {
            return reply(OffsetDeleteResponse(errorCode: ErrorCode.groupIdNotFound.rawValue))
        }
        submit(request.groupId, .deleteOffsets(request)) { outcome in
            switch outcome {
            case .response(.deleteOffsets(let response)): reply(response)
            case .failed(let code): reply(OffsetDeleteResponse(errorCode: code.rawValue))
            default: reply(OffsetDeleteResponse(errorCode: ErrorCode.unknownServerError.rawValue))
            }
        }
    }
}
