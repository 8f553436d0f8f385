// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// A name and a value that travel with a record. Names may repeat; their order is kept.
public struct RecordHeader: Hashable, Sendable {
    /// The name.
    public var key: String
    /// The value; null is not the same as empty.
    public var value: ByteBuffer?

    /// Makes a header.
    public init(key: String, value: ByteBuffer?) {
        self.key = key
        self.value = value
    }
}

/// One record as read from a batch. Key and value are slices of the batch where it was not compressed.
public struct Record: Hashable, Sendable {
    /// The position in the partition.
    public var offset: Offset
    /// When it was made, or appended, by the batch's timestamp type.
    public var timestamp: Timestamp
    /// The key; null is not the same as empty.
    public var key: ByteBuffer?
    /// The value; null is a tombstone where the topic is compacted.
    public var value: ByteBuffer?
    /// The headers, in order.
    public var headers: [RecordHeader]

    /// Makes a record.
    public init(
        offset: Offset,
        timestamp: Timestamp,
        key: ByteBuffer?,
        value: ByteBuffer?,
        headers: [RecordHeader] = []
    ) {
        self.offset = offset
        self.timestamp = timestamp
        self.key = key
        self.value = value
        self.headers = headers
    }
}
