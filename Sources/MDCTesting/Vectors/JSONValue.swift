// SPDX-License-Identifier: Apache-2.0

/// A JSON document. Ours rather than Foundation's, because test data holds 64-bit numbers that must stay exact.
public enum JSONValue: Equatable, Sendable {
    case null
    case bool(Bool)
    case integer(Int64)
    case double(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// A text that is not JSON, and where it stops being it.
    public struct ParseError: Error, CustomStringConvertible {
        /// The byte at which reading stopped.
        public let position: Int
        public var description: String { "not JSON at byte \(position)" }
    }

    /// Reads one document.
    public init(parsing text: some StringProtocol) throws(ParseError) {
        var parser = Parser(bytes: Array(text.utf8))
        self = try parser.value()
        parser.skipSpace()
        if parser.index != parser.bytes.count { throw parser.failure }
    }

    /// The member of an object; nil where it is none or has no such member.
    public subscript(name: String) -> JSONValue? {
        if case .object(let members) = self { return members[name] }
        return nil
    }

    /// The text of a string.
    public var string: String? {
        if case .string(let text) = self { return text }
        return nil
    }

    /// The number, where it is a whole one.
    public var integer: Int64? {
        if case .integer(let number) = self { return number }
        return nil
    }

    /// The elements of an array.
    public var array: [JSONValue]? {
        if case .array(let elements) = self { return elements }
        return nil
    }

    private struct Parser {
        let bytes: [UInt8]
        var index = 0

        var failure: ParseError { ParseError(position: index) }

        mutating func skipSpace() {
            while index < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[index]) { index += 1 }
        }

        mutating func take(_ character: Unicode.Scalar) -> Bool {
            skipSpace()
            guard index < bytes.count, bytes[index] == UInt8(ascii: character) else { return false }
            index += 1
            return true
        }

        mutating func expect(_ character: Unicode.Scalar) throws(ParseError) {
            if !take(character) { throw failure }
        }

        mutating func value() throws(ParseError) -> JSONValue {
            skipSpace()
            guard index < bytes.count else { throw failure }
            switch bytes[index] {
            case UInt8(ascii: "{"): return try object()
            case UInt8(ascii: "["): return try array()
            case UInt8(ascii: "\""): return .string(try string())
            case UInt8(ascii: "t"): return try word("true", .bool(true))
            case UInt8(ascii: "f"): return try word("false", .bool(false))
            case UInt8(ascii: "n"): return try word("null", .null)
            default: return try number()
            }
        }

        mutating func word(_ text: String, _ value: JSONValue) throws(ParseError) -> JSONValue {
            guard bytes[index...].starts(with: text.utf8) else { throw failure }
            index += text.utf8.count
            return value
        }

        mutating func object() throws(ParseError) -> JSONValue {
            index += 1
            var members: [String: JSONValue] = [:]
            if take("}") { return .object(members) }
            repeat {
                skipSpace()
                let name = try string()
                try expect(":")
                members[name] = try value()
            } while take(",")
            try expect("}")
            return .object(members)
        }

        mutating func array() throws(ParseError) -> JSONValue {
            index += 1
            var elements: [JSONValue] = []
            if take("]") { return .array(elements) }
            repeat { elements.append(try value()) } while take(",")
            try expect("]")
            return .array(elements)
        }

        mutating func number() throws(ParseError) -> JSONValue {
            let start = index
            while index < bytes.count, "+-.0123456789eE".utf8.contains(bytes[index]) { index += 1 }
            let text = String(decoding: bytes[start..<index], as: UTF8.self)
            if let whole = Int64(text) { return .integer(whole) }
            guard let number = Double(text) else { throw failure }
            return .double(number)
        }

        mutating func string() throws(ParseError) -> String {
            guard index < bytes.count, bytes[index] == UInt8(ascii: "\"") else { throw failure }
            index += 1
            var units: [UInt8] = []
            while index < bytes.count {
                let byte = bytes[index]
                index += 1
                if byte == UInt8(ascii: "\"") { return String(decoding: units, as: UTF8.self) }
                if byte == UInt8(ascii: "\\") {
                    units.append(contentsOf: String(try escaped()).utf8)
                } else {
                    units.append(byte)
                }
            }
            throw failure
        }

        mutating func escaped() throws(ParseError) -> Character {
            guard index < bytes.count else { throw failure }
            let byte = bytes[index]
            index += 1
            switch byte {
            case UInt8(ascii: "n"): return "\n"
            case UInt8(ascii: "t"): return "\t"
            case UInt8(ascii: "r"): return "\r"
            case UInt8(ascii: "b"): return "\u{08}"
            case UInt8(ascii: "f"): return "\u{0C}"
            case UInt8(ascii: "u"):
                let first = try fourHexDigits()
                guard first >> 10 == 0b110110 else { return Character(Unicode.Scalar(first) ?? "\u{FFFD}") }
                // A pair of surrogates: the second half follows.
                guard take("\\"), take("u") else { throw failure }
                let scalar = 0x10000 + (UInt32(first) & 0x3FF) << 10 + (UInt32(try fourHexDigits()) & 0x3FF)
                return Character(Unicode.Scalar(scalar) ?? "\u{FFFD}")
            default: return Character(Unicode.Scalar(byte))
            }
        }

        mutating func fourHexDigits() throws(ParseError) -> UInt16 {
            guard index + 4 <= bytes.count,
                let value = UInt16(String(decoding: bytes[index..<index + 4], as: UTF8.self), radix: 16)
            else { throw failure }
            index += 4
            return value
        }
    }
}
