// SPDX-License-Identifier: Apache-2.0

/// Wrong behaviours of the engine that a simulation plants to prove that it would find them: see `docs/simulation.md`.
/// Only code of this package can, by `LogConfiguration.plantedBugs`; no setting leads there. None is asked for on the path
/// of an append or a read, but at rolls, checkpoints, truncations and starts.
package struct PlantedLogBugs: OptionSet, Sendable, Hashable {
    package let rawValue: UInt32
    package init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The recovery point is written before what it covers is synced.
    package static let checkpointAheadOfSync = PlantedLogBugs(rawValue: 1)
    /// Index files are taken without a look at their checksums.
    package static let staleIndexIsTrusted = PlantedLogBugs(rawValue: 2)
    /// Damage below the durable point is cut away like a torn tail.
    package static let damageIsCut = PlantedLogBugs(rawValue: 4)
    /// The producers' state is that of the last snapshot, whatever came after.
    package static let snapshotIsNotCarriedOn = PlantedLogBugs(rawValue: 8)
    /// A truncation cuts the files before the recovery point is lowered.
    package static let truncationBeforeCheckpoint = PlantedLogBugs(rawValue: 16)
    /// The snapshot at a roll has the batches that follow it.
    package static let snapshotHasWhatFollows = PlantedLogBugs(rawValue: 32)
    /// The position of one checkpoint is used with the offset of another.
    package static let checkpointsAreMixed = PlantedLogBugs(rawValue: 64)
    /// What is left of segments before the log's start is taken for a part of the log.
    package static let removalIsNotFinished = PlantedLogBugs(rawValue: 128)
    /// Files of the log's beginning are removed before the new start is on disk.
    package static let removalBeforeCheckpoint = PlantedLogBugs(rawValue: 256)
    /// Batches of an aborted transaction are taken for the first try of what has their sequence numbers later.
    package static let abortsAreRemembered = PlantedLogBugs(rawValue: 512)
    /// Compaction takes records of open transactions for committed ones.
    package static let compactsUndecided = PlantedLogBugs(rawValue: 1024)
    /// Compaction takes records of aborted transactions for committed ones.
    package static let compactsAborted = PlantedLogBugs(rawValue: 2048)

    #if DEBUG
        /// What is planted in state machines that know no configuration, in everything that runs under it.
        @TaskLocal package static var inForce: PlantedLogBugs = []
    #endif

    /// Whether a simulation has planted it there; never in a release build.
    @inline(__always) var isInForce: Bool {
        #if DEBUG
            return Self.inForce.contains(self)
        #else
            return false
        #endif
    }
}

extension LogEnvironment {
    /// Whether a simulation has planted this bug.
    func has(_ bug: PlantedLogBugs) -> Bool { configuration.plantedBugs.contains(bug) }
}
