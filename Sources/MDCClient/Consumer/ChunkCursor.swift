// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// Walks the records of a chunk, batch by batch, and leaves out what is not for the application: control records,
/// records of aborted transactions, and those before the offset that was asked for.
struct ChunkCursor {
    let partition: TopicPartition
    let version: UInt64
    /// Bytes that are free once the cursor is at its end.
    let sizeInBytes: Int
    /// Offset after the last record that was returned or skipped.
    private(set) var position: Offset
    /// Leader epoch of the last batch.
    private(set) var epoch: Int32 = -1

    private let isReadCommitted: Bool
    private let checksCRC: Bool
    private let decompressionLimit: Int
    private var batches: RecordBatchIterator
    private var current: (records: RecordIterator, header: RecordBatchHeader)?
    private var aborted: ArraySlice<(producerID: Int64, firstOffset: Int64)>
    private var abortedProducers: Set<Int64> = []

    init(
        _ chunk: FetchedChunk,
        partition: TopicPartition,
        version: UInt64,
        position: Offset,
        isReadCommitted: Bool,
        checksCRC: Bool,
        decompressionLimit: Int
    ) {
        self.partition = partition
        self.version = version
        self.position = max(position, chunk.fetchOffset)
        self.isReadCommitted = isReadCommitted
        self.checksCRC = checksCRC
        self.decompressionLimit = decompressionLimit
        sizeInBytes = chunk.records.readableBytes
        batches = RecordBatchIterator(chunk.records)
        aborted = chunk.aborted.sorted { $0.firstOffset < $1.firstOffset }[...]
    }

    /// Appends up to `limit` records. True while there may be more. Throws `ClientError` (`corruptRecords`).
    mutating func read(_ limit: Int, into records: inout [ConsumerRecord]) throws -> Bool {
        var left = limit
        do {
            while left > 0 {
                guard current != nil else {
                    guard let batch = try batches.next() else { return false }
                    try open(batch)
                    continue
                }
                guard let record = try current!.records.next() else {
                    position = max(position, current!.header.nextOffset)
                    current = nil
                    continue
                }
                guard record.offset >= position else { continue }
                records.append(
                    ConsumerRecord(
                        topicPartition: partition,
                        offset: record.offset,
                        timestamp: record.timestamp,
                        leaderEpoch: current!.header.partitionLeaderEpoch,
                        key: record.key,
                        value: record.value,
                        headers: record.headers
                    )
                )
                position = record.offset + 1
                left -= 1
            }
            return true
        } catch {
            throw ClientError(
                .corruptRecords,
                "\(partition): the records at offset \(position) cannot be read; seek past them to go on",
                cause: error
            )
        }
    }

    /// Begins a batch, or skips it.
    private mutating func open(_ batch: RecordBatchSlice) throws {
        let header = batch.header
        epoch = header.partitionLeaderEpoch.rawValue
        let producer = header.producerID.rawValue
        while let next = aborted.first, next.firstOffset <= header.lastOffset.rawValue {
            abortedProducers.insert(next.producerID)
            aborted.removeFirst()
        }
        if header.attributes.isControl {
            let marker = try batch.reader(verifyChecksum: checksCRC).controlRecord()
            if marker?.kind == .abort { abortedProducers.remove(producer) }
            position = max(position, header.nextOffset)
            return
        }
        if isReadCommitted, header.attributes.isTransactional, abortedProducers.contains(producer) {
            position = max(position, header.nextOffset)
            return
        }
        guard header.nextOffset > position else { return }
        let reader = try batch.reader(verifyChecksum: checksCRC, decompressionLimit: decompressionLimit)
        current = (try reader.makeRecordIterator(), header)
    }
}
