// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol

/// One partition of a coordinator's topic and all that is kept in it, as a pure state machine: events and time go in;
/// records, answers, orders and the next deadline come out. ``ShardRuntime`` drives it.
protocol CoordinatorShard: Sendable {
    associatedtype Event: Sendable
    associatedtype Step: CoordinatorStep

    /// Where it is stored.
    static var topic: InternalTopic { get }
    /// What messages for people call it.
    static var role: String { get }
    /// What a client is told when the log refuses.
    static func clientCode(_ code: ErrorCode) -> ErrorCode

    /// When ``tick(_:)`` is wanted next, on the monotonic clock.
    var nextDeadline: Int64 { get }
    /// Everything on the log before this offset was said again later; nil where only compaction may tell.
    var redundantEnd: Int64? { get }

    /// Takes over what it needs to know of the node, before each step.
    mutating func refresh(_ access: any InternalTopicAccess)
    /// Takes one event. `token` names the request; its answer comes with this step or a later one.
    mutating func handle(_ event: Event, token: RequestToken, now: CoordinatorTime) -> Step
    /// Does what is due.
    mutating func tick(_ now: CoordinatorTime) -> Step
    /// The records of a step are on the log, which ends at `end` now.
    mutating func apply(_ step: Step, end: Offset)

    /// Applies one record of the log, in order; `producer` where it is part of that producer's transaction.
    mutating func replay(
        _ record: CoordinatorRecord,
        at offset: Offset,
        producer: Int64?,
        now: CoordinatorTime
    ) throws(ProtocolError)
    /// Applies the end of a transaction that is on the log.
    mutating func replayEnd(ofTransactionOf producer: Int64, isCommit: Bool)
    /// Ends the loading; returns what has to be done then.
    mutating func begin(now: CoordinatorTime) -> Step?
}

/// What a step of a shard wants done: append `records` as one batch; once they are committed, send `answers` and carry out
/// `orders`.
protocol CoordinatorStep: Sendable {
    associatedtype Response: Equatable & Sendable
    associatedtype Order: Sendable = Never

    /// In order; appended as one batch, so that a step is on the log whole or not at all.
    var records: [CoordinatorRecord] { get }
    /// As what.
    var batch: CoordinatorBatch { get }
    /// The answers that the step releases; not only the answer to its own request.
    var answers: [ShardAnswer<Response>] { get }
    var orders: [Order] { get }
    /// Whether the shard holds already what the step decided: then a refused append means loading it anew.
    var hasChangedShard: Bool { get }
}

/// One answer that a step releases.
struct ShardAnswer<Response: Equatable & Sendable>: Equatable, Sendable {
    var token: RequestToken
    var response: Response
    /// Whether it may only be sent once everything that was appended before is committed. Heartbeats need not wait:
    /// they tell nothing that a crash could take back.
    var waitsForCommit = true
}

extension CoordinatorStep {
    var batch: CoordinatorBatch { .plain }
}

extension CoordinatorStep where Order == Never {
    var orders: [Never] { [] }
}

extension CoordinatorShard {
    /// Something that makes the client come back, or go and ask who coordinates.
    static func clientCode(_ code: ErrorCode) -> ErrorCode {
        switch code {
        case .notLeaderOrFollower, .kafkaStorageError, .fencedLeaderEpoch: .notCoordinator
        case .messageTooLarge, .recordListTooLarge, .invalidFetchSize, .unknownServerError: .unknownServerError
        case .invalidProducerEpoch, .invalidTxnState, .transactionCoordinatorFenced: code
        default: .coordinatorNotAvailable
        }
    }

    var redundantEnd: Int64? { nil }
    mutating func refresh(_: any InternalTopicAccess) {}
    mutating func replayEnd(ofTransactionOf _: Int64, isCommit _: Bool) {}
}

// MARK: Groups

