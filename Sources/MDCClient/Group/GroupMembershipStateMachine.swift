// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// A member's life in a classic consumer group: join, share out (as leader), sync, heartbeat, rebalance, leave.
/// Pure: events come in, actions go out; the driver performs them and reports back.
///
/// Every request carries a number, and an answer with an old number is dropped: after a member left, what was
/// still on its way means nothing.
struct GroupMembershipStateMachine {
    struct Configuration: Sendable {
        var instanceID: String?
        var assignors: [ConsumerConfiguration.Assignor] = [.cooperativeSticky]
        var sessionTimeout: TimeAmount = .seconds(45)
        var heartbeatInterval: TimeAmount = .seconds(3)
        var maxPollInterval: TimeAmount = .seconds(300)
        var backoff = Backoff(first: .milliseconds(100), longest: .seconds(1))

        var isCooperative: Bool { assignors == [.cooperativeSticky] }
    }

    enum Action: Equatable {
        /// JoinGroup with the metadata for each assignor, by preference.
        case join(id: Int, memberID: String, protocols: [JoinProtocol])
        /// The member leads: say how many partitions these topics have.
        case countPartitions(id: Int, topics: [String])
        /// SyncGroup; assignments only from the leader.
        case sync(id: Int, SyncPlan)
        case heartbeat(id: Int, generation: Int32, memberID: String)
        case leave(memberID: String)
        case forgetCoordinator
        /// Stop reading these, tell the application, then call `callbacksDone`.
        case revoke([TopicPartition])
        /// They are gone already: stop reading, tell the application, then call `callbacksDone`.
        case lose([TopicPartition])
        /// Tell the application, start reading, then call `callbacksDone`.
        case assign([TopicPartition])
        /// The group cannot be joined.
        case fail(GroupFailure)
    }

    struct JoinProtocol: Equatable {
        let name: String
        let metadata: ByteBuffer
    }

    struct SyncPlan: Equatable {
        let generation: Int32
        let memberID: String
        let protocolName: String
        let assignments: [String: [TopicPartition]]
    }

    struct GroupFailure: Equatable {
        let error: ErrorCode
        let message: String
    }

    struct JoinAnswer {
        var generation: Int32
        var memberID: String
        var leader: String
        var protocolName: String
        var members: [AssignableMember]
        var skipAssignment = false
    }

    /// Why a request failed.
    enum Failure {
        case error(ErrorCode)
        /// No answer.
        case connection
    }

    private enum State: Equatable {
        /// Not a member, and not to be one.
        case idle
        /// Waits until a time, then joins.
        case pausing(until: NIODeadline)
        case joining
        case counting(JoinedRound)
        case syncing
        /// The application gives partitions up, then the member joins.
        case revokingBeforeJoin
        /// The application hears of its new assignment; then all is well, or the member joins again.
        case applying(rejoin: Bool)
        case stable
        /// Left because nobody polled; joins at the next poll.
        case expelled
        case failed
    }

    private struct JoinedRound: Equatable {
        let protocolName: String
        let members: [AssignableMember]
    }

    private let configuration: Configuration
    private var generator: SeededGenerator
    private var state = State.idle
    private var requestID = 0
    private var attempts = 0
    private(set) var topics: [String] = []
    private(set) var memberID = ""
    private(set) var generation: Int32 = -1
    private(set) var owned: Set<TopicPartition> = []
    private var isLeader = false
    /// What the leader shared out last, to see when it changes.
    private var countedPartitions: [String: Int32] = [:]
    /// The topics of all members, which the leader must watch.
    private(set) var watchedTopics: [String] = []
    private var rejoinIsWanted = false
    private var callbacksLeft = 0
    private var lastHeartbeat: NIODeadline?
    private var heartbeatIsUnderWay = false
    private var lastPoll = NIODeadline.uptimeNanoseconds(0)
    private var isPolling = false

    init(_ configuration: Configuration, generator: SeededGenerator = SeededGenerator()) {
        self.configuration = configuration
        self.generator = generator
    }

    /// Whether the member belongs to a generation, so that it can commit.
    var isMember: Bool { generation >= 0 && !memberID.isEmpty }
    var isStable: Bool { state == .stable }
    /// Whether the member left because nobody polled.
    var isExpelled: Bool { state == .expelled }

    // MARK: Subscribing, leaving, polling

    /// Subscribes, or changes the subscription.
    mutating func subscribe(_ topics: [String], now: NIODeadline) -> [Action] {
        self.topics = Array(Set(topics)).sorted()
        lastPoll = now
        switch state {
        case .idle, .failed, .expelled:
            attempts = 0
            return join()
        case .stable:
            return prepareJoin()
        case .applying:
            state = .applying(rejoin: true)
            return []
        case .pausing, .revokingBeforeJoin:
            // The coming join carries the new topics.
            return []
        case .joining, .counting, .syncing:
            rejoinIsWanted = true
            return []
        }
    }

