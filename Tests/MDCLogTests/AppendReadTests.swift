// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

@Suite struct AppendReadTests {
    @Test func appendsAndReadsBack() throws {
        let node = try TestNode()
        let log = try node.make()
        let first = try log.append(try BatchMaker().batch(["a", "b", "c"]))
        #expect(first.firstOffset == 0 && first.lastOffset == 2 && !first.isDuplicate)
        let second = try log.append(try BatchMaker().batch(["d"]))
        #expect(second.firstOffset == 3)
        #expect(log.logEndOffset == 4)
        #expect(try log.values() == ["a", "b", "c", "d"])
        #expect(try log.values(from: 2) == ["c", "d"])
    }

    @Test func inputIsNotChanged() throws {
        let node = try TestNode()
        let log = try node.make()
        let batch = try BatchMaker().batch(["a"])
        let copy = ByteBuffer(bytes: Array(batch.readableBytesView))
        try log.append(batch, epoch: 7)
        try log.append(batch, epoch: 7)
        #expect(batch == copy)
        #expect(try log.values() == ["a", "a"])
    }

    @Test func storesTheBatchUnchangedButForOffsetAndEpoch() throws {
        let node = try TestNode()
        let log = try node.make()
        let batch = Array(try BatchMaker().batch(["hello", "world"]).readableBytesView)
        try log.append(ByteBuffer(bytes: batch))
        try log.append(ByteBuffer(bytes: batch), epoch: 9)
        let stored = try node.folder.bytes("t-0/00000000000000000000.log")
        let second = Array(stored[batch.count..<2 * batch.count])
        #expect(Array(second[16...]) == Array(batch[16...]))
        let header = second.withUnsafeBytes { RecordBatchHeader(reading: $0) }
        #expect(header.baseOffset == 2 && header.partitionLeaderEpoch == 9)
    }

    @Test func severalBatchesInOneAppend() throws {
        let node = try TestNode()
        let log = try node.make()
        var buffer = try BatchMaker().batch(["a", "b"])
        buffer.writeImmutableBuffer(try BatchMaker().batch(["c"]))
        buffer.writeImmutableBuffer(try BatchMaker().batch(["d", "e"]))
        let result = try log.append(buffer)
        #expect(result.firstOffset == 0 && result.lastOffset == 4)
        #expect(try log.records().map(\.offset) == [0, 1, 2, 3, 4])
    }

    @Test func rollsAndReadsAcrossSegments() throws {
        var settings = LogSettings()
        settings.segmentBytes = 2000
        let node = try TestNode()
        let log = try node.make(settings)
        for number in 0..<200 { try log.append(try BatchMaker().batch(["value \(number)"])) }
        #expect(log.segmentCount > 5)
        #expect(try log.values() == (0..<200).map { "value \($0)" })
        for start in stride(from: 0, to: 200, by: 7) {
            #expect(try log.records(from: Offset(Int64(start)), maxBytes: 300).first?.offset == Offset(Int64(start)))
        }
    }

    @Test func maxBytesKeepsBatchesWhole() throws {
        let node = try TestNode()
        let log = try node.make()
        let size = try BatchMaker().batch(1, size: 100).readableBytes
        for _ in 0..<500 { try log.append(try BatchMaker().batch(1, size: 100)) }
        for start in [0, 1, 250, 371, 372, 373, 499] {
            for maxBytes in [0, 1, size - 1, size, size + 1, 3 * size - 1, 3 * size, 10_000] {
                let fits = min(maxBytes / size, 500 - start)
                let read = try log.read(
                    from: Offset(Int64(start)),
                    maxBytes: maxBytes,
                    minOneBatch: true,
                    upTo: log.logEndOffset
                )
                #expect(read.sizeInBytes == max(fits, 1) * size)
                #expect(read.nextOffset == Offset(Int64(start + max(fits, 1))))
                let strict = try log.read(
                    from: Offset(Int64(start)),
                    maxBytes: maxBytes,
                    minOneBatch: false,
                    upTo: log.logEndOffset
                )
                #expect(strict.sizeInBytes == fits * size)
            }
        }
    }

    @Test func limitIsExclusive() throws {
        let node = try TestNode()
        let log = try node.make()
        for _ in 0..<300 { try log.append(try BatchMaker().batch(["a", "b"])) }
        #expect(try log.read(from: 10, maxBytes: 1 << 20, minOneBatch: true, upTo: 10).slices.isEmpty)
        #expect(try log.read(from: 10, maxBytes: 1 << 20, minOneBatch: true, upTo: 12).nextOffset == 12)
        #expect(try log.read(from: 11, maxBytes: 1 << 20, minOneBatch: true, upTo: 20).nextOffset == 20)
        #expect(try log.read(from: 11, maxBytes: 1 << 20, minOneBatch: true, upTo: 20).firstOffset == 10)
        #expect(try log.read(from: 0, maxBytes: 1 << 20, minOneBatch: true, upTo: 400).nextOffset == 400)
        // Not on a batch boundary: the batch that spans the limit is held back.
        #expect(try log.read(from: 0, maxBytes: 1 << 20, minOneBatch: true, upTo: 401).nextOffset == 400)
    }

