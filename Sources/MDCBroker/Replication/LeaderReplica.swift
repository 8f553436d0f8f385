// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What the leader of a partition knows of its replicas: how far each is, which are in sync, and up to where everything
/// is on stable storage of all of those (the high watermark). Pure: time, offsets and answers come in, what is to be done
/// comes back.
///
/// A replica counts with the offset from which it fetches, and it fetches from what it has brought to disk. The high
/// watermark is the least of these offsets over the *maximal* in-sync set: what the controller has committed, and what a
/// proposal that is under way would add. It moves only while as many replicas are in sync as `min.insync.replicas` asks
/// for, and never back.
struct LeaderReplica: Sendable {
    /// Times in milliseconds.
    struct Settings: Sendable {
        /// A replica that has not been at the log's end for longer leaves the in-sync set (`replica.lag.time.max.ms`).
        var lagMilliseconds: Int64 = 2000
        /// How long a replica that lagged once must keep up before it may come back; doubles with each time.
        var readmissionMilliseconds: Int64 = 500
        var readmissionMaxMilliseconds: Int64 = 16_000
        /// Replicas in sync, this one included, without which nothing is committed.
        var minInSync: Int = 1
    }

    /// A replica as it fetched in this leader epoch.
    struct Follower: Equatable, Sendable {
        /// Everything before it is on the replica's disk; nil until it has fetched.
        var end: Offset?
        var logStart: Offset = -1
        /// Of the run of the broker that fetched.
        var brokerEpoch: Int64 = -1
        /// When it was last known to have everything that the leader had.
        var caughtUpAt: Int64
        fileprivate var fetchedAt: Int64
        fileprivate var leaderEndAtFetch: Offset
        /// Since when it has kept up without a break; nil while it lags.
        fileprivate var steadySince: Int64?
        /// How often it was dropped for lagging in this leader epoch.
        fileprivate var removals = 0
    }

    /// A member of a proposed in-sync set, with the run of the broker whose progress vouches for it; -1 where the leader
    /// has not heard of it in this epoch.
    struct Member: Hashable, Sendable {
        var node: Int32
        var brokerEpoch: Int64
    }

    /// A change of the in-sync set, for the controller to commit if nothing else changed the partition since.
    struct Proposal: Equatable, Sendable {
        var inSync: [Member]
        var leaderEpoch: Int32
        /// The state that it changes.
        var partitionEpoch: Int32

        func contains(_ node: Int32) -> Bool { inSync.contains { $0.node == node } }
    }

    /// What the controller made of a proposal.
    enum Verdict: Equatable, Sendable {
        /// Committed, with the partition's new epoch.
        case committed(inSync: [Int32], partitionEpoch: Int32)
        /// Certainly not committed, and will not be.
        case refused
        /// The partition has changed since: its new state is on the way, and tells.
        case outdated
        /// Nobody knows: it is to be proposed again.
        case unknown
    }

    /// What is to be done after an event.
    struct Outcome: Equatable, Sendable {
        /// Where the high watermark is now, if it advanced.
        var highWatermark: Offset?
        /// To be sent to the controller.
        var proposal: Proposal?
        /// Fewer replicas than the minimum are in sync: who waits for more is to be told.
        var fellBelowMinimum = false
    }

    /// Why a replica's fetch is not served.
    enum Refusal: Error, Equatable {
        /// It holds no replica of the partition.
        case notAReplica
        /// An earlier run of the broker.
        case staleBrokerEpoch
    }

    let node: Int32
    let leaderEpoch: Int32
    private(set) var partitionEpoch: Int32
    private(set) var replicas: [Int32]
    /// As the controller has committed it.
    private(set) var inSync: [Int32]
    /// Under way at the controller.
    private(set) var pending: Proposal?
    private(set) var followers: [Int32: Follower] = [:]
    private(set) var highWatermark: Offset
    private(set) var logEnd: Offset
    private(set) var durableEnd: Offset
    /// End of the log when this epoch began: who has less may not enter the in-sync set.
    private(set) var epochStart: Offset
    var settings: Settings
    var bugs = PlantedReplicationBugs.planted

