// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Synchronization

/// Compacts one log: of records with the same key only the last is kept. Source: KIP-534, KIP-98.
///
/// First the keys of the uncompacted part are entered in a table; then the segments from the log's start to there are
/// copied without the records that the table shows to be superseded, a group of small segments into one; each copy takes
/// the place of its group in one atomic step. An interrupted run leaves a log that is compacted up to some group.
struct Compactor {
    let log: PartitionLog
    let settings: LogSettings
    let now: Timestamp
    let memoryBytes: Int
    /// Asked between batches: true ends the run early.
    let shouldStop: () -> Bool

    /// What is to be compacted.
    struct Plan {
        /// All sealed segments up to `end`.
        var segments: [Segment]
        /// Where the uncompacted part begins.
        var dirtyStart: Offset
        /// Compaction stops here: the first undecided, unsynced, too young or active record.
        var end: Offset
        var isDue: Bool
    }

    // MARK: Planning

    /// Decides what can be compacted and whether it is due; nil where nothing can be.
    static func plan(_ log: PartitionLog, settings: LogSettings, now: Timestamp) throws(LogError) -> Plan? {
        let takesAll = log.environment.has(.compactsUndecided)
        let (segments, start, limit, cleaned, isDamaged) = log.published.withLock { state in
            // A marker that a crash could take back decides nothing yet.
            let decided = min(state.committed, state.synced)
            return (
                state.segments, state.logStart, takesAll ? decided : state.lastStable(below: decided),
                state.cleanedTo,
                !state.damage.isEmpty
            )
        }
        // Damaged bytes are left as they are.
        if isDamaged { return nil }
        let dirtyStart = min(max(cleaned, start), segments[segments.count - 1].baseOffset)
        var usable: [Segment] = []
        var end = dirtyStart
        var cleanBytes = 0
        var dirtyBytes = 0
        var oldest = Timestamp(Int64.max)
        for segment in segments.dropLast() {
            guard segment.nextOffset <= limit else { break }
            let isDirty = segment.nextOffset > dirtyStart
            if isDirty, segment.size > 0 {
                let newest = try segment.largestTimestamp().timestamp
                if settings.minCompactionLagMilliseconds > 0,
                    newest > now + -settings.minCompactionLagMilliseconds
                {
                    break
                }
                oldest = min(oldest, try segment.firstTimestamp())
            }
            usable.append(segment)
            if isDirty { dirtyBytes += segment.size } else { cleanBytes += segment.size }
            end = max(end, segment.nextOffset)
        }
        guard end > dirtyStart, dirtyBytes > 0 else { return nil }
        let ratio = Double(dirtyBytes) / Double(cleanBytes + dirtyBytes)
        let lag = settings.maxCompactionLagMilliseconds
        let isOverdue = lag != .max && oldest < now + -lag
        return Plan(
            segments: usable,
            dirtyStart: dirtyStart,
            end: end,
            isDue: ratio > settings.minCleanableDirtyRatio || isOverdue
                || (ratio == 1 && settings.minCleanableDirtyRatio == 1)
        )
    }

    // MARK: Running

    /// Compacts what the plan says; returns false where it was stopped or had to give way.
    func run(_ plan: Plan) throws(LogError) -> Bool {
        // An abort that a crash could take back decides nothing yet.
        let seesNone = log.environment.has(.compactsAborted)
        let aborted = log.published.withLock { state in
            let limit = min(state.committed, state.synced)
            return seesNone ? [] : state.aborted.filter { $0.lastOffset < limit }
        }
        guard let table = try buildTable(plan, aborted) else { return false }
        var filter = TransactionFilter(aborted: aborted)
        let lastRecords = log.lastRecordsOfProducers()
        let covered = plan.segments.filter { $0.baseOffset < table.end }
        for group in grouped(covered) {
            if shouldStop() { return false }
            let keptBefore = filter.kept.count
            var copy = try SegmentCopy(group: group, settings: settings, pace: log.environment.pace)
            for segment in group {
                guard try copyBatches(of: segment, into: &copy, table, &filter, lastRecords) else {
                    copy.discard()
                    return false
                }
            }
            let kept = Array(filter.kept[keptBefore...])
            if copy.isChanged || group.count > 1 {
                guard try log.swap(group, for: &copy, keptTransactions: kept) else { return false }
            } else {
                copy.discard()
            }
        }
        log.published.withLock { $0.cleanedTo = table.end }
        return true
    }

