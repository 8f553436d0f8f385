// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import MDCProtocol
import NIOConcurrencyHelpers
import NIOCore
import Synchronization

/// All group coordinators of a node: finds the shard of a group, splits requests that name many groups, and joins the
/// answers.
final class GroupCoordinatorService: Sendable {
    let access: any InternalTopicAccess
    private let currentSettings: NIOLockedValueBox<GroupSettings>
    /// The settings of a share group, by its id.
    let shareSettings: @Sendable (String) -> ShareGroupSettings
    /// Where the states of share partitions are kept; nil where there are no share groups.
    let shareStates: ShareCoordinatorService?
    /// Told when states of share partitions were removed under those that use them.
    let whenShareStatesGo: @Sendable (String) -> Void
    private let shards: ShardTable<GroupCoordinatorShard>
    /// Closures in locks are in structures (`GroupCommit.Handlers` tells why).
    private struct Handlers: Sendable {
        var preparation: (@Sendable (@escaping @Sendable (ErrorCode) -> Void) -> Void)?
    }
    private let handlers = Mutex(Handlers())

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
        let current = NIOLockedValueBox(settings)
        currentSettings = current
        shards = ShardTable(access: access, logger: logger) { partition in
            ShardRuntime(partition: partition, access: access, logger: logger) { now in
                GroupCoordinatorShard(
                    settings: current.withLockedValue { $0 },
                    seed: .random(in: .min ... .max),
                    now: now,
                    topics: access.topicImage()
                )
            }
        }
    }

    /// The settings in force.
    var settings: GroupSettings { currentSettings.withLockedValue { $0 } }

    /// Puts other settings into force.
    func update(_ settings: GroupSettings) {
        currentSettings.withLockedValue { $0 = settings }
        for shard in shards.all { shard.update { $0.settings = settings } }
    }

    // MARK: Life

    /// Loads every shard. Blocks; called once before the node serves.
    func start() { shards.start() }

    /// Answers everyone who waits and gives all shards up.
    func stop() { shards.stop() }

    /// This node begins to lead a partition of the coordinator's topic, or ceases to.
    func elected(_ partition: Int32, of count: Int) { shards.elected(partition, of: count) }
    func resigned(_ partition: Int32) { shards.resigned(partition) }

    /// Sees to it that `__consumer_offsets` exists, then calls `done` with an error code.
    func prepare(_ done: @escaping @Sendable (ErrorCode) -> Void) { shards.prepare(done) }

    /// Whether any group can exist at all.
    var hasShards: Bool { !shards.isEmpty }

    /// Sees to it that there are transaction coordinators; set where the node has any.
    var prepareTransactions: (@Sendable (@escaping @Sendable (ErrorCode) -> Void) -> Void)? {
        get { handlers.withLock { $0 }.preparation }
        set { handlers.withLock { $0.preparation = newValue } }
    }

    // MARK: Placement

    /// The partition that `groupID` lives in.
    static func partition(of groupID: String, count: Int32) -> Int32 {
        var hash: Int32 = 0
        // Java's String.hashCode, so that the group is found where Kafka would put it.
        for unit in groupID.utf16 { hash = hash &* 31 &+ Int32(unit) }
        return (hash == .min ? 0 : abs(hash)) % count
    }

    /// Sends an event to the shard of `groupID`.
    func submit(_ groupID: String, _ event: GroupEvent, _ completion: @escaping GroupCompletion) {
        // Without the topic there are no coordinators; looking for one creates it.
        guard let shard = shards.shard(of: groupID) else { return completion(.failed(.notCoordinator)) }
        shard.submit(event, completion)
    }

    /// Sends an event to the shard of a partition of `__consumer_offsets`.
    func submit(toPartition partition: Int32, _ event: GroupEvent, _ completion: @escaping GroupCompletion) {
        guard let shard = shards.shard(at: partition) else { return completion(.failed(.unknownTopicOrPartition)) }
        shard.submit(event, completion)
    }

    /// Sends an event to every shard and gives `done` all outcomes, in the order of the partitions.
    func submitToAll(_ event: GroupEvent, _ done: @escaping @Sendable ([GroupOutcome]) -> Void) {
        gather(shards.all.map { shard in { shard.submit(event, $0) } }, done)
    }

    /// Runs `calls` and gives `done` their outcomes, in their order.
    func gather(
        _ calls: [(@escaping GroupCompletion) -> Void],
        _ done: @escaping @Sendable ([GroupOutcome]) -> Void
    ) {
        if calls.isEmpty { return done([]) }
        let gathering = ResultsInOrder(calls.count, done)
        for (index, call) in calls.enumerated() { call { gathering.put($0, at: index) } }
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
        shards.all.flatMap { shard in
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
        for shard in shards.all {
            let part = shard.inspect { shard in
                (shard.list(ListGroupsRequest()).map(\.groupState), shard.memberCount)
            }
            for state in part?.0 ?? [] { counts[state, default: 0] += 1 }
            members += part?.1 ?? 0
        }
        return (counts, members)
    }
}
