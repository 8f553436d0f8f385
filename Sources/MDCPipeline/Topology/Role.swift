// SPDX-License-Identifier: Apache-2.0

import Synchronization

/// One part of the centre that runs until it is told to stop, and then finishes what it began.
protocol Role: Sendable {
    /// For log lines and errors.
    var name: String { get }
    /// Works until `stop()`; throws what it cannot go on after.
    func run() async throws
    /// Asks `run()` to finish. May be called more than once, and before `run()`.
    func stop()
}

/// Whether a role was asked to stop.
final class StopFlag: Sendable {
    private let stopped = Mutex(false)
    var isSet: Bool { stopped.withLock { $0 } }
    func set() { stopped.withLock { $0 = true } }
}

/// Wakes one waiting task; a wake-up that comes while no one waits is kept.
final class AsyncSignal: Sendable {
    private struct State {
        var isPending = false
        var waiter: CheckedContinuation<Void, Never>?
    }

    private let state = Mutex(State())

    /// Wakes the waiter, now or when it comes.
    func notify() {
        let waiter = state.withLock { state -> CheckedContinuation<Void, Never>? in
            guard let waiter = state.waiter else {
                state.isPending = true
                return nil
            }
            state.waiter = nil
            return waiter
        }
        waiter?.resume()
    }

    /// Waits for `notify`. One task only.
    func wait() async {
        await withCheckedContinuation { continuation in
            let ready = state.withLock { state -> Bool in
                precondition(state.waiter == nil, "a signal has one waiter")
                if state.isPending {
                    state.isPending = false
                    return true
                }
                state.waiter = continuation
                return false
            }
            if ready { continuation.resume() }
        }
    }
}
