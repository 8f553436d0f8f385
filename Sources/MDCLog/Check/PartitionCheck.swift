// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// The check of one partition's folder.
struct PartitionCheck {
    let path: String
    let fileSystem: any FileSystem
    let decodesRecords: Bool
    /// Everything before it must be there.
    let checkpoint: Offset?
    let total: Int

    private var end: Offset = 0
    private var table = ProducerTable()
    private var epochs: LeaderEpochs?

    init(path: String, fileSystem: any FileSystem, decodesRecords: Bool, checkpoint: Offset?, total: Int) {
        self.path = path
        self.fileSystem = fileSystem
        self.decodesRecords = decodesRecords
        self.checkpoint = checkpoint
        self.total = total
    }

    mutating func run(_ report: inout CheckReport, _ progress: (CheckProgress) -> Void) throws(LogError) {
        report.partitions += 1
        let names: [String]
        do throws(FileSystemError) { names = try fileSystem.list(path).map(\.name) } catch {
            throw LogError(error, while: "checking \(path)")
        }
        checkSmallFiles(names, &report)
        let bases = names.compactMap { FileName.offset(in: $0, suffix: FileName.log) }.sorted()
        end = bases.first ?? 0
        for (index, base) in bases.enumerated() {
            let next = index + 1 < bases.count ? bases[index + 1] : nil
            try checkSegment(base, next: next, &report, progress)
            report.segments += 1
        }
        if let checkpoint, end < checkpoint {
            report.problems.append(
                CheckReport.Problem(
                    severity: .data,
                    path: path,
                    position: 0,
                    offset: end,
                    message: "the log ends at offset \(end), but was durable up to \(checkpoint)"
                )
            )
        }
    }

    private func derived(_ name: String, at position: Int = 0, _ message: String) -> CheckReport.Problem {
        CheckReport.Problem(severity: .derived, path: "\(path)/\(name)", position: position, message: message)
    }

    private func read(_ name: String, _ report: inout CheckReport) -> [UInt8]? {
        do throws(FileSystemError) {
            return try fileSystem.readSmallFile("\(path)/\(name)")
        } catch {
            report.problems.append(derived(name, "\(error)"))
            return nil
        }
    }

    // MARK: Small files

    private mutating func checkSmallFiles(_ names: [String], _ report: inout CheckReport) {
        if let bytes = read(FileName.partitionMetadata, &report), PartitionMetadataFile.decode(bytes) == nil {
            report.problems.append(derived(FileName.partitionMetadata, "it holds no topic id"))
        }
        if let bytes = read(FileName.leaderEpochs, &report) {
            epochs = LeaderEpochs(decoding: bytes)
            if epochs == nil { report.problems.append(derived(FileName.leaderEpochs, "it cannot be read")) }
        }
        for name in names {
            if let offset = FileName.offset(in: name, suffix: FileName.producerSnapshot) {
                checkSnapshot(name, offset, &report)
            }
            if name.hasSuffix(FileName.damage) {
                report.notes.append("\(path)/\(name): scrubbing has found damage here before")
            }
            if name.hasSuffix(FileName.torn) {
                report.notes.append("\(path)/\(name) was cut off the log's end by a recovery")
            }
            if name.hasSuffix(FileName.metadataSnapshot) { checkBatches(name, &report) }
            for suffix in [FileName.cleaned, FileName.swap, FileName.temporary] where name.hasSuffix(suffix) {
                report.notes.append("\(path)/\(name) is left of interrupted work; the next start sees to it")
            }
        }
    }

    private func checkSnapshot(_ name: String, _ offset: Offset, _ report: inout CheckReport) {
        guard let bytes = read(name, &report) else { return }
        guard let table = ProducerSnapshot.decode(bytes, now: .none) else {
            report.problems.append(derived(name, "the producer snapshot or its checksum is wrong"))
            return
        }
        for (id, entry) in table.entries {
            if let last = entry.batches.last, last.lastOffset >= offset {
                report.problems.append(
                    derived(name, "producer \(id) has offset \(last.lastOffset), after the snapshot's own")
                )
            }
        }
    }

    /// A snapshot of the metadata is nothing but batches.
    private func checkBatches(_ name: String, _ report: inout CheckReport) {
        guard let bytes = read(name, &report) else { return }
        do {
            var batches = RecordBatchIterator(ByteBuffer(bytes: bytes))
            while let batch = try batches.next() { _ = try batch.reader() }
        } catch {
            report.problems.append(
                CheckReport.Problem(
                    severity: .data,
                    path: "\(path)/\(name)",
                    position: 0,
                    message: "the snapshot of the metadata is damaged: \(error)"
                )
            )
        }
    }

    // MARK: Segments