    init(
        node: Int32,
        leaderEpoch: Int32,
        partitionEpoch: Int32,
        replicas: [Int32],
        inSync: [Int32],
        highWatermark: Offset,
        logEnd: Offset,
        durableEnd: Offset,
        settings: Settings,
        now: Int64
    ) {
        self.node = node
        self.leaderEpoch = leaderEpoch
        self.partitionEpoch = partitionEpoch
        self.replicas = replicas
        self.inSync = inSync
        self.highWatermark = highWatermark
        self.logEnd = logEnd
        self.durableEnd = durableEnd
        epochStart = logEnd
        self.settings = settings
        addFollowers(now)
    }

    private mutating func addFollowers(_ now: Int64) {
        for id in replicas where id != node && followers[id] == nil {
            // Members have the time of a lag to be heard of.
            followers[id] = Follower(caughtUpAt: now, fetchedAt: now, leaderEndAtFetch: logEnd)
        }
        for id in followers.keys where !replicas.contains(id) { followers[id] = nil }
    }

    /// Whether nobody else holds a replica, so that what is durable here is committed.
    var isAlone: Bool { replicas == [node] && inSync == [node] && pending == nil }

    /// The in-sync set with everyone whose entry is under way: nobody of these may miss what is committed.
    var maximalInSync: Set<Int32> {
        var all = Set(inSync)
        if let pending, !bugs.contains(.ignoresPendingMembers) { all.formUnion(pending.inSync.map(\.node)) }
        return all
    }

    var isBelowMinimum: Bool { inSync.count < settings.minInSync }

    // MARK: Offsets

    /// The log ends at `end` now.
    mutating func appended(to end: Offset) { logEnd = max(logEnd, end) }

    /// Everything before `end` is on this node's disk.
    mutating func durable(to end: Offset) -> Outcome {
        durableEnd = max(durableEnd, end)
        logEnd = max(logEnd, end)
        return Outcome(highWatermark: advance())
    }

    private mutating func advance() -> Offset? {
        guard !isBelowMinimum || bugs.contains(.ignoresMinimum) else { return nil }
        var least = bugs.contains(.countsWrittenEnd) ? logEnd : durableEnd
        for id in maximalInSync where id != node {
            guard let end = followers[id]?.end else { return nil }
            least = min(least, end)
        }
        guard least > highWatermark else { return nil }
        highWatermark = least
        return least
    }

    // MARK: Followers

    /// A replica asks for records from `offset` on: everything before is on its disk. `mayEnter` tells whether that run of
    /// the broker may be in sync at all (it is alive and not on its way out).
    mutating func fetched(
        by id: Int32,
        brokerEpoch: Int64,
        from offset: Offset,
        logStart: Offset,
        logEnd end: Offset,
        now: Int64,
        mayEnter: (Int32, Int64) -> Bool
    ) throws(Refusal) -> Outcome {
        guard var follower = followers[id] else { throw .notAReplica }
        appended(to: end)
        if brokerEpoch < follower.brokerEpoch && !bugs.contains(.ignoresBrokerEpoch) { throw .staleBrokerEpoch }
        if brokerEpoch > follower.brokerEpoch && !bugs.contains(.ignoresBrokerEpoch) {
            // Another run: what the one before had says nothing.
            follower.end = nil
            follower.steadySince = nil
            follower.brokerEpoch = brokerEpoch
        }
        follower.brokerEpoch = max(follower.brokerEpoch, brokerEpoch)
        if offset >= logEnd {
            follower.caughtUpAt = max(follower.caughtUpAt, now)
        } else if offset >= follower.leaderEndAtFetch {
            follower.caughtUpAt = max(follower.caughtUpAt, follower.fetchedAt)
        }
        follower.fetchedAt = now
        follower.leaderEndAtFetch = logEnd
        follower.end = offset
        follower.logStart = logStart
        let keepsUp = offset >= highWatermark && now - follower.caughtUpAt <= settings.lagMilliseconds / 2
        follower.steadySince = keepsUp ? follower.steadySince ?? now : nil
        followers[id] = follower
        let advanced = advance()
        return Outcome(highWatermark: advanced, proposal: propose(now, mayEnter))
    }

