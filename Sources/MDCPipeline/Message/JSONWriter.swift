// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// Writes one JSON document into a `ByteBuffer`, front to back.
///
/// Members that are nil are left out. The caller sees to it that objects are closed.
struct JSONWriter {
    private(set) var buffer: ByteBuffer
    private var needsComma = false

    init(capacity: Int = 512) {
        buffer = ByteBuffer()
        buffer.reserveCapacity(capacity)
    }

    private static let hexDigits: [UInt8] = Array("0123456789abcdef".utf8)

    mutating func beginObject() {
        comma()
        buffer.writeInteger(UInt8(ascii: "{"))
        needsComma = false
    }

    mutating func beginObject(_ name: StaticString) {
        key(name)
        buffer.writeInteger(UInt8(ascii: "{"))
        needsComma = false
    }

    mutating func endObject() {
        buffer.writeInteger(UInt8(ascii: "}"))
        needsComma = true
    }

    mutating func beginArray(_ name: StaticString) {
        key(name)
        buffer.writeInteger(UInt8(ascii: "["))
        needsComma = false
    }

    mutating func endArray() {
        buffer.writeInteger(UInt8(ascii: "]"))
        needsComma = true
    }

    mutating func member(_ name: StaticString, _ value: String?) {
        guard let value else { return }
        key(name)
        string(value)
        needsComma = true
    }

    mutating func member(_ name: StaticString, _ value: Int64?) {
        guard let value else { return }
        key(name)
        buffer.writeString(String(value))
        needsComma = true
    }

    mutating func member(_ name: StaticString, _ value: Timestamp?) {
        member(name, value?.rawValue)
    }

    /// A value that is JSON already.
    mutating func member(_ name: StaticString, raw: ByteBuffer) {
        key(name)
        buffer.writeImmutableBuffer(raw)
        needsComma = true
    }

    mutating func member(_ name: String, dynamic value: String) {
        comma()
        string(name)
        buffer.writeInteger(UInt8(ascii: ":"))
        string(value)
        needsComma = true
    }

    private mutating func comma() {
        if needsComma { buffer.writeInteger(UInt8(ascii: ",")) }
    }

    private mutating func key(_ name: StaticString) {
        comma()
        buffer.writeInteger(UInt8(ascii: "\""))
        buffer.writeStaticString(name)
        buffer.writeStaticString("\":")
    }

    private mutating func string(_ value: String) {
        buffer.writeInteger(UInt8(ascii: "\""))
        var value = value
        let plain = value.withUTF8 { bytes in
            for byte in bytes where byte < 0x20 || byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") {
                return false
            }
            buffer.writeBytes(UnsafeRawBufferPointer(bytes))
            return true
        }
        if !plain { escaped(value) }
        buffer.writeInteger(UInt8(ascii: "\""))
    }

    private mutating func escaped(_ value: String) {
        for byte in value.utf8 {
            switch byte {
            case UInt8(ascii: "\""): buffer.writeStaticString("\\\"")
            case UInt8(ascii: "\\"): buffer.writeStaticString("\\\\")
            case 0x0A: buffer.writeStaticString("\\n")
            case 0x0D: buffer.writeStaticString("\\r")
            case 0x09: buffer.writeStaticString("\\t")
            case 0..<0x20:
                buffer.writeStaticString("\\u00")
                buffer.writeInteger(Self.hexDigits[Int(byte >> 4)])
                buffer.writeInteger(Self.hexDigits[Int(byte & 15)])
            default: buffer.writeInteger(byte)
            }
        }
    }
}
