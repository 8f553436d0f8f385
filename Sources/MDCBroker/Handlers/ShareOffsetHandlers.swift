// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol

/// DescribeShareGroupOffsets, versions 0–1 (1 tells the lag).
struct DescribeShareGroupOffsetsHandler: Sendable {
    let services: BrokerServices

    private typealias Group = DescribeShareGroupOffsetsResponse.DescribeShareGroupOffsetsResponseGroup
    private typealias Topic = DescribeShareGroupOffsetsResponse.DescribeShareGroupOffsetsResponseTopic

    func handle(_ request: DescribeShareGroupOffsetsRequest, _ context: RequestContext) {
        next(request.groups[...], [], context)
    }

    /// One group after the other: administrators ask, and rarely for many.
    private func next(
        _ left: ArraySlice<DescribeShareGroupOffsetsRequest.DescribeShareGroupOffsetsRequestGroup>,
        _ done: [Group],
        _ context: RequestContext
    ) {
        guard let asked = left.first else { return context.respond(DescribeShareGroupOffsetsResponse(groups: done)) }
        services.groups.shareSummary(asked.groupId) { result in
            switch result {
            case .failure(let code):
                let refused = Group(
                    groupId: asked.groupId,
                    errorCode: code.rawValue,
                    errorMessage: "Group \(asked.groupId) is not a share group here."
                )
                next(left.dropFirst(), done + [refused], context)
            case .success(let summary):
                describe(asked, summary) { next(left.dropFirst(), done + [$0], context) }
            }
        }
    }

    private func describe(
        _ asked: DescribeShareGroupOffsetsRequest.DescribeShareGroupOffsetsRequestGroup,
        _ summary: ShareGroupSummary,
        _ done: @escaping @Sendable (Group) -> Void
    ) {
        let image = services.metadata.image
        var wanted: [(name: String, id: TopicID, partitions: [Int32])] = []
        if let topics = asked.topics {
            wanted = topics.map { ($0.topicName, image.topic($0.topicName)?.id ?? .zero, $0.partitions) }
        } else {
            wanted = summary.initialized.map { ($0.value.name, $0.key, $0.value.partitions) }.sorted { $0.0 < $1.0 }
        }
        let topics = wanted
        let events = topics.flatMap { topic in
            topic.partitions.map {
                (SharePartitionKey(asked.groupId, topic.id, $0), ShareStateEvent.summary(leaderEpoch: -1))
            }
        }
        services.shareStates.askAll(events) { answers in
            var group = Group(groupId: asked.groupId)
            var position = 0
            for topic in topics {
                var described = Topic(topicName: topic.name, topicId: topic.id)
                for index in topic.partitions {
                    described.partitions.append(describe(topic.name, index, answers[position]))
                    position += 1
                }
                group.topics.append(described)
            }
            done(group)
        }
    }

    private func describe(
        _ topic: String,
        _ index: Int32,
        _ answer: ShareStateAnswer
    ) -> DescribeShareGroupOffsetsResponse.DescribeShareGroupOffsetsResponsePartition {
        var described = DescribeShareGroupOffsetsResponse.DescribeShareGroupOffsetsResponsePartition(
            partitionIndex: index,
            startOffset: answer.state.startOffset,
            leaderEpoch: max(answer.state.leaderEpoch, 0),
            lag: -1,
            errorCode: answer.code.rawValue,
            errorMessage: answer.message
        )
        switch services.find(topic, index) {
        // Its end, and so the lag, is known where it is led.
        case .failure(let refusal) where refusal.code == .notLeaderOrFollower: break
        case .failure(let refusal):
            described.errorCode = refusal.code.rawValue
            described.errorMessage = refusal.message
        case .success(let partition):
            guard answer.state.startOffset >= 0 else { break }
            let start = max(answer.state.startOffset, partition.log.logStartOffset.rawValue)
            let behind = partition.highWatermark.rawValue - start
            described.lag = max(0, behind - Int64(max(answer.state.deliveryCompleteCount, 0)))
        }
        return described
    }
}

