// SPDX-License-Identifier: Apache-2.0

/// A number that names one kind of thing. Each kind is its own type, so that mixing two of them does not compile.
public protocol NumericIdentifier: RawRepresentable, Hashable, Comparable, Sendable, ExpressibleByIntegerLiteral,
    CustomStringConvertible
where RawValue: FixedWidthInteger & Sendable, IntegerLiteralType == RawValue.IntegerLiteralType {
    /// Wraps a number; every value of the raw type is a value of the identifier.
    init(rawValue: RawValue)
}

extension NumericIdentifier {
    /// Wraps a number without a label.
    @inlinable public init(_ rawValue: RawValue) { self.init(rawValue: rawValue) }
    @inlinable public init(integerLiteral value: RawValue.IntegerLiteralType) {
        self.init(rawValue: RawValue(integerLiteral: value))
    }
    @inlinable public static func < (lhs: Self, rhs: Self) -> Bool { lhs.rawValue < rhs.rawValue }
    public var description: String { String(rawValue) }
}

/// The position of a record in its partition. Dense within what producers wrote; compaction leaves gaps.
public struct Offset: NumericIdentifier {
    public typealias IntegerLiteralType = Int64
    public let rawValue: Int64
    @inlinable public init(rawValue: Int64) { self.rawValue = rawValue }

    /// The offset `count` records further on.
    @inlinable public static func + (lhs: Offset, count: Int64) -> Offset { Offset(lhs.rawValue + count) }
    /// The offset `count` records before.
    @inlinable public static func - (lhs: Offset, count: Int64) -> Offset { Offset(lhs.rawValue - count) }
    /// The number of offsets from `rhs` to `lhs`.
    @inlinable public static func - (lhs: Offset, rhs: Offset) -> Int64 { lhs.rawValue - rhs.rawValue }
}

/// A number that grows with each change of a partition's leader. It stamps batches and fences old leaders.
/// `-1` means unknown. Source: KIP-101, KIP-320.
public struct LeaderEpoch: NumericIdentifier {
    public typealias IntegerLiteralType = Int32
    public let rawValue: Int32
    @inlinable public init(rawValue: Int32) { self.rawValue = rawValue }
    /// The value that stands for "not known".
    public static let unknown: LeaderEpoch = -1
}

/// The id of a node of the cluster (Kafka's `node.id`).
public struct BrokerID: NumericIdentifier {
    public typealias IntegerLiteralType = Int32
    public let rawValue: Int32
    @inlinable public init(rawValue: Int32) { self.rawValue = rawValue }
    /// The value that stands for "no broker".
    public static let none: BrokerID = -1
}

/// The number of a partition within its topic, from 0.
public struct PartitionID: NumericIdentifier {
    public typealias IntegerLiteralType = Int32
    public let rawValue: Int32
    @inlinable public init(rawValue: Int32) { self.rawValue = rawValue }
}

/// The id of an idempotent or transactional producer. `-1` marks a batch of a plain producer. Source: KIP-98.
public struct ProducerID: NumericIdentifier {
    public typealias IntegerLiteralType = Int64
    public let rawValue: Int64
    @inlinable public init(rawValue: Int64) { self.rawValue = rawValue }
    /// The value of a batch whose producer is not idempotent.
    public static let none: ProducerID = -1
}

/// A point in time as Kafka writes it: milliseconds since 1970-01-01T00:00:00Z. `-1` means none.
public struct Timestamp: NumericIdentifier {
    public typealias IntegerLiteralType = Int64
    public let rawValue: Int64
    @inlinable public init(rawValue: Int64) { self.rawValue = rawValue }
    /// The value that stands for "no timestamp".
    public static let none: Timestamp = -1
    /// The point `milliseconds` later.
    @inlinable public static func + (lhs: Timestamp, milliseconds: Int64) -> Timestamp {
        Timestamp(lhs.rawValue + milliseconds)
    }
    /// The milliseconds from `rhs` to `lhs`.
    @inlinable public static func - (lhs: Timestamp, rhs: Timestamp) -> Int64 { lhs.rawValue - rhs.rawValue }
}
