// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// A record as the model remembers it.
struct ModelRecord: Equatable {
    var offset: Int64
    var timestamp: Int64
    var key: [UInt8]?
    var value: [UInt8]?
}

/// A batch as it must stand in the log, byte for byte.
struct ModelBatch {
    var bytes: [UInt8]
    /// As it was sent.
    var sent: ByteBuffer
    var header: RecordBatchHeader
    var records: [ModelRecord]
    /// What a transaction marker says.
    var marker: ControlRecord?
    /// The node's time when it was appended.
    var appendedAt: Int64

    var base: Int64 { header.baseOffset.rawValue }
    var last: Int64 { header.lastOffset.rawValue }
    var next: Int64 { header.lastOffset.rawValue + 1 }

    /// What the log makes of a batch that a client sent.
    init(
        sent: ByteBuffer,
        at base: Int64,
        epoch: Int32?,
        logAppendTime: Int64?,
        now: Int64,
        records: [ModelRecord],
        marker: ControlRecord? = nil
    ) {
        typealias Layout = RecordBatchHeader.Layout
        var bytes = Array(sent.readableBytesView)
        func put<T: FixedWidthInteger>(_ value: T, _ position: Int) {
            withUnsafeBytes(of: value.bigEndian) { bytes.replaceSubrange(position..<position + $0.count, with: $0) }
        }
        put(base, Layout.baseOffset)
        if let epoch { put(epoch, Layout.partitionLeaderEpoch) }
        var records = records
        if let logAppendTime, marker == nil {
            let old = Int16(bytes[Layout.attributes]) << 8 | Int16(bytes[Layout.attributes + 1])
            put(old | 0x08, Layout.attributes)
            put(logAppendTime, Layout.maxTimestamp)
            let crc = bytes.withUnsafeBytes {
                CRC32C.compute(UnsafeRawBufferPointer(rebasing: $0[Layout.checksummedFrom...]))
            }
            put(crc, Layout.crc)
            for index in records.indices { records[index].timestamp = logAppendTime }
        }
        for index in records.indices { records[index].offset += base }
        header = bytes.withUnsafeBytes { RecordBatchHeader(reading: $0) }
        self.bytes = bytes
        self.sent = sent
        self.records = records
        self.marker = marker
        appendedAt = now
    }
}

/// What is known of a producer, naively.
struct ModelProducer: Equatable {
    var epoch: Int16 = -1
    var lastSequence: Int32 = -1
    var lastTimestamp: Int64 = -1
    var coordinatorEpoch: Int32 = -1
    var transactionStart: Int64?
}

/// A transaction that was aborted.
struct ModelAborted: Equatable {
    var producer: Int64
    var first: Int64
    var last: Int64
    var stable: Int64
}

/// Producers and transactions as of some batch, by replaying everything.
struct ModelProducers {
    var states: [Int64: ModelProducer] = [:]
    /// Open transactions in order of their first offsets.
    var open: [(producer: Int64, first: Int64)] = []
    var aborted: [ModelAborted] = []
    /// Ended transactions: producer, first offset, offset of the marker, whether aborted.
    var ended: [(producer: Int64, first: Int64, last: Int64, isAborted: Bool)] = []

    init(_ batches: some Sequence<ModelBatch>, after before: ModelProducers? = nil) {
        if let before { self = before }
        for batch in batches { add(batch) }
    }

    /// Takes over what a log knows.
    init(_ known: [Int64: ModelProducer]) {
        states = known
        open = known.compactMap { id, state in state.transactionStart.map { (producer: id, first: $0) } }
            .sorted { $0.first < $1.first }
    }

    mutating func add(_ batch: ModelBatch) {
        let header = batch.header
        let id = header.producerID.rawValue
        guard id >= 0 else { return }
        var state = states[id] ?? ModelProducer()
        if state.epoch != header.producerEpoch {
            state.epoch = header.producerEpoch
            state.lastSequence = -1
        }
        state.lastTimestamp = header.maxTimestamp.rawValue
        if let marker = batch.marker {
            state.coordinatorEpoch = marker.coordinatorEpoch
            if let first = state.transactionStart {
                open.removeAll { $0.producer == id }
                let isAborted = marker.kind == .abort
                ended.append((id, first, batch.base, isAborted))
                if isAborted {
                    let stable = open.first?.first ?? batch.base + 1
                    aborted.append(ModelAborted(producer: id, first: first, last: batch.base, stable: stable))
                }
            }
            state.transactionStart = nil
        } else {
            state.lastSequence = header.lastSequence
            if header.attributes.isTransactional, state.transactionStart == nil {
                state.transactionStart = batch.base
                open.append((id, batch.base))
            }
        }
        states[id] = state
    }

    /// Whether the record at `offset` of a producer belongs to a transaction that was aborted before `limit`.
    func isAborted(_ producer: Int64, _ offset: Int64, before limit: Int64 = .max) -> Bool {
        aborted.contains { $0.producer == producer && $0.first <= offset && offset < $0.last && $0.last < limit }
    }
}
