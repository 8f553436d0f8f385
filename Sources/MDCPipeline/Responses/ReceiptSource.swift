// SPDX-License-Identifier: Apache-2.0

/// Where reports come from that no provider posts to our listener: a queue that is polled, a server for returned mails.
///
/// A source gives a report up at its origin only after it is durable here (guarantee G8).
public protocol ReceiptSource: Sendable {
    /// For logs.
    var name: String { get }
    /// Works until its task is cancelled. - Throws: if it cannot begin; what fails later is logged and tried again.
    func run() async throws
}
