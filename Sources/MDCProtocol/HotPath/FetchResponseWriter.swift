// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// Writes a fetch response as pieces: bytes of ours, and between them the records, which stay where they are.
///
/// `Records` is whatever the caller sends records as: a slice of a file, a buffer. Only its length goes through here.
/// Call ``beginTopic(name:id:partitionCount:)``, then ``partition(_:records:length:)`` for each of its partitions, then
/// the next topic, and at last ``finish(nodeEndpoints:)``. The counts come first on the wire, so they must be known at
/// the start. All bytes of ours are slices of one buffer.
public struct FetchResponseWriter<Records: Sendable>: Sendable {
    /// What to send next.
    public enum Piece: Sendable {
        /// Bytes of the response.
        case bytes(ByteBuffer)
        /// Records, of the length that was told.
        case records(Records, length: Int)
    }

    private var writer: MessageWriter
    private let version: Int16
    private let flexible: Bool
    private var topicsLeft: Int
    private var partitionsLeft = 0
    private var isInTopic = false
    private var cuts: [(position: Int, records: Records, length: Int)] = []
    private var recordBytes = 0

    /// Begins the response to the request `correlationID` of a `version`, for `topicCount` topics.
    /// Throws `unsupportedVersion` where the version is not known.
    public init(
        version: Int16,
        correlationID: Int32,
        throttleTimeMs: Int32 = 0,
        errorCode: ErrorCode = .none,
        sessionID: Int32 = 0,
        topicCount: Int,
        allocator: ByteBufferAllocator = ByteBufferAllocator(),
        capacity: Int = 512
    ) throws(ProtocolError) {
        try FetchResponse.check(version)
        self.version = version
        flexible = version >= FetchResponse.flexibleFrom
        topicsLeft = topicCount
        writer = MessageWriter(allocator.buffer(capacity: capacity))
        writer.integer(0 as Int32)
        try ResponseHeader(correlationId: correlationID).write(
            to: &writer,
            version: HeaderVersions.response(.fetch, version: version)
        )
        if version >= 1 { writer.integer(throttleTimeMs) }
        if version >= 7 {
            writer.integer(errorCode.rawValue)
            writer.integer(sessionID)
        }
        try writer.arrayCount("FetchResponse.responses", topicCount, flexible: flexible)
    }

    /// Begins a topic with its name (up to version 12) or id (from version 13).
    public mutating func beginTopic(
        name: StringSlice,
        id: TopicID,
        partitionCount: Int
    ) throws(ProtocolError) {
        endTopic()
        precondition(topicsLeft > 0, "more topics than announced")
        topicsLeft -= 1
        partitionsLeft = partitionCount
        isInTopic = true
        if version >= 13 {
            writer.uuid(id)
        } else {
            try writer.string("FetchResponse.FetchableTopicResponse.topic", name, flexible: flexible)
        }
        try writer.arrayCount(
            "FetchResponse.FetchableTopicResponse.partitions",
            partitionCount,
            flexible: flexible
        )
    }

    /// Writes the answer for one partition of the topic. The records of `data` are not used: `records`, of `length`
    /// bytes, take their place; without them the partition has none.
    public mutating func partition(
        _ data: FetchResponse.PartitionData,
        records: Records? = nil,
        length: Int = 0
    ) throws(ProtocolError) {
        precondition(partitionsLeft > 0, "more partitions than announced")
        precondition(length >= 0 && (records != nil || length == 0), "a length needs records")
        partitionsLeft -= 1
        writer.integer(data.partitionIndex)
        writer.integer(data.errorCode)
        writer.integer(data.highWatermark)
        if version >= 4 { writer.integer(data.lastStableOffset) }
        if version >= 5 { writer.integer(data.logStartOffset) }
        if version >= 4 {
            try writer.nullableArray(
                "FetchResponse.PartitionData.abortedTransactions",
                data.abortedTransactions,
                version: version,
                flexible: flexible
            )
        }
        if version >= 11 {
            writer.integer(data.preferredReadReplica)
        } else if data.preferredReadReplica != -1 {
            throw MessageWriter.unsupported("FetchResponse.PartitionData.preferredReadReplica", version: version)
        }
        try writer.bytesLength("FetchResponse.PartitionData.records", length, flexible: flexible)
        if let records, length > 0 {
            cuts.append((writer.buffer.readableBytes, records, length))
            recordBytes += length
        }
        if flexible { try writeTags(of: data) }
    }

    private mutating func writeTags(of data: FetchResponse.PartitionData) throws(ProtocolError) {
        let hasEpoch: Bool = data.divergingEpoch.epoch != -1 || data.divergingEpoch.endOffset != -1
        let hasLeader: Bool = data.currentLeader.leaderId != -1 || data.currentLeader.leaderEpoch != -1
        let hasSnapshot: Bool = data.snapshotId.endOffset != -1 || data.snapshotId.epoch != -1
        writer.unsignedVarint((hasEpoch ? 1 : 0) + (hasLeader ? 1 : 0) + (hasSnapshot ? 1 : 0))
        if hasEpoch {
            let mark: Int = writer.openTag(0)
            try data.divergingEpoch.write(to: &writer, version: version)
            writer.closeTag(mark)
        }
        if hasLeader {
            let mark: Int = writer.openTag(1)
            try data.currentLeader.write(to: &writer, version: version)
            writer.closeTag(mark)
        }
        if hasSnapshot {
            let mark: Int = writer.openTag(2)
            try data.snapshotId.write(to: &writer, version: version)
            writer.closeTag(mark)
        }
    }

    private mutating func endTopic() {
        precondition(partitionsLeft == 0, "fewer partitions than announced")
        if isInTopic && flexible { writer.unsignedVarint(0) }
        isInTopic = false
    }

    /// Ends the response; returns its pieces in the order to send, the length of the frame in the first.
    /// - Parameter nodeEndpoints: addresses of leaders that errors name (from version 16).
    public mutating func finish(
        nodeEndpoints: [FetchResponse.NodeEndpoint] = []
    ) throws(ProtocolError) -> [Piece] {
        endTopic()
        precondition(topicsLeft == 0, "fewer topics than announced")
        try writer.endpointsTag(
            "FetchResponse.nodeEndpoints",
            nodeEndpoints,
            version: version,
            from: 16,
            flexible: flexible
        )
        let size: Int = writer.buffer.readableBytes - 4 + recordBytes
        guard let length = Int32(exactly: size) else {
            throw ProtocolError(
                .tooLong,
                field: "FetchResponse",
                detail: "\(size) bytes do not fit in one frame; lower fetch.max.bytes"
            )
        }
        writer.buffer.setInteger(length, at: writer.buffer.readerIndex)

        var pieces: [Piece] = []
        pieces.reserveCapacity(2 * cuts.count + 1)
        var rest: ByteBuffer = writer.buffer
        var written = 0
        for cut in cuts {
            if let bytes = rest.readSlice(length: cut.position - written) { pieces.append(.bytes(bytes)) }
            pieces.append(.records(cut.records, length: cut.length))
            written = cut.position
        }
        if rest.readableBytes > 0 { pieces.append(.bytes(rest)) }
        return pieces
    }
}
