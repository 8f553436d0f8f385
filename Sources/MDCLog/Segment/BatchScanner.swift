// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// Walks over the batch headers of a part of a file without reading the records.
struct HeaderWalker {
    private let file: any StorageFile
    /// Where the next header is.
    private(set) var position: Int
    private let end: Int
    private var window: [UInt8]
    private var windowStart = 0
    private var windowCount = 0

    init(file: any StorageFile, from position: Int, to end: Int, window: Int = 8192) {
        self.file = file
        self.position = position
        self.end = end
        self.window = [UInt8](repeating: 0, count: max(window, RecordBatchHeader.Layout.size))
    }

    /// The next header and its position; nil at the end. A header that cannot be one is an error: the walk is only
    /// made over bytes that were valid when they were written.
    mutating func next() throws(LogError) -> (position: Int, header: RecordBatchHeader)? {
        guard position < end else { return nil }
        if position < windowStart || position + RecordBatchHeader.Layout.size > windowStart + windowCount {
            windowStart = position
            do throws(FileSystemError) {
                windowCount = try file.readFully(into: &window, at: position)
            } catch {
                throw LogError(error, while: "reading batch headers")
            }
        }
        let available = windowStart + windowCount - position
        guard available >= RecordBatchHeader.Layout.size, position + RecordBatchHeader.Layout.size <= end else {
            throw damaged("the file ends within a batch header")
        }
        let start = position - windowStart
        let header = window.withUnsafeBytes {
            RecordBatchHeader(reading: UnsafeRawBufferPointer(rebasing: $0[start...]))
        }
        if let problem = header.framingProblem(available: end - position) { throw damaged(problem) }
        defer { position += header.sizeInBytes }
        return (position, header)
    }

    private func damaged(_ problem: String) -> LogError {
        LogError(.damaged, "\(file.path) at byte \(position): \(problem)")
    }
}

extension RecordBatchHeader {
    /// Why these 61 bytes cannot be the start of a batch within `available` bytes; nil where they can.
    func framingProblem(available: Int) -> String? {
        if magic != 2 { return "magic is \(magic), not 2" }
        if batchLength < Int32(Layout.size - Layout.logOverhead) {
            return "batch length \(batchLength) is less than a header's"
        }
        if sizeInBytes > available { return "batch length \(batchLength) exceeds the \(available) bytes left" }
        if lastOffsetDelta < 0 { return "last offset delta is \(lastOffsetDelta)" }
        if baseOffset < 0 { return "base offset is \(baseOffset)" }
        if baseOffset > Offset.limit { return "base offset \(baseOffset) is beyond all offsets" }
        if recordCount < 0 { return "record count is \(recordCount)" }
        return nil
    }
}

/// Reads batches whole and verifies each, for recovery, checks and scrubbing.
struct BatchScanner {
    /// Why a scan ended.
    enum End: Sendable, Equatable {
        /// At the end of the file.
        case complete
        /// At bytes that are all zero: reserved space.
        case zeros
        /// At bytes that are no valid batch.
        case invalid(String)
    }

    private let file: any StorageFile
    private(set) var position: Int
    /// The least base offset that the next batch may have.
    private(set) var nextOffset: Offset
    private let end: Int
    private var buffer: [UInt8]
    private var bufferStart: Int
    private var bufferCount = 0
    private let chunk: Int
    /// Checksums of the blocks of what was scanned, where they were asked for.
    private(set) var sums: BlockSums?

    /// `chunk`: bytes read at a time; few enough that they are in the processor's cache when their checksum is computed.
    /// `sumsBlocks`: whether the checksums of the file's blocks are computed along with those of the batches.
    init(
        file: any StorageFile,
        from position: Int,
        to end: Int,
        nextOffset: Offset,
        chunk: Int = 256 << 10,
        sumsBlocks: Bool = false
    ) {
        sums = sumsBlocks ? BlockSums() : nil
        self.file = file
        self.position = position
        self.end = end
        self.nextOffset = nextOffset
        self.chunk = max(chunk, 4096)
        buffer = [UInt8](repeating: 0, count: min(self.chunk, max(end - position, 4096)))
        bufferStart = position
    }

