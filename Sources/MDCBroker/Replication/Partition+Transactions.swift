// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Synchronization

/// Writes that are part of transactions, and what ends them. One mutex makes "is the transaction still under way" and
/// "append" one step; it comes before the log's locks.
extension Partition {
    /// Whether the producer has a transaction open here, in this epoch. What it writes then needs no admission.
    func hasOpenTransaction(_ producer: ProducerIdentity) -> Bool {
        guard let state = log.activeProducer(ProducerID(producer.id)) else { return false }
        return state.producerEpoch == producer.epoch && state.currentTransactionFirstOffset != nil
    }

    /// Takes the ticket for a write that begins the producer's transaction here; to be given back by
    /// ``append(_:of:ticket:now:)`` or ``giveBack(_:of:)``.
    func takeTicket(_ producer: ProducerIdentity) -> UInt64 {
        tickets.withLock { $0.issue(to: producer.id) }
    }

    /// Gives back the ticket of a write that is not done.
    func giveBack(_ ticket: UInt64, of producer: ProducerIdentity) {
        _ = tickets.withLock { $0.giveBack(ticket, of: producer.id) }
    }

    /// Appends batches that are part of a transaction. It is open here already, or begins with a valid ticket.
    func append(
        _ batches: ByteBuffer,
        of producer: ProducerIdentity,
        ticket: UInt64?,
        now: Timestamp
    ) throws(LogError) -> AppendResult {
        try tickets.withLock { tickets throws(LogError) in
            let isValid = ticket.map { tickets.giveBack($0, of: producer.id) } ?? false
            guard isValid || hasOpenTransaction(producer) || PlantedReplicationBugs.planted.contains(.ticketsStayValid)
            else {
                throw LogError(
                    .invalidTransactionState,
                    "the transaction of producer \(producer.id) ended before its records came to \(topicPartition)"
                )
            }
            return try append(batches, as: .client, now: now)
        }
    }

    /// Appends the end of a transaction; returns the offset up to which it must be committed. One that says what was
    /// said before is not written again.
    func append(_ marker: TransactionEndMarker, now: Timestamp) throws(LogError) -> Offset {
        try tickets.withLock { tickets throws(LogError) in
            tickets.void(of: marker.producer.id)
            if marker.bumpsEpoch, let state = log.activeProducer(ProducerID(marker.producer.id)),
                state.producerEpoch == marker.producer.epoch
            {
                guard state.currentTransactionFirstOffset == nil else {
                    throw LogError(
                        .invalidProducerEpoch,
                        "a marker of producer \(marker.producer.id) has the epoch of the transaction that is open in "
                            + "\(topicPartition), and must have a higher one"
                    )
                }
                return log.logEndOffset
            }
            return try append(marker.batch(at: now), as: .coordinator, now: now).lastOffset + 1
        }
    }
}
