// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import NIOCore
import Synchronization
import Testing

/// The real disk, with calls that fail or write short when told to.
final class FaultyFileSystem: FileSystem {
    struct Faults: Sendable {
        /// Writes to files with this suffix fail with it …
        var writeError: FileSystemError.Kind?
        var suffix = ".log"
        /// … after writing so many bytes of the call.
        var partialBytes = 0
        /// Each write takes at most so many bytes.
        var shortWrites: Int?
        var syncError: FileSystemError.Kind?
        var availableBytes: UInt64 = .max
        var syncs = 0
        /// Calls of these names on this folder and what is in it fail.
        var failedFolder: String?
        var failedCalls: Set<String> = []
    }
    let faults = Mutex(Faults())
    private let real = POSIXFileSystem()

    fileprivate func check(_ call: String, _ path: String) throws(FileSystemError) {
        let isFailed = faults.withLock { faults in
            guard let folder = faults.failedFolder, faults.failedCalls.contains(call) else { return false }
            return path == folder || path.hasPrefix(folder + "/")
        }
        if isFailed { throw FileSystemError(.inputOutput, call: call, path: path, reason: "injected") }
    }

    func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        try check("open", path)
        return FaultyFile(try real.open(path, mode), self)
    }
    func makeDirectory(_ path: String) throws(FileSystemError) { try real.makeDirectory(path) }
    func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] {
        try check("list", path)
        return try real.list(path)
    }
    func rename(_ path: String, to newPath: String) throws(FileSystemError) { try real.rename(path, to: newPath) }
    func unlink(_ path: String) throws(FileSystemError) { try real.unlink(path) }
    func removeDirectory(_ path: String) throws(FileSystemError) { try real.removeDirectory(path) }
    func syncDirectory(_ path: String) throws(FileSystemError) {
        try check("fsync", path)
        try real.syncDirectory(path)
    }
    func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? { try real.attributes(path) }
    func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) {
        (faults.withLock { $0.availableBytes }, .max)
    }
    func lock(_ path: String) throws(FileSystemError) -> any StorageFile {
        try check("lock", path)
        return try real.lock(path)
    }
}

final class FaultyFile: StorageFile {
    private let real: any StorageFile
    private let disk: FaultyFileSystem
    init(_ real: any StorageFile, _ disk: FaultyFileSystem) {
        self.real = real
        self.disk = disk
    }
    var descriptor: Int32 { real.descriptor }
    var path: String { real.path }
    func size() throws(FileSystemError) -> Int { try real.size() }
    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        try real.read(into: bytes, at: position)
    }
    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int {
        let faults = disk.faults.withLock { $0 }
        if let kind = faults.writeError, path.hasSuffix(faults.suffix) {
            if faults.partialBytes > 0 { _ = try write(pieces, upTo: faults.partialBytes, at: position) }
            throw FileSystemError(kind, call: "pwritev", path: path, reason: "injected")
        }
        if let limit = faults.shortWrites { return try write(pieces, upTo: limit, at: position) }
        return try real.write(pieces, at: position)
    }
    private func write(
        _ pieces: UnsafeBufferPointer<WritePiece>,
        upTo limit: Int,
        at position: Int
    ) throws(FileSystemError) -> Int {
        guard let first = pieces.first(where: { $0.count > 0 }) else { return 0 }
        var failure: FileSystemError?
        let piece = WritePiece(base: first.base, count: min(first.count, limit))
        let count = withUnsafePointer(to: piece) { pointer in
            do throws(FileSystemError) {
                return try real.write(UnsafeBufferPointer(start: pointer, count: 1), at: position)
            } catch {
                failure = error
                return 0
            }
        }
        if let failure { throw failure }
        return count
    }
    func sync() throws(FileSystemError) {
        let error = disk.faults.withLock { faults in
            faults.syncs += 1
            return faults.syncError
        }
        if let error, path.hasSuffix(".log") {
            throw FileSystemError(error, call: "fdatasync", path: path, reason: "injected")
        }
        try real.sync()
    }
    func truncate(to size: Int) throws(FileSystemError) { try real.truncate(to: size) }
    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        try real.allocate(at: position, count: count)
    }
    func isResident(at position: Int) -> Bool { real.isResident(at: position) }
    func readAhead(at position: Int, count: Int) { real.readAhead(at: position, count: count) }
}

