// SPDX-License-Identifier: Apache-2.0

/// Randomness by seed (SplitMix64): the same seed gives the same numbers on every machine.
public struct SimulationRandom: RandomNumberGenerator, Sendable {
    private var state: UInt64

    /// Begins at `seed`.
    public init(seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }

    /// A number from 0 to `limit` - 1; 0 where the limit is 0.
    public mutating func below(_ limit: Int) -> Int { limit <= 1 ? 0 : Int(next() % UInt64(limit)) }
    /// A number of the range.
    public mutating func number(in range: ClosedRange<Int>) -> Int {
        range.lowerBound + below(range.upperBound - range.lowerBound + 1)
    }
    /// True once in so many calls.
    public mutating func once(in count: Int) -> Bool { below(count) == 0 }
    /// One of the elements, which there must be.
    public mutating func pick<T>(_ elements: [T]) -> T { elements[below(elements.count)] }
}
