// SPDX-License-Identifier: Apache-2.0

#if DEBUG
    import Dispatch
    import NIOCore
    import NIOPosix

    @testable import MDCBroker

    /// Time that passes from event to event, in microseconds; what is due at the same time comes in the order in which it was
    /// asked for.
    final class ClusterScheduler: @unchecked Sendable {
        // Sendable: a simulation has one thread.
        private struct Entry {
            var time: Int64
            var number: UInt64
            var body: () -> Void
        }

        private(set) var now: Int64 = 0
        private(set) var count = 0
        private var heap: [Entry] = []
        private var number: UInt64 = 0

        func at(_ time: Int64, _ body: @escaping () -> Void) {
            number += 1
            heap.append(Entry(time: max(time, now), number: number, body: body))
            var child = heap.count - 1
            while child > 0 {
                let parent = (child - 1) / 2
                guard isBefore(heap[child], heap[parent]) else { break }
                heap.swapAt(child, parent)
                child = parent
            }
        }

        func after(_ delay: Int64, _ body: @escaping () -> Void) { at(now + delay, body) }

        private func isBefore(_ a: Entry, _ b: Entry) -> Bool {
            a.time != b.time ? a.time < b.time : a.number < b.number
        }

        /// Runs what is due until `time`; stops early where `isDone` says so.
        func run(until time: Int64, _ isDone: () -> Bool) {
            while let first = heap.first, first.time <= time {
                heap.swapAt(0, heap.count - 1)
                heap.removeLast()
                sift()
                now = first.time
                count += 1
                first.body()
                if isDone() { return }
            }
            now = max(now, time)
        }

        private func sift() {
            var parent = 0
            while true {
                var least = parent
                for child in [2 * parent + 1, 2 * parent + 2]
                where child < heap.count && isBefore(heap[child], heap[least]) {
                    least = child
                }
                if least == parent { return }
                heap.swapAt(parent, least)
                parent = least
            }
        }

        /// Forgets everything: the simulation is over.
        func clear() { heap = [] }
    }

    /// The event loop of one run of a node, on simulated time. Its clock may run faster or slower than the others'.
    final class SimulatedLoop: EventLoop, TimerService, @unchecked Sendable {
        // Sendable: a simulation has one thread.
        private let scheduler: ClusterScheduler
        /// Microseconds of this clock to one of the simulation.
        private let rate: Double
        private(set) var isDead = false
        /// Called after each piece of work.
        var afterwards: () -> Void = {}
        /// What is told to those who wait for work that will never be done.
        private var failures: [UInt64: () -> Void] = [:]
        private var number: UInt64 = 0

        init(_ scheduler: ClusterScheduler, rate: Double) {
            self.scheduler = scheduler
            self.rate = rate
        }

        /// Nothing is run any more.
        func die() {
            guard !isDead else { return }
            isDead = true
            afterwards = {}
            let all = failures
            failures = [:]
            for (_, fail) in all.sorted(by: { $0.key < $1.key }) { fail() }
        }

        /// Microseconds of this clock.
        var microseconds: Int64 { Int64(Double(scheduler.now) * rate) + 1_000_000_000 }

        /// Runs `body` after so many microseconds of this clock, if the node still runs then.
        func after(_ delay: Int64, _ body: @escaping () -> Void) {
            guard !isDead else { return }
            scheduler.after(Int64(Double(max(0, delay)) / rate)) { [weak self] in
                guard let self, !self.isDead else { return }
                body()
                if !self.isDead { self.afterwards() }
            }
        }

        private func run<T>(after delay: Int64, _ task: @escaping @Sendable () throws -> T) -> Scheduled<T> {
            let promise = makePromise(of: T.self)
            number += 1
            let id = number
            if isDead {
                promise.fail(EventLoopError.shutdown)
            } else {
                failures[id] = { promise.fail(EventLoopError.shutdown) }
                after(delay) { [weak self] in
                    guard let self, self.failures.removeValue(forKey: id) != nil else { return }
                    promise.assumeIsolated().completeWith(Result { try task() })
                }
            }
            return Scheduled(promise: promise) { [weak self] in self?.failures[id] = nil }
        }

        // MARK: EventLoop

        var inEventLoop: Bool { true }
        var now: NIODeadline { .uptimeNanoseconds(UInt64(microseconds) * 1000) }
        func execute(_ task: @escaping @Sendable () -> Void) { after(0, task) }
        func submit<T>(_ task: @escaping @Sendable () throws -> T) -> EventLoopFuture<T> {
            run(after: 0, task).futureResult
        }
        func scheduleTask<T>(deadline: NIODeadline, _ task: @escaping @Sendable () throws -> T) -> Scheduled<T> {
            run(after: (deadline - now).nanoseconds / 1000, task)
        }
        func scheduleTask<T>(in delay: TimeAmount, _ task: @escaping @Sendable () throws -> T) -> Scheduled<T> {
            run(after: delay.nanoseconds / 1000, task)
        }
        func preconditionInEventLoop(file _: StaticString, line _: UInt) {}
        func preconditionNotInEventLoop(file _: StaticString, line _: UInt) {}
        func next() -> any EventLoop { self }
        func any() -> any EventLoop { self }
        func makeIterator() -> EventLoopIterator { EventLoopIterator([self]) }
        func shutdownGracefully(queue _: DispatchQueue, _ callback: @escaping @Sendable ((any Error)?) -> Void) {
            die()
            callback(nil)
        }

        // MARK: TimerService

        func schedule(after delay: Duration, _ work: @escaping @Sendable () -> Void) -> TimerHandle {
            let handle = TimerHandle()
            let (seconds, attoseconds) = delay.components
            after(seconds * 1_000_000 + attoseconds / 1_000_000_000_000) { if handle.claim() { work() } }
            return handle
        }
    }

    /// A thread that waits for the disk: work is done a little later, in its order.
    final class SimulatedQueue: WorkQueue, @unchecked Sendable {
        // Sendable: a simulation has one thread.
        private let loop: SimulatedLoop
        private let delay: () -> Int64
        private var waiting: [@Sendable (NIOThreadPool.WorkItemState) -> Void] = []

        /// - Parameter delay: microseconds until the next piece of work is done.
        init(_ loop: SimulatedLoop, delay: @escaping () -> Int64) {
            self.loop = loop
            self.delay = delay
        }

        func submit(_ body: @escaping @Sendable (NIOThreadPool.WorkItemState) -> Void) {
            waiting.append(body)
            if waiting.count == 1 { next() }
        }

        private func next() {
            loop.after(delay()) { [weak self] in
                guard let self, let body = self.waiting.first else { return }
                self.waiting.removeFirst()
                body(.active)
                if !self.waiting.isEmpty, !self.loop.isDead { self.next() }
            }
        }
    }
#endif
