// SPDX-License-Identifier: Apache-2.0

/// A way to hand messages of one channel to the world: an SMS gateway, a mail server, a push service.
///
/// A provider knows no log and no retry: it makes one attempt and says what came of it.
public protocol Provider: Sendable {
    /// Unique among the providers of a centre, such as `kaleyra`.
    var name: String { get }
    /// The channel it serves.
    var channel: Channel { get }
    /// Whether it reports what became of a message. Without, `accepted` is the last that is known (status `sent`).
    var sendsReceipts: Bool { get }
    /// How many sends may be under way at once.
    var concurrency: Int { get }

    /// Makes one attempt. Called from many tasks at once. Never throws: what went wrong is an outcome.
    ///
    /// The attempt must carry `message.reference(attempt:)` where the provider can echo it.
    func send(_ message: Message, attempt: Int) async -> SendOutcome

    /// Closes connections. No send is under way or follows.
    func shutdown() async
}

extension Provider {
    /// By default a provider reports.
    public var sendsReceipts: Bool { true }
    /// By default 64 sends at once.
    public var concurrency: Int { 64 }
    /// Does nothing.
    public func shutdown() async {}
}

/// What came of one attempt.
public enum SendOutcome: Sendable, Equatable {
    /// The provider took the message and will report under this id.
    case accepted(providerMessageID: String, detail: String? = nil)
    /// The provider refused it for good.
    case rejected(code: String, reason: String)
    /// The provider refused it for now; it may say for how long.
    case retriable(code: String, reason: String, retryAfter: Duration? = nil)
    /// No answer: the provider may or may not have taken it.
    case inDoubt(reason: String)
}
