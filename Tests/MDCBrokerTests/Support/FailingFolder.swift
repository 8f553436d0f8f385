// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import Synchronization

/// The real file system, with a folder whose disk can fail.
final class FailingFolder: FileSystem {
    /// What an input/output error hits.
    enum Failure { case writes, everything }

    private let real = POSIXFileSystem()
    private let state = Mutex<(folder: String, failure: Failure)?>(nil)

    /// From now on the disk under `folder` fails.
    func fail(_ folder: String, _ failure: Failure) { state.withLock { $0 = (folder, failure) } }
    func repair() { state.withLock { $0 = nil } }

    fileprivate func check(_ call: String, _ path: String, isWrite: Bool = false) throws(FileSystemError) {
        let isHit = state.withLock { state in
            guard let state, path == state.folder || path.hasPrefix(state.folder + "/") else { return false }
            return state.failure == .everything || isWrite
        }
        if isHit { throw FileSystemError(.inputOutput, call: call, path: path, reason: "injected") }
    }

    func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        try check("open", path)
        return FailingFile(try real.open(path, mode), self)
    }
    func makeDirectory(_ path: String) throws(FileSystemError) {
        try check("mkdir", path, isWrite: true)
        try real.makeDirectory(path)
    }
    func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] {
        try check("list", path)
        return try real.list(path)
    }
    func rename(_ path: String, to newPath: String) throws(FileSystemError) {
        try check("rename", path, isWrite: true)
        try real.rename(path, to: newPath)
    }
    func unlink(_ path: String) throws(FileSystemError) {
        try check("unlink", path, isWrite: true)
        try real.unlink(path)
    }
    func removeDirectory(_ path: String) throws(FileSystemError) { try real.removeDirectory(path) }
    func syncDirectory(_ path: String) throws(FileSystemError) { try real.syncDirectory(path) }
    func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? {
        try check("stat", path)
        return try real.attributes(path)
    }
    func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) { try real.space(path) }
    func lock(_ path: String) throws(FileSystemError) -> any StorageFile {
        try check("lock", path)
        return try real.lock(path)
    }
}

private final class FailingFile: StorageFile {
    private let real: any StorageFile
    private let owner: FailingFolder

    init(_ real: any StorageFile, _ owner: FailingFolder) {
        self.real = real
        self.owner = owner
    }

    var descriptor: Int32 { real.descriptor }
    var path: String { real.path }
    func size() throws(FileSystemError) -> Int { try real.size() }
    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        try owner.check("read", path)
        return try real.read(into: bytes, at: position)
    }
    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int {
        try owner.check("write", path, isWrite: true)
        return try real.write(pieces, at: position)
    }
    func sync() throws(FileSystemError) { try real.sync() }
    func truncate(to size: Int) throws(FileSystemError) {
        try owner.check("truncate", path, isWrite: true)
        try real.truncate(to: size)
    }
    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        try owner.check("allocate", path, isWrite: true)
        try real.allocate(at: position, count: count)
    }
    func isResident(at position: Int) -> Bool { real.isResident(at: position) }
    func readAhead(at position: Int, count: Int) { real.readAhead(at: position, count: count) }
}
