// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Synchronization

/// The compacted copy of a group of segments, while it is written.
struct SegmentCopy {
    private static let reservation = 16 << 20

    let baseOffset: Offset
    /// Offset after the group: the copy stands for everything before it.
    let endOffset: Offset
    private let original: Segment
    private let originalSize: Int
    private let file: any StorageFile
    private let path: String
    private let pace: WritePace
    private var buffer = ByteBuffer()
    private var written = 0
    /// Bytes of space that the file has, and bytes that were written back.
    private var reserved = 0
    private var writtenBack = 0
    /// Size, indexes and timestamps, as an append would keep them.
    private(set) var state: Segment.State
    /// Whether any batch differs from the original.
    private(set) var isChanged = false
    private var checksums: ContiguousArray<UInt32> = []

    init(group: [Segment], settings: LogSettings, pace: WritePace) throws(LogError) {
        self.pace = pace
        original = group[0]
        baseOffset = group[0].baseOffset
        endOffset = group[group.count - 1].nextOffset
        originalSize = group.reduce(0) { $0 + $1.size }
        path = original.path(FileName.log) + FileName.cleaned
        state = Segment.State(
            size: 0,
            physicalSize: 0,
            syncedSize: 0,
            nextOffset: baseOffset,
            maxTimestamp: Timestamp.none,
            offsetOfMaxTimestamp: baseOffset,
            indexInterval: settings.indexIntervalBytes,
            isSealed: true
        )
        state.offsetIndex = OffsetIndex(baseOffset: baseOffset)
        state.timeIndex = TimeIndex(baseOffset: baseOffset)
        do throws(FileSystemError) {
            file = try original.fileSystem.open(path, [.write, .create])
            try file.truncate(to: 0)
        } catch {
            throw LogError(error, while: "beginning a compaction")
        }
    }

    /// Takes note that a batch is left out.
    mutating func drop() { isChanged = true }

    /// Copies a batch as it is.
    mutating func appendUnchanged(_ header: RecordBatchHeader, _ bytes: UnsafeRawBufferPointer) throws(LogError) {
        buffer.writeBytes(bytes)
        try didAppend(header)
    }

