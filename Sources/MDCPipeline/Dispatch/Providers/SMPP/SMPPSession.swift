// SPDX-License-Identifier: Apache-2.0

import DequeModule
import NIOCore

/// The client's side of one SMPP connection, without I/O and clock: events in, actions out. Times are nanoseconds.
struct SMPPSession: Sendable {
    struct Configuration: Sendable {
        var bind: SMPPBind
        /// Requests without an answer at once.
        var window: Int
        /// An answer is awaited so long.
        var responseTimeout: Int64
        /// After so long a silence the peer is asked whether it is there.
        var enquireInterval: Int64
        /// Deliveries whose receipt is being stored at once; more are refused for now.
        var deliveriesMax = 1_000
    }

    /// What came of a request.
    enum Answer: Sendable, Equatable {
        case answered(status: UInt32, body: ByteBuffer)
        /// It was sent; whether it arrived is not known.
        case unanswered(String)
    }

    enum Action: Sendable, Equatable {
        case write(SMPPPDU)
        /// Requests can be sent.
        case bound
        /// The peer does not want us; the connection ends.
        case refused(status: UInt32)
        case finish(token: UInt64, Answer)
        /// Store it, then call ``SMPPSession/delivered(sequence:command:status:)``.
        case deliver(sequence: UInt32, command: UInt32, SMPPShortMessage)
        case close(String)
    }

    private enum State { case binding, bound, unbinding, closed }

    private struct Waiting {
        var token: UInt64
        var deadline: Int64
    }

    private let configuration: Configuration
    private var state = State.binding
    private var sequence: UInt32 = 0
    private var waiting: [UInt32: Waiting] = [:]
    /// Sequence numbers in the order of their deadlines.
    private var order: Deque<UInt32> = []
    private var deliveries = 0
    private var stateDeadline: Int64
    private var lastHeard: Int64
    private var enquiredAt: Int64?

    init(_ configuration: Configuration, now: Int64) {
        self.configuration = configuration
        stateDeadline = now + configuration.responseTimeout
        lastHeard = now
    }

    var isBound: Bool { state == .bound }
    var outstanding: Int { waiting.count }
    var canSend: Bool { state == .bound && waiting.count < configuration.window }

    /// The connection is there.
    mutating func opened() -> [Action] {
        [.write(SMPPPDU(command: SMPPCommand.bindTransceiver, sequence: next(), body: configuration.bind.encoded()))]
    }

    /// Sends a request. - Precondition: `canSend`.
    mutating func send(_ command: UInt32, _ body: ByteBuffer, token: UInt64, now: Int64) -> [Action] {
        precondition(canSend, "a request was given to a session that cannot send")
        let sequence = next()
        waiting[sequence] = Waiting(token: token, deadline: now + configuration.responseTimeout)
        order.append(sequence)
        return [.write(SMPPPDU(command: command, sequence: sequence, body: body))]
    }

    mutating func received(_ unit: SMPPPDU, now: Int64) -> [Action] {
        guard state != .closed else { return [] }
        lastHeard = now
        enquiredAt = nil
        switch unit.command {
        case SMPPCommand.bindTransceiver | SMPPCommand.answerBit: return bindAnswered(unit)
        case SMPPCommand.submitSM | SMPPCommand.answerBit, SMPPCommand.querySM | SMPPCommand.answerBit:
            return answered(unit)
        case SMPPCommand.deliverSM: return delivery(unit)
        case SMPPCommand.enquireLink: return [answer(unit)]
        case SMPPCommand.enquireLink | SMPPCommand.answerBit: return []
        case SMPPCommand.unbind:
            return [answer(unit)] + end("the SMSC ended the session")
        case SMPPCommand.unbind | SMPPCommand.answerBit: return end("unbound")
        case SMPPCommand.genericNack:
            if state == .binding { return refused(unit.status) }
            return answered(unit)
        default:
            guard unit.command & SMPPCommand.answerBit == 0 else { return [] }
            return [.write(SMPPPDU(command: SMPPCommand.genericNack, status: 0x03, sequence: unit.sequence))]
        }
    }

