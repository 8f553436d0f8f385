// SPDX-License-Identifier: Apache-2.0

import MDCClient
public import MDCModel
public import NIOCore

/// Where a record of a source lies.
public struct SourcePosition: Sendable, Hashable, CustomStringConvertible {
    /// The partition.
    public var partition: TopicPartition
    /// The offset in it.
    public var offset: Offset

    /// Names a record.
    public init(partition: TopicPartition, offset: Offset) {
        self.partition = partition
        self.offset = offset
    }

    /// `topic:partition:offset`, as dead letters have it.
    public var description: String { "\(partition.topic):\(partition.partition):\(offset)" }

    /// Reads what ``description`` writes; nil for anything else.
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 3, !parts[0].isEmpty, let partition = Int32(parts[1]), let offset = Int64(parts[2]),
            partition >= 0, offset >= 0
        else { return nil }
        self.init(
            partition: TopicPartition(topic: String(parts[0]), partition: PartitionID(partition)),
            offset: Offset(offset)
        )
    }
}

/// A record on its way through a topology.
public struct StreamRecord: Sendable, Hashable {
    /// The key; nil for none. Grouping by key goes by it.
    public var key: ByteBuffer?
    /// The value; nil is a tombstone where it goes to a compacted topic.
    public var value: ByteBuffer?
    /// Headers in order.
    public var headers: [RecordHeader]
    /// Event time in milliseconds since 1970. Windows go by it.
    public var timestamp: Timestamp

    /// Makes a record.
    public init(key: ByteBuffer? = nil, value: ByteBuffer?, headers: [RecordHeader] = [], timestamp: Timestamp) {
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp
    }

    init(_ record: ConsumerRecord) {
        self.init(key: record.key, value: record.value, headers: record.headers, timestamp: record.timestamp)
    }

    /// The key as text; nil for none.
    public var keyText: String? { key.map { String(buffer: $0) } }
    /// The value as text; empty for none.
    public var text: String { value.map { String(buffer: $0) } ?? "" }
}
