// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

@Suite struct RecoveryTests {
    static let file = "t-0/00000000000000000000.log"

    /// Ten batches, of which those before `synced` are covered by a checkpoint.
    private func crashed(
        after count: Int = 10,
        checkpointAt: Int? = nil,
        settings: LogSettings = LogSettings()
    ) throws -> (folder: TemporaryFolder, ends: [Int]) {
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        var ends: [Int] = []
        for number in 0..<count {
            try log.append(try BatchMaker().batch(["value \(number)", "more \(number)"]))
            ends.append(log.sizeInBytes)
            if number + 1 == checkpointAt {
                node.manager.runSyncRound()
                node.manager.runCheckpoint()
            }
        }
        return (try node.folder.copy(), ends)
    }

    private func expected(_ count: Int) -> [String] { (0..<count).flatMap { ["value \($0)", "more \($0)"] } }

    @Test func cleanRestartScansNothing() throws {
        let node = try TestNode()
        let log = try node.make()
        for number in 0..<10 { try log.append(try BatchMaker().batch(["value \(number)", "more \(number)"])) }
        try node.manager.close()
        #expect(try node.folder.size(Self.file) == log.sizeInBytes)
        #expect(try node.folder.names().contains(".kafka_cleanshutdown"))
        let again = try TestNode(node.folder)
        #expect(again.manager.recoveryReports.isEmpty)
        #expect(try again.log.values() == expected(10))
        #expect(try !node.folder.names().contains(".kafka_cleanshutdown"))
        try again.log.append(try BatchMaker().batch(["next"]))
        #expect(try again.log.values() == expected(10) + ["next"])
        #expect(again.log.topicID == TopicID(high: 1, low: 2))
    }

    @Test func killedProcessKeepsEverything() throws {
        let (folder, ends) = try crashed()
        let node = try TestNode(folder)
        #expect(try node.log.values() == expected(10))
        #expect(node.log.syncedEndOffset == 20)
        let report = try #require(node.manager.recoveryReports.first)
        #expect(report.cutBytes == 0 && report.scannedBytes == ends[9] && report.damage.isEmpty)
        #expect(try folder.size(Self.file) == ends[9])
    }

    @Test func recoveryReadsOnlyFromTheCheckpoint() throws {
        let (folder, ends) = try crashed(checkpointAt: 6)
        let node = try TestNode(folder)
        #expect(node.manager.recoveryReports.first?.scannedBytes == ends[9] - ends[5])
        #expect(try node.log.values() == expected(10))
    }

    /// The index files go on with entries of batches that are lost: look-ups in the segment, once it is sealed, do not see
    /// them.
    @Test func indexEntriesOfLostBatchesAreForgotten() throws {
        var settings = LogSettings()
        settings.indexIntervalBytes = 1
        func batch(_ timestamp: Int64) throws -> ByteBuffer {
            var builder = RecordBatchBuilder()
            let time = Timestamp(1_700_000_000_000 + timestamp)
            builder.append(key: nil, value: ByteBuffer(string: "v"), timestamp: time)
            return try builder.build()
        }
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        for timestamp: Int64 in [0, 10, 10, 10] { try log.append(try batch(timestamp)) }
        node.manager.runSyncRound()
        node.manager.runCheckpoint()
        let kept = log.sizeInBytes
        let crashed = try node.folder.copy()
        for timestamp: Int64 in [20, 30, 40] { try log.append(try batch(timestamp)) }
        try node.manager.close()
        let base = "t-0/00000000000000000000"
        for suffix in [".index", ".timeindex"] {
            try crashed.write(base + suffix, try node.folder.bytes(base + suffix))
        }
        try crashed.write(base + ".log", Array(try crashed.bytes(base + ".log").prefix(kept)))
        // The next segment was begun, and what its beginning wrote of this one is lost.
        try crashed.write("t-0/00000000000000000004.log", [])

        let again = try TestNode(crashed, settings: settings)
        #expect(again.log.logEndOffset == 4 && again.manager.recoveryReports.first?.scannedBytes == 0)
        #expect(again.log.segmentCount == 2)
        try again.manager.close()
        #expect(try crashed.size(base + ".timeindex")! < node.folder.size(base + ".timeindex")!)
        let last = try TestNode(crashed, settings: settings)
        #expect(try last.log.offset(for: .maxTimestamp)?.offset == 1)
        #expect(try last.log.offset(for: .timestamp(1_700_000_000_010))?.offset == 1)
        #expect(try last.log.offset(for: .timestamp(1_700_000_000_011)) == nil)
    }

