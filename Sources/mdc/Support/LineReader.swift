// SPDX-License-Identifier: Apache-2.0

import Foundation
import NIOCore
import NIOPosix

/// The lines of a file or of standard input, read in pieces: memory is bounded by the longest line allowed.
struct LineReader {
    /// A longer line is an error, not a growing buffer.
    static let longestLine = 64 * 1024 * 1024
    private static let pieceSize = 256 * 1024

    private let descriptor: Int32
    private let name: String
    private var buffer = ByteBuffer()
    /// Readable bytes at the buffer's head that are known to hold no line feed.
    private var scanned = 0
    private var hasEnded = false
    private(set) var lineNumber = 0

    /// Reads a file; nil reads standard input. Throws `CommandError`.
    init(path: String?) throws {
        if let path {
            descriptor = open(path, O_RDONLY | O_CLOEXEC)
            name = path
            guard descriptor >= 0 else {
                throw CommandError("cannot read '\(path)': \(String(cString: strerror(errno)))")
            }
        } else {
            descriptor = STDIN_FILENO
            name = "standard input"
        }
    }

    func close() {
        if descriptor != STDIN_FILENO { _ = Foundation.close(descriptor) }
    }

    /// The next line without its line feed; nil at the end. Throws `CommandError`.
    mutating func next() async throws -> ByteBuffer? {
        while true {
            let unseen = buffer.readableBytesView.dropFirst(scanned)
            if let feed = unseen.firstIndex(of: UInt8(ascii: "\n")) {
                let length = feed - buffer.readerIndex
                let line = buffer.readSlice(length: length)
                buffer.moveReaderIndex(forwardBy: 1)
                scanned = 0
                lineNumber += 1
                return line
            }
            scanned = buffer.readableBytes
            if hasEnded {
                guard buffer.readableBytes > 0 else { return nil }
                scanned = 0
                lineNumber += 1
                return buffer.readSlice(length: buffer.readableBytes)
            }
            guard scanned < Self.longestLine else {
                throw CommandError("line \(lineNumber + 1) of \(name) is longer than 64 MiB: is it lines of text?")
            }
            try await readPiece()
        }
    }

    /// Reads on a thread of its own: a terminal may keep it waiting for hours.
    private mutating func readPiece() async throws {
        let descriptor = self.descriptor
        let piece = try await NIOThreadPool.singleton.runIfActive { () throws -> ByteBuffer in
            var piece = ByteBufferAllocator().buffer(capacity: Self.pieceSize)
            var failure: Int32 = 0
            piece.writeWithUnsafeMutableBytes(minimumWritableBytes: Self.pieceSize) { bytes in
                while true {
                    let count = read(descriptor, bytes.baseAddress, Self.pieceSize)
                    if count >= 0 { return count }
                    if errno != EINTR {
                        failure = errno
                        return 0
                    }
                }
            }
            if failure != 0 { throw CommandError("cannot read: \(String(cString: strerror(failure)))") }
            return piece
        }
        if piece.readableBytes == 0 {
            hasEnded = true
        } else if buffer.readableBytes == 0 {
            buffer = piece
        } else {
            // Lines handed out share the old storage; the rest moves to a new one, so that they do not keep it growing.
            var joined = ByteBufferAllocator().buffer(capacity: buffer.readableBytes + piece.readableBytes)
            joined.writeImmutableBuffer(buffer)
            joined.writeImmutableBuffer(piece)
            buffer = joined
        }
    }
}