private final class Acknowledged: Sendable {
    let offsets = Mutex<[Offset]>([])
}

@Suite struct FaultTests {
    private func open(
        _ folder: TemporaryFolder,
        _ disk: FaultyFileSystem,
        _ clock: ManualClock = ManualClock(),
        mode: LogConfiguration.BackgroundMode = .manual,
        onSyncFailure: @escaping @Sendable (LogError) -> Void = { _ in }
    ) throws -> LogManager {
        var configuration = LogConfiguration(directories: [folder.path])
        configuration.backgroundMode = mode
        configuration.minimumFreeBytes = 1000
        configuration.ballastBytes = 4096
        return try LogManager.open(
            configuration: configuration,
            fileSystem: disk,
            clock: clock,
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            onSyncFailure: onSyncFailure
        )
    }

    private func code(_ log: PartitionLog, _ batch: ByteBuffer) -> LogError.Code? {
        do throws(LogError) {
            try log.append(batch)
            return nil
        } catch {
            return error.code
        }
    }

    @Test func shortWritesAreContinued() throws {
        let folder = TemporaryFolder()
        let disk = FaultyFileSystem()
        let manager = try open(folder, disk)
        let log = try manager.createPartition(TestNode.partition, topicID: .zero, settings: LogSettings())
        for limit in [1, 7, 60, 61, 62, 100] {
            disk.faults.withLock { $0.shortWrites = limit }
            try log.append(try BatchMaker().batch(["value \(limit)", "more"]))
        }
        disk.faults.withLock { $0.shortWrites = nil }
        #expect(try log.values() == [1, 7, 60, 61, 62, 100].flatMap { ["value \($0)", "more"] })
    }

    @Test func aFullDiskRefusesAppendsUntilThereIsRoom() throws {
        let folder = TemporaryFolder()
        let disk = FaultyFileSystem()
        let manager = try open(folder, disk)
        #expect(try folder.names().contains(".mdc-ballast"))
        let log = try manager.createPartition(TestNode.partition, topicID: .zero, settings: LogSettings())
        try log.append(try BatchMaker.idempotent(1, sequence: 0).batch(["a"]))
        let batch = try BatchMaker.idempotent(1, sequence: 1).batch(["b"])
        disk.faults.withLock {
            $0.writeError = .noSpace
            $0.partialBytes = 40
            $0.availableBytes = 10
        }
        #expect(code(log, batch) == .noSpace)
        #expect(try !folder.names().contains(".mdc-ballast"))
        // Nothing of it is left, in the file or in the producer's state.
        #expect(try folder.size("t-0/00000000000000000000.log") == log.sizeInBytes)
        disk.faults.withLock { $0.writeError = nil }
        #expect(code(log, batch) == .noSpace)
        #expect(try log.values() == ["a"])
        #expect(log.offlineReason?.code == .noSpace)
        manager.runSyncRound()
        #expect(log.syncedEndOffset == 1)
        disk.faults.withLock { $0.availableBytes = 1 << 30 }
        manager.runMaintenance()
        #expect(code(log, batch) == nil)
        #expect(try log.values() == ["a", "b"])
        #expect(try folder.names().contains(".mdc-ballast"))
    }

