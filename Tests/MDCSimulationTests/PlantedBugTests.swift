// SPDX-License-Identifier: Apache-2.0

import MDCSimulation
import Testing

/// Each planted bug is found, by a sequence that does well without it.
@Suite struct PlantedBugTests {
    /// Shown by a power failure between two certain calls.
    static let swept: [PlantedBug: LogSweep.Operation] = [
        .swapIsNotSynced: .compaction, .removalBeforeCheckpoint: .deletion,
    ]
    /// Sequences that are swept, each until the first that shows the bug.
    static let sweptSeeds: ClosedRange<UInt64> = 3...6

    @Test(arguments: swept.keys.sorted { $0.rawValue < $1.rawValue }) func isFoundBySweep(bug: PlantedBug) throws {
        let operation = try #require(Self.swept[bug])
        var found: UInt64?
        for seed in Self.sweptSeeds where found == nil {
            do throws(SimulationFailure) {
                _ = try LogSweep(seed: seed, operation: operation, outcomes: 2, bug: bug).run()
            } catch {
                found = seed
            }
        }
        let seed = try #require(found, "no sequence shows \(bug)")
        _ = try LogSweep(seed: seed, operation: operation, outcomes: 2).run()
    }

    @Test(arguments: PlantedBug.allCases.filter { swept[$0] == nil }) func isFound(bug: PlantedBug) throws {
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