    /// A delivery was stored (status 0) or was not.
    mutating func delivered(sequence: UInt32, command: UInt32, status: UInt32) -> [Action] {
        deliveries -= 1
        guard state == .bound || state == .unbinding else { return [] }
        return [.write(Self.deliveryAnswer(command, sequence, status))]
    }

    /// Time passes.
    mutating func tick(now: Int64) -> [Action] {
        var actions: [Action] = []
        while let sequence = order.first {
            if let entry = waiting[sequence] {
                guard entry.deadline <= now else { break }
                waiting[sequence] = nil
                actions.append(.finish(token: entry.token, .unanswered("no answer in time")))
            }
            order.removeFirst()
        }
        switch state {
        case .binding where now >= stateDeadline: return actions + end("no answer to bind_transceiver")
        case .unbinding where now >= stateDeadline: return actions + end("no answer to unbind")
        case .bound:
            if let enquiredAt, now - enquiredAt >= configuration.responseTimeout {
                return actions + end("no answer to enquire_link")
            }
            if enquiredAt == nil, now - lastHeard >= configuration.enquireInterval {
                enquiredAt = now
                actions.append(.write(SMPPPDU(command: SMPPCommand.enquireLink, sequence: next())))
            }
        default: break
        }
        return actions
    }

    /// Ends in good order: answers under way are still taken.
    mutating func unbind(now: Int64) -> [Action] {
        guard state == .bound else { return end("shut down") }
        state = .unbinding
        stateDeadline = now + configuration.responseTimeout
        return [.write(SMPPPDU(command: SMPPCommand.unbind, sequence: next()))]
    }

    /// The connection is gone, or has to go.
    mutating func end(_ reason: String) -> [Action] {
        guard state != .closed else { return [] }
        state = .closed
        defer {
            waiting = [:]
            order = []
        }
        return waiting.sorted { $0.key < $1.key }.map { .finish(token: $0.value.token, .unanswered(reason)) }
            + [.close(reason)]
    }

    // MARK: -

    private mutating func next() -> UInt32 {
        sequence = sequence >= 0x7FFF_FFFF ? 1 : sequence + 1
        return sequence
    }

    private mutating func bindAnswered(_ unit: SMPPPDU) -> [Action] {
        guard state == .binding else { return [] }
        guard unit.status == 0 else { return refused(unit.status) }
        state = .bound
        return [.bound]
    }

    private mutating func refused(_ status: UInt32) -> [Action] {
        [.refused(status: status)] + end("bind was refused: \(SMPPStatus.name(status))")
    }

    private mutating func answered(_ unit: SMPPPDU) -> [Action] {
        guard let entry = waiting.removeValue(forKey: unit.sequence) else { return [] }
        if order.first == unit.sequence { order.removeFirst() }
        // Many answers out of order leave holes; without this the queue would grow with them.
        if order.count > 2 * waiting.count + 1_024 { order.removeAll { waiting[$0] == nil } }
        return [.finish(token: entry.token, .answered(status: unit.status, body: unit.body))]
    }

    private mutating func delivery(_ unit: SMPPPDU) -> [Action] {
        guard state != .binding else {
            return [.write(Self.deliveryAnswer(unit.command, unit.sequence, 0x04))]
        }
        guard deliveries < configuration.deliveriesMax else {
            return [.write(Self.deliveryAnswer(unit.command, unit.sequence, 0x14))]
        }
        do {
            let message = try SMPPShortMessage(unit.body)
            deliveries += 1
            return [.deliver(sequence: unit.sequence, command: unit.command, message)]
        } catch {
            return [.write(Self.deliveryAnswer(unit.command, unit.sequence, 0x02))]
        }
    }

    private func answer(_ unit: SMPPPDU) -> Action {
        .write(SMPPPDU(command: unit.command | SMPPCommand.answerBit, sequence: unit.sequence))
    }

    /// `deliver_sm_resp` has an empty message id (SMPP 3.4, 4.6.2).
    private static func deliveryAnswer(_ command: UInt32, _ sequence: UInt32, _ status: UInt32) -> SMPPPDU {
        SMPPPDU(
            command: command | SMPPCommand.answerBit,
            status: status,
            sequence: sequence,
            body: ByteBuffer(bytes: [0])
        )
    }
}
