// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import DequeModule
import MDCModel
import NIOCore
import Synchronization

/// A request that waits for something, but not for ever.
protocol ExpiringRequest: AnyObject, Sendable {
    /// Whether it was answered.
    var isFinished: Bool { get }
    /// Answers it if its time is up. Monotonic nanoseconds. On the loop.
    func expire(now: UInt64)
}

/// Brings work from other threads to an event loop with one wake for all that came since the last.
///
/// A wake costs about 20 µs; a sync round that finishes a hundred requests pays it once.
final class LoopWorker: Sendable {
    let eventLoop: any EventLoop
    let metrics: LoopMetrics
    private let inbox = Mutex<Inbox>(Inbox())
    /// Connections with answers that were written and not flushed. Only touched on the loop.
    nonisolated(unsafe) private var unflushed: [ConnectionHandler] = []
    /// Whether `drain` runs, which flushes at its end. Only touched on the loop.
    nonisolated(unsafe) private(set) var isDraining = false

    /// Requests that wait, in the order they came. Only touched on the loop.
    nonisolated(unsafe) private var waiting: Deque<any ExpiringRequest> = []
    nonisolated(unsafe) private var isSweeping = false

    /// Bytes of records that were copied into answers which are not sent yet.
    private let heldBytes = Atomic<Int>(0)
    /// As long as answers hold no more than this, records are copied; slow readers get theirs from the file.
    private static let roomForCopies = 32 << 20
    /// What an answer may copy while answers hold up to twice that.
    static let smallCopy = 64 << 10

    private struct Inbox {
        var work: [@Sendable () -> Void] = []
        var isAwake = false
    }

    init(eventLoop: any EventLoop, metrics: LoopMetrics) {
        self.eventLoop = eventLoop
        self.metrics = metrics
    }

    /// How many bytes of records an answer may hold as a copy, of at most `limit`.
    func copyAllowance(_ limit: Int) -> Int {
        let held = heldBytes.load(ordering: .relaxed)
        if held < Self.roomForCopies { return limit }
        return held < 2 * Self.roomForCopies ? min(limit, Self.smallCopy) : 0
    }

    /// Counts bytes of records that an answer holds as a copy; negative when it holds them no longer.
    func holds(_ bytes: Int) { heldBytes.add(bytes, ordering: .relaxed) }

    /// Sees to it that `request` expires, about when it is due. Costs next to nothing where requests are answered about in
    /// their order: no timer each.
    func watch(_ request: any ExpiringRequest) {
        guard eventLoop.inEventLoop else { return submit { self.watch(request) } }
        while let first = waiting.first, first.isFinished { waiting.removeFirst() }
        waiting.append(request)
        if !isSweeping { scheduleSweep() }
    }

    private func scheduleSweep() {
        isSweeping = true
        eventLoop.scheduleTask(in: .milliseconds(100)) { self.sweep() }
    }

    private func sweep() {
        isSweeping = false
        let now = mdc_monotonic_ns()
        for request in waiting where !request.isFinished { request.expire(now: now) }
        waiting.removeAll { $0.isFinished }
        if !waiting.isEmpty { scheduleSweep() }
    }

    /// Runs `work` on the loop, soon. From any thread.
    func submit(_ work: @escaping @Sendable () -> Void) {
        let mustWake = inbox.withLock { inbox in
            inbox.work.append(work)
            defer { inbox.isAwake = true }
            return !inbox.isAwake
        }
        if mustWake { eventLoop.execute { self.drain() } }
    }

    private func drain() {
        isDraining = true
        while true {
            let work = inbox.withLock { inbox in
                let work = inbox.work
                inbox.work = []
                if work.isEmpty { inbox.isAwake = false }
                return work
            }
            if work.isEmpty { break }
            for item in work { item() }
            flushAll()
        }
        isDraining = false
    }

    private func flushAll() {
        let handlers = unflushed
        unflushed.removeAll(keepingCapacity: true)
        for handler in handlers { handler.flushAnswers() }
    }

    /// Notes that `handler` has something to flush when the present work ends. On the loop, while draining.
    func flushLater(_ handler: ConnectionHandler) { unflushed.append(handler) }
}
