// SPDX-License-Identifier: Apache-2.0

import MDCModel
import MDCProtocol
import NIOCore

/// A group of the classic protocol, in which the broker only gathers members and the members' leader assigns.
///
/// A pure state machine: requests and time go in, answers and records come out. Sources: KIP-62 (timeouts), KIP-345
/// (static members), KIP-394 (member id required), KIP-559, KIP-814 (skipped assignment).
struct ClassicGroup: Equatable, Sendable {
    /// Where a group is in the life of its generation.
    enum State: String, Sendable {
        case empty = "Empty"
        /// Members are being gathered.
        case preparingRebalance = "PreparingRebalance"
        /// All have joined; the leader's assignment is awaited.
        case completingRebalance = "CompletingRebalance"
        case stable = "Stable"
    }

    /// What the group itself waits for. Times are of the monotonic clock.
    enum Wait: Equatable, Sendable {
        case nothing
        /// The first members of an empty group: gather until `at`, and again while new ones come and `remaining` is left.
        case initialDelay(at: Int64, remaining: Int64)
        /// All members join by then, or are dropped.
        case join(at: Int64)
        /// All members fetch their assignment by then, or are dropped.
        case sync(at: Int64)
    }

    let id: String
    var state = State.empty
    /// The state before the current one.
    var previousState = State.empty
    /// When the state last changed, for the expiry of offsets.
    var stateTimestamp: Timestamp
    var generation: Int32 = 0
    var protocolType: String?
    /// The chosen assignor.
    var protocolName: String?
    var leader: String?
    var members: [String: ClassicGroupMember] = [:]
    /// Instance id → member id.
    var staticMembers: [String: String] = [:]
    /// Member ids that were handed out and are expected to join; id → deadline.
    var pendingJoins: [String: Int64] = [:]
    /// Members that have yet to fetch this generation's assignment.
    var pendingSyncs: Set<String> = []
    var wait = Wait.nothing
    /// Whether someone joined since the initial delay was last set.
    var hasNewMember = false
    /// How many members wait in JoinGroup.
    var awaitingJoin = 0
    /// How many members offer each assignor.
    var offerCounts: [String: Int] = [:]
    var nextOrder: UInt64 = 0
    /// No member's or pending join's deadline lies before this.
    var earliestMemberDeadline = Int64.max

    init(id: String, now: CoordinatorTime) {
        self.id = id
        stateTimestamp = now.wall
    }

    // MARK: Questions

    var membersInOrder: [ClassicGroupMember] { members.values.sorted { $0.order < $1.order } }
    func isLeader(_ memberID: String) -> Bool { leader == memberID }
    var hasAllMembersJoined: Bool { members.count == awaitingJoin && pendingJoins.isEmpty }
    /// The longest any member wants a rebalance to wait.
    var rebalanceTimeout: Int64 { Int64(members.values.lazy.map(\.rebalanceTimeout).max() ?? 0) }

    /// When the group wants to be woken.
    var nextDeadline: Int64? {
        var next = earliestMemberDeadline
        switch wait {
        case .nothing: break
        case .initialDelay(let at, _), .join(let at), .sync(let at): next = min(next, at)
        }
        return next == .max ? nil : next
    }

    /// Whether a member that offers `protocols` can live with the others.
    func supports(_ type: String, _ protocols: [JoinGroupRequest.JoinGroupRequestProtocol]) -> Bool {
        if members.isEmpty { return !type.isEmpty && !protocols.isEmpty }
        return type == protocolType && protocols.contains { offerCounts[$0.name] == members.count }
    }

    /// The error of a request that claims to come from `memberID`, a static one if `instanceID` is set.
    func validate(_ memberID: String, _ instanceID: String?) -> ErrorCode {
        if let instanceID {
            guard let present = staticMembers[instanceID] else { return .unknownMemberId }
            if present != memberID { return .fencedInstanceId }
        }
        return members[memberID] == nil ? .unknownMemberId : .none
    }

