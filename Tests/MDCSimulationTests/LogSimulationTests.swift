// SPDX-License-Identifier: Apache-2.0

import MDCSimulation
import Testing

/// Fixed seeds of the simulation; many more run by `make simulate`.
@Suite struct LogSimulationTests {
    @Test(arguments: 0..<7) func theLogIsWhatTheModelSays(block: Int) throws {
        for seed in 0..<40 { _ = try LogSimulation(seed: UInt64(120 + block * 40 + seed), operations: 80).run() }
    }
}
