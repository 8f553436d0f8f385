// SPDX-License-Identifier: Apache-2.0

/// How reads find out that the leader still leads.
public enum RaftReadMode: Sendable {
    /// By a round of heartbeats.
    case safe
    /// By heartbeats that a quorum answered lately; depends on clocks that run about equally fast.
    case lease
}

/// The settings of a `RaftNode`. Times are in ticks; the driver decides how long a tick is.
public struct RaftOptions: Sendable {
    /// The least time without word from a leader before a node campaigns; it waits up to twice as long.
    public var electionTicks = 10
    /// The time between two heartbeats.
    public var heartbeatTicks = 2
    /// By how many ticks within `electionTicks` one clock may run faster than another, for reads under the lease.
    public var leaseMarginTicks = 2
    /// How reads are confirmed.
    public var readMode = RaftReadMode.safe
    /// The most bytes of entries in one append. A single larger entry still goes alone.
    public var maxAppendBytes = 1 << 20
    /// The most appends under way to one replica.
    public var maxInflightMessages = 64
    /// The most bytes under way to one replica.
    public var maxInflightBytes = 4 << 20
    /// The largest proposal.
    public var maxProposalBytes = 8 << 20
    /// The most bytes of proposals that wait to be committed.
    public var maxUncommittedBytes = 32 << 20
    /// The most bytes of entries that one `RaftReady` hands out for applying.
    public var maxApplyBytes = 4 << 20
    /// The size of a chunk of a snapshot.
    public var snapshotChunkBytes = 256 << 10
    /// How many entries an observer may be behind the commit index and still be promoted.
    public var promotionLagEntries: RaftIndex = 256
    /// The most reads that wait for a leader's confirmation at one node.
    public var maxPendingReads = 4096

    /// The default settings.
    public init() {}

    func validate() throws(RaftError) {
        func check(_ condition: Bool, _ message: String) throws(RaftError) {
            guard condition else { throw RaftError(.invalidOptions, message) }
        }
        try check(heartbeatTicks > 0, "heartbeatTicks must be at least 1, not \(heartbeatTicks)")
        try check(
            electionTicks > 2 * heartbeatTicks,
            "electionTicks (\(electionTicks)) must be more than twice heartbeatTicks (\(heartbeatTicks))"
        )
        try check(
            (0..<electionTicks).contains(leaseMarginTicks),
            "leaseMarginTicks must be from 0 to electionTicks - 1, not \(leaseMarginTicks)"
        )
        try check(maxInflightMessages > 0, "maxInflightMessages must be at least 1, not \(maxInflightMessages)")
        try check(snapshotChunkBytes > 0, "snapshotChunkBytes must be at least 1, not \(snapshotChunkBytes)")
        try check(maxPendingReads > 0, "maxPendingReads must be at least 1, not \(maxPendingReads)")
        let bytes = min(maxAppendBytes, maxInflightBytes, maxProposalBytes, maxUncommittedBytes, maxApplyBytes)
        try check(bytes > 0, "limits in bytes must be at least 1; the smallest is \(bytes)")
    }
}
