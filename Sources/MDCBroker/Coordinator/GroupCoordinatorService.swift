// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// All group coordinators of a node: finds the shard of a group, splits requests that name many groups, and joins the
/// answers.
final class GroupCoordinatorService: Sendable {
    let access: any InternalTopicAccess
    private let currentSettings: Mutex<GroupSettings>
    /// The settings of a share group, by its id.
    let shareSettings: @Sendable (String) -> ShareGroupSettings
    /// Where the states of share partitions are kept; nil where there are no share groups.
    let shareStates: ShareCoordinatorService?
    /// Told when states of share partitions were removed under those that use them.
    let whenShareStatesGo: @Sendable (String) -> Void
    private let logger: Logger
    /// One per partition of `__consumer_offsets`; empty while that does not exist.
    private let shards = Mutex<[GroupShardRuntime]>([])
    private let transactionPreparation = Mutex<(@Sendable (@escaping @Sendable (ErrorCode) -> Void) -> Void)?>(nil)

    init(
        access: any InternalTopicAccess,
        settings: GroupSettings,
        logger: Logger,
        shareSettings: @escaping @Sendable (String) -> ShareGroupSettings = { _ in ShareGroupSettings() },
        shareStates: ShareCoordinatorService? = nil,
        whenShareStatesGo: @escaping @Sendable (String) -> Void = { _ in }
    ) {
        self.access = access
        self.whenShareStatesGo = whenShareStatesGo
        self.shareSettings = shareSettings
        self.shareStates = shareStates
        currentSettings = Mutex(settings)
        self.logger = logger
    }

    /// The settings in force.
    var settings: GroupSettings { currentSettings.withLock { $0 } }

    /// Puts other settings into force.
    func update(_ settings: GroupSettings) {
        currentSettings.withLock { $0 = settings }
        for shard in allShards { shard.update(settings) }
    }

    // MARK: Life

    /// Loads every shard. Blocks; called once before the node serves.
    func start() {
        if let count = access.partitionCount(of: .consumerOffsets) {
            for shard in openShards(count) { shard.load() }
        }
    }

    /// Answers everyone who waits and gives all shards up.
    func stop() {
        for shard in allShards { shard.stop() }
    }

    /// Makes the shards of a topic of `count` partitions; returns those that are new and must be loaded.
    private func openShards(_ count: Int32) -> [GroupShardRuntime] {
        shards.withLock { shards in
            guard shards.isEmpty else { return [] }
            shards = (0..<count).map {
                GroupShardRuntime(partition: $0, access: access, settings: settings, logger: logger)
            }
            return shards
        }
    }

    private var allShards: [GroupShardRuntime] { shards.withLock { $0 } }

    /// Sees to it that there are transaction coordinators; set where the node has any.
    var prepareTransactions: (@Sendable (@escaping @Sendable (ErrorCode) -> Void) -> Void)? {
        get { transactionPreparation.withLock { $0 } }
        set { transactionPreparation.withLock { $0 = newValue } }
    }

    // MARK: Placement

    /// The partition that `groupID` lives in.
    static func partition(of groupID: String, count: Int32) -> Int32 {
        var hash: Int32 = 0
        // Java's String.hashCode, so that the group is found where Kafka would put it.
        for unit in groupID.utf16 { hash = hash &* 31 &+ Int32(unit) }
        return (hash == .min ? 0 : abs(hash)) % count
    }

    private func shard(of groupID: String) -> GroupShardRuntime? {
        shards.withLock { shards in
            shards.isEmpty ? nil : shards[Int(Self.partition(of: groupID, count: Int32(shards.count)))]
        }
    }

    /// Sends an event to the shard of `groupID`.
    func submit(_ groupID: String, _ event: GroupEvent, _ completion: @escaping GroupCompletion) {
        // Without the topic there are no coordinators; looking for one creates it.
        guard let shard = shard(of: groupID) else { return completion(.failed(.notCoordinator)) }
        shard.submit(event, completion)
    }

