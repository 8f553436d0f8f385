// SPDX-License-Identifier: Apache-2.0

/// Rules that a test may switch off in a debug build, one at a time, to prove that the checkers notice.
package enum RaftPlantedFault: String, CaseIterable, Sendable {
    /// Answers leave before what they promise is durable.
    case answerBeforePersist
    /// The vote is not written down.
    case forgetVote
    /// Votes of an earlier epoch count.
    case countStaleVotes
    /// A candidate with an older log gets votes.
    case voteForStaleLog
    /// Entries of an earlier epoch are committed by counting copies.
    case commitOldEpochByCounting
    /// No pre-vote, so that a node which was cut off comes back with a higher epoch.
    case skipPreVote
    /// Voters listen to candidates while they hear from a leader.
    case ignoreLease
    /// Entries are handed out for applying before they are committed.
    case applyBeforeCommit
    /// Observers count in the quorum.
    case countObservers
    /// A change of the membership starts before the one before is committed.
    case concurrentChanges
    /// A new leader changes the membership before it has committed an entry.
    case changeBeforeLeaderEntry
    /// Reads under the lease without a lease, by a leader that does not check its quorum.
    case leaseWithoutCheckQuorum
    /// Reads without a round of heartbeats.
    case readWithoutRound
    /// A new leader answers reads before it has committed an entry.
    case readBeforeLeaderEntry
    /// A node counts as its former self, whatever its directory.
    case ignoreDirectory
    /// Entries are appended although the ones before differ.
    case appendWithoutMatch
    /// A late append cuts off what came after it.
    case truncateOnEveryAppend
    /// A leader steps not down when it hears from no quorum.
    case noCheckQuorum
}
