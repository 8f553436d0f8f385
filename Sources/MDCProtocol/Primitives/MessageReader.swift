// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// A cursor over the bytes of a message.
///
/// Every length and count is held against the bytes that are left before anything is reserved for it, so that a hostile
/// message costs no more memory than its own size justifies. Byte fields are slices of the buffer, not copies.
/// The `field` parameters name the field in errors and cost nothing otherwise.
public struct MessageReader: Sendable {
    @usableFromInline let buffer: ByteBuffer
    @usableFromInline let start: Int
    @usableFromInline var index: Int
    @usableFromInline var end: Int

    /// A reader over the readable bytes of `buffer`.
    @inlinable
    public init(_ buffer: ByteBuffer) {
        self.buffer = buffer
        self.start = buffer.readerIndex
        self.index = buffer.readerIndex
        self.end = buffer.writerIndex
    }

    /// How many bytes have been read.
    @inlinable public var position: Int { index - start }
    /// How many bytes are left.
    @inlinable public var remaining: Int { end - index }
    /// What is left, as a slice.
    public var rest: ByteBuffer { slice(at: index, length: end - index) }

    /// Throws `trailingBytes` unless everything was read.
    public func finish(_ message: @autoclosure () -> String) throws(ProtocolError) {
        if index == end { return }
        throw ProtocolError(
            .trailingBytes,
            field: message(),
            position: position,
            detail: "the message ends here, but \(remaining) more bytes follow; check the version"
        )
    }

    // MARK: Numbers

    /// Reads a big-endian number.
    @inlinable
    public mutating func integer<T: FixedWidthInteger>(
        _ field: StaticString,
        as: T.Type = T.self
    ) throws(ProtocolError) -> T {
        let size: Int = MemoryLayout<T>.size
        if end - index < size { throw truncated(field, needed: size) }
        guard let value = buffer.getInteger(at: index, as: T.self) else { throw truncated(field, needed: size) }
        index += size
        return value
    }

    /// Reads a byte; anything but zero is true.
    @inlinable
    public mutating func bool(_ field: StaticString) throws(ProtocolError) -> Bool {
        try integer(field, as: UInt8.self) != 0
    }

    /// Reads an IEEE 754 double, big-endian.
    public mutating func double(_ field: StaticString) throws(ProtocolError) -> Double {
        Double(bitPattern: try integer(field, as: UInt64.self))
    }

    /// Reads 16 bytes.
    public mutating func uuid(_ field: StaticString) throws(ProtocolError) -> KafkaUUID {
        let high: UInt64 = try integer(field)
        let low: UInt64 = try integer(field)
        return KafkaUUID(high: high, low: low)
    }

    /// Reads an unsigned varint of at most five bytes (LEB128).
    @inlinable
    public mutating func unsignedVarint(_ field: StaticString) throws(ProtocolError) -> UInt32 {
        let first: UInt8 = try integer(field)
        if first < 0x80 { return UInt32(first) }
        return try longVarint(field, first: first)
    }

    @usableFromInline
    mutating func longVarint(_ field: StaticString, first: UInt8) throws(ProtocolError) -> UInt32 {
        var value = UInt32(first & 0x7F)
        var shift: UInt32 = 7
        while true {
            let byte: UInt8 = try integer(field)
            if shift == 28 && byte > 0x0F {
                throw malformed(field, "a varint of more than 32 bits")
            }
            value |= UInt32(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
    }

    // MARK: Text and bytes

    /// Reads a string.
    public mutating func string(_ field: StaticString, flexible: Bool) throws(ProtocolError) -> String {
        guard let value = try nullableString(field, flexible: flexible) else { throw unexpectedNull(field) }
        return value
    }

    /// Reads a string or null.
    public mutating func nullableString(_ field: StaticString, flexible: Bool) throws(ProtocolError) -> String? {
        guard let length = try stringLength(field, flexible: flexible) else { return nil }
        if length == 0 { return "" }
        let offset: Int = index - buffer.readerIndex
        let text: String? = buffer.withUnsafeReadableBytes { bytes in
            String(validating: UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + length]), as: UTF8.self)
        }
        guard let text else { throw invalidText(field) }
        index += length
        return text
    }

    /// Reads the bytes of a string without making one, for the hot path. The bytes are not checked to be UTF-8.
    public mutating func stringBytes(_ field: StaticString, flexible: Bool) throws(ProtocolError) -> ByteBuffer {
        guard let bytes = try nullableStringBytes(field, flexible: flexible) else { throw unexpectedNull(field) }
        return bytes
    }

