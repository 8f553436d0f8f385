// SPDX-License-Identifier: Apache-2.0

import Foundation
import Logging
import MDCLog
import MDCModel
import NIOCore
import Synchronization
import Testing

/// The real disk, which calls `hook` before each write to a file whose path ends with `suffix`.
private final class HookedFileSystem: FileSystem {
    struct State: Sendable {
        var suffix = ""
        var hook: (@Sendable () -> Void)?
    }
    let state = Mutex(State())
    private let real = POSIXFileSystem()

    /// Calls `hook` at the next such write, once.
    func once(_ suffix: String, _ hook: @escaping @Sendable () -> Void) {
        state.withLock { $0 = State(suffix: suffix, hook: hook) }
    }

    var isPending: Bool { state.withLock { $0.hook != nil } }

    func willWrite(_ path: String) {
        let hook = state.withLock { state -> (@Sendable () -> Void)? in
            guard path.hasSuffix(state.suffix) else { return nil }
            defer { state.hook = nil }
            return state.hook
        }
        hook?()
    }

    func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        HookedFile(try real.open(path, mode), self)
    }
    func makeDirectory(_ path: String) throws(FileSystemError) { try real.makeDirectory(path) }
    func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] { try real.list(path) }
    func rename(_ path: String, to newPath: String) throws(FileSystemError) { try real.rename(path, to: newPath) }
    func unlink(_ path: String) throws(FileSystemError) { try real.unlink(path) }
    func removeDirectory(_ path: String) throws(FileSystemError) { try real.removeDirectory(path) }
    func syncDirectory(_ path: String) throws(FileSystemError) { try real.syncDirectory(path) }
    func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? { try real.attributes(path) }
    func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) { try real.space(path) }
    func lock(_ path: String) throws(FileSystemError) -> any StorageFile { try real.lock(path) }
}

private final class HookedFile: StorageFile {
    private let real: any StorageFile
    private let disk: HookedFileSystem
    init(_ real: any StorageFile, _ disk: HookedFileSystem) {
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
        disk.willWrite(path)
        return try real.write(pieces, at: position)
    }
    func sync() throws(FileSystemError) { try real.sync() }
    func truncate(to size: Int) throws(FileSystemError) { try real.truncate(to: size) }
    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        try real.allocate(at: position, count: count)
    }
    func isResident(at position: Int) -> Bool { real.isResident(at: position) }
    func readAhead(at position: Int, count: Int) { real.readAhead(at: position, count: count) }
}

private func small(_ bytes: Int = 1000) -> LogSettings {
    var settings = LogSettings()
    settings.segmentBytes = bytes
    settings.indexIntervalBytes = 100
    return settings
}

private func joined(_ batches: [ByteBuffer]) -> ByteBuffer {
    var all = ByteBuffer()
    for batch in batches { all.writeImmutableBuffer(batch) }
    return all
}

/// Runs `body` on another thread; whether it ended within half a minute.
private func endsElsewhere(_ body: @escaping @Sendable () -> Void) -> Bool {
    let done = DispatchSemaphore(value: 0)
    Thread.detachNewThread {
        body()
        done.signal()
    }
    return done.wait(timeout: .now() + 30) == .success
}

@Suite struct WholeAppendTests {
    private func open(_ folder: TemporaryFolder, _ disk: any FileSystem, _ settings: LogSettings) throws -> LogManager {
        var configuration = LogConfiguration(directories: [folder.path])
        configuration.backgroundMode = .manual
        configuration.minimumFreeBytes = 0
        configuration.defaultSettings = settings
        return try LogManager.open(
            configuration: configuration,
            fileSystem: disk,
            clock: ManualClock(),
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            onSyncFailure: { _ in }
        )
    }

