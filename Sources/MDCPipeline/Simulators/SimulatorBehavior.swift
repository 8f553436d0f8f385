// SPDX-License-Identifier: Apache-2.0

/// What a simulated provider does with one attempt. `docs/simulators.md` has the table.
public enum SimulatedFate: String, Sendable, Hashable, CaseIterable {
    /// Accepts and reports delivery.
    case deliver
    /// Refuses for good.
    case reject
    /// Refuses for now.
    case busy
    /// Accepts, but answers late.
    case slow
    /// Never answers and did not take the message.
    case timeout
    /// Never answers, but took the message and reports delivery.
    case timeoutAccepted = "timeout-accepted"
    /// Accepts and never reports.
    case lostReceipt = "lost-receipt"
    /// Reports late.
    case lateReceipt = "late-receipt"
    /// Reports twice.
    case duplicateReceipt = "duplicate-receipt"
    /// Reports before it answers.
    case earlyReceipt = "early-receipt"
    /// Accepts and reports a permanent failure.
    case bounce
    /// Accepts and reports a failure that another attempt may cure.
    case off
    /// As `busy`, and as a marker on every attempt.
    case alwaysBusy = "always-busy"
    /// As `off`, and as a marker on every attempt.
    case alwaysOff = "always-off"

    /// The two last digits `NN` of a phone number ending in `99NN` that asks for this fate; `deliver` has none.
    public var phoneCode: Int? {
        guard let index = Self.allCases.firstIndex(of: self), index > 0 else { return nil }
        return index
    }

    /// The last attempt on which a recipient that asks for this fate meets it.
    var lastMarkedAttempt: Int {
        switch self {
        case .busy: 2
        case .timeout, .timeoutAccepted, .off: 1
        default: .max
        }
    }
}

/// The share of attempts that meet each fate, 0…1; what is left is delivered.
public struct SimulatorShares: Sendable, Hashable {
    /// Share by fate; `deliver` is ignored: it gets the rest.
    public var shares: [SimulatedFate: Double]

    /// - Precondition: every share is at least 0, and together they are at most 1.
    public init(_ shares: [SimulatedFate: Double]) {
        precondition(
            shares.values.allSatisfy { $0 >= 0 } && shares.values.reduce(0, +) <= 1.000_001,
            "shares of simulated fates must be at least 0 and together at most 1"
        )
        self.shares = shares
    }

    /// Everything is delivered, unless the recipient asks for something else.
    public static let none = SimulatorShares([:])

    /// A provider with the usual troubles: the shares of the table in `docs/simulators.md`.
    public static let usual = SimulatorShares([
        .reject: 0.01, .busy: 0.02, .slow: 0.01, .timeout: 0.002, .timeoutAccepted: 0.002, .lostReceipt: 0.002,
        .lateReceipt: 0.01, .duplicateReceipt: 0.01, .earlyReceipt: 0.01, .bounce: 0.01, .off: 0.01,
    ])
}

/// How long a simulated provider takes.
public struct SimulatorDelays: Sendable, Hashable {
    /// An ordinary answer.
    public var answer: Duration
    /// The answer of a slow attempt.
    public var slowAnswer: Duration
    /// A connection without an answer is closed after this time.
    public var hang: Duration
    /// The shortest pause between acceptance and receipt; the pause of each is drawn between this and twice as much.
    public var receipt: Duration
    /// The pause before a late receipt and before the second of a doubled one.
    public var lateReceipt: Duration
    /// What a busy provider asks for in `Retry-After` (whole seconds on the wire); nil: it says nothing.
    public var retryAfter: Duration?

    public init(
        answer: Duration = .zero,
        slowAnswer: Duration = .milliseconds(500),
        hang: Duration = .seconds(20),
        receipt: Duration = .milliseconds(10),
        lateReceipt: Duration = .seconds(2),
        retryAfter: Duration? = nil
    ) {
        self.answer = answer
        self.slowAnswer = slowAnswer
        self.hang = hang
        self.receipt = receipt
        self.lateReceipt = lateReceipt
        self.retryAfter = retryAfter
    }
}

/// Everything a simulated provider does with one attempt.
public struct SimulatorPlan: Sendable, Hashable {
    /// What it answers.
    public enum Answer: Sendable, Hashable {
        /// Takes the message.
        case accept
        /// Refuses it for good.
        case reject
        /// Refuses it for now.
        case busy
        /// Says nothing, and closes the connection when the plan's `answerDelay` is over.
        case hang(accepted: Bool)
    }

    /// What a receipt says.
    public enum Report: Sendable, Hashable {
        /// Delivered.
        case delivered
        /// Failed for good.
        case failed
        /// Failed for now.
        case undelivered
    }

    /// One report to the callback URL.
    public struct Receipt: Sendable, Hashable {
        /// What it says.
        public var report: Report
        /// The pause after acceptance.
        public var delay: Duration
    }

    /// The fate that led to the plan.
    public var fate: SimulatedFate
    /// What it answers.
    public var answer: Answer
    /// The pause before the answer.
    public var answerDelay: Duration
    /// The reports that follow, in order of time.
    public var receipts: [Receipt]
    /// Whether the first report is sent, and answered, before the answer.
    public var reportsBeforeAnswer: Bool

