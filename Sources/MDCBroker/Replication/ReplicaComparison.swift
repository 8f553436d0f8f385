// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Which stretch of which followed replica is compared with its leader next, and what a comparison means. Pure.
struct ReplicaComparison: Sendable {
    typealias Key = ReplicaFetcher.Key

    /// What is to be compared of a replica: what is committed there.
    struct Extent: Equatable, Sendable {
        var start: Int64
        var end: Int64
    }

    /// What the two digests of a stretch say.
    enum Finding: Equatable, Sendable {
        /// Equal bytes; go on behind.
        case equal
        /// The leader cannot tell, or has let go of the stretch: another time.
        case unknown
        /// This replica's copy is another than the leader's, which is sound.
        case different
        /// The leader's own copy is damaged: nothing is done to this one, which may be the good one.
        case leaderDamaged
    }

    private struct Progress {
        var next: Int64
        /// When the pass under way began, in milliseconds.
        var begun: Int64
        var isOver = false
    }

    private var progress: [Key: Progress] = [:]
    private var last: Key?

    /// The next stretch: of each replica in turn; nil where all are compared for now. A pass over a replica begins `interval`
    /// milliseconds after the one before; the first one an interval after the replica was first seen.
    mutating func next(_ extents: [Key: Extent], interval: Int64, now: Int64) -> (key: Key, from: Int64)? {
        progress = progress.filter { extents[$0.key] != nil }
        var due: [Key] = []
        for (key, extent) in extents {
            guard var one = progress[key] else {
                progress[key] = Progress(next: extent.start, begun: now, isOver: true)
                continue
            }
            if one.isOver, now - one.begun >= interval {
                one = Progress(next: extent.start, begun: now)
                progress[key] = one
            }
            if !one.isOver {
                if max(one.next, extent.start) < extent.end { due.append(key) } else { progress[key]?.isOver = true }
            }
        }
        due.sort { Self.place($0) < Self.place($1) }
        let turn = due.first { key in
            last.map { Self.place($0) < Self.place(key) } ?? true
        }
        guard let key = turn ?? due.first, let extent = extents[key], let one = progress[key] else { return nil }
        last = key
        return (key, max(one.next, extent.start))
    }

    private static func place(_ key: Key) -> (UInt64, UInt64, Int32) {
        (key.topicID.high, key.topicID.low, key.index)
    }

    /// A stretch was compared.
    mutating func compared(_ key: Key, _ finding: Finding, upTo end: Int64) {
        switch finding {
        case .equal: progress[key]?.next = end
        case .unknown, .different, .leaderDamaged: progress[key]?.isOver = true
        }
    }

    /// What the digests of the same stretch here and at the leader say.
    static func judge(own: LogDigest, leader: LogDigest?) -> Finding {
        guard let leader else { return .unknown }
        if own == leader && own.isSound { return .equal }
        guard leader.isSound else { return .leaderDamaged }
        // Where it begins later, the leader has let go of what is before.
        return leader.first > own.first ? .unknown : .different
    }
}
