// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// Leaves a provider alone that fails: closed (all may pass), open (none, for a while), half open (one at a time, to see).
///
/// Pure: time comes in. What it decides is shared over the log, see ``ProviderNotice``.
public struct CircuitBreaker: Sendable, Equatable {
    /// When it opens and for how long.
    public struct Settings: Sendable, Hashable {
        /// The last answers that count.
        public var window: Int
        /// How many there must be before it decides.
        public var answersMin: Int
        /// The share of failures from which on it opens.
        public var failureShare: Double
        /// How long it stays open the first time, in milliseconds; doubled each time a trial fails.
        public var pauseMilliseconds: Int64
        /// The longest pause, in milliseconds.
        public var pauseMaxMilliseconds: Int64

        /// Makes a value from its parts.
        public init(
            window: Int = 50,
            answersMin: Int = 20,
            failureShare: Double = 0.6,
            pauseMilliseconds: Int64 = 5_000,
            pauseMaxMilliseconds: Int64 = 60_000
        ) {
            self.window = window
            self.answersMin = answersMin
            self.failureShare = failureShare
            self.pauseMilliseconds = pauseMilliseconds
            self.pauseMaxMilliseconds = pauseMaxMilliseconds
        }
    }

    /// Where it stands.
    public enum State: Sendable, Equatable {
        case closed
        /// Nobody passes before that time; then one at a time.
        case open(until: Timestamp)
    }

    private let settings: Settings
    /// Where it stands.
    public private(set) var state = State.closed
    private var answers: [Bool] = []
    private var next = 0
    private var failures = 0
    private var pause: Int64
    /// When the trial started that was not answered yet.
    private var trialAt: Timestamp?
    /// A trial that was not answered by then is given up (its message had expired, say): another one may start.
    private static let trialMilliseconds: Int64 = 30_000

    /// A closed one.
    public init(_ settings: Settings = Settings()) {
        self.settings = settings
        pause = settings.pauseMilliseconds
    }

    /// Whether a send may start now.
    public func mayPass(now: Timestamp) -> Bool {
        switch state {
        case .closed: true
        case .open(let until): now >= until && (trialAt.map { now - $0 >= Self.trialMilliseconds } ?? true)
        }
    }

    /// Notes that a send starts.
    public mutating func started(now: Timestamp) {
        if case .open = state { trialAt = now }
    }

    /// Notes an answer; true if the state changed.
    ///
    /// - Parameter startedAt: When its send started. While the circuit is open, only the trial's own answer counts.
    public mutating func answered(isFailure: Bool, startedAt: Timestamp? = nil, now: Timestamp) -> Bool {
        if case .open(let until) = state {
            // Answers to sends from before it opened say nothing new.
            guard let trial = trialAt, now >= until, startedAt ?? trial >= trial else { return false }
            trialAt = nil
            guard isFailure else {
                close()
                return true
            }
            pause = min(pause * 2, settings.pauseMaxMilliseconds)
            state = .open(until: now + pause)
            return true
        }
        if answers.count < settings.window {
            answers.append(isFailure)
        } else {
            failures -= answers[next] ? 1 : 0
            answers[next] = isFailure
            next = (next + 1) % settings.window
        }
        failures += isFailure ? 1 : 0
        guard answers.count >= settings.answersMin,
            Double(failures) >= settings.failureShare * Double(answers.count)
        else { return false }
        state = .open(until: now + pause)
        clear()
        return true
    }

    /// Takes over what another worker found out, or this one before a restart.
    public mutating func adopt(_ state: State) {
        switch state {
        case .closed: close()
        case .open:
            self.state = state
            clear()
        }
    }

    private mutating func close() {
        state = .closed
        pause = settings.pauseMilliseconds
        clear()
    }

    private mutating func clear() {
        trialAt = nil
        answers = []
        next = 0
        failures = 0
    }
}
