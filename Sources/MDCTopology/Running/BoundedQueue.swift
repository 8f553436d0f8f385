// SPDX-License-Identifier: Apache-2.0

import DequeModule
import Synchronization

/// Elements on their way from many tasks to one: whoever puts into a full queue waits, in turn.
final class BoundedQueue<Element: Sendable>: Sendable {
    private struct State {
        var elements: Deque<Element> = []
        var writers: Deque<CheckedContinuation<Void, Never>> = []
        var reader: CheckedContinuation<Void, Never>?
        var isClosed = false
    }

    private let capacity: Int
    private let state = Mutex(State())

    init(capacity: Int) {
        precondition(capacity > 0, "a queue has room for one at least")
        self.capacity = capacity
    }

    /// What waits in it.
    var count: Int { state.withLock { $0.elements.count } }

    /// Puts an element in, when there is room; at once where `bypassing`. False where the queue is closed.
    @discardableResult
    func push(_ element: Element, bypassing: Bool = false) async -> Bool {
        while true {
            let reader: CheckedContinuation<Void, Never>?
            let outcome: Bool?
            (reader, outcome) = state.withLock { state in
                if state.isClosed { return (nil, false) }
                guard bypassing || state.elements.count < capacity else { return (nil, nil) }
                state.elements.append(element)
                defer { state.reader = nil }
                return (state.reader, true)
            }
            reader?.resume()
            if let outcome { return outcome }
            await withCheckedContinuation { continuation in
                let goesOn = state.withLock { state -> Bool in
                    if state.isClosed || state.elements.count < capacity { return true }
                    state.writers.append(continuation)
                    return false
                }
                if goesOn { continuation.resume() }
            }
        }
    }

    /// The next element; nil once the queue is closed. One caller at a time.
    func pop() async -> Element? {
        while true {
            let (element, writer, isClosed) = state.withLock {
                state -> (Element?, CheckedContinuation<Void, Never>?, Bool) in
                if state.isClosed { return (nil, nil, true) }
                guard let element = state.elements.popFirst() else { return (nil, nil, false) }
                return (element, state.writers.popFirst(), false)
            }
            writer?.resume()
            if element != nil || isClosed { return element }
            await withCheckedContinuation { continuation in
                let goesOn = state.withLock { state -> Bool in
                    if state.isClosed || !state.elements.isEmpty { return true }
                    state.reader = continuation
                    return false
                }
                if goesOn { continuation.resume() }
            }
        }
    }

    /// Ends all waiting; what is in the queue is dropped.
    func close() {
        let waiting = state.withLock { state -> [CheckedContinuation<Void, Never>] in
            state.isClosed = true
            state.elements = []
            let waiting = Array(state.writers) + (state.reader.map { [$0] } ?? [])
            state.writers = []
            state.reader = nil
            return waiting
        }
        for continuation in waiting { continuation.resume() }
    }
}

/// Lets one caller in at a time; the others wait in order.
final class TurnLock: Sendable {
    private struct State {
        var isHeld = false
        var waiters: Deque<CheckedContinuation<Void, Never>> = []
    }

    private let state = Mutex(State())

    func acquire() async {
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
            guard let next = state.waiters.popFirst() else {
                state.isHeld = false
                return nil
            }
            return next
        }
        next?.resume()
    }
}
