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
    /// How far the store is, by its own account: it may be less than was passed over.
    private let known = Mutex<[Int32: Int64]>([:])

    init(store: MessageStore, consumer: Consumer, logger: Logger) {
        self.store = store
        self.consumer = consumer
        self.logger = logger
    }

    func stop() { stopFlag.set() }

    func run() async throws {
        var idleSince = SystemTime.now()
        guard try await start() else { return await consumer.close() }
        while !stopFlag.isSet {
            let records = try await consumer.poll(maxRecords: 5_000, timeout: .milliseconds(200))
            var isEmptied = false
            if !records.isEmpty {
                isEmptied = try await !apply(records)
                idleSince = SystemTime.now()
            } else if SystemTime.now() - idleSince > 2_000 {
                idleSince = SystemTime.now()
                isEmptied = try await wasEmptied()
            }
            guard isEmptied else { continue }
            logger.notice("the message store was emptied; it is built again from the log")
            guard try await start() else { break }
        }
        await consumer.close()
    }

    /// Goes to where the store is. Returns whether it could be asked before the role was stopped.
    private func start() async throws -> Bool {
        guard let consumed = try await untilReachable({ [store] in try await store.consumed() }) else { return false }
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
        known.withLock { $0 = consumed }
        try await consumer.assign(positions)
        return true
    }

    private func wasEmptied() async throws -> Bool {
        let known = known.withLock { $0 }
        let consumed = try await untilReachable { [store] in try await store.consumed() }
        return consumed.map { MessageStore.isEmptied($0, known: known) } ?? false
    }

    /// Returns false if the store was emptied since.
    private func apply(_ records: [ConsumerRecord]) async throws -> Bool {
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
        let (events, ends) = (batch, offsets)
        let known = known.withLock { $0 }
        let answer = try await untilReachable { [store] in
            try await store.apply(events, next: ends, known: known)
        }
        guard let isApplied = answer else { return true }
        guard isApplied else { return false }
        next.withLock { $0.merge(ends) { $1 } }
        self.known.withLock { $0.merge(ends) { $1 } }
        return true
    }

    /// Tries again while the store's server cannot be reached: the log waits. Returns nil if the role was stopped meanwhile.
    private func untilReachable<Value>(_ body: () async throws -> Value) async throws -> Value? {
        var pause = 100
        while !stopFlag.isSet {
            do {
                return try await body()
            } catch let error as PipelineError where error.code == .unavailable {
                logger.warning("the message store falls behind; it is tried again", metadata: ["error": "\(error)"])
                try await Task.sleep(for: .milliseconds(pause))
                pause = min(5_000, pause * 2)
            }
        }
        return nil
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