/// AlterShareGroupOffsets, version 0: moves a group that has no members.
struct AlterShareGroupOffsetsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: AlterShareGroupOffsetsRequest, _ context: RequestContext) {
        services.groups.shareSummary(request.groupId) { result in
            switch result {
            case .failure(let code): refuse(context, code, "Group \(request.groupId) is not a share group here.")
            case .success(let summary) where !summary.isEmpty:
                refuse(context, .nonEmptyGroup, "Group \(request.groupId) has members; stop them first.")
            case .success: alter(request, context)
            }
        }
    }

    private func refuse(_ context: RequestContext, _ code: ErrorCode, _ message: String) {
        context.connection.worker.metrics.failed(.alterShareGroupOffsets, code)
        context.respond(AlterShareGroupOffsetsResponse(errorCode: code.rawValue, errorMessage: message))
    }

    private func alter(_ request: AlterShareGroupOffsetsRequest, _ context: RequestContext) {
        let image = services.metadata.image
        var events: [(key: SharePartitionKey, event: ShareStateEvent)] = []
        var response = AlterShareGroupOffsetsResponse()
        for topic in request.topics {
            let known = image.topic(topic.topicName)
            var answered = AlterShareGroupOffsetsResponse.AlterShareGroupOffsetsResponseTopic(
                topicName: topic.topicName,
                topicId: known?.id ?? .zero
            )
            for partition in topic.partitions {
                var code = ErrorCode.none
                if known?.partitions.indices.contains(Int(partition.partitionIndex)) ?? false {
                    if !(0...Int64(1) << 62).contains(partition.startOffset) { code = .offsetOutOfRange }
                } else {
                    code = .unknownTopicOrPartition
                }
                if code == .none {
                    events.append(
                        (
                            SharePartitionKey(request.groupId, answered.topicId, partition.partitionIndex),
                            .restart(startOffset: partition.startOffset)
                        )
                    )
                }
                answered.partitions.append(
                    .init(
                        partitionIndex: partition.partitionIndex,
                        errorCode: code.rawValue,
                        errorMessage: code == .none ? nil : "\(code)"
                    )
                )
            }
            response.responses.append(answered)
        }
        let (sent, prepared) = (events, response)
        services.shareStates.askAll(sent) { answers in
            var response = prepared
            var failed: [SharePartitionKey: ShareStateAnswer] = [:]
            for (event, answer) in zip(sent, answers) where answer.code != .none { failed[event.key] = answer }
            for index in response.responses.indices {
                let topicID = response.responses[index].topicId
                for position in response.responses[index].partitions.indices {
                    let partition = response.responses[index].partitions[position].partitionIndex
                    guard let answer = failed[SharePartitionKey(request.groupId, topicID, partition)] else { continue }
                    response.responses[index].partitions[position].errorCode = answer.code.rawValue
                    response.responses[index].partitions[position].errorMessage = answer.message
                }
            }
            let moved = sent.map(\.key).filter { failed[$0] == nil }
            services.shares.reset(request.groupId, topics: Set(moved.map(\.topicID)))
            let partitions = PartitionSet(
                Dictionary(grouping: moved, by: \.topicID).map { ($0.key, $0.value.map(\.partition)) }
            )
            let finished = response
            services.groups.submit(
                request.groupId,
                .shareInitialized(groupID: request.groupId, partitions)
            ) { _ in context.respond(finished) }
        }
    }
}

/// DeleteShareGroupOffsets, version 0: a group that has no members forgets topics.
struct DeleteShareGroupOffsetsHandler: Sendable {
    let services: BrokerServices

    func handle(_ request: DeleteShareGroupOffsetsRequest, _ context: RequestContext) {
        services.groups.shareSummary(request.groupId) { result in
            switch result {
            case .failure(let code): refuse(context, code, "Group \(request.groupId) is not a share group here.")
            case .success(let summary) where !summary.isEmpty:
                refuse(context, .nonEmptyGroup, "Group \(request.groupId) has members; stop them first.")
            case .success(let summary): delete(request, summary, context)
            }
        }
    }

    private func refuse(_ context: RequestContext, _ code: ErrorCode, _ message: String) {
        context.connection.worker.metrics.failed(.deleteShareGroupOffsets, code)
        context.respond(DeleteShareGroupOffsetsResponse(errorCode: code.rawValue, errorMessage: message))
    }

    private func delete(
        _ request: DeleteShareGroupOffsetsRequest,
        _ summary: ShareGroupSummary,
        _ context: RequestContext
    ) {
        let image = services.metadata.image
        var events: [(key: SharePartitionKey, event: ShareStateEvent)] = []
        var response = DeleteShareGroupOffsetsResponse()
        for topic in request.topics {
            guard let known = image.topic(topic.topicName) else {
                response.responses.append(
                    .init(
                        topicName: topic.topicName,
                        errorCode: ErrorCode.unknownTopicOrPartition.rawValue,
                        errorMessage: "there is no topic \(topic.topicName)"
                    )
                )
                continue
            }
            response.responses.append(.init(topicName: topic.topicName, topicId: known.id))
            events += (summary.initialized[known.id]?.partitions ?? []).map {
                (SharePartitionKey(request.groupId, known.id, $0), .delete)
            }
        }
        let (sent, prepared) = (events, response)
        services.shareStates.askAll(sent) { answers in
            var response = prepared
            for (event, answer) in zip(sent, answers) where answer.code != .none {
                for index in response.responses.indices where response.responses[index].topicId == event.key.topicID {
                    response.responses[index].errorCode = answer.code.rawValue
                    response.responses[index].errorMessage = answer.message
                }
            }
            let gone = response.responses.filter { $0.errorCode == 0 }.map(\.topicId)
            services.shares.reset(request.groupId, topics: Set(gone))
            let finished = response
            services.groups.submit(request.groupId, .shareForgotten(groupID: request.groupId, gone)) { _ in
                context.respond(finished)
            }
        }
    }
}
