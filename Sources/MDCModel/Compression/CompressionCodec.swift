// SPDX-License-Identifier: Apache-2.0

public import NIOCore

/// How the records of a batch are compressed. The raw value is what the header's attributes hold.
public enum CompressionCodec: UInt8, Sendable, CaseIterable, CustomStringConvertible {
    /// Not at all.
    case none = 0
    /// gzip (RFC 1952).
    case gzip = 1
    /// Snappy, in the framing of the Java library.
    case snappy = 2
    /// LZ4 frames.
    case lz4 = 3
    /// Zstandard (RFC 8878).
    case zstd = 4

    /// The name that Kafka's `compression.type` has for it.
    public var description: String {
        switch self {
        case .none: "none"
        case .gzip: "gzip"
        case .snappy: "snappy"
        case .lz4: "lz4"
        case .zstd: "zstd"
        }
    }

    /// The codec of a name as in `compression.type`; nil where there is none.
    public init?(name: String) {
        guard let codec = Self.allCases.first(where: { $0.description == name }) else { return nil }
        self = codec
    }

    /// The levels that the codec has; nil where it has none to choose.
    public var levels: ClosedRange<Int>? {
        switch self {
        case .none, .snappy: nil
        case .gzip: 1...9
        case .lz4: 1...12
        case .zstd: Zstd.levels
        }
    }

    /// The most bytes that `size` bytes may take once compressed.
    public func maximumCompressedSize(of size: Int) -> Int {
        switch self {
        case .none: size
        case .gzip: Gzip.maximumCompressedSize(of: size)
        case .snappy: Snappy.maximumCompressedSize(of: size)
        case .lz4: LZ4.maximumCompressedSize(of: size)
        case .zstd: Zstd.maximumCompressedSize(of: size)
        }
    }

    /// Compresses `bytes` to the end of `out`. `level`: one of `levels`, nil for the codec's default. On an error
    /// `out` is as before.
    public func compress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        level: Int? = nil
    ) throws(CompressionError) {
        if let level {
            guard let levels, levels.contains(level) else {
                let known = levels.map { "has levels \($0.lowerBound) to \($0.upperBound)" } ?? "has no levels"
                throw CompressionError(.invalidLevel, "\(self) \(known), not \(level)")
            }
        }
        let start = out.writerIndex
        do throws(CompressionError) {
            switch self {
            case .none: out.writeBytes(bytes)
            case .gzip: try Gzip.compress(bytes, into: &out, level: level)
            case .snappy: try Snappy.compress(bytes, into: &out)
            case .lz4: try LZ4.compress(bytes, into: &out, level: level)
            case .zstd: try Zstd.compress(bytes, into: &out, level: level)
            }
        } catch {
            out.moveWriterIndex(to: start)
            throw error
        }
    }

    /// Decompresses all of `bytes` to the end of `out`. Memory grows with what comes out, in steps; input that
    /// yields more than `limit` bytes is refused when it gets there. On an error `out` is as before.
    public func decompress(
        _ bytes: UnsafeRawBufferPointer,
        into out: inout ByteBuffer,
        limit: Int
    ) throws(CompressionError) {
        let start = out.writerIndex
        do throws(CompressionError) {
            switch self {
            case .none:
                guard bytes.count <= limit else { throw .limit(self, limit) }
                out.writeBytes(bytes)
            case .gzip: try Gzip.decompress(bytes, into: &out, limit: limit)
            case .snappy: try Snappy.decompress(bytes, into: &out, limit: limit)
            case .lz4: try LZ4.decompress(bytes, into: &out, limit: limit)
            case .zstd: try Zstd.decompress(bytes, into: &out, limit: limit)
            }
        } catch {
            out.moveWriterIndex(to: start)
            throw error
        }
    }
}

/// Grows an output buffer step by step while a stream is decompressed into it, and stops it at a limit.
struct BoundedOutput {
    private(set) var produced = 0
    private var step: Int
    private let limit: Int
    private let codec: CompressionCodec

    init(codec: CompressionCodec, limit: Int, inputSize: Int) {
        self.codec = codec
        self.limit = max(limit, 0)
        step = min(max(inputSize * 4, 4 << 10), 1 << 20)
    }

    /// Gives `body` room for some more bytes; it returns how many it wrote.
    mutating func write(
        to out: inout ByteBuffer,
        _ body: (UnsafeMutableRawBufferPointer) -> Int
    ) throws(CompressionError) {
        // One byte more than allowed, so that "exactly the limit" and "beyond it" can be told apart.
        let left = limit - produced
        let room = left < step ? left + 1 : step
        let written = out.writeWithUnsafeMutableBytes(minimumWritableBytes: room) { bytes in
            body(UnsafeMutableRawBufferPointer(rebasing: bytes[..<room]))
        }
        produced += written
        guard produced <= limit else { throw .limit(codec, limit) }
        step = min(step * 2, 1 << 20)
    }
}