    /// Calls `visit` with each valid batch (header, position, bytes) until it returns false, the file ends, or
    /// something else than a batch stands there.
    mutating func scan(
        _ visit: (RecordBatchHeader, Int, UnsafeRawBufferPointer) throws(LogError) -> Bool
    ) throws(LogError) -> End {
        while position < end {
            guard try fill(RecordBatchHeader.Layout.size) else {
                return try restIsZero() ? .zeros : .invalid("the file ends within a batch header")
            }
            let header = withBytes(RecordBatchHeader.Layout.size) { RecordBatchHeader(reading: $0) }
            if header.magic == 0 && header.batchLength == 0, try restIsZero() { return .zeros }
            if let problem = header.framingProblem(available: end - position) { return .invalid(problem) }
            if header.baseOffset < nextOffset {
                return .invalid("base offset \(header.baseOffset) is before \(nextOffset), which was expected next")
            }
            // The checksum does not cover it, and the indexes' offsets within a segment have 32 bits.
            if header.baseOffset - nextOffset > Int64(Int32.max) {
                return .invalid("base offset \(header.baseOffset) is further from \(nextOffset) than a segment reaches")
            }
            guard try fill(header.sizeInBytes) else { return .invalid("the file ends within a batch") }
            if checksum(header.sizeInBytes) != header.crc {
                return .invalid("the checksum of the batch at offset \(header.baseOffset) does not match")
            }
            let at = position
            let goesOn = try withBytes(header.sizeInBytes) { bytes throws(LogError) in
                try visit(header, at, bytes)
            }
            position += header.sizeInBytes
            nextOffset = header.nextOffset
            if !goesOn { return .complete }
        }
        return .complete
    }

    /// The checksum of the batch at `position`, which is in the buffer.
    private mutating func checksum(_ size: Int) -> UInt32 {
        let from = RecordBatchHeader.Layout.checksummedFrom
        let start = position - bufferStart
        return buffer.withUnsafeBytes { bytes in
            let batch = UnsafeRawBufferPointer(rebasing: bytes[start..<start + size])
            return sums?.add(batch, summedFrom: from)
                ?? CRC32C.compute(UnsafeRawBufferPointer(rebasing: batch[from...]))
        }
    }

    private func withBytes<R>(
        _ count: Int,
        _ body: (UnsafeRawBufferPointer) throws(LogError) -> R
    ) throws(LogError) -> R {
        let start = position - bufferStart
        var failure: LogError?
        let result: R? = buffer.withUnsafeBytes { bytes in
            do throws(LogError) {
                return try body(UnsafeRawBufferPointer(rebasing: bytes[start..<start + count]))
            } catch {
                failure = error
                return nil
            }
        }
        if let failure { throw failure }
        return result!
    }

    private func withBytes<R>(_ count: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
        let start = position - bufferStart
        return buffer.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[start..<start + count])) }
    }

    /// Makes sure that `count` bytes from `position` are in the buffer; false where the file has fewer.
    private mutating func fill(_ count: Int) throws(LogError) -> Bool {
        if position + count <= bufferStart + bufferCount { return true }
        guard position + count <= end else { return false }
        // A batch larger than the chunk grows the buffer; the batch length was checked against the file before.
        if buffer.count < count { buffer = [UInt8](repeating: 0, count: count) }
        bufferStart = position
        do throws(FileSystemError) {
            bufferCount = try file.readFully(into: &buffer, at: position)
        } catch {
            throw LogError(error, while: "scanning a segment")
        }
        bufferCount = min(bufferCount, end - position)
        return bufferCount >= count
    }

    /// Whether every byte from `position` to the end is zero.
    private func restIsZero() throws(LogError) -> Bool {
        var at = position
        var block = [UInt8](repeating: 0, count: 1 << 16)
        while at < end {
            let count: Int
            do throws(FileSystemError) {
                count = try file.readFully(into: &block, at: at)
            } catch {
                throw LogError(error, while: "scanning a segment")
            }
            if count == 0 { return true }
            if block.prefix(min(count, end - at)).contains(where: { $0 != 0 }) { return false }
            at += count
        }
        return true
    }
}
