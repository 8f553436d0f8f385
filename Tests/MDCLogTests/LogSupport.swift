// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import Logging
import MDCLog
import MDCModel
import NIOCore
import Synchronization
import Testing

/// A folder that is removed with the object.
final class TemporaryFolder: Sendable {
    let path: String
    private static let counter = Atomic<Int>(0)

    init() {
        var generator = SystemRandomNumberGenerator()
        let number = Self.counter.add(1, ordering: .relaxed).newValue
        path = "/tmp/mdc-log-test-\(number)-\(String(generator.next(), radix: 36))"
        precondition(mdc_mkdir(path) == 0)
    }

    deinit { Self.remove(path) }

    private static func remove(_ path: String) {
        let fileSystem = POSIXFileSystem()
        for entry in (try? fileSystem.list(path)) ?? [] {
            let child = "\(path)/\(entry.name)"
            if entry.isDirectory { remove(child) } else { try? fileSystem.unlink(child) }
        }
        try? fileSystem.removeDirectory(path)
    }

    /// The names in a folder below this one.
    func names(_ folder: String = "") throws -> [String] {
        try POSIXFileSystem().list("\(path)/\(folder)").map(\.name).sorted()
    }

    func bytes(_ name: String) throws -> [UInt8] { try Self.bytes(at: "\(path)/\(name)") }

    static func bytes(at path: String) throws -> [UInt8] {
        let file = try POSIXFileSystem().open(path, [])
        var bytes = [UInt8](repeating: 0, count: try file.size())
        let count = try bytes.withUnsafeMutableBytes { try file.read(into: $0, at: 0) }
        return Array(bytes.prefix(count))
    }

    func write(_ name: String, _ bytes: [UInt8], at position: Int = 0, truncating: Bool = true) throws {
        let file = try POSIXFileSystem().open("\(path)/\(name)", [.write, .create])
        if truncating { try file.truncate(to: position) }
        try bytes.withUnsafeBytes { buffer in
            let piece = WritePiece(buffer)
            _ = try withUnsafePointer(to: piece) {
                try file.write(UnsafeBufferPointer(start: $0, count: 1), at: position)
            }
        }
    }

    func size(_ name: String) throws -> Int? { try POSIXFileSystem().attributes("\(path)/\(name)")?.size }

    /// Copies everything to another folder, as a crash would leave it.
    func copy() throws -> TemporaryFolder {
        let other = TemporaryFolder()
        try Self.copy(path, other.path)
        return other
    }

    /// Copies a folder from elsewhere into this one.
    func insertCopy(of folder: String, as name: String) throws {
        try POSIXFileSystem().makeDirectory("\(path)/\(name)")
        try Self.copy(folder, "\(path)/\(name)")
    }

    private static func copy(_ from: String, _ to: String) throws {
        let fileSystem = POSIXFileSystem()
        for entry in try fileSystem.list(from) {
            if entry.isDirectory {
                try fileSystem.makeDirectory("\(to)/\(entry.name)")
                try copy("\(from)/\(entry.name)", "\(to)/\(entry.name)")
            } else {
                let source = try fileSystem.open("\(from)/\(entry.name)", [])
                var bytes = [UInt8](repeating: 0, count: try source.size())
                _ = try bytes.withUnsafeMutableBytes { try source.read(into: $0, at: 0) }
                let target = try fileSystem.open("\(to)/\(entry.name)", [.write, .create])
                try bytes.withUnsafeBytes { buffer in
                    let piece = WritePiece(buffer)
                    _ = try withUnsafePointer(to: piece) {
                        try target.write(UnsafeBufferPointer(start: $0, count: 1), at: 0)
                    }
                }
            }
        }
    }
}

/// A clock that stands still until it is moved.
final class ManualClock: LogClock {
    private let milliseconds: Atomic<Int64>
    init(_ start: Int64 = 1_700_000_000_000) { milliseconds = Atomic(start) }
    func now() -> Timestamp { Timestamp(milliseconds.load(ordering: .relaxed)) }
    func monotonic() -> UInt64 { UInt64(milliseconds.load(ordering: .relaxed)) * 1_000_000 }
    func advance(by value: Int64) { milliseconds.add(value, ordering: .relaxed) }
}

/// A node's engine in a temporary folder, run by hand.
struct TestNode {
    let folder: TemporaryFolder
    let clock: ManualClock
    let manager: LogManager

