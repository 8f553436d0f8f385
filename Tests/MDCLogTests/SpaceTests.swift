// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

@Suite struct SpaceTests {
    private func small(_ bytes: Int = 1000) -> LogSettings {
        var settings = LogSettings()
        settings.segmentBytes = bytes
        settings.indexIntervalBytes = 200
        settings.timestampAfterMaxMilliseconds = .max
        return settings
    }

    private func fill(_ log: PartitionLog, _ range: Range<Int>, timestamp: Int64 = 1_700_000_000_000) throws {
        for number in range { try log.append(try BatchMaker().batch(["value \(number)"], timestamp: timestamp)) }
    }

    @Test func retentionByTime() throws {
        var settings = small()
        settings.retentionMilliseconds = 10_000
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        try fill(log, 0..<50)
        node.manager.runSyncRound()
        node.clock.advance(by: 9_000)
        node.manager.runMaintenance()
        #expect(log.logStartOffset == 0)
        try fill(log, 50..<60, timestamp: 1_700_000_009_000)
        node.manager.runSyncRound()
        node.clock.advance(by: 2_000)
        node.manager.runMaintenance()
        #expect(log.logStartOffset > 0 && log.logStartOffset <= 50)
        #expect(try log.values().last == "value 59")
        #expect(try node.folder.names("t-0").contains { $0.hasSuffix(".deleted") })
        node.clock.advance(by: 100_000)
        node.manager.runMaintenance()
        // The active segment expires too, once it is as old; the end stays.
        #expect(log.logStartOffset == 60 && log.logEndOffset == 60)
        node.clock.advance(by: 100_000)
        node.manager.runMaintenance()
        #expect(try !node.folder.names("t-0").contains { $0.hasSuffix(".deleted") })
        try node.manager.close()
        let again = try TestNode(node.folder, settings: settings)
        #expect(again.log.logStartOffset == 60 && again.log.logEndOffset == 60)
    }

