// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Synchronization

/// Lets a bounded number of operations run at once; the others wait in order.
///
/// A waiting operation is not cancelled with its task: a send that was begun must say what came of it.
final class ConcurrencyGate: Sendable {
    private struct State {
        var free: Int
        var waiting: Deque<CheckedContinuation<Void, Never>> = []
    }

    private let state: Mutex<State>

    /// - Precondition: `limit` is at least 1.
    init(limit: Int) {
        precondition(limit > 0, "a gate must let at least one operation pass")
        state = Mutex(State(free: limit))
    }

    func pass<Result: Sendable>(_ operation: () async -> Result) async -> Result {
        await enter()
        defer { leave() }
        return await operation()
    }

    private func enter() async {
        let mayPass = state.withLock { state in
            guard state.free > 0 else { return false }
            state.free -= 1
            return true
        }
        guard !mayPass else { return }
        await withCheckedContinuation { continuation in
            let mayPass = state.withLock { state in
                guard state.free == 0 else {
                    state.free -= 1
                    return true
                }
                state.waiting.append(continuation)
                return false
            }
            if mayPass { continuation.resume() }
        }
    }

    private func leave() {
        let next = state.withLock { state in
            let next = state.waiting.popFirst()
            if next == nil { state.free += 1 }
            return next
        }
        next?.resume()
    }
}
