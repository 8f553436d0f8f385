// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// One of several batches in a buffer.
public struct RecordBatchSlice: Sendable {
    /// The header.
    public let header: RecordBatchHeader
    /// The whole batch, header included: a slice, not a copy.
    public let bytes: ByteBuffer

    /// A reader of the batch.
    public func reader(
        verifyChecksum: Bool = true,
        decompressionLimit: Int = RecordBatchReader.defaultDecompressionLimit
    ) throws(RecordBatchError) -> RecordBatchReader {
        try RecordBatchReader(bytes, verifyChecksum: verifyChecksum, decompressionLimit: decompressionLimit)
    }
}

/// Walks the batches of a buffer, such as the `records` of a fetch response, without decoding them.
///
/// A broker may cut the last batch short to fit the size that was asked for, so a truncated last batch ends the walk
/// and is no error; `truncatedBytes` tells how much was left.
public struct RecordBatchIterator: Sendable {
    private var buffer: ByteBuffer
    /// Bytes of a truncated batch at the end; 0 until the walk has ended there.
    public private(set) var truncatedBytes = 0

    /// Walks the readable bytes of `buffer`.
    public init(_ buffer: ByteBuffer) { self.buffer = buffer }

    /// The next batch; nil at the end. Throws where the header is not of format v2 or has an impossible length; the
    /// batch's checksum is the reader's business.
    public mutating func next() throws(RecordBatchError) -> RecordBatchSlice? {
        guard buffer.readableBytes > 0 else { return nil }
        guard buffer.readableBytes >= RecordBatchHeader.Layout.size else { return truncated() }
        let header = try RecordBatchReader.header(of: buffer)
        guard let bytes = buffer.readSlice(length: header.sizeInBytes) else { return truncated() }
        return RecordBatchSlice(header: header, bytes: bytes)
    }

    private mutating func truncated() -> RecordBatchSlice? {
        truncatedBytes = buffer.readableBytes
        buffer.clear()
        return nil
    }
}
