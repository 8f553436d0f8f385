// SPDX-License-Identifier: Apache-2.0

/// What went wrong in the message centre.
public struct PipelineError: Error, Sendable, CustomStringConvertible {
    /// The kind of failure. More may come.
    public struct Code: Sendable, Hashable, CustomStringConvertible {
        private enum Value: String, Sendable {
            case invalidMessage, conflict, invalidDocument, invalidQuery, configuration, store, unavailable, log, closed
        }
        private let value: Value
        private init(_ value: Value) { self.value = value }
        /// The text form.
        public var description: String { value.rawValue }

        /// The message cannot be sent as it is; ``PipelineError/issues`` says why.
        public static let invalidMessage = Code(.invalidMessage)
        /// The idempotency key was used for a message that says something else.
        public static let conflict = Code(.conflict)
        /// A record or document is not in the expected form.
        public static let invalidDocument = Code(.invalidDocument)
        /// A question to the message store is not understood, or would cost too much.
        public static let invalidQuery = Code(.invalidQuery)
        /// A setting is wrong or missing.
        public static let configuration = Code(.configuration)
        /// The message store failed.
        public static let store = Code(.store)
        /// The server of the message store cannot be reached. Nothing is lost; it is tried again.
        public static let unavailable = Code(.unavailable)
        /// The log could not be read or written.
        public static let log = Code(.log)
        /// The centre is shut down.
        public static let closed = Code(.closed)
    }

    /// The kind of failure.
    public var code: Code
    /// For people: what is wrong and how to fix it.
    public var message: String
    /// What was found in the message, field by field (code `invalidMessage`).
    public var issues: [ValidationIssue]
    /// The failure below, if there is one.
    public var cause: (any Error)?

    /// Makes a value from its parts.
    public init(_ code: Code, _ message: String, issues: [ValidationIssue] = [], cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.issues = issues
        self.cause = cause
    }

    /// The text form.
    public var description: String {
        if let cause { return "\(message) (\(cause))" }
        return message
    }
}
