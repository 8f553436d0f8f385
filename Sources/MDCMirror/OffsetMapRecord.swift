// SPDX-License-Identifier: Apache-2.0

import MDCModel
public import NIOCore

/// An entry of the offset map as a record of the compacted topic `mdc-mirror.NAME.offsets`. Text, so that any tool shows it:
/// key `<topic> <partition> <level> <slot>`, value `<number> <source> <target> <count>`.
public struct OffsetMapRecord: Sendable, Equatable {
    /// The topic's name at the source.
    public var topic: String
    /// The partition.
    public var partition: Int32
    /// The entry.
    public var entry: OffsetMap.Entry

    /// Makes a record.
    public init(topic: String, partition: Int32, entry: OffsetMap.Entry) {
        self.topic = topic
        self.partition = partition
        self.entry = entry
    }

    /// Reads key and value; nil where they are none.
    public init?(key: ByteBuffer?, value: ByteBuffer?) {
        guard let key, let value else { return nil }
        let names = String(buffer: key).split(separator: " ")
        let numbers = String(buffer: value).split(separator: " ").compactMap { Int64($0) }
        guard names.count == 4, numbers.count == 4, let partition = Int32(names[1]), partition >= 0,
            numbers.allSatisfy({ $0 >= 0 }), numbers[3] > 0
        else { return nil }
        topic = String(names[0])
        self.partition = partition
        entry = OffsetMap.Entry(
            number: UInt64(numbers[0]),
            run: OffsetRun(source: Offset(numbers[1]), target: Offset(numbers[2]), count: numbers[3])
        )
    }

    /// The record's key.
    public var key: ByteBuffer { ByteBuffer(string: "\(topic) \(partition) \(entry.level) \(entry.slot)") }

    /// The record's value.
    public var value: ByteBuffer {
        let run = entry.run
        return ByteBuffer(string: "\(entry.number) \(run.source.rawValue) \(run.target.rawValue) \(run.count)")
    }
}