    @Test func severalBatchesGoIntoOneSegment() throws {
        let node = try TestNode(settings: small())
        let log = try node.make(small())
        try log.append(try BatchMaker().batch(1, size: 750))
        let three = try (0..<3).map { try BatchMaker().batch(["value \($0)"], timestamp: 1_700_000_000_000) }
        // The first one would still have fitted.
        #expect(log.sizeInBytes + three[0].readableBytes <= 1000)
        let result = try log.append(joined(three))
        #expect(result.firstOffset == 1 && result.lastOffset == 3)
        #expect(log.segmentCount == 2)
        #expect(try node.folder.names("t-0").contains("00000000000000000001.log"))
        #expect(try log.values(from: 1) == ["value 0", "value 1", "value 2"])
    }

    @Test(arguments: [0, 30, 61, 150]) func aFailedAppendLeavesNothing(partial: Int) throws {
        let folder = TemporaryFolder()
        let disk = FaultyFileSystem()
        let manager = try open(folder, disk, small())
        let log = try manager.createPartition(
            TestNode.partition,
            topicID: TopicID(high: 1, low: 2),
            settings: small()
        )
        try log.append(try BatchMaker.idempotent(7, sequence: 0).batch(1, size: 700))
        let batches = try (1..<4).map { try BatchMaker.idempotent(7, sequence: Int32($0)).batch(["value \($0)"]) }
        disk.faults.withLock { faults in
            faults.writeError = .noSpace
            faults.partialBytes = partial
        }
        #expect(throws: LogError.self) { try log.append(joined(batches)) }
        disk.faults.withLock { $0.writeError = nil }
        #expect(log.logEndOffset == 1)
        let afterCrash = try TestNode(try folder.copy(), settings: small())
        #expect(afterCrash.log.logEndOffset == 1)
        // The producer's sequence is as it was: the same append again is no duplicate and in order.
        manager.runMaintenance()
        let result = try log.append(joined(batches))
        #expect(!result.isDuplicate && result.firstOffset == 1 && result.lastOffset == 3)
    }

    @Test func moreThanASegmentIsRefused() throws {
        let node = try TestNode(settings: small())
        let log = try node.make(small())
        let batches = try (0..<3).map { _ in try BatchMaker().batch(1, size: 400) }
        let error = #expect(throws: LogError.self) { try log.append(joined(batches)) }
        #expect(error?.code == .messageTooLarge)
        #expect(log.logEndOffset == 0 && log.segmentCount == 1)
    }

    @Test func aReplicasAppendEndsWithTheSegment() throws {
        let source = try TestNode()
        let origin = try source.make()
        for number in 0..<3 {
            try origin.append(try BatchMaker.idempotent(7, sequence: Int32(number)).batch(1, size: 400))
        }
        var copied = ByteBuffer()
        try origin.read(from: 0, maxBytes: 1 << 20, minOneBatch: true, upTo: 3).copy(into: &copied)
        let node = try TestNode(settings: small())
        let log = try node.make(small())
        let first = try log.append(copied, as: .replica)
        #expect(first.firstOffset == 0 && first.lastOffset == 1 && log.logEndOffset == 2)
        // The producer's state is that of what is in the log, no more.
        #expect(log.activeProducers.map(\.lastSequence) == [1])
        var rest = ByteBuffer()
        try origin.read(from: 2, maxBytes: 1 << 20, minOneBatch: true, upTo: 3).copy(into: &rest)
        #expect(try log.append(rest, as: .replica).lastOffset == 2)
        #expect(try log.values() == origin.values() && log.segmentCount == 2)
    }

    @Test func aProducersBatchBeginsAtZero() throws {
        let node = try TestNode()
        let log = try node.make()
        var maker = BatchMaker()
        maker.settings.baseOffset = 5
        let batch = try maker.batch(["a"])
        let error = #expect(throws: LogError.self) { try log.append(batch) }
        #expect(error?.code == .invalidRecord && log.logEndOffset == 0)
        #expect(try log.append(batch, as: .coordinator).firstOffset == 0)
        maker.settings.baseOffset = 9
        #expect(try log.append(try maker.batch(["b"]), as: .replica).firstOffset == 9)
    }
}

@Suite struct CheckpointTests {
    private func open(_ folder: TemporaryFolder, _ disk: HookedFileSystem) throws -> LogManager {
        var configuration = LogConfiguration(directories: [folder.path])
        configuration.backgroundMode = .manual
        configuration.minimumFreeBytes = 0
        return try LogManager.open(
            configuration: configuration,
            fileSystem: disk,
            clock: ManualClock(),
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            onSyncFailure: { _ in }
        )
    }

