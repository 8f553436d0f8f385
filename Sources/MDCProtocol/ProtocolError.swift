// SPDX-License-Identifier: Apache-2.0

public import MDCModel

/// Why bytes could not be read as a message, or a message could not be written as bytes.
public struct ProtocolError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kind of failure. May grow.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String {
            case truncated, malformed, limitExceeded, invalidText, unexpectedNull, trailingBytes
            case unsupportedVersion, unsupportedField, tooLong
        }

        private let kind: Kind

        /// A length or a value reaches past the end of the bytes.
        public static let truncated = Code(kind: .truncated)
        /// A length, count or number that no writer may produce.
        public static let malformed = Code(kind: .malformed)
        /// More elements, tags or bytes than ``ProtocolLimits`` allows.
        public static let limitExceeded = Code(kind: .limitExceeded)
        /// Text that is not UTF-8.
        public static let invalidText = Code(kind: .invalidText)
        /// Null where this version of the message does not allow it.
        public static let unexpectedNull = Code(kind: .unexpectedNull)
        /// Bytes after the end of the message.
        public static let trailingBytes = Code(kind: .trailingBytes)
        /// A version of a message that we do not know.
        public static let unsupportedVersion = Code(kind: .unsupportedVersion)
        /// A field is set that this version of the message cannot carry.
        public static let unsupportedField = Code(kind: .unsupportedField)
        /// A string or array too long for its length field.
        public static let tooLong = Code(kind: .tooLong)

        public var description: String { kind.rawValue }
    }

    /// The kind of failure.
    public let code: Code
    /// The field, such as `ProduceRequest.TopicProduceData.name`.
    public let field: String
    /// How many bytes into the message it was found; nil when writing.
    public let position: Int?
    /// What is wrong and what would be right.
    public let detail: String

    /// Makes an error.
    public init(_ code: Code, field: String, position: Int? = nil, detail: String) {
        self.code = code
        self.field = field
        self.position = position
        self.detail = detail
    }

    /// The error code to answer a peer with.
    public var kafkaError: ErrorCode {
        code == .unsupportedVersion || code == .unsupportedField ? .unsupportedVersion : .invalidRequest
    }

    /// One line: field, place, reason.
    public var message: String {
        if let position { return "\(field), byte \(position): \(detail)" }
        return "\(field): \(detail)"
    }

    public var description: String { "\(code): \(message)" }
}

/// What a peer may make us reserve, whatever its bytes say.
public enum ProtocolLimits {
    /// The most elements in one array (Kafka's own limit since 4.4).
    public static let arrayElements = 1_000_000
    /// The most tagged fields in one structure (Kafka's own limit since 4.4).
    public static let taggedFields = 10_000
    /// The most elements for which memory is reserved before the first is read.
    public static let reservedElements = 1_024
    /// The most bytes of a string outside the flexible encoding, whose length is an int16.
    public static let inflexibleStringBytes = 32_767
}
