// SPDX-License-Identifier: Apache-2.0

import DequeModule

/// What one connection may do next: pure, without a socket.
///
/// Requests come in pipelined and may be finished in any order; answers leave in the order of the requests. Reading stops while
/// too many requests are in service, too many bytes of answers wait, or the client is muted.
struct ConnectionStateMachine<Response> {
    /// Bounds of one connection.
    struct Limits: Equatable {
        var inFlightRequests: Int
        var pendingResponseBytes: Int
    }

    private enum Slot {
        case inService
        case ready(Response, bytes: Int)
        /// Nothing is sent (`acks=0`).
        case silent
    }

    private enum Phase {
        case open
        /// No request is taken any more; closed once everything in service is answered.
        case draining
        case closed
    }

    private let limits: Limits
    private var phase = Phase.open
    private var slots: Deque<Slot> = []
    private var firstSlot: UInt64 = 0
    /// Bytes handed to the channel and not yet written out.
    private(set) var unflushedBytes = 0
    private var readyBytes = 0
    /// Nothing is taken before this moment; 0 where nobody is muted.
    private(set) var mutedUntil: UInt64 = 0

    init(limits: Limits) { self.limits = limits }

    /// Requests that were taken and whose answers have not left.
    var inFlight: Int { slots.count }

    /// Whether another request may be taken from what was received.
    var mayTakeRequest: Bool {
        guard case .open = phase else { return false }
        return mutedUntil == 0 && slots.count < limits.inFlightRequests
            && readyBytes + unflushedBytes < limits.pendingResponseBytes
    }

    /// Whether the connection has come to its end: no request in service, none to come.
    var isFinished: Bool {
        switch phase {
        case .open: false
        case .draining: slots.isEmpty && unflushedBytes == 0
        case .closed: true
        }
    }

    /// A request begins; returns the number under which it is finished.
    mutating func begin() -> UInt64 {
        precondition(mayTakeRequest, "a request was taken that had to wait")
        slots.append(.inService)
        return firstSlot + UInt64(slots.count - 1)
    }

    /// A request is done. Nil for no answer. Ignored when the connection has closed meanwhile.
    mutating func finish(_ slot: UInt64, _ response: Response?, bytes: Int) {
        if case .closed = phase { return }
        precondition(slot >= firstSlot && slot < firstSlot + UInt64(slots.count), "request \(slot) is not in service")
        let index = Int(slot - firstSlot)
        guard case .inService = slots[index] else { preconditionFailure("request \(slot) was answered twice") }
        if let response {
            slots[index] = .ready(response, bytes: bytes)
            readyBytes += bytes
        } else {
            slots[index] = .silent
        }
    }

    /// The next answer that may leave, nil where an earlier request is still in service.
    mutating func nextToWrite() -> Response? {
        while let first = slots.first {
            switch first {
            case .inService: return nil
            case .silent: dropFirst()
            case .ready(let response, let bytes):
                dropFirst()
                readyBytes -= bytes
                unflushedBytes += bytes
                return response
            }
        }
        return nil
    }

    private mutating func dropFirst() {
        slots.removeFirst()
        firstSlot += 1
    }

    /// Bytes have left for the peer.
    mutating func wrote(_ bytes: Int) { unflushedBytes -= bytes }

    /// The client exceeded its share: nothing is taken from it until then (KIP-219). Monotonic nanoseconds; the latest counts.
    mutating func mute(until moment: UInt64) { mutedUntil = max(mutedUntil, moment) }

    /// Ends the mute if its time is up; returns whether it was.
    mutating func unmute(now: UInt64) -> Bool {
        guard mutedUntil > 0, now >= mutedUntil else { return false }
        mutedUntil = 0
        return true
    }

    /// The broker stops.
    mutating func drain() { if case .open = phase { phase = .draining } }

    /// The connection is gone: what is in service is answered to nobody.
    mutating func close() {
        phase = .closed
        slots.removeAll()
        readyBytes = 0
    }
}