    /// Appends go on while a checkpoint writes the indexes and the producers' state, and do not get into it.
    @Test(arguments: [".index", ".timeindex", ".checkpoint.tmp"]) func appendsDoNotWait(suffix: String) throws {
        let folder = TemporaryFolder()
        let disk = HookedFileSystem()
        let manager = try open(folder, disk)
        var settings = LogSettings()
        settings.indexIntervalBytes = 50
        let log = try manager.createPartition(
            TestNode.partition,
            topicID: TopicID(high: 1, low: 2),
            settings: settings
        )
        for number in 0..<20 {
            try log.append(try BatchMaker.idempotent(7, sequence: Int32(number)).batch(["\(number)"]))
        }
        manager.runSyncRound()
        let size = log.sizeInBytes
        let ended = Mutex(false)
        let more = try (20..<30).map { try BatchMaker.idempotent(7, sequence: Int32($0)).batch(["\($0)"]) }
        disk.once(suffix) {
            let isDone = endsElsewhere { for batch in more { _ = try? log.append(batch) } }
            ended.withLock { $0 = isDone }
        }
        manager.runCheckpoint()
        #expect(!disk.isPending && ended.withLock { $0 })
        #expect(log.logEndOffset == 30)
        manager.runSyncRound()
        let node = try TestNode(try folder.copy())
        #expect(try node.log.values() == (0..<30).map { "\($0)" })
        let report = try #require(node.manager.recoveryReports.first)
        #expect(report.scannedBytes == log.sizeInBytes - size && report.rebuiltFiles.isEmpty)
        #expect(node.log.activeProducers.map(\.lastSequence) == [29])
    }

    /// A log that is cut while its checkpoint is written has no checkpoint and no snapshot of what is gone.
    @Test(arguments: [".index", ".checkpoint.tmp"]) func aCutVoidsTheCheckpoint(suffix: String) throws {
        let folder = TemporaryFolder()
        let disk = HookedFileSystem()
        let manager = try open(folder, disk)
        var settings = LogSettings()
        settings.indexIntervalBytes = 50
        let log = try manager.createPartition(
            TestNode.partition,
            topicID: TopicID(high: 1, low: 2),
            settings: settings
        )
        for number in 0..<20 {
            try log.append(try BatchMaker.idempotent(7, sequence: Int32(number)).batch(["\(number)"]))
        }
        manager.runSyncRound()
        let ended = Mutex(false)
        disk.once(suffix) {
            let isDone = endsElsewhere { try? log.truncate(to: 5) }
            ended.withLock { $0 = isDone }
        }
        manager.runCheckpoint()
        #expect(!disk.isPending && ended.withLock { $0 } && log.logEndOffset == 5)
        #expect(try !folder.names("t-0").contains { $0.contains(".snapshot") && !$0.hasPrefix("00000000000000000005") })
        // Other records take the place of those that were cut.
        for number in 5..<25 {
            try log.append(try BatchMaker.idempotent(8, sequence: Int32(number - 5)).batch(["\(number)"]))
        }
        manager.runSyncRound()
        let node = try TestNode(try folder.copy())
        #expect(node.log.damage.isEmpty && node.log.logEndOffset == 25)
        #expect(node.log.activeProducers.map(\.lastSequence) == [4, 19])
    }
}

@Suite struct KnownDamageTests {
    private func damaged() throws -> (node: TestNode, name: String, sound: [UInt8]) {
        let node = try TestNode(settings: small())
        let log = try node.make(small())
        for number in 0..<100 { try log.append(try BatchMaker().batch(["value \(number)"])) }
        node.manager.runSyncRound()
        node.manager.runScrub()
        let name = "t-0/" + (try node.folder.names("t-0").filter { $0.hasSuffix(".log") }[2])
        let sound = try node.folder.bytes(name)
        var bytes = sound
        bytes[bytes.count / 2] ^= 4
        try node.folder.write(name, bytes, truncating: false)
        node.manager.runScrub()
        #expect(log.damage.count == 1)
        return (node, name, sound)
    }

