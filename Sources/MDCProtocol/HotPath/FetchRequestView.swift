// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// A fetch request read in place: no allocation per topic or partition.
///
/// Making one checks the whole request; walking it afterwards cannot fail. Fields that a version lacks have the defaults
/// of ``FetchRequest``. Unknown tagged fields are passed over; names are not checked to be UTF-8.
public struct FetchRequestView: Sendable {
    /// The version of the request.
    public let version: Int16
    /// The cluster that the follower believes to be in; nil where it does not say.
    public private(set) var clusterID: StringSlice?
    /// The broker that replicates; -1 for a consumer.
    public private(set) var replicaID: Int32 = -1
    /// The epoch of that broker; -1 where unknown.
    public private(set) var replicaEpoch: Int64 = -1
    /// How long to wait for ``minBytes``.
    public let maxWaitMs: Int32
    /// How many bytes to wait for.
    public let minBytes: Int32
    /// The most bytes of the whole answer, which the first batch alone may exceed.
    public let maxBytes: Int32
    /// 0 to read uncommitted records, 1 for committed ones alone.
    public let isolationLevel: Int8
    /// The fetch session; 0 for none.
    public let sessionID: Int32
    /// The epoch of the session: 0 asks for a new one, -1 for none.
    public let sessionEpoch: Int32
    /// The rack of the consumer; empty where unknown.
    public let rackID: StringSlice
    /// How many topics the request lists.
    public let topicCount: Int
    /// How many partitions it lists, over all topics.
    public let partitionCount: Int
    /// How many partitions leave the session.
    public let forgottenCount: Int

    private let topics: MessageReader
    private let forgottenTopics: MessageReader?

    /// Reads and checks a request, from the readable bytes after its header.
    public init(_ body: ByteBuffer, version: Int16) throws(ProtocolError) {
        try FetchRequest.check(version)
        let flexible: Bool = version >= FetchRequest.flexibleFrom
        var reader = MessageReader(body)
        self.version = version
        let replica: Int32 = version <= 14 ? try reader.integer("FetchRequest.replicaId") : -1
        maxWaitMs = try reader.integer("FetchRequest.maxWaitMs")
        minBytes = try reader.integer("FetchRequest.minBytes")
        maxBytes = version >= 3 ? try reader.integer("FetchRequest.maxBytes") : Int32.max
        isolationLevel = version >= 4 ? try reader.integer("FetchRequest.isolationLevel") : 0
        sessionID = version >= 7 ? try reader.integer("FetchRequest.sessionId") : 0
        sessionEpoch = version >= 7 ? try reader.integer("FetchRequest.sessionEpoch") : -1
        topics = reader

        var walk = try Partitions(topics, version: version)
        topicCount = walk.topicCount
        var count = 0
        while try walk.advance() != nil { count += 1 }
        partitionCount = count
        reader = walk.reader

        var forgotten = 0
        if version >= 7 {
            forgottenTopics = reader
            var walk = try ForgottenPartitions(reader, version: version)
            while try walk.advance() != nil { forgotten += 1 }
            reader = walk.reader
        } else {
            forgottenTopics = nil
        }
        forgottenCount = forgotten
        rackID =
            version >= 11
            ? StringSlice(try reader.stringBytes("FetchRequest.rackId", flexible: flexible)) : StringSlice(ByteBuffer())
        replicaID = replica
        if flexible { try readTags(&reader) }
        try reader.finish("FetchRequest")
    }

    private mutating func readTags(_ reader: inout MessageReader) throws(ProtocolError) {
        for _ in 0..<(try reader.taggedFieldCount("FetchRequest.taggedFields")) {
            let tag: UInt32 = try reader.tag("FetchRequest.taggedFields")
            let outer: Int = try reader.openTag("FetchRequest.taggedFields")
            if tag == 0 {
                clusterID = try reader.nullableStringBytes("FetchRequest.clusterId", flexible: true)
                    .map(StringSlice.init)
            } else if tag == 1 && version >= 15 {
                replicaID = try reader.integer("FetchRequest.ReplicaState.replicaId")
                replicaEpoch = try reader.integer("FetchRequest.ReplicaState.replicaEpoch")
                try reader.skipTags("FetchRequest.ReplicaState.taggedFields")
            } else {
                try reader.skip("FetchRequest.taggedFields", count: reader.remaining)
            }
            try reader.closeTag("FetchRequest.taggedFields", outer)
        }
    }

    /// The partitions, in the order of the request.
    public var partitions: Partitions {
        do {
            return try Partitions(topics, version: version)
        } catch {
            preconditionFailure("the request was checked when it was read: \(error)")
        }
    }

    /// The partitions that leave the session, in the order of the request.
    public var forgottenPartitions: ForgottenPartitions {
        do {
            return try ForgottenPartitions(forgottenTopics, version: version)
        } catch {
            preconditionFailure("the request was checked when it was read: \(error)")
        }
    }