    /// Reads the bytes of a string or null, as ``stringBytes(_:flexible:)`` does.
    public mutating func nullableStringBytes(
        _ field: StaticString,
        flexible: Bool
    ) throws(ProtocolError) -> ByteBuffer? {
        guard let length = try stringLength(field, flexible: flexible) else { return nil }
        return take(length)
    }

    /// Reads bytes, as a slice.
    public mutating func bytes(_ field: StaticString, flexible: Bool) throws(ProtocolError) -> ByteBuffer {
        guard let value = try nullableBytes(field, flexible: flexible) else { throw unexpectedNull(field) }
        return value
    }

    /// Reads bytes or null, as a slice.
    public mutating func nullableBytes(_ field: StaticString, flexible: Bool) throws(ProtocolError) -> ByteBuffer? {
        let length: Int
        if flexible {
            let raw: UInt32 = try unsignedVarint(field)
            if raw == 0 { return nil }
            length = Int(raw) - 1
        } else {
            let raw: Int32 = try integer(field)
            if raw == -1 { return nil }
            length = Int(raw)
        }
        try check(field, length: length)
        return take(length)
    }

    /// Passes over a string or null.
    public mutating func skipString(_ field: StaticString, flexible: Bool) throws(ProtocolError) {
        guard let length = try stringLength(field, flexible: flexible) else { return }
        index += length
    }

    /// Passes over `count` bytes.
    public mutating func skip(_ field: StaticString, count: Int) throws(ProtocolError) {
        try check(field, length: count)
        index += count
    }

    @usableFromInline
    mutating func stringLength(_ field: StaticString, flexible: Bool) throws(ProtocolError) -> Int? {
        let length: Int
        if flexible {
            let raw: UInt32 = try unsignedVarint(field)
            if raw == 0 { return nil }
            length = Int(raw) - 1
        } else {
            let raw: Int16 = try integer(field)
            if raw == -1 { return nil }
            length = Int(raw)
        }
        try check(field, length: length)
        return length
    }

    @usableFromInline
    func check(_ field: StaticString, length: Int) throws(ProtocolError) {
        if length < 0 { throw malformed(field, "the length \(length) is negative") }
        if length > end - index { throw truncated(field, needed: length) }
    }

    private mutating func take(_ length: Int) -> ByteBuffer {
        let value: ByteBuffer = slice(at: index, length: length)
        index += length
        return value
    }

    private func slice(at index: Int, length: Int) -> ByteBuffer {
        // In range: every caller has checked the length.
        buffer.getSlice(at: index, length: length) ?? ByteBuffer()
    }

    // MARK: Arrays

    /// Reads the count of an array, nil for null. `minimumSize` is the least number of bytes of an element; a count
    /// that the rest of the message cannot hold is refused.
    public mutating func arrayCount(
        _ field: StaticString,
        flexible: Bool,
        minimumSize: Int
    ) throws(ProtocolError) -> Int? {
        let count: Int
        if flexible {
            let raw: UInt32 = try unsignedVarint(field)
            if raw == 0 { return nil }
            count = Int(raw) - 1
        } else {
            let raw: Int32 = try integer(field)
            if raw == -1 { return nil }
            count = Int(raw)
        }
        if count < 0 { throw malformed(field, "the array count \(count) is negative") }
        if count > ProtocolLimits.arrayElements {
            throw tooMany(field, count, of: "array elements", limit: ProtocolLimits.arrayElements)
        }
        if count * minimumSize > end - index { throw truncated(field, needed: count * minimumSize) }
        return count
    }

    /// Reads an array of structures.
    @inline(never)
    public mutating func array<T: MessageStructure>(
        _ field: StaticString,
        of type: T.Type,
        version: Int16,
        flexible: Bool,
        minimumSize: Int
    ) throws(ProtocolError) -> [T] {
        guard
            let value: [T] = try nullableArray(
                field,
                of: type,
                version: version,
                flexible: flexible,
                minimumSize: minimumSize
            )
        else { throw unexpectedNull(field) }
        return value
    }

    /// Reads an array of structures or null.
    @inline(never)
    public mutating func nullableArray<T: MessageStructure>(
        _ field: StaticString,
        of type: T.Type,
        version: Int16,
        flexible: Bool,
        minimumSize: Int
    ) throws(ProtocolError) -> [T]? {
        guard let count = try arrayCount(field, flexible: flexible, minimumSize: minimumSize) else { return nil }
        var values: [T] = []
        values.reserveCapacity(Swift.min(count, ProtocolLimits.reservedElements))
        for _ in 0..<count { values.append(try T(from: &self, version: version)) }
        return values
    }

