// SPDX-License-Identifier: Apache-2.0

/// Closes the gap between asking the transaction coordinator whether a write may join a transaction and doing the write:
/// the writer takes a ticket before it asks, and the end of the transaction makes it void (KIP-890's first part). Without
/// it a write that was held up could land behind the marker, and its transaction would hang for ever.
struct TransactionTickets: Equatable, Sendable {
    private struct Entry: Equatable {
        var ticket: UInt64
        var holders: Int
    }

    private var last: UInt64 = 0
    private var byProducer: [Int64: Entry] = [:]

    /// A ticket for a write of `producer`; writes that are under way at the same time share it.
    mutating func issue(to producer: Int64) -> UInt64 {
        if byProducer[producer] == nil {
            last += 1
            byProducer[producer] = Entry(ticket: last, holders: 0)
        }
        byProducer[producer]!.holders += 1
        return byProducer[producer]!.ticket
    }

    /// Gives a ticket back; tells whether no end of a transaction came in between.
    @discardableResult
    mutating func giveBack(_ ticket: UInt64, of producer: Int64) -> Bool {
        guard let entry = byProducer[producer], entry.ticket == ticket else { return false }
        byProducer[producer] = entry.holders == 1 ? nil : Entry(ticket: ticket, holders: entry.holders - 1)
        return true
    }

    /// The producer's transaction ends.
    mutating func void(of producer: Int64) { byProducer[producer] = nil }
}
