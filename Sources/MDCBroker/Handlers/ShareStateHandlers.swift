// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// The APIs of the share coordinator: how leaders of partitions on other nodes would keep what share groups have read.
/// A node that leads both asks itself directly.
struct ShareStateHandlers: Sendable {
    let services: BrokerServices

    /// Asks for many share partitions; those that do not exist are refused here.
    private func ask(
        _ groupID: String,
        _ events: [(topic: TopicID, partition: Int32, event: ShareStateEvent)],
        _ done: @escaping @Sendable ([ShareStateAnswer]) -> Void
    ) {
        let image = services.metadata.image
        var answers = [ShareStateAnswer](repeating: ShareStateAnswer(), count: events.count)
        var sent: [(key: SharePartitionKey, event: ShareStateEvent)] = []
        var places: [Int] = []
        for (place, item) in events.enumerated() {
            if groupID.isEmpty {
                answers[place] = .refusal(.invalidRequest, "name the group")
            } else if item.partition < 0
                || image.topic(item.topic).map({ $0.partitions.count <= Int(item.partition) }) ?? true
            {
                answers[place] = .refusal(.unknownTopicOrPartition, "there is no such partition")
            } else if let refusal = refusal(item.event, item.topic, item.partition) {
                answers[place] = refusal
            } else {
                sent.append((SharePartitionKey(groupID, item.topic, item.partition), item.event))
                places.append(place)
            }
        }
        let (refused, positions) = (answers, places)
        services.shareStates.askAll(sent) { found in
            var answers = refused
            for (place, answer) in zip(positions, found) { answers[place] = answer }
            done(answers)
        }
    }

    /// What is wrong with an event that came over the network: numbers that no leader could mean.
    private func refusal(_ event: ShareStateEvent, _ topic: TopicID, _ partition: Int32) -> ShareStateAnswer? {
        let offsets = Int64(-1)...Int64(1) << 62
        switch event {
        case .initialize(let stateEpoch, let startOffset):
            guard (0..<Int32.max).contains(stateEpoch), offsets.contains(startOffset) else {
                return .refusal(.invalidRequest, "the state epoch or the start offset is out of range")
            }
        case .read(let leaderEpoch), .summary(let leaderEpoch): return refusal(leaderEpoch, topic, partition)
        case .write(let write):
            let isSound = write.batches.allSatisfy {
                $0.first >= 0 && $0.first <= $0.last && offsets.contains($0.last) && $0.state != .acquired
                    && (0...1_000).contains($0.deliveryCount)
            }
            guard isSound, (0..<Int32.max).contains(write.stateEpoch), offsets.contains(write.startOffset) else {
                return .refusal(.invalidRequest, "the state epoch, the start offset or a batch is out of range")
            }
            return refusal(write.leaderEpoch, topic, partition)
        case .restart, .delete: break
        }
        return nil
    }

    /// Who claims to lead in an epoch that has not come would shut out the real leader.
    private func refusal(_ leaderEpoch: Int32, _ topic: TopicID, _ partition: Int32) -> ShareStateAnswer? {
        guard case .found(let found) = services.partitions.find(id: topic, partition: partition),
            leaderEpoch > found.leaderEpoch.rawValue
        else { return nil }
        return .refusal(.unknownLeaderEpoch, "the leader epoch is \(found.leaderEpoch)")
    }

    func initialize(_ request: InitializeShareGroupStateRequest, _ context: RequestContext) {
        let events = request.topics.flatMap { topic in
            topic.partitions.map {
                (
                    topic.topicId, $0.partition,
                    ShareStateEvent.initialize(stateEpoch: $0.stateEpoch, startOffset: $0.startOffset)
                )
            }
        }
        ask(request.groupId, events) { answers in
            var answer = answers.makeIterator()
            for topic in request.topics { services.shares.reset(request.groupId, topics: [topic.topicId]) }
            context.respond(
                InitializeShareGroupStateResponse(
                    results: request.topics.map { topic in
                        .init(
                            topicId: topic.topicId,
                            partitions: topic.partitions.map {
                                let found = answer.next() ?? ShareStateAnswer()
                                return .init(
                                    partition: $0.partition,
                                    errorCode: found.code.rawValue,
                                    errorMessage: found.message
                                )
                            }
                        )
                    }
                )
            )
        }
    }

    func read(_ request: ReadShareGroupStateRequest, _ context: RequestContext) {
        let events = request.topics.flatMap { topic in
            topic.partitions.map {
                (topic.topicId, $0.partition, ShareStateEvent.read(leaderEpoch: $0.leaderEpoch))
            }
        }
        ask(request.groupId, events) { answers in
            var answer = answers.makeIterator()
            context.respond(
                ReadShareGroupStateResponse(
                    results: request.topics.map { topic in
                        .init(
                            topicId: topic.topicId,
                            partitions: topic.partitions.map {
                                let found = answer.next() ?? ShareStateAnswer()
                                return .init(
                                    partition: $0.partition,
                                    errorCode: found.code.rawValue,
                                    errorMessage: found.message,
                                    stateEpoch: found.state.stateEpoch,
                                    startOffset: found.state.startOffset,
                                    stateBatches: found.state.batches.map {
                                        .init(
                                            firstOffset: $0.first,
                                            lastOffset: $0.last,
                                            deliveryState: $0.state.rawValue,
                                            deliveryCount: $0.deliveryCount
                                        )
                                    }
                                )
                            }
                        )
                    }
                )
            )
        }
    }

