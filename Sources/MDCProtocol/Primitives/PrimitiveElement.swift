// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// A primitive that may be the element of an array.
public protocol PrimitiveElement: Sendable {
    /// The least number of bytes it takes.
    static var minimumSize: Int { get }
    /// Reads one.
    init(from reader: inout MessageReader, field: StaticString, flexible: Bool) throws(ProtocolError)
    /// Writes one.
    func write(to writer: inout MessageWriter, field: StaticString, flexible: Bool) throws(ProtocolError)
}

extension PrimitiveElement where Self: FixedWidthInteger {
    /// The least number of bytes it takes.
    public static var minimumSize: Int { MemoryLayout<Self>.size }

    /// Reads one.
    public init(from reader: inout MessageReader, field: StaticString, flexible: Bool) throws(ProtocolError) {
        self = try reader.integer(field)
    }

    /// Writes one.
    public func write(to writer: inout MessageWriter, field: StaticString, flexible: Bool) throws(ProtocolError) {
        writer.integer(self)
    }
}

extension Int8: PrimitiveElement {}
extension Int16: PrimitiveElement {}
extension UInt16: PrimitiveElement {}
extension Int32: PrimitiveElement {}
extension UInt32: PrimitiveElement {}
extension Int64: PrimitiveElement {}

extension String: PrimitiveElement {
    /// The least number of bytes it takes.
    public static var minimumSize: Int { 1 }

    /// Reads one.
    public init(from reader: inout MessageReader, field: StaticString, flexible: Bool) throws(ProtocolError) {
        self = try reader.string(field, flexible: flexible)
    }

    /// Writes one.
    public func write(to writer: inout MessageWriter, field: StaticString, flexible: Bool) throws(ProtocolError) {
        try writer.string(field, self, flexible: flexible)
    }
}

extension KafkaUUID: PrimitiveElement {
    /// The least number of bytes it takes.
    public static var minimumSize: Int { 16 }

    /// Reads one.
    public init(from reader: inout MessageReader, field: StaticString, flexible: Bool) throws(ProtocolError) {
        self = try reader.uuid(field)
    }

    /// Writes one.
    public func write(to writer: inout MessageWriter, field: StaticString, flexible: Bool) throws(ProtocolError) {
        writer.uuid(self)
    }
}
