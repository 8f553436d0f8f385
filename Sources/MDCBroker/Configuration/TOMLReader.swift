// SPDX-License-Identifier: Apache-2.0

/// Reads the part of TOML that a configuration file needs: tables, bare, dotted and quoted keys, strings, integers, booleans, and
/// arrays of these on one line. Anything else is refused with its line. Source: TOML v1.0.0.
enum TOMLReader {
    /// One `key = value`, the key with the names of its tables before it.
    struct Entry: Equatable {
        var key: String
        var value: String
        var line: Int
    }

    static func read(_ text: String, path: String) throws(BrokerError) -> [Entry] {
        var entries: [Entry] = []
        var seen: Set<String> = []
        var table = ""
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            var parser = LineParser(bytes: Array(line.utf8), position: 0)
            do throws(LineParser.Problem) {
                guard let item = try parser.item() else { continue }
                switch item {
                case .table(let name): table = name
                case .assignment(let key, let value):
                    let full = table.isEmpty ? key : "\(table).\(key)"
                    guard seen.insert(full).inserted else {
                        throw LineParser.Problem(text: "\(full) is set twice; keep one of the two")
                    }
                    entries.append(Entry(key: full, value: value, line: index + 1))
                }
            } catch {
                throw BrokerError(.invalidConfiguration, "\(path):\(index + 1): \(error.text)")
            }
        }
        return entries
    }
}

private struct LineParser {
    struct Problem: Error { var text: String }

    enum Item {
        case table(String)
        case assignment(String, String)
    }

    var bytes: [UInt8]
    var position: Int

    private var current: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func skipSpace() {
        while let byte = current, byte == 0x20 || byte == 0x09 { position += 1 }
    }

    mutating func item() throws(Problem) -> Item? {
        skipSpace()
        guard let first = current, first != UInt8(ascii: "#") else { return nil }
        let item: Item
        if first == UInt8(ascii: "[") {
            position += 1
            if current == UInt8(ascii: "[") {
                throw Problem(text: "arrays of tables have no meaning here; use [table]")
            }
            let name = try key()
            guard current == UInt8(ascii: "]") else { throw Problem(text: "the table's name must end in ]") }
            position += 1
            item = .table(name)
        } else {
            let name = try key()
            guard current == UInt8(ascii: "=") else { throw Problem(text: "expected = after \(name)") }
            position += 1
            skipSpace()
            item = .assignment(name, try value())
        }
        skipSpace()
        if let rest = current, rest != UInt8(ascii: "#") {
            throw Problem(text: "unexpected text at column \(position + 1); comments begin with #")
        }
        return item
    }

    private mutating func key() throws(Problem) -> String {
        var parts: [String] = []
        while true {
            skipSpace()
            if current == UInt8(ascii: "\"") || current == UInt8(ascii: "'") {
                parts.append(try string())
            } else {
                let start = position
                while let byte = current, Self.isBare(byte) { position += 1 }
                if start == position { throw Problem(text: "expected a key at column \(position + 1)") }
                parts.append(String(decoding: bytes[start..<position], as: UTF8.self))
            }
            skipSpace()
            guard current == UInt8(ascii: ".") else { return parts.joined(separator: ".") }
            position += 1
        }
    }

    private static func isBare(_ byte: UInt8) -> Bool {
        (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 45 || byte == 95
    }

    private mutating func value() throws(Problem) -> String {
        guard let first = current else { throw Problem(text: "expected a value after =") }
        if first == UInt8(ascii: "\"") || first == UInt8(ascii: "'") { return try string() }
        if first == UInt8(ascii: "[") { return try array() }
        let start = position
        while let byte = current, Self.isBare(byte) || byte == UInt8(ascii: "+") || byte == UInt8(ascii: ".") {
            position += 1
        }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        if text == "true" || text == "false" { return text }
        let digits = text.filter { $0 != "_" }
        if let number = Int64(digits) { return String(number) }
        if Double(digits) != nil, !digits.isEmpty { return digits }
        throw Problem(text: "\(text.isEmpty ? "this" : text) is no string, number or boolean; put text in \"quotes\"")
    }

    /// A list, as the settings want it: joined by commas.
    private mutating func array() throws(Problem) -> String {
        position += 1
        var values: [String] = []
        while true {
            skipSpace()
            if current == UInt8(ascii: "]") { break }
            values.append(try value())
            skipSpace()
            if current == UInt8(ascii: ",") {
                position += 1
            } else if current != UInt8(ascii: "]") {
                throw Problem(text: "expected , or ] in the list; a list must be on one line")
            }
        }
        position += 1
        return values.joined(separator: ",")
    }

    private mutating func string() throws(Problem) -> String {
        let quote = bytes[position]
        position += 1
        var text: [UInt8] = []
        while let byte = current {
            position += 1
            if byte == quote {
                if text.isEmpty && current == quote {
                    throw Problem(text: "strings of several lines are not supported")
                }
                return String(decoding: text, as: UTF8.self)
            }
            if byte == UInt8(ascii: "\\") && quote == UInt8(ascii: "\"") {
                guard let escaped = current else { break }
                position += 1
                switch escaped {
                case UInt8(ascii: "n"): text.append(0x0A)
                case UInt8(ascii: "t"): text.append(0x09)
                case UInt8(ascii: "\""), UInt8(ascii: "\\"): text.append(escaped)
                default: throw Problem(text: "the escape \\\(Character(UnicodeScalar(escaped))) is not supported")
                }
            } else {
                text.append(byte)
            }
        }
        throw Problem(text: "the string has no closing quote")
    }
}
