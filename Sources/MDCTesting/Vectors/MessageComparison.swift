// SPDX-License-Identifier: Apache-2.0

import Foundation
import MDCModel
import NIOCore

/// Compares a message with JSON, field by field, by reflection: the generated code stays free of JSON.
enum MessageComparison {
    /// What differs first, with the path to it; nil where all fields that the JSON names are equal.
    ///
    /// Fields that the JSON does not name are those that the version lacks or leaves out; that they have their
    /// defaults follows from the bytes being equal when written.
    static func difference(of value: Any, from json: JSONValue, at path: String) -> String? {
        if let equal = isEqual(value, json) {
            return equal ? nil : "\(path) is \(value), not \(json)"
        }
        let mirror = Mirror(reflecting: value)
        switch (mirror.displayStyle, json) {
        case (.optional, .null):
            return mirror.children.isEmpty ? nil : "\(path) is not null"
        case (.optional, _):
            guard let wrapped = mirror.children.first else { return "\(path) is null, not \(json)" }
            return difference(of: wrapped.value, from: json, at: path)
        case (.collection, .array(let elements)):
            if Int(mirror.children.count) != elements.count {
                return "\(path) has \(mirror.children.count) elements, not \(elements.count)"
            }
            for (index, (child, element)) in zip(mirror.children, elements).enumerated() {
                if let found = difference(of: child.value, from: element, at: "\(path)[\(index)]") { return found }
            }
            return nil
        case (.struct, .object(let members)):
            var left = members
            for child in mirror.children {
                guard let label = child.label, let member = left.removeValue(forKey: label) else { continue }
                if let found = difference(of: child.value, from: member, at: "\(path).\(label)") { return found }
            }
            return left.isEmpty ? nil : "\(path) has no \(left.keys.sorted().joined(separator: ", "))"
        default:
            return "\(path) is \(value), not \(json)"
        }
    }

    /// Whether two scalars are equal; nil where the value is no scalar.
    private static func isEqual(_ value: Any, _ json: JSONValue) -> Bool? {
        switch value {
        case let value as Bool: json == .bool(value)
        case let value as Int8: json == .integer(Int64(value))
        case let value as Int16: json == .integer(Int64(value))
        case let value as UInt16: json == .integer(Int64(value))
        case let value as Int32: json == .integer(Int64(value))
        case let value as UInt32: json == .integer(Int64(value))
        case let value as Int64: json == .integer(value)
        case let value as Double: json == .double(value) || json.integer.map(Double.init) == value
        case let value as String: json == .string(value)
        case let value as KafkaUUID: json == .string(value.description)
        case let value as ByteBuffer:
            json == .string(Data(value.readableBytesView).base64EncodedString())
        default: nil
        }
    }
}