    /// Facts of a segment that its derived files are compared with.
    private struct Facts {
        var size = 0
        var aborted: [AbortedTransaction] = []
        var maxTimestamp: Timestamp = .none
        /// Checksums of the blocks, where there is a footer to compare with.
        var blocks: ContiguousArray<UInt32> = []
    }

    private mutating func checkSegment(
        _ base: Offset,
        next: Offset?,
        _ report: inout CheckReport,
        _ progress: (CheckProgress) -> Void
    ) throws(LogError) {
        let name = FileName.digits(base) + FileName.log
        let file: any StorageFile
        let size: Int
        do throws(FileSystemError) {
            file = try fileSystem.open("\(path)/\(name)", [])
            size = try file.size()
        } catch {
            report.problems.append(
                CheckReport.Problem(
                    severity: .data,
                    path: "\(path)/\(name)",
                    position: 0,
                    offset: base,
                    message: "\(error)"
                )
            )
            return
        }
        if base < end {
            report.problems.append(data(name, 0, base, "the segment begins before the end of the one before, \(end)"))
        }
        let indexes = IndexCheck(
            offsets: decodeOffsets(base, size, &report),
            times: decodeTimes(base, &report)
        )
        let facts = try scan(file, name, base, size, next, indexes, &report, progress)
        checkTransactions(base, facts, &report)
        checkFooter(base, facts, next, &report)
    }

    private func data(_ name: String, _ position: Int, _ offset: Offset?, _ message: String) -> CheckReport.Problem {
        CheckReport.Problem(
            severity: .data,
            path: "\(path)/\(name)",
            position: position,
            offset: offset,
            message: message
        )
    }

    private func decodeOffsets(_ base: Offset, _ size: Int, _ report: inout CheckReport) -> OffsetIndex? {
        let name = FileName.digits(base) + FileName.offsetIndex
        guard let bytes = read(name, &report) else { return nil }
        guard let index = OffsetIndex(baseOffset: base, decoding: bytes, logSize: max(size, 1)) else {
            report.problems.append(derived(name, "its entries contradict each other or the log's size"))
            return nil
        }
        return index
    }

    private func decodeTimes(_ base: Offset, _ report: inout CheckReport) -> TimeIndex? {
        let name = FileName.digits(base) + FileName.timeIndex
        guard let bytes = read(name, &report) else { return nil }
        guard let index = TimeIndex(baseOffset: base, decoding: bytes) else {
            report.problems.append(derived(name, "its entries contradict each other"))
            return nil
        }
        return index
    }

    private mutating func scan(
        _ file: any StorageFile,
        _ name: String,
        _ base: Offset,
        _ size: Int,
        _ next: Offset?,
        _ indexes: IndexCheck,
        _ report: inout CheckReport,
        _ progress: (CheckProgress) -> Void
    ) throws(LogError) -> Facts {
        var facts = Facts()
        var indexes = indexes
        var found = report
        var table = self.table
        var scratch = ByteBuffer()
        let hasFooter = (try? fileSystem.exists("\(path)/\(FileName.digits(base))\(FileName.footer)")) ?? false
        var scanner = BatchScanner(file: file, from: 0, to: size, nextOffset: base, sumsBlocks: hasFooter)
        let epochs = self.epochs
        let outcome = try scanner.scan { header, position, bytes throws(LogError) in
            found.batches += 1
            found.records += Int(header.recordCount)
            if found.batches % 256 == 0 {
                progress(CheckProgress(bytes: found.bytes + position, totalBytes: total, path: file.path))
            }
            if let message = indexes.visit(header, at: position) { found.problems.append(derived(name, message)) }
            // What lies before the log's start, after records were deleted, has no epoch any more.
            if let epochs, let first = epochs.entries.first, header.baseOffset >= first.startOffset,
                epochs.epoch(at: header.baseOffset) != header.partitionLeaderEpoch
            {
                found.problems.append(
                    derived(
                        FileName.leaderEpochs,
                        "offset \(header.baseOffset) has leader epoch \(header.partitionLeaderEpoch), not \(epochs.epoch(at: header.baseOffset))"
                    )
                )
            }
            if header.isIdempotent {
                let marker = header.attributes.isControl ? TransactionMarker(controlBatch: bytes) : nil
                if let ended = table.replay(header, marker: marker, now: .none), ended.isAborted {
                    facts.aborted.append(AbortedTransaction(ended, stable: table.lastStableOffset(after: ended)))
                }
            }
            if decodesRecords {
                do throws(LogError) {
                    try RecordWalk.forEach(in: bytes, header: header, scratch: &scratch) { _ in true }
                } catch {
                    found.problems.append(data(name, position, header.baseOffset, error.message))
                }
            }
            return true
        }
        self.table = table
        facts.size = scanner.position
        facts.blocks = scanner.sums?.finish() ?? []
        found.bytes += scanner.position
        end = max(scanner.nextOffset, next ?? 0)
        switch outcome {
        case .complete: break
        case .zeros where next == nil:
            found.notes.append(
                "\(path)/\(name) has \(size - scanner.position) reserved bytes; it was not closed in order"
            )
        case .zeros:
            found.problems.append(
                data(name, scanner.position, scanner.nextOffset, "zeros where batches should be, up to the end")
            )
        case .invalid(let reason):
            let isTail = next == nil && scanner.nextOffset >= checkpoint ?? 0
            found.problems.append(
                data(
                    name,
                    scanner.position,
                    scanner.nextOffset,
                    reason + (isTail ? " (a torn tail after the durable point: the next start cuts it)" : "")
                )
            )
            if next == nil { end = scanner.nextOffset }
        }
        if let message = indexes.finish(size: scanner.position) {
            found.problems.append(derived(FileName.digits(base) + FileName.offsetIndex, message))
        }
        report = found
        return facts
    }

