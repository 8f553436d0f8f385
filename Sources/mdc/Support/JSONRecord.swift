// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
import MDCClient
import MDCModel
import NIOCore

/// How `mdc produce` reads a line.
enum LineFormat: String, ExpressibleByArgument, CaseIterable {
    case value
    case json
}

/// A record as `mdc consume -o json` prints it: `key`, `value` and `headers`, or `keyBase64` and `valueBase64` for bytes that
/// are no text. Other fields are passed over.
struct JSONRecord {
    private struct Header: Decodable {
        let key: String
        let value: String?
        let valueBase64: Data?
    }

    private struct Line: Decodable {
        let key: String?
        let keyBase64: Data?
        let value: String?
        let valueBase64: Data?
        let headers: [Header]?
    }

    let key: ByteBuffer?
    let value: ByteBuffer?
    let headers: [RecordHeader]

    /// - Throws: `CommandError` where the line is no such object; it names the line.
    init(_ line: ByteBuffer, number: Int) throws {
        let decoded: Line
        do {
            decoded = try JSONDecoder().decode(Line.self, from: Data(line.readableBytesView))
        } catch {
            throw CommandError(
                "line \(number) is no JSON object with key, value and headers, such as {\"key\":\"a\",\"value\":\"1\"}: "
                    + Self.reason(error)
            )
        }
        key = Self.bytes(decoded.key, decoded.keyBase64)
        value = Self.bytes(decoded.value, decoded.valueBase64)
        headers = (decoded.headers ?? []).map {
            RecordHeader(key: $0.key, value: Self.bytes($0.value, $0.valueBase64))
        }
    }

    private static func bytes(_ text: String?, _ data: Data?) -> ByteBuffer? {
        if let data { return ByteBuffer(bytes: data) }
        return text.map { ByteBuffer(string: $0) }
    }

    private static func reason(_ error: any Error) -> String {
        switch error as? DecodingError {
        case .dataCorrupted(let context)?: context.debugDescription
        case .typeMismatch(_, let context)?, .valueNotFound(_, let context)?:
            "\(context.codingPath.map(\.stringValue).joined(separator: ".")): \(context.debugDescription)"
        case .keyNotFound(let key, _)?: "\(key.stringValue) is missing"
        default: "\(error)"
        }
    }
}
