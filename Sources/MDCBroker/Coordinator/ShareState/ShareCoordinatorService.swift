// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import NIOCore
import Synchronization

/// The share coordinators of a node: they keep what share groups have read, in `__share_group_state`.
final class ShareCoordinatorService: Sendable {
    let access: any InternalTopicAccess
    private let updatesPerSnapshot: Int
    private let logger: Logger
    /// One per partition of `__share_group_state`; empty while that does not exist.
    private let shards = Mutex<[ShareStateRuntime]>([])

    init(access: any InternalTopicAccess, updatesPerSnapshot: Int, logger: Logger) {
        self.access = access
        self.updatesPerSnapshot = updatesPerSnapshot
        self.logger = logger
    }

    // MARK: Life

    /// Loads every shard. Blocks; called once before the node serves.
    func start() {
        guard let count = access.partitionCount(of: .shareGroupState) else { return }
        for shard in openShards(count) { shard.load() }
        // A topic may have been deleted a moment before the node was killed.
        topicsDeleted()
    }

    func stop() {
        for shard in allShards { shard.stop() }
    }

    private func openShards(_ count: Int32) -> [ShareStateRuntime] {
        shards.withLock { shards in
            guard shards.isEmpty else { return [] }
            shards = (0..<count).map {
                ShareStateRuntime(
                    partition: $0,
                    access: access,
                    updatesPerSnapshot: updatesPerSnapshot,
                    logger: logger
                )
            }
            return shards
        }
    }

    private var allShards: [ShareStateRuntime] { shards.withLock { $0 } }
    private var hasShards: Bool { shards.withLock { !$0.isEmpty } }

    /// Sees to it that `__share_group_state` exists, then calls `done` with an error code.
    func prepare(_ done: @escaping @Sendable (ErrorCode) -> Void) {
        if hasShards { return done(.none) }
        access.create(.shareGroupState) { [self] result in
            switch result {
            case .success(let count):
                let opened = openShards(count)
                access.runBlocking {
                    for shard in opened { shard.load() }
                    done(.none)
                }
            case .failure(let error):
                logger.warning("cannot create __share_group_state", metadata: ["error": "\(error)"])
                done(.coordinatorNotAvailable)
            }
        }
    }

    // MARK: Events

    private func shard(of key: SharePartitionKey) -> ShareStateRuntime? {
        shards.withLock { shards in
            guard !shards.isEmpty else { return nil }
            return shards[
                Int(GroupCoordinatorService.partition(of: key.description, count: Int32(shards.count)))
            ]
        }
    }

    /// Sends an event to the shard of `key`, behind all that were sent before; see ``ShareStateRuntime/submit``.
    func submit(
        _ event: ShareStateEvent,
        of key: SharePartitionKey,
        _ completion: @escaping ShareStateRuntime.Completion
    ) -> ShareStateRuntime.Ticket {
        guard let shard = shard(of: key) else {
            return .init(
                refusal: .refusal(.notCoordinator, "there is no share coordinator yet; look for it first"),
                proceed: {}
            )
        }
        return shard.submit(event, of: key, completion)
    }

    /// Sends an event; `completion` gets its answer in any case. Makes the coordinator's topic where it is missing.
    func ask(
        _ event: ShareStateEvent,
        of key: SharePartitionKey,
        _ completion: @escaping ShareStateRuntime.Completion
    ) {
        guard hasShards else {
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
        let gathering = Gathering(events.count, done)
        for (index, item) in events.enumerated() {
            ask(item.event, of: item.key) { gathering.put($0, at: index) }
        }
    }

    private final class Gathering: Sendable {
        private let state: Mutex<(answers: [ShareStateAnswer], missing: Int)>
        private let done: @Sendable ([ShareStateAnswer]) -> Void

        init(_ count: Int, _ done: @escaping @Sendable ([ShareStateAnswer]) -> Void) {
            state = Mutex((Array(repeating: ShareStateAnswer(), count: count), count))
            self.done = done
        }

        func put(_ answer: ShareStateAnswer, at index: Int) {
            let complete: [ShareStateAnswer]? = state.withLock { state in
                state.answers[index] = answer
                state.missing -= 1
                return state.missing == 0 ? state.answers : nil
            }
            if let complete { done(complete) }
        }
    }

    /// Removes the states of topics that are gone.
    func topicsDeleted() {
        let image = access.topicImage()
        for shard in allShards { shard.removeTopics { image.byID[$0] == nil } }
    }

    /// How many states there are, for metrics.
    var stateCount: Int { allShards.reduce(0) { $0 + ($1.inspect { $0.count } ?? 0) } }
}
