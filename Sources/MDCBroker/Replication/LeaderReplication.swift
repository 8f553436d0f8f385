// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCLog
import MDCModel
import Synchronization

/// What a leader's replication needs of the node.
struct ReplicationHooks: Sendable {
    /// Sends a proposal to the controller; the verdict comes by ``LeaderReplication/answered(_:_:)``.
    var propose: @Sendable (LeaderReplication, LeaderReplica.Proposal) -> Void
    /// Whether that run of a node may be in sync.
    var mayEnter: @Sendable (Int32, Int64) -> Bool
    /// Milliseconds of a clock that never goes back.
    var now: @Sendable () -> Int64 = { LeaderReplication.now() }
}

/// The replicas of a partition that this node leads: ``LeaderReplica`` with a lock, and who waits for the high watermark.
///
/// The lock comes before the log's state lock; no callback runs under it. Where nobody else holds a replica, it is not
/// taken on the path of a request.
final class LeaderReplication: Sendable {
    private struct Waiter {
        var offset: Offset
        var done: @Sendable (Result<Void, LogError>) -> Void
    }

    private struct State {
        var replica: LeaderReplica
        /// In order of their offsets.
        var waiters: [Waiter] = []
        var isRetired = false
    }

    let topicPartition: TopicPartition
    let topicID: TopicID
    private let log: PartitionLog
    private let hooks: ReplicationHooks
    private let state: Mutex<State>
    private let alone: Atomic<Bool>
    private let inSync: Atomic<Int>
    /// Changes of the in-sync set since this node leads: replicas that left, and that came.
    let shrinks = Atomic<Int>(0)
    let expansions = Atomic<Int>(0)

    init(topicID: TopicID, log: PartitionLog, replica: LeaderReplica, hooks: ReplicationHooks) {
        topicPartition = log.topicPartition
        self.topicID = topicID
        self.log = log
        self.hooks = hooks
        alone = Atomic(replica.isAlone)
        inSync = Atomic(replica.inSync.count)
        state = Mutex(State(replica: replica))
    }

    /// Whether nobody else holds a replica: what is durable here is committed then.
    var isAlone: Bool { alone.load(ordering: .sequentiallyConsistent) }
    var inSyncCount: Int { inSync.load(ordering: .relaxed) }
    /// A copy, for views.
    var replica: LeaderReplica { state.withLock { $0.replica } }
    var isHighWatermarkKnown: Bool { isAlone || state.withLock { $0.replica.highWatermark >= $0.replica.epochStart } }

    /// Whether the controller has committed that a node is in sync.
    func isInSync(_ node: Int32) -> Bool { state.withLock { $0.replica.inSync.contains(node) } }

    /// Whether the logs of all followers in sync, or about to be, begin at `offset` or later.
    func startsEverywhere(at offset: Offset) -> Bool {
        state.withLock { state in
            let replica = state.replica
            let members = Set(replica.inSync + (replica.pending?.inSync.map(\.node) ?? []))
            return members.allSatisfy { $0 == replica.node || (replica.followers[$0]?.logStart ?? -1) >= offset }
        }
    }

    static func now() -> Int64 { Int64(mdc_monotonic_ns() / 1_000_000) }

    // MARK: Events

    /// Everything before the log's durable end is on disk. Returns whether more is committed than before.
    func durableAdvanced() -> Bool {
        let end = log.durableEndOffset
        return change { $0.durable(to: end) }
    }

    /// A follower asks from `offset` on. Throws ``LeaderReplica/Refusal``.
    func fetched(by id: Int32, brokerEpoch: Int64, from offset: Offset, logStart: Offset) throws(LeaderReplica.Refusal)
        -> Bool
    {
        let end = log.logEndOffset
        let now = hooks.now()
        var refusal: LeaderReplica.Refusal?
        let advanced = change { replica in
            do throws(LeaderReplica.Refusal) {
                return try replica.fetched(
                    by: id,
                    brokerEpoch: brokerEpoch,
                    from: offset,
                    logStart: logStart,
                    logEnd: end,
                    now: now,
                    mayEnter: hooks.mayEnter
                )
            } catch {
                refusal = error
                return LeaderReplica.Outcome()
            }
        }
        if let refusal { throw refusal }
        return advanced
    }

    /// Time has passed.
    func tick() {
        guard !isAlone else { return }
        let end = log.logEndOffset
        _ = change { replica in
            replica.appended(to: end)
            return replica.tick(now: hooks.now(), mayEnter: hooks.mayEnter)
        }
    }

