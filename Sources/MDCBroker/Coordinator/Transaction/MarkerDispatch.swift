// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCModel
import Synchronization

/// Carries out the orders of transaction shards: has the markers written by whoever leads their partitions, until they are.
/// Under its mutex only the metadata are looked at.
final class MarkerDispatch: Sendable {
    typealias Runtime = ShardRuntime<TransactionShard>

    /// Who gave an order.
    private struct Client: Sendable {
        var order: MarkerOrder
        var runtime: Runtime
        var incarnation: UInt64

        var isCurrent: Bool { runtime.isCurrent(incarnation) }
    }

    private struct State {
        var outstanding = MarkersOutstanding()
        var clients: [UInt64: Client] = [:]
        var timerAt = Int64.max
        var cancelTimer: (@Sendable () -> Void)?
    }

    private let node: any TransactionNode
    private let access: any InternalTopicAccess
    private let logger: Logger
    private let state = Mutex(State())

    init(node: any TransactionNode, access: any InternalTopicAccess, logger: Logger) {
        self.node = node
        self.access = access
        self.logger = logger
    }

    /// Markers that are still to be written.
    var count: Int { state.withLock { $0.outstanding.count } }

    /// Has the markers of an order written; the shard is told. May block.
    func carryOut(_ order: MarkerOrder, _ runtime: Runtime, _ incarnation: UInt64) {
        // Who ceased to be the coordinator leaves it to the next one, who finds the decision on the log.
        guard let epoch = node.coordinatorEpoch(partition: runtime.partition) else { return }
        let marker = TransactionEndMarker(
            producer: order.producer,
            isCommit: order.isCommit,
            bumpsEpoch: order.bumpsEpoch,
            coordinatorEpoch: epoch
        )
        perform { state, now in
            let added = state.outstanding.add(marker, order.partitions, now: now, locate: node.place)
            state.clients[added.order] = Client(order: order, runtime: runtime, incarnation: incarnation)
            arm(&state, state.outstanding.deadline(of: added.order))
            return added.actions
        }
    }

    private func tick() {
        // Their runtimes have locks of their own.
        let stale = state.withLock { $0.clients }.filter { !$0.value.isCurrent }.keys
        perform { state, now in
            state.timerAt = .max
            state.cancelTimer = nil
            for order in stale {
                state.outstanding.abandon(order)
                state.clients[order] = nil
            }
            let actions = state.outstanding.tick(now, locate: node.place)
            arm(&state, state.outstanding.nextDeadline)
            return actions
        }
    }

    private func perform(_ body: (inout State, Int64) -> [MarkersOutstanding.Action]) {
        let (actions, clients) = state.withLock { state in
            let actions = body(&state, access.now().monotonic)
            var clients: [UInt64: Client] = [:]
            for case .report(let order, let isDone) in actions {
                clients[order] = state.clients[order]
                if isDone { state.clients[order] = nil }
            }
            return (actions, clients)
        }
        for action in actions {
            switch action {
            case .write(let batch):
                for partition in batch.partitions {
                    node.write(batch.marker, to: partition) { [self] in ended(batch, [(partition, $0)]) }
                }
            case .send(let batch, let remote):
                node.send(batch.marker, batch.partitions, to: remote) { [self] codes in
                    ended(batch, batch.partitions.map { ($0, codes[$0] ?? .unknownServerError) })
                }
            case .report(let order, let isDone):
                guard let client = clients[order] else { continue }
                client.runtime.submit(.marked(client.order, isDone: isDone)) { _ in }
            case .complain(let order, let partitions):
                logger.warning(
                    "transaction markers cannot be written yet",
                    metadata: [
                        "transactional.id": "\(clients[order]?.order.transactionalID ?? "")",
                        "partitions": "\(partitions.map(\.description))",
                    ]
                )
            }
        }
    }

    private func ended(_ batch: MarkersOutstanding.Batch, _ codes: [(TopicPartition, ErrorCode)]) {
        perform { state, now in
            let actions = codes.flatMap { partition, code in
                state.outstanding.ended(batch.order, batch.attempt, partition, code, now: now)
            }
            arm(&state, state.outstanding.deadline(of: batch.order))
            return actions
        }
    }

    private func arm(_ state: inout State, _ deadline: Int64?) {
        guard let deadline, deadline < state.timerAt else { return }
        state.cancelTimer?()
        state.timerAt = deadline
        let delay = max(deadline - access.now().monotonic, 1)
        state.cancelTimer = access.schedule(after: delay) { [weak self] in
            guard let self else { return }
            access.runBlocking { self.tick() }
        }
    }
}
