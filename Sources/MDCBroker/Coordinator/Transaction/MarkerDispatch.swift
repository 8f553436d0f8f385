// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Synchronization

/// Carries out the orders of transaction shards: writes the markers, and again those that cannot be written now.
struct MarkerDispatch: Sendable {
    typealias Runtime = ShardRuntime<TransactionShard>

    let node: any TransactionNode

    /// Writes the markers of an order to these of its partitions; the shard is told.
    func carryOut(_ order: MarkerOrder, _ partitions: [TopicPartition], _ runtime: Runtime, _ incarnation: UInt64) {
        let marker = TransactionEndMarker(
            producer: order.producer,
            isCommit: order.isCommit,
            bumpsEpoch: order.bumpsEpoch,
            coordinatorEpoch: node.coordinatorEpoch(partition: runtime.partition)
        )
        let tally = MarkerTally(missing: partitions.count) { left in
            runtime.submit(.marked(order, isDone: left.isEmpty)) { _ in }
            if !left.isEmpty { tryAgain(order, left, runtime, incarnation) }
        }
        for partition in partitions {
            node.write(marker, to: partition) { code in
                switch code {
                case .none, .unknownTopicOrPartition, .invalidProducerEpoch, .transactionCoordinatorFenced:
                    // Written; or the topic is gone; or something newer has been written there already.
                    tally.reached(nil)
                default: tally.reached(partition)
                }
            }
        }
        if partitions.isEmpty { runtime.submit(.marked(order, isDone: true)) { _ in } }
    }

    private func tryAgain(
        _ order: MarkerOrder,
        _ partitions: [TopicPartition],
        _ runtime: Runtime,
        _ incarnation: UInt64
    ) {
        runtime.logger.warning(
            "transaction markers cannot be written yet",
            metadata: [
                "transactional.id": "\(order.transactionalID)", "partitions": "\(partitions.map(\.description))",
            ]
        )
        _ = runtime.access.schedule(after: 500) { [weak runtime] in
            guard let runtime, runtime.isCurrent(incarnation) else { return }
            runtime.access.runBlocking { carryOut(order, partitions, runtime, incarnation) }
        }
    }
}

/// Counts the markers of an order that are still under way.
private final class MarkerTally: Sendable {
    private let state: Mutex<(missing: Int, failed: [TopicPartition])>
    private let done: @Sendable ([TopicPartition]) -> Void

    init(missing: Int, _ done: @escaping @Sendable ([TopicPartition]) -> Void) {
        state = Mutex((missing, []))
        self.done = done
    }

    /// One is through; `partition` is where it could not be written.
    func reached(_ partition: TopicPartition?) {
        let failed: [TopicPartition]? = state.withLock { state in
            state.missing -= 1
            if let partition { state.failed.append(partition) }
            return state.missing == 0 ? state.failed : nil
        }
        if let failed { done(failed) }
    }
}
