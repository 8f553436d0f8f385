// SPDX-License-Identifier: Apache-2.0

import Glibc
import MDCRaft
import Testing

/// Clusters under faults, by seed. `MDC_RAFT_SEEDS=1000 swift test --filter SimulationTests` runs more of them.
@Suite struct SimulationTests {
    @Test func noPromiseIsBrokenUnderFaults() {
        var operations = 0
        var elections = 0
        var entries = 0
        var reads = 0
        var installs = 0
        var wipes = 0
        let clock = ContinuousClock()
        let start = clock.now
        for seed in 1...seedCount(default: 10) {
            var simulation = Simulation(seed: seed)
            let violation = simulation.run(rounds: 300)
            #expect(violation == nil, "seed \(seed)\n\(simulation.summary)")
            operations += simulation.operations
            elections += simulation.checker.elections
            entries += simulation.checker.model.count
            reads += simulation.checker.reads
            installs += simulation.checker.installs
            wipes += simulation.wipes
        }
        let seconds = max(0.001, (clock.now - start) / .seconds(1))
        print(
            "raft simulation: \(operations) operations, \(Int(Double(operations) / seconds)) per second; \(elections)"
                + " elections, \(entries) entries, \(reads) reads, \(installs) snapshots installed, \(wipes) disks emptied"
        )
        // A simulation in which nothing happens proves nothing.
        #expect(elections > 10 && entries > 200 && reads > 10 && installs > 0 && wipes > 0)
    }
}

/// How many seeds to run: `MDC_RAFT_SEEDS` if it is set.
func seedCount(default count: UInt64) -> UInt64 {
    guard let text = getenv("MDC_RAFT_SEEDS"), let wanted = UInt64(String(cString: text)), wanted > 0 else {
        return count
    }
    return wanted
}
