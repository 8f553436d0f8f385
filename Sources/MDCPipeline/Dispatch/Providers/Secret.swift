// SPDX-License-Identifier: Apache-2.0

/// A password, key or token. It is never printed: its text form says only that it is one.
public struct Secret: Sendable, Hashable, ExpressibleByStringLiteral, CustomStringConvertible, CustomReflectable {
    /// The secret itself, for the place that needs it.
    let value: String

    /// Makes a value.
    public init(_ value: String) { self.value = value }

    /// Makes a value, in tests and examples.
    public init(stringLiteral value: String) { self.value = value }

    /// Never the secret.
    public var description: String { "<secret>" }
    /// Never the secret: `dump` and debuggers get nothing either.
    public var customMirror: Mirror { Mirror(self, children: [:]) }
}

extension SendOutcome {
    /// Answers that mean "slower": a dispatcher's token bucket should shrink when it sees one.
    private static let throttleCodes: Set<String> = [
        "429", "THROTTLED", "MSG-QUEUE-FULL", "QUOTA_EXCEEDED", "ESME_RTHROTTLED", "ESME_RMSGQFUL", "20429", "14107",
        "TooManyRequests", "TooManyProviderTokenUpdates", "TooManyRequestsException", "Throttling",
        "ThrottlingException", "ThrottledException", "Throttled", "RequestThrottled", "LimitExceededException",
        "4.7.28",
    ]

    /// Whether the provider refused the attempt because we send too fast. `retryAfter` then says for how long to pause.
    public var isThrottled: Bool {
        guard case .retriable(let code, let reason, _) = self else { return false }
        return Self.throttleCodes.contains(code) || reason.lowercased().contains("throttl")
    }
}
