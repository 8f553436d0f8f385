// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import Synchronization

/// The real disk under a process that dies at its n-th change of it: that call is done by half or not at all, and nothing
/// after it is done. Reads go on, for they change nothing.
final class DyingFileSystem: FileSystem {
    private struct State {
        var isArmed = false
        var callsLeft = 0
        var calls: [String] = []
    }
    private let state = Mutex(State())
    private let real = POSIXFileSystem()

    /// Lets so many changes happen from now on.
    func arm(after calls: Int) {
        state.withLock {
            $0.isArmed = true
            $0.callsLeft = calls
            $0.calls = []
        }
    }

    /// Whether the process has died.
    var isDead: Bool { state.withLock { $0.isArmed && $0.callsLeft < 0 } }
    /// The call that it died at, or the last before that.
    var lastCall: String { state.withLock { $0.calls.last ?? "none" } }

    fileprivate enum Fate { case lives, dies, isDead }

    fileprivate func fate(_ call: String, _ path: String) -> Fate {
        state.withLock { state in
            guard state.isArmed else { return .lives }
            if state.callsLeft < 0 { return .isDead }
            state.calls.append("\(call) \(path.split(separator: "/").last ?? "")")
            state.callsLeft -= 1
            return state.callsLeft < 0 ? .dies : .lives
        }
    }

    fileprivate func check(_ call: String, _ path: String) throws(FileSystemError) {
        if fate(call, path) != .lives { throw dead(call, path) }
    }

    fileprivate func dead(_ call: String, _ path: String) -> FileSystemError {
        FileSystemError(.inputOutput, call: call, path: path, reason: "the process is dead")
    }

    func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        if mode.contains(.create), try real.attributes(path) == nil { try check("create", path) }
        return DyingFile(try real.open(path, mode), self)
    }
    func makeDirectory(_ path: String) throws(FileSystemError) {
        try check("mkdir", path)
        try real.makeDirectory(path)
    }
    func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] { try real.list(path) }
    func rename(_ path: String, to newPath: String) throws(FileSystemError) {
        try check("rename", path)
        try real.rename(path, to: newPath)
    }
    func unlink(_ path: String) throws(FileSystemError) {
        if try real.attributes(path) != nil { try check("unlink", path) }
        try real.unlink(path)
    }
    func removeDirectory(_ path: String) throws(FileSystemError) {
        try check("rmdir", path)
        try real.removeDirectory(path)
    }
    func syncDirectory(_ path: String) throws(FileSystemError) {
        try check("fsync", path)
        try real.syncDirectory(path)
    }
    func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? { try real.attributes(path) }
    func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) { try real.space(path) }
    func lock(_ path: String) throws(FileSystemError) -> any StorageFile { try real.lock(path) }
}

private final class DyingFile: StorageFile {
    private let real: any StorageFile
    private let disk: DyingFileSystem
    init(_ real: any StorageFile, _ disk: DyingFileSystem) {
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
        switch disk.fate("write", path) {
        case .lives: return try real.write(pieces, at: position)
        case .isDead: throw disk.dead("write", path)
        case .dies:
            // Half of the first piece gets there.
            if let first = pieces.first(where: { $0.count > 1 }) {
                let half = WritePiece(base: first.base, count: first.count / 2)
                var failure: FileSystemError?
                withUnsafePointer(to: half) { pointer in
                    do throws(FileSystemError) {
                        _ = try real.write(UnsafeBufferPointer(start: pointer, count: 1), at: position)
                    } catch {
                        failure = error
                    }
                }
                if let failure { throw failure }
            }
            throw disk.dead("write", path)
        }
    }
    func sync() throws(FileSystemError) {
        try disk.check("sync", path)
        try real.sync()
    }
    func truncate(to size: Int) throws(FileSystemError) {
        if try real.size() != size { try disk.check("truncate", path) }
        try real.truncate(to: size)
    }
    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        try disk.check("allocate", path)
        try real.allocate(at: position, count: count)
    }
    func isResident(at position: Int) -> Bool { real.isResident(at: position) }
    func readAhead(at position: Int, count: Int) { real.readAhead(at: position, count: count) }
}
