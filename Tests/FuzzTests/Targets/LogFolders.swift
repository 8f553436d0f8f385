// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import NIOCore

/// Data folders in memory, for the targets that open logs.
enum LogFolders {
    static let root = "/data"
    static let partition = TopicPartition(topic: "t", partition: 0)

    /// A clock that stands still.
    struct StoppedClock: LogClock {
        func now() -> Timestamp { 1_700_000_100_000 }
        func monotonic() -> UInt64 { 1_000_000_000 }
    }

    static var settings: LogSettings {
        var settings = LogSettings()
        settings.segmentBytes = 1500
        settings.indexIntervalBytes = 200
        settings.retentionMilliseconds = -1
        settings.timestampAfterMaxMilliseconds = .max
        return settings
    }

    static func open(_ disk: MemoryFileSystem) throws(LogError) -> LogManager {
        var configuration = LogConfiguration(directories: [root])
        configuration.backgroundMode = .manual
        configuration.minimumFreeBytes = 0
        configuration.defaultSettings = settings
        return try LogManager.open(
            configuration: configuration,
            fileSystem: disk,
            clock: StoppedClock(),
            logger: Logger(label: "fuzz", factory: { _ in SwiftLogNoOpLogHandler() }),
            onSyncFailure: { fatalError("a sync failed on a disk that cannot fail: \($0)") }
        )
    }

    /// The files of a log with several segments, idempotent producers, a committed, an aborted and an open transaction;
    /// as they are after an orderly stop, or after a kill.
    static func sample(isClean: Bool) throws -> [String: [UInt8]] {
        let disk = MemoryFileSystem()
        try disk.makeDirectory(root)
        let manager = try open(disk)
        let log = try manager.createPartition(partition, topicID: TopicID(high: 1, low: 2), settings: settings)
        var time: Timestamp = 1_700_000_000_000
        func append(_ settings: RecordBatchBuilder.Settings, _ values: [String]) throws {
            var builder = RecordBatchBuilder(settings)
            for value in values {
                time = time + 7
                builder.append(key: ByteBuffer(string: "k"), value: ByteBuffer(string: value), timestamp: time)
            }
            _ = try log.append(try builder.build(), as: .client, leaderEpoch: 1, now: time)
        }
        func end(_ id: ProducerID, _ kind: ControlRecord.Kind) throws {
            var buffer = ByteBuffer()
            ControlRecord(kind: kind, coordinatorEpoch: 0)
                .writeBatch(producerID: id, producerEpoch: 0, timestamp: time, into: &buffer)
            _ = try log.append(buffer, as: .coordinator, leaderEpoch: 1, now: time)
        }
        for number in 0..<12 {
            var settings = RecordBatchBuilder.Settings()
            settings.codec = CompressionCodec.allCases[number % 5]
            try append(settings, ["value \(number)", String(repeating: "x", count: number * 10)])
            settings.producerID = ProducerID(Int64(number % 3))
            settings.producerEpoch = 0
            settings.baseSequence = Int32(number / 3)
            settings.isTransactional = true
            try append(settings, ["in a transaction"])
            if number % 3 != 2 || number < 9 {
                try end(settings.producerID, number % 2 == 0 ? .commit : .abort)
            }
            if number == 6 {
                manager.runSyncRound()
                manager.runMaintenance()
                manager.runScrub()
                manager.runCheckpoint()
            }
        }
        manager.runSyncRound()
        if isClean { try manager.close() }
        return disk.content
    }

    /// Reads the whole log batch by batch; the batches' headers, and whether every read was of whole batches.
    static func readAll(_ log: PartitionLog) throws(LogError) -> (headers: [RecordBatchHeader], isWhole: Bool) {
        var headers: [RecordBatchHeader] = []
        var isWhole = true
        var position = log.logStartOffset
        while position < log.logEndOffset {
            let read = try log.read(from: position, maxBytes: 4096, minOneBatch: true, upTo: log.logEndOffset)
            if read.slices.isEmpty { break }
            var buffer = ByteBuffer()
            try read.copy(into: &buffer)
            var iterator = RecordBatchIterator(buffer)
            while let slice = try? iterator.next() { headers.append(slice.header) }
            if iterator.truncatedBytes != 0 { isWhole = false }
            require(read.nextOffset > position, "a read from \(position) goes on at \(read.nextOffset)")
            position = read.nextOffset
        }
        return (headers, isWhole)
    }

    /// As `readAll`, of a log whose files are sound.
    static func read(_ log: PartitionLog) throws(LogError) -> [RecordBatchHeader] {
        let (headers, isWhole) = try readAll(log)
        require(isWhole, "a read ends within a batch")
        return headers
    }
}
