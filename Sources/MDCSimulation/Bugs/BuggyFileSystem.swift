// SPDX-License-Identifier: Apache-2.0

import MDCLog
import NIOConcurrencyHelpers

/// The simulated disk, without the calls that an engine with a certain bug would not make.
final class BuggyFileSystem: FileSystem {
    private let disk: SimulatedDisk
    private let bug: PlantedBug
    private let deletes = NIOLockedValueBox(false)
    private let swaps = NIOLockedValueBox(false)

    init(_ disk: SimulatedDisk, _ bug: PlantedBug) {
        self.disk = disk
        self.bug = bug
    }

    func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        BuggyFile(try disk.open(path, mode), disk, bug)
    }
    func makeDirectory(_ path: String) throws(FileSystemError) { try disk.makeDirectory(path) }
    func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] { try disk.list(path) }

    func rename(_ path: String, to newPath: String) throws(FileSystemError) {
        if bug == .epochsAreNotWritten, path.hasSuffix("leader-epoch-checkpoint.tmp"),
            try disk.attributes(newPath) != nil
        {
            return
        }
        if newPath.hasSuffix(".log.swap") { swaps.withLockedValue { $0 = true } }
        if newPath.hasSuffix("-delete") { deletes.withLockedValue { $0 = true } }
        try disk.rename(path, to: newPath)
    }

    func unlink(_ path: String) throws(FileSystemError) {
        if bug == .snapshotsAreNotRemoved, path.hasSuffix(".snapshot") { return }
        try disk.unlink(path)
    }

    func removeDirectory(_ path: String) throws(FileSystemError) { try disk.removeDirectory(path) }

    func syncDirectory(_ path: String) throws(FileSystemError) {
        let isDataFolder = !path.dropFirst().contains("/")
        switch bug {
        case .partitionFolderIsNotSynced where !isDataFolder: return
        case .dataFolderIsNotSynced where isDataFolder: return
        case .swapIsNotSynced where swaps.withLockedValue({ $0 }):
            swaps.withLockedValue { $0 = false }
            return
        case .deletionIsNotSynced where isDataFolder && deletes.withLockedValue({ $0 }):
            deletes.withLockedValue { $0 = false }
            return
        default: break
        }
        try disk.syncDirectory(path)
    }

    func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? { try disk.attributes(path) }
    func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) { try disk.space(path) }
    func lock(_ path: String) throws(FileSystemError) -> any StorageFile { try disk.lock(path) }
}

private final class BuggyFile: StorageFile {
    private let file: any StorageFile
    private let disk: SimulatedDisk
    private let bug: PlantedBug

    init(_ file: any StorageFile, _ disk: SimulatedDisk, _ bug: PlantedBug) {
        self.file = file
        self.disk = disk
        self.bug = bug
    }

    var descriptor: Int32 { -1 }
    var path: String { file.path }
    func size() throws(FileSystemError) -> Int { try file.size() }
    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        try file.read(into: bytes, at: position)
    }
    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int {
        try file.write(pieces, at: position)
    }

    func sync() throws(FileSystemError) {
        let isSkipped =
            switch bug {
            case .logIsNotSynced: path.hasSuffix(".log")
            case .onlyActiveSegmentIsSynced: path.hasSuffix(".log") && isSealed()
            case .checkpointIsNotSynced: path.hasSuffix("-checkpoint.tmp") && !path.contains("epoch")
            case .topicIDIsNotSynced: path.hasSuffix("partition.metadata.tmp")
            case .compactedCopyIsNotSynced: path.hasSuffix(".log.cleaned")
            case .indexesAreNotSynced: path.hasSuffix(".index") || path.hasSuffix(".timeindex")
            default: false
            }
        if !isSkipped { try file.sync() }
    }

    /// Whether there is a later segment in the same folder.
    private func isSealed() -> Bool {
        guard let slash = path.lastIndex(of: "/") else { return false }
        let name = path[path.index(after: slash)...]
        let names = (try? disk.list(String(path[..<slash])))?.map(\.name) ?? []
        return names.contains { $0.hasSuffix(".log") && $0 > name }
    }

    func truncate(to size: Int) throws(FileSystemError) {
        if bug == .oldBytesStay, path.hasSuffix(".log"), size > 0, try file.size() > size { return }
        try file.truncate(to: size)
    }

    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        try file.allocate(at: position, count: count)
    }
    func isResident(at position: Int) -> Bool { true }
    func readAhead(at position: Int, count: Int) {}
}
