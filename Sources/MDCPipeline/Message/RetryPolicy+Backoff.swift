// SPDX-License-Identifier: Apache-2.0

extension RetryPolicy {
    /// The pause before an attempt, in milliseconds: doubled from attempt to attempt up to the maximum, and at least what the
    /// provider asked for. Half of it depends on `spread` (0..<1), so that messages that failed together do not return together.
    public func backoff(beforeAttempt attempt: Int, spread: Double, providerAsksMilliseconds: Int64 = 0) -> Int64 {
        precondition(attempt >= 2, "the first attempt has no back-off")
        var pause = backoffMilliseconds
        for _ in 2..<attempt where pause < backoffMaxMilliseconds { pause *= 2 }
        pause = min(pause, backoffMaxMilliseconds)
        let spreadPause = pause / 2 + Int64(Double(pause - pause / 2) * spread)
        return max(spreadPause, providerAsksMilliseconds)
    }

    /// A number in 0..<1 that depends on message and attempt only, so that a decision that is made again is the same.
    static func spread(messageID: String, attempt: Int) -> Double {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in messageID.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
        hash = (hash ^ UInt64(attempt)) &* 0x0000_0100_0000_01B3
        hash ^= hash >> 32
        return Double(hash & 0xFFFF_FFFF) / 4_294_967_296
    }
}
