// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// An append on its way: the patched headers of its batches and the pieces to write, in one allocation. Lives within
/// the call that holds the input's memory.
struct PendingAppend {
    private static let stride = 64

    let batchCount: Int
    let origin: AppendOrigin
    let leaderEpoch: LeaderEpoch
    let now: Timestamp
    let settings: LogSettings
    /// What goes into the headers of batches that came without a maximum timestamp.
    private let maxTimestamps: [Int: Timestamp]
    private let bytes: UnsafeRawBufferPointer
    /// A patched header every 64 bytes.
    private let headers: UnsafeMutableRawPointer
    /// Two a batch: the patched header, the rest of the input.
    private let vector: UnsafeMutablePointer<WritePiece>
    /// State of the producers before the append, where several batches change it before they are written.
    private var before: [(id: ProducerID, entry: ProducerEntry?)] = []
    private var completed: [(batch: Int, transaction: CompletedTransaction)] = []
    private(set) var firstOffset: Offset = 0
    private(set) var lastOffset: Offset = 0

    init(
        bytes: UnsafeRawBufferPointer,
        batchCount: Int,
        maxTimestamps: [Int: Timestamp] = [:],
        origin: AppendOrigin,
        leaderEpoch: LeaderEpoch,
        now: Timestamp,
        settings: LogSettings
    ) {
        self.bytes = bytes
        self.batchCount = batchCount
        self.maxTimestamps = maxTimestamps
        self.origin = origin
        self.leaderEpoch = leaderEpoch
        self.now = now
        self.settings = settings
        headers = .allocate(byteCount: batchCount * Self.stride, alignment: 16)
        vector = .allocate(capacity: batchCount * 2)
    }

    func deallocate() {
        headers.deallocate()
        vector.deallocate()
    }

    /// The header of a batch as it goes to the file.
    func header(_ index: Int) -> RecordBatchHeader {
        RecordBatchHeader(
            reading: UnsafeRawBufferPointer(
                start: headers + index * Self.stride,
                count: RecordBatchHeader.Layout.size
            )
        )
    }

    func size(of chunk: Range<Int>) -> Int { chunk.reduce(0) { $0 + header($1).sizeInBytes } }

    func pieces(of chunk: Range<Int>) -> UnsafeMutableBufferPointer<WritePiece> {
        UnsafeMutableBufferPointer(start: vector + chunk.lowerBound * 2, count: chunk.count * 2)
    }

    /// Gives every batch its offsets and judges it against what the producers sent before. Returns the batch that this
    /// one repeats.
    mutating func prepare(from end: Offset, producers: inout ProducerTable) throws(LogError) -> ProducerBatch? {
        var position = 0
        var next = end
        do throws(LogError) {
            for index in 0..<batchCount {
                let batch = UnsafeRawBufferPointer(rebasing: bytes[position...])
                var header = RecordBatchHeader(reading: batch)
                let marker = header.attributes.isControl ? TransactionMarker(controlBatch: batch) : nil
                if let duplicate = try judge(header, marker, producers) {
                    undo(&producers)
                    return duplicate
                }
                if origin == .replica {
                    guard header.baseOffset >= next else {
                        throw LogError(
                            .unexpectedOffset,
                            "a replicated batch begins at offset \(header.baseOffset), but the log continues at \(next)"
                        )
                    }
                } else {
                    header.baseOffset = next
                    header.partitionLeaderEpoch = leaderEpoch
                }
                patch(index, header, batch)
                if index == 0 { firstOffset = header.baseOffset }
                lastOffset = header.lastOffset
                next = header.nextOffset
                // A single batch changes the producers' state only once it is written; several depend on each other.
                if batchCount > 1, header.isIdempotent { applyEarly(index, self.header(index), marker, &producers) }
                position += header.sizeInBytes
            }
        } catch {
            undo(&producers)
            throw error
        }
        return nil
    }

