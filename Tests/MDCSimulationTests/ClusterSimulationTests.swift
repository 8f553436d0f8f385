// SPDX-License-Identifier: Apache-2.0

import MDCSimulation
import Testing

#if DEBUG
    @Suite("Clusters by seed")
    struct ClusterSimulationTests {
        /// The seeds are in parts, so that they run side by side.
        @Test("nodes lose nothing, whatever happens", arguments: [UInt64(1), 26, 51, 76])
        func losesNothing(first: UInt64) throws {
            var counts = ClusterCounts()
            for seed in first..<first + 25 {
                counts.add(try ClusterSimulation(seed: seed, milliseconds: 3_000).run())
            }
            // A simulation in which nothing happens proves nothing.
            #expect(counts.acknowledged > 25 * 50)
            #expect(counts.leaderships > 25 * 2)
            #expect(counts.ends > 25)
        }

        @Test("a seed decides everything")
        func isDeterministic() throws {
            var traces: [[String]] = [[], []]
            for index in traces.indices {
                _ = try ClusterSimulation(seed: 5, milliseconds: 2_000).run { traces[index].append($0) }
            }
            #expect(traces[0] == traces[1])
        }

        /// Each with a seed that shows it; the table in docs/testing.md.
        static let planted: [(PlantedClusterBug, UInt64)] = [
            (.truncatesToHighWatermark, 1), (.ignoresDivergence, 3), (.restartedLeaderKeepsItsEpoch, 2),
            (.acknowledgesBeforeCommit, 1), (.electsAnybody, 19), (.actsOnOldMetadata, 1), (.ignoresMinimum, 17),
            (.admitsLaggards, 19), (.countsWrittenEnd, 39),
            (.fetchesFromWrittenEnd, 39),
        ]

        @Test("a broken rule is noticed, and nothing where it holds", arguments: planted)
        func isFound(bug: PlantedClusterBug, seed: UInt64) throws {
            #expect(throws: SimulationFailure.self) {
                _ = try ClusterSimulation(seed: seed, milliseconds: 4_000, bug: bug).run()
            }
            _ = try ClusterSimulation(seed: seed, milliseconds: 4_000).run()
        }

        @Test("a failing sequence is made shorter")
        func shrinks() throws {
            let long = ClusterSimulation(seed: 2, milliseconds: 3_000, bug: .restartedLeaderKeepsItsEpoch)
            guard (try? long.run()) == nil else { return #expect(Bool(false), "seed 2 must show it in 3 s too") }
            let short = long.shrunk()
            #expect(throws: SimulationFailure.self) { _ = try short.run() }
            #expect((short.faults ?? []).count < 4)
        }
    }
#endif
