// SPDX-License-Identifier: Apache-2.0

import MDCClient
import MDCModel
import NIOCore
import Synchronization

/// What one stage keeps, by partition of a source, in memory; and which of it is not on its changelog yet.
final class StateStore: Sendable {
    private struct Partition {
        var entries: [StateKey: ByteBuffer] = [:]
        var dirty: Set<StateKey> = []
    }

    /// The changelog.
    let topic: String
    private let partitions = Mutex<[TopicPartition: Partition]>([:])

    init(topic: String) { self.topic = topic }

    /// Takes in what was read from the changelog.
    func assign(_ partition: TopicPartition, _ entries: [StateKey: ByteBuffer]) {
        partitions.withLock { $0[partition] = Partition(entries: entries) }
    }

    func drop(_ partition: TopicPartition) { partitions.withLock { $0[partition] = nil } }

    func value(_ partition: TopicPartition, _ key: StateKey) -> ByteBuffer? {
        partitions.withLock { $0[partition]?.entries[key] }
    }

    /// Sets entries, or removes those without a value.
    func apply(_ partition: TopicPartition, _ changes: [StateKey: ByteBuffer?]) {
        partitions.withLock { partitions in
            guard partitions[partition] != nil else { return }
            for (key, value) in changes {
                partitions[partition]?.entries[key] = value
                partitions[partition]?.dirty.insert(key)
            }
        }
    }

    /// The records that bring the changelog up to date, for these partitions or all.
    func takeChanges(_ wanted: Set<TopicPartition>? = nil) -> [ProducerRecord] {
        partitions.withLock { partitions in
            var records: [ProducerRecord] = []
            for partition in Array(partitions.keys) where wanted?.contains(partition) ?? true {
                guard let state = partitions[partition], !state.dirty.isEmpty else { continue }
                for key in state.dirty {
                    records.append(
                        ProducerRecord(
                            topic: topic,
                            partition: partition.partition.rawValue,
                            key: StateRecord.encode(key, topic: partition.topic),
                            value: state.entries[key]
                        )
                    )
                }
                partitions[partition]?.dirty = []
            }
            return records
        }
    }

    /// Entries in memory.
    var count: Int { partitions.withLock { $0.values.reduce(0) { $0 + $1.entries.count } } }
}