    /// Leaves for good. The application has been told before.
    mutating func leave() -> [Action] {
        defer { reset(to: .idle) }
        // A static member stays, so that it may come back to the same partitions.
        guard !memberID.isEmpty, configuration.instanceID == nil, state != .expelled else { return [] }
        return [.leave(memberID: memberID)]
    }

    private mutating func reset(to newState: State) {
        state = newState
        requestID += 1
        memberID = ""
        generation = -1
        owned = []
        isLeader = false
        heartbeatIsUnderWay = false
        rejoinIsWanted = false
    }

    /// `poll` began.
    mutating func pollStarted(now: NIODeadline) -> [Action] {
        isPolling = true
        lastPoll = now
        return state == .expelled ? join() : []
    }

    /// `poll` returned.
    mutating func pollEnded(now: NIODeadline) {
        isPolling = false
        lastPoll = now
    }

    // MARK: Time

    /// When `tick` should be called next.
    var nextTick: NIODeadline? {
        switch state {
        case .idle, .expelled, .failed: return nil
        case .pausing(let until): return until
        case .joining, .counting, .syncing: return pollLimit
        case .revokingBeforeJoin, .applying, .stable:
            let beat = heartbeatIsUnderWay ? nil : nextHeartbeat
            return [beat, pollLimit].compactMap { $0 }.min()
        }
    }

    private var pollLimit: NIODeadline? { isPolling ? nil : lastPoll + configuration.maxPollInterval }
    private var nextHeartbeat: NIODeadline? { lastHeartbeat.map { $0 + configuration.heartbeatInterval } }

    mutating func tick(now: NIODeadline) -> [Action] {
        if let pollLimit, pollLimit <= now, state != .idle, state != .expelled, state != .failed { return expel() }
        switch state {
        case .pausing(let until) where until <= now:
            return join()
        case .stable, .applying, .revokingBeforeJoin:
            guard !heartbeatIsUnderWay, isMember, let due = nextHeartbeat, due <= now else { return [] }
            heartbeatIsUnderWay = true
            lastHeartbeat = now
            return [.heartbeat(id: requestID, generation: generation, memberID: memberID)]
        default:
            return []
        }
    }

    /// Nobody polled for too long: let others have the partitions.
    private mutating func expel() -> [Action] {
        var actions: [Action] = []
        if !memberID.isEmpty, configuration.instanceID == nil { actions.append(.leave(memberID: memberID)) }
        actions += lose()
        reset(to: .expelled)
        return actions
    }

    private mutating func lose() -> [Action] {
        guard !owned.isEmpty else { return [] }
        defer { owned = [] }
        callbacksLeft += 1
        return [.lose(owned.sorted())]
    }

    // MARK: Joining

    private mutating func nextRequest() -> Int {
        requestID += 1
        heartbeatIsUnderWay = false
        return requestID
    }

    /// Eager members give everything up before they join; cooperative ones keep it.
    private mutating func prepareJoin() -> [Action] {
        if !configuration.isCooperative, !owned.isEmpty {
            state = .revokingBeforeJoin
            let all = owned.sorted()
            owned = []
            callbacksLeft += 1
            return [.revoke(all)]
        }
        return join()
    }

    private mutating func join() -> [Action] {
        state = .joining
        rejoinIsWanted = false
        let subscription = MemberSubscription(
            topics: topics,
            owned: configuration.isCooperative ? owned.sorted() : [],
            generation: generation
        )
        return [
            .join(
                id: nextRequest(),
                memberID: memberID,
                protocols: configuration.assignors.map {
                    JoinProtocol(name: $0.rawValue, metadata: GroupProtocol.encode(subscription, assignor: $0))
                }
            )
        ]
    }

    mutating func joinAnswered(id: Int, _ answer: JoinAnswer) -> [Action] {
        guard id == requestID, state == .joining else { return [] }
        attempts = 0
        memberID = answer.memberID
        generation = answer.generation
        isLeader = answer.leader == answer.memberID
        if isLeader, !answer.skipAssignment {
            state = .counting(JoinedRound(protocolName: answer.protocolName, members: answer.members))
            watchedTopics = Assignors.topics(of: answer.members)
            return [.countPartitions(id: requestID, topics: watchedTopics)]
        }
        return sync(protocolName: answer.protocolName, assignments: [:])
    }

    /// The leader's answer to `countPartitions`; topics that do not exist are missing.
    mutating func partitionsCounted(id: Int, _ counts: [String: Int32]) -> [Action] {
        guard id == requestID, case .counting(let round) = state else { return [] }
        countedPartitions = counts
        guard let assignor = ConsumerConfiguration.Assignor(rawValue: round.protocolName) else {
            return fail(
                .inconsistentGroupProtocol,
                "the group chose assignor '\(round.protocolName)', which is not ours"
            )
        }
        return sync(
            protocolName: round.protocolName,
            assignments: Assignors.assign(assignor, members: round.members, partitionCounts: counts)
        )
    }

