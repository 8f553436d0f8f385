// SPDX-License-Identifier: Apache-2.0

public import Logging
public import MDCModel
public import NIOCore
public import ServiceLifecycle

/// Reads records from topics, alone or as member of a group.
///
/// A consumer works from `subscribe` or `assign` on: fetching, heartbeats and rebalances go on by themselves. `run()`
/// only ties it to a service group, so that a graceful shutdown leaves the group. Without a service group, call
/// `close()`. Calls of `poll` do not overlap: a second one waits for the first.
public final class Consumer: Service, Sendable {
    /// Called with partitions that were given to this member or taken from it.
    public typealias RebalanceCallback = @Sendable ([TopicPartition]) async -> Void

    private let driver: ConsumerDriver

    /// Makes a consumer. Throws `ClientError` (`configuration`).
    public init(_ configuration: ConsumerConfiguration, eventLoopGroup: any EventLoopGroup, logger: Logger) throws {
        try configuration.validate()
        driver = try ConsumerDriver(configuration, eventLoop: eventLoopGroup.next(), logger: logger)
    }

    /// Runs until graceful shutdown or `close()`, then leaves the group and closes.
    public func run() async throws {
        await driver.untilShutdownOrClosed()
        await driver.close(commitsAll: false)
    }

    /// Joins the group for these topics, or changes the topics of a member.
    ///
    /// - `onAssigned`: called with partitions that are new to this member, before their records are returned.
    /// - `onRevoked`: called with partitions that this member is about to give up. Their records are no longer
    ///   returned; their offsets can still be committed in it.
    /// - `onLost`: called with partitions that this member has lost already (its session ended); committing is too
    ///   late. By default `onRevoked` is called.
    public func subscribe(
        _ topics: [String],
        onAssigned: RebalanceCallback? = nil,
        onRevoked: RebalanceCallback? = nil,
        onLost: RebalanceCallback? = nil
    ) async throws {
        try await driver.subscribe(topics, onAssigned: onAssigned, onRevoked: onRevoked, onLost: onLost)
    }

    /// Reads these partitions from these offsets, without a group's assignment. Replaces an earlier assignment.
    public func assign(_ offsets: [TopicPartition: Offset]) async throws {
        try await driver.assign(offsets.mapValues { .offset($0) })
    }

    /// Reads these partitions from the committed offsets of `groupID`, or where `autoOffsetReset` says.
    public func assign(_ partitions: [TopicPartition]) async throws {
        try await driver.assign(Dictionary(uniqueKeysWithValues: Set(partitions).map { ($0, .committed) }))
    }

    /// The next records, at most `maxRecords`; empty after `timeout` without any.
    ///
    /// Records of a partition are in offset order; partitions take turns. Throws `ClientError`: `noOffset` where
    /// there is nowhere to begin, `corruptRecords`, `groupLost`, `closed`, or what a broker refuses for good.
    public func poll(maxRecords: Int = 500, timeout: Duration) async throws -> [ConsumerRecord] {
        try await driver.poll(maxRecords: maxRecords, timeout: timeout)
    }

    /// Commits offsets: each the next one to read. Returns when they are durable in the group.
    ///
    /// Throws `ClientError` (`partitionNotAssigned`) after committing the others where a partition belongs to another
    /// member by now: that member goes on from the last commit.
    public func commit(_ offsets: [TopicPartition: OffsetAndMetadata]) async throws {
        try await driver.commit(offsets)
    }

    /// Commits the position of every assigned partition: everything that `poll` has returned.
    public func commit() async throws {
        try await driver.commitPositions()
    }

    /// The group's committed offsets; a partition without one is missing.
    public func committed(_ partitions: [TopicPartition]) async throws -> [TopicPartition: OffsetAndMetadata] {
        try await driver.committed(partitions)
    }

    /// The offset of the next record that `poll` returns of the partition; nil until it is known.
    /// Throws `ClientError` (`partitionNotAssigned`).
    public func position(_ partition: TopicPartition) throws -> Offset? {
        try driver.position(partition)
    }

    /// Goes on at another offset. Throws `ClientError` (`partitionNotAssigned`).
    public func seek(_ partition: TopicPartition, to offset: Offset) async throws {
        try driver.seek(partition, to: .offset(offset))
    }

    /// Goes on at the oldest record of these partitions. Throws `ClientError` (`partitionNotAssigned`).
    public func seekToBeginning(_ partitions: [TopicPartition]) async throws {
        for partition in partitions { try driver.seek(partition, to: .reset(.earliest)) }
    }

    /// Goes on behind the newest record of these partitions. Throws `ClientError` (`partitionNotAssigned`).
    public func seekToEnd(_ partitions: [TopicPartition]) async throws {
        for partition in partitions { try driver.seek(partition, to: .reset(.latest)) }
    }

    /// `poll` returns no records of these partitions until `resume`. Throws `ClientError` (`partitionNotAssigned`).
    public func pause(_ partitions: [TopicPartition]) throws {
        try driver.setPaused(partitions, true)
    }

    /// Undoes `pause`. Throws `ClientError` (`partitionNotAssigned`).
    public func resume(_ partitions: [TopicPartition]) throws {
        try driver.setPaused(partitions, false)
    }

    /// The partitions of this consumer now.
    public var assignment: Set<TopicPartition> { driver.assignment }

    /// The partitions that are paused.
    public var paused: Set<TopicPartition> { driver.paused }

    /// The member's id in its group; nil while it is not in one.
    public var memberID: String? { driver.memberID }

    /// Who this consumer is in its group, for ``Producer/sendOffsets(_:group:)``. Throws `ClientError` (retriable while
    /// the group is in between two generations, `invalidState` without a group).
    public func groupMetadata() async throws -> ConsumerGroupMetadata {
        try await driver.groupMetadata()
    }

    /// The first offset of each partition.
    public func beginningOffsets(_ partitions: [TopicPartition]) async throws -> [TopicPartition: Offset] {
        try await driver.listOffsets(partitions.map { ($0, ListOffsetsTimestamp.earliest) }).mapValues(\.offset)
    }

    /// The offset behind the last readable record of each partition.
    public func endOffsets(_ partitions: [TopicPartition]) async throws -> [TopicPartition: Offset] {
        try await driver.listOffsets(partitions.map { ($0, ListOffsetsTimestamp.latest) }).mapValues(\.offset)
    }

    /// The first record of each partition at or after a time; a partition without one is missing.
    public func offsetsForTimes(_ times: [TopicPartition: Timestamp]) async throws -> [TopicPartition:
        OffsetAndTimestamp]
    {
        try await driver.listOffsets(times.map { ($0.key, $0.value.rawValue) }).filter { $0.value.offset.rawValue >= 0 }
    }

    /// How many records behind its end each assigned partition is, as far as the last fetch told.
    public var lag: [TopicPartition: Int64] { driver.lag }

    /// Leaves the group and closes the connections. With `enableAutoCommit` it commits first.
    public func close() async {
        await driver.close()
    }
}
