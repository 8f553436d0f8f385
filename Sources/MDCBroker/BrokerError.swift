// SPDX-License-Identifier: Apache-2.0

/// Why the broker could not start, or refused a setting.
public struct BrokerError: Error, Sendable, CustomStringConvertible {
    /// The kinds of failure.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String { case invalidConfiguration, dataFolder, storage, network, metadata, stopped }
        private let kind: Kind
        private init(_ kind: Kind) { self.kind = kind }
        /// The name of the code.
        public var description: String { kind.rawValue }

        /// A setting is unknown or has a value that cannot be used.
        public static let invalidConfiguration = Code(.invalidConfiguration)
        /// The data folder belongs to another node or cluster, or is in use.
        public static let dataFolder = Code(.dataFolder)
        /// The storage engine failed.
        public static let storage = Code(.storage)
        /// An address cannot be listened on.
        public static let network = Code(.network)
        /// The metadata log cannot be read.
        public static let metadata = Code(.metadata)
        /// The broker is stopping.
        public static let stopped = Code(.stopped)
    }

    /// What went wrong.
    public var code: Code
    /// What happened and how to fix it.
    public var message: String
    /// What caused it, where that is another error.
    public var cause: (any Error)?

    /// Makes an error.
    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String { cause.map { "\(message) (\($0))" } ?? message }
}
