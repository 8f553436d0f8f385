// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// A pause that doubles with each attempt, up to a limit, with jitter of a fifth, so that many clients of a broker
/// that came back do not all knock at once. Pure: randomness comes in.
struct Backoff: Sendable {
    let first: TimeAmount
    let longest: TimeAmount

    init(first: Duration, longest: Duration) {
        self.first = TimeAmount(first)
        self.longest = TimeAmount(longest)
    }

    /// The pause before attempt `attempt` (0 = the first repetition).
    func delay(attempt: Int, using generator: inout some RandomNumberGenerator) -> TimeAmount {
        let doubled = Double(first.nanoseconds) * Double(UInt64(1) << UInt64(min(max(attempt, 0), 40)))
        let capped = min(doubled, Double(max(longest.nanoseconds, first.nanoseconds)))
        return .nanoseconds(Int64(capped * Double.random(in: 0.8...1.2, using: &generator)))
    }
}

/// A small seeded generator (SplitMix64), so that a test replays the choices of a machine.
struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    /// Seeded by the system.
    init() {
        var system = SystemRandomNumberGenerator()
        state = system.next()
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
