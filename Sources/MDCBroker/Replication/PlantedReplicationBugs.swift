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

    // Of the cluster's simulation alone.

    /// A broker that registers anew goes on leading in the epoch that it had (trap 7).
    static let restartedLeaderKeepsItsEpoch = PlantedReplicationBugs(rawValue: 1 << 9)
    /// A restarted node leads as its old metadata say (trap 7).
    static let actsOnOldMetadata = PlantedReplicationBugs(rawValue: 1 << 10)
    /// A node whose disk was emptied stays in sync.
    static let emptyDiskIsTrusted = PlantedReplicationBugs(rawValue: 1 << 11)
    /// Where nobody in sync runs, any replica that does is elected (trap 6, KIP-966).
    static let electsAnybody = PlantedReplicationBugs(rawValue: 1 << 12)
    /// The controller does not compare partition epochs (trap 4).
    static let comparesNoPartitionEpoch = PlantedReplicationBugs(rawValue: 1 << 13)
    /// A folder of a deleted topic is taken for that of a new one of its name (trap 15).
    static let ignoresTopicID = PlantedReplicationBugs(rawValue: 1 << 14)
    /// A record is acknowledged when it is durable here (trap 14).
    static let acknowledgesBeforeCommit = PlantedReplicationBugs(rawValue: 1 << 16)
    /// A move to other nodes ends before the new ones are in sync (trap 15).
    static let endsMovesEarly = PlantedReplicationBugs(rawValue: 1 << 17)
    /// A coordinator answers before what it answers is committed (trap 8).
    static let answersBeforeCommit = PlantedReplicationBugs(rawValue: 1 << 18)
    /// A write that was admitted to a transaction is done, though the transaction has ended meanwhile (trap 9).
    static let ticketsStayValid = PlantedReplicationBugs(rawValue: 1 << 19)
    /// Whoever leads a partition of transactions begins with nothing, instead of with what the log has (trap 8).
    static let coordinatorsForget = PlantedReplicationBugs(rawValue: 1 << 20)

    #if DEBUG
        /// What is planted in everything that runs under it.
        @TaskLocal static var inForce: PlantedReplicationBugs = []
    #endif

    /// What is planted; nothing in a release build.
    @inline(__always) static var planted: PlantedReplicationBugs {
        #if DEBUG
            return inForce
        #else
            return []
        #endif
    }
}
