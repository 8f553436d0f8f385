// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCClient

@Suite("A member's life in its group")
struct GroupMembershipStateMachineTests {
    typealias Machine = GroupMembershipStateMachine
    typealias Action = GroupMembershipStateMachine.Action

    let start = NIODeadline.uptimeNanoseconds(1_000_000_000)

    func tp(_ partition: Int32) -> TopicPartition { TopicPartition(topic: "t", partition: PartitionID(partition)) }

    func machine(
        _ assignors: [ConsumerConfiguration.Assignor] = [.cooperativeSticky],
        instance: String? = nil
    ) -> Machine {
        var configuration = Machine.Configuration()
        configuration.assignors = assignors
        configuration.instanceID = instance
        return Machine(configuration, generator: SeededGenerator(seed: 1))
    }

    func joinID(_ actions: [Action]) throws -> Int {
        for action in actions { if case .join(let id, _, _) = action { return id } }
        Issue.record("no join in \(actions)")
        throw ClientError(.invalidState, "no join")
    }

    func syncID(_ actions: [Action]) throws -> (Int, Machine.SyncPlan) {
        for action in actions { if case .sync(let id, let plan) = action { return (id, plan) } }
        Issue.record("no sync in \(actions)")
        throw ClientError(.invalidState, "no sync")
    }

    /// Joins as a follower and gets this assignment; gives the actions of the sync.
    func joined(
        _ machine: inout Machine,
        _ actions: [Action],
        generation: Int32 = 1,
        _ assignment: [TopicPartition]
    ) throws -> [Action] {
        let answer = Machine.JoinAnswer(
            generation: generation,
            memberID: "me",
            leader: "other",
            protocolName: "cooperative-sticky",
            members: []
        )
        let (id, plan) = try syncID(machine.joinAnswered(id: try joinID(actions), answer))
        #expect(plan.assignments.isEmpty)
        return machine.syncAnswered(id: id, assignment: assignment, now: start)
    }

    func finishCallbacks(_ machine: inout Machine, _ count: Int) -> [Action] {
        var actions: [Action] = []
        for _ in 0..<count { actions += machine.callbacksDone() }
        return actions
    }

    @Test("joins with the id that the broker gives, leads, shares out, heartbeats")
    func leads() throws {
        var machine = machine()
        let first = machine.subscribe(["t"], now: start)
        let again = machine.failed(
            .join,
            id: try joinID(first),
            .error(.memberIdRequired),
            memberID: "me",
            now: start
        )
        guard case .join(let id, let memberID, let protocols) = again.first else {
            Issue.record("no second join")
            return
        }
        #expect(memberID == "me")
        #expect(protocols.map(\.name) == ["cooperative-sticky"])
        let counting = machine.joinAnswered(
            id: id,
            Machine.JoinAnswer(
                generation: 1,
                memberID: "me",
                leader: "me",
                protocolName: "cooperative-sticky",
                members: [
                    AssignableMember(id: "me", instanceID: nil, subscription: MemberSubscription(topics: ["t"])),
                    AssignableMember(id: "you", instanceID: nil, subscription: MemberSubscription(topics: ["t", "u"])),
                ]
            )
        )
        #expect(counting == [.countPartitions(id: id, topics: ["t", "u"])])
        let (syncID, plan) = try syncID(machine.partitionsCounted(id: id, ["t": 2, "u": 1]))
        #expect(plan.assignments["me"]?.isEmpty == false)
        #expect(plan.assignments.values.flatMap { $0 }.count == 3)
        #expect(machine.syncAnswered(id: syncID, assignment: [tp(0)], now: start) == [.assign([tp(0)])])
        #expect(!machine.isStable)
        #expect(machine.callbacksDone().isEmpty)
        #expect(machine.isStable && machine.isMember)

        #expect(machine.nextTick == start + .seconds(3))
        #expect(machine.tick(now: start + .seconds(2)).isEmpty)
        guard case .heartbeat(let beat, 1, "me") = machine.tick(now: start + .seconds(3)).first else {
            Issue.record("no heartbeat")
            return
        }
        #expect(machine.tick(now: start + .seconds(20)).isEmpty, "one at a time")
        machine.heartbeatSucceeded(id: beat)
        #expect(machine.tick(now: start + .seconds(20)).count == 1)

        // New partitions of a topic that any member reads make the leader share out again.
        let unchanged = machine.metadataChanged(["t": 2, "u": 1])
        #expect(unchanged.isEmpty)
        _ = try joinID(machine.metadataChanged(["t": 4, "u": 1]))
    }

