// SPDX-License-Identifier: Apache-2.0

import MDCModel
public import NIOCore

/// A produce request read in place: no allocation per topic or partition, records as slices.
///
/// Making one checks the whole request, so that a broker appends nothing of a request whose end is damaged; walking it
/// afterwards cannot fail. Equal to ``ProduceRequest`` field by field, except that unknown tagged fields are passed over
/// and that names are not checked to be UTF-8.
public struct ProduceRequestView: Sendable {
    /// The version of the request.
    public let version: Int16
    /// The transactional id; nil where there is none.
    public let transactionalID: StringSlice?
    /// 0 for no answer, 1 for the leader, -1 for all in-sync replicas.
    public let acks: Int16
    /// How long to wait for acknowledgement.
    public let timeoutMs: Int32
    /// How many topics the request lists.
    public let topicCount: Int
    /// How many partitions it lists, over all topics.
    public let partitionCount: Int
    /// How many bytes of records it carries.
    public let recordBytes: Int

    private let topics: MessageReader

    /// Reads and checks a request, from the readable bytes after its header.
    public init(_ body: ByteBuffer, version: Int16) throws(ProtocolError) {
        try ProduceRequest.check(version)
        let flexible: Bool = version >= ProduceRequest.flexibleFrom
        var reader = MessageReader(body)
        self.version = version
        transactionalID =
            version >= 3
            ? try reader.nullableStringBytes("ProduceRequest.transactionalId", flexible: flexible).map(StringSlice.init)
            : nil
        acks = try reader.integer("ProduceRequest.acks")
        timeoutMs = try reader.integer("ProduceRequest.timeoutMs")
        topics = reader

        var walk = try Partitions(topics, version: version)
        topicCount = walk.topicCount
        var partitionCount = 0
        var recordBytes = 0
        while let partition = try walk.advance() {
            partitionCount += 1
            recordBytes += partition.records?.readableBytes ?? 0
        }
        if flexible { try walk.reader.skipTags("ProduceRequest.taggedFields") }
        try walk.reader.finish("ProduceRequest")
        self.partitionCount = partitionCount
        self.recordBytes = recordBytes
    }

    /// The partitions, in the order of the request.
    public var partitions: Partitions {
        do {
            return try Partitions(topics, version: version)
        } catch {
            preconditionFailure("the request was checked when it was read: \(error)")
        }
    }

    /// A partition of the request.
    public struct Partition: Sendable {
        /// The topic it belongs to.
        public let topic: TopicReference
        /// The number of the partition.
        public let index: Int32
        /// The record batches, not checked; nil where the client sent null.
        public let records: ByteBuffer?
    }

    /// Walks the partitions.
    public struct Partitions: Sequence, IteratorProtocol, Sendable {
        fileprivate var reader: MessageReader
        private let version: Int16
        private let flexible: Bool
        fileprivate let topicCount: Int
        private var ordinal = -1
        private var topic: TopicReference?
        private var left = 0

        fileprivate init(_ reader: MessageReader, version: Int16) throws(ProtocolError) {
            self.reader = reader
            self.version = version
            self.flexible = version >= ProduceRequest.flexibleFrom
            self.topicCount = try self.reader.requiredCount(
                "ProduceRequest.topicData",
                flexible: flexible,
                minimumSize: 3
            )
        }

        /// The next partition, nil after the last.
        public mutating func next() -> Partition? {
            do {
                return try advance()
            } catch {
                preconditionFailure("the request was checked when it was read: \(error)")
            }
        }

        fileprivate mutating func advance() throws(ProtocolError) -> Partition? {
            while left == 0 {
                if topic != nil && flexible { try reader.skipTags("ProduceRequest.TopicProduceData.taggedFields") }
                topic = nil
                ordinal += 1
                if ordinal >= topicCount { return nil }
                let (name, id) = try reader.topicNameOrID(
                    "ProduceRequest.TopicProduceData.name",
                    byID: version >= 13,
                    flexible: flexible
                )
                left = try reader.requiredCount(
                    "ProduceRequest.TopicProduceData.partitionData",
                    flexible: flexible,
                    minimumSize: flexible ? 6 : 8
                )
                topic = TopicReference(ordinal: ordinal, name: name, id: id, partitionCount: left)
            }
            guard let topic else { return nil }
            left -= 1
            let index: Int32 = try reader.integer("ProduceRequest.PartitionProduceData.index")
            let records = try reader.nullableBytes("ProduceRequest.PartitionProduceData.records", flexible: flexible)
            if flexible { try reader.skipTags("ProduceRequest.PartitionProduceData.taggedFields") }
            return Partition(topic: topic, index: index, records: records)
        }
    }
}

extension MessageReader {
    /// Reads the count of an array that may not be null.
    mutating func requiredCount(
        _ field: StaticString,
        flexible: Bool,
        minimumSize: Int
    ) throws(ProtocolError) -> Int {
        guard let count = try arrayCount(field, flexible: flexible, minimumSize: minimumSize) else {
            throw unexpectedNull(field)
        }
        return count
    }

    /// Reads a topic's name, or its id.
    mutating func topicNameOrID(
        _ field: StaticString,
        byID: Bool,
        flexible: Bool
    ) throws(ProtocolError) -> (StringSlice, TopicID) {
        if byID { return (StringSlice(ByteBuffer()), try uuid(field)) }
        return (StringSlice(try stringBytes(field, flexible: flexible)), .zero)
    }
}
