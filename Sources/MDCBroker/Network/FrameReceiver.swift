// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// Says what a connection's socket is read into: the memory of the frame that has begun, behind what has arrived of it, so that a large
/// frame is never moved; else a buffer of about the size of what is to be expected. On its event loop alone.
final class FrameReceiver: RecvByteBufferAllocator {
    private static let smallest = 4 << 10
    private static let largest = 1 << 20
    /// Buffers up to here are used again for the next read. Larger ones belong to the frames that were read into them.
    private static let reused = 64 << 10

    nonisolated(unsafe) private weak var handler: ConnectionHandler?
    nonisolated(unsafe) private var size = 16 << 10
    nonisolated(unsafe) private var wasSmall = false

    init(_ handler: ConnectionHandler) { self.handler = handler }

    func buffer(allocator: ByteBufferAllocator) -> ByteBuffer {
        handler?.lendFrame() ?? allocator.buffer(capacity: size)
    }

    /// Nil makes NIO ask for a new buffer.
    func nextBufferSize() -> Int? {
        guard size <= Self.reused, let handler, !handler.hasPartialFrame else { return nil }
        return size
    }

    func record(actualReadBytes: Int) -> Bool {
        if actualReadBytes >= size {
            size = min(size * 2, Self.largest)
        } else if actualReadBytes < size / 4 {
            // Once may be chance.
            if wasSmall { size = max(size / 2, Self.smallest) }
            wasSmall.toggle()
        } else {
            wasSmall = false
        }
        // True keeps NIO from filling its last buffer again, whoever may hold it.
        return true
    }

    /// A frame of this size has come: the next one is taken to be like it.
    func sawFrame(_ bytes: Int) {
        while size < bytes && size < Self.largest { size *= 2 }
    }
}