    @Test("cooperative: keeps its partitions while it joins again, and gives up only what it must")
    func cooperative() throws {
        var machine = machine()
        let actions = try joined(&machine, machine.subscribe(["t"], now: start), [tp(0), tp(1), tp(2)])
        #expect(actions == [.assign([tp(0), tp(1), tp(2)])])
        _ = finishCallbacks(&machine, 1)
        guard case .heartbeat(let beat, _, _) = machine.tick(now: start + .seconds(3)).first else {
            Issue.record("no heartbeat")
            return
        }
        let rejoin = machine.failed(.heartbeat, id: beat, .error(.rebalanceInProgress), now: start + .seconds(3))
        guard case .join(_, "me", let protocols) = rejoin.first else {
            Issue.record("does not join but \(rejoin)")
            return
        }
        let told = try GroupProtocol.decodeSubscription(protocols[0].metadata)
        #expect(told.owned == [tp(0), tp(1), tp(2)] && told.generation == 1)
        #expect(machine.owned.count == 3)
        let changed = try joined(&machine, rejoin, generation: 2, [tp(0), tp(1)])
        #expect(changed == [.revoke([tp(2)]), .assign([])])
        // Only after both callbacks it joins once more, so that what it gave up can be shared out.
        #expect(machine.callbacksDone().isEmpty)
        let third = machine.callbacksDone()
        let last = try joined(&machine, third, generation: 3, [tp(0), tp(1)])
        #expect(last == [.assign([])])
        #expect(finishCallbacks(&machine, 1).isEmpty)
        #expect(machine.isStable)
    }

    @Test("eager: gives everything up before it joins again")
    func eager() throws {
        var machine = machine([.range, .roundRobin])
        let subscribe = machine.subscribe(["t"], now: start)
        guard case .join(_, _, let protocols) = subscribe.first else {
            Issue.record("no join")
            return
        }
        #expect(protocols.map(\.name) == ["range", "roundrobin"])
        _ = try joined(&machine, subscribe, [tp(0), tp(1)])
        _ = finishCallbacks(&machine, 1)
        guard case .heartbeat(let beat, _, _) = machine.tick(now: start + .seconds(3)).first else {
            Issue.record("no heartbeat")
            return
        }
        let actions = machine.failed(.heartbeat, id: beat, .error(.rebalanceInProgress), now: start)
        #expect(actions == [.revoke([tp(0), tp(1)])])
        // Heartbeats go on while the application gives up.
        #expect(machine.tick(now: start + .seconds(9)).count == 1)
        let rejoin = machine.callbacksDone()
        let next = try joined(&machine, rejoin, generation: 2, [tp(1)])
        #expect(next == [.assign([tp(1)])])
    }

    @Test("a member that the group forgot has lost its partitions and joins as a new one")
    func forgotten() throws {
        for code in [ErrorCode.unknownMemberId, .illegalGeneration] {
            var machine = machine()
            _ = try joined(&machine, machine.subscribe(["t"], now: start), [tp(0)])
            _ = finishCallbacks(&machine, 1)
            guard case .heartbeat(let beat, _, _) = machine.tick(now: start + .seconds(3)).first else {
                Issue.record("no heartbeat")
                return
            }
            let actions = machine.failed(.heartbeat, id: beat, .error(code), now: start)
            #expect(actions.first == .lose([tp(0)]))
            guard case .join(_, let memberID, let protocols) = actions.last else {
                Issue.record("does not join again")
                return
            }
            #expect(memberID == (code == .unknownMemberId ? "" : "me"))
            #expect(try GroupProtocol.decodeSubscription(protocols[0].metadata).owned.isEmpty)
            #expect(!machine.isMember)
        }
    }

