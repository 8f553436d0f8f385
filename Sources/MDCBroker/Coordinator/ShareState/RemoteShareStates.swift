// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel
import MDCProtocol
import Synchronization

/// What a share coordinator on another node is asked: in order for each share partition, one request under way at a time, again
/// where it is not answered or the coordinator has moved. What is asked again may have been carried out already: states are set,
/// not counted up, so that twice is as good as once, and ``PeerFence`` keeps the first from coming after the second.
final class RemoteShareStates: Sendable {
    typealias Completion = @Sendable (ShareStateAnswer) -> Void

    /// What it needs of the node.
    struct Node: Sendable {
        /// Where the share coordinator of a share partition is.
        var place: @Sendable (SharePartitionKey) -> LeaderPlace
        /// Asks the coordinator on this node.
        var askHere: @Sendable (ShareStateEvent, SharePartitionKey, @escaping Completion) -> Void
        /// Asks the one on another; nil comes back where there is no answer.
        var askNode:
            @Sendable (Int32, ShareStateEvent, SharePartitionKey, @escaping @Sendable (ShareStateAnswer?) -> Void) ->
                Void
        /// Runs work after some milliseconds.
        var schedule: @Sendable (Int64, @escaping @Sendable () -> Void) -> Void
        /// The monotonic clock, in milliseconds.
        var now: @Sendable () -> Int64
    }

    private struct Item: Sendable {
        var event: ShareStateEvent
        var completion: Completion
        /// Until when it is asked again.
        var deadline: Int64
        var failures = 0
    }

    private struct State {
        /// By share partition; the first is under way, or waits for its next attempt.
        var queues: [SharePartitionKey: Deque<Item>] = [:]
        var isStopped = false
    }

    /// Milliseconds for which an event is tried.
    private static let patience: Int64 = 10_000
    /// More changes than this of a share partition are not kept waiting.
    private static let capacity = 1_000

    private let node: Node
    private let state = Mutex(State())

    init(_ node: Node) { self.node = node }

    /// Whether an event must come here: its coordinator is elsewhere, or events before it are still under way.
    func takes(_ key: SharePartitionKey) -> Bool {
        if node.place(key) != .here { return true }
        return state.withLock { $0.queues[key] != nil }
    }

    /// Puts an event behind all earlier ones of the share partition; what is returned has to be run with no lock of the
    /// caller's held. The answer comes by `completion`.
    func enqueue(
        _ event: ShareStateEvent,
        of key: SharePartitionKey,
        _ completion: @escaping Completion
    ) -> @Sendable () -> Void {
        let item = Item(event: event, completion: completion, deadline: node.now() + Self.patience)
        let (isTaken, isFirst) = state.withLock { state -> (Bool, Bool) in
            guard !state.isStopped, (state.queues[key]?.count ?? 0) < Self.capacity else { return (false, false) }
            state.queues[key, default: []].append(item)
            return (true, state.queues[key]?.count == 1)
        }
        guard isTaken else {
            return {
                completion(.refusal(.coordinatorNotAvailable, "too much waits for the share coordinator; ask again"))
            }
        }
        return { if isFirst { self.attempt(key) } }
    }

    /// Nobody is asked any more.
    func stop() {
        let left = state.withLock { state in
            state.isStopped = true
            defer { state.queues = [:] }
            return state.queues.values.flatMap { $0 }
        }
        for item in left { item.completion(.refusal(.notCoordinator, "the node stops")) }
    }

    private func attempt(_ key: SharePartitionKey) {
        guard let item = state.withLock({ $0.queues[key]?.first }) else { return }
        switch node.place(key) {
        case .here: node.askHere(item.event, key) { self.answered(key, $0) }
        case .node(let remote): node.askNode(remote, item.event, key) { self.answered(key, $0) }
        case .nowhere, .gone: answered(key, nil)
        }
    }

    private func answered(_ key: SharePartitionKey, _ answer: ShareStateAnswer?) {
        let now = node.now()
        var done: (Item, ShareStateAnswer)?
        var pause: Int64?
        state.withLock { state in
            guard var item = state.queues[key]?.first else { return }
            if Self.isTransient(answer), now < item.deadline {
                item.failures += 1
                pause = min(20 << Int64(min(item.failures, 5)), 500)
                state.queues[key]?[0] = item
                return
            }
            state.queues[key]?.removeFirst()
            if state.queues[key]?.isEmpty == true { state.queues[key] = nil }
            done = (
                item, answer ?? .refusal(.coordinatorNotAvailable, "the share coordinator does not answer; ask again")
            )
        }
        if let pause { return node.schedule(pause) { self.attempt(key) } }
        guard let (item, answer) = done else { return }
        item.completion(answer)
        attempt(key)
    }

    /// Whether the same may go well a moment later.
    private static func isTransient(_ answer: ShareStateAnswer?) -> Bool {
        switch answer?.code {
        case nil, .coordinatorLoadInProgress?, .coordinatorNotAvailable?, .notCoordinator?, .requestTimedOut?,
            // It has not heard of the topic, or of its new leader, yet.
            .unknownTopicOrPartition?, .unknownLeaderEpoch?, .notLeaderOrFollower?, .notEnoughReplicas?,
            .notEnoughReplicasAfterAppend?:
            true
        default: false
        }
    }
}

// MARK: - On the wire

extension PeerRequests {
    /// Milliseconds for which a share coordinator's answer is waited for.
    private static let shareTimeout: Int64 = 4_000