typealias GroupOutcome = ShardOutcome<GroupResponse>
typealias GroupCompletion = @Sendable (GroupOutcome) -> Void

extension CoordinatorResult: CoordinatorStep {
    typealias Response = GroupResponse
    typealias Order = Never
    var hasChangedShard: Bool { changesGroups }
}

extension GroupCoordinatorShard: CoordinatorShard {
    typealias Event = GroupEvent
    typealias Step = CoordinatorResult
    static var topic: InternalTopic { .consumerOffsets }
    static var role: String { "group coordinator" }

    mutating func refresh(_ access: any InternalTopicAccess) {
        if topics.version != access.topicImageVersion { topics = access.topicImage() }
    }

    mutating func apply(_ step: CoordinatorResult, end _: Offset) { apply(step) }

    mutating func replay(
        _ record: CoordinatorRecord,
        at _: Offset,
        producer: Int64?,
        now: CoordinatorTime
    ) throws(ProtocolError) {
        try replay(record, producer: producer, now: now)
    }

    mutating func begin(now: CoordinatorTime) -> CoordinatorResult? {
        activate(now: now)
        return nil
    }
}

// MARK: Transactions

typealias TransactionOutcome = ShardOutcome<TransactionResponse>
typealias TransactionCompletion = @Sendable (TransactionOutcome) -> Void

extension TransactionResult: CoordinatorStep {
    typealias Response = TransactionResponse
    typealias Order = MarkerOrder
    var orders: [MarkerOrder] { markers }
    var hasChangedShard: Bool { !records.isEmpty }
}

extension TransactionShard: CoordinatorShard {
    typealias Event = TransactionEvent
    typealias Step = TransactionResult
    static var topic: InternalTopic { .transactionState }
    static var role: String { "transaction coordinator" }

    mutating func apply(_: TransactionResult, end _: Offset) {}

    mutating func replay(
        _ record: CoordinatorRecord,
        at _: Offset,
        producer _: Int64?,
        now: CoordinatorTime
    ) throws(ProtocolError) {
        try replay(record, now: now)
    }

    mutating func begin(now: CoordinatorTime) -> TransactionResult? { activate(now: now) }
}

// MARK: Share groups

/// What is asked of the state of a share partition.
struct ShareStateRequest: Sendable {
    var event: ShareStateEvent
    var key: SharePartitionKey
}

extension ShareStateShard.Step: CoordinatorStep {
    typealias Response = ShareStateAnswer
    typealias Order = Never
    // What is refused promises nothing.
    var answers: [ShardAnswer<ShareStateAnswer>] {
        token.map { [ShardAnswer(token: $0, response: answer, waitsForCommit: answer.code == .none)] } ?? []
    }
    // A step is applied once it is on the log.
    var hasChangedShard: Bool { false }
}

extension ShareStateShard: CoordinatorShard {
    typealias Event = ShareStateRequest
    static var topic: InternalTopic { .shareGroupState }
    static var role: String { "share coordinator" }
    static func clientCode(_: ErrorCode) -> ErrorCode { .coordinatorNotAvailable }

    var nextDeadline: Int64 { .max }
    var redundantEnd: Int64? { redundantBefore }

    mutating func handle(_ request: ShareStateRequest, token: RequestToken, now: CoordinatorTime) -> Step {
        var step = step(request.event, of: request.key, now: now.wall)
        step.token = token
        return step
    }

    mutating func tick(_: CoordinatorTime) -> Step { Step(answer: ShareStateAnswer()) }
    mutating func apply(_ step: Step, end: Offset) { apply(step, end: end.rawValue) }

    mutating func replay(
        _ record: CoordinatorRecord,
        at offset: Offset,
        producer _: Int64?,
        now _: CoordinatorTime
    ) throws(ProtocolError) {
        try replay(record, at: offset.rawValue)
    }

    mutating func begin(now _: CoordinatorTime) -> Step? {
        activate()
        return nil
    }
}
