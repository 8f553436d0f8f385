// SPDX-License-Identifier: Apache-2.0

/// Rules of the coordinators that a test switches off, one at a time and in debug builds only, to prove that the
/// simulations would notice. None is asked for on a path that is not a state machine's own.
enum PlantedCoordinatorBug: String, CaseIterable, Sendable {
    // Transactions.
    case abortKeepsTheEpoch, endKeepsTheEpoch, epochIsNotCompared, secondPartitionIsNotRecorded
    case decisionIsForgotten, timeoutIsForgotten
    // Groups.
    case oldGenerationCommits, offsetIsNotRecorded, partitionIsGivenTwice
    // Share groups.
    case othersAcknowledge, deliveryLimitIsIgnored, countIsNotStored, snapshotForgetsTheWrite, locksNeverEnd

    #if DEBUG
        /// What is planted in the task at hand.
        @TaskLocal static var planted: PlantedCoordinatorBug?
    #endif

    /// Whether a test has planted it.
    @inline(__always) var isPlanted: Bool {
        #if DEBUG
            return Self.planted == self
        #else
            return false
        #endif
    }
}
