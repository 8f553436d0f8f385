// SPDX-License-Identifier: Apache-2.0

/// A rate that follows what a provider bears: cut when the share of its "too fast" answers in a window passes a threshold,
/// raised slowly while it takes what it gets. Single busy answers change nothing.
///
/// Pure: time comes in as nanoseconds of a monotonic clock.
public struct AdaptiveRate: Sendable {
    /// Answers of a window before it can be judged.
    public static let answersMin = 20
    /// The length of a window, in nanoseconds.
    public static let window: Int64 = 1_000_000_000
    /// The share of throttled answers that is too much.
    public static let shareMax = 0.1
    private static let cut = 0.7
    private static let raise = 1.05

    private let most: Double?
    private var bucket: TokenBucket?
    /// Sends per second at present; nil: no limit.
    public private(set) var perSecond: Double?
    private var windowStart: Int64
    private var answers = 0
    private var throttled = 0
    private var peak = 0.0

    /// - Parameter most: The most sends per second; nil: there is no limit but what the provider's answers teach.
    public init(most: Double?, nowNanoseconds: Int64) {
        self.most = most
        perSecond = most
        windowStart = nowNanoseconds
        bucket = most.map { TokenBucket(perSecond: $0, nowNanoseconds: nowNanoseconds) }
    }

    /// 0 if a send may start; else the nanoseconds until one may. Takes nothing.
    public mutating func wait(nowNanoseconds now: Int64) -> Int64 {
        bucket?.wait(nowNanoseconds: now) ?? 0
    }

    /// Notes that a send starts.
    public mutating func started(nowNanoseconds now: Int64) {
        _ = bucket?.take(nowNanoseconds: now)
    }

    /// Notes an answer; true if the rate was cut.
    public mutating func answered(isThrottled: Bool, nowNanoseconds now: Int64) -> Bool {
        answers += 1
        throttled += isThrottled ? 1 : 0
        let length = now - windowStart
        guard length >= Self.window || throttled >= Self.answersMin, answers >= Self.answersMin else { return false }
        defer { (answers, throttled, windowStart) = (0, 0, now) }
        let seen = Double(answers) * 1e9 / Double(max(1, length))
        let share = Double(throttled) / Double(answers)
        if share > Self.shareMax {
            // What went through is what it bears.
            let borne = min(perSecond ?? seen, seen * (1 - share))
            set(max(1, min(borne, (perSecond ?? seen) * Self.cut)), now: now)
            peak = seen
            return true
        }
        guard let rate = perSecond else { return false }
        let raised = min(rate * Self.raise, most ?? .infinity)
        // Well above what ever was too much there is no need for a limit.
        if most == nil, raised > peak * 4 {
            (perSecond, bucket) = (nil, nil)
        } else if raised > rate {
            set(raised, now: now)
        }
        return false
    }

    private mutating func set(_ rate: Double, now: Int64) {
        perSecond = rate
        bucket = TokenBucket(perSecond: rate, nowNanoseconds: now, startsEmpty: true)
    }
}
