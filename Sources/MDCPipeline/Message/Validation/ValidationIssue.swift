// SPDX-License-Identifier: Apache-2.0

/// Something that is wrong or doubtful in a message.
public struct ValidationIssue: Codable, Sendable, Hashable, CustomStringConvertible {
    /// How bad it is.
    public enum Severity: String, Codable, Sendable, Hashable {
        /// The message cannot be sent.
        case error
        /// The message is sent; the sender may want to know.
        case warning
    }

    /// How bad it is.
    public var severity: Severity
    /// The field of the draft, such as `to` or `content.text`.
    public var field: String
    /// What is wrong and how to fix it.
    public var message: String

    /// Makes a value from its parts.
    public init(_ severity: Severity, _ field: String, _ message: String) {
        self.severity = severity
        self.field = field
        self.message = message
    }

    /// The text form.
    public var description: String { "\(field): \(message)" }
}
