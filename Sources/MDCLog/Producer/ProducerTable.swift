// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What is remembered of one of a producer's last batches.
struct ProducerBatch: Sendable, Equatable {
    var firstSequence: Int32
    var lastSequence: Int32
    var lastOffset: Offset
    var offsetDelta: Int32
    var timestamp: Timestamp
    var firstOffset: Offset { lastOffset - Int64(offsetDelta) }
}

/// What a partition knows of one idempotent producer. Source: KIP-98, KIP-360.
struct ProducerEntry: Sendable, Equatable {
    /// The producer's epoch; -1 where nothing is known of it.
    var epoch: Int16 = -1
    /// The last batches, at most five, oldest first; all of the current epoch.
    var batches: [ProducerBatch] = []
    var lastTimestamp: Timestamp = .none
    var coordinatorEpoch: Int32 = -1
    /// First offset of the open transaction.
    var currentTransactionFirstOffset: Offset?
    /// Batches before this offset are not looked at for duplicates: they belong to a transaction that was aborted, and
    /// a producer may use their sequence numbers again.
    var duplicatesFrom: Offset = 0
    /// When the entry was last used, by this node's clock.
    var lastUsed: Timestamp = .none

    var lastSequence: Int32 { batches.last?.lastSequence ?? -1 }
}

/// A transaction that a marker has ended.
struct CompletedTransaction: Sendable, Equatable {
    var producerID: ProducerID
    var firstOffset: Offset
    /// Offset of the marker.
    var lastOffset: Offset
    var isAborted: Bool
}

/// The idempotent and transactional producers of a partition. A pure state machine: batches go in, verdicts and
/// completed transactions come out.
struct ProducerTable: Sendable, Equatable {
    /// Batches remembered per producer: the client's limit of requests in flight.
    static let batchesKept = 5

    /// What is to be done with a batch.
    enum Verdict: Equatable {
        case append
        case duplicate(ProducerBatch)
    }

    private(set) var entries: [ProducerID: ProducerEntry] = [:]
    /// The open transactions in the order of their first offsets.
    private(set) var open: [(firstOffset: Offset, producerID: ProducerID)] = []

    static func == (left: ProducerTable, right: ProducerTable) -> Bool {
        left.entries == right.entries && left.open.elementsEqual(right.open) { $0 == $1 }
    }

    var isEmpty: Bool { entries.isEmpty }
    subscript(id: ProducerID) -> ProducerEntry? { entries[id] }
    /// First offset of the earliest open transaction.
    var firstOpenOffset: Offset? { open.first?.firstOffset }

    // MARK: Judging

    /// Judges a data batch of an idempotent producer.
    func check(_ header: RecordBatchHeader, origin: AppendOrigin) throws(LogError) -> Verdict {
        guard let entry = entries[header.producerID] else { return .append }
        if origin == .replica { return .append }
        if header.producerEpoch == entry.epoch, let batch = duplicate(of: header, in: entry) {
            return .duplicate(batch)
        }
        if header.producerEpoch < entry.epoch {
            throw LogError(
                .invalidProducerEpoch,
                "producer \(header.producerID) has epoch \(header.producerEpoch), but epoch \(entry.epoch) has written already; a newer instance has taken over"
            )
        }
        if origin == .client { try checkSequence(header, entry) }
        if entry.currentTransactionFirstOffset != nil && !header.attributes.isTransactional {
            throw LogError(
                .invalidTransactionState,
                "producer \(header.producerID) has a transaction open, and sent a batch outside of it; end the transaction first"
            )
        }
        return .append
    }

    private func duplicate(of header: RecordBatchHeader, in entry: ProducerEntry) -> ProducerBatch? {
        guard header.baseSequence >= 0 else { return nil }
        return entry.batches.last {
            $0.firstSequence == header.baseSequence && $0.lastSequence == header.lastSequence
                && $0.firstOffset >= entry.duplicatesFrom
        }
    }

    private func checkSequence(_ header: RecordBatchHeader, _ entry: ProducerEntry) throws(LogError) {
        if header.producerEpoch != entry.epoch {
            // A new epoch starts at 0, unless nothing is known of the producer (KIP-360).
            if header.baseSequence == 0 || entry.epoch == -1 { return }
            throw LogError(
                .outOfOrderSequence,
                "producer \(header.producerID) began epoch \(header.producerEpoch) with sequence \(header.baseSequence) instead of 0"
            )
        }
        let last = entry.lastSequence
        let expected = last == Int32.max ? 0 : last + 1
        if header.baseSequence == expected { return }
        // Distances on the circle of sequence numbers: how far before the last one.
        let distance = (last &- header.baseSequence) & Int32.max
        if entry.duplicatesFrom == 0, let first = entry.batches.first, distance < 1 << 30,
            distance > (last &- first.firstSequence) & Int32.max
        {
            throw LogError(
                .duplicateSequence,
                "producer \(header.producerID) sent sequence \(header.baseSequence) again, which was appended longer ago than its last \(Self.batchesKept) batches"
            )
        }
        throw LogError(
            .outOfOrderSequence,
            "producer \(header.producerID) sent sequence \(header.baseSequence), but \(expected) was expected next"
        )
    }

