// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import MDCProtocol
import NIOConcurrencyHelpers
import NIOCore
import Synchronization

/// The metadata log and the image it adds up to.
///
/// Changes are made one at a time, by the broker's control thread: appended, synced, applied. Readers take the image as it is.
final class MetadataStore: Sendable {
    /// The log that holds the metadata.
    static let topicPartition = TopicPartition(topic: "__cluster_metadata", partition: 0)
    /// Its id is fixed, as in Kafka.
    static let topicID = TopicID(high: 0, low: 1)

    private let log: PartitionLog
    private let state: Mutex<MetadataImage>

    /// Reads the whole log.
    /// - Throws: `.metadata` where it cannot be read.
    init(log: PartitionLog) throws(BrokerError) {
        self.log = log
        state = Mutex(try Self.replay(log))
    }

    /// The metadata now.
    var image: MetadataImage { state.withLock { $0 } }

    private static func replay(_ log: PartitionLog) throws(BrokerError) -> MetadataImage {
        var image = MetadataImage()
        do {
            var offset = log.logStartOffset
            while offset < log.logEndOffset {
                let read = try log.read(from: offset, maxBytes: 1 << 20, minOneBatch: true, upTo: log.logEndOffset)
                guard !read.slices.isEmpty else { break }
                var bytes = ByteBuffer()
                try read.copy(into: &bytes)
                var batches = RecordBatchIterator(bytes)
                while let batch = try batches.next() {
                    for record in try batch.reader().records() {
                        if let value = record.value { image.apply(try MetadataRecord(value)) }
                    }
                }
                offset = read.nextOffset
            }
        } catch {
            throw BrokerError(.metadata, "the metadata log in \(log.dataDirectory) cannot be read", cause: error)
        }
        return image
    }

    /// Makes a change: durable first, then visible. Blocks; only from the control thread.
    func commit(_ records: [MetadataRecord], now: Timestamp) throws(BrokerError) {
        guard !records.isEmpty else { return }
        do {
            var builder = RecordBatchBuilder()
            for record in records {
                builder.append(key: nil, value: try record.encoded(), headers: [], timestamp: now)
            }
            let batch = try builder.build()
            let result = try log.append(batch, as: .coordinator, leaderEpoch: 0, now: now)
            try wait(for: result.lastOffset + 1)
        } catch {
            throw BrokerError(.metadata, "the change of the metadata was not written", cause: error)
        }
        state.withLock { image in for record in records { image.apply(record) } }
    }

    private func wait(for offset: Offset) throws {
        let done = ConditionLock<Int>(value: 0)
        let outcome = Mutex<Result<Void, LogError>>(.success(()))
        log.whenDurable(upTo: offset) { result in
            outcome.withLock { $0 = result }
            done.lock()
            done.unlock(withValue: 1)
        }
        done.lock(whenValue: 1)
        done.unlock()
        try outcome.withLock { $0 }.get()
    }
}