    @Test(arguments: [true, false]) func survivesARestart(isClean: Bool) throws {
        let (node, name, sound) = try damaged()
        let damage = node.log.damage
        node.manager.runCheckpoint()
        if isClean { try node.manager.close() }
        let folder = try node.folder.copy()
        let again = try TestNode(folder, settings: small())
        let log = again.log
        #expect(log.damage.map(\.firstOffset) == damage.map(\.firstOffset))
        #expect(
            log.damage.map(\.position) == damage.map(\.position) && log.damage.map(\.reason) == damage.map(\.reason)
        )
        let first = try #require(damage.first?.firstOffset)
        let error = #expect(throws: LogError.self) {
            try log.read(from: first, maxBytes: 10, minOneBatch: true, upTo: log.logEndOffset)
        }
        #expect(error?.code == .damaged)
        #expect(log.offlineReason == nil)
        try log.append(try BatchMaker().batch(["goes on"]))
        // Scrubbing finds the same again, and with the right bytes back in place takes the segment into service.
        again.manager.runScrub()
        #expect(log.damage.count == 1)
        try folder.write(name, sound, truncating: false)
        again.manager.runScrub()
        #expect(log.damage.isEmpty)
        #expect(try log.values() == (0..<100).map { "value \($0)" } + ["goes on"])
        #expect(try !folder.names("t-0").contains { $0.hasSuffix(".damage") })
        #expect(try TestNode(try folder.copy(), settings: small()).log.damage.isEmpty)
    }

    @Test func aNoteThatCannotBeReadPutsTheSegmentInDoubt() throws {
        let (node, _, _) = try damaged()
        let note = "t-0/" + (try #require(try node.folder.names("t-0").first { $0.hasSuffix(".damage") }))
        let folder = try node.folder.copy()
        var bytes = try folder.bytes(note)
        bytes[bytes.count / 2] ^= 1
        try folder.write(note, bytes)
        let log = try TestNode(folder, settings: small()).log
        let damage = try #require(log.damage.first)
        #expect(log.damage.count == 1 && damage.position == 0)
        #expect(throws: LogError.self) {
            try log.read(from: damage.firstOffset, maxBytes: 10, minOneBatch: true, upTo: log.logEndOffset)
        }
    }

    @Test func goesWithTheSegment() throws {
        let (node, _, _) = try damaged()
        let next = try #require(node.log.damage.first?.nextOffset)
        try node.log.deleteRecords(before: next)
        #expect(node.log.damage.isEmpty)
        node.clock.advance(by: 61_000)
        node.manager.runMaintenance()
        #expect(try !node.folder.names("t-0").contains { $0.contains(".damage") })
    }
}

@Suite struct TornTailTests {
    /// Ten batches, of which the first two are covered by a checkpoint.
    private func crashed(_ settings: LogSettings = LogSettings()) throws -> (folder: TemporaryFolder, ends: [Int]) {
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        var ends: [Int] = []
        for number in 0..<10 {
            try log.append(try BatchMaker().batch(["value \(number)"]))
            ends.append(log.sizeInBytes)
            if number == 1 {
                node.manager.runSyncRound()
                node.manager.runCheckpoint()
            }
        }
        return (try node.folder.copy(), ends)
    }

