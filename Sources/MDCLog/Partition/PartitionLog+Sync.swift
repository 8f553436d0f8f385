// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import Synchronization

extension PartitionLog {
    /// Calls `done` once everything before `offset` may be acknowledged under the topic's durability policy: at once,
    /// on the caller's thread, where that is so already; else on a sync thread, after `LogManager.onDurableAdvance` of
    /// that round. `done` must not block. It fails where the log is closed, deleted or truncated below `offset`.
    public func whenDurable(upTo offset: Offset, _ done: @escaping @Sendable (Result<Void, LogError>) -> Void) {
        let (result, mustQueue) = published.withLock { state -> (Result<Void, LogError>?, Bool) in
            if offset <= state.durable { return (.success(()), false) }
            if let offline = state.offline, offline.code == .closed { return (.failure(offline), false) }
            state.waiters.append(DurabilityWaiter(offset: offset, done: done))
            return (nil, offset <= state.end && !state.queue())
        }
        if let result { done(result) }
        if mustQueue { environment.groupCommit.enqueue(self) }
    }

    /// Asks for a sync round that covers everything appended so far.
    func requestSync() {
        let mustQueue = published.withLock { state -> Bool in
            guard state.synced < state.end || state.directoryChanged || state.epochsChanged || !state.unsynced.isEmpty
            else { return false }
            return !state.queue()
        }
        if mustQueue { environment.groupCommit.enqueue(self) }
    }

    /// Takes what a sync round must do for this log, which brings everything before the present end to disk.
    func beginSync() -> PartitionSync {
        published.withLock { state in
            state.isQueued = false
            var sync = PartitionSync(steps: [], segments: [], end: state.end, generation: state.generation)
            func step(_ kind: SyncStep.Kind) {
                sync.steps.append(SyncStep(kind: kind, directory: path, fileSystem: fileSystem, log: self))
            }
            for segment in state.unsynced {
                guard let (file, size, trims) = segment.pendingSync() else { continue }
                sync.segments.append((segment, size, trims))
                step(.file(file))
            }
            state.unsynced.removeAll(keepingCapacity: true)
            if state.epochsChanged {
                step(.replaceFile(path: "\(path)/\(FileName.leaderEpochs)", bytes: state.epochs.encode()))
                state.epochsChanged = false
                state.epochsAreLate = false
            }
            if state.directoryChanged {
                step(.directory)
                state.directoryChanged = false
            }
            return sync
        }
    }

    /// Publishes what a round has made durable; tells whether the durable end has advanced.
    func finishSync(
        _ sync: PartitionSync,
        _ finished: inout [(waiter: DurabilityWaiter, result: Result<Void, LogError>)]
    ) -> Bool {
        for (segment, size, trims) in sync.segments { segment.didSync(size: size, trims: trims) }
        let (advanced, ready) = published.withLock { state -> (Bool, [DurabilityWaiter]) in
            // A truncation during the round has set the synced end itself; what was appended since is queued anew.
            guard sync.generation == state.generation, !state.epochsAreLate else {
                return (false, state.takeReadyWaiters())
            }
            let advanced = sync.end > state.synced
            state.synced = max(state.synced, sync.end)
            // Without a broker that tells the high watermark, nobody else shortens the list.
            if state.completed.count > 1024 { state.forgetDecided() }
            return (advanced, state.takeReadyWaiters())
        }
        for waiter in ready { finished.append((waiter, .success(()))) }
        return advanced
    }

    /// The epochs did not get onto a full disk. They are written by the first round after there is room again, which
    /// ``syncIfDue(now:)`` asks for; until then nobody is told that anything new is durable.
    func epochsCameLate() {
        published.withLock { state in
            state.epochsChanged = true
            state.epochsAreLate = true
        }
    }

    /// Whether the log was deleted or closed.
    var isGone: Bool { published.withLock { $0.offline?.code == .closed } }

    /// A round has failed: nobody may believe that anything of it is durable.
    func failSync(_ error: LogError) {
        let waiters = published.withLock { state in
            state.offline = error
            defer { state.waiters.removeAll() }
            return state.waiters
        }
        for waiter in waiters { waiter.done(.failure(error)) }
    }
}

extension PartitionLog.Published {
    /// Removes and returns the waiters whose offset is durable.
    mutating func takeReadyWaiters() -> [DurabilityWaiter] {
        if waiters.isEmpty { return [] }
        let durable = durable
        let ready = waiters.filter { $0.offset <= durable }
        if !ready.isEmpty { waiters.removeAll { $0.offset <= durable } }
        return ready
    }
}