    /// Whether any group can exist at all.
    var hasShards: Bool { shards.withLock { !$0.isEmpty } }

    /// Sends an event to the shard of a partition of `__consumer_offsets`.
    func submit(toPartition partition: Int32, _ event: GroupEvent, _ completion: @escaping GroupCompletion) {
        let shard = shards.withLock { $0.indices.contains(Int(partition)) ? $0[Int(partition)] : nil }
        guard let shard else { return completion(.failed(.unknownTopicOrPartition)) }
        shard.submit(event, completion)
    }

    /// Sees to it that `__consumer_offsets` exists, then calls `done` with an error code.
    func prepare(_ done: @escaping @Sendable (ErrorCode) -> Void) {
        if hasShards { return done(.none) }
        access.create(.consumerOffsets) { [self] result in
            switch result {
            case .success(let count):
                let opened = openShards(count)
                access.runBlocking {
                    for shard in opened { shard.load() }
                    done(.none)
                }
            case .failure(let error):
                logger.warning("cannot create __consumer_offsets", metadata: ["error": "\(error)"])
                done(.coordinatorNotAvailable)
            }
        }
    }

    /// Sends an event to every shard and gives `done` all outcomes, in the order of the partitions.
    func submitToAll(_ event: GroupEvent, _ done: @escaping @Sendable ([GroupOutcome]) -> Void) {
        gather(allShards.map { shard in { shard.submit(event, $0) } }, done)
    }

    /// Runs `calls` and gives `done` their outcomes, in their order.
    func gather(
        _ calls: [(@escaping GroupCompletion) -> Void],
        _ done: @escaping @Sendable ([GroupOutcome]) -> Void
    ) {
        if calls.isEmpty { return done([]) }
        let gathering = Gathering(calls.count, done)
        for (index, call) in calls.enumerated() { call { gathering.put($0, at: index) } }
    }

    private final class Gathering: Sendable {
        private let outcomes: Mutex<(outcomes: [GroupOutcome?], missing: Int)>
        private let done: @Sendable ([GroupOutcome]) -> Void

        init(_ count: Int, _ done: @escaping @Sendable ([GroupOutcome]) -> Void) {
            outcomes = Mutex((Array(repeating: nil, count: count), count))
            self.done = done
        }

        func put(_ outcome: GroupOutcome, at index: Int) {
            let complete: [GroupOutcome]? = outcomes.withLock { state in
                state.outcomes[index] = outcome
                state.missing -= 1
                return state.missing == 0 ? state.outcomes.compactMap { $0 } : nil
            }
            if let complete { done(complete) }
        }
    }

    /// Drops the offsets of deleted topics.
    func topicsDeleted(_ names: [String]) {
        submitToAll(.topicsDeleted(names)) { _ in }
    }

    // MARK: Metrics

    /// One committed offset, for the lag of a group.
    struct OffsetPoint: Sendable {
        var group: String
        var topic: String
        var partition: Int32
        var offset: Int64
    }

    /// All committed offsets.
    func committedOffsets() -> [OffsetPoint] {
        allShards.flatMap { shard in
            shard.inspect { shard in
                shard.offsets.groups.flatMap { group, topics in
                    topics.flatMap { topic, partitions in
                        partitions.map {
                            OffsetPoint(group: group, topic: topic, partition: $0.key, offset: $0.value.offset)
                        }
                    }
                }
            } ?? []
        }
    }

    /// How many groups are in each state, and how many members they have.
    func groupCounts() -> (groupsByState: [String: Int], members: Int) {
        var counts: [String: Int] = [:]
        var members = 0
        for shard in allShards {
            let part = shard.inspect { shard in
                (shard.list(ListGroupsRequest()).map(\.groupState), shard.memberCount)
            }
            for state in part?.0 ?? [] { counts[state, default: 0] += 1 }
            members += part?.1 ?? 0
        }
        return (counts, members)
    }
}
