// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// Appends the fields of a message to a buffer.
public struct MessageWriter: Sendable {
    /// What has been written so far.
    public var buffer: ByteBuffer

    /// A writer that appends to `buffer`.
    public init(_ buffer: ByteBuffer = ByteBuffer()) { self.buffer = buffer }

    // MARK: Numbers

    /// Writes a big-endian number.
    @inlinable
    public mutating func integer<T: FixedWidthInteger>(_ value: T) { buffer.writeInteger(value) }

    /// Writes a byte, 1 or 0.
    public mutating func bool(_ value: Bool) { buffer.writeInteger(value ? 1 : 0, as: UInt8.self) }

    /// Writes an IEEE 754 double, big-endian.
    public mutating func double(_ value: Double) { buffer.writeInteger(value.bitPattern) }

    /// Writes 16 bytes.
    public mutating func uuid(_ value: KafkaUUID) {
        buffer.writeInteger(value.high)
        buffer.writeInteger(value.low)
    }

    /// Writes an unsigned varint (LEB128).
    @inlinable
    public mutating func unsignedVarint(_ value: UInt32) {
        var rest: UInt32 = value
        while rest >= 0x80 {
            buffer.writeInteger(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        buffer.writeInteger(UInt8(truncatingIfNeeded: rest))
    }

    // MARK: Text and bytes

    /// Writes a string.
    public mutating func string(_ field: StaticString, _ value: String, flexible: Bool) throws(ProtocolError) {
        try stringLength(field, value.utf8.count, flexible: flexible)
        buffer.writeString(value)
    }

    /// Writes the length before the `length` bytes of a string.
    mutating func stringLength(_ field: StaticString, _ length: Int, flexible: Bool) throws(ProtocolError) {
        if flexible {
            try compactLength(field, length)
        } else {
            if length > ProtocolLimits.inflexibleStringBytes {
                throw tooLong(field, length, limit: ProtocolLimits.inflexibleStringBytes)
            }
            buffer.writeInteger(Int16(length))
        }
    }

    /// Writes a string or null.
    public mutating func nullableString(_ field: StaticString, _ value: String?, flexible: Bool) throws(ProtocolError) {
        if let value { return try string(field, value, flexible: flexible) }
        if flexible { unsignedVarint(0) } else { buffer.writeInteger(-1, as: Int16.self) }
    }

    /// Writes bytes.
    public mutating func bytes(_ field: StaticString, _ value: ByteBuffer, flexible: Bool) throws(ProtocolError) {
        try bytesLength(field, value.readableBytes, flexible: flexible)
        buffer.writeImmutableBuffer(value)
    }

    /// Writes bytes or null.
    public mutating func nullableBytes(
        _ field: StaticString,
        _ value: ByteBuffer?,
        flexible: Bool
    ) throws(ProtocolError) {
        if let value { return try bytes(field, value, flexible: flexible) }
        if flexible { unsignedVarint(0) } else { buffer.writeInteger(-1, as: Int32.self) }
    }

    /// Writes the length before `count` bytes that the caller sends by other means.
    public mutating func bytesLength(_ field: StaticString, _ count: Int, flexible: Bool) throws(ProtocolError) {
        if flexible { return try compactLength(field, count) }
        guard let length = Int32(exactly: count) else { throw tooLong(field, count, limit: Int(Int32.max)) }
        buffer.writeInteger(length)
    }

    private mutating func compactLength(_ field: StaticString, _ count: Int) throws(ProtocolError) {
        if count >= Int(Int32.max) { throw tooLong(field, count, limit: Int(Int32.max) - 1) }
        unsignedVarint(UInt32(count + 1))
    }

    // MARK: Arrays

    /// Writes the count of an array, nil for null.
    public mutating func arrayCount(_ field: StaticString, _ count: Int?, flexible: Bool) throws(ProtocolError) {
        guard let count else {
            if flexible { unsignedVarint(0) } else { buffer.writeInteger(-1, as: Int32.self) }
            return
        }
        try bytesLength(field, count, flexible: flexible)
    }

    /// Writes an array of structures.
    @inline(never)
    public mutating func array<T: MessageStructure>(
        _ field: StaticString,
        _ values: [T],
        version: Int16,
        flexible: Bool
    ) throws(ProtocolError) {
        try arrayCount(field, values.count, flexible: flexible)
        for value in values { try value.write(to: &self, version: version) }
    }

    /// Writes an array of structures or null.
    @inline(never)
    public mutating func nullableArray<T: MessageStructure>(
        _ field: StaticString,
        _ values: [T]?,
        version: Int16,
        flexible: Bool
    ) throws(ProtocolError) {
        try arrayCount(field, values?.count, flexible: flexible)
        guard let values else { return }
        for value in values { try value.write(to: &self, version: version) }
    }

    /// Writes an array of primitives.
    public mutating func array<T: PrimitiveElement>(
        _ field: StaticString,
        _ values: [T],
        flexible: Bool
    ) throws(ProtocolError) {
        try arrayCount(field, values.count, flexible: flexible)
        for value in values { try value.write(to: &self, field: field, flexible: flexible) }
    }

    /// Writes an array of primitives or null.
    public mutating func nullableArray<T: PrimitiveElement>(
        _ field: StaticString,
        _ values: [T]?,
        flexible: Bool
    ) throws(ProtocolError) {
        if let values { return try array(field, values, flexible: flexible) }
        try arrayCount(field, nil, flexible: flexible)
    }

    // MARK: Tagged fields

    /// Begins a tagged field; returns what ``closeTag(_:)`` takes.
    public mutating func openTag(_ tag: UInt32) -> Int {
        unsignedVarint(tag)
        let mark: Int = buffer.writerIndex
        buffer.writeInteger(0, as: UInt8.self)
        return mark
    }

    /// Ends a tagged field: puts its length, now known, before it.
    public mutating func closeTag(_ mark: Int) {
        let length: Int = buffer.writerIndex - mark - 1
        if length < 0x80 {
            buffer.setInteger(UInt8(length), at: mark)
            return
        }
        // The length needs more than the byte that was kept for it: move the value up.
        let value: [UInt8] = buffer.getBytes(at: mark + 1, length: length) ?? []
        buffer.moveWriterIndex(to: mark)
        unsignedVarint(UInt32(length))
        buffer.writeBytes(value)
    }

    /// Writes the tagged fields of a structure that defines none itself.
    public mutating func unknownTags(_ fields: [UnknownTaggedField]) {
        unsignedVarint(UInt32(fields.count))
        appendUnknownTags(fields)
    }

    /// Writes unknown fields in the order of their tags, after the known ones; the caller has written the count.
    public mutating func appendUnknownTags(_ fields: [UnknownTaggedField]) {
        if fields.isEmpty { return }
        for field in fields.sorted(by: { $0.tag < $1.tag }) {
            unsignedVarint(field.tag)
            unsignedVarint(UInt32(field.bytes.readableBytes))
            buffer.writeImmutableBuffer(field.bytes)
        }
    }

    // MARK: Errors, kept out of line

    /// The error of a field that is set in a version that cannot carry it.
    @inline(never)
    public static func unsupported(_ field: StaticString, version: Int16) -> ProtocolError {
        ProtocolError(
            .unsupportedField,
            field: "\(field)",
            detail: "version \(version) cannot carry it; leave it at its default or use another version"
        )
    }

    /// The error of a null in a version that does not allow it.
    @inline(never)
    public static func unexpectedNull(_ field: StaticString, version: Int16) -> ProtocolError {
        ProtocolError(.unexpectedNull, field: "\(field)", detail: "may not be null in version \(version)")
    }

    @inline(never)
    private func tooLong(_ field: StaticString, _ length: Int, limit: Int) -> ProtocolError {
        ProtocolError(.tooLong, field: "\(field)", detail: "\(length) bytes or elements, but at most \(limit) fit")
    }
}
