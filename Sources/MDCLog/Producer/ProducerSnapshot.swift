// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// The producers of a partition as of an offset: the content of Kafka's `.snapshot`, version 1.
enum ProducerSnapshot {
    /// Version (int16), CRC-32C of all after it (uint32), number of entries (int32).
    private static let headerSize = 10
    private static let entrySize = 46

    static func encode(_ table: ProducerTable) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(headerSize + table.entries.count * entrySize)
        bytes.appendInteger(Int16(1))
        bytes.appendInteger(UInt32(0))
        bytes.appendInteger(Int32(table.entries.count))
        for (id, entry) in table.entries.sorted(by: { $0.key < $1.key }) {
            let last = entry.batches.last
            bytes.appendInteger(id.rawValue)
            bytes.appendInteger(entry.epoch)
            bytes.appendInteger(last?.lastSequence ?? -1)
            bytes.appendInteger(last?.lastOffset.rawValue ?? -1)
            bytes.appendInteger(last?.offsetDelta ?? 0)
            bytes.appendInteger(entry.lastTimestamp.rawValue)
            bytes.appendInteger(entry.coordinatorEpoch)
            bytes.appendInteger(entry.currentTransactionFirstOffset?.rawValue ?? -1)
        }
        let crc = bytes.checksum(from: 6)
        withUnsafeBytes(of: crc.bigEndian) { bytes.replaceSubrange(2..<6, with: $0) }
        return bytes
    }

    /// Reads a snapshot; nil where its checksum or length is wrong.
    static func decode(_ bytes: [UInt8], now: Timestamp) -> ProducerTable? {
        guard bytes.count >= headerSize, bytes.integer(at: 0, as: Int16.self) == 1,
            bytes.integer(at: 2, as: UInt32.self) == bytes.checksum(from: 6)
        else { return nil }
        let count = Int(bytes.integer(at: 6, as: Int32.self))
        guard count >= 0, bytes.count == headerSize + count * entrySize else { return nil }
        var table = ProducerTable()
        for index in 0..<count {
            let start = headerSize + index * entrySize
            var entry = ProducerEntry()
            entry.epoch = bytes.integer(at: start + 8)
            let lastSequence: Int32 = bytes.integer(at: start + 10)
            let lastOffset = Offset(bytes.integer(at: start + 14, as: Int64.self))
            let delta: Int32 = bytes.integer(at: start + 22)
            entry.lastTimestamp = Timestamp(bytes.integer(at: start + 26, as: Int64.self))
            entry.coordinatorEpoch = bytes.integer(at: start + 34)
            let first = Offset(bytes.integer(at: start + 38, as: Int64.self))
            if first >= 0 { entry.currentTransactionFirstOffset = first }
            if lastOffset >= 0 {
                entry.batches = [
                    ProducerBatch(
                        firstSequence: lastSequence < 0 ? -1 : (lastSequence &- delta) & Int32.max,
                        lastSequence: lastSequence,
                        lastOffset: lastOffset,
                        offsetDelta: delta,
                        timestamp: entry.lastTimestamp
                    )
                ]
            }
            entry.lastUsed = now
            table.insert(ProducerID(bytes.integer(at: start, as: Int64.self)), entry)
        }
        return table
    }
}
