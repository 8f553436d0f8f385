// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// A structure inside a message, or a message: reads and writes itself in a version.
public protocol MessageStructure: Sendable, Equatable {
    /// Reads the fields of `version`; a field that it lacks keeps its default.
    init(from reader: inout MessageReader, version: Int16) throws(ProtocolError)
    /// Writes the fields of `version`. Throws `unsupportedField` where a field is set that the version lacks and that
    /// may not be left out.
    func write(to writer: inout MessageWriter, version: Int16) throws(ProtocolError)
}

/// A message of the protocol: request, response, header, or a record of an internal topic.
public protocol ProtocolMessage: MessageStructure {
    /// The versions whose layout we know.
    static var validVersions: ClosedRange<Int16> { get }
    /// The first version in the flexible encoding (compact lengths, tagged fields); `Int16.max` where there is none.
    static var flexibleFrom: Int16 { get }
}

/// A request.
public protocol RequestMessage: ProtocolMessage {
    /// What answers it.
    associatedtype Response: ResponseMessage
    /// The number of the API.
    static var apiKey: APIKey { get }
}

/// A response.
public protocol ResponseMessage: ProtocolMessage {
    /// The number of the API.
    static var apiKey: APIKey { get }
}

/// A response that can say for how long the client was throttled.
public protocol ThrottledResponse: ResponseMessage {
    /// Milliseconds for which the broker takes nothing from the client (KIP-219); left out in versions without it.
    var throttleTimeMs: Int32 { get set }
}

extension ProtocolMessage {
    /// Reads a message that fills `buffer` to its end, moving the reader index there.
    /// Throws `trailingBytes` where something is left.
    public init(reading buffer: inout ByteBuffer, version: Int16) throws(ProtocolError) {
        var reader = MessageReader(buffer)
        try self.init(from: &reader, version: version)
        try reader.finish("\(Self.self)")
        buffer.moveReaderIndex(to: buffer.writerIndex)
    }

    /// Appends the message to `buffer`.
    public func write(into buffer: inout ByteBuffer, version: Int16) throws(ProtocolError) {
        var writer = MessageWriter(buffer)
        buffer.clear(minimumCapacity: 0)  // gives up its storage, so that the writer appends in place
        defer { buffer = writer.buffer }
        try write(to: &writer, version: version)
    }

    /// The bytes of the message in a new buffer.
    public func encoded(version: Int16) throws(ProtocolError) -> ByteBuffer {
        var writer = MessageWriter()
        try write(to: &writer, version: version)
        return writer.buffer
    }

    /// Throws `unsupportedVersion` unless `version` is one of ``validVersions``.
    @usableFromInline
    static func check(_ version: Int16) throws(ProtocolError) {
        if validVersions.contains(version) { return }
        throw ProtocolError(
            .unsupportedVersion,
            field: "\(Self.self)",
            detail: "version \(version) is not known; use \(validVersions.lowerBound) to \(validVersions.upperBound)"
        )
    }
}

/// A tagged field that we do not know; kept, so that what is read is written back.
public struct UnknownTaggedField: Hashable, Sendable {
    /// The number of the field.
    public var tag: UInt32
    /// Its bytes.
    public var bytes: ByteBuffer

    /// Makes a field.
    public init(tag: UInt32, bytes: ByteBuffer) {
        self.tag = tag
        self.bytes = bytes
    }
}
