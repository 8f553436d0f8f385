// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import MDCLog
import MDCModel
import NIOCore
import Synchronization
import Testing

/// Readers on several threads while the log is rolled, truncated, shortened from the front and compacted under them.
@Suite struct ConcurrencyTests {
    private final class Shared: Sendable {
        let isDone = Atomic<Bool>(false)
        /// Odd while a truncation is under way: what was read across one is not judged.
        let truncations = Atomic<Int>(0)
        let reads = Atomic<Int>(0)
    }

    private func open(_ folder: TemporaryFolder) throws -> LogManager {
        var configuration = LogConfiguration(directories: [folder.path])
        configuration.backgroundMode = .threads
        configuration.minimumFreeBytes = 0
        configuration.maxOpenFiles = 4
        configuration.maintenanceIntervalMilliseconds = 5
        configuration.checkpointIntervalMilliseconds = 10
        configuration.retentionCheckMilliseconds = 5
        return try LogManager.open(
            configuration: configuration,
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
        )
    }

    private var settings: LogSettings {
        var settings = LogSettings()
        settings.segmentBytes = 2000
        settings.indexIntervalBytes = 200
        settings.cleanupPolicy = [.compact, .delete]
        settings.minCleanableDirtyRatio = 0
        settings.retentionMilliseconds = -1
        settings.retentionBytes = 12_000
        settings.fileDeleteDelayMilliseconds = 0
        settings.timestampAfterMaxMilliseconds = .max
        return settings
    }

    /// A record says at which offset it is.
    private static func append(_ log: PartitionLog, _ number: Int) throws {
        let offset = log.logEndOffset.rawValue
        var builder = RecordBatchBuilder(.init(codec: number % 3 == 0 ? .lz4 : .none))
        for delta in 0..<Int64(1 + number % 3) {
            builder.append(
                key: ByteBuffer(string: "key \((offset + delta) % 50)"),
                value: ByteBuffer(string: "\(offset + delta) \(number)"),
                timestamp: Timestamp(1_700_000_000_000 + Int64(number))
            )
        }
        try log.append(try builder.build())
    }

    private static func mutate(_ log: PartitionLog, _ manager: LogManager, _ shared: Shared) {
        var random = SystemRandomNumberGenerator()
        do {
            // So long, and until the readers have had their turns.
            var number = 0
            while number < 1500 || (shared.reads.load(ordering: .relaxed) < 100 && number < 100_000) {
                defer { number += 1 }
                try append(log, number)
                switch number % 50 {
                case 17:
                    // Up to the high watermark, which is what is synced here.
                    let start = log.logStartOffset.rawValue
                    let limit = log.highWatermark.rawValue
                    if limit > start {
                        try log.deleteRecords(before: Offset(Int64.random(in: start...limit, using: &random)))
                    }
                case 33:
                    shared.truncations.add(1, ordering: .sequentiallyConsistent)
                    let end = log.logEndOffset.rawValue
                    let target = max(log.logStartOffset.rawValue, end - Int64.random(in: 1...20, using: &random))
                    if target < end { try log.truncate(to: Offset(target)) }
                    shared.truncations.add(1, ordering: .sequentiallyConsistent)
                default: break
                }
            }
        } catch {
            Issue.record("a change of the log failed: \(error)")
        }
        shared.isDone.store(true, ordering: .sequentiallyConsistent)
    }

    /// Reads from the front, then from anywhere, again and again.
    private static func read(_ log: PartitionReader, _ shared: Shared) {
        var random = SystemRandomNumberGenerator()
        var position = log.logStartOffset
        while !shared.isDone.load(ordering: .sequentiallyConsistent) {
            let truncations = shared.truncations.load(ordering: .sequentiallyConsistent)
            do {
                let end = log.logEndOffset
                let read = try log.read(
                    from: position,
                    maxBytes: Int.random(in: 1...5000, using: &random),
                    minOneBatch: true,
                    upTo: end
                )
                var buffer = ByteBuffer()
                // Files may be removed or replaced meanwhile; what was found stays readable.
                try read.copy(into: &buffer)
                guard truncations % 2 == 0,
                    shared.truncations.load(ordering: .sequentiallyConsistent) == truncations
                else {
                    position = log.logStartOffset
                    continue
                }
                try check(buffer, from: position, to: read.nextOffset)
                shared.reads.add(1, ordering: .relaxed)
                position = read.slices.isEmpty ? log.logStartOffset : read.nextOffset
            } catch let error as LogError where error.code == .offsetOutOfRange {
                position = log.logStartOffset
            } catch {
                let isCut = shared.truncations.load(ordering: .sequentiallyConsistent) != truncations
                if !isCut && truncations % 2 == 0 { Issue.record("a read failed: \(error)") }
                position = log.logStartOffset
            }
        }
    }

