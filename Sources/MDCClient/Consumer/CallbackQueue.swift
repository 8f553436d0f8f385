// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// The application's rebalance callbacks, and the task that runs them one after another.
final class CallbackQueue: Sendable {
    struct Callbacks: Sendable {
        var onAssigned: Consumer.RebalanceCallback?
        var onRevoked: Consumer.RebalanceCallback?
        var onLost: Consumer.RebalanceCallback?
    }

    typealias Item = @Sendable (Callbacks) async -> Void

    private struct State {
        var callbacks = Callbacks()
        var task: Task<Void, Never>?
    }

    private let state = Mutex(State())
    private let items: AsyncStream<Item>
    private let continuation: AsyncStream<Item>.Continuation

    init() {
        (items, continuation) = AsyncStream.makeStream()
    }

    var hasAssignedCallback: Bool { state.withLock { $0.callbacks.onAssigned != nil } }

    func set(
        onAssigned: Consumer.RebalanceCallback?,
        onRevoked: Consumer.RebalanceCallback?,
        onLost: Consumer.RebalanceCallback?
    ) {
        state.withLock {
            $0.callbacks = Callbacks(onAssigned: onAssigned, onRevoked: onRevoked, onLost: onLost)
            if $0.task == nil {
                let items = self.items
                $0.task = Task { [weak self] in
                    for await item in items { await item(self?.current ?? Callbacks()) }
                }
            }
        }
    }

    private var current: Callbacks { state.withLock { $0.callbacks } }

    func run(_ item: @escaping Item) { continuation.yield(item) }

    /// Runs after everything before it, and returns when it is over.
    func runLast(_ item: @escaping Item) async {
        guard state.withLock({ $0.task != nil }) else { return await item(current) }
        await withCheckedContinuation { done in
            continuation.yield { callbacks in
                await item(callbacks)
                done.resume()
            }
        }
    }

    func end() { continuation.finish() }

    func untilEnded() async { await state.withLock { $0.task }?.value }
}

/// Lets one caller in at a time; the others wait in order.
final class AsyncLock: Sendable {
    private struct State {
        var isHeld = false
        var waiters: [CheckedContinuation<Void, Never>] = []
    }

    private let state = Mutex(State())

    func acquire() async {
        if state.withLock({ state in
            defer { state.isHeld = true }
            return !state.isHeld
        }) {
            return
        }
        await withCheckedContinuation { continuation in
            let isFree = state.withLock { state -> Bool in
                if !state.isHeld {
                    state.isHeld = true
                    return true
                }
                state.waiters.append(continuation)
                return false
            }
            if isFree { continuation.resume() }
        }
    }

    func release() {
        let next = state.withLock { state -> CheckedContinuation<Void, Never>? in
            if state.waiters.isEmpty {
                state.isHeld = false
                return nil
            }
            return state.waiters.removeFirst()
        }
        next?.resume()
    }
}
