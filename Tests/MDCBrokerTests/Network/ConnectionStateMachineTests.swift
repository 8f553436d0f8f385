// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import MDCBroker

@Suite("Connection state machine")
struct ConnectionStateMachineTests {
    typealias Machine = ConnectionStateMachine<Int>

    private func machine(requests: Int = 8, bytes: Int = 1000) -> Machine {
        Machine(limits: .init(inFlightRequests: requests, pendingResponseBytes: bytes))
    }

    @Test("Answers leave in the order of the requests, however they are finished")
    func order() {
        var machine = machine()
        let slots = (0..<3).map { _ in machine.begin() }
        machine.finish(slots[2], 2, bytes: 1)
        machine.finish(slots[1], 1, bytes: 1)
        #expect(machine.nextToWrite() == nil)
        machine.finish(slots[0], 0, bytes: 1)
        #expect([machine.nextToWrite(), machine.nextToWrite(), machine.nextToWrite()] == [0, 1, 2])
        #expect(machine.nextToWrite() == nil)
        #expect(machine.inFlight == 0)
    }

    @Test("A request without an answer does not hold up those behind it (acks=0)")
    func silent() {
        var machine = machine()
        let first = machine.begin()
        let second = machine.begin()
        machine.finish(second, 7, bytes: 1)
        #expect(machine.nextToWrite() == nil)
        machine.finish(first, nil, bytes: 0)
        #expect(machine.nextToWrite() == 7)
    }

    @Test("Reading stops at the limit of requests and goes on when one leaves")
    func requestLimit() {
        var machine = machine(requests: 2)
        let first = machine.begin()
        _ = machine.begin()
        #expect(!machine.mayTakeRequest)
        machine.finish(first, 1, bytes: 1)
        #expect(!machine.mayTakeRequest)
        _ = machine.nextToWrite()
        #expect(machine.mayTakeRequest)
    }

    @Test("A slow reader stops being read until its answers have left")
    func byteLimit() {
        var machine = machine(bytes: 100)
        let slot = machine.begin()
        machine.finish(slot, 1, bytes: 100)
        #expect(!machine.mayTakeRequest)
        _ = machine.nextToWrite()
        #expect(!machine.mayTakeRequest)
        machine.wrote(100)
        #expect(machine.mayTakeRequest)
    }

    @Test("A muted client is not read")
    func muting() {
        var machine = machine()
        machine.mute(until: 100)
        machine.mute(until: 50)
        let isEarly = machine.unmute(now: 99)
        #expect(!isEarly)
        #expect(!machine.mayTakeRequest)
        let isDue = machine.unmute(now: 100)
        #expect(isDue)
        #expect(machine.mayTakeRequest)
    }

    @Test("Draining takes nothing new and ends when everything has left")
    func draining() {
        var machine = machine()
        let slot = machine.begin()
        machine.drain()
        #expect(!machine.mayTakeRequest && !machine.isFinished)
        machine.finish(slot, 1, bytes: 10)
        _ = machine.nextToWrite()
        #expect(!machine.isFinished)
        machine.wrote(10)
        #expect(machine.isFinished)
    }

    @Test("What is finished after the connection closed goes nowhere")
    func closed() {
        var machine = machine()
        let slot = machine.begin()
        machine.close()
        machine.finish(slot, 1, bytes: 10)
        #expect(machine.nextToWrite() == nil)
        #expect(machine.isFinished && !machine.mayTakeRequest)
    }
}