    /// Reads an array of primitives.
    public mutating func array<T: PrimitiveElement>(
        _ field: StaticString,
        of type: T.Type,
        flexible: Bool
    ) throws(ProtocolError) -> [T] {
        guard let value: [T] = try nullableArray(field, of: type, flexible: flexible) else {
            throw unexpectedNull(field)
        }
        return value
    }

    /// Reads an array of primitives or null.
    public mutating func nullableArray<T: PrimitiveElement>(
        _ field: StaticString,
        of type: T.Type,
        flexible: Bool
    ) throws(ProtocolError) -> [T]? {
        guard let count = try arrayCount(field, flexible: flexible, minimumSize: T.minimumSize) else { return nil }
        var values: [T] = []
        values.reserveCapacity(Swift.min(count, ProtocolLimits.reservedElements))
        for _ in 0..<count { values.append(try T(from: &self, field: field, flexible: flexible)) }
        return values
    }

    /// Reads the byte before a structure that may be null: negative for null.
    public mutating func isPresent(_ field: StaticString) throws(ProtocolError) -> Bool {
        try integer(field, as: Int8.self) >= 0
    }

    // MARK: Tagged fields

    /// Reads how many tagged fields follow.
    public mutating func taggedFieldCount(_ field: StaticString) throws(ProtocolError) -> Int {
        let count: Int = Int(try unsignedVarint(field))
        if count > ProtocolLimits.taggedFields {
            throw tooMany(field, count, of: "tagged fields", limit: ProtocolLimits.taggedFields)
        }
        if count * 2 > end - index { throw truncated(field, needed: count * 2) }
        return count
    }

    /// Reads the number of a tagged field.
    @inlinable
    public mutating func tag(_ field: StaticString) throws(ProtocolError) -> UInt32 { try unsignedVarint(field) }

    /// Enters a tagged field: from here its own end bounds every read. Returns what ``closeTag(_:_:)`` takes.
    public mutating func openTag(_ field: StaticString) throws(ProtocolError) -> Int {
        let length: Int = Int(try unsignedVarint(field))
        try check(field, length: length)
        let outer: Int = end
        end = index + length
        return outer
    }

    /// Leaves a tagged field, which must have been read to its end.
    public mutating func closeTag(_ field: StaticString, _ outer: Int) throws(ProtocolError) {
        if index != end { throw malformed(field, "the tagged field is \(end - index) bytes longer than its value") }
        end = outer
    }

    /// Keeps a tagged field that we do not know.
    public mutating func unknownTag(
        _ field: StaticString,
        _ tag: UInt32
    ) throws(ProtocolError) -> UnknownTaggedField {
        let length: Int = Int(try unsignedVarint(field))
        try check(field, length: length)
        return UnknownTaggedField(tag: tag, bytes: take(length))
    }

    /// Reads tagged fields of which none is known.
    public mutating func unknownTags(_ field: StaticString) throws(ProtocolError) -> [UnknownTaggedField] {
        let count: Int = try taggedFieldCount(field)
        if count == 0 { return [] }
        var fields: [UnknownTaggedField] = []
        for _ in 0..<count {
            let number: UInt32 = try tag(field)
            fields.append(try unknownTag(field, number))
        }
        return fields
    }

    /// Passes over all tagged fields.
    public mutating func skipTags(_ field: StaticString) throws(ProtocolError) {
        for _ in 0..<(try taggedFieldCount(field)) {
            _ = try tag(field)
            let length: Int = Int(try unsignedVarint(field))
            try skip(field, count: length)
        }
    }

    // MARK: Errors, kept out of line

    @usableFromInline @inline(never)
    func truncated(_ field: StaticString, needed: Int) -> ProtocolError {
        ProtocolError(
            .truncated,
            field: "\(field)",
            position: position,
            detail: "needs \(needed) bytes, but only \(remaining) are left"
        )
    }

    @usableFromInline @inline(never)
    func malformed(_ field: StaticString, _ detail: String) -> ProtocolError {
        ProtocolError(.malformed, field: "\(field)", position: position, detail: detail)
    }

    @usableFromInline @inline(never)
    func unexpectedNull(_ field: StaticString) -> ProtocolError {
        ProtocolError(.unexpectedNull, field: "\(field)", position: position, detail: "may not be null in this version")
    }

    @inline(never)
    private func invalidText(_ field: StaticString) -> ProtocolError {
        ProtocolError(.invalidText, field: "\(field)", position: position, detail: "is not valid UTF-8")
    }

    @inline(never)
    private func tooMany(_ field: StaticString, _ count: Int, of what: String, limit: Int) -> ProtocolError {
        ProtocolError(
            .limitExceeded,
            field: "\(field)",
            position: position,
            detail: "\(count) \(what), but at most \(limit) are accepted"
        )
    }
}
