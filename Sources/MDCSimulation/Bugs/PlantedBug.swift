// SPDX-License-Identifier: Apache-2.0

import MDCLog

/// Bugs that can be planted, to prove that the simulation finds them.
public enum PlantedBug: String, Sendable, CaseIterable {
    // Calls that do not reach the disk.

    /// Syncs of log files do nothing: what is acknowledged is in memory only.
    case logIsNotSynced
    /// After a roll only the new segment is synced.
    case onlyActiveSegmentIsSynced
    /// A partition's folder is never synced: new segments may be gone.
    case partitionFolderIsNotSynced
    /// The data folder is never synced: checkpoints and partitions may be gone.
    case dataFolderIsNotSynced
    /// A checkpoint is renamed without having been synced.
    case checkpointIsNotSynced
    /// A deleted partition's new name is not synced.
    case deletionIsNotSynced
    /// The leader epochs are written once, and not again.
    case epochsAreNotWritten
    /// A partition's metadata is renamed without having been synced.
    case topicIDIsNotSynced
    /// A compacted segment takes its place without having been synced.
    case compactedCopyIsNotSynced
    /// The folder is not synced when a compacted segment counts, before the segments that it replaces go.
    case swapIsNotSynced
    /// Snapshots of what was cut away stay.
    case snapshotsAreNotRemoved
    /// Indexes of sealed segments are not synced.
    case indexesAreNotSynced
    /// Log files are never cut: old bytes stay behind their end.
    case oldBytesStay

    // Wrong behaviours of the engine.

    /// The recovery point is written before what it covers is synced.
    case checkpointAheadOfSync
    /// Index files are taken without a look at their checksums.
    case staleIndexIsTrusted
    /// Damage below the durable point is cut away like a torn tail.
    case damageIsCut
    /// The producers' state is that of the last snapshot, whatever came after.
    case snapshotIsNotCarriedOn
    /// A truncation cuts the files before the recovery point is lowered.
    case truncationBeforeCheckpoint
    /// The snapshot at a roll has the batches that follow it.
    case snapshotHasWhatFollows
    /// The position of one checkpoint is used with the offset of another.
    case checkpointsAreMixed
    /// Files of the log's beginning are removed before the new start is on disk.
    case removalBeforeCheckpoint
    /// Leftovers of segments before the log's start are taken for a part of the log.
    case removalIsNotFinished
    /// Compaction takes records of open transactions for committed ones.
    case compactsUndecided
    /// Compaction takes records of aborted transactions for committed ones.
    case compactsAborted

    /// Those that are wrong behaviours of the engine itself.
    var inEngine: PlantedLogBugs {
        switch self {
        case .checkpointAheadOfSync: .checkpointAheadOfSync
        case .staleIndexIsTrusted: .staleIndexIsTrusted
        case .damageIsCut: .damageIsCut
        case .snapshotIsNotCarriedOn: .snapshotIsNotCarriedOn
        case .truncationBeforeCheckpoint: .truncationBeforeCheckpoint
        case .snapshotHasWhatFollows: .snapshotHasWhatFollows
        case .checkpointsAreMixed: .checkpointsAreMixed
        case .removalIsNotFinished: .removalIsNotFinished
        case .removalBeforeCheckpoint: .removalBeforeCheckpoint
        case .compactsUndecided: .compactsUndecided
        case .compactsAborted: .compactsAborted
        default: []
        }
    }
}
