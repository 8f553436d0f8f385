// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import NIOPosix
import Synchronization

/// The fetching half of a ShareFetch: hands out what there is, or waits until there is something or its time is up. Woken
/// by new records, by records that were given back and by locks that ended; never polled.
final class DelayedShareFetch: PartitionWaiter {
    /// What a fetch asks for, over all its partitions.
    struct Parameters: Sendable {
        var groupID: String
        var memberID: String
        var maxRecords: Int
        var maxBytes: Int
        var batchSize: Int
        var isStrict: Bool
        var maxWait: Int64
    }

    private let context: RequestContext
    private let services: BrokerServices
    private let parameters: Parameters
    private let targets: [ShareTarget]
    private let complete: @Sendable ([ShareTarget: SharePartition.Finding]) -> Void
    private let isQueued = Atomic<Bool>(false)
    // Touched on the loop only.
    nonisolated(unsafe) private var watched: [ShareTarget: SharePartition] = [:]
    nonisolated(unsafe) private var isWaiting = false
    nonisolated(unsafe) private var isDone = false
    /// Whether a look that may wait for the disk is under way on the pool.
    nonisolated(unsafe) private var isOnPool = false
    nonisolated(unsafe) private var isLate = false
    nonisolated(unsafe) private var timer: Scheduled<Void>?

    init(
        context: RequestContext,
        services: BrokerServices,
        parameters: Parameters,
        targets: [ShareTarget],
        complete: @escaping @Sendable ([ShareTarget: SharePartition.Finding]) -> Void
    ) {
        self.context = context
        self.services = services
        self.parameters = parameters
        self.targets = targets
        self.complete = complete
    }

    /// Looks, and waits where there is nothing yet. On the loop.
    func start() {
        if targets.isEmpty || parameters.maxRecords <= 0 { return finish([:]) }
        look()
        guard !isDone, parameters.maxWait > 0 else {
            if !isDone && !isOnPool { finish([:]) } else if !isDone { isLate = true }
            return
        }
        timer = context.eventLoop.scheduleTask(in: .milliseconds(parameters.maxWait)) { self.expire() }
        isWaiting = true
        _ = watch()
        // What came between the look and the registration was announced to nobody.
        look()
    }

    /// Waits at every share partition, also at those that took the place of closed ones; whether any was new.
    private func watch() -> Bool {
        var isNew = false
        for target in targets {
            guard case .success(let share) = services.shares.share(parameters.groupID, target) else { continue }
            if watched[target] === share { continue }
            if let old = watched.updateValue(share, forKey: target) { unwatch(old) }
            share.addWaiter(self)
            share.partition.addWaiter(self)
            isNew = true
        }
        return isNew
    }

    private func unwatch(_ share: SharePartition) {
        share.removeWaiter(self)
        share.partition.removeWaiter(self)
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
        guard !isDone, !isOnPool else { return }
        // Whoever is gone is given nothing.
        if context.connection.isClosed { return finish([:]) }
        let found = Self.fetch(services, parameters, targets, mayBlock: false)
        let hasRecords = found.contains { !$0.value.acquired.isEmpty }
        let failures = found.count { $0.value.code != .none }
        if hasRecords || failures == targets.count { return finish(found) }
        if found.contains(where: { $0.value.needsDisk }) { return lookOnPool() }
        if isWaiting && watch() { partitionAdvanced() }
    }

    private func lookOnPool() {
        isOnPool = true
        let (services, parameters, targets, context) = (services, parameters, targets, context)
        services.blocking.submit { _ in
            let found = Self.fetch(services, parameters, targets, mayBlock: true)
            context.connection.worker.submit {
                self.isOnPool = false
                if context.connection.isClosed {
                    for (target, finding) in found where !finding.acquired.isEmpty {
                        guard case .success(let share) = services.shares.share(parameters.groupID, target) else {
                            continue
                        }
                        share.release(by: parameters.memberID, wasDelivered: false)
                    }
                    return self.finish([:])
                }
                if self.isLate || found.contains(where: { !$0.value.acquired.isEmpty }) {
                    self.finish(found)
                } else {
                    self.look()
                }
            }
        }
    }

    /// One look at all partitions.
    private static func fetch(
        _ services: BrokerServices,
        _ parameters: Parameters,
        _ targets: [ShareTarget],
        mayBlock: Bool
    ) -> [ShareTarget: SharePartition.Finding] {
        var found: [ShareTarget: SharePartition.Finding] = [:]
        var recordsLeft = parameters.maxRecords
        var bytesLeft = parameters.maxBytes
        for target in targets {
            var finding = SharePartition.Finding()
            switch services.shares.share(parameters.groupID, target) {
            case .failure(let code): finding.code = code
            case .success(let share):
                let (isReady, code) = share.ready()
                finding.code = code
                guard isReady, recordsLeft > 0, bytesLeft > 0 else { break }
                finding = share.fetch(
                    SharePartition.Request(
                        wish: .init(
                            member: parameters.memberID,
                            maxRecords: recordsLeft,
                            isStrict: parameters.isStrict,
                            batchSize: parameters.batchSize
                        ),
                        maxBytes: bytesLeft,
                        isFirst: bytesLeft == parameters.maxBytes,
                        mayBlock: mayBlock
                    )
                )
                recordsLeft -= finding.count
                bytesLeft -= finding.records.readableBytes
            }
            found[target] = finding
        }
        return found
    }

    private func expire() {
        guard !isDone else { return }
        if isOnPool {
            isLate = true
            return
        }
        finish(context.connection.isClosed ? [:] : Self.fetch(services, parameters, targets, mayBlock: false))
    }

    private func finish(_ found: [ShareTarget: SharePartition.Finding]) {
        isDone = true
        timer?.cancel()
        timer = nil
        for share in watched.values { unwatch(share) }
        watched = [:]
        complete(found)
    }
}
