// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization
import Testing

@testable import MDCBroker

#if DEBUG
    /// A simulation that finds nothing proves something only if it would find a bug: each rule that is switched off must
    /// be noticed within the seeds that run without it in every test run.
    @Suite struct PlantedCoordinatorBugTests {
        @Test(arguments: PlantedCoordinatorBug.allCases) func isFound(bug: PlantedCoordinatorBug) throws {
            let found = Mutex(false)
            let isFound = { found.withLock { $0 } }
            try withKnownIssue {
                for seed in UInt64(1)...24 where !isFound() {
                    try PlantedCoordinatorBug.$planted.withValue(bug) { try simulate(bug, seed, isFound) }
                }
            } matching: { _ in
                found.withLock { $0 = true }
                return true
            }
        }

        private func simulate(_ bug: PlantedCoordinatorBug, _ seed: UInt64, _ isFound: () -> Bool) throws {
            switch bug {
            case .abortKeepsTheEpoch, .endKeepsTheEpoch, .epochIsNotCompared, .secondPartitionIsNotRecorded,
                .decisionIsForgotten, .timeoutIsForgotten:
                try TransactionSimulationTests().run(seed: seed, isFound: isFound)
            case .oldGenerationCommits, .offsetIsNotRecorded:
                GroupSimulationTests().runClassic(seed: seed, isFound: isFound)
            case .partitionIsGivenTwice: GroupSimulationTests().runConsumer(seed: seed, isFound: isFound)
            case .othersAcknowledge, .deliveryLimitIsIgnored, .countIsNotStored, .snapshotForgetsTheWrite,
                .locksNeverEnd:
                ShareSimulationTests().run(seed: seed, isFound: isFound)
            }
        }
    }
#endif
