// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What a control batch says, as far as the log cares: the end of a transaction. Source: KIP-98.
struct TransactionMarker: Sendable, Equatable {
    var isCommit: Bool
    var coordinatorEpoch: Int32

    /// Reads the first record of a control batch; nil where it is a control record of another kind, or malformed.
    init?(controlBatch bytes: UnsafeRawBufferPointer) {
        let header = RecordBatchHeader(reading: bytes)
        guard header.attributes.isControl, header.attributes.compressionNumber == 0, header.recordCount > 0 else {
            return nil
        }
        var position = RecordBatchHeader.Layout.size
        func varint() -> Int64? {
            var value: UInt64 = 0
            var shift: UInt64 = 0
            while position < bytes.count, shift < 64 {
                let byte = bytes[position]
                position += 1
                value |= UInt64(byte & 0x7F) << shift
                if byte & 0x80 == 0 { return Int64(bitPattern: value >> 1) ^ -Int64(bitPattern: value & 1) }
                shift += 7
            }
            return nil
        }
        guard varint() != nil, position < bytes.count else { return nil }
        position += 1
        // Timestamp delta, offset delta, key: version and type; then the value: version and coordinator epoch.
        guard varint() != nil, varint() != nil, let keySize = varint(), keySize >= 4,
            Int64(position) + keySize <= Int64(bytes.count)
        else { return nil }
        let type = Int16(bigEndian: bytes.loadUnaligned(fromByteOffset: position + 2, as: Int16.self))
        guard type == 0 || type == 1 else { return nil }
        position += Int(keySize)
        guard let valueSize = varint(), valueSize >= 6, Int64(position) + valueSize <= Int64(bytes.count) else {
            return nil
        }
        isCommit = type == 1
        coordinatorEpoch = Int32(bigEndian: bytes.loadUnaligned(fromByteOffset: position + 2, as: Int32.self))
    }
}

extension ProducerTable {
    /// Takes note of a batch that is in the log: data or marker. Returns the transaction that it ends.
    mutating func replay(
        _ header: RecordBatchHeader,
        marker: TransactionMarker?,
        now: Timestamp
    ) -> CompletedTransaction? {
        guard header.isIdempotent else { return nil }
        if header.attributes.isControl {
            guard let marker else { return nil }
            return applyMarker(
                producerID: header.producerID,
                producerEpoch: header.producerEpoch,
                coordinatorEpoch: marker.coordinatorEpoch,
                isCommit: marker.isCommit,
                offset: header.baseOffset,
                timestamp: header.maxTimestamp,
                now: now
            )
        }
        // A batch without sequence numbers (offsets that a coordinator commits in a transaction) leaves no trace of its
        // own, but it may begin a transaction.
        if header.baseSequence >= 0 || header.attributes.isTransactional { apply(header, now: now) }
        return nil
    }
}
