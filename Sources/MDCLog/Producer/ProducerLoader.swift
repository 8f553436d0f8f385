// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Makes the producers' state of a log from its newest sound snapshot and the batches after it.
struct ProducerLoader {
    let path: String
    let fileSystem: any FileSystem
    let segments: [Segment]
    let now: Timestamp

    struct Loaded {
        var table: ProducerTable
        /// The newest sound snapshot, which the state was made from; nil where there was none.
        var snapshotOffset: Offset?
        /// Snapshots that were there but unusable.
        var damaged: [String] = []
        /// Parts of the log that could not be replayed.
        var holes: [LogHole] = []
    }

    /// The state as of `end`. `mayAssumeNone`: where there is no snapshot at all, there were no producers (a log that was
    /// closed in order has a snapshot if it had any).
    func load(upTo end: Offset, mayAssumeNone: Bool, replays: Bool = true) throws(LogError) -> Loaded {
        var loaded = Loaded(table: ProducerTable())
        // Also what is before the log's start counts, where its segment is still there: a snapshot at the first segment's
        // base has what was before.
        var from = segments[0].baseOffset
        // An older one is left over from what was removed: what came between is not in the log.
        let offsets = try snapshotOffsets().filter { $0 >= from && $0 <= end }
        for offset in offsets.sorted(by: >) {
            let name = "\(path)/\(FileName.digits(offset))\(FileName.producerSnapshot)"
            if let table = try read(name) {
                loaded.table = table
                loaded.snapshotOffset = offset
                from = offset
                break
            }
            loaded.damaged.append(name)
        }
        if loaded.snapshotOffset == nil, offsets.isEmpty, mayAssumeNone { return loaded }
        if replays { loaded.holes = try replay(into: &loaded.table, from: from, to: end).holes }
        return loaded
    }

    /// The newest sound snapshot of a range of offsets, as it is.
    func newestSnapshot(
        after start: Offset,
        upTo end: Offset
    ) throws(LogError) -> (offset: Offset, table: ProducerTable)? {
        for offset in try snapshotOffsets().filter({ $0 > start && $0 <= end }).sorted(by: >) {
            let name = "\(path)/\(FileName.digits(offset))\(FileName.producerSnapshot)"
            if let table = try read(name) { return (offset, table) }
        }
        return nil
    }

    private func snapshotOffsets() throws(LogError) -> [Offset] {
        do throws(FileSystemError) {
            return try fileSystem.list(path)
                .compactMap { FileName.offset(in: $0.name, suffix: FileName.producerSnapshot) }
        } catch {
            throw LogError(error, while: "looking for producer snapshots")
        }
    }

    private func read(_ name: String) throws(LogError) -> ProducerTable? {
        do throws(FileSystemError) {
            return try fileSystem.readSmallFile(name).flatMap { ProducerSnapshot.decode($0, now: now) }
        } catch {
            throw LogError(error, while: "reading a producer snapshot")
        }
    }

    /// Replays the batches of a range of offsets; returns the transactions that were aborted in it, and where segments
    /// could not be read to their end.
    func replay(
        into table: inout ProducerTable,
        from start: Offset,
        to end: Offset
    ) throws(LogError) -> (aborted: [AbortedTransaction], holes: [LogHole]) {
        var aborted: [AbortedTransaction] = []
        var holes: [LogHole] = []
        for segment in segments where segment.nextOffset > start && segment.baseOffset < end && segment.size > 0 {
            var reached = (position: 0, offset: segment.baseOffset)
            do throws(LogError) {
                guard let location = try segment.locate(max(start, segment.baseOffset)) else { continue }
                reached = (location.position, location.baseOffset)
                var walker = HeaderWalker(
                    file: try segment.file(),
                    from: location.position,
                    to: segment.size,
                    window: 64 << 10
                )
                while let (position, header) = try walker.next(), header.baseOffset < end {
                    reached = (position, header.baseOffset)
                    guard header.isIdempotent, header.lastOffset >= start else { continue }
                    var marker: TransactionMarker?
                    if header.attributes.isControl {
                        let bytes = try segment.batch(at: position, header: header)
                        marker = bytes.withUnsafeBytes { TransactionMarker(controlBatch: $0) }
                    }
                    if let ended = table.replay(header, marker: marker, now: now), ended.isAborted {
                        aborted.append(AbortedTransaction(ended, stable: table.lastStableOffset(after: ended)))
                    }
                    reached = (position + header.sizeInBytes, header.nextOffset)
                }
            } catch  where error.code == .damaged {
                let hole = try LogHole(in: segment, after: reached, reason: error.message)
                // All records that were asked for are before it: what follows is reserved space that was not given back.
                if hole.offset < min(end, segment.nextOffset) { holes.append(hole) }
            }
        }
        return (aborted, holes)
    }
}

/// Where a segment could not be read on.
struct LogHole {
    let segment: Segment
    var position: Int
    var offset: Offset
    let reason: String

    /// Finds the first batch header that is none; where all are sound, the hole is at `reached`.
    init(
        in segment: Segment,
        after reached: (position: Int, offset: Offset),
        reason: String
    ) throws(LogError) {
        self.segment = segment
        self.reason = reason
        (position, offset) = (0, segment.baseOffset)
        var walker = HeaderWalker(file: try segment.file(), from: 0, to: segment.size, window: 64 << 10)
        do throws(LogError) {
            while let (at, header) = try walker.next() {
                (position, offset) = (at + header.sizeInBytes, header.nextOffset)
            }
            (position, offset) = reached
        } catch  where error.code == .damaged {}
    }
}

extension AbortedTransaction {
    init(_ ended: CompletedTransaction, stable: Offset) {
        self.init(
            producerID: ended.producerID,
            firstOffset: ended.firstOffset,
            lastOffset: ended.lastOffset,
            lastStableOffset: stable
        )
    }
}
