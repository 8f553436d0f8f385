// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// Decides when a child counts as hung. Pure: time comes in.
///
/// A heartbeat is sent every `interval`, unless the last has not been answered. A child that says nothing at all for `timeout` after a
/// heartbeat hangs; so does one that keeps a tuple for `tupleTimeout`.
struct MultilangWatch {
    enum Verdict: Hashable {
        case fine
        case sendHeartbeat
        case hung(String)
    }

    let interval: TimeAmount
    let timeout: TimeAmount
    let tupleTimeout: TimeAmount
    private var sent: NIODeadline?
    private var next: NIODeadline

    init(interval: TimeAmount, timeout: TimeAmount, tupleTimeout: TimeAmount, now: NIODeadline) {
        self.interval = interval
        self.timeout = timeout
        self.tupleTimeout = tupleTimeout
        next = now + interval
    }

    /// The child said something.
    mutating func heard() { sent = nil }

    /// `oldest`: since when the oldest tuple is with the child.
    mutating func check(now: NIODeadline, oldest: NIODeadline?) -> Verdict {
        if let oldest, now - oldest > tupleTimeout {
            return .hung("it kept a tuple for more than \(tupleTimeout.nanoseconds / 1_000_000) ms")
        }
        if let sent {
            return now - sent > timeout ? .hung("it said nothing for \(timeout.nanoseconds / 1_000_000) ms") : .fine
        }
        guard now >= next else { return .fine }
        sent = now
        next = now + interval
        return .sendHeartbeat
    }
}
