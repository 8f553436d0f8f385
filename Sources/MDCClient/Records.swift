// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// A record to produce.
public struct ProducerRecord: Sendable {
    /// The topic.
    public var topic: String
    /// The partition; nil lets the client choose (by key, or else spread in whole batches).
    public var partition: Int32?
    /// The key; nil for none.
    public var key: ByteBuffer?
    /// The value; nil is a tombstone on a compacted topic.
    public var value: ByteBuffer?
    /// Headers in order; a key may repeat.
    public var headers: [RecordHeader]
    /// The time of the record; nil means now.
    public var timestamp: Timestamp?

    /// Makes a record.
    public init(
        topic: String,
        partition: Int32? = nil,
        key: ByteBuffer? = nil,
        value: ByteBuffer?,
        headers: [RecordHeader] = [],
        timestamp: Timestamp? = nil
    ) {
        self.topic = topic
        self.partition = partition
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp
    }
}

/// Where an acknowledged record lies.
public struct RecordMetadata: Sendable, Hashable {
    /// The topic.
    public let topic: String
    /// The partition.
    public let partition: Int32
    /// The offset; -1 where the broker did not tell (`acks=0`, or a repetition that it had already).
    public let offset: Int64
    /// The record's time: the producer's, or the broker's where the topic stamps on append.
    public let timestamp: Timestamp

    /// Makes a value.
    public init(topic: String, partition: Int32, offset: Int64, timestamp: Timestamp) {
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp = timestamp
    }
}

/// A record that was consumed.
public struct ConsumerRecord: Sendable {
    /// Where it came from.
    public let topicPartition: TopicPartition
    /// Its offset in the partition.
    public let offset: Offset
    /// Its time in milliseconds since 1970.
    public let timestamp: Timestamp
    /// Epoch of the leader that appended it.
    public let leaderEpoch: LeaderEpoch
    /// Its key.
    public let key: ByteBuffer?
    /// Its value; nil is a tombstone.
    public let value: ByteBuffer?
    /// Its headers in order.
    public let headers: [RecordHeader]

    /// Makes a record (for tests of code that consumes).
    public init(
        topicPartition: TopicPartition,
        offset: Offset,
        timestamp: Timestamp,
        leaderEpoch: LeaderEpoch = -1,
        key: ByteBuffer? = nil,
        value: ByteBuffer?,
        headers: [RecordHeader] = []
    ) {
        self.topicPartition = topicPartition
        self.offset = offset
        self.timestamp = timestamp
        self.leaderEpoch = leaderEpoch
        self.key = key
        self.value = value
        self.headers = headers
    }
}

/// An offset to commit, or that was committed: the next one to read.
public struct OffsetAndMetadata: Sendable, Hashable {
    /// The offset of the next record to read (one past the last that was processed).
    public var offset: Offset
    /// Epoch of the last record that was processed; -1 where it is not known.
    public var leaderEpoch: LeaderEpoch
    /// Anything the application wants beside the offset.
    public var metadata: String

    /// Makes a value.
    public init(_ offset: Offset, leaderEpoch: LeaderEpoch = -1, metadata: String = "") {
        self.offset = offset
        self.leaderEpoch = leaderEpoch
        self.metadata = metadata
    }
}

/// An offset that was found by time.
public struct OffsetAndTimestamp: Sendable, Hashable {
    /// The offset.
    public let offset: Offset
    /// Time of the record at that offset.
    public let timestamp: Timestamp
}
