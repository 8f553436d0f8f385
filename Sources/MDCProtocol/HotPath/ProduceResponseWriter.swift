// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// Writes a produce response as a whole frame, topic by topic, without the arrays of ``ProduceResponse``.
///
/// Call ``beginTopic(_:)``, then ``partition(_:)`` for each of its partitions, then the next topic, and at last
/// ``finish(throttleTimeMs:nodeEndpoints:)``. The counts come first on the wire, so they must be known at the start.
public struct ProduceResponseWriter: Sendable {
    private var writer: MessageWriter
    private let version: Int16
    private let flexible: Bool
    private var topicsLeft: Int
    private var partitionsLeft = 0
    private var isInTopic = false

    /// Begins the response to the request `correlationID` of a `version`, for `topicCount` topics.
    /// Throws `unsupportedVersion` where the version is not known.
    public init(
        version: Int16,
        correlationID: Int32,
        topicCount: Int,
        allocator: ByteBufferAllocator = ByteBufferAllocator(),
        capacity: Int = 256
    ) throws(ProtocolError) {
        try ProduceResponse.check(version)
        self.version = version
        flexible = version >= ProduceResponse.flexibleFrom
        topicsLeft = topicCount
        writer = MessageWriter(allocator.buffer(capacity: capacity))
        writer.integer(0 as Int32)
        try ResponseHeader(correlationId: correlationID).write(
            to: &writer,
            version: HeaderVersions.response(.produce, version: version)
        )
        try writer.arrayCount("ProduceResponse.responses", topicCount, flexible: flexible)
    }

    /// Begins a topic, named as the request named it; as many partitions must follow as the request listed.
    public mutating func beginTopic(_ topic: TopicReference) throws(ProtocolError) {
        try beginTopic(name: topic.name, id: topic.id, partitionCount: topic.partitionCount)
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
            try writer.string("ProduceResponse.TopicProduceResponse.name", name, flexible: flexible)
        }
        try writer.arrayCount(
            "ProduceResponse.TopicProduceResponse.partitionResponses",
            partitionCount,
            flexible: flexible
        )
    }

    /// Writes the answer for one partition of the topic.
    public mutating func partition(_ response: ProduceResponse.PartitionProduceResponse) throws(ProtocolError) {
        precondition(partitionsLeft > 0, "more partitions than announced")
        partitionsLeft -= 1
        try response.write(to: &writer, version: version)
    }

    private mutating func endTopic() {
        precondition(partitionsLeft == 0, "fewer partitions than announced")
        if isInTopic && flexible { writer.unsignedVarint(0) }
        isInTopic = false
    }

    /// Ends the response; returns the frame with its length.
    /// - Parameter nodeEndpoints: addresses of leaders that errors name (from version 10).
    public mutating func finish(
        throttleTimeMs: Int32 = 0,
        nodeEndpoints: [ProduceResponse.NodeEndpoint] = []
    ) throws(ProtocolError) -> ByteBuffer {
        endTopic()
        precondition(topicsLeft == 0, "fewer topics than announced")
        if version >= 1 { writer.integer(throttleTimeMs) }
        try writer.endpointsTag(
            "ProduceResponse.nodeEndpoints",
            nodeEndpoints,
            version: version,
            from: 10,
            flexible: flexible
        )
        writer.buffer.setInteger(Int32(writer.buffer.readableBytes - 4), at: writer.buffer.readerIndex)
        return writer.buffer
    }
}

extension MessageWriter {
    /// Writes the bytes of a string that was read in place.
    mutating func string(_ field: StaticString, _ value: StringSlice, flexible: Bool) throws(ProtocolError) {
        try stringLength(field, value.bytes.readableBytes, flexible: flexible)
        buffer.writeImmutableBuffer(value.bytes)
    }

    /// Writes the tagged fields of a response whose only one, tag 0, is a list of endpoints that is left out when empty.
    mutating func endpointsTag<Endpoint: MessageStructure>(
        _ field: StaticString,
        _ endpoints: [Endpoint],
        version: Int16,
        from first: Int16,
        flexible: Bool
    ) throws(ProtocolError) {
        if endpoints.isEmpty {
            if flexible { unsignedVarint(0) }
            return
        }
        if version < first { throw Self.unsupported(field, version: version) }
        unsignedVarint(1)
        let mark: Int = openTag(0)
        try array(field, endpoints, version: version, flexible: true)
        closeTag(mark)
    }
}
