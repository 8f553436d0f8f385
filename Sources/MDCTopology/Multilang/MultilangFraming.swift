// SPDX-License-Identifier: Apache-2.0

import MDCJSON
import NIOCore

/// Cuts a child's output into messages: JSON, over one or more lines, and then a line `end`. Pure; memory is bounded by `maxBytes`.
struct MultilangFraming {
    private let maxBytes: Int
    private var buffer = ByteBuffer()
    /// How far no line ends.
    private var scanned = 0
    /// Where the line begins that is being looked at.
    private var lineStart = 0

    init(maxBytes: Int) { self.maxBytes = maxBytes }

    mutating func append(_ bytes: ByteBuffer) {
        if buffer.readableBytes == 0 {
            buffer.clear()
            (scanned, lineStart) = (0, 0)
        } else if buffer.readerIndex > 1 << 16 {
            buffer.discardReadBytes()
        }
        buffer.writeImmutableBuffer(bytes)
    }

    /// The next message; nil until more comes. Throws ``TopologyError`` (`child`) for one that is too long.
    mutating func next() throws(TopologyError) -> ByteBuffer? {
        // Positions are relative to the reader index, which moves with each message only.
        while let found = lineEnd() {
            let start = buffer.readerIndex + lineStart
            var length = found - lineStart
            if length > 0, buffer.getInteger(at: start + length - 1, as: UInt8.self) == UInt8(ascii: "\r") {
                length -= 1
            }
            let isEnd = length == 3 && buffer.getString(at: start, length: 3) == "end"
            let body = lineStart
            (scanned, lineStart) = (found + 1, found + 1)
            guard isEnd else { continue }
            let message = buffer.readSlice(length: body)
            buffer.moveReaderIndex(forwardBy: found + 1 - body)
            (scanned, lineStart) = (0, 0)
            if let message { return message }
        }
        if buffer.readableBytes > maxBytes {
            throw TopologyError(.child, "the child sent a message of more than \(maxBytes) bytes without a line 'end'")
        }
        return nil
    }

    /// Where, relative to the reader index, the next line feed is.
    private mutating func lineEnd() -> Int? {
        let view = buffer.readableBytesView.dropFirst(scanned)
        guard let index = view.firstIndex(of: UInt8(ascii: "\n")) else {
            scanned = buffer.readableBytes
            return nil
        }
        return index - buffer.readerIndex
    }

    /// A message as it is sent.
    static func frame(_ message: JSONValue) throws -> ByteBuffer {
        var buffer = ByteBuffer(bytes: try message.serialized())
        buffer.writeStaticString("\nend\n")
        return buffer
    }
}