    /// The file of leader epochs is the one that a round writes anew: without room for it the round waits, and with room it
    /// is made up for.
    @Test func epochsThatDoNotFitWaitForRoom() throws {
        let folder = TemporaryFolder()
        let disk = FaultyFileSystem()
        let manager = try open(folder, disk)
        let log = try manager.createPartition(TestNode.partition, topicID: .zero, settings: LogSettings())
        log.beginEpoch(LeaderEpoch(3))
        try log.append(try BatchMaker.idempotent(1, sequence: 0).batch(["a"]))
        let answers = Mutex<[Bool]>([])
        log.whenDurable(upTo: 1) { result in answers.withLock { $0.append((try? result.get()) != nil) } }
        disk.faults.withLock {
            $0.writeError = .noSpace
            $0.suffix = "leader-epoch-checkpoint.tmp"
            $0.availableBytes = 10
        }
        manager.runSyncRound()
        #expect(log.syncedEndOffset == 0)
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 1).batch(["b"])) == .noSpace)
        manager.runMaintenance()
        #expect(!manager.runSyncRound())
        #expect(answers.withLock { $0 } == [])
        disk.faults.withLock {
            $0.writeError = nil
            $0.availableBytes = 1 << 30
        }
        manager.runMaintenance()
        #expect(manager.runSyncRound())
        #expect(log.syncedEndOffset == 1)
        #expect(answers.withLock { $0 } == [true])
        #expect(code(log, try BatchMaker.idempotent(1, sequence: 1).batch(["b"])) == nil)
        #expect(log.endOffset(for: LeaderEpoch(3)) == (LeaderEpoch(3), 2))
    }

    @Test func aBrokenFolderIsReadOnly() throws {
        for kind in [FileSystemError.Kind.inputOutput, .readOnly] {
            let folder = TemporaryFolder()
            let disk = FaultyFileSystem()
            let manager = try open(folder, disk)
            let log = try manager.createPartition(TestNode.partition, topicID: .zero, settings: LogSettings())
            try log.append(try BatchMaker().batch(["a"]))
            manager.runSyncRound()
            disk.faults.withLock { $0.writeError = kind }
            let batch = try BatchMaker().batch(["b"])
            #expect(code(log, batch) == (kind == .readOnly ? .readOnly : .inputOutput))
            disk.faults.withLock { $0.writeError = nil }
            #expect(code(log, batch) == .offline)
            #expect(try log.values() == ["a"])
            #expect(manager.directoryUsage().first?.offlineReason != nil)
            let other = TopicPartition(topic: "u", partition: 0)
            #expect(throws: LogError.self) {
                try manager.createPartition(other, topicID: .zero, settings: LogSettings())
            }
        }
    }

    @Test func onlyTheBrokenFolderOfTwoIsOffline() throws {
        let folder = TemporaryFolder()
        let disk = FaultyFileSystem()
        var configuration = LogConfiguration(directories: ["\(folder.path)/one", "\(folder.path)/two"])
        configuration.backgroundMode = .manual
        configuration.minimumFreeBytes = 0
        let manager = try LogManager.open(
            configuration: configuration,
            fileSystem: disk,
            clock: ManualClock(),
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
        )
        let first = try manager.createPartition(TestNode.partition, topicID: .zero, settings: LogSettings())
        let second = try manager.createPartition(
            TopicPartition(topic: "u", partition: 0),
            topicID: .zero,
            settings: LogSettings()
        )
        #expect(first.dataDirectory != second.dataDirectory)
        disk.faults.withLock {
            $0.writeError = .inputOutput
            $0.suffix = "t-0/00000000000000000000.log"
        }
        let batch = try BatchMaker().batch(["a"])
        #expect(code(first, batch) == .inputOutput)
        #expect(code(first, batch) == .offline)
        #expect(code(second, batch) == nil)
    }

    @Test func aFailedSyncIsTold() throws {
        let folder = TemporaryFolder()
        let disk = FaultyFileSystem()
        let told = Mutex<LogError?>(nil)
        let manager = try open(folder, disk, onSyncFailure: { error in told.withLock { $0 = error } })
        let log = try manager.createPartition(TestNode.partition, topicID: .zero, settings: LogSettings())
        disk.faults.withLock { $0.syncError = .inputOutput }
        try log.append(try BatchMaker().batch(["a"]))
        let result = Mutex<Result<Void, LogError>?>(nil)
        log.whenDurable(upTo: 1) { outcome in result.withLock { $0 = outcome } }
        manager.runSyncRound()
        #expect(told.withLock { $0 } != nil)
        #expect(log.durableEndOffset == 0)
        guard case .failure = result.withLock({ $0 }) else {
            Issue.record("the waiter was not told")
            return
        }
        // A second sync would succeed and prove nothing.
        disk.faults.withLock { $0.syncError = nil }
        manager.runSyncRound()
        #expect(log.durableEndOffset == 0)
    }

    @Test func groupCommitCoversManyLogsInARound() throws {
        let folder = TemporaryFolder()
        let disk = FaultyFileSystem()
        let manager = try open(folder, disk)
        var logs: [PartitionLog] = []
        for number in 0..<10 {
            logs.append(
                try manager.createPartition(
                    TopicPartition(topic: "t", partition: PartitionID(Int32(number))),
                    topicID: .zero,
                    settings: LogSettings()
                )
            )
        }
        let advanced = Mutex<[Int]>([])
        manager.onDurableAdvance { logs in advanced.withLock { $0.append(logs.count) } }
        // The first round also writes the epoch checkpoints.
        for log in logs { try log.append(try BatchMaker().batch(["first"])) }
        manager.runSyncRound()
        advanced.withLock { $0.removeAll() }
        let before = disk.faults.withLock { $0.syncs }
        let done = Mutex(0)
        for log in logs {
            for _ in 0..<5 { try log.append(try BatchMaker().batch(["a"])) }
            log.whenDurable(upTo: 6) { _ in done.withLock { $0 += 1 } }
            #expect(log.durableEndOffset == 1)
        }
        #expect(manager.runSyncRound())
        #expect(!manager.runSyncRound())
        #expect(disk.faults.withLock { $0.syncs } - before == 10)
        #expect(advanced.withLock { $0 } == [10])
        #expect(done.withLock { $0 } == 10)
        for log in logs { #expect(log.durableEndOffset == 6) }
        logs[0].whenDurable(upTo: 6) { _ in done.withLock { $0 += 1 } }
        #expect(done.withLock { $0 } == 11)
    }

    @Test func durabilityPolicies() throws {
        let folder = TemporaryFolder()
        let disk = FaultyFileSystem()
        let clock = ManualClock()
        let manager = try open(folder, disk, clock)
        var settings = LogSettings()
        settings.durability = .interval(milliseconds: 500)
        let log = try manager.createPartition(TestNode.partition, topicID: .zero, settings: settings)
        clock.advance(by: 1000)
        manager.runMaintenance()
        try log.append(try BatchMaker().batch(["a"]))
        #expect(log.durableEndOffset == 1 && log.syncedEndOffset == 0)
        #expect(!manager.runSyncRound())
        manager.runMaintenance()
        #expect(manager.runSyncRound())
        #expect(log.syncedEndOffset == 1)
        try log.append(try BatchMaker().batch(["a"]))
        clock.advance(by: 499)
        manager.runMaintenance()
        #expect(!manager.runSyncRound())
        clock.advance(by: 1)
        manager.runMaintenance()
        #expect(manager.runSyncRound())
    }

    @Test func threadsAppendReadAndSyncTogether() async throws {
        let folder = TemporaryFolder()
        let manager = try open(folder, FaultyFileSystem(), mode: .threads)
        var settings = LogSettings()
        settings.segmentBytes = 20_000
        let log = try manager.createPartition(TestNode.partition, topicID: .zero, settings: settings)
        let writers = 4
        let each = 200
        let acknowledged = Acknowledged()
        await withTaskGroup(of: Void.self) { group in
            for writer in 0..<writers {
                group.addTask {
                    for number in 0..<each {
                        guard let batch = try? BatchMaker().batch(["\(writer) \(number)"]),
                            let result = try? log.append(batch)
                        else {
                            Issue.record("an append failed")
                            return
                        }
                        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
                            log.whenDurable(upTo: result.lastOffset + Int64(1)) { _ in continuation.resume() }
                        }
                        acknowledged.offsets.withLock { $0.append(result.firstOffset) }
                        if log.syncedEndOffset <= result.lastOffset {
                            Issue.record("acknowledged before it was synced")
                        }
                    }
                }
            }
            group.addTask {
                // A reader at the tail sees every record once, in order, whole.
                var position: Offset = 0
                while position < Offset(Int64(writers * each)) {
                    guard let records = try? log.records(from: position) else {
                        Issue.record("a read failed")
                        return
                    }
                    for record in records {
                        if record.offset != position { Issue.record("offset \(record.offset) instead of \(position)") }
                        position = record.offset + Int64(1)
                    }
                    await Task.yield()
                }
            }
        }
        #expect(acknowledged.offsets.withLock { $0.sorted() } == (0..<Int64(writers * each)).map { Offset($0) })
        #expect(log.segmentCount > 2)
        try manager.close()
    }
}
