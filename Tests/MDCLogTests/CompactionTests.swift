// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

@Suite struct CompactionTests {
    private func settings(_ change: (inout LogSettings) -> Void = { _ in }) -> LogSettings {
        var settings = LogSettings()
        settings.segmentBytes = 2000
        settings.cleanupPolicy = .compact
        settings.minCleanableDirtyRatio = 0
        settings.deleteRetentionMilliseconds = 10_000
        settings.timestampAfterMaxMilliseconds = .max
        change(&settings)
        return settings
    }

    private func state(_ records: [Record]) -> [String: String] {
        var state: [String: String] = [:]
        for record in records {
            let key = String(buffer: record.key!)
            state[key] = record.value.map { String(buffer: $0) }
        }
        return state
    }

    private func put(
        _ log: PartitionLog,
        _ key: String,
        _ value: String?,
        codec: CompressionCodec = .none
    ) throws {
        var builder = RecordBatchBuilder(.init(codec: codec))
        builder.append(
            key: ByteBuffer(string: key),
            value: value.map { ByteBuffer(string: $0) },
            timestamp: 1_700_000_000_000
        )
        try log.append(try builder.build())
    }

    @Test func keepsTheLastRecordOfEachKey() throws {
        for codec in CompressionCodec.allCases {
            let node = try TestNode(settings: settings())
            let log = try node.make(settings())
            for number in 0..<300 {
                var builder = RecordBatchBuilder(.init(codec: codec))
                for index in 0..<5 {
                    builder.append(
                        key: ByteBuffer(string: "key \((number * 5 + index) % 17)"),
                        value: ByteBuffer(string: "value \(number) \(index)"),
                        timestamp: 1_700_000_000_000
                    )
                }
                try log.append(try builder.build())
            }
            node.manager.runSyncRound()
            let before = try log.records()
            #expect(node.manager.runCompaction() == 1)
            let after = try log.records()
            #expect(state(before) == state(after))
            #expect(after.count < before.count / 4)
            #expect(log.logEndOffset == 1500 && log.logStartOffset == 0)
            // What is kept is at its offset still.
            let all = Dictionary(uniqueKeysWithValues: before.map { ($0.offset, $0) })
            for record in after { #expect(all[record.offset] == record) }
            #expect(node.manager.runCompaction() == 0)
            for copy in [try node.folder.copy()] {
                let again = try TestNode(copy, settings: settings())
                #expect(try again.log.records() == after)
                #expect(again.log.damage.isEmpty && again.log.logEndOffset == 1500)
            }
            try node.manager.close()
            let again = try TestNode(node.folder, settings: settings())
            #expect(try again.log.records() == after)
            #expect(again.manager.recoveryReports.isEmpty)
            // Any offset can be asked for, also those that are gone.
            for offset in stride(from: 0, to: 1500, by: 13) {
                let next = after.first { $0.offset >= Offset(Int64(offset)) }
                #expect(try again.log.records(from: Offset(Int64(offset)), maxBytes: 100).first == next)
            }
        }
    }

    @Test func tombstonesOutliveTheirHorizon() throws {
        let node = try TestNode(settings: settings())
        let log = try node.make(settings())
        try put(log, "a", "1")
        try put(log, "a", nil)
        for number in 0..<100 { try put(log, "b", "\(number)") }
        node.manager.runSyncRound()
        node.manager.runCompaction()
        #expect(try log.records().first { $0.key == ByteBuffer(string: "a") }?.offset == 1)
        node.clock.advance(by: 9_999)
        for number in 0..<100 { try put(log, "b", "\(number)") }
        node.manager.runSyncRound()
        node.manager.runCompaction()
        #expect(try log.records().contains { $0.key == ByteBuffer(string: "a") })
        node.clock.advance(by: 2)
        for number in 0..<100 { try put(log, "b", "\(number)") }
        node.manager.runSyncRound()
        node.manager.runCompaction()
        #expect(try !log.records().contains { $0.key == ByteBuffer(string: "a") })
    }

    @Test func transactions() throws {
        let node = try TestNode(settings: settings())
        let log = try node.make(settings())
        func send(_ id: ProducerID, _ sequence: Int32, _ key: String, _ value: String) throws {
            var maker = BatchMaker.idempotent(id, sequence: sequence, isTransactional: true)
            maker.settings.codec = .none
            try log.append(try maker.batch([value], keys: [key]))
        }
        try put(log, "x", "first")  // 0
        try send(1, 0, "x", "aborted")  // 1
        try log.append(BatchMaker.marker(1, commit: false), as: .coordinator)  // 2
        try send(2, 0, "y", "committed")  // 3
        try log.append(BatchMaker.marker(2, commit: true), as: .coordinator)  // 4
        for number in 0..<60 { try put(log, "b", "\(number)") }
        try send(3, 0, "z", "open")
        let open = log.logEndOffset - Int64(1)
        for number in 0..<60 { try put(log, "b", "after \(number)") }
        node.manager.runSyncRound()
        #expect(log.lastStableOffset == open)
        #expect(node.manager.runCompaction() == 1)
        let records = try log.records()
        // The aborted record is gone and has not taken the committed one of its key with it.
        #expect(state(records.filter { $0.offset < 5 }) == ["x": "first", "y": "committed"])
        // Nothing at or above the first open transaction was touched.
        #expect(records.filter { $0.offset >= open }.count == 61)
        // The producers keep their sequences through it.
        #expect(log.activeProducers.count == 3)
        let again = try TestNode(try node.folder.copy(), settings: settings())
        #expect(again.log.activeProducers.count == 3)
        #expect(again.log.lastStableOffset == open)
        #expect(again.log.activeProducers.map(\.lastSequence) == [0, 0, 0])
    }

    @Test func markersGoAfterTheirDataAndHorizon() throws {
        let node = try TestNode(settings: settings())
        let log = try node.make(settings())
        var maker = BatchMaker.idempotent(1, sequence: 0, isTransactional: true)
        try log.append(try maker.batch(["v"], keys: ["k"]))
        try log.append(BatchMaker.marker(1, commit: true), as: .coordinator)
        maker = BatchMaker.idempotent(1, sequence: 1, isTransactional: true)
        try log.append(try maker.batch(["v2"], keys: ["k"]))
        try log.append(BatchMaker.marker(1, commit: true), as: .coordinator)
        func markers() throws -> Int {
            var count = 0
            var buffer = ByteBuffer()
            var position = log.logStartOffset
            while case let read = try log.read(
                from: position,
                maxBytes: 1 << 20,
                minOneBatch: true,
                upTo: log.logEndOffset
            ), !read.slices.isEmpty {
                buffer.clear()
                try read.copy(into: &buffer)
                var iterator = RecordBatchIterator(buffer)
                while let batch = try iterator.next() {
                    if batch.header.attributes.isControl, batch.header.recordCount > 0 { count += 1 }
                }
                position = read.nextOffset
            }
            return count
        }
        for round in 0..<4 {
            for number in 0..<60 { try put(log, "b", "\(round) \(number)") }
            node.manager.runSyncRound()
            node.manager.runCompaction()
            node.clock.advance(by: 10_001)
            // First the data goes, then the marker gets its horizon, then the marker goes; the second one's data stays.
            if round == 0 { #expect(try markers() == 2) }
        }
        #expect(try markers() == 1)
        #expect(state(try log.records())["k"] == "v2")
    }

    @Test func littleMemoryTakesSeveralPasses() throws {
        let node = try TestNode(settings: settings()) { $0.compactionMemoryBytes = 64 * 24 }
        let log = try node.make(settings())
        for number in 0..<500 { try put(log, "key \(number % 100)", "\(number)") }
        node.manager.runSyncRound()
        let before = state(try log.records())
        var passes = 0
        while node.manager.runCompaction() > 0 { passes += 1 }
        #expect(passes > 2)
        #expect(state(try log.records()) == before)
        #expect(try log.records().count < 300)
    }

    @Test func youngRecordsWait() throws {
        let own = settings { $0.minCompactionLagMilliseconds = 1_000 }
        let node = try TestNode(settings: own)
        let log = try node.make(own)
        for number in 0..<200 { try put(log, "k", "\(number)") }
        node.manager.runSyncRound()
        #expect(node.manager.runCompaction() == 0)
        node.clock.advance(by: 1_001)
        #expect(node.manager.runCompaction() == 1)
    }

    @Test func theDirtyRatioDecides() throws {
        let own = settings { $0.minCleanableDirtyRatio = 0.5 }
        let node = try TestNode(settings: own)
        let log = try node.make(own)
        for number in 0..<400 { try put(log, "key \(number)", "\(number)") }
        node.manager.runSyncRound()
        #expect(node.manager.runCompaction() == 1)
        for number in 0..<100 { try put(log, "key \(number)", "\(number)") }
        node.manager.runSyncRound()
        #expect(node.manager.runCompaction() == 0)
    }
}
