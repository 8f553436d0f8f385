// SPDX-License-Identifier: Apache-2.0

import MDCSimulation
import Testing

/// Each planted bug is found, by a sequence that does well without it.
@Suite struct PlantedBugTests {
    @Test(arguments: PlantedBug.allCases) func isFound(bug: PlantedBug) throws {
        // The power has to fail between two of a deletion's renames.
        let rare: [UInt64] = [1_001_087, 1_001_298, 1_001_906]
        let isRare = bug == .removalIsNotFinished
        var found: SimulationFailure?
        for seed in isRare ? rare : Array(120..<400) where found == nil {
            do throws(SimulationFailure) {
                _ = try LogSimulation(seed: seed, operations: isRare ? 100 : 80, bug: bug).run()
            } catch {
                found = error
            }
        }
        let failure = try #require(found, "no sequence shows \(bug)")
        _ = try LogSimulation(seed: failure.seed, operations: isRare ? 100 : 80).run()
    }
}
