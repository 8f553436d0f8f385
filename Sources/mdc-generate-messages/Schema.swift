// SPDX-License-Identifier: Apache-2.0

/// A range of message versions, both ends included.
struct VersionRange: Equatable {
    var low: Int
    var high: Int

    func contains(_ version: Int) -> Bool { low <= version && version <= high }
    func contains(_ other: VersionRange) -> Bool { low <= other.low && other.high <= high }
    func intersection(_ other: VersionRange) -> VersionRange {
        VersionRange(low: max(low, other.low), high: min(high, other.high))
    }
    func union(_ other: VersionRange) -> VersionRange {
        VersionRange(low: min(low, other.low), high: max(high, other.high))
    }
    var text: String { low == high ? "\(low)" : "\(low)–\(high)" }
}

/// The type of a field, without its nullability.
indirect enum FieldType: Equatable {
    case bool, int8, int16, uint16, int32, uint32, int64, float64, string, uuid, bytes, records
    case structure(String)
    case array(FieldType)

    init(_ name: String) {
        switch name {
        case "bool": self = .bool
        case "int8": self = .int8
        case "int16": self = .int16
        case "uint16": self = .uint16
        case "int32": self = .int32
        case "uint32": self = .uint32
        case "int64": self = .int64
        case "float64": self = .float64
        case "string": self = .string
        case "uuid": self = .uuid
        case "bytes": self = .bytes
        case "records": self = .records
        default: self = .structure(name)
        }
    }

    /// The Swift type.
    var swift: String {
        switch self {
        case .bool: "Bool"
        case .int8: "Int8"
        case .int16: "Int16"
        case .uint16: "UInt16"
        case .int32: "Int32"
        case .uint32: "UInt32"
        case .int64: "Int64"
        case .float64: "Double"
        case .string: "String"
        case .uuid: "KafkaUUID"
        case .bytes, .records: "ByteBuffer"
        case .structure(let name): name
        case .array(let element): "[\(element.swift)]"
        }
    }

    /// The words of a schema.
    var text: String {
        switch self {
        case .structure(let name): name
        case .array(let element): "[\(element.text)]"
        case .bytes: "bytes"
        case .records: "records"
        case .float64: "float64"
        case .uuid: "uuid"
        default: swift.lowercased()
        }
    }

    var isInteger: Bool {
        switch self {
        case .int8, .int16, .uint16, .int32, .uint32, .int64: true
        default: false
        }
    }

    /// The structure that the field or its elements are made of.
    var structureName: String? {
        switch self {
        case .structure(let name): name
        case .array(let element): element.structureName
        default: nil
        }
    }
}

/// A line of a message.
struct Field {
    var name: String
    var type: FieldType
    /// The versions that carry the field.
    var versions: VersionRange
    /// The versions in which it may be null; nil where it never may.
    var nullable: VersionRange?
    var tag: Int?
    /// The default as the schema writes it; nil for the type's own.
    var initial: String?
    /// Left out silently in versions that lack the field, whatever its value.
    var ignorable: Bool
    /// Never in the flexible encoding (the client id of request headers).
    var inflexible: Bool
    var prose: String?

    var isOptional: Bool { nullable != nil }
}

/// Fields that belong together; the message itself is one too.
struct Structure {
    var name: String
    var fields: [Field] = []
    /// The versions in which it is in use.
    var versions: VersionRange
}

enum MessageKind {
    case request, response, data
}

/// A message and the structures nested in it.
struct Message {
    var name: String
    var kind: MessageKind
    var versions: VersionRange
    /// The first version in the flexible encoding; nil where there is none.
    var flexibleFrom: Int?
    var root: Structure
    var structures: [Structure] = []
    var about: [String]
}

/// The head of a file that describes an API.
struct API {
    var key: Int
    var name: String
    var versions: VersionRange
    var advertised: VersionRange
    var served: VersionRange
    var flexibleFrom: Int?
    var scope: String
    var notes: [(version: Int, text: String)] = []
}

/// One `.schema` file.
struct SchemaFile {
    /// The file's name without its extension, such as `00_Produce`.
    var name: String
    var about: [String]
    var api: API?
    var messages: [Message]
}

/// A mistake in a schema.
struct SchemaError: Error, CustomStringConvertible {
    var file: String
    var line: Int
    var detail: String
    var description: String { "\(file).schema:\(line): \(detail)" }
}