    @Test func whatIsCutIsKept() throws {
        let (folder, ends) = try crashed()
        let name = RecoveryTests.file
        var bytes = try folder.bytes(name)
        bytes[ends[3] + 70] ^= 8
        try folder.write(name, bytes)
        let node = try TestNode(folder)
        let report = try #require(node.manager.recoveryReports.first)
        #expect(try node.log.values() == (0..<4).map { "value \($0)" })
        // Five batches behind the bad one read well: no mere torn write.
        #expect(report.cutBatches == 5 && report.cutOffsets == 5...9)
        #expect(report.cutBytes == bytes.count - ends[3] || report.cutBytes == ends[9] - ends[3])
        let torn = "00000000000000000000-\(ends[3]).torn"
        #expect(report.tornFiles == ["\(folder.path)/t-0/\(torn)"])
        #expect(try folder.bytes("t-0/\(torn)") == Array(bytes[ends[3]..<ends[9]]))
        // Its batches can be printed.
        let lines = Mutex<[String]>([])
        try LogDumper(path: "\(folder.path)/t-0/\(torn)").run { line in lines.withLock { $0.append(line) } }
        #expect(lines.withLock { $0.count { $0.contains("baseOffset: ") } } == 5)
        // It outlives restarts, and goes with the records around it.
        try node.log.append(try BatchMaker().batch(["new"]))
        try node.manager.close()
        let again = try TestNode(folder)
        #expect(try folder.names("t-0").contains(torn))
        try again.log.reset(to: 50)
        #expect(try !folder.names("t-0").contains(torn))
    }

    @Test func aTornWriteIsNoEvidence() throws {
        let (folder, ends) = try crashed()
        let bytes = Array(try folder.bytes(RecoveryTests.file).prefix(ends[9] - 5))
        try folder.write(RecoveryTests.file, bytes)
        let node = try TestNode(folder)
        let report = try #require(node.manager.recoveryReports.first)
        #expect(node.log.logEndOffset == 9 && report.cutBatches == 0 && report.cutOffsets == nil)
        #expect(try folder.bytes("t-0/00000000000000000000-\(ends[8]).torn") == Array(bytes[ends[8]...]))
    }

    @Test func laterSegmentsAreKeptToo() throws {
        let (folder, ends) = try crashed(small(300))
        #expect(ends[9] > 600)
        let logs = try folder.names("t-0").filter { $0.hasSuffix(".log") }
        #expect(logs.count >= 3)
        let last = try #require(logs.last)
        let content = try folder.bytes("t-0/\(last)")
        let middle = "t-0/\(logs[logs.count - 2])"
        var bytes = try folder.bytes(middle)
        bytes[70] ^= 1
        try folder.write(middle, bytes)
        let node = try TestNode(folder, settings: small(300))
        let report = try #require(node.manager.recoveryReports.first)
        #expect(report.cutBatches >= 1 && report.tornFiles.count == 2)
        #expect(try folder.bytes("t-0/\(last.dropLast(4))-0.torn") == content)
        #expect(try !folder.names("t-0").contains(last))
        try node.log.append(try BatchMaker().batch(["new"]))
        #expect(try node.log.values().last == "new")
    }
}

#if os(Linux)
    @Suite struct BackgroundPriorityTests {
        /// Niceness of this process' threads of a name, as the kernel has it.
        private func niceness(_ name: String) -> [Int] {
            let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
            return tasks.compactMap { task in
                guard let text = try? String(contentsOfFile: "/proc/self/task/\(task)/stat", encoding: .utf8),
                    let open = text.firstIndex(of: "("), let close = text.lastIndex(of: ")"),
                    text[text.index(after: open)..<close] == name
                else { return nil }
                // After the name come state (3rd field of the line) and so on; niceness is the 19th.
                let fields = text[text.index(after: close)...].split(separator: " ")
                return fields.count > 16 ? Int(fields[16]) : nil
            }
        }

        @Test func whoeverNobodyWaitsForStandsBack() async throws {
            let folder = TemporaryFolder()
            var configuration = LogConfiguration(directories: [folder.path])
            configuration.minimumFreeBytes = 0
            let manager = try LogManager.open(
                configuration: configuration,
                logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
            )
            func areNice() -> Bool {
                let sync = niceness("mdc-sync").max() ?? 0
                return ["mdc-compaction", "mdc-scrub"].allSatisfy { name in
                    let values = niceness(name)
                    return !values.isEmpty && values.allSatisfy { $0 >= 10 && $0 > sync }
                }
            }
            // The threads name and place themselves.
            for _ in 0..<3000 where !areNice() { try await Task.sleep(for: .milliseconds(10)) }
            #expect(areNice())
            try manager.close()
        }
    }
#endif
