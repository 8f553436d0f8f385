// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

/// Bounds the bytes of requests that are half received, over all connections.
///
/// What counts is what has arrived, not what a length promises. Small requests always go on. When the bound is passed, the largest
/// unfinished request that is older than a second loses its connection; until there is room, growing ones are not read.
final class RequestMemory: Sendable {
    /// What to do with a connection whose request has grown.
    enum Verdict: Equatable {
        case goOn
        /// Stop reading until told otherwise.
        case pause
    }

    private struct Partial {
        var bytes: Int
        var since: UInt64
        var connection: Connection
        var isPaused = false
    }

    private struct State {
        var used = 0
        var partials: [UInt64: Partial] = [:]
    }

    /// A request of which no more than this has arrived is not counted.
    static let smallRequestBytes = 128 << 10
    private static let patience: UInt64 = 1_000_000_000

    let limit: Int
    private let state = Mutex(State())

    init(limit: Int) { self.limit = limit }

    /// Bytes of half received requests.
    var used: Int { state.withLock { $0.used } }

    /// The unfinished request of `connection` has `bytes` now. Called when it grew past ``smallRequestBytes``, and with 0 when it
    /// is complete or gone.
    func update(_ connection: Connection, bytes: Int, now: UInt64) -> Verdict {
        let (verdict, victim, resumed) = state.withLock { state -> (Verdict, Connection?, [Connection]) in
            let old = state.partials[connection.id]
            state.used += bytes - (old?.bytes ?? 0)
            if bytes == 0 {
                state.partials[connection.id] = nil
                return (.goOn, nil, Self.resume(&state, limit: limit))
            }
            var partial = old ?? Partial(bytes: 0, since: now, connection: connection)
            partial.bytes = bytes
            partial.isPaused = false
            state.partials[connection.id] = partial
            guard state.used > limit else { return (.goOn, nil, []) }
            state.partials[connection.id]?.isPaused = true
            return (.pause, Self.victim(state, now: now), [])
        }
        victim?.close("its request is the largest of those that exceed queued.max.request.bytes together")
        for connection in resumed { connection.onLoop { $0.resumeReading() } }
        return verdict
    }

    /// Called now and then: makes room while the bound is passed and nobody moves.
    func tick(now: UInt64) {
        let victim = state.withLock { state in state.used > limit ? Self.victim(state, now: now) : nil }
        victim?.close("its request is the largest of those that exceed queued.max.request.bytes together")
    }

    private static func victim(_ state: State, now: UInt64) -> Connection? {
        state.partials.values.filter { now >= $0.since + patience }.max { $0.bytes < $1.bytes }?.connection
    }

    private static func resume(_ state: inout State, limit: Int) -> [Connection] {
        guard state.used <= limit else { return [] }
        var resumed: [Connection] = []
        for (id, partial) in state.partials where partial.isPaused {
            state.partials[id]?.isPaused = false
            resumed.append(partial.connection)
        }
        return resumed
    }
}

/// Counts connections, in all and by address.
final class ConnectionLimiter: Sendable {
    private struct State {
        var total = 0
        var byHost: [String: Int] = [:]
        var maximum: Int
        var maximumPerHost: Int
    }

    private let state: Mutex<State>

    init(maximum: Int, maximumPerHost: Int) {
        state = Mutex(State(maximum: maximum, maximumPerHost: maximumPerHost))
    }

    /// Sets other bounds; connections that are open stay.
    func set(maximum: Int, maximumPerHost: Int) {
        state.withLock { state in
            state.maximum = maximum
            state.maximumPerHost = maximumPerHost
        }
    }

    var count: Int { state.withLock { $0.total } }

    /// Whether one more connection from `host` is welcome; counts it if so.
    func admit(_ host: String) -> Bool {
        state.withLock { state in
            guard state.total < state.maximum, state.byHost[host, default: 0] < state.maximumPerHost else {
                return false
            }
            state.total += 1
            state.byHost[host, default: 0] += 1
            return true
        }
    }

    /// A connection that was admitted has closed.
    func release(_ host: String) {
        state.withLock { state in
            state.total -= 1
            let left = state.byHost[host, default: 1] - 1
            state.byHost[host] = left > 0 ? left : nil
        }
    }
}
