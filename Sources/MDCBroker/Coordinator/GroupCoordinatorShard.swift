// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// The groups of one partition of `__consumer_offsets`, as a pure state machine: events and time go in; records, answers
/// and the next deadline come out. No I/O, no clock, no randomness but the seed.
///
/// The caller appends the records of a result as one batch; then calls ``apply(_:)`` with its offset changes; and sends the
/// answers once the batch is committed. If the append is refused it throws the shard away (or, where the result changed no
/// group, just the result) and loads it anew.
struct GroupCoordinatorShard: Sendable {
    var settings: GroupSettings
    var classicGroups: [String: ClassicGroup] = [:]
    var consumerGroups: [String: ConsumerGroup] = [:]
    var shareGroups: [String: ShareGroup] = [:]
    var offsets = OffsetStore()
    var deadlines = DeadlineQueue()
    var random: SplitMix64
    /// When offsets are next looked through for expired ones, on the monotonic clock.
    var nextExpiryCheck: Int64
    /// Commits of transactions that are about to come.
    var tickets = TransactionTickets()
    /// The topics there are: what subscriptions are resolved against.
    var topics: GroupTopicImage

    init(settings: GroupSettings, seed: UInt64, now: CoordinatorTime, topics: GroupTopicImage = GroupTopicImage()) {
        self.settings = settings
        random = SplitMix64(seed: seed)
        nextExpiryCheck = now.monotonic + settings.offsetsRetentionCheckInterval
        self.topics = topics
    }

    /// When ``tick(_:)`` is wanted next, on the monotonic clock.
    var nextDeadline: Int64 { min(nextExpiryCheck, deadlines.next ?? .max) }

    // MARK: Steps

    /// Takes one event. `token` names the request; its answer comes in this result or a later one.
    mutating func handle(_ event: GroupEvent, token: RequestToken, now: CoordinatorTime) -> CoordinatorResult {
        var out = CoordinatorResult()
        switch event {
        case .join(let request, let origin): join(request, origin, token, now, &out)
        case .sync(let request, _): sync(request, token, now, &out)
        case .heartbeat(let request):
            let code = heartbeat(request, now)
            out.answer(token, .heartbeat(HeartbeatResponse(errorCode: code.rawValue)), waitsForCommit: false)
        case .leave(let request): leave(request, token, now, &out)
        case .commitOffsets(let request, let origin): commitOffsets(request, origin, token, now, &out)
        case .beginTransactionalCommit(let producer):
            out.answer(
                token,
                .transactionalCommitBegun(ticket: tickets.issue(to: producer.id)),
                waitsForCommit: false
            )
        case .commitTransactionalOffsets(let request, let origin, let ticket):
            commitTransactionalOffsets(request, origin, ticket, token, now, &out)
        case .dropTransactionalCommit(let producer, let ticket):
            tickets.giveBack(ticket, of: producer.id)
            out.answer(token, .done(.none), waitsForCommit: false)
        case .endTransaction(let marker): endTransaction(marker, token, &out)
        case .fetchOffsets(let group, let requireStable):
            out.answer(token, .fetchOffsets(fetchOffsets(group, requireStable: requireStable)))
        case .deleteOffsets(let request): deleteOffsets(request, token, &out)
        case .describe(let groupID, let origin): out.answer(token, .describe(describe(groupID, origin)))
        case .list(let request): out.answer(token, .list(list(request)))
        case .delete(let groupID): delete(groupID, token, &out)
        case .consumerHeartbeat(let request, let origin): consumerHeartbeat(request, origin, token, now, &out)
        case .consumerDescribe(let groupID): out.answer(token, .consumerDescribe(consumerDescribe(groupID)))
        case .shareHeartbeat(let request, let origin, let settings):
            shareHeartbeat(request, origin, settings, token, now, &out)
        case .shareDescribe(let groupID): out.answer(token, .shareDescribe(shareDescribe(groupID)))
        case .shareSummary(let groupID): out.answer(token, .shareSummary(shareSummary(groupID)))
        case .shareInitialized(let groupID, let partitions): shareInitialized(groupID, partitions, token, &out)
        case .shareForgotten(let groupID, let gone): shareForgotten(groupID, gone, token, &out)
        case .topicsDeleted(let names):
            forgetDeletedTopics(&out)
            topicsDeleted(Set(names), token, &out)
        }
        return out
    }

    /// Does what is due.
    mutating func tick(_ now: CoordinatorTime) -> CoordinatorResult {
        var out = CoordinatorResult()
        while let groupID = deadlines.popDue(at: now.monotonic) {
            classicGroups[groupID]?.tick(now, settings, &out)
            tickConsumer(groupID, now, &out)
            shareGroups[groupID]?.tick(now, topics, &out)
            reschedule(groupID)
        }
        if nextExpiryCheck <= now.monotonic { expireOffsets(now, &out) }
        return out
    }

    /// Applies the offset changes of a result whose records are on the log.
    mutating func apply(_ result: CoordinatorResult) {
        switch result.batch {
        case .plain: for change in result.offsetChanges { offsets.apply(change) }
        case .transactional(let producer): for change in result.offsetChanges { offsets.hold(change, of: producer.id) }
        case .marker(let marker): offsets.endTransaction(of: marker.producer.id, isCommit: marker.isCommit)
        }
    }