    init(
        _ folder: TemporaryFolder = TemporaryFolder(),
        clock: ManualClock = ManualClock(),
        settings: LogSettings = LogSettings(),
        fileSystem: any FileSystem = POSIXFileSystem(),
        _ configure: (inout LogConfiguration) -> Void = { _ in }
    ) throws {
        self.folder = folder
        self.clock = clock
        var configuration = LogConfiguration(directories: [folder.path])
        configuration.backgroundMode = .manual
        configuration.minimumFreeBytes = 0
        configuration.defaultSettings = settings
        configure(&configuration)
        manager = try LogManager.open(
            configuration: configuration,
            fileSystem: fileSystem,
            clock: clock,
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            onSyncFailure: { _ in }
        )
    }

    static let partition = TopicPartition(topic: "t", partition: 0)

    func make(_ settings: LogSettings = LogSettings(), _ partition: TopicPartition = partition) throws -> PartitionLog {
        try manager.createPartition(partition, topicID: TopicID(high: 1, low: 2), settings: settings)
    }

    var log: PartitionLog { manager.partition(Self.partition)! }
}

/// Makes batches for tests.
struct BatchMaker {
    var settings = RecordBatchBuilder.Settings()

    static func idempotent(
        _ id: ProducerID,
        epoch: Int16 = 0,
        sequence: Int32,
        isTransactional: Bool = false
    ) -> BatchMaker {
        var maker = BatchMaker()
        maker.settings.producerID = id
        maker.settings.producerEpoch = epoch
        maker.settings.baseSequence = sequence
        maker.settings.isTransactional = isTransactional
        return maker
    }

    func batch(
        _ values: [String],
        keys: [String?]? = nil,
        timestamp: Int64 = 1_700_000_000_000,
        step: Int64 = 0
    ) throws -> ByteBuffer {
        var builder = RecordBatchBuilder(settings)
        for (index, value) in values.enumerated() {
            builder.append(
                key: keys.flatMap { $0[index] }.map { ByteBuffer(string: $0) },
                value: ByteBuffer(string: value),
                timestamp: Timestamp(timestamp + Int64(index) * step)
            )
        }
        return try builder.build()
    }

    func batch(_ count: Int, size: Int = 10, timestamp: Int64 = 1_700_000_000_000) throws -> ByteBuffer {
        try batch(
            (0..<count).map { "\($0)" + String(repeating: "x", count: max(size - 2, 0)) },
            timestamp: timestamp
        )
    }

    static func marker(
        _ id: ProducerID,
        epoch: Int16 = 0,
        commit: Bool,
        coordinatorEpoch: Int32 = 0,
        timestamp: Int64 = 1_700_000_000_000
    ) -> ByteBuffer {
        var buffer = ByteBuffer()
        ControlRecord(kind: commit ? .commit : .abort, coordinatorEpoch: coordinatorEpoch).writeBatch(
            producerID: id,
            producerEpoch: epoch,
            timestamp: Timestamp(timestamp),
            into: &buffer
        )
        return buffer
    }
}

extension PartitionLog {
    @discardableResult
    func append(
        _ batch: ByteBuffer,
        as origin: AppendOrigin = .client,
        epoch: LeaderEpoch = 0,
        now: Timestamp = 1_700_000_000_000
    ) throws(LogError) -> AppendResult {
        try append(batch, as: origin, leaderEpoch: epoch, now: now)
    }

    /// All records from `start` on, read batch by batch as a consumer would.
    func records(from start: Offset? = nil, maxBytes: Int = 1 << 20, upTo limit: Offset? = nil) throws -> [Record] {
        var records: [Record] = []
        var position = start ?? logStartOffset
        while true {
            let read = try read(
                from: position,
                maxBytes: maxBytes,
                minOneBatch: true,
                upTo: limit ?? logEndOffset
            )
            if read.slices.isEmpty { return records }
            var buffer = ByteBuffer()
            try read.copy(into: &buffer)
            var iterator = RecordBatchIterator(buffer)
            while let batch = try iterator.next() {
                if !batch.header.attributes.isControl {
                    records.append(contentsOf: try batch.reader().records().filter { $0.offset >= position })
                }
            }
            precondition(read.nextOffset > position)
            position = read.nextOffset
        }
    }

    func values(from start: Offset? = nil) throws -> [String] {
        try records(from: start).map { String(buffer: $0.value ?? ByteBuffer()) }
    }
}
