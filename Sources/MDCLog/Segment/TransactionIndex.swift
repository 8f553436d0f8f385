// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// The aborted transactions whose markers lie in a segment: the content of Kafka's `.txnindex`.
enum TransactionIndex {
    /// Version (int16, 0), producer id, first offset, last offset, last stable offset (int64 each).
    static let entrySize = 34

    static func encode(_ entries: some Sequence<AbortedTransaction>) -> [UInt8] {
        var bytes: [UInt8] = []
        for entry in entries {
            bytes.appendInteger(Int16(0))
            bytes.appendInteger(entry.producerID.rawValue)
            bytes.appendInteger(entry.firstOffset.rawValue)
            bytes.appendInteger(entry.lastOffset.rawValue)
            bytes.appendInteger(entry.lastStableOffset.rawValue)
        }
        return bytes
    }

    /// Reads an index file; nil where its entries contradict each other or the segment's first offset.
    static func decode(_ bytes: [UInt8], baseOffset: Offset) -> [AbortedTransaction]? {
        guard bytes.count % entrySize == 0 else { return nil }
        var entries: [AbortedTransaction] = []
        for start in stride(from: 0, to: bytes.count, by: entrySize) {
            let entry = AbortedTransaction(
                producerID: ProducerID(bytes.integer(at: start + 2, as: Int64.self)),
                firstOffset: Offset(bytes.integer(at: start + 10, as: Int64.self)),
                lastOffset: Offset(bytes.integer(at: start + 18, as: Int64.self)),
                lastStableOffset: Offset(bytes.integer(at: start + 26, as: Int64.self))
            )
            guard bytes.integer(at: start, as: Int16.self) == 0, entry.producerID.rawValue >= 0,
                entry.firstOffset >= 0, entry.firstOffset < entry.lastOffset, entry.lastOffset >= baseOffset,
                entry.lastOffset > entries.last?.lastOffset ?? -1
            else { return nil }
            entries.append(entry)
        }
        return entries
    }
}
