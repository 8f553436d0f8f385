// SPDX-License-Identifier: Apache-2.0

import MDCSimulation
import Testing

/// Each planted bug is found, by a sequence that does well without it.
@Suite struct PlantedBugTests {
    @Test(arguments: PlantedBug.allCases) func isFound(bug: PlantedBug) throws {
        var found: SimulationFailure?
        for seed in UInt64(120)..<400 where found == nil {
            do throws(SimulationFailure) {
                _ = try LogSimulation(seed: seed, operations: 80, bug: bug).run()
            } catch {
                found = error
            }
        }
        let failure = try #require(found, "no sequence shows \(bug)")
        _ = try LogSimulation(seed: failure.seed, operations: 80).run()
    }
}
