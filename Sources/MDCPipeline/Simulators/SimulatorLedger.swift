// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// What a simulated provider saw, took and reported: the oracle of tests that look for lost and doubled messages.
public final class SimulatorLedger: Sendable {
    /// Counts over all requests.
    public struct Totals: Sendable, Hashable {
        /// Requests to send that were understood.
        public var requests = 0
        /// Of them: taken.
        public var accepted = 0
        /// Of them: refused for good.
        public var rejected = 0
        /// Of them: refused for now.
        public var busy = 0
        /// Of them: never answered (taken or not).
        public var unanswered = 0
        /// Requests that no real provider would take: malformed, wrong key.
        public var malformed = 0
    }

    private struct State {
        var totals = Totals()
        var acceptedByReference: [String: Int] = [:]
        var requestsByRecipient: [String: Int] = [:]
    }

    private let state = Mutex(State())

    public init() {}

    /// Counts over all requests.
    public var totals: Totals { state.withLock { $0.totals } }

    /// How often each reference was taken. More than once is a doubled send.
    public var acceptedByReference: [String: Int] { state.withLock { $0.acceptedByReference } }

    /// How often a reference was taken.
    public func acceptedCount(reference: String) -> Int { state.withLock { $0.acceptedByReference[reference] ?? 0 } }

    /// How often a message was taken, over all its attempts.
    public func acceptedCount(messageID: String) -> Int {
        state.withLock { state in
            state.acceptedByReference.reduce(0) { sum, entry in
                MessageReference(entry.key)?.messageID == messageID ? sum + entry.value : sum
            }
        }
    }

    /// References taken more than once, sorted.
    public var doubledReferences: [String] {
        state.withLock { $0.acceptedByReference.filter { $0.value > 1 }.keys.sorted() }
    }

    /// Notes a request; the attempt is the reference's, or for foreign references the count of the recipient's requests.
    func noteRequest(recipient: String, reference: String?) -> Int {
        state.withLock { state in
            state.totals.requests += 1
            if let reference, let parsed = MessageReference(reference) { return parsed.attempt }
            state.requestsByRecipient[recipient, default: 0] += 1
            return state.requestsByRecipient[recipient] ?? 1
        }
    }

    func note(_ plan: SimulatorPlan, reference: String?) {
        state.withLock { state in
            switch plan.answer {
            case .accept: state.totals.accepted += 1
            case .reject: state.totals.rejected += 1
            case .busy: state.totals.busy += 1
            case .hang: state.totals.unanswered += 1
            }
            if plan.takesMessage, let reference { state.acceptedByReference[reference, default: 0] += 1 }
        }
    }

    func noteMalformed() { state.withLock { $0.totals.malformed += 1 } }
}
