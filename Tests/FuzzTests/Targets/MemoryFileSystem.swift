// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import Synchronization

/// A disk in memory that never fails and forgets nothing: fast enough to open a log ten thousand times a second.
final class MemoryFileSystem: FileSystem {
    final class Node: Sendable {
        let bytes = Mutex<[UInt8]>([])
    }

    private struct State {
        var files: [String: Node] = [:]
        /// The names in each folder.
        var folders: [String: Set<String>] = [:]
    }

    private let state = Mutex(State())

    private static func split(_ path: String) -> (folder: String, name: String) {
        guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")) else { return ("", path) }
        return (String(path[..<slash]), String(path[path.utf8.index(after: slash)...]))
    }

    private static func missing(_ call: String, _ path: String) -> FileSystemError {
        FileSystemError(.notFound, call: call, path: path, reason: "no such file or folder")
    }

    /// Puts a file there, and the folders above it.
    func put(_ path: String, _ bytes: [UInt8]) {
        let node = Node()
        node.bytes.withLock { $0 = bytes }
        state.withLock { state in
            state.files[path] = node
            var child = path
            while child != "" {
                let (folder, name) = Self.split(child)
                state.folders[folder, default: []].insert(name)
                child = folder
            }
        }
    }

    /// Every file with its bytes.
    var content: [String: [UInt8]] { state.withLock { $0.files }.mapValues { $0.bytes.withLock { $0 } } }

    func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        let node = try state.withLock { state throws(FileSystemError) -> Node in
            if let node = state.files[path] {
                if mode.contains(.exclusive) {
                    throw FileSystemError(.exists, call: "open", path: path, reason: "exists")
                }
                return node
            }
            let (folder, name) = Self.split(path)
            guard mode.contains(.create), state.folders[folder] != nil else { throw Self.missing("open", path) }
            let node = Node()
            state.files[path] = node
            state.folders[folder]?.insert(name)
            return node
        }
        return MemoryFile(path: path, node: node)
    }

    func makeDirectory(_ path: String) throws(FileSystemError) {
        try state.withLock { state throws(FileSystemError) in
            if state.folders[path] != nil || state.files[path] != nil {
                throw FileSystemError(.exists, call: "mkdir", path: path, reason: "exists")
            }
            let (folder, name) = Self.split(path)
            state.folders[folder, default: []].insert(name)
            state.folders[path] = []
        }
    }

    func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] {
        try state.withLock { state throws(FileSystemError) in
            guard let names = state.folders[path] else { throw Self.missing("list", path) }
            // In order, so that a run can be repeated.
            return names.sorted().map {
                DirectoryEntry(name: $0, isDirectory: state.folders["\(path)/\($0)"] != nil)
            }
        }
    }

    func rename(_ path: String, to newPath: String) throws(FileSystemError) {
        try state.withLock { state throws(FileSystemError) in
            let (folder, name) = Self.split(path)
            let (newFolder, newName) = Self.split(newPath)
            guard state.folders[folder]?.contains(name) == true, state.folders[newFolder] != nil else {
                throw Self.missing("rename", path)
            }
            if let node = state.files.removeValue(forKey: path) {
                state.files[newPath] = node
            } else {
                for old in state.folders.keys where old == path || old.hasPrefix(path + "/") {
                    state.folders[newPath + old.dropFirst(path.count)] = state.folders.removeValue(forKey: old)
                }
                for old in state.files.keys where old.hasPrefix(path + "/") {
                    state.files[newPath + old.dropFirst(path.count)] = state.files.removeValue(forKey: old)
                }
            }
            state.folders[folder]?.remove(name)
            state.folders[newFolder]?.insert(newName)
        }
    }

    func unlink(_ path: String) throws(FileSystemError) {
        try state.withLock { state throws(FileSystemError) in
            guard state.files.removeValue(forKey: path) != nil else { throw Self.missing("unlink", path) }
            let (folder, name) = Self.split(path)
            state.folders[folder]?.remove(name)
        }
    }

    func removeDirectory(_ path: String) throws(FileSystemError) {
        try state.withLock { state throws(FileSystemError) in
            guard let names = state.folders[path] else { throw Self.missing("rmdir", path) }
            guard names.isEmpty else {
                throw FileSystemError(.other, call: "rmdir", path: path, reason: "not empty")
            }
            state.folders[path] = nil
            let (folder, name) = Self.split(path)
            state.folders[folder]?.remove(name)
        }
    }

    func syncDirectory(_ path: String) throws(FileSystemError) {}

    func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? {
        state.withLock { state in
            if state.folders[path] != nil {
                return FileAttributes(size: 0, allocatedSize: 0, isDirectory: true, modified: 0)
            }
            guard let size = state.files[path]?.bytes.withLock({ $0.count }) else { return nil }
            return FileAttributes(size: size, allocatedSize: size, isDirectory: false, modified: 0)
        }
    }

    func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) { (1 << 40, 1 << 40) }

    func lock(_ path: String) throws(FileSystemError) -> any StorageFile { try open(path, [.write, .create]) }
}

/// A file of a ``MemoryFileSystem``.
final class MemoryFile: StorageFile {
    /// What a file may grow to; more is a full disk.
    private static let limit = 64 << 20
    let descriptor: Int32 = -1
    let path: String
    private let node: MemoryFileSystem.Node

    init(path: String, node: MemoryFileSystem.Node) {
        self.path = path
        self.node = node
    }

    func size() throws(FileSystemError) -> Int { node.bytes.withLock { $0.count } }

    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        node.bytes.withLock { content in
            guard position >= 0, position < content.count else { return 0 }
            let count = min(bytes.count, content.count - position)
            content.withUnsafeBytes { bytes.copyMemory(from: .init(rebasing: $0[position..<position + count])) }
            return count
        }
    }

    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int {
        let total = pieces.reduce(0) { $0 + $1.count }
        guard position >= 0, position + total <= Self.limit else {
            throw FileSystemError(.noSpace, call: "pwritev", path: path, reason: "the memory disk is full")
        }
        // No pointer crosses into the closure: the bytes are gathered first.
        var gathered: [UInt8] = []
        gathered.reserveCapacity(total)
        for piece in pieces {
            gathered.append(contentsOf: UnsafeRawBufferPointer(start: piece.base, count: piece.count))
        }
        let all = gathered
        node.bytes.withLock { content in
            if content.count < position {
                content.append(contentsOf: repeatElement(0, count: position - content.count))
            }
            let overlap = min(all.count, content.count - position)
            content.replaceSubrange(position..<position + overlap, with: all[..<overlap])
            content.append(contentsOf: all[overlap...])
        }
        return total
    }

    func sync() throws(FileSystemError) {}

    func truncate(to size: Int) throws(FileSystemError) {
        guard size <= Self.limit else {
            throw FileSystemError(.noSpace, call: "ftruncate", path: path, reason: "the memory disk is full")
        }
        node.bytes.withLock { content in
            if size < content.count {
                content.removeLast(content.count - size)
            } else {
                content.append(contentsOf: repeatElement(0, count: size - content.count))
            }
        }
    }

    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        throw FileSystemError(.unsupported, call: "fallocate", path: path, reason: "not on a memory disk")
    }

    func isResident(at position: Int) -> Bool { true }
    func readAhead(at position: Int, count: Int) {}
}