    @Test func offsetsOutOfRange() throws {
        let node = try TestNode()
        let log = try node.make()
        try log.append(try BatchMaker().batch(["a"]))
        #expect(try log.read(from: 1, maxBytes: 10, minOneBatch: true, upTo: 1).slices.isEmpty)
        for offset: Offset in [-1, 2, 99] {
            let error = #expect(throws: LogError.self) {
                try log.read(from: offset, maxBytes: 10, minOneBatch: true, upTo: 1)
            }
            #expect(error?.code == .offsetOutOfRange)
        }
    }

    @Test func logAppendTimeIsStampedAndChecksummed() throws {
        var settings = LogSettings()
        settings.timestampType = .logAppendTime
        let node = try TestNode()
        let log = try node.make(settings)
        let result = try log.append(try BatchMaker().batch(["a", "b"], timestamp: 5), now: 1_800_000_000_000)
        #expect(result.logAppendTime == 1_800_000_000_000)
        #expect(try log.records().map(\.timestamp) == [1_800_000_000_000, 1_800_000_000_000])
    }

    @Test func refusesWhatTheSettingsForbid() throws {
        var settings = LogSettings()
        settings.maxMessageBytes = 500
        settings.timestampAfterMaxMilliseconds = 1000
        settings.timestampBeforeMaxMilliseconds = 5000
        settings.cleanupPolicy = .compact
        let node = try TestNode()
        let log = try node.make(settings)
        func code(_ batch: ByteBuffer) -> LogError.Code? {
            do throws(LogError) {
                try log.append(batch)
                return nil
            } catch {
                return error.code
            }
        }
        let now: Int64 = 1_700_000_000_000
        #expect(code(try BatchMaker().batch(["a"], keys: ["k"])) == nil)
        #expect(code(try BatchMaker().batch(["a"])) == .invalidRecord)
        #expect(code(try BatchMaker().batch([String(repeating: "x", count: 500)], keys: ["k"])) == .messageTooLarge)
        #expect(code(try BatchMaker().batch(["a"], keys: ["k"], timestamp: now + 1001)) == .invalidTimestamp)
        #expect(code(try BatchMaker().batch(["a"], keys: ["k"], timestamp: now - 5001)) == .invalidTimestamp)
        #expect(code(BatchMaker.marker(1, commit: true)) == .invalidRecord)
        #expect(log.logEndOffset == 1)
    }

    @Test func everyFlippedBitIsRefused() throws {
        let node = try TestNode()
        let log = try node.make()
        let batch = Array(try BatchMaker().batch(["some value", "another"]).readableBytesView)
        for position in 8..<batch.count where !(12..<16).contains(position) {
            for bit in 0..<8 {
                var damaged = batch
                damaged[position] ^= UInt8(1 << bit)
                #expect(throws: LogError.self) { try log.append(ByteBuffer(bytes: damaged)) }
            }
        }
        for length in 0..<batch.count {
            #expect(throws: LogError.self) { try log.append(ByteBuffer(bytes: batch[..<length])) }
        }
        #expect(log.logEndOffset == 0)
    }

    @Test func replicaKeepsOffsetsAndEpochs() throws {
        let node = try TestNode()
        let log = try node.make()
        var maker = BatchMaker()
        maker.settings.baseOffset = 0
        maker.settings.partitionLeaderEpoch = 3
        var buffer = try maker.batch(["a", "b"])
        maker.settings.baseOffset = 5
        maker.settings.partitionLeaderEpoch = 4
        buffer.writeImmutableBuffer(try maker.batch(["c"]))
        try log.append(buffer, as: .replica, epoch: 99)
        #expect(log.logEndOffset == 6)
        #expect(log.latestEpoch == 4)
        #expect(log.endOffset(for: 3) == (3, 5))
        #expect(log.endOffset(for: 4) == (4, 6))
        #expect(log.endOffset(for: 5) == (-1, -1))
        #expect(try log.records().map(\.offset) == [0, 1, 5])
        // An offset in a gap is answered with what comes next.
        #expect(try log.read(from: 3, maxBytes: 1000, minOneBatch: true, upTo: 6).firstOffset == 5)
        maker.settings.baseOffset = 4
        let late = try maker.batch(["x"])
        let error = #expect(throws: LogError.self) { try log.append(late, as: .replica) }
        #expect(error?.code == .unexpectedOffset)
    }

    @Test func listOffsets() throws {
        var settings = LogSettings()
        settings.segmentBytes = 1500
        settings.timestampAfterMaxMilliseconds = .max
        settings.indexIntervalBytes = 200
        let node = try TestNode()
        let log = try node.make(settings)
        #expect(try log.offset(for: .maxTimestamp) == nil)
        #expect(try log.offset(for: .timestamp(0)) == nil)
        // Timestamps go up and down: record n has 1000 + (n * 37) % 100, in batches of three.
        var all: [Int64] = []
        for batch in 0..<60 {
            var builder = RecordBatchBuilder()
            for index in 0..<3 {
                let timestamp = Int64(1000 + ((batch * 3 + index) * 37) % 100 + batch)
                all.append(timestamp)
                builder.append(key: nil, value: ByteBuffer(string: "v"), timestamp: Timestamp(timestamp))
            }
            try log.append(try builder.build(), epoch: LeaderEpoch(Int32(batch / 20)))
        }
        for wanted in Int64(990)...1170 {
            let expected = all.firstIndex { $0 >= wanted }
            let found = try log.offset(for: .timestamp(Timestamp(wanted)))
            #expect(found?.offset == expected.map { Offset(Int64($0)) })
            #expect(found?.timestamp == expected.map { Timestamp(all[$0]) })
            #expect(found?.leaderEpoch == expected.map { LeaderEpoch(Int32($0 / 60)) })
        }
        let newest = all.firstIndex(of: all.max()!)!
        #expect(try log.offset(for: .maxTimestamp)?.offset == Offset(Int64(newest)))
        #expect(try log.offset(for: .earliest)?.offset == 0)
        #expect(try log.offset(for: .latest) == OffsetAndTimestamp(offset: 180, timestamp: -1, leaderEpoch: 2))
    }
}
