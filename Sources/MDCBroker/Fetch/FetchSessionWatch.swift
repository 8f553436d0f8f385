// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import Synchronization

/// Stands as a waiter at all partitions of a fetch session for as long as it lives, so that a poll need neither look at each
/// of them nor register with each.
final class FetchSessionWatch: PartitionWaiter {
    private let changed = Atomic<Bool>(true)
    /// Requests of the session that wait now; one, but for clients that do not wait for their answer.
    private let waiting = Mutex<[DelayedFetch]>([])

    /// Whether a partition has announced anything since the last look began.
    var hasChanged: Bool { changed.load(ordering: .sequentiallyConsistent) }

    /// Before the partitions are looked at.
    func beginLook() { changed.store(false, ordering: .sequentiallyConsistent) }

    func add(_ fetch: DelayedFetch) { waiting.withLock { $0.append(fetch) } }
    func remove(_ fetch: DelayedFetch) { waiting.withLock { $0.removeAll { $0 === fetch } } }

    func partitionAdvanced() {
        changed.store(true, ordering: .sequentiallyConsistent)
        for fetch in waiting.withLock({ $0 }) { fetch.partitionAdvanced() }
    }

    func brokerStops() { for fetch in waiting.withLock({ $0 }) { fetch.brokerStops() } }
}

/// A session's place at its partitions; given up when the session goes.
final class FetchSessionRegistration: Sendable {
    let watch = FetchSessionWatch()
    private let partitions = Mutex<[ObjectIdentifier: Partition]>([:])

    deinit { for partition in partitions.withLock({ $0 }).values { partition.removeWaiter(watch) } }

    /// `partition` tells the watch of what happens to it from now on.
    func add(_ partition: Partition) {
        let isNew = partitions.withLock { $0.updateValue(partition, forKey: ObjectIdentifier(partition)) == nil }
        if isNew { partition.addWaiter(watch) }
    }
}

extension FetchTarget {
    /// Whether a fetch would find nothing to tell: the client has read to the end and knows where the log begins and ends.
    func isQuiet(readCommitted: Bool) -> Bool {
        guard isWatched, let partition, !partition.isDeleted else { return false }
        let marks = partition.log.fetchMarks
        return marks.highWatermark.rawValue == toldHighWatermark && marks.logStart.rawValue == toldLogStart
            && (readCommitted ? marks.lastStable : marks.highWatermark).rawValue == fetchOffset
            && (currentLeaderEpoch < 0 || currentLeaderEpoch == partition.leaderEpoch.rawValue)
    }
}
