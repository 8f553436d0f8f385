// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What recovery cuts off a log's end, and what it does with it.
///
/// A crash leaves such bytes, and so does a disk that damages acknowledged records after the last checkpoint: the file
/// alone does not tell which. So nothing is thrown away: the bytes are kept as `<base>-<position>.torn` until the
/// segment that they stood in leaves the log, and batches among them that read well are counted and reported.
struct TornTail {
    /// Base of the segment that the bytes stood in, and where in it.
    let base: Offset
    let position: Int
    /// Where the log ends now.
    let nextOffset: Offset

    var name: String { "\(FileName.digits(base))-\(position)\(FileName.torn)" }

    /// The base offset in the name of such a file.
    static func offset(in name: String) -> Offset? {
        guard name.hasSuffix(FileName.torn), let dash = name.firstIndex(of: "-") else { return nil }
        return Int64(name[..<dash]).map { Offset($0) }
    }

    /// Copies the bytes from `position` on, without the zeros at their end, to a file of their own, durably.
    func save(
        from file: any StorageFile,
        upTo end: Int,
        in folder: String,
        _ fileSystem: any FileSystem,
        _ report: inout RecoveryReport
    ) throws(LogError) {
        let lastBatchEnd = try count(in: file, upTo: end, &report)
        do throws(FileSystemError) {
            let path = try Self.free("\(folder)/\(name)", fileSystem)
            let copy = try fileSystem.open(path, [.write, .create])
            do throws(FileSystemError) {
                try copyBytes(from: file, upTo: end, to: copy)
                // Zeros at the end that belong to a batch.
                if try copy.size() < lastBatchEnd - position { try copy.truncate(to: lastBatchEnd - position) }
                try copy.sync()
                try fileSystem.syncDirectory(folder)
            } catch {
                try fileSystem.unlinkIfPresent(path)
                throw error
            }
            report.tornFiles.append(path)
        } catch {
            throw LogError(error, while: "keeping what is cut from a log")
        }
    }

    /// The path itself, or with a number in it where an earlier recovery has cut at the same place.
    static func free(_ path: String, _ fileSystem: any FileSystem) throws(FileSystemError) -> String {
        var free = path
        var number = 1
        while try fileSystem.exists(free) {
            number += 1
            free = "\(path.dropLast(FileName.torn.count))-\(number)\(FileName.torn)"
        }
        return free
    }

    private func copyBytes(
        from file: any StorageFile,
        upTo end: Int,
        to copy: any StorageFile
    ) throws(FileSystemError) {
        try copy.truncate(to: 0)
        var block = [UInt8](repeating: 0, count: 1 << 16)
        var at = position
        while at < end {
            let count = min(try file.readFully(into: &block, at: at), end - at)
            if count == 0 { break }
            // Blocks of zeros stay holes; the ones at the end are not even that.
            if let last = block[..<count].lastIndex(where: { $0 != 0 }) {
                try copy.writeFully(Array(block[...last]), at: at - position)
            }
            at += count
        }
    }

    /// Counts the batches from `position` on that read well and belong after the log's present end; returns where the last
    /// that reads well ends.
    @discardableResult
    func count(
        in file: any StorageFile,
        upTo end: Int,
        _ report: inout RecoveryReport
    ) throws(LogError) -> Int {
        var lastEnd = position
        var search = BatchSearch(file: file, from: position, to: end)
        while let (header, at) = try search.next() {
            lastEnd = at + header.sizeInBytes
            guard header.baseOffset >= nextOffset else { continue }
            report.cutBatches += 1
            let first = min(report.cutOffsets?.lowerBound ?? header.baseOffset, header.baseOffset)
            let last = max(report.cutOffsets?.upperBound ?? header.lastOffset, header.lastOffset)
            report.cutOffsets = first...last
        }
        return lastEnd
    }
}

/// Finds batches whose checksum is right in bytes that hold other things too.
struct BatchSearch {
    private let file: any StorageFile
    private let end: Int
    private var position: Int
    private var window: [UInt8] = []
    private var windowStart: Int
    /// Bytes that may still be read for checksums: what looks like headers may name any length.
    private var budget: Int

    private static let windowSize = 1 << 20

    init(file: any StorageFile, from position: Int, to end: Int) {
        self.file = file
        self.position = position
        self.end = end
        windowStart = position
        budget = max(4 * (end - position), 16 << 20)
    }

    /// The next batch's header and position; nil where there is none any more.
    mutating func next() throws(LogError) -> (header: RecordBatchHeader, position: Int)? {
        typealias Layout = RecordBatchHeader.Layout
        while position + Layout.size <= end, budget > 0 {
            if position + Layout.size > windowStart + window.count {
                try fill(Self.windowSize)
                guard window.count >= Layout.size else { return nil }
            }
            let start = position - windowStart
            guard let candidate = window.magic(from: start) else {
                position = windowStart + window.count - Layout.size + 1
                continue
            }
            position = windowStart + candidate
            let header = window.withUnsafeBytes {
                RecordBatchHeader(reading: UnsafeRawBufferPointer(rebasing: $0[candidate...]))
            }
            if header.framingProblem(available: end - position) == nil, header.isPlausible,
                try hasRightChecksum(header)
            {
                defer { position += header.sizeInBytes }
                return (header, position)
            }
            position += 1
        }
        return nil
    }

    private mutating func hasRightChecksum(_ header: RecordBatchHeader) throws(LogError) -> Bool {
        budget -= header.sizeInBytes
        if position + header.sizeInBytes > windowStart + window.count { try fill(header.sizeInBytes) }
        let start = position - windowStart
        guard window.count >= start + header.sizeInBytes else { return false }
        return window.withUnsafeBytes { bytes in
            CRC32C.compute(
                UnsafeRawBufferPointer(
                    rebasing: bytes[start + RecordBatchHeader.Layout.checksummedFrom..<start + header.sizeInBytes]
                )
            ) == header.crc
        }
    }

    private mutating func fill(_ count: Int) throws(LogError) {
        windowStart = position
        window = [UInt8](repeating: 0, count: min(max(count, Self.windowSize), end - position))
        do throws(FileSystemError) {
            let read = try file.readFully(into: &window, at: position)
            window.removeLast(window.count - read)
        } catch {
            throw LogError(error, while: "looking at what is cut from a log")
        }
    }
}

extension [UInt8] {
    /// The first index from `start` on at which a batch may begin by its magic, with room for a header after it.
    fileprivate func magic(from start: Int) -> Int? {
        let last = count - RecordBatchHeader.Layout.size
        guard start <= last else { return nil }
        return withUnsafeBufferPointer { bytes in
            var index = start
            while index <= last {
                // Magic 2, and a base offset and length that no zeros or text would make.
                if bytes[index + 16] == 2, bytes[index] == 0 { return index }
                index += 1
            }
            return nil
        }
    }
}

extension RecordBatchHeader {
    /// Whether the fields could be those of one batch; weeds out most of what is none before a checksum is computed.
    fileprivate var isPlausible: Bool {
        attributes.unknownBits == 0 && attributes.codec != nil && partitionLeaderEpoch >= -1
            && Int64(recordCount) <= Int64(lastOffsetDelta) + 1 && baseOffset.rawValue < Int64.max >> 1
    }
}
