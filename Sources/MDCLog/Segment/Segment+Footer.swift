// SPDX-License-Identifier: Apache-2.0

import MDCModel
import Synchronization

extension Segment {
    /// Whether the segment is sealed, synced, and has no footer yet.
    func needsFooter() -> Bool {
        guard state.withLock({ $0.isSealed && $0.syncedSize == $0.size && !$0.isQuarantined && $0.size > 0 }) else {
            return false
        }
        return (try? fileSystem.exists(path(FileName.footer))) == false
    }

    /// Verifies every batch of a sealed segment and writes its footer, a block at a time; `pace` is called after each
    /// block with its size and may wait. Returns what is wrong instead of a footer where a batch is not valid.
    func writeFooter(pace: (Int) -> Bool) throws(LogError) -> String? {
        try writeIndexes(durable: false)
        let (size, next) = state.withLock { ($0.size, $0.nextOffset) }
        let (problem, sums) = try verifyBatches(pace: pace, sumsBlocks: true)
        if let problem { return problem }
        // A pass that was told to stop has not seen everything.
        guard let sums, sums.size == size else { return nil }
        do throws(FileSystemError) {
            let offsets = try fileSystem.readSmallFile(path(FileName.offsetIndex)) ?? []
            let times = try fileSystem.readSmallFile(path(FileName.timeIndex)) ?? []
            let transactions = try fileSystem.readSmallFile(path(FileName.transactionIndex)) ?? []
            let footer = SegmentFooter(
                length: size,
                endOffset: next,
                offsetIndexChecksum: offsets.checksum,
                timeIndexChecksum: times.checksum,
                transactionIndexChecksum: transactions.isEmpty ? 0 : transactions.checksum,
                blocks: sums.finish()
            )
            try fileSystem.replaceFile(path(FileName.footer), in: directory, with: footer.encode())
            return nil
        } catch {
            throw LogError(error, while: "writing a segment's footer")
        }
    }

    /// Verifies the batches of a segment; returns what is wrong and where, nil where nothing is, and the checksums of the
    /// blocks where they were asked for.
    private func verifyBatches(
        pace: (Int) -> Bool,
        sumsBlocks: Bool
    ) throws(LogError) -> (problem: String?, sums: BlockSums?) {
        let size = self.size
        var scanner = BatchScanner(
            file: try file(),
            from: 0,
            to: size,
            nextOffset: baseOffset,
            sumsBlocks: sumsBlocks
        )
        let end = try scanner.scan { header, _, _ throws(LogError) in pace(header.sizeInBytes) }
        switch end {
        case .complete: return (nil, scanner.sums)
        case .invalid(let reason): return ("at byte \(scanner.position): \(reason)", nil)
        case .zeros: return ("at byte \(scanner.position): zeros where batches should be", nil)
        }
    }

    /// Whether a segment in which scrubbing found damage equals its footer, or without one has only valid batches.
    func isSoundAgain(pace: (Int) -> Bool) throws(LogError) -> Bool {
        // What recovery found stays as recovery left it until the next start.
        guard (try? fileSystem.exists(path(FileName.damage))) == true else { return false }
        if (try? fileSystem.exists(path(FileName.footer))) == true, try scrub(pace: pace) != nil { return false }
        // A pass that was told to stop has not seen everything.
        return try verifyBatches(pace: pace, sumsBlocks: false).problem == nil && pace(0)
    }

    /// Compares a sealed segment with its footer; returns the first position that differs, nil where all is well or
    /// there is no footer.
    func scrub(pace: (Int) -> Bool) throws(LogError) -> Int? {
        let footer: SegmentFooter?
        do throws(FileSystemError) {
            footer = try SegmentFooter.read(path(FileName.footer), fileSystem: fileSystem)
        } catch {
            throw LogError(error, while: "reading a segment's footer")
        }
        guard let footer else { return nil }
        if footer.length != size { return min(footer.length, size) }
        var checker = BlockChecker(size: footer.length)
        guard try checker.run(try file(), pace: pace) else { return nil }
        for (index, pair) in zip(checker.blocks, footer.blocks).enumerated() where pair.0 != pair.1 {
            return index * SegmentFooter.blockSize
        }
        return nil
    }
}

/// Computes the checksums of blocks from bytes that come in pieces, so that one pass over a file serves two purposes.
struct BlockSums {
    /// Bytes so far.
    private(set) var size = 0
    private var blocks: ContiguousArray<UInt32> = []
    private var current: UInt32 = 0

    /// Below this many bytes a second pass costs less than putting two checksums together.
    private static let joinedFrom = 512

    mutating func add(_ bytes: UnsafeRawBufferPointer) {
        eachPiece(of: bytes) { current, piece in current = CRC32C.extend(current, piece) }
    }

    /// Adds `bytes` and returns their own checksum from `start` on. Long pieces are read once for both.
    mutating func add(_ bytes: UnsafeRawBufferPointer, summedFrom start: Int) -> UInt32 {
        add(UnsafeRawBufferPointer(rebasing: bytes[..<start]))
        var own: UInt32 = 0
        eachPiece(of: UnsafeRawBufferPointer(rebasing: bytes[start...])) { current, piece in
            if piece.count < Self.joinedFrom {
                current = CRC32C.extend(current, piece)
                own = CRC32C.extend(own, piece)
            } else {
                let checksum = CRC32C.compute(piece)
                current = CRC32C.join(current, checksum, length: piece.count)
                own = CRC32C.join(own, checksum, length: piece.count)
            }
        }
        return own
    }

    /// Calls `body` with the checksum of the current block and the part of `bytes` that belongs to it, block by block.
    private mutating func eachPiece(
        of bytes: UnsafeRawBufferPointer,
        _ body: (inout UInt32, UnsafeRawBufferPointer) -> Void
    ) {
        var rest = bytes
        while !rest.isEmpty {
            let room = SegmentFooter.blockSize - size % SegmentFooter.blockSize
            let piece = UnsafeRawBufferPointer(rebasing: rest.prefix(room))
            body(&current, piece)
            size += piece.count
            rest = UnsafeRawBufferPointer(rebasing: rest[piece.count...])
            if size % SegmentFooter.blockSize == 0 {
                blocks.append(current)
                current = 0
            }
        }
    }

    /// The checksums of all blocks, of which the last may be short.
    func finish() -> ContiguousArray<UInt32> {
        size % SegmentFooter.blockSize == 0 ? blocks : blocks + [current]
    }
}

/// Computes the checksums of a file's blocks.
struct BlockChecker {
    let size: Int
    private(set) var blocks: ContiguousArray<UInt32> = []

    init(size: Int) { self.size = size }

    /// Reads all blocks; false where `pace` asked to stop.
    mutating func run(_ file: any StorageFile, pace: (Int) -> Bool) throws(LogError) -> Bool {
        var block = [UInt8](repeating: 0, count: SegmentFooter.blockSize)
        var position = 0
        while position < size {
            let count: Int
            do throws(FileSystemError) {
                count = min(try file.readFully(into: &block, at: position), size - position)
            } catch {
                throw LogError(error, while: "reading a sealed segment")
            }
            blocks.append(
                block.withUnsafeBytes { CRC32C.compute(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
            )
            position += SegmentFooter.blockSize
            if !pace(count) { return false }
        }
        return true
    }
}
