// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// Which header stands before which message.
public enum HeaderVersions {
    /// The version of the request header of an API and version.
    ///
    /// 2 for messages in the flexible encoding, else 1, except version 0 of ControlledShutdown, which knows no client
    /// id. An API that we do not know is read with version 1, whose fields every later header has too.
    public static func request(_ key: APIKey, version: Int16) -> Int16 {
        if key == .controlledShutdown && version == 0 { return 0 }
        guard let entry = APIVersions.entry(for: key) else { return 1 }
        return version >= entry.flexibleFrom ? 2 : 1
    }

    /// The version of the response header of an API and version.
    ///
    /// 1 for messages in the flexible encoding, else 0; always 0 for ApiVersions, because a client must be able to
    /// read that answer before it knows what the broker speaks (KIP-511).
    public static func response(_ key: APIKey, version: Int16) -> Int16 {
        if key == .apiVersions { return 0 }
        guard let entry = APIVersions.entry(for: key) else { return 0 }
        return version >= entry.flexibleFrom ? 1 : 0
    }
}

extension RequestHeader {
    /// The API that is asked.
    public var apiKey: APIKey { APIKey(rawValue: requestApiKey) }
    /// The version of the request.
    public var apiVersion: Int16 { requestApiVersion }
    /// The version of this header.
    public var headerVersion: Int16 { HeaderVersions.request(apiKey, version: apiVersion) }

    /// Makes the header of a request.
    public init(apiKey: APIKey, apiVersion: Int16, correlationId: Int32, clientId: String?) {
        self.init(
            requestApiKey: apiKey.rawValue,
            requestApiVersion: apiVersion,
            correlationId: correlationId,
            clientId: clientId
        )
    }

    /// Reads the header at the head of a frame and moves the reader index past it, to the body.
    ///
    /// The API and version stand first, so they tell the version of the header itself. Throws as
    /// ``init(from:version:)`` does; the reader index then stays where it was.
    public init(readingHeadOf frame: inout ByteBuffer) throws(ProtocolError) {
        var reader = MessageReader(frame)
        guard let key = frame.getInteger(at: frame.readerIndex, as: Int16.self),
            let version = frame.getInteger(at: frame.readerIndex + 2, as: Int16.self)
        else {
            throw reader.truncated("RequestHeader", needed: 8)
        }
        try self.init(from: &reader, version: HeaderVersions.request(APIKey(rawValue: key), version: version))
        frame.moveReaderIndex(forwardBy: reader.position)
    }
}

extension ResponseHeader {
    /// Reads the header of the response to a request of this API and version, and moves the reader index to the body.
    public init(
        readingHeadOf frame: inout ByteBuffer,
        apiKey: APIKey,
        apiVersion: Int16
    ) throws(ProtocolError) {
        var reader = MessageReader(frame)
        try self.init(from: &reader, version: HeaderVersions.response(apiKey, version: apiVersion))
        frame.moveReaderIndex(forwardBy: reader.position)
    }
}

/// Whole frames: length, header, body.
public enum Frame {
    /// A request as it goes on the wire. Throws as the message's `write` does.
    public static func request<Request: RequestMessage>(
        _ message: Request,
        version: Int16,
        correlationId: Int32,
        clientId: String?,
        allocator: ByteBufferAllocator = ByteBufferAllocator(),
        capacity: Int = 256
    ) throws(ProtocolError) -> ByteBuffer {
        let header = RequestHeader(
            apiKey: Request.apiKey,
            apiVersion: version,
            correlationId: correlationId,
            clientId: clientId
        )
        var writer = MessageWriter(allocator.buffer(capacity: capacity))
        writer.integer(0 as Int32)
        try header.write(to: &writer, version: header.headerVersion)
        try message.write(to: &writer, version: version)
        return finish(&writer)
    }

    /// A response as it goes on the wire. Throws as the message's `write` does.
    public static func response<Response: ResponseMessage>(
        _ message: Response,
        version: Int16,
        correlationId: Int32,
        allocator: ByteBufferAllocator = ByteBufferAllocator(),
        capacity: Int = 256
    ) throws(ProtocolError) -> ByteBuffer {
        var writer = MessageWriter(allocator.buffer(capacity: capacity))
        writer.integer(0 as Int32)
        let header = ResponseHeader(correlationId: correlationId)
        try header.write(to: &writer, version: HeaderVersions.response(Response.apiKey, version: version))
        try message.write(to: &writer, version: version)
        return finish(&writer)
    }

    private static func finish(_ writer: inout MessageWriter) -> ByteBuffer {
        writer.buffer.setInteger(Int32(writer.buffer.readableBytes - 4), at: writer.buffer.readerIndex)
        return writer.buffer
    }
}