    /// Keeps the header of a batch whose records are all gone.
    mutating func appendEmpty(_ header: RecordBatchHeader) throws(LogError) {
        typealias Layout = RecordBatchHeader.Layout
        if header.recordCount > 0 { isChanged = true }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Layout.size)
        bytes.appendInteger(header.baseOffset.rawValue)
        bytes.appendInteger(Int32(Layout.size - Layout.logOverhead))
        bytes.appendInteger(header.partitionLeaderEpoch.rawValue)
        bytes.appendInteger(Int8(2))
        bytes.appendInteger(UInt32(0))
        // Timestamp type, transactional, control; no codec, no horizon.
        bytes.appendInteger(header.attributes.rawValue & 0x38)
        bytes.appendInteger(header.lastOffsetDelta)
        bytes.appendInteger(header.maxTimestamp.rawValue)
        bytes.appendInteger(header.maxTimestamp.rawValue)
        bytes.appendInteger(header.producerID.rawValue)
        bytes.appendInteger(header.producerEpoch)
        bytes.appendInteger(header.baseSequence)
        bytes.appendInteger(Int32(0))
        let crc = bytes.checksum(from: Layout.checksummedFrom)
        withUnsafeBytes(of: crc.bigEndian) { bytes.replaceSubrange(Layout.crc..<Layout.crc + 4, with: $0) }
        buffer.writeBytes(bytes)
        try didAppend(bytes.withUnsafeBytes { RecordBatchHeader(reading: $0) })
    }

    /// Writes a batch anew with the records that `keeps` wants, and a delete horizon if there is one.
    mutating func rebuild(
        _ header: RecordBatchHeader,
        _ bytes: UnsafeRawBufferPointer,
        horizon: Timestamp?,
        scratch: inout ByteBuffer,
        _ keeps: (RecordView) -> Bool
    ) throws(LogError) {
        isChanged = true
        var settings = RecordBatchBuilder.Settings(
            codec: CompressionCodec(rawValue: UInt8(header.attributes.compressionNumber)) ?? .none
        )
        settings.baseOffset = header.baseOffset
        settings.partitionLeaderEpoch = header.partitionLeaderEpoch
        settings.producerID = header.producerID
        settings.producerEpoch = header.producerEpoch
        settings.baseSequence = header.baseSequence
        settings.isTransactional = header.attributes.isTransactional
        settings.isControl = header.attributes.isControl
        settings.logAppendTime = header.attributes.isLogAppendTime ? header.maxTimestamp : nil
        settings.deleteHorizon = horizon
        var builder = RecordBatchBuilder(settings)
        try RecordWalk.forEach(in: bytes, header: header, scratch: &scratch) { record throws(LogError) in
            if keeps(record) {
                builder.append(record, baseTimestamp: header.baseTimestamp, offsetDelta: record.offsetDelta)
            }
            return true
        }
        builder.lastOffsetDelta = header.lastOffsetDelta
        let rebuilt: RecordBatchHeader
        do throws(CompressionError) {
            rebuilt = try builder.build(into: &buffer)
        } catch {
            throw LogError(.corruptBatch, "a compacted batch could not be compressed: \(error)")
        }
        try didAppend(rebuilt)
    }

    private mutating func didAppend(_ header: RecordBatchHeader) throws(LogError) {
        state.add(header)
        if buffer.readableBytes >= 1 << 20 { try flush() }
    }

    /// Writes what is gathered, into space that was reserved before, and has it written back bit by bit: a sync of a
    /// growing file, or of a whole segment at once, would hold up the syncs of the appends, for the journal is shared.
    private mutating func flush() throws(LogError) {
        let position = written
        do throws(FileSystemError) {
            if position + buffer.readableBytes > reserved {
                let target = max(position + buffer.readableBytes, min(reserved + Self.reservation, originalSize))
                do {
                    try file.allocate(at: reserved, count: target - reserved)
                } catch  where error.kind == .unsupported {}
                reserved = target
            }
        } catch {
            throw LogError(error, while: "writing a compacted segment")
        }
        var failure: FileSystemError?
        buffer.withUnsafeReadableBytes { bytes in
            var piece = WritePiece(bytes)
            withUnsafeMutablePointer(to: &piece) { pointer in
                do throws(FileSystemError) {
                    try file.writeFully(UnsafeMutableBufferPointer(start: pointer, count: 1), at: position)
                } catch {
                    failure = error
                }
            }
        }
        if let failure { throw LogError(failure, while: "writing a compacted segment") }
        written += buffer.readableBytes
        buffer.clear()
        while case let step = pace.step, written - writtenBack >= step { try writeBack(step) }
    }

    /// Hands the disk the next `count` bytes, and lets the appends have their turn.
    private mutating func writeBack(_ count: Int) throws(LogError) {
        let position = writtenBack
        do throws(FileSystemError) {
            try pace.write(count) { () throws(FileSystemError) in try file.writeBack(at: position, count: count) }
        } catch  where error.kind == .unsupported {
            // The sync at the end does it all.
        } catch {
            throw LogError(error, while: "writing a compacted segment")
        }
        writtenBack += count
    }

    /// Brings the copy, its footer and its transaction index to disk under their `.cleaned` names.
    mutating func finish(_ kept: [AbortedTransaction]) throws(LogError) {
        try flush()
        if written > writtenBack { try writeBack(written - writtenBack) }
        state.addLastTimeEntry()
        state.recent.removeAll()
        var checker = BlockChecker(size: written)
        _ = try checker.run(file) { _ in true }
        let transactions = TransactionIndex.encode(kept)
        let footer = SegmentFooter(
            length: written,
            endOffset: endOffset,
            offsetIndexChecksum: state.offsetIndex?.encode().checksum ?? 0,
            timeIndexChecksum: state.timeIndex?.encode().checksum ?? 0,
            transactionIndexChecksum: transactions.isEmpty ? 0 : transactions.checksum,
            blocks: checker.blocks
        )
        do throws(FileSystemError) {
            try file.truncate(to: written)
            try file.sync()
            try write(original.path(FileName.footer) + FileName.cleaned, footer.encode())
            if !transactions.isEmpty {
                try write(original.path(FileName.transactionIndex) + FileName.cleaned, transactions)
            }
        } catch {
            throw LogError(error, while: "writing a compacted segment")
        }
    }

    private func write(_ path: String, _ bytes: [UInt8]) throws(FileSystemError) {
        let file = try original.fileSystem.open(path, [.write, .create])
        try file.truncate(to: 0)
        try file.writeFully(bytes, at: 0)
        try file.sync()
    }

    /// Removes what was written.
    func discard() {
        for suffix in [FileName.log, FileName.footer, FileName.transactionIndex] {
            try? original.fileSystem.unlinkIfPresent(original.path(suffix) + FileName.cleaned)
        }
    }

    /// The segment that the copy becomes.
    func makeSegment() -> Segment {
        let segment = Segment(
            baseOffset: baseOffset,
            directory: original.directory,
            fileSystem: original.fileSystem,
            openFiles: original.openFiles,
            size: written,
            physicalSize: written,
            nextOffset: endOffset,
            isSealed: true,
            file: file,
            indexInterval: state.indexInterval
        )
        let built = state
        segment.state.withLock { state in
            state.offsetIndex = built.offsetIndex
            state.timeIndex = built.timeIndex
            state.maxTimestamp = built.maxTimestamp
            state.offsetOfMaxTimestamp = built.offsetOfMaxTimestamp
            state.firstTimestamp = built.firstTimestamp
            state.indexesChanged = true
        }
        return segment
    }
}

