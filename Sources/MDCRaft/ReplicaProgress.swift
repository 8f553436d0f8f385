// SPDX-License-Identifier: Apache-2.0

/// What a leader knows of one replica, and what is under way to it.
struct ReplicaProgress: Sendable {
    /// How the leader sends to it.
    enum State: Hashable, Sendable {
        /// One append at a time, until the replica's log is known to match.
        case probing
        /// Appends follow each other without waiting, within the window.
        case replicating
        /// A snapshot goes out, chunk by chunk; `position` is that of the chunk under way.
        case snapshotting(RaftSnapshotMetadata, position: Int64)
    }

    /// The member of the membership that this is about.
    let replica: RaftReplica
    private(set) var state = State.probing
    /// Durable on the replica and as here, up to this index.
    private(set) var match: RaftIndex = 0
    /// The first index not sent yet.
    private(set) var next: RaftIndex
    /// The commit index that was sent last.
    var sentCommit: RaftIndex = 0
    /// Whether a probe or a chunk is under way.
    var isWaiting = false
    /// Whether an empty append should find out if something was lost.
    var shouldProbe = false
    /// When the last append was sent: an answer to an earlier heartbeat says nothing of its loss.
    var lastSentAt: UInt64 = 0
    /// Heartbeats answered since the last chunk was sent.
    var heartbeatsSinceChunk = 0
    /// Whether it was heard from since the last check of the quorum.
    var isRecentlyActive = false
    /// The latest round of reads that it confirmed.
    var ackedRound: UInt64 = 0
    /// When the latest heartbeat was sent that it answered.
    var ackedSentAt: UInt64?
    /// The directory that answers for a voter without one.
    var observedDirectory: RaftReplica?
    /// Whether it refused an append at an index that it had acknowledged.
    var hasLostEntries = false
    private var inflight: [(last: RaftIndex, bytes: Int)] = []
    private var inflightBytes = 0

    init(replica: RaftReplica, next: RaftIndex) {
        self.replica = replica
        self.next = next
    }

    /// The same for another name of the replica.
    func renamed(_ replica: RaftReplica) -> ReplicaProgress {
        var copy = ReplicaProgress(replica: replica, next: next)
        copy.state = state
        copy.match = match
        copy.sentCommit = sentCommit
        copy.isRecentlyActive = isRecentlyActive
        copy.ackedRound = ackedRound
        copy.ackedSentAt = ackedSentAt
        copy.inflight = inflight
        copy.inflightBytes = inflightBytes
        return copy
    }

    func isWindowFull(_ options: RaftOptions) -> Bool {
        inflight.count >= options.maxInflightMessages || inflightBytes >= options.maxInflightBytes
    }

    var inflightCount: Int { inflight.count }

    /// An append that ends at `last` was sent.
    mutating func sent(through last: RaftIndex, bytes: Int) {
        switch state {
        case .probing:
            isWaiting = true
        case .replicating:
            next = last + 1
            inflight.append((last, bytes))
            inflightBytes += bytes
        case .snapshotting:
            preconditionFailure("appends are not sent while a snapshot is")
        }
    }

    /// The replica has everything up to `index`; says whether that is news.
    mutating func matched(_ index: RaftIndex) -> Bool {
        let isNews = index > match
        match = max(match, index)
        next = max(next, match + 1)
        while let first = inflight.first, first.last <= index {
            inflight.removeFirst()
            inflightBytes -= first.bytes
        }
        return isNews
    }

    mutating func becomeProbing(next: RaftIndex) {
        state = .probing
        self.next = max(next, match + 1)
        clear()
    }

    mutating func becomeReplicating() {
        state = .replicating
        next = match + 1
        clear()
    }

    mutating func becomeSnapshotting(_ snapshot: RaftSnapshotMetadata, position: Int64 = 0) {
        state = .snapshotting(snapshot, position: position)
        clear()
    }

    /// One message of a full window may have been lost: makes room for one that finds out.
    mutating func freeOne() {
        guard !inflight.isEmpty else { return }
        inflightBytes -= inflight.removeFirst().bytes
    }

    private mutating func clear() {
        isWaiting = false
        shouldProbe = false
        heartbeatsSinceChunk = 0
        sentCommit = 0
        inflight = []
        inflightBytes = 0
    }
}
