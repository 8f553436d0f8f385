// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCClient
import MDCModel
import NIOCore

/// A format such as `%k: %s\n`, parsed once.
struct RecordFormat: ExpressibleByArgument {
    enum Part {
        case text([UInt8])
        case topic, partition, offset, timestamp, key, value, headers, keyLength, valueLength
    }

    let parts: [Part]

    /// The value and a line feed.
    static let value = RecordFormat(parts: [.value, .text([UInt8(ascii: "\n")])])

    private init(parts: [Part]) {
        self.parts = parts
    }

    init?(argument: String) {
        var parts: [Part] = []
        var text: [UInt8] = []
        var bytes = Array(argument.utf8)[...]
        while let byte = bytes.popFirst() {
            guard byte == UInt8(ascii: "%") || byte == UInt8(ascii: "\\") else {
                text.append(byte)
                continue
            }
            guard let letter = bytes.popFirst() else { return nil }
            if byte == UInt8(ascii: "\\") {
                guard let character = Self.escapes[letter] else { return nil }
                text.append(character)
            } else if letter == UInt8(ascii: "%") {
                text.append(letter)
            } else {
                guard let part = Self.part(letter) else { return nil }
                if !text.isEmpty { parts.append(.text(text)) }
                text = []
                parts.append(part)
            }
        }
        if !text.isEmpty { parts.append(.text(text)) }
        self.init(parts: parts)
    }

    private static let escapes: [UInt8: UInt8] = [
        UInt8(ascii: "n"): 10, UInt8(ascii: "t"): 9, UInt8(ascii: "r"): 13, UInt8(ascii: "0"): 0,
        UInt8(ascii: "\\"): UInt8(ascii: "\\"),
    ]

    private static func part(_ letter: UInt8) -> Part? {
        switch Character(UnicodeScalar(letter)) {
        case "t": .topic
        case "p": .partition
        case "o": .offset
        case "T": .timestamp
        case "k": .key
        case "s": .value
        case "h": .headers
        case "K": .keyLength
        case "S": .valueLength
        default: nil
        }
    }
}

/// Collects records as text and writes them in one piece.
struct RecordPrinter {
    enum Style {
        case json
        case format(RecordFormat)
    }

    private let style: Style
    private var buffer = ByteBuffer()

    init(_ style: Style) {
        self.style = style
    }

    mutating func add(_ record: ConsumerRecord) {
        switch style {
        case .json: addJSON(record)
        case .format(let format): for part in format.parts { add(part, of: record) }
        }
        if buffer.readableBytes > 1 << 20 { flush() }
    }

    mutating func flush() {
        buffer.withUnsafeReadableBytes { StandardOutput.write($0) }
        buffer.clear()
    }

    private mutating func add(_ part: RecordFormat.Part, of record: ConsumerRecord) {
        switch part {
        case .text(let bytes): buffer.writeBytes(bytes)
        case .topic: buffer.writeString(record.topicPartition.topic)
        case .partition: buffer.writeString("\(record.topicPartition.partition)")
        case .offset: buffer.writeString("\(record.offset)")
        case .timestamp: buffer.writeString("\(record.timestamp)")
        case .key: if let key = record.key { buffer.writeImmutableBuffer(key) }
        case .value: if let value = record.value { buffer.writeImmutableBuffer(value) }
        case .headers:
            for (index, header) in record.headers.enumerated() {
                if index > 0 { buffer.writeString(",") }
                buffer.writeString(header.key + "=")
                if let value = header.value { buffer.writeImmutableBuffer(value) }
            }
        case .keyLength: buffer.writeString("\(record.key?.readableBytes ?? -1)")
        case .valueLength: buffer.writeString("\(record.value?.readableBytes ?? -1)")
        }
    }

    private mutating func addJSON(_ record: ConsumerRecord) {
        buffer.writeString("{\"topic\":")
        writeJSON(record.topicPartition.topic)
        buffer.writeString(
            ",\"partition\":\(record.topicPartition.partition),\"offset\":\(record.offset)"
                + ",\"timestamp\":\(record.timestamp)"
        )
        writeJSON(record.key, as: "key")
        writeJSON(record.value, as: "value")
        buffer.writeString(",\"headers\":[")
        for (index, header) in record.headers.enumerated() {
            buffer.writeString(index > 0 ? ",{\"key\":" : "{\"key\":")
            writeJSON(header.key)
            writeJSON(header.value, as: "value")
            buffer.writeString("}")
        }
        buffer.writeString("]}\n")
    }

    /// Bytes that are text as a string; others in base 64, under a name that says so.
    private mutating func writeJSON(_ bytes: ByteBuffer?, as name: String) {
        guard let bytes else {
            buffer.writeString(",\"\(name)\":null")
            return
        }
        if let text = String(validating: bytes.readableBytesView, as: UTF8.self) {
            buffer.writeString(",\"\(name)\":")
            writeJSON(text)
        } else {
            let encoded = Data(bytes.readableBytesView).base64EncodedString()
            buffer.writeString(",\"\(name)Base64\":\"\(encoded)\"")
        }
    }

    private mutating func writeJSON(_ text: String) {
        buffer.writeInteger(UInt8(ascii: "\""))
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                buffer.writeInteger(UInt8(ascii: "\\"))
                buffer.writeInteger(byte)
            case UInt8(ascii: "\n"): buffer.writeString("\\n")
            case UInt8(ascii: "\r"): buffer.writeString("\\r")
            case UInt8(ascii: "\t"): buffer.writeString("\\t")
            case 0..<0x20, 0x7F:
                let digits = String(byte, radix: 16)
                buffer.writeString("\\u" + String(repeating: "0", count: 4 - digits.count) + digits)
            default: buffer.writeInteger(byte)
            }
        }
        buffer.writeInteger(UInt8(ascii: "\""))
    }
}
