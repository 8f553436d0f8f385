// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// Reads one JSON document from raw bytes, front to back, without building a tree.
///
/// Made for documents of known members: the caller walks an object with ``object(_:)`` and takes or skips each value.
/// Every read is checked against the end; depth is limited, so hostile input costs no stack.
struct JSONCursor {
    /// Why the input is not the document that was expected.
    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    private let bytes: UnsafeRawBufferPointer
    private(set) var position = 0
    private var depth = 0
    private static let depthMax = 64

    init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
    }

    /// Calls `member` with each name of the object; it must consume the value (or call `skip`).
    mutating func object(_ member: (_ name: Name, inout JSONCursor) throws -> Void) throws {
        try enter(UInt8(ascii: "{"))
        if try !closes(UInt8(ascii: "}")) {
            repeat {
                skipSpace()
                let name = try name()
                skipSpace()
                try expect(UInt8(ascii: ":"))
                try member(name, &self)
            } while try continues(UInt8(ascii: "}"))
        }
        depth -= 1
    }

    /// Calls `element` for each element of the array; it must consume it.
    mutating func array(_ element: (inout JSONCursor) throws -> Void) throws {
        try enter(UInt8(ascii: "["))
        if try !closes(UInt8(ascii: "]")) {
            repeat { try element(&self) } while try continues(UInt8(ascii: "]"))
        }
        depth -= 1
    }

    /// The name of a member, compared without making a `String` of it.
    struct Name {
        fileprivate let bytes: UnsafeRawBufferPointer
        fileprivate let escaped: String?

        static func ~= (pattern: StaticString, name: Name) -> Bool {
            name.bytes.count == pattern.utf8CodeUnitCount
                && pattern.withUTF8Buffer { $0.elementsEqual(name.bytes) }
        }

        /// The name as text.
        var string: String { escaped ?? String(decoding: bytes, as: UTF8.self) }
    }

    mutating func string() throws -> String {
        skipSpace()
        let (range, escaped) = try stringBytes()
        let content = UnsafeRawBufferPointer(rebasing: bytes[range])
        if escaped { return try unescape(content) }
        guard let value = String(validating: content, as: UTF8.self) else {
            throw failure("a text that is not valid UTF-8; send UTF-8")
        }
        return value
    }

    mutating func optionalString() throws -> String? {
        try null() ? nil : try string()
    }

    mutating func integer() throws -> Int64 {
        skipSpace()
        var negative = false
        if position < bytes.count, bytes[position] == UInt8(ascii: "-") {
            negative = true
            position += 1
        }
        let start = position
        var value: Int64 = 0
        while position < bytes.count, case let digit = bytes[position] &- UInt8(ascii: "0"), digit < 10 {
            let (scaled, overflow) = value.multipliedReportingOverflow(by: 10)
            let (sum, carry) = scaled.addingReportingOverflow(Int64(digit))
            guard !overflow, !carry else { throw failure("a number beyond 64 bits") }
            value = sum
            position += 1
        }
        guard position > start else { throw failure("not a whole number") }
        if position < bytes.count, [UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E")].contains(bytes[position]) {
            throw failure("a number with a fraction or exponent where a whole number is needed")
        }
        return negative ? -value : value
    }

    mutating func optionalInteger() throws -> Int64? {
        try null() ? nil : try integer()
    }

    /// Consumes `null` if it stands here.
    mutating func null() throws -> Bool {
        skipSpace()
        guard position < bytes.count, bytes[position] == UInt8(ascii: "n") else { return false }
        try literal("null")
        return true
    }

    /// Passes over one value of any kind.
    mutating func skip() throws {
        skipSpace()
        guard position < bytes.count else { throw failure("ends in the middle") }
        switch bytes[position] {
        case UInt8(ascii: "{"): try object { _, cursor in try cursor.skip() }
        case UInt8(ascii: "["): try array { try $0.skip() }
        case UInt8(ascii: "\""): _ = try stringBytes()
        case UInt8(ascii: "t"): try literal("true")
        case UInt8(ascii: "f"): try literal("false")
        case UInt8(ascii: "n"): try literal("null")
        default: try number()
        }
    }

    /// Passes over one value of any kind and gives its text.
    mutating func raw() throws -> String {
        skipSpace()
        let start = position
        try skip()
        return String(decoding: bytes[start..<position], as: UTF8.self)
    }

    /// Checks that nothing but white space follows.
    mutating func end() throws {
        skipSpace()
        guard position == bytes.count else { throw failure("something follows the document") }
    }

    // MARK: - Parts

    private func failure(_ what: String) -> Failure {
        Failure(description: "not the expected JSON at byte \(position): \(what)")
    }

    private mutating func skipSpace() {
        while position < bytes.count {
            let byte = bytes[position]
            guard byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 else { return }
            position += 1
        }
    }

    private mutating func expect(_ byte: UInt8) throws {
        guard position < bytes.count, bytes[position] == byte else {
            throw failure("'\(Character(UnicodeScalar(byte)))' is missing")
        }
        position += 1
    }

    private mutating func enter(_ open: UInt8) throws {
        skipSpace()
        try expect(open)
        depth += 1
        guard depth <= Self.depthMax else { throw failure("nested deeper than \(Self.depthMax) levels") }
    }

    private mutating func closes(_ close: UInt8) throws -> Bool {
        skipSpace()
        guard position < bytes.count else { throw failure("ends in the middle") }
        guard bytes[position] == close else { return false }
        position += 1
        return true
    }

    private mutating func continues(_ close: UInt8) throws -> Bool {
        if try closes(close) { return false }
        try expect(UInt8(ascii: ","))
        return true
    }

    private mutating func literal(_ text: StaticString) throws {
        let matches = text.withUTF8Buffer { expected in
            bytes.count - position >= expected.count
                && bytes[position..<position + expected.count].elementsEqual(expected)
        }
        guard matches else { throw failure("not a value") }
        position += text.utf8CodeUnitCount
    }

    private mutating func number() throws {
        let start = position
        while position < bytes.count {
            switch bytes[position] {
            case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "."),
                UInt8(ascii: "e"), UInt8(ascii: "E"):
                position += 1
            default:
                guard position > start else { throw failure("not a value") }
                return
            }
        }
    }

    private mutating func name() throws -> Name {
        let (range, escaped) = try stringBytes()
        let content = UnsafeRawBufferPointer(rebasing: bytes[range])
        return Name(bytes: content, escaped: escaped ? try unescape(content) : nil)
    }

    /// The bytes between the quotes, and whether escapes are among them.
    private mutating func stringBytes() throws -> (Range<Int>, escaped: Bool) {
        try expect(UInt8(ascii: "\""))
        let start = position
        var escaped = false
        while position < bytes.count {
            let byte = bytes[position]
            if byte == UInt8(ascii: "\"") {
                position += 1
                return (start..<position - 1, escaped)
            }
            if byte == UInt8(ascii: "\\") {
                escaped = true
                position += 1
            } else if byte < 0x20 {
                throw failure("a control character in a text; write it as \\u00XX")
            }
            position += 1
        }
        throw failure("a text without its closing quote")
    }

    private func unescape(_ content: UnsafeRawBufferPointer) throws -> String {
        var units: [UInt8] = []
        units.reserveCapacity(content.count)
        var index = 0
        while index < content.count {
            let byte = content[index]
            index += 1
            guard byte == UInt8(ascii: "\\") else {
                units.append(byte)
                continue
            }
            guard index < content.count else { throw failure("a text that ends in a backslash") }
            let escape = content[index]
            index += 1
            switch escape {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): units.append(escape)
            case UInt8(ascii: "n"): units.append(0x0A)
            case UInt8(ascii: "r"): units.append(0x0D)
            case UInt8(ascii: "t"): units.append(0x09)
            case UInt8(ascii: "b"): units.append(0x08)
            case UInt8(ascii: "f"): units.append(0x0C)
            case UInt8(ascii: "u"): units.append(contentsOf: try scalar(content, &index))
            default: throw failure("an unknown escape in a text")
            }
        }
        guard let value = String(validating: units, as: UTF8.self) else {
            throw failure("a text that is not valid UTF-8; send UTF-8")
        }
        return value
    }

    private func scalar(_ content: UnsafeRawBufferPointer, _ index: inout Int) throws -> [UInt8] {
        var code = try hex(content, &index)
        if (0xD800..<0xDC00).contains(code) {
            guard index + 1 < content.count, content[index] == UInt8(ascii: "\\"),
                content[index + 1] == UInt8(ascii: "u")
            else { throw failure("half of a surrogate pair in a text") }
            index += 2
            let low = try hex(content, &index)
            guard (0xDC00..<0xE000).contains(low) else { throw failure("half of a surrogate pair in a text") }
            code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
        }
        guard let scalar = UnicodeScalar(code) else { throw failure("half of a surrogate pair in a text") }
        return Array(String(Character(scalar)).utf8)
    }

    private func hex(_ content: UnsafeRawBufferPointer, _ index: inout Int) throws -> UInt32 {
        guard content.count - index >= 4 else { throw failure("\\u needs four hexadecimal digits") }
        var code: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = Character(UnicodeScalar(content[index])).hexDigitValue else {
                throw failure("\\u needs four hexadecimal digits")
            }
            code = code << 4 | UInt32(digit)
            index += 1
        }
        return code
    }
}
