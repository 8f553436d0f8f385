// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import NIOCore
import Synchronization
import Testing

/// What happens to callers that do what they must not: errors where the world may be the cause, traps where only the
/// program can be. That the right to read does not append is the compiler's to see: `PartitionReader` has no such method.
@Suite struct MisuseTests {
    private func code(_ body: () throws -> Void) -> LogError.Code? {
        do {
            try body()
            return nil
        } catch {
            return (error as? LogError)?.code
        }
    }

    @Test func aClosedLogRefusesEverythingThatChangesIt() throws {
        let node = try TestNode()
        let log = try node.make()
        try log.append(try BatchMaker().batch(["a"]))
        node.manager.runSyncRound()
        try node.manager.close()
        try node.manager.close()
        let batch = try BatchMaker().batch(["b"])
        #expect(code { try log.append(batch) } == .closed)
        #expect(code { _ = try node.make(LogSettings(), TopicPartition(topic: "u", partition: 0)) } == .closed)
        #expect(code { _ = try log.records() } == .closed)
        // A waiter for what is durable is told so at once, one for what will never be as well.
        let told = Mutex<[Bool]>([])
        for end in [Offset(1), Offset(2)] {
            log.whenDurable(upTo: end) { result in
                if case .success = result {
                    told.withLock { $0.append(true) }
                } else {
                    told.withLock { $0.append(false) }
                }
            }
        }
        #expect(told.withLock { $0 } == [true, false])
    }

    @Test func settingsThatContradictThemselvesAreRefused() throws {
        let node = try TestNode()
        let log = try node.make()
        let before = log.settings
        let changes: [(inout LogSettings) -> Void] = [
            { $0.segmentBytes = 0 }, { $0.segmentMilliseconds = 0 }, { $0.indexIntervalBytes = -1 },
            { $0.segmentIndexBytes = 4 }, { $0.maxMessageBytes = -1 }, { $0.minCleanableDirtyRatio = 1.5 },
            { $0.minCleanableDirtyRatio = .nan }, { $0.cleanupPolicy = [] },
            {
                $0.minCompactionLagMilliseconds = 2
                $0.maxCompactionLagMilliseconds = 1
            },
        ]
        for change in changes {
            var settings = before
            change(&settings)
            #expect(code { try log.update(settings: settings) } == .invalidConfiguration)
        }
        #expect(log.settings == before)
    }

    @Test func partitionsAreMadeOnceAndWithLegalNames() throws {
        let node = try TestNode()
        _ = try node.make()
        #expect(code { _ = try node.make() } == .alreadyExists)
        for name in ["", ".", "..", "a/b", "a b", "ä", String(repeating: "x", count: 250)] {
            let partition = TopicPartition(topic: name, partition: 0)
            #expect(code { _ = try node.make(LogSettings(), partition) } == .invalidConfiguration, "\(name)")
        }
        let negative = TopicPartition(topic: "t", partition: -1)
        #expect(code { _ = try node.make(LogSettings(), negative) } == .invalidConfiguration)
        #expect(code { try node.manager.deletePartition(TopicPartition(topic: "u", partition: 0)) } == .notFound)
        #expect(code { _ = try TestNode(node.folder) } == .locked)
    }

