// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// The two clocks that a coordinator looks at. Deadlines use the monotonic one, so that setting the machine's clock
/// expires no member; what is stored uses the wall clock.
struct CoordinatorTime: Equatable, Sendable {
    /// Milliseconds of a clock that never jumps.
    var monotonic: Int64
    /// Milliseconds since 1970.
    var wall: Timestamp
}

/// One record of an internal topic: what changes durable state. A nil value is a tombstone.
struct CoordinatorRecord: Hashable, Sendable {
    var key: ByteBuffer
    var value: ByteBuffer?
}

/// Names one request that waits for its answer.
typealias RequestToken = UInt64

/// What a request came with beside its body.
struct RequestOrigin: Equatable, Sendable {
    var clientID: String
    var clientHost: String
    var apiVersion: Int16

    init(clientID: String = "", clientHost: String = "/127.0.0.1", apiVersion: Int16) {
        self.clientID = clientID
        self.clientHost = clientHost
        self.apiVersion = apiVersion
    }
}

/// What happens to a shard: a request, or the passing of time.
enum GroupEvent: Sendable {
    case join(JoinGroupRequest, RequestOrigin)
    case sync(SyncGroupRequest, RequestOrigin)
    case heartbeat(HeartbeatRequest)
    case leave(LeaveGroupRequest)
    case commitOffsets(OffsetCommitRequest, RequestOrigin)
    /// Names the coming commit of a producer, so that no end of its transaction gets in between.
    case beginTransactionalCommit(ProducerIdentity)
    /// Offsets of a transaction; the last is what the event before answered.
    case commitTransactionalOffsets(TxnOffsetCommitRequest, RequestOrigin, ticket: UInt64)
    /// The commit that was announced will not come.
    case dropTransactionalCommit(ProducerIdentity, ticket: UInt64)
    /// A transaction ends.
    case endTransaction(TransactionEndMarker)
    /// The offsets of one group; nil topics ask for all.
    case fetchOffsets(OffsetFetchRequest.OffsetFetchRequestGroup, requireStable: Bool)
    case deleteOffsets(OffsetDeleteRequest)
    case describe(groupID: String, RequestOrigin)
    case list(ListGroupsRequest)
    case delete(groupID: String)
    case consumerHeartbeat(ConsumerGroupHeartbeatRequest, RequestOrigin)
    case consumerDescribe(groupID: String)
    case shareHeartbeat(ShareGroupHeartbeatRequest, RequestOrigin, ShareGroupSettings)
    case shareDescribe(groupID: String)
    case shareSummary(groupID: String)
    /// The share coordinator has a state for these partitions now.
    case shareInitialized(groupID: String, PartitionSet)
    /// The share coordinator has no state for these topics any more.
    case shareForgotten(groupID: String, [TopicID])
    /// Topics were deleted: their offsets go.
    case topicsDeleted([String])
}

/// The answer to an event.
enum GroupResponse: Equatable, Sendable {
    case join(JoinGroupResponse)
    case sync(SyncGroupResponse)
    case heartbeat(HeartbeatResponse)
    case leave(LeaveGroupResponse)
    case commitOffsets(OffsetCommitResponse)
    case transactionalCommitBegun(ticket: UInt64)
    case commitTransactionalOffsets(TxnOffsetCommitResponse)
    case fetchOffsets(OffsetFetchResponse.OffsetFetchResponseGroup)
    case deleteOffsets(OffsetDeleteResponse)
    case describe(DescribeGroupsResponse.DescribedGroup)
    case list([ListGroupsResponse.ListedGroup])
    case delete(ErrorCode)
    case consumerHeartbeat(ConsumerGroupHeartbeatResponse)
    case consumerDescribe(ConsumerGroupDescribeResponse.DescribedGroup)
    /// `uninitialized` lists partitions that the group reads and that need a state at the share coordinator first.
    case shareHeartbeat(ShareGroupHeartbeatResponse, uninitialized: PartitionSet)
    case shareDescribe(ShareGroupDescribeResponse.DescribedGroup)
    /// Nil where there is no such share group.
    case shareSummary(ShareGroupSummary?)
    /// The event has no answer of its own.
    case done(ErrorCode)
}

