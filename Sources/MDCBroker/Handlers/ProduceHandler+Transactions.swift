// SPDX-License-Identifier: Apache-2.0

import DequeModule
import MDCModel
import MDCProtocol
import NIOCore

/// What became of the question whether the partitions of a Produce request may take part in its transaction. By the
/// position of the partition in the request.
struct ProduceAdmission: Sendable {
    var tickets: [Int: UInt64] = [:]
    var refused: [Int: ErrorCode] = [:]

    /// Nothing was asked.
    static let none = ProduceAdmission()
}

/// Produce requests of one connection that wait for their transaction's coordinator. They are served in the order in
/// which they came, or a producer's sequence numbers would seem to have gaps. Only touched on the connection's loop.
final class ProduceQueue: Sendable {
    final class Entry: Sendable {
        let context: RequestContext
        let view: ProduceRequestView
        nonisolated(unsafe) var admission: ProduceAdmission?

        init(_ context: RequestContext, _ view: ProduceRequestView) {
            self.context = context
            self.view = view
        }
    }

    nonisolated(unsafe) var entries = Deque<Entry>()
}

extension ProduceHandler {
    /// A partition of the request whose transaction does not know it yet.
    private struct Asked: Sendable {
        var index: Int
        var partition: Partition
        var producer: ProducerIdentity
        var ticket: UInt64
    }

    /// Serves a request with a transactional id: at once where all its partitions are in the transaction, else when the
    /// coordinator has answered for the others.
    func admit(_ view: ProduceRequestView, _ context: RequestContext) {
        let queue = context.connection.produceQueue
        var asked: [Asked] = []
        for (index, item) in view.partitions.enumerated() {
            guard let producer = Self.transactionalProducer(item.records),
                case .found(let partition) = find(item, view),
                !partition.isInternal, !partition.hasOpenTransaction(producer)
            else { continue }
            let ticket = partition.takeTicket(producer)
            asked.append(Asked(index: index, partition: partition, producer: producer, ticket: ticket))
        }
        if asked.isEmpty && queue.entries.isEmpty { return finish(context, view, .none) }
        let entry = ProduceQueue.Entry(context, view)
        queue.entries.append(entry)
        let worker = context.connection.worker
        let admitted: @Sendable (ProduceAdmission) -> Void = { admission in
            let serve: @Sendable () -> Void = {
                entry.admission = admission
                drain(queue)
            }
            if worker.eventLoop.inEventLoop { serve() } else { worker.submit(serve) }
        }
        guard let first = asked.first else { return admitted(.none) }
        let wanted = asked
        // A request has one producer; batches of another are refused below.
        let partitions = wanted.filter { $0.producer == first.producer }.map(\.partition.topicPartition)
        services.transactions.admit(
            partitions,
            to: view.transactionalID?.string ?? "",
            first.producer,
            adds: view.version >= 12
        ) { code in
            var admission = ProduceAdmission()
            for one in wanted {
                if code == .none && one.producer == first.producer {
                    admission.tickets[one.index] = one.ticket
                } else {
                    one.partition.giveBack(one.ticket, of: one.producer)
                    admission.refused[one.index] = Self.told(code == .none ? .invalidTxnState : code, view.version)
                }
            }
            admitted(admission)
        }
    }

    private func drain(_ queue: ProduceQueue) {
        while let first = queue.entries.first, let admission = first.admission {
            queue.entries.removeFirst()
            finish(first.context, first.view, admission)
        }
    }

    private func finish(_ context: RequestContext, _ view: ProduceRequestView, _ admission: ProduceAdmission) {
        do throws(ProtocolError) {
            try serve(context, view, admission)
        } catch {
            context.closeConnection("malformed Produce request: \(error)")
        }
    }

    /// What a client is told: older ones do not try again on errors of coordinators, but do on a lack of replicas.
    private static func told(_ code: ErrorCode, _ version: Int16) -> ErrorCode {
        switch code {
        case .concurrentTransactions, .coordinatorLoadInProgress, .coordinatorNotAvailable, .notCoordinator:
            .notEnoughReplicas
        case .transactionAbortable where version < 11: .invalidTxnState
        default: code
        }
    }
}
