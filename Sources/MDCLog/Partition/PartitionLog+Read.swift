// SPDX-License-Identifier: Apache-2.0

public import MDCModel
import Synchronization

extension PartitionLog {
    /// Finds whole batches from the one that holds `offset` on, without reading their records.
    ///
    /// - Parameters:
    ///   - offset: Where to begin; the first batch may begin before it.
    ///   - maxBytes: At most so many bytes of batches …
    ///   - minOneBatch: … except that the first batch is returned whole however large it is (Fetch's rule).
    ///   - limit: Batches at or after it are not returned: the high watermark, or the last stable offset.
    /// - Throws: `.offsetOutOfRange` where `offset` is before the log's start or after its end; `.damaged` where the
    ///   bytes cannot be vouched for.
    public func read(
        from offset: Offset,
        maxBytes: Int,
        minOneBatch: Bool,
        upTo limit: Offset
    ) throws(LogError) -> LogRead {
        var attempts = 0
        while true {
            do throws(LogError) {
                return try findBatches(from: offset, maxBytes: maxBytes, minOneBatch: minOneBatch, upTo: limit)
            } catch {
                // A segment was replaced or removed under the read; its successor has what was asked for.
                attempts += 1
                guard error.code == .closed, offlineReason?.code != .closed, attempts < 1000 else { throw error }
            }
        }
    }

    private func findBatches(
        from offset: Offset,
        maxBytes: Int,
        minOneBatch: Bool,
        upTo limit: Offset
    ) throws(LogError) -> LogRead {
        let (logStart, end, segments, first, damage) = published.withLock { state in
            (state.logStart, state.end, state.segments, state.segmentIndex(for: offset), state.damage)
        }
        guard offset >= logStart, offset <= end else {
            throw LogError(
                .offsetOutOfRange,
                "offset \(offset) of \(topicPartition) is outside of \(logStart) to \(end)"
            )
        }
        let empty = LogRead(firstOffset: nil, slices: [], nextOffset: offset)
        var limit = min(limit, end)
        if offset >= limit { return empty }
        for report in damage where offset < report.nextOffset ?? Offset(Int64.max) {
            guard offset < report.firstOffset else {
                throw LogError(.damaged, "offset \(offset) of \(topicPartition) is damaged: \(report)")
            }
            limit = min(limit, report.firstOffset)
        }
        for segment in segments[first...] {
            if segment.baseOffset >= limit { break }
            let run: Segment.Run?
            do {
                run = try segment.read(from: offset, maxBytes: maxBytes, minOneBatch: minOneBatch, limit: limit)
            } catch {
                throw explain(error, offset)
            }
            guard let run else { continue }
            if run.length == 0 { return empty }
            return LogRead(
                firstOffset: run.firstOffset,
                slices: [FileSlice(file: run.file, position: run.position, length: run.length)],
                nextOffset: run.nextOffset
            )
        }
        return empty
    }

    /// A segment that was removed under a reader is no damage.
    private func explain(_ error: LogError, _ offset: Offset) -> LogError {
        let (logStart, offline) = published.withLock { ($0.logStart, $0.offline) }
        if offset < logStart {
            return LogError(.offsetOutOfRange, "offset \(offset) of \(topicPartition) is before \(logStart)")
        }
        if let offline, offline.code == .closed { return offline }
        return error
    }

    // MARK: ListOffsets

    /// Looks up an offset by position or by time, with the meanings of ListOffsets. Reads from the disk for
    /// `.timestamp` and `.maxTimestamp`. Nil where no record is that new (or, for `.maxTimestamp`, none is there).
    public func offset(for lookup: OffsetLookup) throws(LogError) -> OffsetAndTimestamp? {
        switch lookup {
        case .earliest, .earliestLocal:
            return published.withLock {
                OffsetAndTimestamp(offset: $0.logStart, timestamp: .none, leaderEpoch: $0.epochs.epoch(at: $0.logStart))
            }
        case .latest:
            return published.withLock {
                OffsetAndTimestamp(offset: $0.end, timestamp: .none, leaderEpoch: $0.epochs.latest)
            }
        case .timestamp(let timestamp): return try firstRecord(from: timestamp)
        case .maxTimestamp: return try newestRecord()
        }
    }

