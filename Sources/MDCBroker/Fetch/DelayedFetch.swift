// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Synchronization

/// A fetch that waits until enough can be read, or its time is up. Woken by its partitions, never polled; those of a session
/// wake it by way of the session's watch.
final class DelayedFetch: PartitionWaiter {
    private let context: RequestContext
    private let targets: @Sendable () -> [FetchTarget]
    private let watch: FetchSessionWatch?
    private let reader: FetchReader
    private let complete: @Sendable (FetchReader.Outcome) -> Void
    private let isQueued = Atomic<Bool>(false)
    // Touched on the loop only.
    nonisolated(unsafe) private var watched: [Partition] = []
    nonisolated(unsafe) private var isDone = false
    nonisolated(unsafe) private var timer: Scheduled<Void>?

    /// - Parameters:
    ///   - targets: The partitions to read; asked for on the loop, each time.
    ///   - watch: Of the session whose partitions they are; nil for a fetch that names its partitions.
    init(
        context: RequestContext,
        targets: @escaping @Sendable () -> [FetchTarget],
        watch: FetchSessionWatch?,
        reader: FetchReader,
        complete: @escaping @Sendable (FetchReader.Outcome) -> Void
    ) {
        self.context = context
        self.targets = targets
        self.watch = watch
        self.reader = reader
        self.complete = complete
    }

    /// Begins to wait, on the loop; `outcome` is what was found just now.
    func start(_ outcome: FetchReader.Outcome, maxWaitMilliseconds: Int32) {
        let isFollower = reader.parameters.replica != nil
        if let watch {
            watch.add(self)
        } else {
            watched = outcome.findings.compactMap(\.partition)
            for partition in watched {
                if isFollower { partition.addFollowerWaiter(self) } else { partition.addWaiter(self) }
            }
        }
        timer = context.eventLoop.scheduleTask(in: .milliseconds(Int64(maxWaitMilliseconds))) { self.expire() }
        // What advanced between the read and the registration was announced to nobody.
        let isStale =
            watch?.hasChanged
            ?? outcome.findings.contains { finding in
                guard let partition = finding.partition else { return false }
                return partition.isDeleted || reader.parameters.readableEnd(partition) != finding.readableEnd
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
        // Whoever waits for many bytes is woken by each append: it copies when there are enough.
        if reader.parameters.minBytes > 1, !isEnough(read(copies: false)) { return }
        let outcome = read()
        if isEnough(outcome) { finish(outcome) }
    }

    private func read(copies: Bool = true) -> FetchReader.Outcome {
        reader.read(targets(), on: context.connection.worker, copies: copies)
    }

    private func isEnough(_ outcome: FetchReader.Outcome) -> Bool {
        outcome.bytes >= reader.parameters.minBytes || outcome.isUrgent
    }

    private func expire() {
        if !isDone { finish(read()) }
    }

    private func finish(_ outcome: FetchReader.Outcome) {
        isDone = true
        timer?.cancel()
        timer = nil
        watch?.remove(self)
        let isFollower = reader.parameters.replica != nil
        for partition in watched {
            if isFollower { partition.removeFollowerWaiter(self) } else { partition.removeWaiter(self) }
        }
        watched = []
        complete(outcome)
    }
}
