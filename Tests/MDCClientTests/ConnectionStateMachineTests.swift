// SPDX-License-Identifier: Apache-2.0

import MDCProtocol
import NIOCore
import Testing

@testable import MDCClient

@Suite("The protocol of one connection")
struct ConnectionStateMachineTests {
    typealias Machine = ConnectionStateMachine<String>
    let start = NIODeadline.uptimeNanoseconds(1_000_000_000)

    /// A machine that has negotiated these ranges.
    func ready(_ ranges: [Int16: ClosedRange<Int16>]) -> Machine {
        var machine = Machine(negotiationTimeout: .seconds(5))
        let query = machine.connected(queryVersion: 3, now: start)
        guard case .versionAnswer(let version) = machine.received(correlationID: query.correlationID) else {
            Issue.record("no version answer")
            return machine
        }
        #expect(version == 3)
        #expect(machine.versionsArrived(errorCode: 0, ranges: ranges, now: start) == .becomeReady)
        return machine
    }

    func write(_ machine: inout Machine, _ name: String, _ key: APIKey, _ ours: ClosedRange<Int16>) -> (Int32, Int16)? {
        if case .write(let id, let version) = machine.send(
            name,
            key: key,
            versions: ours,
            deadline: start + .seconds(30)
        ) {
            return (id, version)
        }
        return nil
    }

    func answer(_ machine: inout Machine, _ id: Int32) -> String? {
        if case .answer(let done) = machine.received(correlationID: id) { return done.request }
        return nil
    }

    @Test("takes the highest version that both know")
    func negotiates() {
        var machine = ready([0: 3...9, 1: 4...18])
        #expect(write(&machine, "produce", .produce, 3...12)?.1 == 9)
        #expect(write(&machine, "fetch", .fetch, 4...12)?.1 == 12)
        guard case .fail(let error) = machine.send("old", key: .produce, versions: 10...12, deadline: start) else {
            Issue.record("a version that the broker does not know was sent")
            return
        }
        #expect(error.code == .unsupportedVersion)
        #expect(error.message.contains("3 to 9"))
        guard case .fail(let unknown) = machine.send("none", key: .joinGroup, versions: 0...9, deadline: start) else {
            Issue.record("a request that the broker does not know was sent")
            return
        }
        #expect(unknown.code == .unsupportedVersion)
    }

    @Test("falls back to the version that error 35 tells, or to 0")
    func fallsBack() {
        var telling = Machine(negotiationTimeout: .seconds(5))
        let first = telling.connected(queryVersion: 4, now: start)
        _ = telling.received(correlationID: first.correlationID)
        let action = telling.versionsArrived(errorCode: 35, ranges: [18: 0...2], now: start)
        guard case .query(let second) = action else {
            Issue.record("no second query but \(action)")
            return
        }
        #expect(second.version == 2)
        #expect(second.correlationID != first.correlationID)

        var silent = Machine(negotiationTimeout: .seconds(5))
        _ = silent.connected(queryVersion: 3, now: start)
        #expect(
            silent.versionsArrived(errorCode: 35, ranges: [:], now: start)
                == .query(Machine.VersionQuery(version: 0, correlationID: 1))
        )
        // Version 0 refused as well is the end.
        guard case .fail = silent.versionsArrived(errorCode: 35, ranges: [:], now: start) else {
            Issue.record("asks for ever")
            return
        }
    }

    @Test("matches answers in order, and takes anything else for a violation")
    func ordersAnswers() {
        var machine = ready([0: 0...9])
        let ids = ["a", "b", "c"].compactMap { write(&machine, $0, .produce, 0...9)?.0 }
        #expect(ids.count == 3 && Set(ids).count == 3)
        #expect(answer(&machine, ids[0]) == "a")
        guard case .violation(let error) = machine.received(correlationID: ids[2]) else {
            Issue.record("an answer out of order was taken")
            return
        }
        #expect(error.code == .protocolViolation)
        #expect(machine.closed(error) == ["b", "c"])
        #expect(machine.closed(error).isEmpty)
    }

    @Test("an answer that nobody asked for is a violation")
    func unaskedAnswer() {
        var machine = ready([0: 0...9])
        guard case .violation = machine.received(correlationID: 7) else {
            Issue.record("an unasked answer was taken")
            return
        }
        var fresh = Machine(negotiationTimeout: .seconds(5))
        guard case .violation = fresh.received(correlationID: 0) else {
            Issue.record("a peer that speaks first was listened to")
            return
        }
    }

    @Test("a request without answer leaves the order of the others alone")
    func fireAndForget() {
        var machine = ready([0: 0...9])
        guard
            case .write = machine.send(
                "forgotten",
                key: .produce,
                versions: 0...9,
                expectsAnswer: false,
                deadline: start
            )
        else {
            Issue.record("not sent")
            return
        }
        #expect(machine.inFlightCount == 0)
        #expect(machine.nextDeadline == nil)
        let id = write(&machine, "asked", .produce, 0...9)?.0
        #expect(answer(&machine, id ?? -1) == "asked")
    }

    @Test("a late answer breaks the connection, even behind one that may take longer")
    func expires() {
        var machine = ready([0: 0...9, 1: 4...12])
        _ = machine.send("long poll", key: .fetch, versions: 4...12, deadline: start + .seconds(60))
        _ = machine.send("short", key: .produce, versions: 0...9, deadline: start + .seconds(10))
        #expect(machine.nextDeadline == start + .seconds(10))
        #expect(machine.expire(now: start + .seconds(9)) == nil)
        let error = machine.expire(now: start + .seconds(10))
        #expect(error?.code == .timeout)
        #expect(machine.closed(error ?? ClientCore.closedError) == ["long poll", "short"])
        guard case .fail = machine.send("after", key: .produce, versions: 0...9, deadline: start) else {
            Issue.record("sent on a closed connection")
            return
        }
    }

    @Test("a peer that never tells its versions is given up")
    func negotiationTimesOut() {
        var machine = Machine(negotiationTimeout: .seconds(5))
        _ = machine.connected(queryVersion: 3, now: start)
        #expect(machine.nextDeadline == start + .seconds(5))
        #expect(machine.expire(now: start + .seconds(5))?.code == .timeout)
    }
}
