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
    }
#endif
