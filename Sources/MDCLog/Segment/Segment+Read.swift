// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

extension Segment {
    /// A run of whole batches.
    struct Run {
        var file: any StorageFile
        var position: Int
        var length: Int
        var firstOffset: Offset
        var nextOffset: Offset
    }

    /// Where a batch is.
    struct Location: Sendable {
        var position: Int
        var baseOffset: Offset
    }

    /// Finds the first batch whose last offset is at least `offset`; nil where all are before it.
    func locate(_ offset: Offset) throws(LogError) -> Location? {
        let found = state.withLock { state -> (location: Location?, isKnown: Bool) in
            state.isInUse = true
            if offset >= state.nextOffset { return (nil, true) }
            if let entry = state.recent.batch(holding: offset) {
                return (Location(position: entry.position, baseOffset: entry.baseOffset), true)
            }
            if let cursor = state.cursors.first(where: { $0.baseOffset == offset }) {
                return (Location(position: cursor.position, baseOffset: offset), true)
            }
            return (nil, false)
        }
        if found.isKnown { return found.location }
        try loadIndexes()
        let (start, size) = state.withLock { ($0.offsetIndex?.floor(of: offset) ?? 0, $0.size) }
        do {
            if let location = try walk(to: offset, from: start, size: size) { return location }
        } catch  where error.code == .damaged && start > 0 {}
        if start == 0 { return nil }
        // What stands where the index points contradicts it: the log is right, the index is not.
        try rebuildIndexes()
        return try walk(to: offset, from: 0, size: size)
    }

    private func walk(to offset: Offset, from start: Int, size: Int) throws(LogError) -> Location? {
        var walker = HeaderWalker(file: try file(), from: start, to: size)
        var isFirst = true
        while let (position, header) = try walker.next() {
            if isFirst && start > 0 && (header.baseOffset > offset || header.baseOffset < baseOffset) {
                throw LogError(.damaged, "\(path(FileName.offsetIndex)) points to the wrong batch")
            }
            isFirst = false
            if header.lastOffset >= offset { return Location(position: position, baseOffset: header.baseOffset) }
        }
        return nil
    }

    /// Finds the batches from the one that holds `offset` on: whole ones, below `limit`, at most `maxBytes` unless
    /// `minOneBatch` and the first alone is larger. Nil where the segment has nothing at or after `offset`.
    func read(from offset: Offset, maxBytes: Int, minOneBatch: Bool, limit: Offset) throws(LogError) -> Run? {
        guard let start = try locate(offset) else { return nil }
        let file = try file()
        let empty = Run(file: file, position: 0, length: 0, firstOffset: start.baseOffset, nextOffset: offset)
        if start.baseOffset >= limit { return empty }
        var (end, nextOffset) = state.withLock { ($0.size, $0.nextOffset) }
        if limit < nextOffset, let last = try locate(limit) {
            (end, nextOffset) = (last.position, last.baseOffset)
            if end <= start.position { return empty }
        }
        if end - start.position > maxBytes {
            let cut = try boundary(
                from: start,
                notAfter: start.position + max(maxBytes, 0),
                end: end,
                minOneBatch: minOneBatch
            )
            guard let cut else { return empty }
            (end, nextOffset) = (cut.position, cut.baseOffset)
        }
        rememberEnd(Location(position: end, baseOffset: nextOffset))
        return Run(
            file: file,
            position: start.position,
            length: end - start.position,
            firstOffset: start.baseOffset,
            nextOffset: nextOffset
        )
    }

    /// The last batch boundary after `start` and not after `target`; the end of the first batch where it alone is
    /// larger and `minOneBatch` asks for it.
    private func boundary(
        from start: Location,
        notAfter target: Int,
        end: Int,
        minOneBatch: Bool
    ) throws(LogError) -> Location? {
        let (recent, indexed) = state.withLock { state -> (Location?, Int) in
            let entry = state.recent.batch(atOrBefore: target)
            return (
                entry.map { Location(position: $0.position, baseOffset: $0.baseOffset) },
                state.offsetIndex?.boundary(atOrBefore: target) ?? 0
            )
        }
        if let recent, recent.position > start.position { return recent }
        do {
            return try boundary(from: start, notAfter: target, end: end, walkingFrom: indexed, minOneBatch: minOneBatch)
        } catch  where error.code == .damaged && indexed > start.position {}
        // What stands where the index points is no batch that follows: the log is right, the index is not.
        try rebuildIndexes()
        return try boundary(
            from: start,
            notAfter: target,
            end: end,
            walkingFrom: start.position,
            minOneBatch: minOneBatch
        )
    }

    private func boundary(
        from start: Location,
        notAfter target: Int,
        end: Int,
        walkingFrom indexed: Int,
        minOneBatch: Bool
    ) throws(LogError) -> Location? {
        let file = try file()
        // An index entry is a batch boundary, but its batch's base offset is known only from the header.
        var walker = HeaderWalker(file: file, from: max(indexed, start.position), to: end)
        var last: Location?
        while let (position, header) = try walker.next() {
            if last == nil, position > start.position, header.baseOffset <= start.baseOffset {
                throw LogError(.damaged, "\(path(FileName.offsetIndex)) points to the wrong batch")
            }
            if position > start.position {
                if position <= target {
                    last = Location(position: position, baseOffset: header.baseOffset)
                } else {
                    return last ?? (minOneBatch ? Location(position: position, baseOffset: header.baseOffset) : nil)
                }
            } else if position + header.sizeInBytes > target, position + header.sizeInBytes >= end {
                // The first batch is also the last, and too large.
                return minOneBatch ? Location(position: end, baseOffset: header.nextOffset) : nil
            }
        }
        return last
    }

    private func rememberEnd(_ end: Location) {
        state.withLock { state in
            guard end.position < state.size else { return }
            let entry = RecentBatches.Entry(
                baseOffset: end.baseOffset,
                nextOffset: end.baseOffset,
                position: end.position
            )
            if state.cursors.count < 4 {
                state.cursors.append(entry)
            } else {
                state.cursors[state.nextCursor] = entry
                state.nextCursor = (state.nextCursor + 1) & 3
            }
        }
    }

    /// Reads the batch at `position` whole.
    func batch(at position: Int, header: RecordBatchHeader) throws(LogError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: header.sizeInBytes)
        let file = try file()
        let count: Int
        do throws(FileSystemError) {
            count = try file.readFully(into: &bytes, at: position)
        } catch {
            throw LogError(error, while: "reading a batch")
        }
        guard count == bytes.count else {
            throw LogError(.damaged, "\(path(FileName.log)) at byte \(position): the file ends within a batch")
        }
        return bytes
    }
}
