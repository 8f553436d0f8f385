// SPDX-License-Identifier: Apache-2.0

import MDCRaft
import Testing

@Suite struct RaftRandomTests {
    @Test func theSameSeedGivesTheSameNumbers() {
        var first = RaftRandom(seed: 7)
        var second = RaftRandom(seed: 7)
        var other = RaftRandom(seed: 8)
        let numbers = (0..<64).map { _ in first.below(1_000_000) }
        #expect(numbers == (0..<64).map { _ in second.below(1_000_000) })
        #expect(numbers != (0..<64).map { _ in other.below(1_000_000) })
        #expect(numbers.allSatisfy { (0..<1_000_000).contains($0) })
    }
}