    private static func check(_ buffer: ByteBuffer, from position: Offset, to next: Offset) throws {
        var iterator = RecordBatchIterator(buffer)
        var last = Offset(-1)
        var isFirst = true
        while let slice = try iterator.next() {
            // Whole batches, with their checksums, in order, the first of them with what was asked for or after it.
            let reader = try slice.reader()
            if isFirst { #expect(slice.header.lastOffset >= position) }
            isFirst = false
            for record in try reader.records() {
                #expect(record.offset > last)
                last = record.offset
                let value = String(buffer: record.value ?? ByteBuffer())
                #expect(value.hasPrefix("\(record.offset) "), "\(value) at offset \(record.offset)")
            }
        }
        #expect(iterator.truncatedBytes == 0 && last < next)
    }

    /// Looks up while segments come and go.
    private static func lookUp(_ log: PartitionLog, _ manager: LogManager, _ shared: Shared) {
        while !shared.isDone.load(ordering: .sequentiallyConsistent) {
            do throws(LogError) {
                _ = try log.offset(for: .timestamp(1_700_000_000_500))
                _ = try log.offset(for: .maxTimestamp)
            } catch {
                let isCut = shared.truncations.load(ordering: .sequentiallyConsistent) > 0
                if !isCut && error.code != .closed && error.code != .offsetOutOfRange {
                    Issue.record("a lookup failed: \(error)")
                }
            }
            _ = manager.usage()
        }
    }

    @Test func readersSurviveWhateverHappensToTheLog() throws {
        let folder = TemporaryFolder()
        let manager = try open(folder)
        let log = try manager.createPartition(TestNode.partition, topicID: .zero, settings: settings)
        let shared = Shared()
        let reader = log.reader
        // Threads of their own: those of tasks are shared with the tests that run beside this one.
        let group = DispatchGroup()
        func start(_ body: @escaping @Sendable () -> Void) {
            group.enter()
            Thread.detachNewThread {
                body()
                group.leave()
            }
        }
        start { Self.mutate(log, manager, shared) }
        start { while !shared.isDone.load(ordering: .sequentiallyConsistent) { manager.runCompaction() } }
        for _ in 0..<3 { start { Self.read(reader, shared) } }
        start { Self.lookUp(log, manager, shared) }
        group.wait()
        #expect(shared.reads.load(ordering: .relaxed) > 0)
        #expect(log.damage.isEmpty && log.offlineReason == nil)
        let (start, end) = (log.logStartOffset, log.logEndOffset)
        let records = try log.records()
        try manager.close()
        let again = try TestNode(folder, settings: settings)
        // Retention and compaction went on until the log was closed: they take from the front, and what has a successor.
        #expect(again.log.logStartOffset >= start && again.log.logEndOffset == end)
        let kept = try again.log.records()
        #expect(Set(kept).isSubset(of: records) && kept.map(\.offset) == kept.map(\.offset).sorted())
        let newest = Dictionary(records.map { ($0.key, $0) }, uniquingKeysWith: { _, later in later })
        let missing = newest.values.filter { $0.offset >= again.log.logStartOffset && !kept.contains($0) }
        #expect(missing.isEmpty)
        var checker = LogChecker(directory: folder.path)
        checker.decodesRecords = true
        try again.manager.close()
        let report = try checker.run()
        #expect(report.isSound, "\(report)")
    }

    @Test func deletedRecordsStayReadableForWhoFoundThem() throws {
        let node = try TestNode(settings: settings)
        var own = settings
        own.cleanupPolicy = .delete
        own.retentionBytes = -1
        let log = try node.make(own)
        for number in 0..<200 { try Self.append(log, number) }
        node.manager.runSyncRound()
        let found = try log.read(from: 0, maxBytes: 1 << 20, minOneBatch: true, upTo: log.logEndOffset)
        let middle = Offset(log.logEndOffset.rawValue / 2)
        try log.deleteRecords(before: middle)
        node.clock.advance(by: 1)
        node.manager.runMaintenance()
        // The files are unlinked, but whoever has found batches in them can send them.
        #expect(try node.folder.size("t-0/00000000000000000000.log") == nil)
        var buffer = ByteBuffer()
        try found.copy(into: &buffer)
        try Self.check(buffer, from: 0, to: found.nextOffset)
        #expect(buffer.readableBytes == found.sizeInBytes)
        let error = #expect(throws: LogError.self) {
            try log.read(from: middle + -1, maxBytes: 1, minOneBatch: true, upTo: log.logEndOffset)
        }
        #expect(error?.code == .offsetOutOfRange)
        // A batch that spans the new start is still given whole; consumers drop what is before it.
        let first = try log.read(from: middle, maxBytes: 1, minOneBatch: true, upTo: log.logEndOffset)
        #expect(try #require(first.firstOffset) <= middle && first.nextOffset > middle)
    }
}