    @Test func tornTailIsCutAtEveryByte() throws {
        let (folder, ends) = try crashed(after: 3)
        for length in 0..<ends[2] {
            let copy = try folder.copy()
            let bytes = Array(try copy.bytes(Self.file).prefix(length))
            try copy.write(Self.file, bytes)
            let node = try TestNode(copy)
            let whole = ends.count { $0 <= length }
            #expect(try node.log.values() == expected(whole), "cut at \(length)")
            let rest = bytes[(whole == 0 ? 0 : ends[whole - 1])...]
            // A tail of zeros is reserved space.
            let cut = rest.allSatisfy { $0 == 0 } ? 0 : rest.count
            #expect(node.manager.recoveryReports.first?.cutBytes == cut)
            try node.log.append(try BatchMaker().batch(["next"]))
            #expect(try node.log.values() == expected(whole) + ["next"])
        }
    }

    @Test func tornTailOfZerosAndGarbage() throws {
        let (folder, ends) = try crashed(after: 3)
        for length in stride(from: 1, to: ends[2], by: 5) {
            for filler in [UInt8(0), 0xFF, 0x55] {
                let copy = try folder.copy()
                var bytes = try copy.bytes(Self.file)
                for index in length..<bytes.count { bytes[index] = filler }
                try copy.write(Self.file, bytes)
                let node = try TestNode(copy)
                let whole = ends.count { $0 <= length }
                let more = ends.count { $0 <= length + 3 }
                let values = try node.log.values()
                #expect(values == expected(whole) || values == expected(more))
            }
        }
    }

    @Test func flippedBitsBelowTheDurablePointAreReportedNotCut() throws {
        let (folder, ends) = try crashed(checkpointAt: 10)
        for position in stride(from: 0, to: ends[9], by: 11) {
            let copy = try folder.copy()
            var bytes = try copy.bytes(Self.file)
            bytes[position] ^= 0x10
            try copy.write(Self.file, bytes)
            // The checkpoint says where to start; without it everything is read.
            try POSIXFileSystem().unlink("\(copy.path)/mdc-checkpoint")
            let size = bytes.count
            let node = try TestNode(copy)
            let whole = ends.count { $0 <= position }
            let damage = node.log.damage
            if (position - (whole == 0 ? 0 : ends[whole - 1])) < 16 && damage.isEmpty {
                // A flipped leader epoch, or a base offset that leaves a gap: not covered by the checksum.
                continue
            }
            #expect(damage.first?.firstOffset == Offset(Int64(whole * 2)))
            #expect(try copy.size(Self.file) == size)
            let next = try BatchMaker().batch(["x"])
            #expect(throws: LogError.self) { try node.log.append(next) }
            if whole > 0 { #expect(try node.log.records(upTo: Offset(Int64(whole * 2))).count == whole * 2) }
            let error = #expect(throws: LogError.self) {
                try node.log.read(
                    from: Offset(Int64(whole * 2)),
                    maxBytes: 100,
                    minOneBatch: true,
                    upTo: node.log.logEndOffset
                )
            }
            #expect(error?.code == .damaged)
            try node.manager.close()
            #expect(try copy.size(Self.file) == size)
        }
    }

    @Test func lostBytesBelowTheDurablePointAreReported() throws {
        let (folder, ends) = try crashed(checkpointAt: 10)
        let bytes = try folder.bytes(Self.file)
        try folder.write(Self.file, Array(bytes.prefix(ends[7] + 5)))
        let node = try TestNode(folder)
        #expect(node.log.damage.first?.firstOffset == 16)
        #expect(node.log.damage.first?.nextOffset == 20)
        #expect(node.log.logEndOffset == 20)
    }