    /// Time has passed.
    mutating func tick(now: Int64, mayEnter: (Int32, Int64) -> Bool) -> Outcome {
        Outcome(proposal: propose(now, mayEnter))
    }

    private func isLagging(_ id: Int32, _ now: Int64) -> Bool {
        guard let follower = followers[id] else { return true }
        // Someone who is in sync has what is committed. Who does not has lost it, and must not be elected.
        if let end = follower.end, end < highWatermark { return true }
        guard follower.end != logEnd else { return false }
        return now - follower.caughtUpAt > settings.lagMilliseconds
    }

    private func isReady(_ id: Int32, _ now: Int64, _ mayEnter: (Int32, Int64) -> Bool) -> Bool {
        guard let follower = followers[id], let end = follower.end else { return false }
        if bugs.contains(.admitsLaggards) { return mayEnter(id, follower.brokerEpoch) }
        guard let since = follower.steadySince, end >= highWatermark, end >= epochStart else { return false }
        let wait =
            follower.removals == 0
            ? 0
            : min(
                settings.readmissionMilliseconds << Int64(min(follower.removals - 1, 16)),
                settings.readmissionMaxMilliseconds
            )
        return now - since >= wait && mayEnter(id, follower.brokerEpoch)
    }

    /// The next change of the in-sync set, if one is due and none is under way.
    private mutating func propose(_ now: Int64, _ mayEnter: (Int32, Int64) -> Bool) -> Proposal? {
        guard pending == nil else { return nil }
        var members: [Member] = []
        var isChange = false
        for id in replicas {
            let isIn = inSync.contains(id)
            let stays = id == node || (isIn ? !isLagging(id, now) : isReady(id, now, mayEnter))
            if stays { members.append(Member(node: id, brokerEpoch: followers[id]?.brokerEpoch ?? -1)) }
            guard stays != isIn else { continue }
            isChange = true
            if isIn {
                followers[id]?.removals += 1
                followers[id]?.steadySince = nil
            }
        }
        guard isChange else { return nil }
        let proposal = Proposal(inSync: members, leaderEpoch: leaderEpoch, partitionEpoch: partitionEpoch)
        pending = proposal
        return proposal
    }

    // MARK: The controller

    /// The controller answered a proposal.
    mutating func answered(_ proposal: Proposal, _ verdict: Verdict, now: Int64) -> Outcome {
        guard proposal == pending else { return Outcome() }
        switch verdict {
        case .committed(let inSync, let epoch):
            return update(partitionEpoch: epoch, replicas: replicas, inSync: inSync, now: now)
        case .refused:
            // Who was refused proves itself anew, so that the same is not asked in a loop.
            for member in proposal.inSync where !inSync.contains(member.node) {
                followers[member.node]?.steadySince = nil
                followers[member.node]?.removals += 1
            }
            pending = nil
            return Outcome(highWatermark: advance())
        case .outdated:
            // It may have been committed when it was sent before: its members count until the new state is here.
            return Outcome()
        case .unknown:
            return Outcome(proposal: proposal)
        }
    }

    /// The controller has committed another state of the partition, in the same leader epoch.
    mutating func update(partitionEpoch epoch: Int32, replicas: [Int32], inSync: [Int32], now: Int64) -> Outcome {
        guard epoch > partitionEpoch else { return Outcome() }
        let wasBelow = isBelowMinimum
        partitionEpoch = epoch
        // Who joins a partition that was led alone must have all that was acknowledged without it.
        if self.replicas == [node] && replicas != [node] { epochStart = logEnd }
        self.replicas = replicas
        self.inSync = inSync
        pending = nil
        addFollowers(now)
        return Outcome(highWatermark: advance(), fellBelowMinimum: isBelowMinimum && !wasBelow)
    }
}
