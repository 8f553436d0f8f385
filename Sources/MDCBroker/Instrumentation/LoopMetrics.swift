// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCLog
import MDCModel
import MDCProtocol
import NIOCore
import Synchronization

/// How long the storage engine's sync rounds take.
final class SyncRoundMetrics: Sendable {
    private let durations = Mutex(LoopMetrics.Histogram())

    /// Counts the rounds of `logs` from now on.
    init(_ logs: LogManager) {
        logs.onSyncRound { [weak self] nanoseconds in
            self?.durations.withLock { $0.record(nanoseconds: nanoseconds) }
        }
    }

    var snapshot: LoopMetrics.Histogram { durations.withLock { $0 } }
}

/// What one event loop counts. Written on its loop, read by whoever scrapes.
final class LoopMetrics: Sendable {
    /// Upper bounds of the latency buckets, in microseconds.
    static let bounds: [UInt64] = [
        50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    ]
    /// Keys of APIs are below it.
    static let apiCount = 96

    /// Durations, by size.
    struct Histogram: Sendable {
        var count: UInt64 = 0
        var nanoseconds: UInt64 = 0
        /// Of each bound, not cumulative.
        var buckets = [UInt64](repeating: 0, count: LoopMetrics.bounds.count)

        mutating func record(nanoseconds value: UInt64) {
            count += 1
            nanoseconds += value
            let microseconds = (value + 999) / 1000
            if let bucket = LoopMetrics.bounds.firstIndex(where: { microseconds <= $0 }) { buckets[bucket] += 1 }
        }

        mutating func merge(_ other: Histogram) {
            count += other.count
            nanoseconds += other.nanoseconds
            for index in buckets.indices { buckets[index] += other.buckets[index] }
        }
    }

    struct Counts: Sendable {
        var apis = [Histogram?](repeating: nil, count: LoopMetrics.apiCount)
        var errors: [ErrorKey: UInt64] = [:]
        var delays = Histogram()
        var bytesIn: UInt64 = 0
        var bytesOut: UInt64 = 0
        var busyNanoseconds: UInt64 = 0
    }

    struct ErrorKey: Hashable, Sendable {
        var api: Int16
        var code: Int16
    }

    private let counts = Mutex(Counts())

    func received(_ bytes: Int) { counts.withLock { $0.bytesIn += UInt64(bytes) } }
    func sent(_ bytes: Int) { counts.withLock { $0.bytesOut += UInt64(bytes) } }

    func answered(_ key: APIKey, nanoseconds: UInt64) {
        counts.withLock { counts in
            let index = Int(key.rawValue)
            guard counts.apis.indices.contains(index) else { return }
            if counts.apis[index] == nil { counts.apis[index] = Histogram() }
            counts.apis[index]!.record(nanoseconds: nanoseconds)
        }
    }

    func failed(_ key: APIKey, _ code: ErrorCode) {
        counts.withLock { $0.errors[ErrorKey(api: key.rawValue, code: code.rawValue), default: 0] += 1 }
    }

    /// Counts the time that `body` keeps the loop busy.
    func measureWork(_ body: () -> Void) {
        let start = mdc_monotonic_ns()
        body()
        let end = mdc_monotonic_ns()
        counts.withLock { $0.busyNanoseconds += end &- start }
    }

    /// Looks four times a second how late `loop` is, for as long as it runs.
    func probe(_ loop: any EventLoop) {
        let due = NIODeadline.now() + .milliseconds(250)
        loop.scheduleTask(deadline: due) {
            let late = NIODeadline.now() - due
            self.counts.withLock { $0.delays.record(nanoseconds: UInt64(max(0, late.nanoseconds))) }
            self.probe(loop)
        }
    }

    var snapshot: Counts { counts.withLock { $0 } }
}
