// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// Feeds the message store from `mdc.events`. The offsets are the store's own, kept with the rows.
final class StoreProjection: Role {
    let name = "store"
    private let store: MessageStore
    private let consumer: Consumer
    private let logger: Logger
    private let stopFlag = StopFlag()
    private let next = Mutex<[Int32: Int64]>([:])

    init(store: MessageStore, consumer: Consumer, logger: Logger) {
        self.store = store
        self.consumer = consumer
        self.logger = logger
    }

    func stop() { stopFlag.set() }

    func run() async throws {
        let consumed = try store.consumedOffsets()
        let partitions = (0..<Int32(Topics.keyedPartitions)).map {
            TopicPartition(topic: Topics.events, partition: PartitionID($0))
        }
        let starts = try await consumer.beginningOffsets(partitions)
        var positions: [TopicPartition: Offset] = [:]
        for partition in partitions {
            let start = max(consumed[partition.partition.rawValue] ?? 0, starts[partition]?.rawValue ?? 0)
            positions[partition] = Offset(start)
            next.withLock { $0[partition.partition.rawValue] = start }
        }
        try await consumer.assign(positions)
        while !stopFlag.isSet {
            let records = try await consumer.poll(maxRecords: 5_000, timeout: .milliseconds(200))
            if !records.isEmpty { try await apply(records) }
        }
        await consumer.close()
    }

    private func apply(_ records: [ConsumerRecord]) async throws {
        var batch: [MessageStore.ProjectedEvent] = []
        batch.reserveCapacity(records.count)
        var offsets: [Int32: Int64] = [:]
        for record in records {
            let partition = record.topicPartition.partition.rawValue
            offsets[partition] = record.offset.rawValue + 1
            guard let value = record.value, let event = try? TimelineEvent(json: value) else {
                logger.warning(
                    "an unreadable event is not stored",
                    metadata: ["at": "\(record.topicPartition)@\(record.offset)"]
                )
                continue
            }
            let position = EventPosition(partition: partition, offset: record.offset.rawValue)
            batch.append(MessageStore.ProjectedEvent(position: position, event: event, json: value))
        }
        try await store.apply(batch, next: offsets)
        next.withLock { $0.merge(offsets) { $1 } }
    }

    /// Returns when the store holds everything that was in `mdc.events` when this was called.
    func catchUp() async throws {
        let partitions = (0..<Int32(Topics.keyedPartitions)).map {
            TopicPartition(topic: Topics.events, partition: PartitionID($0))
        }
        let ends = try await consumer.endOffsets(partitions)
        while !stopFlag.isSet {
            let next = next.withLock { $0 }
            let isThere = ends.allSatisfy { next[$0.key.partition.rawValue] ?? -1 >= $0.value.rawValue }
            if isThere { return }
            try await Task.sleep(for: .milliseconds(10))
        }
    }
}
