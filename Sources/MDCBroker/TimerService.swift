// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCModel
import NIOConcurrencyHelpers
import Synchronization

/// A timer that was set.
final class TimerHandle: Sendable {
    private let isDone = Atomic<Bool>(false)

    /// Makes the timer not fire, unless it has begun to. From any thread.
    func cancel() { isDone.store(true, ordering: .releasing) }

    /// True once, for the one who runs the work.
    func claim() -> Bool { !isDone.exchange(true, ordering: .acquiringAndReleasing) }
    fileprivate var isCancelled: Bool { isDone.load(ordering: .acquiring) }
}

/// Runs work later.
protocol TimerService: Sendable {
    /// Runs `work` after `delay`, on a thread of the service; it must not block.
    func schedule(after delay: Duration, _ work: @escaping @Sendable () -> Void) -> TimerHandle
}

/// Timers on one thread of their own: a heap of deadlines. Setting a timer wakes the thread only when it is the earliest;
/// cancelling never does.
final class HeapTimerService: TimerService {
    private struct Entry {
        var deadline: UInt64
        var handle: TimerHandle
        var work: @Sendable () -> Void
    }

    private struct State {
        var heap: [Entry] = []
        var isStopped = false
    }

    private let state = Mutex(State())
    /// 1 while the thread has something new to look at.
    private let signal = ConditionLock<Int>(value: 0)

    init() {
        Worker.start("mdc-timers") { [self] in run() }
    }

    func schedule(after delay: Duration, _ work: @escaping @Sendable () -> Void) -> TimerHandle {
        let nanoseconds =
            UInt64(max(0, delay.components.seconds)) * 1_000_000_000
            + UInt64(max(0, delay.components.attoseconds / 1_000_000_000))
        let entry = Entry(deadline: mdc_monotonic_ns() + nanoseconds, handle: TimerHandle(), work: work)
        let isEarliest = state.withLock { state -> Bool in
            state.heap.append(entry)
            Self.siftUp(&state.heap, state.heap.count - 1)
            return state.heap[0].handle === entry.handle
        }
        if isEarliest { wake() }
        return entry.handle
    }

    /// Ends the thread; timers that are set never fire.
    func stop() {
        state.withLock {
            $0.isStopped = true
            $0.heap = []
        }
        wake()
    }

    private func wake() {
        signal.lock()
        signal.unlock(withValue: 1)
    }

    private func run() {
        while true {
            let (due, wait, isStopped) = takeDue()
            if isStopped { return }
            for entry in due where entry.handle.claim() { entry.work() }
            if !due.isEmpty { continue }
            if signal.lock(whenValue: 1, timeoutSeconds: wait) { signal.unlock(withValue: 0) }
        }
    }

    private func takeDue() -> (due: [Entry], waitSeconds: Double, isStopped: Bool) {
        let now = mdc_monotonic_ns()
        return state.withLock { state in
            var due: [Entry] = []
            while let first = state.heap.first, first.deadline <= now || first.handle.isCancelled {
                Self.popFirst(&state.heap)
                if !first.handle.isCancelled { due.append(first) }
            }
            let wait = state.heap.first.map { Double($0.deadline - now) / 1e9 } ?? 3600
            return (due, wait, state.isStopped)
        }
    }

    private static func siftUp(_ heap: inout [Entry], _ start: Int) {
        var index = start
        while index > 0, heap[index].deadline < heap[(index - 1) / 2].deadline {
            heap.swapAt(index, (index - 1) / 2)
            index = (index - 1) / 2
        }
    }

    private static func popFirst(_ heap: inout [Entry]) {
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var index = 0
        while true {
            var least = index
            for child in [2 * index + 1, 2 * index + 2]
            where child < heap.count && heap[child].deadline < heap[least].deadline { least = child }
            if least == index { return }
            heap.swapAt(index, least)
            index = least
        }
    }
}

/// A thread.
enum Worker {
    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// Starts a detached thread; `name` has at most 15 characters.
    static func start(_ name: String, _ run: @escaping @Sendable () -> Void) {
        let context = Unmanaged.passRetained(Body(run)).toOpaque()
        let failed = mdc_start_thread(name, context) { context in
            guard let context else { return }
            Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run()
        }
        precondition(failed == 0, "a thread cannot be started; raise the limit of processes")
    }
}
