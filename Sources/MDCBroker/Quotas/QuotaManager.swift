// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// Who is held back how long: the quotas in force and what was used of them.
final class QuotaManager: Sendable {
    private struct State {
        var table = QuotaTable()
        var window = 1.0
        var buckets: [QuotaLimit.Share: QuotaBucket] = [:]
        var sweptAt: UInt64 = 0
        var throttled = [Throttled](repeating: Throttled(), count: QuotaKey.allCases.count)
    }

    /// How often someone was held back by a quota, and how long.
    struct Throttled: Equatable, Sendable {
        var count: UInt64 = 0
        var milliseconds: UInt64 = 0
    }

    /// Nobody is told to wait longer at once; what is owed beyond that is owed still.
    static let longestDelay: Int32 = 10_000
    /// Above so many buckets, those that are full are dropped.
    private static let bucketLimit = 10_000
    /// Who talks without having said who they are.
    static let anonymous = "ANONYMOUS"

    private let state = Mutex(State())
    /// A bit for each key that anyone has a quota of: without quotas nothing is locked.
    private let limited = Atomic<UInt64>(0)

    /// Puts quotas into force. `window`: seconds of a rate that may be used at once.
    func update(_ table: QuotaTable, window: Double) {
        var bits: UInt64 = 0
        for key in QuotaKey.allCases where table.limits(key) { bits |= 1 << UInt64(key.index) }
        state.withLock { state in
            state.table = table
            state.window = window
            if bits == 0 { state.buckets = [:] }
        }
        limited.store(bits, ordering: .releasing)
    }

    /// Whether anyone has a quota of `key`.
    func limits(_ key: QuotaKey) -> Bool { limited.load(ordering: .relaxed) & (1 << UInt64(key.index)) != 0 }

    /// Counts the use of `amount`; returns the milliseconds that the client is to be held back. From any thread.
    func record(_ key: QuotaKey, clientID: String?, _ amount: Double, now: UInt64) -> Int32 {
        guard limits(key) else { return 0 }
        return state.withLock { state in
            guard let limit = state.table.limit(key, user: Self.anonymous, clientID: clientID ?? "") else { return 0 }
            return Self.note(
                key,
                Self.use(&state, limit, now) { $0.record(amount, now: now, atMost: Self.longestDelay) },
                &state
            )
        }
    }

    /// The milliseconds that the client is to be held back for what was used before.
    func delay(_ key: QuotaKey, clientID: String?, now: UInt64) -> Int32 {
        guard limits(key) else { return 0 }
        return state.withLock { state in
            guard let limit = state.table.limit(key, user: Self.anonymous, clientID: clientID ?? "") else { return 0 }
            return Self.note(
                key,
                Self.use(&state, limit, now) { $0.delay(now: now, atMost: Self.longestDelay) },
                &state
            )
        }
    }

    /// Counts a connection from `ip`; returns the milliseconds after which its first request is taken.
    func connectionDelay(ip: String, now: UInt64) -> Int32 {
        guard limits(.connectionCreationRate) else { return 0 }
        return state.withLock { state in
            guard let limit = state.table.connectionLimit(ip: ip) else { return 0 }
            return Self.note(
                .connectionCreationRate,
                Self.use(&state, limit, now) { bucket in
                    // Who is refused is not counted: else a flood would lock an address out for ever.
                    let delay = bucket.delay(now: now, atMost: Self.longestDelay)
                    return delay == Self.longestDelay ? delay : bucket.record(1, now: now, atMost: Self.longestDelay)
                },
                &state
            )
        }
    }

    /// How often and how long anyone was held back, by key.
    var throttled: [(key: QuotaKey, throttled: Throttled)] {
        state.withLock { state in QuotaKey.allCases.map { ($0, state.throttled[$0.index]) } }
    }

    private static func note(_ key: QuotaKey, _ milliseconds: Int32, _ state: inout State) -> Int32 {
        if milliseconds > 0 {
            state.throttled[key.index].count += 1
            state.throttled[key.index].milliseconds += UInt64(milliseconds)
        }
        return milliseconds
    }

    private static func use(
        _ state: inout State,
        _ limit: QuotaLimit,
        _ now: UInt64,
        _ body: (inout QuotaBucket) -> Int32
    ) -> Int32 {
        // A percentage of a thread is counted in nanoseconds.
        let rate = limit.share.key == .requestPercentage ? limit.rate * 1e7 : limit.rate
        var bucket = state.buckets[limit.share] ?? QuotaBucket(rate: rate, window: state.window, now: now)
        if bucket.rate != rate { bucket.change(rate: rate, window: state.window, now: now) }
        let delay = body(&bucket)
        if state.buckets[limit.share] == nil && state.buckets.count >= bucketLimit {
            sweep(&state, now)
        }
        state.buckets[limit.share] = bucket
        return delay
    }

    /// Makes room, once a second at most: full buckets first, all of them where that does not help.
    private static func sweep(_ state: inout State, _ now: UInt64) {
        guard now &- state.sweptAt >= 1_000_000_000 || state.buckets.count >= 4 * bucketLimit else { return }
        state.sweptAt = now
        for share in Array(state.buckets.keys) where state.buckets[share]?.isFull(now: now) == true {
            state.buckets[share] = nil
        }
        if state.buckets.count >= 4 * bucketLimit { state.buckets = [:] }
    }
}
