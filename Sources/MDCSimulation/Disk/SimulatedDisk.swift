// SPDX-License-Identifier: Apache-2.0

public import MDCLog
import NIOConcurrencyHelpers

/// A disk in memory that knows what is on stable storage and what is not, fails when told to, and loses power.
///
/// What it keeps after a power failure is any state that POSIX allows: see `crash()`. Everything that it decides follows
/// from its seed and the calls that were made.
///
/// Unchecked: all state is touched with `lock` held only.
public final class SimulatedDisk: FileSystem, @unchecked Sendable {
    /// The calls of the seam.
    public enum Call: String, Sendable, Hashable, CaseIterable {
        case open, read, write, sync, truncate, allocate, makeDirectory, list, rename, unlink, removeDirectory
        case syncDirectory, attributes, lock
        /// Whether the call changes what is on the disk.
        public var isChange: Bool {
            switch self {
            case .read, .list, .attributes, .lock: false
            default: true
            }
        }
    }

    /// Calls that are to fail.
    public struct Fault: Sendable {
        /// How they fail; nil: writes are short instead, which is no failure.
        public var kind: FileSystemError.Kind?
        /// So many calls that it applies to go well before.
        public var after: Int
        /// So many of them fail then.
        public var count: Int
        /// The calls that it applies to.
        public var calls: Set<Call>
        /// Makes a fault.
        public init(kind: FileSystemError.Kind?, after: Int, count: Int, calls: Set<Call>) {
            self.kind = kind
            self.after = after
            self.count = count
            self.calls = calls
        }
    }

    private let guardian = NIOLock()
    var random: SimulationRandom
    var root = Directory()
    /// Grows with each crash: files that were opened before one are dead.
    var generation = 0
    private var folders: [String: Directory] = [:]
    private var lockHolders: [ObjectIdentifier: Int] = [:]
    private var fault: Fault?
    private var crashCountdown: Int?
    private var isDown = false
    private var calls = 0
    private var free: UInt64 = 1 << 40
    private var failures = 0
    private var onCall: ((String) -> Void)?
    /// The time that files are stamped with, milliseconds since 1970.
    private var time: Int64 = 0

    /// Makes an empty disk.
    public init(seed: UInt64) { random = SimulationRandom(seed: seed) }

