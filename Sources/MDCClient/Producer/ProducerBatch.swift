// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore

/// What is told when a record is done.
typealias ProducerCompletion = @Sendable (Result<RecordMetadata, ClientError>) -> Void

/// A batch on its way from `append` to its acknowledgement.
///
/// Never shared: until it is drained it is touched under the producer's lock only, afterwards on its event loop only,
/// hence unchecked.
final class ProducerBatch: @unchecked Sendable {
    let topic: String
    let partition: Int32
    let created: NIODeadline
    /// Flushes wait for all batches up to their generation.
    let generation: Int
    /// Bytes that count against the memory limit.
    private(set) var reservedBytes = 0
    private(set) var recordCount: Int32 = 0
    var attempts = 0
    /// The idempotent producer that the records were numbered for.
    var producerID: Int64 = -1
    var producerEpoch: Int16 = -1
    var baseSequence: Int32 = -1
    /// Counts the batches that the partition has sent.
    var ordinal = 0

    private var builder: RecordBatchBuilder?
    private var encoded: ByteBuffer?
    /// The header's producer fields changed after encoding.
    private var headerIsStale = false
    private var completions: [(index: Int32, timestamp: Timestamp, done: ProducerCompletion)] = []

    init(
        topic: String,
        partition: Int32,
        created: NIODeadline,
        generation: Int,
        settings: RecordBatchBuilder.Settings,
        capacity: Int
    ) {
        self.topic = topic
        self.partition = partition
        self.created = created
        self.generation = generation
        builder = RecordBatchBuilder(settings, initialCapacity: capacity)
    }

    /// Bytes to expect on the wire.
    var estimatedSize: Int { encoded?.readableBytes ?? builder?.estimatedSizeInBytes ?? 0 }

    /// Appends a record that takes at most `size` bytes.
    func append(_ record: ProducerRecord, size: Int, timestamp: Timestamp, done: ProducerCompletion?) {
        guard builder != nil else { preconditionFailure("append to a batch that was sent") }
        builder!.append(key: record.key, value: record.value, headers: record.headers, timestamp: timestamp)
        if let done { completions.append((recordCount, timestamp, done)) }
        recordCount += 1
        reservedBytes += size
    }

    /// Numbers the records for an idempotent producer; the bytes follow at the next `encode`.
    func number(producerID: Int64, epoch: Int16, baseSequence: Int32) {
        self.producerID = producerID
        self.producerEpoch = epoch
        self.baseSequence = baseSequence
        headerIsStale = true
    }

    /// The bytes of the batch: made at the first call, the same ones at each repetition.
    func encode() throws -> ByteBuffer {
        if var encoded {
            if headerIsStale {
                self.encoded = nil
                patchHeader(of: &encoded)
                self.encoded = encoded
                headerIsStale = false
            }
            return encoded
        }
        guard var builder else { preconditionFailure("a batch without builder and bytes") }
        self.builder = nil
        builder.settings.producerID = ProducerID(producerID)
        builder.settings.producerEpoch = producerEpoch
        builder.settings.baseSequence = baseSequence
        let bytes = try builder.build()
        encoded = bytes
        headerIsStale = false
        return bytes
    }

    private func patchHeader(of bytes: inout ByteBuffer) {
        typealias Layout = RecordBatchHeader.Layout
        let start = bytes.readerIndex
        bytes.setInteger(producerID, at: start + Layout.producerID)
        bytes.setInteger(producerEpoch, at: start + Layout.producerEpoch)
        bytes.setInteger(baseSequence, at: start + Layout.baseSequence)
        let crc = bytes.withUnsafeReadableBytes {
            CRC32C.compute(UnsafeRawBufferPointer(rebasing: $0[Layout.checksummedFrom...]))
        }
        bytes.setInteger(crc, at: start + Layout.crc)
    }

    /// Tells every record's owner; at most once.
    func complete(_ result: Result<(baseOffset: Int64, logAppendTime: Int64), ClientError>) {
        let completions = self.completions
        self.completions = []
        encoded = nil
        builder = nil
        for completion in completions {
            switch result {
            case .success(let (baseOffset, logAppendTime)):
                completion.done(
                    .success(
                        RecordMetadata(
                            topic: topic,
                            partition: partition,
                            offset: baseOffset < 0 ? -1 : baseOffset + Int64(completion.index),
                            timestamp: logAppendTime >= 0 ? Timestamp(logAppendTime) : completion.timestamp
                        )
                    )
                )
            case .failure(let error):
                completion.done(.failure(error))
            }
        }
    }

    /// Cuts the batch in two, which together take its place: same records, same sequence numbers, same completions.
    func split(settings: RecordBatchBuilder.Settings) throws -> [ProducerBatch] {
        precondition(recordCount > 1, "a batch of one record cannot be split")
        let reader = try RecordBatchReader(try encode())
        let middle = recordCount / 2
        let halves = [middle, recordCount - middle].map { count in
            let half = ProducerBatch(
                topic: topic,
                partition: partition,
                created: created,
                generation: generation,
                settings: settings,
                capacity: reservedBytes / 2
            )
            half.recordCount = count
            half.attempts = attempts
            half.ordinal = ordinal
            return half
        }
        var index: Int32 = 0
        for record in try reader.records() {
            let half = halves[index < middle ? 0 : 1]
            half.builder!.append(
                key: record.key,
                value: record.value,
                headers: record.headers,
                timestamp: record.timestamp
            )
            index += 1
        }
        for completion in completions {
            let second = completion.index >= middle
            halves[second ? 1 : 0].completions.append(
                (completion.index - (second ? middle : 0), completion.timestamp, completion.done)
            )
        }
        halves[0].reservedBytes = reservedBytes / 2
        halves[1].reservedBytes = reservedBytes - reservedBytes / 2
        if baseSequence >= 0 {
            halves[0].number(producerID: producerID, epoch: producerEpoch, baseSequence: baseSequence)
            halves[1].number(
                producerID: producerID,
                epoch: producerEpoch,
                baseSequence: SequenceNumber.advance(baseSequence, by: middle)
            )
        }
        completions = []
        return halves
    }
}

/// Sequence numbers run from 0 to 2^31-1 and begin again at 0.
enum SequenceNumber {
    static func advance(_ sequence: Int32, by count: Int32) -> Int32 { (sequence &+ count) & Int32.max }
}
