// SPDX-License-Identifier: Apache-2.0

import MDCModel
import NIOCore
import Testing

@testable import MDCLog

@Suite struct FooterTests {
    /// Batches shorter and longer than a block, with borders anywhere in them.
    private func filled() throws -> TestNode {
        var settings = LogSettings()
        settings.segmentBytes = 1 << 20
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        var size = 40
        for number in 0..<60 {
            try log.append(try BatchMaker().batch(1 + number % 3, size: size))
            size = (size * 7 + number * 131) % 150_000 + 1
        }
        node.manager.runSyncRound()
        node.manager.runScrub()
        return node
    }

    /// The checksums of the blocks, put together from those of the batches, are those of the file's bytes.
    @Test func blocksAreThoseOfTheBytes() throws {
        let node = try filled()
        let footers = try node.folder.names("t-0").filter { $0.hasSuffix(FileName.footer) }
        #expect(footers.count >= 3)
        for name in footers {
            let footer = try #require(SegmentFooter(decoding: try node.folder.bytes("t-0/\(name)")))
            let log = try node.folder.bytes("t-0/" + name.dropLast(FileName.footer.count) + FileName.log)
            let blocks = stride(from: 0, to: log.count, by: SegmentFooter.blockSize).map { start in
                Array(log[start..<min(start + SegmentFooter.blockSize, log.count)])
                    .withUnsafeBytes { CRC32C.compute($0) }
            }
            #expect(footer.length == log.count && Array(footer.blocks) == blocks, "\(name)")
        }
        try node.manager.close()
        #expect(try LogChecker(directory: node.folder.path).run().isSound)
    }

    /// A footer that says something else than a sound log is found, at the block in question.
    @Test func aWrongBlockIsNamed() throws {
        let node = try filled()
        try node.manager.close()
        let name = "t-0/" + (try #require(try node.folder.names("t-0").first { $0.hasSuffix(FileName.footer) }))
        var footer = try #require(SegmentFooter(decoding: try node.folder.bytes(name)))
        try #require(footer.blocks.count > 2)
        footer.blocks[2] ^= 1
        try node.folder.write(name, footer.encode())
        let report = try LogChecker(directory: node.folder.path).run()
        #expect(report.problems.map(\.position) == [2 * SegmentFooter.blockSize], "\(report)")
    }
}
