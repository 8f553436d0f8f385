// SPDX-License-Identifier: Apache-2.0

/// The way a message travels to its recipient.
public enum Channel: String, Codable, Sendable, Hashable, CaseIterable, CustomStringConvertible {
    /// Text message to a phone number in E.164 form.
    case sms
    /// Mail to one address.
    case email
    /// Notification to one device token.
    case push

    /// The text form.
    public var description: String { rawValue }
}
