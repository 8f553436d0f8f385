// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import NIOCore

/// The share coordinators of a node: they keep what share groups have read, in `__share_group_state`.
final class ShareCoordinatorService: Sendable {
    let access: any InternalTopicAccess
    private let shards: ShardTable<ShareStateShard>
    /// For the share coordinators on other nodes; nil on a node that is alone.
    private let remote: RemoteShareStates?

    /// Called once, from any thread; no lock of a coordinator is held.
    typealias Completion = @Sendable (ShareStateAnswer) -> Void

    /// What became of an event that was handed in under a lock of the caller's: see ``ShardRuntime/Ticket``.
    struct Ticket: Sendable {
        var refusal: ShareStateAnswer?
        var proceed: @Sendable () -> Void
    }

    /// - Parameter peers: This node's number and how it reaches others, where there may be others.
    init(
        access: any InternalTopicAccess,
        updatesPerSnapshot: Int,
        peers: (node: Int32, requests: PeerRequests, metadata: MetadataStore)? = nil,
        logger: Logger
    ) {
        self.access = access
        let shards = ShardTable(access: access, logger: logger) { partition in
            ShardRuntime(partition: partition, access: access, logger: logger) { _ in
                ShareStateShard(updatesPerSnapshot: updatesPerSnapshot)
            }
        }
        self.shards = shards
        remote = peers.map { node, requests, metadata in
            RemoteShareStates(
                RemoteShareStates.Node(
                    place: { key in
                        let image = metadata.image
                        let topic = InternalTopic.shareGroupState.name
                        guard let count = image.topic(topic)?.partitions.count else { return .gone }
                        let index = GroupCoordinatorService.partition(of: key.description, count: Int32(count))
                        return image.place(
                            of: TopicPartition(topic: topic, partition: PartitionID(index)),
                            for: node
                        )
                    },
                    askHere: { event, key, done in
                        let ticket = Self.submit(event, of: key, to: shards, done)
                        ticket.proceed()
                        if let refusal = ticket.refusal { done(refusal) }
                    },
                    askNode: { requests.ask($0, $1, of: $2, $3) },
                    schedule: { _ = access.schedule(after: $0, $1) },
                    now: { access.now().monotonic }
                )
            )
        }
    }

    // MARK: Life

    /// Loads every shard. Blocks; called once before the node serves.
    func start() {
        shards.start()
        // A topic may have been deleted a moment before the node was killed.
        topicsDeleted()
    }

    func stop() {
        remote?.stop()
        shards.stop()
    }

    /// This node begins to lead a partition of the coordinator's topic, or ceases to.
    func elected(_ partition: Int32, of count: Int) { shards.elected(partition, of: count) }
    func resigned(_ partition: Int32) { shards.resigned(partition) }

    /// Sees to it that `__share_group_state` exists, then calls `done` with an error code.
    func prepare(_ done: @escaping @Sendable (ErrorCode) -> Void) { shards.prepare(done) }

    // MARK: Events

    /// Sends an event to the coordinator of `key`, behind all that were sent before. Unless it is refused at once, it is on
    /// the log, or on its way to another node's, when this returns, and `completion` gets its answer when it is committed.
    func submit(_ event: ShareStateEvent, of key: SharePartitionKey, _ completion: @escaping Completion) -> Ticket {
        if let remote, remote.takes(key) {
            return Ticket(proceed: remote.enqueue(event, of: key, completion))
        }
        return Self.submit(event, of: key, to: shards, completion)
    }

    /// The same for what another node asks, which knows this one for the coordinator.
    func submitHere(_ event: ShareStateEvent, of key: SharePartitionKey, _ completion: @escaping Completion) -> Ticket {
        Self.submit(event, of: key, to: shards, completion)
    }

    private static func submit(
        _ event: ShareStateEvent,
        of key: SharePartitionKey,
        to shards: ShardTable<ShareStateShard>,
        _ completion: @escaping Completion
    ) -> Ticket {
        guard let shard = shards.shard(of: key.description) else {
            return Ticket(
                refusal: .refusal(.notCoordinator, "there is no share coordinator yet; look for it first"),
                proceed: {}
            )
        }
        let ticket = shard.hold(
            ShareStateRequest(event: event, key: key),
            isRefusal: { answer($0).code != .none }
        ) { completion(answer($0)) }
        return Ticket(refusal: ticket.refusal.map(answer), proceed: ticket.proceed)
    }

    private static func answer(_ outcome: ShardOutcome<ShareStateAnswer>) -> ShareStateAnswer {
        switch outcome {
        case .response(let answer): answer
        case .failed(.coordinatorLoadInProgress):
            .refusal(.coordinatorLoadInProgress, "the share coordinator is not ready; ask again")
        case .failed(.notCoordinator):
            .refusal(.notCoordinator, "the state may not have been written; ask again")
        case .failed(let code): .refusal(code, "the state could not be written; ask again")
        }
    }

    /// Sends an event; `completion` gets its answer in any case. Makes the coordinator's topic where it is missing.
    func ask(_ event: ShareStateEvent, of key: SharePartitionKey, _ completion: @escaping Completion) {
        guard !shards.isEmpty || access.partitionCount(of: .shareGroupState) != nil else {
            return prepare { code in
                guard code == .none else { return completion(.refusal(code, "there is no share coordinator")) }
                self.ask(event, of: key, completion)
            }
        }
        let ticket = submit(event, of: key, completion)
        ticket.proceed()
        if let refusal = ticket.refusal { completion(refusal) }
    }

    /// Sends many events and gives `done` all answers, in their order.
    func askAll(
        _ events: [(key: SharePartitionKey, event: ShareStateEvent)],
        _ done: @escaping @Sendable ([ShareStateAnswer]) -> Void
    ) {
        if events.isEmpty { return done([]) }
        let gathering = ResultsInOrder(events.count, done)
        for (index, item) in events.enumerated() {
            ask(item.event, of: item.key) { gathering.put($0, at: index) }
        }
    }

    /// Removes the states of topics that are gone.
    func topicsDeleted() {
        let image = access.topicImage()
        for shard in shards.all {
            shard.perform { states in states.removeTopics { image.byID[$0] == nil } }
        }
    }

    /// How many states there are, for metrics.
    var stateCount: Int { shards.all.reduce(0) { $0 + ($1.inspect { $0.count } ?? 0) } }
}
