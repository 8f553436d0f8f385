// SPDX-License-Identifier: Apache-2.0

/// What a topology throws (beside `CancellationError`).
public struct TopologyError: Error, Sendable, CustomStringConvertible {
    /// The kind of failure. More may come; compare with `==`.
    public struct Code: Sendable, Hashable, CustomStringConvertible {
        private enum Value: String, Sendable { case configuration, replaced, log, processor, child, interrupted }
        private let value: Value
        private init(_ value: Value) { self.value = value }
        public var description: String { value.rawValue }

        /// The topology or a setting cannot be.
        public static let configuration = Code(.configuration)
        /// Another worker runs under the same instance name.
        public static let replaced = Code(.replaced)
        /// The log could not be read or written.
        public static let log = Code(.log)
        /// A processor could not work on a record.
        public static let processor = Code(.processor)
        /// A child process died, hung, or said what nobody understands.
        public static let child = Code(.child)
        /// The work on a record was cut short for a reason that is not the record's: it is done again, and does not count as an attempt.
        public static let interrupted = Code(.interrupted)
    }

    /// The kind of failure.
    public var code: Code
    /// For people: what is wrong and how to fix it.
    public var message: String
    /// The failure below, if there is one.
    public var cause: (any Error)?

    /// Makes a value from its parts.
    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }

    public var description: String {
        if let cause { return "\(message) (\(cause))" }
        return message
    }
}
