// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// A compacted topic of one partition as a table in memory: the last value of each key. It follows the topic, so that all
/// processes of the centre know the same, a moment after one of them wrote it.
final class TopicTable<Value: Codable & Sendable>: Role {
    let name: String
    private let topic: String
    private let consumer: Consumer
    private let logger: Logger
    private let stopFlag = StopFlag()

    private struct State: Sendable {
        var values: [String: Value] = [:]
        var isLoaded = false
        var failure: (any Error)?
    }

    private let state = Mutex(State())

    init(topic: String, consumer: Consumer, logger: Logger) {
        self.topic = topic
        self.consumer = consumer
        self.logger = logger
        name = topic
    }

    /// The values by key.
    var values: [String: Value] { state.withLock { $0.values } }

    subscript(key: String) -> Value? { state.withLock { $0.values[key] } }

    func stop() { stopFlag.set() }

    func run() async throws {
        do {
            try await follow()
            await consumer.close()
        } catch {
            state.withLock { $0.failure = error }
            await consumer.close()
            throw error
        }
    }

    /// Returns when everything that was there at the start has been read. - Throws: what made `run()` end.
    func whenLoaded() async throws {
        while true {
            let (isLoaded, failure) = state.withLock { ($0.isLoaded, $0.failure) }
            if let failure { throw failure }
            if isLoaded || stopFlag.isSet { return }
            try await Task.sleep(for: .milliseconds(5))
        }
    }

    private func follow() async throws {
        let partition = TopicPartition(topic: topic, partition: PartitionID(0))
        let end = try await consumer.endOffsets([partition])[partition]?.rawValue ?? 0
        try await consumer.assign(try await consumer.beginningOffsets([partition]))
        while !stopFlag.isSet {
            let isThere = try consumer.position(partition)?.rawValue ?? 0 >= end
            if isThere { state.withLock { $0.isLoaded = true } }
            for record in try await consumer.poll(timeout: .milliseconds(isThere ? 200 : 20)) { take(record) }
        }
    }

    private func take(_ record: ConsumerRecord) {
        guard let key = record.key.map({ String(buffer: $0) }) else { return }
        guard let value = record.value else { return state.withLock { $0.values[key] = nil } }
        do {
            let value = try JSONDecoder().decode(Value.self, from: Data(value.readableBytesView))
            state.withLock { $0.values[key] = value }
        } catch {
            // What cannot be read grants nothing: the value before it is not kept either.
            state.withLock { $0.values[key] = nil }
            logger.warning("an unreadable record is passed over", metadata: ["topic": "\(topic)", "key": "\(key)"])
        }
    }

    /// The record that sets a value.
    static func record(_ topic: String, key: String, _ value: Value) -> ProducerRecord {
        ProducerRecord(topic: topic, key: ByteBuffer(string: key), value: ByteBuffer(string: encodeJSON(value)))
    }
}
