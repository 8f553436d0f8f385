// SPDX-License-Identifier: Apache-2.0

/// Limits a rate: so many per second, with a burst. Pure: time comes in as nanoseconds of a monotonic clock.
public struct TokenBucket: Sendable {
    private let perSecond: Double
    private let burst: Double
    private var tokens: Double
    private var at: Int64

    /// Makes a value from its parts.
    public init(perSecond: Double, burst: Double? = nil, nowNanoseconds: Int64, startsEmpty: Bool = false) {
        precondition(perSecond > 0, "a rate must be positive")
        self.perSecond = perSecond
        self.burst = max(1, burst ?? perSecond / 20)
        self.tokens = startsEmpty ? 0 : self.burst
        self.at = nowNanoseconds
    }

    /// 0 if there is a token, else the nanoseconds until there is one.
    public mutating func wait(nowNanoseconds now: Int64) -> Int64 {
        if now > at {
            tokens = min(burst, tokens + Double(now - at) * perSecond / 1e9)
            at = now
        }
        return tokens >= 1 ? 0 : max(1, Int64(((1 - tokens) / perSecond * 1e9).rounded(.up)))
    }

    /// Takes a token: 0 if there was one, else the nanoseconds until there is one (none is taken then).
    public mutating func take(nowNanoseconds now: Int64) -> Int64 {
        let wait = wait(nowNanoseconds: now)
        if wait == 0 { tokens -= 1 }
        return wait
    }

    /// Takes a token in advance: how many nanoseconds later it may be used.
    public mutating func reserve(nowNanoseconds now: Int64) -> Int64 {
        let wait = wait(nowNanoseconds: now)
        tokens -= 1
        return wait
    }
}
