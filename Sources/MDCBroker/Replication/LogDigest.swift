// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore

/// The checksum of a stretch of a log: whole batches, byte for byte.
struct LogDigest: Equatable, Sendable {
    /// The first batch's first offset, and the offset behind the last one.
    var first: Int64
    var end: Int64
    var checksum: UInt32
    /// Whether each batch agrees with its own checksum.
    var isSound: Bool

    /// The stretch ends behind the batch that fills this many bytes: on all replicas behind the same one.
    static let stretch = 4 << 20

    /// Reads the stretch that begins with the batch of `from`; nil where nothing is there before `end`. Damage that keeps
    /// batches from being read ends it, and is told. Blocks.
    static func of(_ log: PartitionLog, from: Offset, upTo end: Offset) -> LogDigest? {
        var digest: LogDigest?
        var bytes = 0
        var position = max(from, log.logStartOffset)
        while position < end && bytes < stretch {
            do {
                let read = try log.read(from: position, maxBytes: 1 << 20, minOneBatch: true, upTo: end)
                if read.slices.isEmpty { break }
                var buffer = ByteBuffer()
                try read.copy(into: &buffer)
                var batches = RecordBatchIterator(buffer)
                while bytes < stretch, let batch = try batches.next() {
                    digest.add(batch)
                    bytes += batch.bytes.readableBytes
                }
                guard let reached = digest?.end, reached > position.rawValue else { break }
                position = Offset(reached)
            } catch {
                var damaged =
                    digest ?? LogDigest(first: position.rawValue, end: position.rawValue, checksum: 0, isSound: false)
                damaged.isSound = false
                return damaged
            }
        }
        return digest
    }

    // MARK: On the wire

    /// The tagged field of OffsetForLeaderEpoch, of ours alone, that asks for a digest and carries it back. Other brokers pass
    /// over it.
    static let tag: UInt32 = 0x4D44

    /// A question: from where, and up to where.
    static func question(from: Offset, upTo end: Offset) -> ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeInteger(from.rawValue)
        buffer.writeInteger(end.rawValue)
        return buffer
    }

    /// Reads a question; nil where it is none.
    static func question(_ bytes: ByteBuffer) -> (from: Offset, end: Offset)? {
        var bytes = bytes
        guard bytes.readableBytes == 16, let from = bytes.readInteger(as: Int64.self),
            let end = bytes.readInteger(as: Int64.self), from >= 0, end >= from
        else { return nil }
        return (Offset(from), Offset(end))
    }

    var bytes: ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeInteger(first)
        buffer.writeInteger(end)
        buffer.writeInteger(checksum)
        buffer.writeInteger(isSound ? 1 : 0, as: UInt8.self)
        return buffer
    }

    init(first: Int64, end: Int64, checksum: UInt32, isSound: Bool) {
        self.first = first
        self.end = end
        self.checksum = checksum
        self.isSound = isSound
    }

    init?(_ bytes: ByteBuffer) {
        var bytes = bytes
        guard bytes.readableBytes == 21, let first = bytes.readInteger(as: Int64.self),
            let end = bytes.readInteger(as: Int64.self), let checksum = bytes.readInteger(as: UInt32.self),
            let isSound = bytes.readInteger(as: UInt8.self)
        else { return nil }
        self.init(first: first, end: end, checksum: checksum, isSound: isSound == 1)
    }
}

extension LogDigest? {
    /// Takes the next batch into the checksum.
    fileprivate mutating func add(_ batch: RecordBatchSlice) {
        let first = batch.header.baseOffset.rawValue
        var digest = self ?? LogDigest(first: first, end: first, checksum: 0, isSound: true)
        batch.bytes.withUnsafeReadableBytes { bytes in
            digest.checksum = CRC32C.extend(digest.checksum, bytes)
            let own = CRC32C.compute(
                UnsafeRawBufferPointer(rebasing: bytes[RecordBatchHeader.Layout.checksummedFrom...])
            )
            if own != batch.header.crc { digest.isSound = false }
        }
        digest.end = batch.header.lastOffset.rawValue + 1
        self = digest
    }
}
