// SPDX-License-Identifier: Apache-2.0

import Logging
import MDCLog
import MDCModel
import Synchronization
import Testing

/// Several data folders, of which some fail.
@Suite struct DataFolderTests {
    private static let names = (0..<6).map { TopicPartition(topic: "t", partition: PartitionID($0)) }

    private func open(_ root: TemporaryFolder, _ disk: any FileSystem, folders: Int = 3) throws -> LogManager {
        var configuration = LogConfiguration(directories: (0..<folders).map { "\(root.path)/\($0)" })
        configuration.backgroundMode = .manual
        configuration.minimumFreeBytes = 0
        return try LogManager.open(
            configuration: configuration,
            fileSystem: disk,
            clock: ManualClock(),
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() }),
            onSyncFailure: { Issue.record("\($0)") }
        )
    }

    /// Three folders with two partitions each. Closed in order, or as a killed process leaves them.
    private func filled(closed: Bool) throws -> (root: TemporaryFolder, folders: [TopicPartition: String]) {
        let root = TemporaryFolder()
        let manager = try open(root, POSIXFileSystem())
        for (number, name) in Self.names.enumerated() {
            let log = try manager.createPartition(name, topicID: .zero, settings: LogSettings())
            try log.append(try BatchMaker().batch(["value \(number)"]))
        }
        let folders = Dictionary(uniqueKeysWithValues: manager.usage().map { ($0.topicPartition, $0.directory) })
        if closed {
            try manager.close()
            return (root, folders)
        }
        let copy = try root.copy()
        return (copy, folders.mapValues { copy.path + $0.dropFirst(root.path.count) })
    }

    private static let failures: [Set<String>] = [
        ["lock"], ["list"], ["open"], ["fsync"], ["lock", "list", "open", "fsync"],
    ]

    @Test(arguments: failures, [true, false])
    func aFolderThatFailsGoesOfflineAlone(calls: Set<String>, closed: Bool) throws {
        let (root, folders) = try filled(closed: closed)
        let failed = "\(root.path)/1"
        let checkpoint = try root.bytes("1/mdc-checkpoint")
        let disk = FaultyFileSystem()
        disk.faults.withLock {
            $0.failedFolder = failed
            $0.failedCalls = calls
        }
        let manager = try open(root, disk)
        for (number, name) in Self.names.enumerated() {
            let log = manager.partition(name)
            if folders[name] == failed {
                #expect(log == nil)
                let reason = try #require(manager.offlineReason(of: name))
                #expect(reason.code == .offline && reason.message.contains(failed))
                // No empty log takes the place of the one that cannot be had.
                let error = #expect(throws: LogError.self) {
                    try manager.createPartition(name, topicID: .zero, settings: LogSettings())
                }
                #expect(error?.code == .offline)
            } else {
                #expect(manager.offlineReason(of: name) == nil)
                #expect(try log?.values() == ["value \(number)"])
                try log?.append(try BatchMaker().batch(["more \(number)"]))
            }
        }
        let new = TopicPartition(topic: "new", partition: 0)
        _ = try manager.createPartition(new, topicID: .zero, settings: LogSettings(), isNew: true)
        let usage = manager.directoryUsage()
        #expect(usage.count == 3 && usage.filter { $0.offlineReason != nil }.map(\.path) == [failed])
        manager.runSyncRound()
        manager.runMaintenance()
        manager.runCheckpoint()
        try manager.close()
        // What the failed folder knows of its logs is as it was; with the disk back, all is there.
        if calls != ["fsync"] { #expect(try root.bytes("1/mdc-checkpoint") == checkpoint) }
        let again = try open(root, POSIXFileSystem())
        #expect(again.partition(new) != nil)
        for (number, name) in Self.names.enumerated() {
            let more = folders[name] == failed ? [] : ["more \(number)"]
            #expect(try again.partition(name)?.values() == ["value \(number)"] + more)
            #expect(again.offlineReason(of: name) == nil)
        }
        try again.close()
    }

    /// A partition that nobody knows to be new may be in a folder that cannot be listed.
    @Test func whatMayBeInAFailedFolderIsNotMadeAnew() throws {
        let (root, _) = try filled(closed: true)
        let unknown = TopicPartition(topic: "u", partition: 0)
        for (calls, isRefused) in [(Set(["lock"]), false), (Set(["list"]), true)] {
            let disk = FaultyFileSystem()
            disk.faults.withLock {
                $0.failedFolder = "\(root.path)/1"
                $0.failedCalls = calls
            }
            let manager = try open(root, disk)
            #expect((manager.offlineReason(of: unknown) != nil) == isRefused)
            if isRefused {
                let error = #expect(throws: LogError.self) {
                    try manager.createPartition(unknown, topicID: .zero, settings: LogSettings())
                }
                #expect(error?.code == .offline)
            } else {
                _ = try manager.createPartition(unknown, topicID: .zero, settings: LogSettings())
                try manager.deletePartition(unknown)
            }
            try manager.close()
        }
    }

    @Test func withoutAnyFolderThereIsNoNode() throws {
        let (root, _) = try filled(closed: true)
        let disk = FaultyFileSystem()
        disk.faults.withLock {
            $0.failedFolder = root.path
            $0.failedCalls = ["lock"]
        }
        let error = #expect(throws: LogError.self) { try open(root, disk) }
        #expect(error?.code == .inputOutput)
        for folder in 0..<3 { #expect(error?.message.contains("\(root.path)/\(folder)") == true) }
        let single = #expect(throws: LogError.self) { try open(root, disk, folders: 1) }
        #expect(single?.code == .inputOutput)
    }

    /// Another process is no failed disk.
    @Test func aFolderInUseEndsTheStart() throws {
        let (root, _) = try filled(closed: true)
        let other = try TestNode(TemporaryFolder()) { $0.directories = ["\(root.path)/1"] }
        let error = #expect(throws: LogError.self) { try open(root, POSIXFileSystem()) }
        #expect(error?.code == .locked)
        try other.manager.close()
        try open(root, POSIXFileSystem()).close()
    }
}
