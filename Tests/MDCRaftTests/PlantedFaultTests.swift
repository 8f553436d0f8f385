// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import Testing

    @testable import MDCRaft

    /// Each test switches one rule off and shows that the simulation notices within a stated number of seeds. A simulation that
    /// does not find these would prove nothing by finding nothing. Faults that need a rare order of events are in
    /// `ScriptedFaultTests`. `MDC_RAFT_SEEDS=100` searches from seed 1 in that many, whatever is stated here.
    @Suite(.serialized) struct PlantedFaultTests {
        /// Runs seeds from `first` on with `fault` until a violation shows that begins with one of `expected`.
        private func find(
            _ fault: RaftPlantedFault,
            from first: UInt64 = 1,
            within seeds: UInt64,
            expecting expected: String...
        ) {
            let isSearch = seedCount(default: 0) > 0
            let start = isSearch ? 1 : first
            let end = isSearch ? seedCount(default: 0) : first + seeds - 1
            var found: [String] = []
            for seed in start...end {
                var simulation = Simulation(seed: seed, fault: fault)
                guard let violation = simulation.run(rounds: 300) else { continue }
                if expected.contains(where: { violation.hasPrefix($0) }) {
                    print("planted fault \(fault.rawValue): seed \(seed): \(violation)")
                    return
                }
                found.append(violation)
            }
            Issue.record("\(fault.rawValue) was not found in seeds \(start) to \(end); found instead: \(found)")
        }

        @Test func applyBeforeCommitIsFound() { find(.applyBeforeCommit, within: 3, expecting: "apply before commit") }
        @Test func readsBeforeTheLeadersEntryAreFound() {
            find(.readBeforeLeaderEntry, within: 8, expecting: "linearizable")
        }
        @Test func anEmptiedDiskThatCountsIsFound() {
            find(.ignoreDirectory, within: 8, expecting: "invariant", "leader")
        }
        @Test func appendsWithoutAMatchAreFound() {
            find(.appendWithoutMatch, within: 8, expecting: "log matching", "invariant")
        }
        @Test func truncationByLateAppendsIsFound() {
            find(.truncateOnEveryAppend, within: 4, expecting: "invariant", "leader", "state machine")
        }
    }
#endif
