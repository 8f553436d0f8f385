// SPDX-License-Identifier: Apache-2.0

import MDCModel

/// What a sealed segment must look like: its length, a checksum per 64 KiB block, and the checksums of its indexes.
/// With it rot is told from a torn tail, and found block by block.
///
/// On disk: `MDCF`, version (int32), length (int64), end offset (int64), block size (int32), checksum of the offset
/// index, of the time index and of the transaction index (uint32 each), number of blocks (int32), one uint32 a block,
/// and the CRC-32C of all before (uint32). Numbers are big-endian, checksums CRC-32C.
struct SegmentFooter: Sendable, Equatable {
    static let blockSize = 64 << 10
    private static let magic: UInt32 = 0x4D44_4346
    private static let fixedSize = 44

    /// Length of the `.log` file.
    var length: Int
    /// Offset after the segment's last: the base of the next segment.
    var endOffset: Offset
    var offsetIndexChecksum: UInt32
    var timeIndexChecksum: UInt32
    /// 0 where there is no transaction index.
    var transactionIndexChecksum: UInt32
    var blocks: ContiguousArray<UInt32>

    func encode() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.fixedSize + blocks.count * 4 + 4)
        bytes.appendInteger(Self.magic)
        bytes.appendInteger(Int32(1))
        bytes.appendInteger(Int64(length))
        bytes.appendInteger(endOffset.rawValue)
        bytes.appendInteger(Int32(Self.blockSize))
        bytes.appendInteger(offsetIndexChecksum)
        bytes.appendInteger(timeIndexChecksum)
        bytes.appendInteger(transactionIndexChecksum)
        bytes.appendInteger(Int32(blocks.count))
        for block in blocks { bytes.appendInteger(block) }
        bytes.appendInteger(bytes.checksum)
        return bytes
    }

    /// Reads a footer; nil where it is damaged.
    init?(decoding bytes: [UInt8]) {
        guard bytes.count >= Self.fixedSize + 4, bytes.integer(at: 0, as: UInt32.self) == Self.magic,
            bytes.integer(at: 4, as: Int32.self) == 1,
            bytes.integer(at: 24, as: Int32.self) == Int32(Self.blockSize)
        else { return nil }
        let length = bytes.integer(at: 8, as: Int64.self)
        let count = Int(bytes.integer(at: 40, as: Int32.self))
        guard count >= 0, bytes.count == Self.fixedSize + count * 4 + 4, length >= 0, length <= Int64(Int32.max),
            count == (Int(length) + Self.blockSize - 1) / Self.blockSize,
            bytes.integer(at: bytes.count - 4, as: UInt32.self) == [UInt8](bytes.dropLast(4)).checksum
        else { return nil }
        self.length = Int(length)
        endOffset = Offset(bytes.integer(at: 16, as: Int64.self))
        offsetIndexChecksum = bytes.integer(at: 28)
        timeIndexChecksum = bytes.integer(at: 32)
        transactionIndexChecksum = bytes.integer(at: 36)
        blocks = ContiguousArray((0..<count).map { bytes.integer(at: Self.fixedSize + $0 * 4) })
    }

    init(
        length: Int,
        endOffset: Offset,
        offsetIndexChecksum: UInt32,
        timeIndexChecksum: UInt32,
        transactionIndexChecksum: UInt32,
        blocks: ContiguousArray<UInt32>
    ) {
        self.length = length
        self.endOffset = endOffset
        self.offsetIndexChecksum = offsetIndexChecksum
        self.timeIndexChecksum = timeIndexChecksum
        self.transactionIndexChecksum = transactionIndexChecksum
        self.blocks = blocks
    }

    /// The footer in a file; nil where there is none or it is damaged.
    static func read(_ path: String, fileSystem: any FileSystem) throws(FileSystemError) -> SegmentFooter? {
        guard let bytes = try fileSystem.readSmallFile(path) else { return nil }
        return SegmentFooter(decoding: bytes)
    }
}
