// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// The APIs of the share coordinator: how leaders of partitions on other nodes keep what share groups have read, and how
/// groups' coordinators begin and end that. A node that is both asks itself directly.
struct ShareStateHandlers: Sendable {
    let services: BrokerServices

    /// What is asked of the partitions of one topic.
    private typealias Question = (topic: TopicID, partitions: [(index: Int32, event: ShareStateEvent)])
    /// What came back.
    private typealias Reply = (topic: TopicID, partitions: [(index: Int32, answer: ShareStateAnswer)])

    /// Asks for many share partitions; the answers come as the questions were put.
    private func ask(
        _ groupID: String,
        _ questions: [Question],
        _ context: RequestContext,
        _ done: @escaping @Sendable ([Reply]) -> Void
    ) {
        let events = questions.flatMap { question in
            question.partitions.map { (topic: question.topic, partition: $0.index, event: $0.event) }
        }
        ask(groupID, events, context) { answers in
            var rest = answers[...]
            done(
                questions.map { question in
                    let own = rest.prefix(question.partitions.count)
                    rest = rest.dropFirst(own.count)
                    return (question.topic, zip(question.partitions, own).map { ($0.index, $1) })
                }
            )
        }
    }

    /// Asks for many share partitions; those that do not exist are refused here.
    private func ask(
        _ groupID: String,
        _ events: [(topic: TopicID, partition: Int32, event: ShareStateEvent)],
        _ context: RequestContext,
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
        let finish: @Sendable ([ShareStateAnswer]) -> Void = { found in
            var answers = refused
            for (place, answer) in zip(positions, found) { answers[place] = answer }
            done(answers)
        }
        guard let sender = PeerFence.Sender(.shareStates, clientID: context.clientID) else {
            return services.shareStates.askAll(sent, finish)
        }
        if sent.isEmpty { return finish([]) }
        let asked = sent
        let gathering = ResultsInOrder(asked.count, finish)
        let tickets = services.fence.pass(sender) {
            asked.enumerated().map { index, item in
                services.shareStates.submitHere(item.event, of: item.key) { gathering.put($0, at: index) }
            }
        }
        guard let tickets else { return context.closeConnection("the sender has made a newer connection") }
        for (index, ticket) in tickets.enumerated() {
            ticket.proceed()
            if let refusal = ticket.refusal { gathering.put(refusal, at: index) }
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
        let questions = request.topics.map { topic -> Question in
            (
                topic.topicId,
                topic.partitions.map {
                    ($0.partition, .initialize(stateEpoch: $0.stateEpoch, startOffset: $0.startOffset))
                }
            )
        }
        ask(request.groupId, questions, context) { replies in
            for topic in request.topics { services.shares.reset(request.groupId, topics: [topic.topicId]) }
            context.respond(
                InitializeShareGroupStateResponse(
                    results: replies.map { topic, partitions in
                        .init(
                            topicId: topic,
                            partitions: partitions.map {
                                .init(partition: $0, errorCode: $1.code.rawValue, errorMessage: $1.message)
                            }
                        )
                    }
                )
            )
        }
    }

    func read(_ request: ReadShareGroupStateRequest, _ context: RequestContext) {
        let questions = request.topics.map { topic -> Question in
            (topic.topicId, topic.partitions.map { ($0.partition, .read(leaderEpoch: $0.leaderEpoch)) })
        }
        ask(request.groupId, questions, context) { replies in
            context.respond(
                ReadShareGroupStateResponse(
                    results: replies.map { topic, partitions in
                        .init(topicId: topic, partitions: partitions.map { Self.readResult($0, $1) })
                    }
                )
            )
        }
    }

    private static func readResult(
        _ partition: Int32,
        _ answer: ShareStateAnswer
    ) -> ReadShareGroupStateResponse.PartitionResult {
        .init(
            partition: partition,
            errorCode: answer.code.rawValue,
            errorMessage: answer.message,
            stateEpoch: answer.state.stateEpoch,
            startOffset: answer.state.startOffset,
            stateBatches: answer.state.batches.map {
                .init(
                    firstOffset: $0.first,
                    lastOffset: $0.last,
                    deliveryState: $0.state.rawValue,
                    deliveryCount: $0.deliveryCount
                )
            }
        )
    }

    func write(_ request: WriteShareGroupStateRequest, _ context: RequestContext) {
        let questions = request.topics.map { topic -> Question in
            (topic.topicId, topic.partitions.map { ($0.partition, .write(ShareStateWrite($0))) })
        }
        ask(request.groupId, questions, context) { replies in
            context.respond(
                WriteShareGroupStateResponse(
                    results: replies.map { topic, partitions in
                        .init(
                            topicId: topic,
                            partitions: partitions.map {
                                .init(partition: $0, errorCode: $1.code.rawValue, errorMessage: $1.message)
                            }
                        )
                    }
                )
            )
        }
    }

    func delete(_ request: DeleteShareGroupStateRequest, _ context: RequestContext) {
        let questions = request.topics.map { topic -> Question in
            (topic.topicId, topic.partitions.map { ($0.partition, .delete) })
        }
        ask(request.groupId, questions, context) { replies in
            for topic in request.topics { services.shares.reset(request.groupId, topics: [topic.topicId]) }
            context.respond(
                DeleteShareGroupStateResponse(
                    results: replies.map { topic, partitions in
                        .init(
                            topicId: topic,
                            partitions: partitions.map {
                                .init(partition: $0, errorCode: $1.code.rawValue, errorMessage: $1.message)
                            }
                        )
                    }
                )
            )
        }
    }

    func summary(_ request: ReadShareGroupStateSummaryRequest, _ context: RequestContext) {
        let questions = request.topics.map { topic -> Question in
            (topic.topicId, topic.partitions.map { ($0.partition, .summary(leaderEpoch: $0.leaderEpoch)) })
        }
        ask(request.groupId, questions, context) { replies in
            context.respond(
                ReadShareGroupStateSummaryResponse(
                    results: replies.map { topic, partitions in
                        .init(topicId: topic, partitions: partitions.map { Self.summaryResult($0, $1) })
                    }
                )
            )
        }
    }

    private static func summaryResult(
        _ partition: Int32,
        _ answer: ShareStateAnswer
    ) -> ReadShareGroupStateSummaryResponse.PartitionResult {
        .init(
            partition: partition,
            errorCode: answer.code.rawValue,
            errorMessage: answer.message,
            stateEpoch: answer.state.stateEpoch,
            leaderEpoch: answer.state.leaderEpoch,
            startOffset: answer.state.startOffset,
            deliveryCompleteCount: answer.state.deliveryCompleteCount
        )
    }
}

extension ShareStateWrite {
    /// What the leader of a partition on another node wants written.
    fileprivate init(_ partition: WriteShareGroupStateRequest.PartitionData) {
        self.init(
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