    /// The controller answered a proposal. Returns whether more is committed than before.
    func answered(_ proposal: LeaderReplica.Proposal, _ verdict: LeaderReplica.Verdict) -> Bool {
        change { $0.answered(proposal, verdict, now: hooks.now()) }
    }

    /// The controller has committed another state in the same leader epoch. Returns whether more is committed than before.
    func update(partitionEpoch: Int32, replicas: [Int32], inSync: [Int32], minInSync: Int) -> Bool {
        // Before the log's end is read: who saw it alone appended before that.
        if replicas.count > 1 { alone.store(false, ordering: .sequentiallyConsistent) }
        let (end, durable) = (log.logEndOffset, log.durableEndOffset)
        return change { replica in
            let wasBelow = replica.isBelowMinimum
            replica.settings.minInSync = minInSync
            replica.appended(to: end)
            let advanced = replica.durable(to: durable).highWatermark
            var outcome = replica.update(
                partitionEpoch: partitionEpoch,
                replicas: replicas,
                inSync: inSync,
                now: hooks.now()
            )
            // Nobody else tells of what was committed just now.
            outcome.highWatermark = outcome.highWatermark ?? advanced
            outcome.fellBelowMinimum = replica.isBelowMinimum && !wasBelow
            return outcome
        }
    }

    /// Sets the least number in sync; who waits for more than there are is told. Returns whether more is committed than before.
    func set(minInSync: Int) -> Bool {
        change { replica in
            let wasBelow = replica.isBelowMinimum
            replica.settings.minInSync = minInSync
            var outcome = replica.durable(to: replica.durableEnd)
            outcome.fellBelowMinimum = replica.isBelowMinimum && !wasBelow
            return outcome
        }
    }

    /// Applies an event, publishes the high watermark, and tells who waited.
    private func change(_ body: (inout LeaderReplica) -> LeaderReplica.Outcome) -> Bool {
        var ready: [Waiter] = []
        var failed: [Waiter] = []
        let outcome = state.withLock { state -> LeaderReplica.Outcome in
            guard !state.isRetired else { return LeaderReplica.Outcome() }
            let before = state.replica.inSync.count
            let outcome = body(&state.replica)
            if let mark = outcome.highWatermark {
                // Under the lock, so that it never goes back.
                log.updateHighWatermark(mark)
                let count = state.waiters.prefix { $0.offset <= mark }.count
                ready = Array(state.waiters.prefix(count))
                state.waiters.removeFirst(count)
            }
            if outcome.fellBelowMinimum {
                failed = state.waiters
                state.waiters = []
            }
            let after = state.replica.inSync.count
            if after < before { shrinks.add(before - after, ordering: .relaxed) }
            if after > before { expansions.add(after - before, ordering: .relaxed) }
            inSync.store(after, ordering: .relaxed)
            if state.replica.isAlone, !alone.load(ordering: .relaxed) {
                alone.store(true, ordering: .sequentiallyConsistent)
                log.commitWhatIsDurable()
            }
            return outcome
        }
        for waiter in ready { waiter.done(.success(())) }
        if !failed.isEmpty {
            let error = LogError(
                .notEnoughReplicas,
                "fewer replicas of \(topicPartition) are in sync than min.insync.replicas asks for"
            )
            for waiter in failed { waiter.done(.failure(error)) }
        }
        if let proposal = outcome.proposal { hooks.propose(self, proposal) }
        return outcome.highWatermark != nil
    }

    // MARK: Waiting

    /// Calls `done` when everything before `offset` is committed, or when this node no longer leads.
    func whenCommitted(upTo offset: Offset, _ done: @escaping @Sendable (Result<Void, LogError>) -> Void) {
        if isAlone { return log.whenDurable(upTo: offset, done) }
        let result = state.withLock { state -> Result<Void, LogError>? in
            if state.isRetired { return .failure(retirement) }
            if offset <= state.replica.highWatermark { return .success(()) }
            var index = state.waiters.endIndex
            while index > 0 && state.waiters[index - 1].offset > offset { index -= 1 }
            state.waiters.insert(Waiter(offset: offset, done: done), at: index)
            return nil
        }
        if let result { done(result) }
    }

    private var retirement: LogError {
        LogError(.notLeader, "this node no longer leads \(topicPartition) in that epoch; ask for the metadata")
    }

    /// This node no longer leads in this epoch: who waits is told.
    func retire() {
        let waiters = state.withLock { state in
            state.isRetired = true
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.done(.failure(retirement)) }
    }
}
