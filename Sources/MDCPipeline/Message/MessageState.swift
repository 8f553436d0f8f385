// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// Where a message stands: the fold of its timeline. The events may come in any order that their writers' order allows.
public struct MessageState: Sendable, Equatable {
    /// The document; nil until its `submitted` event was seen.
    public private(set) var message: Message?
    /// The status; final ones stay.
    public private(set) var status: MessageStatus = .queued
    /// The latest attempt that anything is known of.
    public private(set) var attempt = 1
    /// How far the latest attempt is.
    public private(set) var phase = Phase.none
    /// Whether someone asked for it not to be sent, and was not answered.
    public private(set) var isCancelRequested = false
    /// What a dispatcher's result leads to, while it is not yet the message's end.
    public private(set) var ending: Ending?
    /// When the next thing is due: the report's deadline, or the next attempt.
    public private(set) var dueAt: Timestamp?
    /// What the latest failed attempt said.
    public private(set) var code: String?
    /// For people: what was said last.
    public private(set) var detail: String?
    /// The provider of the latest attempt.
    public private(set) var provider: String?
    /// The provider's id of the latest attempt.
    public private(set) var providerMessageID: String?

    /// An end that is decided as soon as the response handler writes it.
    public struct Ending: Sendable, Equatable {
        /// The final status.
        public var status: MessageStatus
        /// Of the entry that leads to it.
        public var code: String?
        /// Of the entry that leads to it.
        public var detail: String?
    }

    /// How far an attempt is, in order.
    public enum Phase: Int, Sendable, Comparable {
        case none, held, deferred, inDoubt, ending, accepted, retryScheduled, final
        /// Whether an attempt is less far.
        public static func < (lhs: Phase, rhs: Phase) -> Bool { lhs.rawValue < rhs.rawValue }
    }

    /// A message of which nothing is known.
    public init() {}

    /// Goes on where a store has kept a state, but for the document, what an attempt leads to, and wishes.
    init(
        status: MessageStatus,
        progress: Int,
        attempt: Int,
        provider: String?,
        providerMessageID: String?,
        code: String?,
        detail: String?,
        dueAt: Timestamp?
    ) {
        self.status = status
        self.attempt = attempt
        phase = progress == Self.finalProgress ? .final : Phase(rawValue: progress % 8) ?? .none
        self.provider = provider
        self.providerMessageID = providerMessageID
        self.code = code
        self.detail = detail
        self.dueAt = dueAt
    }

    private static let finalProgress = Int.max >> 1

    /// Attempt and phase in one number, which grows with each step.
    var progress: Int { phase == .final ? Self.finalProgress : attempt * 8 + phase.rawValue }

    /// Applies an event; true if the status or phase changed.
    @discardableResult
    public mutating func apply(_ event: TimelineEvent) -> Bool {
        if event.kind == .submitted {
            guard message == nil, let document = event.message else { return false }
            message = document
            if phase == .none, status == .queued, event.status == .scheduled { status = .scheduled }
            return true
        }
        guard phase != .final else { return false }
        if let final = event.status, final.isFinal {
            note(event)
            status = final
            phase = .final
            dueAt = nil
            ending = nil
            return true
        }
        if let end = event.leadsTo {
            guard step(event, .ending, event.kind == .accepted ? .accepted : .queued) else { return false }
            ending = Ending(status: end, code: event.code, detail: event.detail)
            return true
        }
        switch event.kind {
        case .cancelRequested, .cancelRefused:
            let isRequested = event.kind == .cancelRequested
            defer { isCancelRequested = isRequested }
            return isCancelRequested != isRequested
        case .accepted: return step(event, .accepted, .accepted)
        case .deferred: return step(event, .deferred, .queued)
        case .inDoubt: return step(event, .inDoubt, .accepted)
        case .retryScheduled, .receipt, .receiptMissing:
            // These name the attempt that ended; the next one is due at `dueAt`.
            guard event.status == .retrying else { return false }
            return step(event, .retryScheduled, .retrying)
        case .scheduled:
            guard event.status == .scheduled else { return false }
            return step(event, .held, .scheduled)
        case .submitted, .dispatched, .redelivered, .rerouted, .rejected, .withheld, .receiptIgnored, .final:
            return false
        }
    }

    private mutating func step(_ event: TimelineEvent, _ phase: Phase, _ status: MessageStatus) -> Bool {
        guard event.attempt * 8 + phase.rawValue > attempt * 8 + self.phase.rawValue else { return false }
        note(event)
        attempt = event.attempt
        self.phase = phase
        self.status = status
        dueAt = event.dueAt
        ending = nil
        return true
    }

    private mutating func note(_ event: TimelineEvent) {
        attempt = max(attempt, event.attempt)
        if let provider = event.provider { self.provider = provider }
        if let id = event.providerMessageID { providerMessageID = id }
        if let code = event.code { self.code = code }
        if let detail = event.detail { self.detail = detail }
    }
}