    @Test func rangesOutsideOfTheLogAreRefused() throws {
        let node = try TestNode()
        let log = try node.make()
        for number in 0..<5 { try log.append(try BatchMaker().batch(["\(number)"])) }
        node.manager.runSyncRound()
        let batch = try BatchMaker().batch(["x"])
        for offset in [Offset(-1), Offset(Int64.min), Offset(6), Offset(Int64.max)] {
            #expect(
                code { _ = try log.read(from: offset, maxBytes: 1, minOneBatch: true, upTo: 5) } == .offsetOutOfRange
            )
        }
        #expect(code { try log.deleteRecords(before: 6) } == .offsetOutOfRange)
        #expect(try log.read(from: 0, maxBytes: -5, minOneBatch: true, upTo: Offset(Int64.max)).nextOffset == 1)
        #expect(try log.read(from: 0, maxBytes: Int.max, minOneBatch: false, upTo: Offset(Int64.max)).nextOffset == 5)
        #expect(try log.read(from: 2, maxBytes: 100, minOneBatch: true, upTo: Offset(Int64.min)).slices.isEmpty)
        log.updateHighWatermark(Offset(Int64.max))
        #expect(log.highWatermark == 5 && log.lastStableOffset == 5)
        #expect(code { try log.append(batch, as: .replica) } == .unexpectedOffset)
        #expect(code { try log.append(ByteBuffer()) } != nil)
        #expect(log.logEndOffset == 5)
    }

    @Test func theHighWatermarkStaysWithinTheLog() throws {
        let node = try TestNode()
        let log = try node.make()
        for number in 0..<5 { try log.append(try BatchMaker().batch(["\(number)"])) }
        node.manager.runSyncRound()
        // A follower hears of more than it has; what it appends next is not committed by that.
        log.updateHighWatermark(9)
        #expect(log.highWatermark == 5)
        for number in 5..<9 { try log.append(try BatchMaker().batch(["\(number)"])) }
        node.manager.runSyncRound()
        #expect(log.highWatermark == 5 && log.lastStableOffset == 5)
        log.updateHighWatermark(8)
        try log.deleteRecords(before: 6)
        log.updateHighWatermark(2)
        #expect(log.highWatermark == 6)
    }

    @Test func aNegativeHighWatermarkTraps() async {
        await #expect(processExitsWith: .failure) {
            let node = try TestNode()
            let log = try node.make()
            log.updateHighWatermark(-1)
        }
    }

    @Test func aSyncRoundByHandTrapsWhereThreadsDoIt() async {
        await #expect(processExitsWith: .failure) {
            let folder = TemporaryFolder()
            let manager = try LogManager.open(
                configuration: LogConfiguration(directories: [folder.path]),
                logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
            )
            manager.runSyncRound()
        }
    }

    @Test func recordsAreDecodedOnlyWhereTheTopicAsksForIt() throws {
        func batch(_ codec: CompressionCodec, damaging position: Int) throws -> ByteBuffer {
            var bytes = Array(
                try BatchMaker(settings: .init(codec: codec)).batch(["some value", "another one"]).readableBytesView
            )
            bytes[61 + position] ^= 0xFF
            // The checksum is the sender's and matches: only decoding can tell.
            let crc = bytes[21...].withUnsafeBytes { CRC32C.compute($0) }
            withUnsafeBytes(of: crc.bigEndian) { bytes.replaceSubrange(17..<21, with: $0) }
            return ByteBuffer(bytes: bytes)
        }
        var decoding = LogSettings()
        decoding.validatesRecords = true
        let node = try TestNode()
        let trusting = try node.make()
        let strict = try node.make(decoding, TopicPartition(topic: "strict", partition: 0))
        for codec in CompressionCodec.allCases {
            let damaged = try batch(codec, damaging: 0)
            #expect(code { try trusting.append(damaged) } == nil, "\(codec)")
            let refusal = code { try strict.append(damaged) }
            #expect(refusal == .corruptBatch || refusal == .invalidRecord, "\(codec)")
            let sound = try BatchMaker(settings: .init(codec: codec)).batch(["some value", "another one"])
            #expect(code { try strict.append(sound) } == nil, "\(codec)")
        }
        #expect(strict.logEndOffset == 10 && trusting.logEndOffset == 10)
        // A little that becomes a lot is refused before it has become it.
        var builder = RecordBatchBuilder(.init(codec: .zstd))
        builder.append(key: nil, value: ByteBuffer(repeating: 0, count: 65 << 20), timestamp: 1_700_000_000_000)
        let bomb = try builder.build()
        #expect(bomb.readableBytes < 100_000)
        #expect(code { try strict.append(bomb) } == .messageTooLarge)
        #expect(strict.logEndOffset == 10)
    }
}
