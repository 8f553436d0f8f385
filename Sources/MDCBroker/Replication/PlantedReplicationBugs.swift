// SPDX-License-Identifier: Apache-2.0

/// Wrong behaviours of replicas that a simulation plants to prove that it would find them: see `docs/testing.md`. Only
/// tests set them; no setting leads there.
struct PlantedReplicationBugs: OptionSet, Sendable, Hashable {
    let rawValue: UInt32
    init(rawValue: UInt32) { self.rawValue = rawValue }

    /// A new follower cuts its log at its high watermark instead of asking where the epochs part (trap 1, KIP-101).
    static let truncatesToHighWatermark = PlantedReplicationBugs(rawValue: 1 << 0)
    /// A follower keeps its own idea of epochs that got no record (trap 2, KIP-279).
    static let cutsAtLeadersOffset = PlantedReplicationBugs(rawValue: 1 << 1)
    /// A follower appends behind what the leader does not have (trap 3, KIP-320).
    static let ignoresDivergence = PlantedReplicationBugs(rawValue: 1 << 2)
    /// The high watermark ignores replicas whose entry into the in-sync set is under way (trap 4).
    static let ignoresPendingMembers = PlantedReplicationBugs(rawValue: 1 << 3)
    /// The high watermark advances with fewer replicas in sync than `min.insync.replicas` (traps 4 and 6).
    static let ignoresMinimum = PlantedReplicationBugs(rawValue: 1 << 4)
    /// A proposal names the present run of a follower, whichever run's progress it rests on (trap 5, KIP-903).
    static let ignoresBrokerEpoch = PlantedReplicationBugs(rawValue: 1 << 5)
    /// A replica enters the in-sync set before it has what is committed.
    static let admitsLaggards = PlantedReplicationBugs(rawValue: 1 << 6)
    /// A follower asks from the end of what it wrote, not of what it brought to disk (trap 14).
    static let fetchesFromWrittenEnd = PlantedReplicationBugs(rawValue: 1 << 7)
    /// A leader counts what it wrote, not what it brought to disk (trap 14).
    static let countsWrittenEnd = PlantedReplicationBugs(rawValue: 1 << 8)
}