    private mutating func sync(protocolName: String, assignments: [String: [TopicPartition]]) -> [Action] {
        state = .syncing
        return [
            .sync(
                id: nextRequest(),
                SyncPlan(
                    generation: generation,
                    memberID: memberID,
                    protocolName: protocolName,
                    assignments: assignments
                )
            )
        ]
    }

    mutating func syncAnswered(id: Int, assignment: [TopicPartition], now: NIODeadline) -> [Action] {
        guard id == requestID, state == .syncing else { return [] }
        let new = Set(assignment)
        let revoked = owned.subtracting(new)
        let added = new.subtracting(owned)
        owned = new
        lastHeartbeat = now
        var actions: [Action] = []
        if !revoked.isEmpty { actions.append(.revoke(revoked.sorted())) }
        actions.append(.assign(added.sorted()))
        callbacksLeft += actions.count
        // What was given up can be shared out only in another round.
        state = .applying(rejoin: !revoked.isEmpty || rejoinIsWanted)
        return actions
    }

    /// One of the callbacks after `revoke`, `lose` or `assign` is over.
    mutating func callbacksDone() -> [Action] {
        callbacksLeft -= 1
        guard callbacksLeft == 0 else { return [] }
        switch state {
        case .revokingBeforeJoin: return join()
        case .applying(let rejoin):
            state = .stable
            return rejoin || rejoinIsWanted ? prepareJoin() : []
        default: return []
        }
    }

    /// Partition counts changed: the leader shares out anew.
    mutating func metadataChanged(_ counts: [String: Int32]) -> [Action] {
        guard isLeader, counts != countedPartitions else { return [] }
        switch state {
        case .stable: return prepareJoin()
        case .applying: state = .applying(rejoin: true)
        case .syncing: rejoinIsWanted = true
        default: break
        }
        return []
    }

    // MARK: Heartbeats

    mutating func heartbeatSucceeded(id: Int) {
        if id == requestID { heartbeatIsUnderWay = false }
    }

    // MARK: Failures

    enum Request { case join, sync, heartbeat }

    /// A request failed.
    mutating func failed(
        _ request: Request,
        id: Int,
        _ failure: Failure,
        memberID newID: String? = nil,
        now: NIODeadline
    )
        -> [Action]
    {
        guard id == requestID else { return [] }
        if request == .heartbeat { heartbeatIsUnderWay = false }
        switch failure {
        case .connection:
            return [.forgetCoordinator] + (request == .heartbeat ? [] : pause(now))
        case .error(let code):
            return failed(request, code, newID, now)
        }
    }

    private mutating func failed(_ request: Request, _ code: ErrorCode, _ newID: String?, _ now: NIODeadline)
        -> [Action]
    {
        switch code {
        case .memberIdRequired:
            memberID = newID ?? memberID
            return join()
        case .notCoordinator, .coordinatorNotAvailable:
            return [.forgetCoordinator] + (request == .heartbeat ? [] : pause(now))
        case .coordinatorLoadInProgress, .requestTimedOut:
            return request == .heartbeat ? [] : pause(now)
        case .rebalanceInProgress:
            // While partitions are being given up the member knows already.
            if state == .revokingBeforeJoin { return [] }
            if case .applying = state {
                state = .applying(rejoin: true)
                return []
            }
            return prepareJoin()
        case .unknownMemberId, .illegalGeneration:
            let lost = lose()
            if code == .unknownMemberId { memberID = "" }
            generation = -1
            return lost + (request == .heartbeat ? join() : pause(now))
        case .fencedInstanceId:
            return fail(code, "another member took over group.instance.id '\(configuration.instanceID ?? "")'")
        case .inconsistentGroupProtocol:
            return fail(
                code,
                "the group's members use other assignors than \(configuration.assignors.map(\.rawValue)); they need one in common"
            )
        case .invalidSessionTimeout:
            return fail(code, "sessionTimeout is outside what the broker allows (group.min/max.session.timeout.ms)")
        case let code where code.isRetriable:
            return pause(now)
        default:
            return fail(code, "the group refuses this member")
        }
    }

    private mutating func pause(_ now: NIODeadline) -> [Action] {
        let delay = configuration.backoff.delay(attempt: attempts, using: &generator)
        attempts += 1
        state = .pausing(until: now + delay)
        requestID += 1
        return []
    }

    private mutating func fail(_ code: ErrorCode, _ message: String) -> [Action] {
        let lost = lose()
        reset(to: .failed)
        return lost + [.fail(GroupFailure(error: code, message: message))]
    }
}
