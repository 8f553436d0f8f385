// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Synchronization

/// A fetch that waits until enough can be read, or its time is up. Woken by its partitions, never polled.
final class DelayedFetch: PartitionWaiter {
    private let context: RequestContext
    private let targets: [FetchTarget]
    private let reader: FetchReader
    private let complete: @Sendable (FetchReader.Outcome) -> Void
    private let isQueued = Atomic<Bool>(false)
    // Touched on the loop only.
    nonisolated(unsafe) private var watched: [Partition] = []
    nonisolated(unsafe) private var isDone = false
    nonisolated(unsafe) private var timer: Scheduled<Void>?

    init(
        context: RequestContext,
        targets: [FetchTarget],
        reader: FetchReader,
        complete: @escaping @Sendable (FetchReader.Outcome) -> Void
    ) {
        self.context = context
        self.targets = targets
        self.reader = reader
        self.complete = complete
    }

    /// Begins to wait, on the loop; `outcome` is what was found just now.
    func start(_ outcome: FetchReader.Outcome, maxWaitMilliseconds: Int32) {
        watched = outcome.findings.compactMap(\.partition)
        for partition in watched { partition.addWaiter(self) }
        timer = context.eventLoop.scheduleTask(in: .milliseconds(Int64(maxWaitMilliseconds))) { self.expire() }
        // What advanced between the read and the registration was announced to nobody.
        let isStale = outcome.findings.contains { finding in
            guard let partition = finding.partition else { return false }
            return partition.isDeleted
                || partition.readableEnd(readCommitted: reader.parameters.readCommitted) != finding.readableEnd
        }
        if isStale { look() }
    }

    func partitionAdvanced() {
        guard !isQueued.exchange(true, ordering: .acquiringAndReleasing) else { return }
        context.connection.worker.submit {
            self.isQueued.store(false, ordering: .releasing)
            self.look()
        }
    }

    func brokerStops() { context.connection.worker.submit { self.expire() } }

    private func look() {
        guard !isDone else { return }
        let outcome = reader.read(targets)
        if outcome.bytes >= reader.parameters.minBytes || outcome.isUrgent { finish(outcome) }
    }

    private func expire() {
        if !isDone { finish(reader.read(targets)) }
    }

    private func finish(_ outcome: FetchReader.Outcome) {
        isDone = true
        timer?.cancel()
        timer = nil
        for partition in watched { partition.removeWaiter(self) }
        watched = []
        complete(outcome)
    }
}
