// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Testing

@testable import MDCBroker

@Suite("Replication by seed")
struct ReplicationSimulationTests {
    @Test("three replicas lose nothing, whatever happens")
    func losesNothing() throws {
        var acknowledged = 0
        var elections = 0
        for seed in UInt64(1)...20 {
            var simulation = ReplicationSimulation(seed: seed)
            do {
                try simulation.run(steps: 1200)
            } catch {
                Issue.record("seed \(seed): \(error)\n\(simulation.trace.joined(separator: "\n"))")
                return
            }
            acknowledged += simulation.acknowledgedCount
            elections += simulation.elections
        }
        // A simulation in which nothing happens proves nothing.
        #expect(acknowledged > 20 * 50)
        #expect(elections > 20 * 2)
    }

    struct Planted: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var bugs: PlantedReplicationBugs = []
        var keepsEpoch = false
        var trustsEmptyDisk = false
        var actsOnOldMetadata = false
        /// The first seed that is tried: shortly before one that is known to show it, to be quick.
        var from: UInt64 = 1
    }

    static let planted = [
        Planted(testDescription: "truncatesToHighWatermark", bugs: .truncatesToHighWatermark),
        Planted(testDescription: "cutsAtLeadersOffset", bugs: .cutsAtLeadersOffset),
        Planted(testDescription: "ignoresDivergence", bugs: .ignoresDivergence),
        Planted(testDescription: "ignoresPendingMembers", bugs: .ignoresPendingMembers),
        Planted(testDescription: "ignoresMinimum", bugs: .ignoresMinimum),
        Planted(testDescription: "ignoresBrokerEpoch", bugs: .ignoresBrokerEpoch, from: 325),
        Planted(testDescription: "admitsLaggards", bugs: .admitsLaggards),
        Planted(testDescription: "fetchesFromWrittenEnd", bugs: .fetchesFromWrittenEnd),
        Planted(testDescription: "countsWrittenEnd", bugs: .countsWrittenEnd),
        Planted(testDescription: "restartedLeaderKeepsItsEpoch", keepsEpoch: true),
        Planted(testDescription: "emptyDiskIsTrusted", trustsEmptyDisk: true),
        Planted(testDescription: "actsOnOldMetadata", actsOnOldMetadata: true, from: 80),
    ]

    @Test("a planted bug is found", arguments: planted)
    func isFound(bug: Planted) {
        for seed in bug.from..<bug.from + 60 {
            var simulation = ReplicationSimulation(
                seed: seed,
                bugs: bug.bugs,
                keepsEpochOfRestarted: bug.keepsEpoch,
                trustsEmptyDisk: bug.trustsEmptyDisk,
                actsOnOldMetadata: bug.actsOnOldMetadata
            )
            do {
                try simulation.run(steps: 1200)
            } catch {
                return
            }
        }
        Issue.record("\(bug.testDescription) was not found in 60 seeds from \(bug.from) on")
    }
}
