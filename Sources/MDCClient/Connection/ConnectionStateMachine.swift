// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCProtocol
import NIOCore

/// The version ranges that a broker serves, from its ApiVersions answer.
struct BrokerVersions: Sendable, Equatable {
    private(set) var ranges: [Int16: ClosedRange<Int16>]

    init(_ ranges: [Int16: ClosedRange<Int16>]) { self.ranges = ranges }

    /// The highest version of `key` that both sides know; nil where there is none.
    func highestCommon(_ key: APIKey, _ ours: ClosedRange<Int16>) -> Int16? {
        guard let theirs = ranges[key.rawValue] else { return nil }
        let version = min(theirs.upperBound, ours.upperBound)
        return version >= max(theirs.lowerBound, ours.lowerBound) ? version : nil
    }
}

/// The protocol of one connection, without I/O: asks for the broker's versions first, numbers requests, matches
/// answers (which come in the order of the requests), and watches deadlines. Generic over what a request is, so that
/// tests use strings.
///
/// A broker answers in order, so an answer that is late holds up all behind it: the first missed deadline breaks the
/// connection.
struct ConnectionStateMachine<Request> {
    private enum State {
        case connecting
        /// Waiting for the ApiVersions answer of this version.
        case negotiating(version: Int16, correlationID: Int32, deadline: NIODeadline)
        case ready(BrokerVersions)
        case closed(ClientError)
    }

    struct InFlight {
        let correlationID: Int32
        let key: APIKey
        let version: Int16
        let deadline: NIODeadline
        let request: Request
    }

    private var state = State.connecting
    private var inFlight = Deque<InFlight>()
    private var nextCorrelationID: Int32 = 0
    private let negotiationTimeout: TimeAmount

    init(negotiationTimeout: TimeAmount) { self.negotiationTimeout = negotiationTimeout }

    /// Requests without an answer yet.
    var inFlightCount: Int { inFlight.count }

    /// What the broker serves; nil before it told.
    var versions: BrokerVersions? {
        if case .ready(let versions) = state { return versions }
        return nil
    }

    private mutating func takeCorrelationID() -> Int32 {
        defer { nextCorrelationID = nextCorrelationID == .max ? 0 : nextCorrelationID + 1 }
        return nextCorrelationID
    }

    // MARK: Negotiation

    /// The ApiVersions request to write.
    struct VersionQuery: Equatable {
        let version: Int16
        let correlationID: Int32
    }

    /// The socket is connected: the first thing to write.
    mutating func connected(queryVersion: Int16, now: NIODeadline) -> VersionQuery {
        guard case .connecting = state else { preconditionFailure("connected in state \(state)") }
        return startQuery(version: queryVersion, now: now)
    }

    private mutating func startQuery(version: Int16, now: NIODeadline) -> VersionQuery {
        let id = takeCorrelationID()
        state = .negotiating(version: version, correlationID: id, deadline: now + negotiationTimeout)
        return VersionQuery(version: version, correlationID: id)
    }

    enum NegotiationAction: Equatable {
        /// The broker does not know the version of the query: ask again.
        case query(VersionQuery)
        case becomeReady
        case fail(String)
    }

    /// The ApiVersions answer: its error code and ranges (those may be there beside error 35, see KIP-511).
    mutating func versionsArrived(
        errorCode: Int16,
        ranges: [Int16: ClosedRange<Int16>],
        now: NIODeadline
    ) -> NegotiationAction {
        guard case .negotiating(let version, _, _) = state else { preconditionFailure("versions in state \(state)") }
        if errorCode == 35, version > 0 {
            // Brokers tell in the same answer which versions of the query they know; the oldest say nothing.
            let best = min(ranges[APIKey.apiVersions.rawValue]?.upperBound ?? 0, version - 1)
            return .query(startQuery(version: max(best, 0), now: now))
        }
        guard errorCode == 0 else { return .fail("the broker answered ApiVersions with error \(errorCode)") }
        state = .ready(BrokerVersions(ranges))
        return .becomeReady
    }

    // MARK: Requests

    enum SendAction {
        case write(correlationID: Int32, version: Int16)
        case fail(ClientError)
    }

    /// A request goes out. Without `expectsAnswer` nothing is remembered of it (`acks=0`).
    mutating func send(
        _ request: Request,
        key: APIKey,
        versions ours: ClosedRange<Int16>,
        expectsAnswer: Bool = true,
        deadline: NIODeadline
    ) -> SendAction {
        switch state {
        case .connecting, .negotiating:
            return .fail(ClientError(.connection, "the connection is not ready yet"))
        case .closed(let error):
            return .fail(error)
        case .ready(let versions):
            guard let version = versions.highestCommon(key, ours) else {
                let theirs = versions.ranges[key.rawValue].map { "\($0.lowerBound) to \($0.upperBound)" } ?? "none"
                return .fail(
                    ClientError(
                        .unsupportedVersion,
                        "API \(key.rawValue): this client speaks versions \(ours.lowerBound) to \(ours.upperBound), the broker \(theirs)"
                    )
                )
            }
            let id = takeCorrelationID()
            if expectsAnswer {
                inFlight.append(
                    InFlight(correlationID: id, key: key, version: version, deadline: deadline, request: request)
                )
            }
            return .write(correlationID: id, version: version)
        }
    }

    enum ReceiveAction {
        /// The answer to the ApiVersions query of this version.
        case versionAnswer(version: Int16)
        case answer(InFlight)
        /// The peer does not keep to the protocol: close.
        case violation(ClientError)
    }

    /// An answer with this correlation id arrived.
    mutating func received(correlationID: Int32) -> ReceiveAction {
        switch state {
        case .connecting:
            return .violation(ClientError(.protocolViolation, "the peer spoke first; is this a Kafka port?"))
        case .negotiating(let version, let expected, _):
            guard correlationID == expected else {
                return .violation(Self.mismatch(expected: expected, got: correlationID))
            }
            return .versionAnswer(version: version)
        case .closed(let error):
            return .violation(error)
        case .ready:
            guard let first = inFlight.popFirst() else {
                return .violation(
                    ClientError(.protocolViolation, "answer \(correlationID) arrived, and nothing was asked")
                )
            }
            guard first.correlationID == correlationID else {
                inFlight.prepend(first)
                return .violation(Self.mismatch(expected: first.correlationID, got: correlationID))
            }
            return .answer(first)
        }
    }

    private static func mismatch(expected: Int32, got: Int32) -> ClientError {
        ClientError(.protocolViolation, "expected the answer to request \(expected), got that to \(got)")
    }

    // MARK: Time and end

    /// When `expire` should be called next; nil while nothing is waited for.
    var nextDeadline: NIODeadline? {
        if case .negotiating(_, _, let deadline) = state { return deadline }
        // A long poll may stand before a request with an earlier deadline, so all are looked at; there are few.
        return inFlight.lazy.map(\.deadline).min()
    }

    /// The error to close with, where a deadline has passed.
    mutating func expire(now: NIODeadline) -> ClientError? {
        if case .negotiating(_, _, let deadline) = state, deadline <= now {
            return ClientError(.timeout, "the broker did not answer ApiVersions in time; is this a Kafka port?")
        }
        if let late = inFlight.first(where: { $0.deadline <= now }) {
            return ClientError(.timeout, "no answer to API \(late.key.rawValue) version \(late.version) in time")
        }
        return nil
    }

    /// The connection is gone: the requests that get no answer, in order.
    mutating func closed(_ error: ClientError) -> [Request] {
        if case .closed = state { return [] }
        state = .closed(error)
        defer { inFlight.removeAll() }
        return inFlight.map(\.request)
    }
}