    /// The last offsets of the keys from the start of the uncompacted part, as far as memory reaches; nil where stopped.
    private func buildTable(_ plan: Plan, _ aborted: [AbortedTransaction]) throws(LogError) -> KeyTable? {
        var generator = SystemRandomNumberGenerator()
        var table = KeyTable(
            memoryBytes: memoryBytes,
            start: plan.dirtyStart,
            hasher: SipHash(using: &generator)
        )
        var filter = TransactionFilter(aborted: aborted.filter { $0.lastOffset >= plan.dirtyStart })
        var scratch = ByteBuffer()
        for segment in plan.segments where segment.nextOffset > plan.dirtyStart {
            var isFull = false
            var scanner = BatchScanner(
                file: try segment.file(),
                from: 0,
                to: segment.size,
                nextOffset: segment.baseOffset
            )
            let end = try scanner.scan { header, _, bytes throws(LogError) in
                if shouldStop() { return false }
                if header.attributes.isControl {
                    _ = filter.isMarkerOfNothing(header, TransactionMarker(controlBatch: bytes))
                } else if !filter.isAborted(header), header.lastOffset >= plan.dirtyStart {
                    try RecordWalk.forEach(in: bytes, header: header, scratch: &scratch) { record throws(LogError) in
                        guard let key = record.key, record.offset(in: header) >= plan.dirtyStart else { return true }
                        isFull = !table.insert(key, at: record.offset(in: header))
                        return !isFull
                    }
                }
                if isFull { return false }
                table.end = max(table.end, header.nextOffset)
                return true
            }
            if case .invalid(let reason) = end { throw damage(segment, scanner.position, reason) }
            if shouldStop() { return nil }
            if isFull { return table.end > plan.dirtyStart ? table : nil }
            table.end = segment.nextOffset
        }
        return table
    }

    private func damage(_ segment: Segment, _ position: Int, _ reason: String) -> LogError {
        log.report(damageOf: segment, at: position, reason: reason)
        return LogError(
            .damaged,
            "\(segment.path(FileName.log)) at byte \(position): \(reason); the log is not compacted"
        )
    }

    /// Neighbouring segments that fit into one.
    private func grouped(_ segments: [Segment]) -> [[Segment]] {
        var groups: [[Segment]] = []
        var size = 0
        for segment in segments {
            if let first = groups.last?.first, size + segment.size <= settings.segmentBytes,
                segment.nextOffset - first.baseOffset <= Int64(Int32.max)
            {
                groups[groups.count - 1].append(segment)
                size += segment.size
            } else {
                groups.append([segment])
                size = segment.size
            }
        }
        return groups
    }

    // MARK: Copying

    private func copyBatches(
        of segment: Segment,
        into copy: inout SegmentCopy,
        _ table: KeyTable,
        _ filter: inout TransactionFilter,
        _ lastRecords: [ProducerID: LastRecord]
    ) throws(LogError) -> Bool {
        var scratch = ByteBuffer()
        var scanner = BatchScanner(
            file: try segment.file(),
            from: 0,
            to: segment.size,
            nextOffset: segment.baseOffset
        )
        var isStopped = false
        let end = try scanner.scan { header, _, bytes throws(LogError) in
            if shouldStop() {
                isStopped = true
                return false
            }
            try copyBatch(header, bytes, into: &copy, table, &filter, lastRecords, &scratch)
            return true
        }
        if case .invalid(let reason) = end { throw damage(segment, scanner.position, reason) }
        return !isStopped
    }

