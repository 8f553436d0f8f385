// SPDX-License-Identifier: Apache-2.0

public import MDCModel
public import NIOCore

/// The bytes of a string inside a request: compared, hashed and echoed without making a `String`.
///
/// The bytes come from a peer and may not be UTF-8; such a slice equals no string.
public struct StringSlice: Hashable, Sendable {
    /// The bytes.
    public let bytes: ByteBuffer

    /// Wraps bytes.
    @inlinable public init(_ bytes: ByteBuffer) { self.bytes = bytes }

    /// Makes the bytes of a string; for lookups and tests.
    public init(_ text: String) { self.bytes = ByteBuffer(string: text) }

    /// The text; nil where the bytes are not UTF-8. Allocates where there are more than 15 bytes.
    public var string: String? {
        bytes.withUnsafeReadableBytes { String(validating: $0, as: UTF8.self) }
    }

    /// Whether the bytes are those of `text`; allocates nothing.
    public static func == (slice: StringSlice, text: String) -> Bool {
        slice.bytes.readableBytesView.elementsEqual(text.utf8)
    }
}

/// How a request names a topic: by name up to some version, by id from the next on.
public struct TopicReference: Hashable, Sendable {
    /// The position of the topic in its request, from 0.
    public let ordinal: Int
    /// The name; empty where the version goes by id.
    public let name: StringSlice
    /// The id; zero where the version goes by name.
    public let id: TopicID
    /// How many partitions the request lists under it.
    public let partitionCount: Int
}