    /// A partition to read.
    public struct Partition: Sendable {
        /// The topic it belongs to.
        public let topic: TopicReference
        /// The number of the partition.
        public let index: Int32
        /// The leader epoch that the reader knows; -1 where unknown.
        public let currentLeaderEpoch: Int32
        /// Where to read from.
        public let fetchOffset: Int64
        /// The leader epoch of the last record that the reader has; -1 where unknown.
        public let lastFetchedEpoch: Int32
        /// The first offset that a follower has; -1 for a consumer.
        public let logStartOffset: Int64
        /// The most bytes to return for the partition.
        public let maxBytes: Int32
        /// The log directory of the follower's replica; zero where unknown.
        public fileprivate(set) var replicaDirectoryID = KafkaUUID.zero
        /// The high watermark that the follower knows; `Int64.max` where it does not say.
        public fileprivate(set) var highWatermark = Int64.max
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
            self.flexible = version >= FetchRequest.flexibleFrom
            self.topicCount = try self.reader.requiredCount("FetchRequest.topics", flexible: flexible, minimumSize: 3)
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
                if topic != nil && flexible { try reader.skipTags("FetchRequest.FetchTopic.taggedFields") }
                topic = nil
                ordinal += 1
                if ordinal >= topicCount { return nil }
                let (name, id) = try reader.topicNameOrID(
                    "FetchRequest.FetchTopic.topic",
                    byID: version >= 13,
                    flexible: flexible
                )
                left = try reader.requiredCount(
                    "FetchRequest.FetchTopic.partitions",
                    flexible: flexible,
                    minimumSize: 16
                )
                topic = TopicReference(ordinal: ordinal, name: name, id: id, partitionCount: left)
            }
            guard let topic else { return nil }
            left -= 1
            return try readPartition(topic)
        }

        private mutating func readPartition(_ topic: TopicReference) throws(ProtocolError) -> Partition {
            let index: Int32 = try reader.integer("FetchRequest.FetchPartition.partition")
            let currentLeaderEpoch: Int32 =
                version >= 9 ? try reader.integer("FetchRequest.FetchPartition.currentLeaderEpoch") : -1
            let fetchOffset: Int64 = try reader.integer("FetchRequest.FetchPartition.fetchOffset")
            let lastFetchedEpoch: Int32 =
                version >= 12 ? try reader.integer("FetchRequest.FetchPartition.lastFetchedEpoch") : -1
            let logStartOffset: Int64 =
                version >= 5 ? try reader.integer("FetchRequest.FetchPartition.logStartOffset") : -1
            let maxBytes: Int32 = try reader.integer("FetchRequest.FetchPartition.partitionMaxBytes")
            var partition = Partition(
                topic: topic,
                index: index,
                currentLeaderEpoch: currentLeaderEpoch,
                fetchOffset: fetchOffset,
                lastFetchedEpoch: lastFetchedEpoch,
                logStartOffset: logStartOffset,
                maxBytes: maxBytes
            )
            if flexible { try readTags(&partition) }
            return partition
        }

        private mutating func readTags(_ partition: inout Partition) throws(ProtocolError) {
            for _ in 0..<(try reader.taggedFieldCount("FetchRequest.FetchPartition.taggedFields")) {
                let tag: UInt32 = try reader.tag("FetchRequest.FetchPartition.taggedFields")
                let outer: Int = try reader.openTag("FetchRequest.FetchPartition.taggedFields")
                if tag == 0 && version >= 17 {
                    partition.replicaDirectoryID = try reader.uuid("FetchRequest.FetchPartition.replicaDirectoryId")
                } else if tag == 1 && version >= 18 {
                    partition.highWatermark = try reader.integer("FetchRequest.FetchPartition.highWatermark")
                } else {
                    try reader.skip("FetchRequest.FetchPartition.taggedFields", count: reader.remaining)
                }
                try reader.closeTag("FetchRequest.FetchPartition.taggedFields", outer)
            }
        }
    }

    /// A partition that leaves the session.
    public struct ForgottenPartition: Sendable {
        /// The topic it belongs to.
        public let topic: TopicReference
        /// The number of the partition.
        public let index: Int32
    }

    /// Walks the partitions that leave the session.
    public struct ForgottenPartitions: Sequence, IteratorProtocol, Sendable {
        fileprivate var reader: MessageReader
        private let version: Int16
        private let flexible: Bool
        private let topicCount: Int
        private var ordinal = -1
        private var topic: TopicReference?
        private var left = 0

        /// `reader` is nil in versions that have no sessions.
        fileprivate init(_ reader: MessageReader?, version: Int16) throws(ProtocolError) {
            self.reader = reader ?? MessageReader(ByteBuffer())
            self.version = version
            self.flexible = version >= FetchRequest.flexibleFrom
            self.topicCount =
                reader == nil
                ? 0
                : try self.reader.requiredCount(
                    "FetchRequest.forgottenTopicsData",
                    flexible: flexible,
                    minimumSize: 3
                )
        }

        /// The next partition, nil after the last.
        public mutating func next() -> ForgottenPartition? {
            do {
                return try advance()
            } catch {
                preconditionFailure("the request was checked when it was read: \(error)")
            }
        }

        fileprivate mutating func advance() throws(ProtocolError) -> ForgottenPartition? {
            while left == 0 {
                if topic != nil && flexible { try reader.skipTags("FetchRequest.ForgottenTopic.taggedFields") }
                topic = nil
                ordinal += 1
                if ordinal >= topicCount { return nil }
                let (name, id) = try reader.topicNameOrID(
                    "FetchRequest.ForgottenTopic.topic",
                    byID: version >= 13,
                    flexible: flexible
                )
                left = try reader.requiredCount(
                    "FetchRequest.ForgottenTopic.partitions",
                    flexible: flexible,
                    minimumSize: 4
                )
                topic = TopicReference(ordinal: ordinal, name: name, id: id, partitionCount: left)
            }
            guard let topic else { return nil }
            left -= 1
            let index: Int32 = try reader.integer("FetchRequest.ForgottenTopic.partitions")
            return ForgottenPartition(topic: topic, index: index)
        }
    }
}