    private func judge(
        _ header: RecordBatchHeader,
        _ marker: TransactionMarker?,
        _ producers: ProducerTable
    ) throws(LogError) -> ProducerBatch? {
        guard header.isIdempotent else { return nil }
        if let marker {
            try producers.checkMarker(
                producerID: header.producerID,
                producerEpoch: header.producerEpoch,
                coordinatorEpoch: marker.coordinatorEpoch,
                origin: origin
            )
            return nil
        }
        if header.attributes.isControl { return nil }
        if case .duplicate(let batch) = try producers.check(header, origin: origin) { return batch }
        return nil
    }

    private mutating func applyEarly(
        _ index: Int,
        _ header: RecordBatchHeader,
        _ marker: TransactionMarker?,
        _ producers: inout ProducerTable
    ) {
        before.append((header.producerID, producers[header.producerID]))
        if let transaction = producers.replay(header, marker: marker, now: now) {
            completed.append((index, transaction))
        }
    }

    /// Copies the header, with what the broker sets in it, and points the pieces at it and at the rest of the input.
    private func patch(_ index: Int, _ header: RecordBatchHeader, _ batch: UnsafeRawBufferPointer) {
        typealias Layout = RecordBatchHeader.Layout
        let place = headers + index * Self.stride
        place.copyMemory(from: batch.baseAddress!, byteCount: Layout.size)
        place.storeBytes(of: header.baseOffset.rawValue.bigEndian, toByteOffset: Layout.baseOffset, as: Int64.self)
        place.storeBytes(
            of: header.partitionLeaderEpoch.rawValue.bigEndian,
            toByteOffset: Layout.partitionLeaderEpoch,
            as: Int32.self
        )
        let rest = UnsafeRawBufferPointer(rebasing: batch[Layout.size..<header.sizeInBytes])
        if settings.timestampType == .logAppendTime && origin != .replica && !header.attributes.isControl {
            let attributes = header.attributes.rawValue | 0x08
            store(attributes, at: place + Layout.attributes)
            store(now.rawValue, at: place + Layout.maxTimestamp)
            sign(place, rest)
        } else if let greatest = maxTimestamps[index] {
            store(greatest.rawValue, at: place + Layout.maxTimestamp)
            sign(place, rest)
        }
        vector[index * 2] = WritePiece(base: UnsafeRawPointer(place), count: Layout.size)
        vector[index * 2 + 1] = WritePiece(rest)
    }

    /// Writes the checksum of a header whose covered part was changed.
    private func sign(_ place: UnsafeMutableRawPointer, _ rest: UnsafeRawBufferPointer) {
        typealias Layout = RecordBatchHeader.Layout
        let covered = UnsafeRawBufferPointer(
            start: place + Layout.checksummedFrom,
            count: Layout.size - Layout.checksummedFrom
        )
        store(CRC32C.extend(CRC32C.compute(covered), rest), at: place + Layout.crc)
    }

    private func store<T: FixedWidthInteger>(_ value: T, at place: UnsafeMutableRawPointer) {
        withUnsafeBytes(of: value.bigEndian) { place.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
    }

    /// Takes note that a run of batches is in the file; returns the transactions that it ended.
    mutating func commit(_ chunk: Range<Int>, _ producers: inout ProducerTable) -> [CompletedTransaction] {
        if batchCount > 1 {
            let ended = completed.filter { chunk.contains($0.batch) }.map(\.transaction)
            // What is in the file stays, whatever becomes of the rest.
            before.removeFirst(min(before.count, chunk.count { self.header($0).isIdempotent }))
            return ended
        }
        let header = self.header(0)
        guard header.isIdempotent else { return [] }
        let marker = header.attributes.isControl ? TransactionMarker(controlBatch: bytes) : nil
        return producers.replay(header, marker: marker, now: now).map { [$0] } ?? []
    }

    /// The producers' state without the batches that are not in the file yet.
    func writtenState(of producers: ProducerTable) -> ProducerTable {
        var table = producers
        for (id, entry) in before.reversed() { table.restore(id, to: entry) }
        return table
    }

    /// Puts the producers back as they were before the batches that are not in the file.
    mutating func undo(_ producers: inout ProducerTable) {
        for (id, entry) in before.reversed() { producers.restore(id, to: entry) }
        before.removeAll()
        completed.removeAll()
    }
}