    private func firstRecord(from timestamp: Timestamp) throws(LogError) -> OffsetAndTimestamp? {
        let (logStart, segments) = published.withLock { ($0.logStart, $0.segments) }
        for segment in segments where segment.size > 0 && segment.nextOffset > logStart {
            guard try segment.largestTimestamp().timestamp >= timestamp else { continue }
            if let found = try search(segment, from: logStart, where: { $0 >= timestamp }) { return found }
        }
        return nil
    }

    private func newestRecord() throws(LogError) -> OffsetAndTimestamp? {
        let (logStart, segments) = published.withLock { ($0.logStart, $0.segments) }
        var newest: (timestamp: Timestamp, segment: Segment)?
        for segment in segments where segment.size > 0 && segment.nextOffset > logStart {
            let timestamp = try segment.largestTimestamp().timestamp
            if timestamp > newest?.timestamp ?? .none { newest = (timestamp, segment) }
        }
        guard let newest else { return nil }
        if let found = try search(newest.segment, from: logStart, where: { $0 == newest.timestamp }) { return found }
        return try newestByWalk(segments, from: logStart)
    }

    /// The newest record where what the indexes know of is before the log's start, or was compacted away.
    private func newestByWalk(_ segments: [Segment], from start: Offset) throws(LogError) -> OffsetAndTimestamp? {
        var newest: OffsetAndTimestamp?
        for segment in segments where segment.size > 0 && segment.nextOffset > start {
            let file = try segment.file()
            var walker = HeaderWalker(file: file, from: 0, to: segment.size, window: 64 << 10)
            while let (position, header) = try walker.next() {
                guard header.lastOffset >= start, header.recordCount > 0,
                    header.maxTimestamp > newest?.timestamp ?? .none
                else { continue }
                let bytes = try segment.batch(at: position, header: header)
                try RecordWalk.forEach(in: bytes, header: header) { record throws(LogError) in
                    let timestamp = record.timestamp(in: header)
                    if record.offset(in: header) >= start, timestamp > newest?.timestamp ?? .none {
                        newest = OffsetAndTimestamp(
                            offset: record.offset(in: header),
                            timestamp: timestamp,
                            leaderEpoch: header.partitionLeaderEpoch
                        )
                    }
                    return true
                }
            }
        }
        return newest
    }

    /// The first record of a segment, from `start` on, whose timestamp satisfies `matches`, which no record before the
    /// time index's entry for it does.
    private func search(
        _ segment: Segment,
        from start: Offset,
        where matches: (Timestamp) -> Bool
    ) throws(LogError) -> OffsetAndTimestamp? {
        try segment.loadIndexes()
        let (from, size) = segment.state.withLock { state -> (Int, Int) in
            // The last entry whose timestamp does not match: all records up to it are older.
            let times = state.timeIndex
            let count = times?.entries.partitionPoint { matches($0.timestamp) } ?? 0
            let before = count == 0 ? segment.baseOffset : times!.entries[count - 1].offset(from: segment.baseOffset)
            return (state.offsetIndex?.floor(of: max(before, start)) ?? 0, state.size)
        }
        let file = try segment.file()
        var walker = HeaderWalker(file: file, from: from, to: size)
        while let (position, header) = try walker.next() {
            guard header.lastOffset >= start, matches(header.maxTimestamp) else { continue }
            let bytes = try segment.batch(at: position, header: header)
            var found: OffsetAndTimestamp?
            try RecordWalk.forEach(in: bytes, header: header) { record throws(LogError) in
                let timestamp = record.timestamp(in: header)
                guard record.offset(in: header) >= start, matches(timestamp) else { return true }
                found = OffsetAndTimestamp(
                    offset: record.offset(in: header),
                    timestamp: timestamp,
                    leaderEpoch: header.partitionLeaderEpoch
                )
                return false
            }
            if let found { return found }
        }
        return nil
    }
}

extension TimeIndex.Entry {
    func offset(from base: Offset) -> Offset { base + Int64(relativeOffset) }
}
