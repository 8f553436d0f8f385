// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
public import MDCProtocol
public import NIOCore

/// One line of `message-vectors.jsonl`: a message as a real Apache Kafka wrote it.
public struct MessageVector: Sendable {
    /// Message, version and case, such as `FetchRequest v12 null`.
    public let name: String
    /// The type that reads it.
    public let type: any ProtocolMessage.Type
    /// The version of the message.
    public let version: Int16
    /// The encoding, without length and header.
    public let bytes: ByteBuffer
    /// The fields.
    public let value: JSONValue
}

/// The recorded examples of messages: each must decode to its value, and encode to its bytes.
public enum MessageVectors {
    /// The file's name.
    public static let fileName = "message-vectors.jsonl"

    /// The folder of recorded examples in the repository, or that of the environment variable `MDC_VECTORS_DIR`.
    public static var defaultDirectory: String {
        if let directory = ProcessInfo.processInfo.environment["MDC_VECTORS_DIR"] { return directory }
        let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../..").standardized
        return root.appending(path: "Tests/Fixtures/kafka-protocol").path
    }

    /// Checks every line. Throws where the file cannot be read.
    public static func run(directory: String) throws -> VectorResult {
        var result = VectorResult()
        for vector in try load(directory: directory) {
            if let failure = check(vector.type, vector) {
                result.failed += 1
                result.failures.append("\(vector.name): \(failure)")
            } else {
                result.passed += 1
            }
        }
        return result
    }

    /// Reads the file. Throws where a line is not as described, or names a message that we do not know.
    public static func load(directory: String) throws -> [MessageVector] {
        let text = try String(contentsOfFile: directory + "/" + fileName, encoding: .utf8)
        var types: [String: any ProtocolMessage.Type] = [:]
        for type in MessageTypes.all { types["\(type)"] = type }
        // The one message whose early-access version 0 has another layout than the stable version 0.
        types["ReadShareGroupStateSummaryResponse"] = EarlyReadShareGroupStateSummaryResponse.self
        var vectors: [MessageVector] = []
        for (index, line) in text.split(separator: "\n").enumerated() {
            let document = try JSONValue(parsing: line)
            guard let name = document["message"]?.string, let version = document["version"]?.integer,
                let form = document["case"]?.string, let value = document["value"],
                let bytes = document["bytes"]?.string.flatMap(bytes(hex:)), let type = types[name]
            else {
                throw VectorFileError(description: "\(fileName), line \(index + 1): not a known message")
            }
            vectors.append(
                MessageVector(
                    name: "\(name) v\(version) \(form)",
                    type: type,
                    version: Int16(version),
                    bytes: bytes,
                    value: value
                )
            )
        }
        return vectors
    }

    /// What is wrong with one example; nil where nothing is.
    private static func check<Message: ProtocolMessage>(_ type: Message.Type, _ vector: MessageVector) -> String? {
        do {
            var input = vector.bytes
            let message = try Message(reading: &input, version: vector.version)
            if let difference = MessageComparison.difference(of: message, from: vector.value, at: "") {
                return difference
            }
            let encoded = try message.encoded(version: vector.version)
            if encoded != vector.bytes {
                return "encodes to \(hex(encoded)), not \(hex(vector.bytes))"
            }
            return nil
        } catch {
            return "\(error)"
        }
    }

    private static func bytes(hex: String) -> ByteBuffer? {
        let digits = Array(hex.utf8)
        if digits.count % 2 != 0 { return nil }
        var buffer = ByteBuffer()
        buffer.reserveCapacity(digits.count / 2)
        for index in stride(from: 0, to: digits.count, by: 2) {
            guard let high = nibble(digits[index]), let low = nibble(digits[index + 1]) else { return nil }
            buffer.writeInteger(high << 4 | low)
        }
        return buffer
    }

    private static func nibble(_ digit: UInt8) -> UInt8? {
        switch digit {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
        default: nil
        }
    }

    private static func hex(_ buffer: ByteBuffer) -> String {
        buffer.readableBytesView.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
    }
}

/// A file of examples that is not as it should be.
public struct VectorFileError: Error, CustomStringConvertible {
    /// Which file, where, and why.
    public let description: String
}
