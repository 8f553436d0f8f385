// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// The record of a control batch: the marker that ends a producer's transaction in a partition. Source: KIP-98.
///
/// Key: version (int16), type (int16). Value of a transaction marker: version (int16), coordinator epoch (int32).
public struct ControlRecord: Hashable, Sendable {
    /// What the marker says.
    public enum Kind: Hashable, Sendable {
        /// The transaction was aborted: its records are not for read-committed consumers.
        case abort
        /// The transaction was committed.
        case commit
        /// Something else, which Kafka writes to its own metadata log; by its number.
        case other(Int16)

        /// The number on the wire.
        public var rawValue: Int16 {
            switch self {
            case .abort: 0
            case .commit: 1
            case .other(let number): number
            }
        }

        init(rawValue: Int16) {
            switch rawValue {
            case 0: self = .abort
            case 1: self = .commit
            default: self = .other(rawValue)
            }
        }
    }

    /// What the marker says.
    public let kind: Kind
    /// The epoch of the transaction coordinator that wrote it; -1 for other kinds.
    public let coordinatorEpoch: Int32

    /// A marker.
    public init(kind: Kind, coordinatorEpoch: Int32) {
        self.kind = kind
        self.coordinatorEpoch = coordinatorEpoch
    }

    /// Reads key and value of a control record. Newer versions, which may be longer, are read as far as we know them.
    public init(key: ByteBuffer?, value: ByteBuffer?) throws(RecordBatchError) {
        guard let key, let version = key.getInteger(at: key.readerIndex, as: Int16.self), version >= 0,
            let type = key.getInteger(at: key.readerIndex + 2, as: Int16.self)
        else {
            throw RecordBatchError(
                .invalidRecord,
                "a control record's key is version and type, 4 bytes; it has \(key.map { "\($0.readableBytes)" } ?? "null")"
            )
        }
        kind = Kind(rawValue: type)
        guard type == 0 || type == 1 else {
            coordinatorEpoch = -1
            return
        }
        guard let value, let valueVersion = value.getInteger(at: value.readerIndex, as: Int16.self), valueVersion >= 0,
            let epoch = value.getInteger(at: value.readerIndex + 2, as: Int32.self)
        else {
            throw RecordBatchError(
                .invalidRecord,
                "a transaction marker's value is version and coordinator epoch, 6 bytes; it has "
                    + (value.map { "\($0.readableBytes)" } ?? "null")
            )
        }
        coordinatorEpoch = epoch
    }

    /// The record's key.
    public var key: ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeMultipleIntegers(Int16(0), kind.rawValue)
        return buffer
    }

    /// The record's value.
    public var value: ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeMultipleIntegers(Int16(0), coordinatorEpoch)
        return buffer
    }

    /// Writes the whole control batch: one record, without sequence, transactional.
    public func writeBatch(
        producerID: ProducerID,
        producerEpoch: Int16,
        timestamp: Timestamp,
        baseOffset: Offset = 0,
        partitionLeaderEpoch: LeaderEpoch = .unknown,
        into out: inout ByteBuffer
    ) {
        var settings = RecordBatchBuilder.Settings()
        settings.baseOffset = baseOffset
        settings.partitionLeaderEpoch = partitionLeaderEpoch
        settings.producerID = producerID
        settings.producerEpoch = producerEpoch
        settings.isTransactional = true
        settings.isControl = true
        var builder = RecordBatchBuilder(settings)
        builder.append(key: key, value: value, timestamp: timestamp)
        do throws(CompressionError) {
            try builder.build(into: &out)
        } catch {
            preconditionFailure("nothing is compressed, so nothing can fail: \(error)")
        }
    }
}
