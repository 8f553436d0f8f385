// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// Cuts a stream of bytes into frames: an int32 length, then as many bytes.
///
/// A frame that lies whole in the bytes fed is a slice of them, not a copy. Only a frame that is spread over several
/// reads is gathered, in a buffer that grows with what has arrived, not with what its length promises.
public struct FrameDecoder: Sendable {
    /// The most bytes of a frame, without its length.
    public let maximumFrameSize: Int

    private var pending = ByteBuffer()
    /// Whether `pending` is a buffer of our own that nobody else holds a slice of.
    private var isGathering = false
    private var failure: ProtocolError?
    /// Bytes of a frame that were given away with their buffer.
    private var lent: Int?

    /// Makes a decoder that refuses frames of more than `maximumFrameSize` bytes.
    public init(maximumFrameSize: Int = 100 * 1024 * 1024) {
        precondition(maximumFrameSize > 0 && maximumFrameSize < Int(Int32.max))
        self.maximumFrameSize = maximumFrameSize
    }

    /// How many bytes wait for the rest of their frame.
    public var bufferedBytes: Int { pending.readableBytes }

    /// How many bytes the buffer that was lent had in it; 0 where none is out.
    public var lentBytes: Int { lent ?? 0 }

    /// Gives away the bytes that wait for the rest of their frame, in a buffer with room for it, so that the rest is read to
    /// where it belongs instead of being copied there. Nil where no frame has begun.
    ///
    /// The buffer, longer by what was read, is what `append(_:)` is fed next. If it is not, its bytes are lost: `next()`
    /// throws from then on.
    public mutating func lend() -> ByteBuffer? {
        if lent != nil {
            lent = nil
            failure = ProtocolError(
                .malformed,
                field: "frame",
                detail: "the beginning of a frame was lost between two reads; the peer may connect and send it again"
            )
            return nil
        }
        guard failure == nil, pending.readableBytes > 0 else { return nil }
        let missing = max(missingBytes, 1)
        if pending.writableBytes < min(missing, Self.leastRoom) {
            let readable = pending.readableBytes
            let room = min(missing, max(Self.believedFrameSize - readable, readable, Self.leastRoom))
            var gathered = ByteBuffer()
            gathered.reserveCapacity(readable + room)
            gathered.writeImmutableBuffer(pending)
            pending = gathered
        }
        lent = pending.readableBytes
        let buffer = pending
        pending = ByteBuffer()
        return buffer
    }

    /// How much of the frame that has begun has not arrived.
    private var missingBytes: Int {
        guard let length = pending.getInteger(at: pending.readerIndex, as: Int32.self) else { return Self.leastRoom }
        return 4 + Int(length) - pending.readableBytes
    }

    /// A read into less room than this is not worth its call, unless it ends a frame.
    private static let leastRoom = 64 << 10

    /// Feeds bytes that came from the peer, or a buffer that was lent.
    public mutating func append(_ bytes: ByteBuffer) {
        if lent != nil {
            lent = nil
            pending = bytes
            isGathering = true
            return
        }
        if failure != nil || bytes.readableBytes == 0 { return }
        if pending.readableBytes == 0 {
            pending = bytes
            isGathering = false
            return
        }
        if !isGathering {
            var gathered = ByteBuffer()
            gathered.reserveCapacity(max(pending.readableBytes + bytes.readableBytes, announcedCapacity))
            gathered.writeImmutableBuffer(pending)
            pending = gathered
            isGathering = true
        }
        pending.writeImmutableBuffer(bytes)
    }

    /// Room for the frame that has begun, so that a frame of usual size is gathered without moving what has arrived; what
    /// a longer length promises is not believed.
    private var announcedCapacity: Int {
        guard let length = pending.getInteger(at: pending.readerIndex, as: Int32.self), length > 0 else { return 0 }
        return min(4 + Int(length), Self.believedFrameSize)
    }

    private static let believedFrameSize = 5 << 18

    /// The next whole frame, without its length; nil where more bytes are needed.
    ///
    /// Throws where the length is negative or too large. The stream cannot be trusted afterwards: every later call
    /// throws the same error, and the connection should be closed.
    public mutating func next() throws(ProtocolError) -> ByteBuffer? {
        if let failure { throw failure }
        guard let length = pending.getInteger(at: pending.readerIndex, as: Int32.self) else { return nil }
        if length < 0 || Int(length) > maximumFrameSize {
            let error = ProtocolError(
                length < 0 ? .malformed : .limitExceeded,
                field: "frame",
                detail: length < 0
                    ? "the length \(length) is negative; is the peer speaking the Kafka protocol, and without TLS?"
                    : "the length \(length) exceeds the limit of \(maximumFrameSize) bytes"
            )
            failure = error
            pending = ByteBuffer()
            throw error
        }
        if pending.readableBytes < 4 + Int(length) { return nil }
        let frame: ByteBuffer? = pending.getSlice(at: pending.readerIndex + 4, length: Int(length))
        pending.moveReaderIndex(forwardBy: 4 + Int(length))
        isGathering = false
        if pending.readableBytes == 0 { pending = ByteBuffer() }
        return frame
    }
}
