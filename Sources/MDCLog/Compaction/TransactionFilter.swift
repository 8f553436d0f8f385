// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Follows transactions through a walk over batches, to tell aborted data from committed, and markers that are still
/// needed from those that are not. One filter serves a whole walk: a transaction may span segments.
struct TransactionFilter {
    private struct Ongoing {
        var entry: AbortedTransaction
        var hasData = false
    }

    /// In the order of their first offsets; those before `next` have been entered.
    private let aborted: [AbortedTransaction]
    private var next = 0
    private var ongoing: [ProducerID: Ongoing] = [:]
    /// Producers with a committed transaction of which data was seen.
    private var committed: Set<ProducerID> = []
    /// Aborted transactions whose data has been seen, and whose markers have been.
    private(set) var kept: [AbortedTransaction] = []

    init(aborted: [AbortedTransaction]) {
        self.aborted = aborted.sorted { $0.firstOffset < $1.firstOffset }
    }

    private mutating func enter(upTo offset: Offset) {
        while next < aborted.count, aborted[next].firstOffset <= offset {
            ongoing[aborted[next].producerID] = Ongoing(entry: aborted[next])
            next += 1
        }
    }

    /// Tells whether a data batch belongs to an aborted transaction.
    mutating func isAborted(_ header: RecordBatchHeader) -> Bool {
        enter(upTo: header.lastOffset)
        guard header.attributes.isTransactional else { return false }
        if ongoing[header.producerID] != nil {
            ongoing[header.producerID]?.hasData = true
            return true
        }
        committed.insert(header.producerID)
        return false
    }

    /// Tells whether a marker has no data left before it, so that it may go once its time has come.
    mutating func isMarkerOfNothing(_ header: RecordBatchHeader, _ marker: TransactionMarker?) -> Bool {
        enter(upTo: header.lastOffset)
        // An empty control batch was cleaned before; control records of other kinds are never dropped.
        guard let marker else { return header.recordCount == 0 }
        if marker.isCommit { return committed.remove(header.producerID) == nil }
        guard let transaction = ongoing.removeValue(forKey: header.producerID), transaction.hasData else { return true }
        kept.append(transaction.entry)
        return false
    }
}
