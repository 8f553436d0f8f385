// SPDX-License-Identifier: Apache-2.0

import MDCModel
public import NIOCore

/// Names a piece of a stage's state: the key of the records that it belongs to, and, where a key has several, which one.
public struct StateKey: Sendable, Hashable {
    /// The key of the records: it decides which task has the entry.
    public var owner: ByteBuffer?
    /// Which of the key's entries.
    public var suffix: ByteBuffer

    /// Makes a value.
    public init(owner: ByteBuffer?, suffix: ByteBuffer = ByteBuffer()) {
        self.owner = owner
        self.suffix = suffix
    }
}

/// A piece of a stage's state.
public struct StateEntry: Sendable, Hashable {
    /// Its name.
    public var key: StateKey
    /// What was kept.
    public var value: ByteBuffer

    /// Makes a value.
    public init(key: StateKey, value: ByteBuffer) {
        self.key = key
        self.value = value
    }
}

/// The form of a record of a changelog: its key is the topic of the source, whether there is an owner, the owner and the suffix, each with
/// its length before it; its partition is the number of the source's partition. No value: the entry is gone.
enum StateRecord {
    static func encode(_ key: StateKey, topic: String) -> ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeInteger(UInt16(topic.utf8.count))
        buffer.writeString(topic)
        buffer.writeInteger(Int32(key.owner?.readableBytes ?? -1))
        if let owner = key.owner { buffer.writeImmutableBuffer(owner) }
        buffer.writeImmutableBuffer(key.suffix)
        return buffer
    }

    /// Nil for what ``encode(_:topic:)`` did not write.
    static func decode(_ bytes: ByteBuffer) -> (key: StateKey, topic: String)? {
        var buffer = bytes
        guard let length = buffer.readInteger(as: UInt16.self), let topic = buffer.readString(length: Int(length)),
            let size = buffer.readInteger(as: Int32.self), size >= -1
        else { return nil }
        if size == -1 { return (StateKey(owner: nil, suffix: buffer), topic) }
        guard let owner = buffer.readSlice(length: Int(size)) else { return nil }
        return (StateKey(owner: owner, suffix: buffer), topic)
    }
}