    /// The assignor that most members prefer among those that all offer.
    func selectProtocol() -> String? {
        var votes: [String: Int] = [:]
        var order: [String] = []
        for member in membersInOrder {
            guard let choice = member.offers.first(where: { offerCounts[$0.name] == members.count }) else { continue }
            if votes[choice.name] == nil { order.append(choice.name) }
            votes[choice.name, default: 0] += 1
        }
        // The first of those with the most votes, so that a tie is decided the same way each time.
        var best: String?
        for name in order where (votes[name] ?? 0) > (best.flatMap { votes[$0] } ?? 0) { best = name }
        return best
    }

    /// What the leader is told of the members.
    var memberList: [JoinGroupResponse.JoinGroupResponseMember] {
        guard let protocolName else { return [] }
        return membersInOrder.map {
            .init(memberId: $0.id, groupInstanceId: $0.instanceID, metadata: $0.metadata(for: protocolName))
        }
    }

    // MARK: Members

    mutating func add(_ member: ClassicGroupMember) {
        if members.isEmpty { protocolType = protocolType ?? "" }
        if leader == nil { leader = member.id }
        if let instanceID = member.instanceID { staticMembers[instanceID] = member.id }
        for offer in member.offers { offerCounts[offer.name, default: 0] += 1 }
        if member.joinToken != nil { awaitingJoin += 1 }
        pendingJoins[member.id] = nil
        members[member.id] = member
        note(deadline: member.deadline)
    }

    /// Takes a member out, whatever it waits for. The caller has answered its requests.
    @discardableResult
    mutating func remove(_ memberID: String) -> ClassicGroupMember? {
        guard let member = members.removeValue(forKey: memberID) else { return nil }
        for offer in member.offers { countOffer(offer.name, -1) }
        if member.joinToken != nil { awaitingJoin -= 1 }
        if let instanceID = member.instanceID, staticMembers[instanceID] == memberID { staticMembers[instanceID] = nil }
        pendingSyncs.remove(memberID)
        if leader == memberID { leader = members.values.min { $0.order < $1.order }?.id }
        return member
    }

    private mutating func countOffer(_ name: String, _ change: Int) {
        let count = (offerCounts[name] ?? 0) + change
        offerCounts[name] = count == 0 ? nil : count
    }

    mutating func setOffers(_ memberID: String, _ protocols: [JoinGroupRequest.JoinGroupRequestProtocol]) {
        guard let present = members[memberID] else { return }
        for offer in present.offers { countOffer(offer.name, -1) }
        members[memberID]?.offers = protocols.map { .init(name: $0.name, metadata: $0.metadata) }
        for offer in protocols { countOffer(offer.name, 1) }
    }

    /// Parks a JoinGroup. One that the member sent before and that still waits is answered, so that no connection hangs.
    mutating func park(join token: RequestToken, of memberID: String, _ out: inout CoordinatorResult) {
        if let older = members[memberID]?.joinToken {
            out.answer(older, .join(.error(.rebalanceInProgress, memberID: memberID)))
        } else {
            awaitingJoin += 1
        }
        members[memberID]?.joinToken = token
    }

    /// Answers a parked JoinGroup, if there is one.
    mutating func answerJoin(_ memberID: String, _ response: JoinGroupResponse, _ out: inout CoordinatorResult) {
        guard let token = members[memberID]?.joinToken else { return }
        members[memberID]?.joinToken = nil
        awaitingJoin -= 1
        out.answer(token, .join(response))
    }

    /// Answers a parked SyncGroup, if there is one.
    mutating func answerSync(_ memberID: String, _ response: SyncGroupResponse, _ out: inout CoordinatorResult) {
        guard let token = members[memberID]?.syncToken else { return }
        members[memberID]?.syncToken = nil
        out.answer(token, .sync(response))
    }

    /// Starts the member's session anew.
    mutating func renewSession(_ memberID: String, _ now: CoordinatorTime) {
        guard let member = members[memberID] else { return }
        let deadline = now.monotonic + Int64(member.sessionTimeout)
        members[memberID]?.deadline = deadline
        note(deadline: deadline)
    }