/// One answer that a step releases.
typealias CoordinatorAnswer = ShardAnswer<GroupResponse>

/// What kind of batch a step's records become.
enum CoordinatorBatch: Equatable, Sendable {
    case plain
    /// Part of a producer's transaction.
    case transactional(ProducerIdentity)
    /// No records: the end of a producer's transaction.
    case marker(TransactionEndMarker)
}

/// What a step of a coordinator wants done: append `records` as one batch, then, once they are committed, send `answers`.
struct CoordinatorResult: Equatable, Sendable {
    /// In order; appended as one batch, so that a step is on the log whole or not at all.
    var records: [CoordinatorRecord] = []
    /// As what.
    var batch = CoordinatorBatch.plain
    /// Committed offsets that change. They are applied by ``GroupCoordinatorShard/apply(_:)`` after the append, so that a
    /// refused append needs no undoing.
    var offsetChanges: [OffsetChange] = []
    /// Whether the step changed a group in memory: then a refused append means loading the shard anew.
    var changesGroups = false
    /// The answers that the step releases; not only the answer to its own request.
    var answers: [CoordinatorAnswer] = []

    /// Adds an answer for `token`, if there is one.
    mutating func answer(_ token: RequestToken?, _ response: GroupResponse, waitsForCommit: Bool = true) {
        guard let token else { return }
        answers.append(CoordinatorAnswer(token: token, response: response, waitsForCommit: waitsForCommit))
    }
}

/// `group.consumer.migration.policy`: whether a group with members may change its protocol.
public enum GroupMigrationPolicy: String, Sendable, CaseIterable {
    /// Both ways.
    case bidirectional
    /// From the classic protocol to the consumer protocol.
    case upgrade
    /// From the consumer protocol to the classic protocol.
    case downgrade
    /// Only groups without members change.
    case disabled

    var allowsUpgrade: Bool { self == .bidirectional || self == .upgrade }
    var allowsDowngrade: Bool { self == .bidirectional || self == .downgrade }
}

/// The settings of group coordinators, by their Kafka names.
struct GroupSettings: Equatable, Sendable {
    /// `group.min.session.timeout.ms`
    var minSessionTimeout: Int32 = 6_000
    /// `group.max.session.timeout.ms`
    var maxSessionTimeout: Int32 = 1_800_000
    /// `group.max.size`
    var maxSize: Int32 = .max
    /// `group.initial.rebalance.delay.ms`; Kafka's 3,000 is the most visible slow start there is.
    var initialRebalanceDelay: Int64 = 200
    /// `offset.metadata.max.bytes`
    var maxOffsetMetadataBytes = 4_096
    /// `offsets.retention.minutes`, in milliseconds
    var offsetsRetention: Int64 = 7 * 24 * 3_600_000
    /// `offsets.retention.check.interval.ms`
    var offsetsRetentionCheckInterval: Int64 = 600_000
    /// `group.consumer.session.timeout.ms`
    var consumerSessionTimeout: Int32 = 45_000
    /// `group.consumer.heartbeat.interval.ms`
    var consumerHeartbeatInterval: Int32 = 5_000
    /// `group.consumer.max.size`
    var consumerMaxSize: Int32 = .max
    /// `group.consumer.migration.policy`
    var migrationPolicy = GroupMigrationPolicy.bidirectional
    /// `group.share.session.timeout.ms`: for members that were there before the node began to run.
    var shareSessionTimeout: Int32 = 45_000
    /// How long a member that joined without an id may wait for its first answer.
    var newMemberJoinTimeout: Int64 = 300_000

    /// The settings of a group that has set some itself.
    func with(_ overrides: [String: String]?) -> GroupSettings {
        guard let overrides else { return self }
        var settings = self
        if let value = overrides["consumer.session.timeout.ms"].flatMap({ Int32($0) }) {
            settings.consumerSessionTimeout = value
        }
        if let value = overrides["consumer.heartbeat.interval.ms"].flatMap({ Int32($0) }) {
            settings.consumerHeartbeatInterval = value
        }
        return settings
    }
}
