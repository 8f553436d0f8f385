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
                counts.add(try ClusterSimulation(seed: seed, milliseconds: 2_500).run())
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

        /// A rule to break, a seed that shows it, and the kinds of faults where the seed does not choose them; the table in
        /// docs/testing.md.
        struct Planted: Sendable, CustomTestStringConvertible {
            var bug: PlantedClusterBug
            var seed: UInt64
            var kinds: [String] = []
            var testDescription: String { "\(bug)" }

            init(_ bug: PlantedClusterBug, _ seed: UInt64, _ kinds: String...) {
                (self.bug, self.seed, self.kinds) = (bug, seed, kinds)
            }
        }

        static let planted = [
            Planted(.truncatesToHighWatermark, 2), Planted(.ignoresDivergence, 2), Planted(.electsAnybody, 7),
            Planted(.restartedLeaderKeepsItsEpoch, 5), Planted(.actsOnOldMetadata, 13), Planted(.ignoresMinimum, 14),
            Planted(.coordinatorsForget, 2), Planted(.acknowledgesBeforeCommit, 1, "powerOfLeader", "cutOff"),
            Planted(.fetchesFromWrittenEnd, 8, "powerOfAll", "powerOfLeader", "slowDisk"),
            Planted(.countsWrittenEnd, 3, "powerOfAll", "powerOfLeader", "slowDisk"),
            Planted(.admitsLaggards, 5, "kill", "powerOfLeader", "slowDisk"),
            Planted(.endsMovesEarly, 7, "reassign", "killLeader", "kill"),
            Planted(.answersBeforeCommit, 3, "powerOfAll", "powerOfLeader", "slowDisk"),
            Planted(.decisionIsForgotten, 12, "killLeader", "kill"),
        ]

        /// A change of the broker may make another sequence of what a seed gave before: the next ones are tried, too.
        @Test("a broken rule is noticed, and nothing where it holds", arguments: planted)
        func isFound(planted: Planted) throws {
            for seed in planted.seed..<planted.seed + 30 {
                var simulation = ClusterSimulation(seed: seed, milliseconds: 4_000, kinds: planted.kinds)
                simulation.bug = planted.bug
                if (try? simulation.run()) != nil { continue }
                simulation.bug = nil
                _ = try simulation.run()
                return
            }
            Issue.record("no sequence shows \(planted.bug)")
        }

        @Test("a failing sequence is made shorter")
        func shrinks() throws {
            let long = (UInt64(5)..<30).lazy
                .map { ClusterSimulation(seed: $0, milliseconds: 4_000, bug: .restartedLeaderKeepsItsEpoch) }
                .first { (try? $0.run()) == nil }
            let short = try #require(long, "no sequence shows it").shrunk()
            #expect(throws: SimulationFailure.self) { _ = try short.run() }
            #expect((short.faults ?? []).count < 4)
        }
    }
#endif