    func write(_ request: WriteShareGroupStateRequest, _ context: RequestContext) {
        let events = request.topics.flatMap { topic in
            topic.partitions.map { partition in
                let write = ShareStateWrite(
                    stateEpoch: partition.stateEpoch,
                    leaderEpoch: partition.leaderEpoch,
                    startOffset: partition.startOffset,
                    deliveryCompleteCount: partition.deliveryCompleteCount,
                    batches: partition.stateBatches.map {
                        ShareStateBatch(
                            first: $0.firstOffset,
                            last: $0.lastOffset,
                            state: ShareDeliveryState(rawValue: $0.deliveryState) ?? .available,
                            deliveryCount: $0.deliveryCount
                        )
                    }
                )
                return (topic.topicId, partition.partition, ShareStateEvent.write(write))
            }
        }
        ask(request.groupId, events) { answers in
            var answer = answers.makeIterator()
            context.respond(
                WriteShareGroupStateResponse(
                    results: request.topics.map { topic in
                        .init(
                            topicId: topic.topicId,
                            partitions: topic.partitions.map {
                                let found = answer.next() ?? ShareStateAnswer()
                                return .init(
                                    partition: $0.partition,
                                    errorCode: found.code.rawValue,
                                    errorMessage: found.message
                                )
                            }
                        )
                    }
                )
            )
        }
    }

    func delete(_ request: DeleteShareGroupStateRequest, _ context: RequestContext) {
        let events = request.topics.flatMap { topic in
            topic.partitions.map { (topic.topicId, $0.partition, ShareStateEvent.delete) }
        }
        ask(request.groupId, events) { answers in
            var answer = answers.makeIterator()
            for topic in request.topics { services.shares.reset(request.groupId, topics: [topic.topicId]) }
            context.respond(
                DeleteShareGroupStateResponse(
                    results: request.topics.map { topic in
                        .init(
                            topicId: topic.topicId,
                            partitions: topic.partitions.map {
                                let found = answer.next() ?? ShareStateAnswer()
                                return .init(
                                    partition: $0.partition,
                                    errorCode: found.code.rawValue,
                                    errorMessage: found.message
                                )
                            }
                        )
                    }
                )
            )
        }
    }

    func summary(_ request: ReadShareGroupStateSummaryRequest, _ context: RequestContext) {
        let events = request.topics.flatMap { topic in
            topic.partitions.map {
                (topic.topicId, $0.partition, ShareStateEvent.summary(leaderEpoch: $0.leaderEpoch))
            }
        }
        ask(request.groupId, events) { answers in
            var answer = answers.makeIterator()
            context.respond(
                ReadShareGroupStateSummaryResponse(
                    results: request.topics.map { topic in
                        .init(
                            topicId: topic.topicId,
                            partitions: topic.partitions.map {
                                let found = answer.next() ?? ShareStateAnswer()
                                return .init(
                                    partition: $0.partition,
                                    errorCode: found.code.rawValue,
                                    errorMessage: found.message,
                                    stateEpoch: found.state.stateEpoch,
                                    leaderEpoch: found.state.leaderEpoch,
                                    startOffset: found.state.startOffset,
                                    deliveryCompleteCount: found.state.deliveryCompleteCount
                                )
                            }
                        )
                    }
                )
            )
        }
    }
}

extension HandlerTable {
    /// The APIs of share groups (KIP-932).
    mutating func registerShareHandlers(_ services: BrokerServices) {
        let groups = services.groups
        register(ShareGroupHeartbeatRequest.self) { request, context in
            groups.shareGroupHeartbeat(request, context.origin) { context.respond($0) }
        }
        register(ShareGroupDescribeRequest.self) { request, context in
            groups.describeShareGroups(request) { context.respond($0) }
        }
        register(ShareFetchRequest.self, ShareFetchHandler(services: services).handle)
        register(ShareAcknowledgeRequest.self, ShareAcknowledgeHandler(services: services).handle)
        register(
            DescribeShareGroupOffsetsRequest.self,
            DescribeShareGroupOffsetsHandler(services: services).handle
        )
        register(AlterShareGroupOffsetsRequest.self, AlterShareGroupOffsetsHandler(services: services).handle)
        register(DeleteShareGroupOffsetsRequest.self, DeleteShareGroupOffsetsHandler(services: services).handle)
        let states = ShareStateHandlers(services: services)
        register(InitializeShareGroupStateRequest.self, states.initialize)
        register(ReadShareGroupStateRequest.self, states.read)
        register(WriteShareGroupStateRequest.self, states.write)
        register(DeleteShareGroupStateRequest.self, states.delete)
        register(ReadShareGroupStateSummaryRequest.self, states.summary)
    }
}
