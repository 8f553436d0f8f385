// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// SplitMix64: the same numbers for the same seed.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }

    mutating func text() -> String {
        let choices = ["", "a", "orders", "payments-é", String(repeating: "x", count: 200)]
        return choices[Int.random(in: 0..<choices.count, using: &self)]
    }

    mutating func bytes(upTo limit: Int = 300) -> ByteBuffer {
        let count = Int.random(in: 0...limit, using: &self)
        return ByteBuffer(bytes: (0..<count).map { _ in UInt8.random(in: 0...255, using: &self) })
    }

    mutating func uuid() -> KafkaUUID { KafkaUUID(high: next(), low: next()) }

    mutating func int32() -> Int32 { Int32(truncatingIfNeeded: next()) }

    mutating func int64() -> Int64 { Int64(truncatingIfNeeded: next()) }

    mutating func count(_ limit: Int = 3) -> Int { Int.random(in: 0...limit, using: &self) }
}
