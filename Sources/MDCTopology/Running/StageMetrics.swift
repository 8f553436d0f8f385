// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// What a stage did since the worker began, over all its tasks.
public struct StageStatus: Sendable, Hashable {
    /// The stage's name.
    public var name: String
    /// Records that were worked on.
    public var executed: Int64 = 0
    /// Records that it emitted.
    public var emitted: Int64 = 0
    /// Attempts that were repeated.
    public var retried: Int64 = 0
    /// Records that it gave up.
    public var failed: Int64 = 0
    /// Seconds spent in the processor.
    public var executeSeconds: Double = 0
    /// Seconds from a record's arrival in the queue to the end of the work on it.
    public var processSeconds: Double = 0
    /// How much of the last ten seconds its tasks were at work: 1 means that they cannot do more.
    public var capacity: Double = 0
    /// Records that wait in its queues.
    public var queued: Int64 = 0
    /// Its tasks.
    public var tasks: Int64 = 1

    /// Nothing yet.
    public init(name: String) { self.name = name }
}

/// Counts for one stage. Every change is one short lock.
final class StageMetrics: Sendable {
    private struct State {
        var status: StageStatus
        var slotStart = ContinuousClock.now
        var busy = 0.0
    }

    private static let slot = Duration.seconds(10)
    private let state: Mutex<State>
    private let tasks: Int

    init(name: String, tasks: Int) {
        self.tasks = tasks
        var status = StageStatus(name: name)
        status.tasks = Int64(tasks)
        state = Mutex(State(status: status))
    }

    private func roll(_ state: inout State, _ now: ContinuousClock.Instant) {
        let passed = now - state.slotStart
        guard passed >= Self.slot else { return }
        state.status.capacity = min(state.busy / (passed.inSeconds * Double(tasks)), 1)
        state.busy = 0
        state.slotStart = now
    }

    func executed(emitted: Int, arrived: ContinuousClock.Instant, began: ContinuousClock.Instant) {
        let now = ContinuousClock.now
        state.withLock { state in
            state.status.executed += 1
            state.status.emitted += Int64(emitted)
            state.status.executeSeconds += (now - began).inSeconds
            state.status.processSeconds += (now - arrived).inSeconds
            state.busy += (now - began).inSeconds
            roll(&state, now)
        }
    }

    func emitted(_ count: Int) { state.withLock { $0.status.emitted += Int64(count) } }
    func retried() { state.withLock { $0.status.retried += 1 } }
    func failed() { state.withLock { $0.status.failed += 1 } }

    func status(queued: Int) -> StageStatus {
        state.withLock { state in
            roll(&state, .now)
            var status = state.status
            status.queued = Int64(queued)
            return status
        }
    }
}
