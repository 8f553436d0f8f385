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
    public static var minimumSize: Int { MemoryLayout<Self>.size }

    public init(from reader: inout MessageReader, field: StaticString, flexible: Bool) throws(ProtocolError) {
        self = try reader.integer(field)
    }

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
    public static var minimumSize: Int { 1 }

    public init(from reader: inout MessageReader, field: StaticString, flexible: Bool) throws(ProtocolError) {
        self = try reader.string(field, flexible: flexible)
    }

    public func write(to writer: inout MessageWriter, field: StaticString, flexible: Bool) throws(ProtocolError) {
        try writer.string(field, self, flexible: flexible)
    }
}

extension KafkaUUID: PrimitiveElement {
    public static var minimumSize: Int { 16 }

    public init(from reader: inout MessageReader, field: StaticString, flexible: Bool) throws(ProtocolError) {
        self = try reader.uuid(field)
    }

    public func write(to writer: inout MessageWriter, field: StaticString, flexible: Bool) throws(ProtocolError) {
        writer.uuid(self)
    }
}