    mutating func note(deadline: Int64) { earliestMemberDeadline = min(earliestMemberDeadline, deadline) }

    mutating func move(to next: State, _ now: CoordinatorTime) {
        previousState = state
        state = next
        stateTimestamp = now.wall
    }

    // MARK: Records

    /// The group as its record holds it.
    var metadataValue: GroupMetadataValue {
        GroupMetadataValue(
            protocolType: protocolType ?? "",
            generation: generation,
            protocol: protocolName,
            leader: members.isEmpty ? nil : leader,
            currentStateTimestamp: stateTimestamp.rawValue,
            members: membersInOrder.map { member in
                .init(
                    memberId: member.id,
                    groupInstanceId: member.instanceID,
                    clientId: member.clientID,
                    clientHost: member.clientHost,
                    rebalanceTimeout: member.rebalanceTimeout,
                    sessionTimeout: member.sessionTimeout,
                    subscription: protocolName.map { member.metadata(for: $0) } ?? ByteBuffer(),
                    assignment: member.assignment
                )
            }
        )
    }

    mutating func persist(_ out: inout CoordinatorResult) {
        out.records.append(.classicGroup(id, metadataValue))
        out.changesGroups = true
    }

    /// The group that a record describes: stable, or empty where it has no members. Sessions start at `now`.
    init(id: String, _ value: GroupMetadataValue, now: CoordinatorTime) {
        self.init(id: id, now: now)
        generation = value.generation
        protocolType = value.protocolType.isEmpty ? nil : value.protocolType
        protocolName = value.protocol
        stateTimestamp = value.currentStateTimestamp < 0 ? now.wall : Timestamp(value.currentStateTimestamp)
        for stored in value.members {
            add(
                ClassicGroupMember(
                    id: stored.memberId,
                    instanceID: stored.groupInstanceId,
                    clientID: stored.clientId,
                    clientHost: stored.clientHost,
                    rebalanceTimeout: stored.rebalanceTimeout < 0 ? stored.sessionTimeout : stored.rebalanceTimeout,
                    sessionTimeout: stored.sessionTimeout,
                    offers: value.protocol.map { [.init(name: $0, metadata: stored.subscription)] } ?? [],
                    assignment: stored.assignment,
                    isNew: false,
                    deadline: now.monotonic + Int64(stored.sessionTimeout),
                    order: takeOrder()
                )
            )
        }
        leader = value.members.isEmpty ? nil : value.leader
        state = members.isEmpty ? .empty : .stable
        previousState = state
    }

    mutating func takeOrder() -> UInt64 {
        defer { nextOrder += 1 }
        return nextOrder
    }

    /// Whether it is known that no member reads `topic`: then its offsets may go. A subscription that cannot be read
    /// counts as reading everything.
    func isSubscribed(to topic: String) -> Bool {
        guard protocolType == "consumer", let protocolName else { return !members.isEmpty }
        return members.values.contains { member in
            guard let topics = member.metadata(for: protocolName).subscribedTopics else { return true }
            return topics.contains(topic)
        }
    }
}

extension ByteBuffer {
    /// The ConsumerProtocolSubscription that the bytes are; nil where they are none.
    var subscription: ConsumerProtocolSubscription? {
        var bytes = self
        guard let version = bytes.readInteger(as: Int16.self), version >= 0 else { return nil }
        var reader = MessageReader(bytes)
        return try? ConsumerProtocolSubscription(from: &reader, version: min(version, 3))
    }

    /// The topics of a ConsumerProtocolSubscription; nil where the bytes are none.
    var subscribedTopics: [String]? { subscription?.topics }
}

extension JoinGroupResponse {
    /// A refusal.
    static func error(_ code: ErrorCode, memberID: String) -> JoinGroupResponse {
        JoinGroupResponse(errorCode: code.rawValue, generationId: -1, memberId: memberID)
    }
}

extension SyncGroupResponse {
    /// A refusal.
    static func error(_ code: ErrorCode) -> SyncGroupResponse { SyncGroupResponse(errorCode: code.rawValue) }
}