    private func checkTransactions(_ base: Offset, _ facts: Facts, _ report: inout CheckReport) {
        let name = FileName.digits(base) + FileName.transactionIndex
        let bytes = read(name, &report) ?? []
        guard let entries = TransactionIndex.decode(bytes, baseOffset: base) else {
            report.problems.append(derived(name, "its entries contradict each other"))
            return
        }
        for aborted in facts.aborted where !entries.contains(aborted) {
            report.problems.append(
                derived(
                    name,
                    "the transaction of producer \(aborted.producerID) from \(aborted.firstOffset) to \(aborted.lastOffset) was aborted, but is not listed"
                )
            )
        }
    }

    private func checkFooter(_ base: Offset, _ facts: Facts, _ next: Offset?, _ report: inout CheckReport) {
        let name = FileName.digits(base) + FileName.footer
        guard let bytes = read(name, &report) else { return }
        guard let footer = SegmentFooter(decoding: bytes) else {
            report.problems.append(derived(name, "the footer or its checksum is wrong"))
            return
        }
        if footer.length != facts.size {
            report.problems.append(
                data(
                    FileName.digits(base) + FileName.log,
                    min(footer.length, facts.size),
                    nil,
                    "the segment has \(facts.size) bytes of batches, its footer says \(footer.length)"
                )
            )
            return
        }
        if let next, footer.endOffset != next {
            report.problems.append(
                data(name, 0, footer.endOffset, "the next segment begins at \(next), not at \(footer.endOffset)")
            )
        }
        for (index, pair) in zip(facts.blocks, footer.blocks).enumerated() where pair.0 != pair.1 {
            report.problems.append(
                data(
                    FileName.digits(base) + FileName.log,
                    index * SegmentFooter.blockSize,
                    nil,
                    "the block differs from the segment's footer"
                )
            )
        }
    }
}

/// Compares the entries of a segment's indexes with its batches, in one pass.
private struct IndexCheck {
    let offsets: OffsetIndex?
    let times: TimeIndex?
    private var nextOffset = 0
    private var nextTime = 0
    private var newest: Timestamp = .none

    init(offsets: OffsetIndex?, times: TimeIndex?) {
        self.offsets = offsets
        self.times = times
    }

    /// Takes the next batch; returns what is wrong.
    mutating func visit(_ header: RecordBatchHeader, at position: Int) -> String? {
        newest = max(newest, header.maxTimestamp)
        var problem: String?
        if let offsets, nextOffset < offsets.entries.count {
            let entry = offsets.entries[nextOffset]
            if Int(entry.position) == position {
                nextOffset += 1
                let offset = offsets.baseOffset + Int64(entry.relativeOffset)
                if offset < header.baseOffset {
                    problem =
                        "the offset index says \(offset) of the batch at byte \(position), which begins at \(header.baseOffset)"
                }
            } else if Int(entry.position) < position {
                nextOffset += 1
                problem = "the offset index points to byte \(entry.position), where no batch begins"
            }
        }
        if let times, nextTime < times.entries.count {
            let entry = times.entries[nextTime]
            if times.baseOffset + Int64(entry.relativeOffset) <= header.lastOffset {
                nextTime += 1
                if entry.timestamp < newest, times.baseOffset + Int64(entry.relativeOffset) == header.lastOffset {
                    problem =
                        "the time index says \(entry.timestamp) at offset \(header.lastOffset), where \(newest) was reached"
                }
            }
        }
        return problem
    }

    /// What is wrong at the end of the segment.
    func finish(size: Int) -> String? {
        if let offsets, nextOffset < offsets.entries.count, size > 0 {
            return "the offset index has entries after the last batch"
        }
        return nil
    }
}