    /// Whether the provider takes the message.
    public var takesMessage: Bool {
        switch answer {
        case .accept, .hang(accepted: true): true
        case .reject, .busy, .hang(accepted: false): false
        }
    }
}

/// Decides what a simulated provider does: a pure function of seed, recipient and attempt.
public struct SimulatorBehavior: Sendable, Hashable {
    /// The seed of all decisions.
    public var seed: UInt64
    /// How often each fate is met.
    public var shares: SimulatorShares
    /// How long things take.
    public var delays: SimulatorDelays
    /// Whether recipients may ask for their fate (`99NN`, `sim-<name>`).
    public var obeysMarkers: Bool

    public init(
        seed: UInt64 = 1,
        shares: SimulatorShares = .none,
        delays: SimulatorDelays = SimulatorDelays(),
        obeysMarkers: Bool = true
    ) {
        self.seed = seed
        self.shares = shares
        self.delays = delays
        self.obeysMarkers = obeysMarkers
    }

    /// What happens to an attempt, counted from 1.
    public func plan(recipient: String, attempt: Int) -> SimulatorPlan {
        var random = SplitMix64(
            seed: seed ^ Self.hash(recipient) ^ (UInt64(clamping: attempt) &* 0x9E37_79B9_7F4A_7C15)
        )
        let draw = random.nextUnit()
        let jitter = random.nextUnit()
        let fate = markedFate(recipient, attempt: attempt) ?? drawnFate(draw)
        return plan(for: fate, jitter: jitter)
    }

    private func markedFate(_ recipient: String, attempt: Int) -> SimulatedFate? {
        guard obeysMarkers, let marked = Self.marker(in: recipient) else { return nil }
        return attempt <= marked.lastMarkedAttempt ? marked : .deliver
    }

    private func drawnFate(_ draw: Double) -> SimulatedFate {
        var upper = 0.0
        for fate in SimulatedFate.allCases where fate != .deliver {
            upper += shares.shares[fate] ?? 0
            if draw < upper { return fate }
        }
        return .deliver
    }

    private func plan(for fate: SimulatedFate, jitter: Double) -> SimulatorPlan {
        let pause = delays.receipt + delays.receipt * jitter
        func receipts(_ report: SimulatorPlan.Report, after delay: Duration) -> [SimulatorPlan.Receipt] {
            [SimulatorPlan.Receipt(report: report, delay: delay)]
        }
        var plan = SimulatorPlan(
            fate: fate,
            answer: .accept,
            answerDelay: delays.answer,
            receipts: receipts(.delivered, after: pause),
            reportsBeforeAnswer: false
        )
        switch fate {
        case .deliver: break
        case .reject: (plan.answer, plan.receipts) = (.reject, [])
        case .busy, .alwaysBusy: (plan.answer, plan.receipts) = (.busy, [])
        case .slow: plan.answerDelay = delays.slowAnswer
        case .timeout: (plan.answer, plan.answerDelay, plan.receipts) = (.hang(accepted: false), delays.hang, [])
        case .timeoutAccepted: (plan.answer, plan.answerDelay) = (.hang(accepted: true), delays.hang)
        case .lostReceipt: plan.receipts = []
        case .lateReceipt: plan.receipts = receipts(.delivered, after: delays.lateReceipt)
        case .duplicateReceipt: plan.receipts += receipts(.delivered, after: pause + delays.lateReceipt)
        case .earlyReceipt: plan.reportsBeforeAnswer = true
        case .bounce: plan.receipts = receipts(.failed, after: pause)
        case .off, .alwaysOff: plan.receipts = receipts(.undelivered, after: pause)
        }
        return plan
    }

    /// The fate that a recipient asks for: a phone number by its last four digits `99NN`, others by `sim-<name>`.
    public static func marker(in recipient: String) -> SimulatedFate? {
        let bytes = Array(recipient.utf8)
        if bytes.first == UInt8(ascii: "+"), bytes.count >= 8, bytes.dropFirst().allSatisfy({ (48...57).contains($0) })
        {
            let tail = bytes.suffix(4).map { Int($0) - 48 }
            guard tail[0] == 9, tail[1] == 9 else { return nil }
            let code = tail[2] * 10 + tail[3]
            return SimulatedFate.allCases.first { $0.phoneCode == code }
        }
        let prefix = Array("sim-".utf8)
        guard let start = firstRange(of: prefix, in: bytes) else { return nil }
        let rest = bytes[start.upperBound...]
        // The longest name wins: `timeout-accepted` also begins with `timeout`.
        return SimulatedFate.allCases
            .filter { rest.starts(with: Array($0.rawValue.utf8)) }
            .max { $0.rawValue.utf8.count < $1.rawValue.utf8.count }
    }

    private static func firstRange(of needle: [UInt8], in bytes: [UInt8]) -> Range<Int>? {
        guard bytes.count >= needle.count else { return nil }
        for start in 0...(bytes.count - needle.count) where bytes[start] == needle[0] {
            if bytes[start..<(start + needle.count)].elementsEqual(needle) { return start..<(start + needle.count) }
        }
        return nil
    }

    /// FNV-1a: the same in every process, which Swift's own hashing is not.
    private static func hash(_ text: String) -> UInt64 {
        text.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    }
}

/// A small generator of good numbers from any seed (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// Uniform in 0..<1.
    mutating func nextUnit() -> Double { Double(next() >> 11) * 0x1p-53 }
}