    @Test func retentionBySize() throws {
        var settings = small()
        settings.retentionBytes = 3000
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        try fill(log, 0..<200)
        node.manager.runSyncRound()
        node.manager.runMaintenance()
        #expect(log.sizeInBytes >= 3000 && log.sizeInBytes <= 4000)
        #expect(try log.values().last == "value 199")
        let error = #expect(throws: LogError.self) {
            try log.read(from: 0, maxBytes: 10, minOneBatch: true, upTo: log.logEndOffset)
        }
        #expect(error?.code == .offsetOutOfRange)
    }

    @Test func nothingUnsyncedOrUncommittedIsRemoved() throws {
        var settings = small()
        settings.retentionBytes = 0
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        try fill(log, 0..<100)
        node.manager.runMaintenance()
        #expect(log.logStartOffset == 0)
        node.manager.runSyncRound()
        log.updateHighWatermark(20)
        node.manager.runMaintenance()
        #expect(log.logStartOffset > 0 && log.logStartOffset <= 20)
    }

    @Test func deleteRecordsSurvivesACrash() throws {
        let node = try TestNode(settings: small())
        let log = try node.make(small())
        try fill(log, 0..<100)
        let early = #expect(throws: LogError.self) { try log.deleteRecords(before: 55) }
        #expect(early?.code == .offsetOutOfRange)
        node.manager.runSyncRound()
        try log.deleteRecords(before: 55)
        #expect(log.logStartOffset == 55)
        #expect(try log.values().first == "value 55")
        let again = try TestNode(try node.folder.copy(), settings: small())
        #expect(again.log.logStartOffset == 55)
        #expect(try again.log.values().first == "value 55")
        #expect(try again.log.values().last == "value 99")
    }

    @Test func truncation() throws {
        for target in stride(from: 0, to: 100, by: 9) {
            let node = try TestNode(settings: small())
            let log = try node.make(small())
            for number in 0..<100 {
                try log.append(
                    try BatchMaker.idempotent(5, sequence: Int32(number)).batch(["value \(number)"]),
                    epoch: LeaderEpoch(Int32(number / 25))
                )
            }
            node.manager.runSyncRound()
            node.manager.runCheckpoint()
            try log.truncate(to: Offset(Int64(target)))
            #expect(log.logEndOffset == Offset(Int64(target)))
            #expect(log.syncedEndOffset == Offset(Int64(target)))
            #expect(log.latestEpoch == (target == 0 ? -1 : LeaderEpoch(Int32((target - 1) / 25))))
            #expect(log.activeProducers.first?.lastSequence ?? -1 == Int32(target) - 1)
            let crashed = try TestNode(try node.folder.copy(), settings: small())
            #expect(crashed.log.logEndOffset == Offset(Int64(target)))
            #expect(crashed.log.damage.isEmpty)
            #expect(try crashed.log.values() == (0..<target).map { "value \($0)" })
            for number in target..<120 {
                try log.append(try BatchMaker.idempotent(5, sequence: Int32(number)).batch(["new \(number)"]), epoch: 9)
            }
            let expected = (0..<target).map { "value \($0)" } + (target..<120).map { "new \($0)" }
            #expect(try log.values() == expected)
            try node.manager.close()
            #expect(try TestNode(node.folder, settings: small()).log.values() == expected)
        }
    }

    @Test func reset() throws {
        let node = try TestNode(settings: small())
        let log = try node.make(small())
        try fill(log, 0..<100)
        node.manager.runSyncRound()
        node.manager.runCheckpoint()
        try log.reset(to: 5000)
        #expect(log.logStartOffset == 5000 && log.logEndOffset == 5000)
        try fill(log, 0..<3)
        #expect(try log.records().map(\.offset) == [5000, 5001, 5002])
        let again = try TestNode(try node.folder.copy(), settings: small())
        #expect(try again.log.records().map(\.offset) == [5000, 5001, 5002])
        #expect(again.log.damage.isEmpty)
    }

    @Test func rollsByAge() throws {
        var settings = small(100_000)
        settings.segmentMilliseconds = 5000
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        try log.append(try BatchMaker().batch(["a"]), now: node.clock.now())
        node.clock.advance(by: 5000)
        node.manager.runMaintenance()
        #expect(log.segmentCount == 2)
        node.clock.advance(by: 50_000)
        node.manager.runMaintenance()
        #expect(log.segmentCount == 2)
    }

    @Test func deletedPartitionsGo() throws {
        let node = try TestNode()
        let log = try node.make()
        try fill(log, 0..<10)
        let held = try log.read(from: 0, maxBytes: 1 << 20, minOneBatch: true, upTo: 10)
        try node.manager.deletePartition(TestNode.partition)
        #expect(node.manager.partition(TestNode.partition) == nil)
        #expect(try node.folder.names().contains { $0.hasPrefix("t-0.") && $0.hasSuffix("-delete") })
        // A reader that was there before finishes its work.
        var buffer = ByteBuffer()
        try held.copy(into: &buffer)
        #expect(buffer.readableBytes == held.sizeInBytes)
        let batch = try BatchMaker().batch(["x"])
        let error = #expect(throws: LogError.self) { try log.append(batch) }
        #expect(error?.code == .closed)
        node.clock.advance(by: 61_000)
        node.manager.runMaintenance()
        #expect(try !node.folder.names().contains { $0.hasSuffix("-delete") })
        _ = try node.make()
        #expect(node.log.logEndOffset == 0)
    }

    @Test func footersFindRot() throws {
        let node = try TestNode(settings: small())
        let log = try node.make(small())
        try fill(log, 0..<100)
        node.manager.runSyncRound()
        #expect(node.manager.runScrub() == log.segmentCount - 1)
        let footers = try node.folder.names("t-0").filter { $0.hasSuffix(".footer") }
        #expect(footers.count == log.segmentCount - 1)
        node.manager.runScrub()
        #expect(log.damage.isEmpty)
        let name = "t-0/" + (try node.folder.names("t-0").filter { $0.hasSuffix(".log") }[2])
        var bytes = try node.folder.bytes(name)
        bytes[bytes.count / 2] ^= 4
        try node.folder.write(name, bytes, truncating: false)
        node.manager.runScrub()
        #expect(log.damage.count == 1)
        let first = try #require(log.damage.first?.firstOffset)
        #expect(throws: LogError.self) {
            try log.read(from: first, maxBytes: 10, minOneBatch: true, upTo: log.logEndOffset)
        }
        let next = try #require(log.damage.first?.nextOffset)
        #expect(try log.values(from: next).last == "value 99")
        // Rot in a sealed segment does not stop the producers.
        try fill(log, 100..<101)
    }
}