extension PartitionLog {
    /// Puts a compacted copy in the place of its group; false where the log has changed so that it no longer fits.
    func swap(
        _ group: [Segment],
        for copy: inout SegmentCopy,
        keptTransactions: [AbortedTransaction]
    ) throws(LogError) -> Bool {
        try copy.finish(keptTransactions)
        let finished = copy
        return try appender.withLock { appender throws(LogError) in
            let (segments, checkpoint) = published.withLock { ($0.segments, $0.checkpoint) }
            let first = segments.firstIndex { $0 === group[0] }
            guard !appender.isClosed, let first, first + group.count < segments.count,
                zip(segments[first...], group).allSatisfy({ $0 === $1 }),
                // Recovery must not begin in what is replaced, nor take its gaps for losses.
                checkpoint.recoveryOffset >= finished.endOffset, checkpoint.segmentBase >= finished.endOffset
            else {
                finished.discard()
                return false
            }
            let segment = finished.makeSegment()
            let swap = SegmentSwap(path: path, fileSystem: fileSystem)
            do throws(FileSystemError) { try swap.commit(base: finished.baseOffset) } catch {
                directory.writeFailed(error)
                throw LogError(error, while: "putting a compacted segment in place")
            }
            published.withLock { state in
                state.segments.replaceSubrange(first..<first + group.count, with: [segment])
                state.unsynced.removeAll { old in group.contains { $0 === old } }
                let range = finished.baseOffset..<finished.endOffset
                state.aborted.removeAll { range.contains($0.lastOffset) && !keptTransactions.contains($0) }
                let durable = state.checkpoint.recoveryOffset
                state.checkpoint.abortedTransactions = state.aborted.count { $0.lastOffset < durable }
                state.discardNextCheckpoint()
            }
            for old in group { try retire(old) }
            do throws(FileSystemError) { try swap.finish(base: finished.baseOffset) } catch {
                directory.writeFailed(error)
                throw LogError(error, while: "putting a compacted segment in place")
            }
            try segment.writeIndexes(durable: true)
            environment.openFiles.opened(segment)
            return true
        }
    }
}