    /// Judges a transaction marker.
    func checkMarker(
        producerID: ProducerID,
        producerEpoch: Int16,
        coordinatorEpoch: Int32,
        origin: AppendOrigin
    ) throws(LogError) {
        guard let entry = entries[producerID], origin != .replica else { return }
        if producerEpoch < entry.epoch {
            throw LogError(
                .invalidProducerEpoch,
                "a marker of producer \(producerID) has epoch \(producerEpoch), but epoch \(entry.epoch) has written already"
            )
        }
        if coordinatorEpoch < entry.coordinatorEpoch {
            throw LogError(
                .coordinatorFenced,
                "a marker of producer \(producerID) comes from coordinator epoch \(coordinatorEpoch), but epoch \(entry.coordinatorEpoch) has written already"
            )
        }
    }

    // MARK: Applying

    /// Takes note of a data batch with its final offsets.
    mutating func apply(_ header: RecordBatchHeader, now: Timestamp) {
        let isNew = entries[header.producerID] == nil
        var begins = false
        // One access to the dictionary, in place: the batches must not be copied.
        {
            (entry: inout ProducerEntry) in
            if entry.epoch != header.producerEpoch {
                entry.epoch = header.producerEpoch
                entry.batches.removeAll(keepingCapacity: true)
                entry.duplicatesFrom = 0
            }
            if isNew { entry.batches.reserveCapacity(Self.batchesKept) }
            if header.baseSequence >= 0 {
                if entry.batches.count == Self.batchesKept { entry.batches.removeFirst() }
                entry.batches.append(
                    ProducerBatch(
                        firstSequence: header.baseSequence,
                        lastSequence: header.lastSequence,
                        lastOffset: header.lastOffset,
                        offsetDelta: header.lastOffsetDelta,
                        timestamp: header.maxTimestamp
                    )
                )
            }
            entry.lastTimestamp = header.maxTimestamp
            entry.lastUsed = now
            if header.attributes.isTransactional, entry.currentTransactionFirstOffset == nil {
                entry.currentTransactionFirstOffset = header.baseOffset
                begins = true
            }
        }(&entries[header.producerID, default: ProducerEntry()])
        if begins { open.append((header.baseOffset, header.producerID)) }
    }

    /// Takes note of a transaction marker; returns the transaction that it ends, if one was open.
    mutating func applyMarker(
        producerID: ProducerID,
        producerEpoch: Int16,
        coordinatorEpoch: Int32,
        isCommit: Bool,
        offset: Offset,
        timestamp: Timestamp,
        now: Timestamp
    ) -> CompletedTransaction? {
        var entry = entries[producerID] ?? ProducerEntry()
        if entry.epoch != producerEpoch {
            entry.epoch = producerEpoch
            entry.batches.removeAll()
        }
        let first = entry.currentTransactionFirstOffset
        entry.currentTransactionFirstOffset = nil
        entry.coordinatorEpoch = coordinatorEpoch
        entry.lastTimestamp = timestamp
        entry.lastUsed = now
        if !isCommit, !PlantedLogBugs.abortsAreRemembered.isInForce { entry.duplicatesFrom = offset }
        entries[producerID] = entry
        guard let first else { return nil }
        open.removeAll { $0.producerID == producerID }
        return CompletedTransaction(
            producerID: producerID,
            firstOffset: first,
            lastOffset: offset,
            isAborted: !isCommit
        )
    }

    /// The last stable offset after a transaction has ended.
    func lastStableOffset(after completed: CompletedTransaction) -> Offset {
        open.first { $0.producerID != completed.producerID }?.firstOffset ?? completed.lastOffset + Int64(1)
    }

    // MARK: Upkeep

    /// Puts an entry back as it was before a failed append.
    mutating func restore(_ id: ProducerID, to entry: ProducerEntry?) {
        entries[id] = entry
        open.removeAll { $0.producerID == id }
        if let first = entry?.currentTransactionFirstOffset {
            open.insert((first, id), at: open.partitionPoint { $0.firstOffset > first })
        }
    }

    /// Puts in an entry from a snapshot.
    mutating func insert(_ id: ProducerID, _ entry: ProducerEntry) { restore(id, to: entry) }

    /// Forgets producers that have been idle since before `limit` and have no transaction open.
    mutating func expire(before limit: Timestamp) -> Int {
        let count = entries.count
        guard entries.contains(where: { $0.value.currentTransactionFirstOffset == nil && $0.value.lastUsed < limit })
        else { return 0 }
        entries = entries.filter { $0.value.currentTransactionFirstOffset != nil || $0.value.lastUsed >= limit }
        return count - entries.count
    }
}
