// SPDX-License-Identifier: Apache-2.0

/// Why bytes are not a record batch that can be used. The message names the field and its value.
public struct RecordBatchError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kind of fault; more may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String {
            case truncated, unsupportedMagic, invalidHeader, checksumMismatch, unsupportedCompression
            case corruptCompression, decompressedTooLarge, invalidRecord, invalidTimestamp, tooLarge, controlRefused
        }
        private let kind: Kind

        /// Fewer bytes than the batch says that it has.
        public static let truncated = Code(kind: .truncated)
        /// Not message format v2.
        public static let unsupportedMagic = Code(kind: .unsupportedMagic)
        /// A header field that is impossible or contradicts another.
        public static let invalidHeader = Code(kind: .invalidHeader)
        /// The CRC-32C in the header is not that of the bytes.
        public static let checksumMismatch = Code(kind: .checksumMismatch)
        /// A codec number that does not exist.
        public static let unsupportedCompression = Code(kind: .unsupportedCompression)
        /// The codec refuses the compressed records.
        public static let corruptCompression = Code(kind: .corruptCompression)
        /// The records, decompressed, are larger than the limit.
        public static let decompressedTooLarge = Code(kind: .decompressedTooLarge)
        /// A record that is malformed or contradicts the header.
        public static let invalidRecord = Code(kind: .invalidRecord)
        /// A timestamp or timestamp type that is not allowed.
        public static let invalidTimestamp = Code(kind: .invalidTimestamp)
        /// The batch is larger than the limit.
        public static let tooLarge = Code(kind: .tooLarge)
        /// A client sent a control batch.
        public static let controlRefused = Code(kind: .controlRefused)

        public var description: String { kind.rawValue }
    }

    /// The kind of fault.
    public let code: Code
    /// What is wrong, with field and values.
    public let message: String

    /// Makes an error.
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { "\(code): \(message)" }

    /// What a Kafka client is told.
    public var kafkaError: ErrorCode {
        switch code {
        case .unsupportedMagic: .unsupportedForMessageFormat
        case .unsupportedCompression: .unsupportedCompressionType
        case .invalidTimestamp: .invalidTimestamp
        case .tooLarge, .decompressedTooLarge: .messageTooLarge
        case .invalidHeader, .invalidRecord, .controlRefused: .invalidRecord
        default: .corruptMessage
        }
    }
}