    @Test func damagedIndexesAreRebuilt() throws {
        var settings = LogSettings()
        settings.segmentBytes = 20_000
        settings.indexIntervalBytes = 500
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        for number in 0..<1000 {
            try log.append(
                try BatchMaker().batch(["value \(number)"], timestamp: 1_700_000_000_000 - 1000 + Int64(number))
            )
        }
        try node.manager.close()
        let names = try node.folder.names("t-0").filter { $0.hasSuffix("index") }
        #expect(names.count > 4)
        for mode in 0..<4 {
            let copy = try node.folder.copy()
            for name in names {
                var bytes = try copy.bytes("t-0/\(name)")
                switch mode {
                case 0: try POSIXFileSystem().unlink("\(copy.path)/t-0/\(name)")
                case 1: try copy.write("t-0/\(name)", [])
                case 2:
                    if !bytes.isEmpty { bytes[bytes.count / 2] ^= 0x01 }
                    try copy.write("t-0/\(name)", bytes)
                default: try copy.write("t-0/\(name)", [UInt8](repeating: 0, count: bytes.count))
                }
            }
            let again = try TestNode(copy, settings: settings)
            for start in stride(from: 0, to: 1000, by: 37) {
                #expect(
                    try again.log.records(from: Offset(Int64(start)), maxBytes: 500).first?.offset
                        == Offset(Int64(start))
                )
            }
        }
    }

    @Test func gapBetweenSegmentsCutsWhatFollows() throws {
        var settings = LogSettings()
        settings.segmentBytes = 400
        let (folder, _) = try crashed(after: 20, settings: settings)
        let names = try folder.names("t-0").filter { $0.hasSuffix(".log") }
        #expect(names.count > 3)
        let bytes = try folder.bytes("t-0/\(names[1])")
        // The second segment loses its last batch at a batch boundary, as when its tail was never written.
        let header = bytes.withUnsafeBytes { RecordBatchHeader(reading: $0) }
        try folder.write("t-0/\(names[1])", Array(bytes.prefix(header.sizeInBytes)))
        let node = try TestNode(folder, settings: settings)
        let kept = Int(header.nextOffset.rawValue)
        #expect(node.log.logEndOffset == header.nextOffset)
        #expect(try node.log.values() == Array(expected(20).prefix(kept)))
        #expect(try folder.names("t-0").filter { $0.hasSuffix(".log") } == Array(names.prefix(2)))
    }

    @Test func producersSurviveCrashAndRestart() throws {
        for isClean in [true, false] {
            let node = try TestNode()
            let log = try node.make()
            for number in 0..<8 {
                try log.append(try BatchMaker.idempotent(7, sequence: Int32(number)).batch(["\(number)"]))
            }
            try log.append(try BatchMaker.idempotent(8, sequence: 0, isTransactional: true).batch(["open"]))
            if isClean { try node.manager.close() }
            let again = try TestNode(isClean ? node.folder : try node.folder.copy())
            #expect(try again.log.append(try BatchMaker.idempotent(7, sequence: 7).batch(["7"])).isDuplicate)
            #expect(again.log.lastStableOffset == 8)
            #expect(try again.log.append(try BatchMaker.idempotent(7, sequence: 8).batch(["8"])).firstOffset == 9)
            let gap = try BatchMaker.idempotent(7, sequence: 20).batch(["x"])
            let error = #expect(throws: LogError.self) { try again.log.append(gap) }
            #expect(error?.code == .outOfOrderSequence)
        }
    }

    @Test func lockKeepsOthersOut() throws {
        let node = try TestNode()
        let error = #expect(throws: LogError.self) { _ = try TestNode(node.folder) }
        #expect(error?.code == .locked)
        try node.manager.close()
        _ = try TestNode(node.folder)
    }
}