    func locked<R, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
        guardian.lock()
        defer { guardian.unlock() }
        return try body()
    }

    // MARK: Control

    /// Calls so far.
    public var callCount: Int { locked { calls } }
    /// Whether the power has failed, by `crashAfter` or `crash()`, and `restart` was not called yet.
    public var hasCrashed: Bool { locked { isDown } }
    /// How often an armed fault has made a call fail.
    public var failureCount: Int { locked { failures } }
    /// What `space` says is free.
    public var availableBytes: UInt64 {
        get { locked { free } }
        set { locked { free = newValue } }
    }
    /// Tells of each change as it is asked for, and what a power failure has left; nil for silence.
    public func setCallHandler(_ handler: ((String) -> Void)?) { locked { onCall = handler } }
    /// Sets the time that files are stamped with.
    public func setTime(_ milliseconds: Int64) { locked { time = milliseconds } }
    /// What a power failure leaves is decided by another seed from now on.
    public func reseed(_ seed: UInt64) { locked { random = SimulationRandom(seed: seed) } }
    /// Arms a fault; nil disarms.
    public func setFault(_ fault: Fault?) { locked { self.fault = fault } }
    /// The power fails at the change after the next `changes` ones; nil disarms.
    public func crashAfter(changes: Int?) { locked { crashCountdown = changes } }

    /// The power fails now, if it has not yet.
    public func crash() {
        locked { powerOff() }
    }

    /// The process dies: everything stays as it is, but open files and locks are gone. What was not synced is not yet.
    public func kill() {
        locked {
            generation += 1
            lockHolders = [:]
        }
    }

    /// The power is back.
    public func restart() {
        locked {
            isDown = false
            crashCountdown = nil
            fault = nil
        }
    }

    /// Flips a bit at rest in one of the files whose path `isWanted`; returns where, nil where there is no such byte.
    public func flipBit(_ isWanted: (String) -> Bool) -> String? {
        locked {
            var files: [(String, FileContent)] = []
            root.collect("", &files)
            files = files.filter { isWanted($0.0) && !$0.1.current.isEmpty }
            guard !files.isEmpty else { return nil }
            let (path, content) = random.pick(files)
            guard let (position, bit) = content.flip(&random) else { return nil }
            return "\(path) byte \(position) bit \(bit)"
        }
    }

    /// All files with their sizes, in order of their paths.
    public func files() -> [(path: String, size: Int)] {
        locked {
            var files: [(String, FileContent)] = []
            root.collect("", &files)
            return files.map { ($0.0, $0.1.current.count) }
        }
    }

    private func powerOff() {
        guard !isDown else { return }
        isDown = true
        generation += 1
        lockHolders = [:]
        folders = [:]
        root.crash(&random)
        guard let onCall else { return }
        var files: [(String, FileContent)] = []
        root.collect("", &files)
        onCall("left: " + files.map { "\($0.0) \($0.1.current.count)" }.sorted().joined(separator: ", "))
    }

    // MARK: Steps

    /// What comes before every call: the power may fail, or the call may.
    func step(_ call: Call, _ path: String) throws(FileSystemError) {
        calls += 1
        if isDown { throw down(call, path) }
        if call.isChange { onCall?("\(call.rawValue) \(path)") }
        if call.isChange, let left = crashCountdown {
            if left == 0 {
                powerOff()
                throw down(call, path)
            }
            crashCountdown = left - 1
        }
        guard var armed = fault, armed.calls.contains(call), let kind = armed.kind else { return }
        if armed.after > 0 {
            armed.after -= 1
            fault = armed
        } else if armed.count > 0 {
            armed.count -= 1
            fault = armed
            failures += 1
            throw FileSystemError(kind, call: call.rawValue, path: path, reason: "injected")
        }
    }

    /// How many of `count` bytes a write takes.
    func shortened(_ count: Int) -> Int {
        guard var armed = fault, armed.kind == nil, count > 1 else { return count }
        if armed.after > 0 {
            armed.after -= 1
            fault = armed
            return count
        }
        guard armed.count > 0 else { return count }
        armed.count -= 1
        fault = armed
        failures += 1
        return 1 + random.below(count - 1)
    }

    func down(_ call: Call, _ path: String) -> FileSystemError {
        FileSystemError(.other, call: call.rawValue, path: path, reason: "the power has failed")
    }

    func stamp() -> Int64 { time }

    // MARK: Paths

    private func split(_ path: String) -> (folder: String, name: String) {
        guard let slash = path.lastIndex(of: "/") else { return ("", path) }
        return (String(path[..<slash]), String(path[path.index(after: slash)...]))
    }

    private func folder(_ path: String, _ call: Call) throws(FileSystemError) -> Directory {
        if let known = folders[path] { return known }
        var directory = root
        for part in path.split(separator: "/") {
            guard case .directory(let next)? = directory.entries[String(part)] else {
                throw FileSystemError(.notFound, call: call.rawValue, path: path, reason: "no such folder")
            }
            directory = next
        }
        folders[path] = directory
        return directory
    }

    private func notFound(_ call: Call, _ path: String) -> FileSystemError {
        FileSystemError(.notFound, call: call.rawValue, path: path, reason: "no such file")
    }

    // MARK: FileSystem

    public func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        try locked { () throws(FileSystemError) in
            let (parent, name) = split(path)
            let directory = try folder(parent, .open)
            let isThere = directory.entries[name] != nil
            // Opening a file that is there changes nothing.
            try step(isThere ? .read : .open, path)
            if case .file(let content)? = directory.entries[name] {
                if mode.contains(.exclusive) {
                    throw FileSystemError(.exists, call: "open", path: path, reason: "exists")
                }
                return SimulatedFile(disk: self, content: content, path: path, generation: generation)
            }
            guard mode.contains(.create), !isThere else { throw notFound(.open, path) }
            let content = FileContent(modified: time)
            directory.change(.link(name, .file(content)))
            return SimulatedFile(disk: self, content: content, path: path, generation: generation)
        }
    }

    public func makeDirectory(_ path: String) throws(FileSystemError) {
        try locked { () throws(FileSystemError) in
            try step(.makeDirectory, path)
            let (parent, name) = split(path)
            let directory = try folder(parent, .makeDirectory)
            guard directory.entries[name] == nil else {
                throw FileSystemError(.exists, call: "mkdir", path: path, reason: "exists")
            }
            directory.change(.link(name, .directory(Directory())))
        }
    }

    public func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] {
        try locked { () throws(FileSystemError) in
            try step(.list, path)
            return try folder(path, .list).entries.map { name, node in
                if case .directory = node { return DirectoryEntry(name: name, isDirectory: true) }
                return DirectoryEntry(name: name, isDirectory: false)
            }.sorted { $0.name < $1.name }
        }
    }

    public func rename(_ path: String, to newPath: String) throws(FileSystemError) {
        try locked { () throws(FileSystemError) in
            try step(.rename, path)
            let (parent, name) = split(path)
            let (newParent, newName) = split(newPath)
            precondition(parent == newParent, "the engine renames within a folder only")
            let directory = try folder(parent, .rename)
            guard let node = directory.entries[name] else { throw notFound(.rename, path) }
            if case .directory = node { folders = [:] }
            directory.change(.rename(name, newName, node))
        }
    }

    public func unlink(_ path: String) throws(FileSystemError) {
        try locked { () throws(FileSystemError) in
            try step(.unlink, path)
            let (parent, name) = split(path)
            let directory = try folder(parent, .unlink)
            guard case .file? = directory.entries[name] else { throw notFound(.unlink, path) }
            directory.change(.unlink(name))
        }
    }

    public func removeDirectory(_ path: String) throws(FileSystemError) {
        try locked { () throws(FileSystemError) in
            try step(.removeDirectory, path)
            let (parent, name) = split(path)
            let directory = try folder(parent, .removeDirectory)
            guard case .directory(let removed)? = directory.entries[name] else {
                throw notFound(.removeDirectory, path)
            }
            guard removed.entries.isEmpty else {
                throw FileSystemError(.other, call: "rmdir", path: path, reason: "not empty")
            }
            folders = [:]
            directory.change(.unlink(name))
        }
    }

    public func syncDirectory(_ path: String) throws(FileSystemError) {
        try locked { () throws(FileSystemError) in
            try step(.syncDirectory, path)
            try folder(path, .syncDirectory).sync()
        }
    }

    public func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? {
        try locked { () throws(FileSystemError) in
            try step(.attributes, path)
            let (parent, name) = split(path)
            do throws(FileSystemError) {
                switch try folder(parent, .attributes).entries[name] {
                case nil: return nil
                case .directory: return FileAttributes(size: 0, allocatedSize: 0, isDirectory: true, modified: 0)
                case .file(let content):
                    let size = content.current.count
                    return FileAttributes(
                        size: size,
                        allocatedSize: (size + 511) / 512 * 512,
                        isDirectory: false,
                        modified: content.modified
                    )
                }
            } catch {
                return nil
            }
        }
    }

    public func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) {
        locked { (free, 1 << 40) }
    }

    public func lock(_ path: String) throws(FileSystemError) -> any StorageFile {
        let file = try open(path, [.write, .create])
        guard let file = file as? SimulatedFile else { return file }
        try locked { () throws(FileSystemError) in
            try step(.lock, path)
            let key = ObjectIdentifier(file.content)
            guard lockHolders[key] == nil else {
                throw FileSystemError(.busy, call: "lock", path: path, reason: "locked")
            }
            lockHolders[key] = generation
            file.holdsLock = true
        }
        return file
    }

    /// The last reference to a locked file is gone.
    func unlock(_ content: FileContent, _ holder: Int) {
        locked {
            let key = ObjectIdentifier(content)
            if lockHolders[key] == holder { lockHolders[key] = nil }
        }
    }
}