    private func copyBatch(
        _ header: RecordBatchHeader,
        _ bytes: UnsafeRawBufferPointer,
        into copy: inout SegmentCopy,
        _ table: KeyTable,
        _ filter: inout TransactionFilter,
        _ lastRecords: [ProducerID: LastRecord],
        _ scratch: inout ByteBuffer
    ) throws(LogError) {
        let horizon: Timestamp? = header.attributes.hasDeleteHorizon ? header.baseTimestamp : nil
        let isPast = horizon.map { $0 <= now } ?? false
        let isLast = header.isIdempotent && (lastRecords[header.producerID]?.isIn(header) ?? false)
        if header.attributes.isControl {
            let marker = TransactionMarker(controlBatch: bytes)
            let isOfNothing = filter.isMarkerOfNothing(header, marker)
            if isOfNothing && isPast {
                if isLast { try copy.appendEmpty(header) } else { copy.drop() }
            } else if isOfNothing && horizon == nil && header.recordCount > 0 {
                // The marker's time starts to run when its last data is gone.
                try copy.rebuild(header, bytes, horizon: newHorizon, scratch: &scratch) { _ in true }
            } else {
                try copy.appendUnchanged(header, bytes)
            }
            return
        }
        if filter.isAborted(header) {
            if isLast { try copy.appendEmpty(header) } else { copy.drop() }
            return
        }
        var hasTombstone = false
        var kept = 0
        try RecordWalk.forEach(in: bytes, header: header, scratch: &scratch) { record throws(LogError) in
            if keeps(record, header, table, isPast: isPast) {
                kept += 1
                if record.value == nil { hasTombstone = true }
            }
            return true
        }
        if kept == 0 {
            if isLast { try copy.appendEmpty(header) } else { copy.drop() }
        } else if kept == Int(header.recordCount), !(hasTombstone && horizon == nil) {
            try copy.appendUnchanged(header, bytes)
        } else {
            let newHorizon = horizon ?? (hasTombstone ? self.newHorizon : nil)
            try copy.rebuild(header, bytes, horizon: newHorizon, scratch: &scratch) { record in
                keeps(record, header, table, isPast: isPast)
            }
        }
    }

    private var newHorizon: Timestamp { now + settings.deleteRetentionMilliseconds }

    /// Whether a record is the last of its key, and no tombstone whose time is over.
    private func keeps(
        _ record: RecordView,
        _ header: RecordBatchHeader,
        _ table: KeyTable,
        isPast: Bool
    ) -> Bool {
        let offset = record.offset(in: header)
        if offset >= table.end { return true }
        // Records without a key cannot be told apart; a compacted topic accepts none.
        guard let key = record.key else { return false }
        if let last = table.lastOffset(of: key), offset < last { return false }
        return record.value != nil || !isPast
    }
}

/// A producer's last batch, which compaction keeps, if only its header, so that the producer's state survives: the last one
/// that is on disk, for a crash may take back those after it.
struct LastRecord: Sendable {
    var lastOffset: Offset?
    var epoch: Int16
    /// Where the last one on disk is not known, all of the producer's batches are kept.
    var keepsAll: Bool

    init(_ entry: ProducerEntry, synced: Offset, end: Offset) {
        lastOffset = entry.batches.last { $0.lastOffset < synced }?.lastOffset
        epoch = entry.epoch
        keepsAll = lastOffset == nil && (synced < end || !entry.batches.isEmpty)
    }

    func isIn(_ header: RecordBatchHeader) -> Bool {
        if keepsAll { return true }
        if let lastOffset { return header.lastOffset == lastOffset }
        return header.attributes.isControl && header.producerEpoch == epoch
    }
}

extension PartitionLog {
    func lastRecordsOfProducers() -> [ProducerID: LastRecord] {
        appender.withLock { appender in
            let (synced, end) = published.withLock { ($0.synced, $0.end) }
            return appender.producers.entries.mapValues { LastRecord($0, synced: synced, end: end) }
        }
    }
}

extension Segment {
    /// The largest timestamp of the segment's first batch; `.none` where it is empty.
    func firstTimestamp() throws(LogError) -> Timestamp {
        if let known = state.withLock({ $0.firstTimestamp }) { return known }
        var walker = HeaderWalker(file: try file(), from: 0, to: size, window: 64)
        let first = try walker.next()?.header.maxTimestamp ?? .none
        state.withLock { $0.firstTimestamp = first }
        return first
    }
}
