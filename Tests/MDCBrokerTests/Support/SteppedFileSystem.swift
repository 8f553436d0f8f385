// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOConcurrencyHelpers
import Synchronization

/// The real file system, which keeps a copy of a folder before each change that is made to the disk: what a process that is
/// killed there leaves behind.
final class SteppedFileSystem: FileSystem {
    private let real = POSIXFileSystem()
    private let state = Mutex<(folder: String?, copies: [String], count: Int)>((nil, [], 0))

    /// From now on, until ``disarm()``, `folder` is copied before each change.
    func arm(_ folder: String) { state.withLock { $0 = (folder, [], $0.count) } }

    /// Ends the copying; returns the copies in order.
    func disarm() -> [String] {
        state.withLock { state in
            state.folder = nil
            return state.copies
        }
    }

    private let gate = ConditionLock<Bool>(value: true)

    /// From now on, until ``releaseSyncs()``, nothing becomes durable: who syncs waits.
    func holdSyncs() {
        gate.lock()
        gate.unlock(withValue: false)
    }

    func releaseSyncs() {
        gate.lock()
        gate.unlock(withValue: true)
    }

    fileprivate func waitForGate() {
        gate.lock(whenValue: true)
        gate.unlock(withValue: true)
    }

    fileprivate func step() {
        state.withLock { state in
            guard let folder = state.folder else { return }
            let copy = "\(folder).step\(state.count)"
            state.count += 1
            do {
                try Self.copy(folder, to: copy, real)
                state.copies.append(copy)
            } catch {
                preconditionFailure("the copy before a step failed: \(error)")
            }
        }
    }

    static func copy(_ folder: String, to target: String, _ real: POSIXFileSystem) throws {
        try real.makeDirectory(target)
        for entry in try real.list(folder) {
            let (from, to) = ("\(folder)/\(entry.name)", "\(target)/\(entry.name)")
            if entry.isDirectory {
                try copy(from, to: to, real)
                continue
            }
            // Another thread may have just removed it: its step was copied before.
            guard try real.attributes(from) != nil, let source = try? real.open(from, []) else { continue }
            var bytes = [UInt8](repeating: 0, count: try source.size())
            _ = try bytes.withUnsafeMutableBytes { try source.read(into: $0, at: 0) }
            let file = try real.open(to, [.write, .create])
            _ = try bytes.withUnsafeBytes { bytes in
                try withUnsafePointer(to: WritePiece(bytes)) { piece in
                    try file.write(UnsafeBufferPointer(start: piece, count: 1), at: 0)
                }
            }
        }
    }

    func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        if mode.contains(.create) { step() }
        return SteppedFile(try real.open(path, mode), self)
    }

    func makeDirectory(_ path: String) throws(FileSystemError) {
        step()
        try real.makeDirectory(path)
    }

    func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] { try real.list(path) }

    func rename(_ path: String, to newPath: String) throws(FileSystemError) {
        step()
        try real.rename(path, to: newPath)
    }

    func unlink(_ path: String) throws(FileSystemError) {
        step()
        try real.unlink(path)
    }

    func removeDirectory(_ path: String) throws(FileSystemError) {
        step()
        try real.removeDirectory(path)
    }

    func syncDirectory(_ path: String) throws(FileSystemError) {
        step()
        try real.syncDirectory(path)
    }

    func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? { try real.attributes(path) }
    func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) { try real.space(path) }
    func lock(_ path: String) throws(FileSystemError) -> any StorageFile { try real.lock(path) }
}

private final class SteppedFile: StorageFile {
    private let real: any StorageFile
    private let owner: SteppedFileSystem

    init(_ real: any StorageFile, _ owner: SteppedFileSystem) {
        self.real = real
        self.owner = owner
    }

    var descriptor: Int32 { real.descriptor }
    var path: String { real.path }
    func size() throws(FileSystemError) -> Int { try real.size() }

    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        try real.read(into: bytes, at: position)
    }

    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int {
        owner.step()
        return try real.write(pieces, at: position)
    }

    func sync() throws(FileSystemError) {
        owner.step()
        owner.waitForGate()
        try real.sync()
    }

    func truncate(to size: Int) throws(FileSystemError) {
        owner.step()
        try real.truncate(to: size)
    }

    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        owner.step()
        try real.allocate(at: position, count: count)
    }

    func isResident(at position: Int) -> Bool { real.isResident(at: position) }
    func readAhead(at position: Int, count: Int) { real.readAhead(at: position, count: count) }
}