    /// Answers everyone who waits, before the shard is thrown away.
    mutating func drain(_ code: ErrorCode) -> CoordinatorResult {
        var out = CoordinatorResult()
        for groupID in classicGroups.keys.sorted() { classicGroups[groupID]?.drain(code, &out) }
        return out
    }

    /// Puts the group into the queue of deadlines.
    mutating func reschedule(_ groupID: String) {
        let deadline =
            classicGroups[groupID]?.nextDeadline ?? consumerGroups[groupID]?.nextDeadline
            ?? shareGroups[groupID]?.nextDeadline
        if let deadline { deadlines.schedule(groupID, at: deadline) }
    }

    /// A new id for a member, in the form that Kafka gives: readable prefix, dash, random UUID.
    mutating func newMemberID(prefix: String) -> String { "\(prefix)-\(random.nextUUIDText())" }

    // MARK: Classic protocol

    private mutating func join(
        _ request: JoinGroupRequest,
        _ origin: RequestOrigin,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        let refuse = { (code: ErrorCode, out: inout CoordinatorResult) in
            out.answer(token, .join(.error(code, memberID: request.memberId)))
        }
        if request.groupId.isEmpty { return refuse(.invalidGroupId, &out) }
        guard (settings.minSessionTimeout...settings.maxSessionTimeout).contains(request.sessionTimeoutMs) else {
            return refuse(.invalidSessionTimeout, &out)
        }
        let groupID = request.groupId
        if shareGroups[groupID] != nil { return refuse(.inconsistentGroupProtocol, &out) }
        if consumerGroups[groupID]?.members.isEmpty == false {
            return joinConsumerGroup(request, origin, token, now, &out)
        }
        makeRoomForClassicGroup(groupID, &out)
        if classicGroups[groupID] == nil {
            guard request.memberId.isEmpty else { return refuse(.unknownMemberId, &out) }
            classicGroups[groupID] = ClassicGroup(id: groupID, now: now)
        }
        let newID =
            request.memberId.isEmpty ? newMemberID(prefix: request.groupInstanceId ?? origin.clientID) : ""
        let join = ClassicGroup.Join(
            request: request,
            origin: origin,
            token: token,
            newMemberID: newID,
            now: now,
            settings: settings
        )
        classicGroups[groupID]?.join(join, &out)
        reschedule(groupID)
    }

    private mutating func sync(
        _ request: SyncGroupRequest,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        if consumerGroups[request.groupId] != nil { return syncConsumerGroup(request, token, &out, now) }
        guard classicGroups[request.groupId] != nil else {
            let code: ErrorCode = request.groupId.isEmpty ? .invalidGroupId : .unknownMemberId
            return out.answer(token, .sync(.error(code)))
        }
        classicGroups[request.groupId]?.sync(request, token, now, &out)
        reschedule(request.groupId)
    }

    private mutating func heartbeat(_ request: HeartbeatRequest, _ now: CoordinatorTime) -> ErrorCode {
        if request.groupId.isEmpty { return .invalidGroupId }
        if consumerGroups[request.groupId] != nil { return heartbeatConsumerGroup(request, now) }
        return classicGroups[request.groupId]?.heartbeat(request, now) ?? .unknownMemberId
    }

    private mutating func leave(
        _ request: LeaveGroupRequest,
        _ token: RequestToken,
        _ now: CoordinatorTime,
        _ out: inout CoordinatorResult
    ) {
        if request.groupId.isEmpty {
            return out.answer(token, .leave(LeaveGroupResponse(errorCode: ErrorCode.invalidGroupId.rawValue)))
        }
        // Versions 0 to 2 name one member, outside the list.
        let members = request.members.isEmpty ? [.init(memberId: request.memberId)] : request.members
        let responses =
            classicGroups[request.groupId]?.leave(members, now, settings, &out)
            ?? leaveConsumerGroup(request.groupId, members, now, &out)
            ?? members.map {
                .init(
                    memberId: $0.memberId,
                    groupInstanceId: $0.groupInstanceId,
                    errorCode: ErrorCode.unknownMemberId.rawValue
                )
            }
        out.answer(token, .leave(LeaveGroupResponse(errorCode: 0, members: responses)))
        reschedule(request.groupId)
    }
}

/// A small, fast generator with good mixing (Steele, Lea, Flood 2014), so that a seed replays a run.
struct SplitMix64: RandomNumberGenerator, Equatable, Sendable {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// A random UUID (RFC 9562 version 4) in hexadecimal with dashes.
    mutating func nextUUIDText() -> String {
        let high = next() & 0xFFFF_FFFF_FFFF_0FFF | 0x4000
        let low = next() & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
        let digits = Array("0123456789abcdef".utf8)
        return String(unsafeUninitializedCapacity: 36) { text in
            var index = 0
            for (half, word) in [high, low].enumerated() {
                for digit in 0..<16 {
                    if half == 0 && (digit == 8 || digit == 12) || half == 1 && (digit == 0 || digit == 4) {
                        text[index] = UInt8(ascii: "-")
                        index += 1
                    }
                    text[index] = digits[Int(word >> UInt64(60 - digit * 4) & 0xF)]
                    index += 1
                }
            }
            return 36
        }
    }
}
