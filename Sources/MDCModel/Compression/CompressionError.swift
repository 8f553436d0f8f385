// SPDX-License-Identifier: Apache-2.0

/// Why something could not be compressed or decompressed.
public struct CompressionError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The kind of fault; more may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String { case corrupt, limitExceeded, invalidLevel, failed }
        private let kind: Kind

        /// The input is not what the codec writes.
        public static let corrupt = Code(kind: .corrupt)
        /// The output would pass the limit.
        public static let limitExceeded = Code(kind: .limitExceeded)
        /// The codec has no such level.
        public static let invalidLevel = Code(kind: .invalidLevel)
        /// The library failed for a reason of its own, such as memory.
        public static let failed = Code(kind: .failed)

        public var description: String { kind.rawValue }
    }

    /// The kind of fault.
    public let code: Code
    /// What is wrong.
    public let message: String

    /// Makes an error.
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { "\(code): \(message)" }

    static func limit(_ codec: CompressionCodec, _ limit: Int) -> CompressionError {
        CompressionError(.limitExceeded, "\(codec) data decompresses to more than \(limit) bytes, the limit")
    }
}