    /// Asks the share coordinator on another node; nil where there is no answer.
    func ask(
        _ remote: Int32,
        _ event: ShareStateEvent,
        of key: SharePartitionKey,
        _ done: @escaping @Sendable (ShareStateAnswer?) -> Void
    ) {
        switch event {
        case .initialize(let stateEpoch, let startOffset):
            let request = InitializeShareGroupStateRequest(
                groupId: key.groupID,
                topics: [
                    .init(
                        topicId: key.topicID,
                        partitions: [.init(partition: key.partition, stateEpoch: stateEpoch, startOffset: startOffset)]
                    )
                ]
            )
            send(request, version: 0, to: remote, .shareStates, within: Self.shareTimeout) { response in
                let result = response?.results.first?.partitions.first
                done(result.map { ShareStateAnswer(code: ErrorCode(rawValue: $0.errorCode), message: $0.errorMessage) })
            }
        case .restart(let startOffset):
            // There is no word for it: the state's epoch is asked for, and the next one begun.
            ask(remote, .summary(leaderEpoch: -1), of: key) { answer in
                guard let answer, answer.code == .none else { return done(answer) }
                let next = answer.state == .absent ? 1 : answer.state.stateEpoch + 1
                self.ask(remote, .initialize(stateEpoch: next, startOffset: startOffset), of: key, done)
            }
        case .read(let leaderEpoch): read(remote, leaderEpoch, key, done)
        case .write(let write): self.write(remote, write, key, done)
        case .delete:
            let request = DeleteShareGroupStateRequest(
                groupId: key.groupID,
                topics: [.init(topicId: key.topicID, partitions: [.init(partition: key.partition)])]
            )
            send(request, version: 0, to: remote, .shareStates, within: Self.shareTimeout) { response in
                let result = response?.results.first?.partitions.first
                done(result.map { ShareStateAnswer(code: ErrorCode(rawValue: $0.errorCode), message: $0.errorMessage) })
            }
        case .summary(let leaderEpoch): summary(remote, leaderEpoch, key, done)
        }
    }

    /// What an answer looks like where nobody made a state: the first epoch is 1.
    private static func isAbsent(_ stateEpoch: Int32, _ startOffset: Int64) -> Bool {
        stateEpoch == 0 && startOffset < 0
    }

    private func read(
        _ remote: Int32,
        _ leaderEpoch: Int32,
        _ key: SharePartitionKey,
        _ done: @escaping @Sendable (ShareStateAnswer?) -> Void
    ) {
        let request = ReadShareGroupStateRequest(
            groupId: key.groupID,
            topics: [
                .init(topicId: key.topicID, partitions: [.init(partition: key.partition, leaderEpoch: leaderEpoch)])
            ]
        )
        send(request, version: 0, to: remote, .shareStates, within: Self.shareTimeout) { response in
            guard let result = response?.results.first?.partitions.first else { return done(nil) }
            var answer = ShareStateAnswer(code: ErrorCode(rawValue: result.errorCode), message: result.errorMessage)
            guard answer.code == .none, !Self.isAbsent(result.stateEpoch, result.startOffset) else {
                return done(answer)
            }
            answer.state = ShareState(
                stateEpoch: result.stateEpoch,
                leaderEpoch: leaderEpoch,
                startOffset: result.startOffset
            )
            answer.state.merge(
                result.stateBatches.map {
                    ShareStateBatch(
                        first: $0.firstOffset,
                        last: $0.lastOffset,
                        state: ShareDeliveryState(rawValue: $0.deliveryState) ?? .available,
                        deliveryCount: $0.deliveryCount
                    )
                },
                startOffset: result.startOffset
            )
            done(answer)
        }
    }

    private func write(
        _ remote: Int32,
        _ write: ShareStateWrite,
        _ key: SharePartitionKey,
        _ done: @escaping @Sendable (ShareStateAnswer?) -> Void
    ) {
        let request = WriteShareGroupStateRequest(
            groupId: key.groupID,
            topics: [
                .init(
                    topicId: key.topicID,
                    partitions: [
                        .init(
                            partition: key.partition,
                            stateEpoch: write.stateEpoch,
                            leaderEpoch: write.leaderEpoch,
                            startOffset: write.startOffset,
                            deliveryCompleteCount: write.deliveryCompleteCount,
                            stateBatches: write.batches.map {
                                .init(
                                    firstOffset: $0.first,
                                    lastOffset: $0.last,
                                    deliveryState: $0.state.rawValue,
                                    deliveryCount: $0.deliveryCount
                                )
                            }
                        )
                    ]
                )
            ]
        )
        send(request, version: 1, to: remote, .shareStates, within: Self.shareTimeout) { response in
            let result = response?.results.first?.partitions.first
            done(result.map { ShareStateAnswer(code: ErrorCode(rawValue: $0.errorCode), message: $0.errorMessage) })
        }
    }

    private func summary(
        _ remote: Int32,
        _ leaderEpoch: Int32,
        _ key: SharePartitionKey,
        _ done: @escaping @Sendable (ShareStateAnswer?) -> Void
    ) {
        let request = ReadShareGroupStateSummaryRequest(
            groupId: key.groupID,
            topics: [
                .init(topicId: key.topicID, partitions: [.init(partition: key.partition, leaderEpoch: leaderEpoch)])
            ]
        )
        send(request, version: 1, to: remote, .shareStates, within: Self.shareTimeout) { response in
            guard let result = response?.results.first?.partitions.first else { return done(nil) }
            var answer = ShareStateAnswer(code: ErrorCode(rawValue: result.errorCode), message: result.errorMessage)
            guard answer.code == .none, !Self.isAbsent(result.stateEpoch, result.startOffset) else {
                return done(answer)
            }
            answer.state = ShareState(
                stateEpoch: result.stateEpoch,
                leaderEpoch: result.leaderEpoch,
                startOffset: result.startOffset
            )
            answer.state.deliveryCompleteCount = result.deliveryCompleteCount
            done(answer)
        }
    }
}