    @Test("a coordinator that moved is looked up again, after a pause, with the same member id")
    func movedCoordinator() throws {
        var machine = machine()
        let id = try joinID(machine.subscribe(["t"], now: start))
        #expect(machine.failed(.join, id: id, .error(.notCoordinator), now: start) == [.forgetCoordinator])
        let until = try #require(machine.nextTick)
        #expect(until > start && until <= start + .milliseconds(120))
        #expect(machine.tick(now: start).isEmpty)
        let second = try joinID(machine.tick(now: until))
        #expect(machine.failed(.join, id: id, .connection, now: until).isEmpty, "an old answer means nothing")
        #expect(machine.failed(.join, id: second, .connection, now: until) == [.forgetCoordinator])
        let pause = try #require(machine.nextTick)
        #expect(pause > until + .milliseconds(120), "pauses grow")
    }

    @Test("a lost heartbeat is tried again, and costs nothing")
    func lostHeartbeat() throws {
        var machine = machine()
        _ = try joined(&machine, machine.subscribe(["t"], now: start), [tp(0)])
        _ = finishCallbacks(&machine, 1)
        guard case .heartbeat(let beat, _, _) = machine.tick(now: start + .seconds(3)).first else {
            Issue.record("no heartbeat")
            return
        }
        #expect(machine.failed(.heartbeat, id: beat, .connection, now: start) == [.forgetCoordinator])
        #expect(machine.isStable && machine.owned == [tp(0)])
        #expect(machine.tick(now: start + .seconds(6)).count == 1)
    }

    @Test("nobody polls: the member leaves, and comes back with the next poll")
    func maxPollInterval() throws {
        var machine = machine()
        _ = try joined(&machine, machine.subscribe(["t"], now: start), [tp(0)])
        _ = finishCallbacks(&machine, 1)
        #expect(machine.pollStarted(now: start).isEmpty)
        #expect(machine.tick(now: start + .seconds(400)).count == 1, "a poll that waits is a poll")
        machine.pollEnded(now: start + .seconds(400))
        let gone = machine.tick(now: start + .seconds(700))
        #expect(gone == [.leave(memberID: "me"), .lose([tp(0)])])
        #expect(machine.isExpelled && machine.nextTick == nil)
        guard case .join(_, "", _) = machine.pollStarted(now: start + .seconds(800)).first else {
            Issue.record("does not come back")
            return
        }
    }

    @Test("leaving says so, unless the member is static")
    func leaving() throws {
        var dynamic = machine()
        _ = try joined(&dynamic, dynamic.subscribe(["t"], now: start), [tp(0)])
        #expect(dynamic.leave() == [.leave(memberID: "me")])
        #expect(dynamic.leave().isEmpty)
        var fixed = machine(instance: "i")
        _ = try joined(&fixed, fixed.subscribe(["t"], now: start), [tp(0)])
        #expect(fixed.leave().isEmpty)
    }

    @Test(
        "what cannot be repaired is told",
        arguments: [
            ErrorCode.inconsistentGroupProtocol, .invalidSessionTimeout, .fencedInstanceId, .groupAuthorizationFailed,
        ]
    )
    func fatal(code: ErrorCode) throws {
        var machine = machine()
        let id = try joinID(machine.subscribe(["t"], now: start))
        guard case .fail(let failure) = machine.failed(.join, id: id, .error(code), now: start).last else {
            Issue.record("not told")
            return
        }
        #expect(failure.error == code && !failure.message.isEmpty)
        #expect(machine.nextTick == nil)
    }

    @Test("topics that change while a rebalance runs lead to another")
    func changedSubscription() throws {
        var machine = machine()
        let first = machine.subscribe(["t"], now: start)
        #expect(machine.subscribe(["t", "u"], now: start).isEmpty)
        _ = try joined(&machine, first, [tp(0)])
        let rejoin = machine.callbacksDone()
        guard case .join(_, _, let protocols) = rejoin.first else {
            Issue.record("does not join again")
            return
        }
        #expect(try GroupProtocol.decodeSubscription(protocols[0].metadata).topics == ["t", "u"])
    }
}
