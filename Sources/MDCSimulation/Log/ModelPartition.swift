// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel

/// What a partition's log must be, naively: everything that was appended to it, in a list.
struct ModelPartition {
    /// A change of which a crash may have kept none, some or all.
    enum Doubt {
        case truncation(to: Int64)
        case reset(to: Int64)
    }

    let topicPartition: TopicPartition
    let topicID: TopicID
    let settings: LogSettings
    /// Where the list begins.
    var base: Int64 = 0
    /// All batches since then, also those before the log's start.
    var batches: [ModelBatch] = []
    var start: Int64 = 0
    /// A start that a crash does not take back.
    var durableStart: Int64 = 0
    /// An end that a crash does not take back: what was acknowledged, or said to be synced.
    var durable: Int64 = 0
    /// Compaction may have changed what is before.
    var compactedTo: Int64 = 0
    /// The end of the log that the last compaction saw.
    var decidedTo: Int64 = 0
    /// What was truncated away after compaction had seen it.
    var ghosts: [ModelBatch] = []
    var producers = ModelProducers([])
    /// As of `base`.
    var producersBefore = ModelProducers([])
    /// Whether the log alone knows which producers it still knows.
    var producersAreInDoubt = false
    /// Batches of appends that failed: parts of them may be in the file, until a sync has cut them off for good.
    var remains: [[ModelBatch]] = []
    var doubts: [Doubt] = []
    var creationIsInDoubt = false
    var deletionIsInDoubt = false

    init(_ topicPartition: TopicPartition, _ topicID: TopicID, _ settings: LogSettings) {
        self.topicPartition = topicPartition
        self.topicID = topicID
        self.settings = settings
    }

    var end: Int64 { batches.last?.next ?? base }

    mutating func append(_ new: [ModelBatch]) {
        batches.append(contentsOf: new)
        for batch in new { producers.add(batch) }
    }

    /// Forgets the batches that end after `end`.
    mutating func cut(to end: Int64) {
        guard self.end > end else { return }
        ghosts.append(contentsOf: batches.filter { $0.next > end && $0.base < compactedTo })
        batches.removeAll { $0.next > end }
        producers = ModelProducers(batches, after: producersBefore)
        durable = min(durable, end)
    }

    /// Where the log ends once it is truncated at `offset`.
    func end(truncatedTo offset: Int64) -> Int64 { batches.last { $0.last < offset }?.next ?? base }

    mutating func reset(to offset: Int64) {
        self = ModelPartition(topicPartition, topicID, settings)
        base = offset
        start = offset
        durableStart = offset
        durable = offset
    }

    /// The last stable offset where everything before `committed` is committed.
    func lastStable(_ committed: Int64) -> Int64 {
        var stable = committed
        if let first = producers.open.first?.first { stable = min(stable, first) }
        for transaction in producers.ended where transaction.last >= committed {
            stable = min(stable, transaction.first)
        }
        return stable
    }

    /// Takes over what is left of an append that failed where the log shows it; `found` is the batch at an offset.
    mutating func settleRemains(end newEnd: Int64, _ found: (Int64) -> [UInt8]?) {
        defer { remains = [] }
        for batches in remains.reversed() {
            guard let first = batches.first, first.base >= durable, first.base <= end, newEnd > first.base,
                found(first.base) == first.bytes
            else { continue }
            cut(to: first.base)
            append(batches.filter { $0.next <= newEnd })
            return
        }
    }

    /// Takes over what a reopened log says, if that is a legal outcome; else says why it is not.
    mutating func settle(start newStart: Int64, end newEnd: Int64) -> String? {
        let outcomes = doubts
        doubts = []
        for case .reset(let offset) in outcomes where newStart == offset && newEnd == offset {
            reset(to: offset)
            return nil
        }
        let isReset = outcomes.contains { if case .reset = $0 { true } else { false } }
        if isReset, newStart == newEnd, newEnd >= durableStart, newEnd <= start {
            // Everything is gone, and the new beginning not there yet.
            reset(to: newEnd)
            producersAreInDoubt = true
            return nil
        }
        var least = durable
        var leastStart = durableStart
        for outcome in outcomes {
            switch outcome {
            case .truncation(let offset): least = min(least, end(truncatedTo: offset))
            case .reset: (least, leastStart) = (min(least, durableStart), durableStart)
            }
        }
        guard newEnd >= least else { return "the log ends at \(newEnd), but \(least) was durable" }
        guard newEnd <= end else { return "the log ends at \(newEnd), but only \(end) was ever appended" }
        guard newEnd == base || newEnd == newStart || batches.contains(where: { $0.next == newEnd }) else {
            return "the log ends at \(newEnd), within a batch"
        }
        if newStart == newEnd, newEnd > durable, newStart >= leastStart, newStart <= start {
            // Records were deleted that had not reached the disk: the log begins anew after them.
            reset(to: newEnd)
            producersAreInDoubt = true
            return nil
        }
        guard newStart >= leastStart else { return "the log starts at \(newStart), but \(leastStart) was durable" }
        guard newStart <= start else { return "the log starts at \(newStart), but only \(start) was ever asked for" }
        // Of a log that was being emptied a part is left. Batches that compaction has dropped from it, because their producers
        // had written later ones, are gone with these.
        if isReset, newEnd < durable, compactedTo > newStart { producersAreInDoubt = true }
        cut(to: newEnd)
        start = newStart
        durableStart = newStart
        durable = end
        return nil
    }

    /// Why a record may be missing after compaction; nil where it must be there.
    func excuse(_ record: ModelRecord, of batch: ModelBatch, now: Int64) -> String? {
        if record.offset >= compactedTo { return nil }
        let isTransactional = batch.header.attributes.isTransactional
        if isTransactional, producers.isAborted(batch.header.producerID.rawValue, record.offset) {
            return "aborted"
        }
        if record.value == nil, batch.appendedAt + settings.deleteRetentionMilliseconds <= now { return "tombstone" }
        for later in batches + ghosts
        where later.last > record.offset && later.base < compactedTo && later.marker == nil {
            if later.header.attributes.isTransactional, later.base < end,
                producers.isAborted(later.header.producerID.rawValue, later.base)
            {
                continue
            }
            if later.records.contains(where: {
                $0.offset > record.offset && $0.offset < compactedTo && $0.key == record.key
            }) {
                return "superseded"
            }
        }
        return nil
    }
}
