// SPDX-License-Identifier: Apache-2.0

import ServiceLifecycle
import Synchronization

/// Lets `run()` of a service wait until graceful shutdown, cancellation, or `close()`, whichever comes first.
final class ShutdownLatch: Sendable {
    private struct State {
        var isTriggered = false
        var waiters: [CheckedContinuation<Void, Never>] = []
    }

    private let state = Mutex(State())

    var isTriggered: Bool { state.withLock { $0.isTriggered } }

    /// Ends every wait, now and later.
    func trigger() {
        let waiters = state.withLock { state -> [CheckedContinuation<Void, Never>] in
            state.isTriggered = true
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume() }
    }

    private let woken = Mutex(false)

    func wait() async {
        await withTaskCancellationHandler {
            await withGracefulShutdownHandler {
                await withCheckedContinuation { continuation in
                    let isDone = state.withLock { state -> Bool in
                        if state.isTriggered || woken.withLock({ $0 }) { return true }
                        state.waiters.append(continuation)
                        return false
                    }
                    if isDone { continuation.resume() }
                }
            } onGracefulShutdown: {
                self.wake()
            }
        } onCancel: {
            wake()
        }
    }

    /// Ends the waits without counting as closed.
    private func wake() {
        let waiters = state.withLock { state -> [CheckedContinuation<Void, Never>] in
            woken.withLock { $0 = true }
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.resume() }
    }
}
