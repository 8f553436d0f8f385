// SPDX-License-Identifier: Apache-2.0

/// The number of an API, such as 0 for Produce. A struct rather than an enum: a peer may use an API that is newer than
/// we are.
public struct APIKey: RawRepresentable, Hashable, Sendable, Comparable, CustomStringConvertible {
    /// The number on the wire.
    public let rawValue: Int16

    /// Wraps a number from the wire.
    @inlinable public init(rawValue: Int16) { self.rawValue = rawValue }

    /// The name, such as `Produce`; `API <number>` where we know none.
    public var description: String { APIVersions.entry(for: self)?.name ?? "API \(rawValue)" }

    /// In the order of the numbers.
    public static func < (lhs: APIKey, rhs: APIKey) -> Bool { lhs.rawValue < rhs.rawValue }
}
