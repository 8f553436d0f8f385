// SPDX-License-Identifier: Apache-2.0

/// A failed system call: which, on what, and why.
public struct FileSystemError: Error, Sendable, CustomStringConvertible {
    /// The reasons that the engine tells apart.
    public enum Kind: Sendable, Hashable {
        case noSpace, inputOutput, readOnly, notFound, exists, busy, unsupported, tooManyOpenFiles, other
    }
    /// Why it failed.
    public var kind: Kind
    /// The call, such as `pwritev`.
    public var call: String
    /// The file or folder.
    public var path: String
    /// The system's words for it.
    public var reason: String

    /// Makes an error.
    public init(_ kind: Kind, call: String, path: String, reason: String) {
        self.kind = kind
        self.call = call
        self.path = path
        self.reason = reason
    }

    public var description: String { "\(call) \(path): \(reason)" }
}

/// How a file is opened.
public struct FileOpenMode: OptionSet, Sendable {
    public let rawValue: Int32
    public init(rawValue: Int32) { self.rawValue = rawValue }
    /// For writing as well as for reading.
    public static let write = FileOpenMode(rawValue: 1)
    /// Made if it is not there.
    public static let create = FileOpenMode(rawValue: 2)
    /// An error if it is there already.
    public static let exclusive = FileOpenMode(rawValue: 4)
}

/// An entry of a folder.
public struct DirectoryEntry: Sendable, Hashable {
    /// The name without the path.
    public var name: String
    /// Whether it is a folder.
    public var isDirectory: Bool
    /// Makes an entry.
    public init(name: String, isDirectory: Bool) {
        self.name = name
        self.isDirectory = isDirectory
    }
}

/// What is known of a path.
public struct FileAttributes: Sendable, Hashable {
    /// Size in bytes.
    public var size: Int
    /// Bytes that it takes on the disk.
    public var allocatedSize: Int
    /// Whether it is a folder.
    public var isDirectory: Bool
    /// Last change, milliseconds since 1970.
    public var modified: Int64
    /// Makes a set of attributes.
    public init(size: Int, allocatedSize: Int, isDirectory: Bool, modified: Int64) {
        self.size = size
        self.allocatedSize = allocatedSize
        self.isDirectory = isDirectory
        self.modified = modified
    }
}

/// One piece of a gathered write. The memory is the caller's and outlives the call.
public struct WritePiece {
    /// Where the bytes are.
    public var base: UnsafeRawPointer?
    /// How many.
    public var count: Int
    /// Names the bytes of a buffer.
    @inlinable public init(_ bytes: UnsafeRawBufferPointer) {
        base = bytes.baseAddress
        count = bytes.count
    }
    /// Names `count` bytes at `base`.
    @inlinable public init(base: UnsafeRawPointer?, count: Int) {
        self.base = base
        self.count = count
    }
}

/// An open file. Every call may be made from any thread. Closed when the last reference goes.
///
/// The engine holds on to the file that it wrote through until it is synced: a sync through another descriptor could
/// miss the error of an earlier write-back.
public protocol StorageFile: AnyObject, Sendable {
    /// The system's descriptor, for `sendfile`; -1 where there is none (a simulated disk).
    var descriptor: Int32 { get }
    /// The path that it was opened by.
    var path: String { get }
    /// Size in bytes.
    func size() throws(FileSystemError) -> Int
    /// Reads up to `bytes.count` bytes at `position`; fewer only at the end of the file or by the system's whim.
    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int
    /// Writes the pieces one after the other at `position`; the number of bytes written may be short.
    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int
    /// Brings the file's data, and what is needed to read it back, to stable storage.
    func sync() throws(FileSystemError)
    /// Cuts or extends (with zeros) to `size`.
    func truncate(to size: Int) throws(FileSystemError)
    /// Reserves space and extends the size to `position + count`; the new bytes read as zeros.
    func allocate(at position: Int, count: Int) throws(FileSystemError)
    /// Whether the byte at `position` can be read without waiting for the disk.
    func isResident(at position: Int) -> Bool
    /// Asks for the range to be read into memory, without waiting.
    func readAhead(at position: Int, count: Int)
    /// Writes the range back and waits for that, so that a later sync finds little to do. Proves nothing: only `sync` does.
    /// An error must be heeded, for the system tells it once: a later sync would succeed.
    func writeBack(at position: Int, count: Int) throws(FileSystemError)
}

extension StorageFile {
    /// Where the disk knows no such thing, the sync does it all.
    public func writeBack(at position: Int, count: Int) throws(FileSystemError) {}
}

/// The seam to the disk: every system call of the engine goes through it, so that a test can put a simulated disk
/// with lost writes, torn sectors and failing calls in its place.
public protocol FileSystem: AnyObject, Sendable {
    /// Opens a file.
    func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile
    /// Makes a folder; its parent is there.
    func makeDirectory(_ path: String) throws(FileSystemError)
    /// The entries of a folder, in no order.
    func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry]
    /// Gives a file or folder another name, replacing what has it.
    func rename(_ path: String, to newPath: String) throws(FileSystemError)
    /// Removes a file.
    func unlink(_ path: String) throws(FileSystemError)
    /// Removes an empty folder.
    func removeDirectory(_ path: String) throws(FileSystemError)
    /// Brings a folder's entries to stable storage: creations, renames and removals survive only after it.
    func syncDirectory(_ path: String) throws(FileSystemError)
    /// What is known of a path; nil where there is nothing.
    func attributes(_ path: String) throws(FileSystemError) -> FileAttributes?
    /// Free bytes for us and size of the file system.
    func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64)
    /// Makes (if needed) and locks a file; the lock ends with the last reference. Fails with `.busy` where another
    /// process has it.
    func lock(_ path: String) throws(FileSystemError) -> any StorageFile
}

extension FileSystem {
    /// Whether there is something at `path`.
    func exists(_ path: String) throws(FileSystemError) -> Bool { try attributes(path) != nil }

    /// Removes a file if it is there.
    func unlinkIfPresent(_ path: String) throws(FileSystemError) {
        do {
            try unlink(path)
        } catch  where error.kind == .notFound {}
    }

    /// The whole of a small file; nil where there is none. Refuses files over `limit` bytes.
    func readSmallFile(_ path: String, limit: Int = 64 << 20) throws(FileSystemError) -> [UInt8]? {
        let file: any StorageFile
        do {
            file = try open(path, [])
        } catch  where error.kind == .notFound {
            return nil
        }
        let size = try file.size()
        guard size <= limit else {
            throw FileSystemError(
                .other,
                call: "read",
                path: path,
                reason: "\(size) bytes, more than the \(limit) this file may have"
            )
        }
        var bytes = [UInt8](repeating: 0, count: size)
        let count = try file.readFully(into: &bytes, at: 0)
        bytes.removeLast(size - count)
        return bytes
    }

    /// Replaces a file so that after any crash either the old or the new content is there: temporary file, sync,
    /// rename, sync of the folder.
    func replaceFile(
        _ path: String,
        in directory: String,
        with bytes: [UInt8],
        durable: Bool = true
    ) throws(FileSystemError) {
        let temporary = path + ".tmp"
        let file = try open(temporary, [.write, .create])
        try file.truncate(to: 0)
        try file.writeFully(bytes, at: 0)
        if durable { try file.sync() }
        try rename(temporary, to: path)
        if durable { try syncDirectory(directory) }
    }

    /// Makes a folder if it is not there; tells whether it made it.
    @discardableResult
    func ensureDirectory(_ path: String) throws(FileSystemError) -> Bool {
        do {
            try makeDirectory(path)
            return true
        } catch  where error.kind == .exists {
            return false
        }
    }
}

extension StorageFile {
    /// Reads until `bytes` is full or the file ends; returns the number of bytes read.
    func readFully(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        var done = 0
        while done < bytes.count {
            let count = try read(into: UnsafeMutableRawBufferPointer(rebasing: bytes[done...]), at: position + done)
            if count == 0 { break }
            done += count
        }
        return done
    }

    /// Reads into an array until it is full or the file ends.
    func readFully(into bytes: inout [UInt8], at position: Int) throws(FileSystemError) -> Int {
        var failure: FileSystemError?
        let count = bytes.withUnsafeMutableBytes { buffer in
            do throws(FileSystemError) {
                return try readFully(into: buffer, at: position)
            } catch {
                failure = error
                return 0
            }
        }
        if let failure { throw failure }
        return count
    }

    /// Writes all pieces, however short the single writes are. `pieces` is used up.
    func writeFully(_ pieces: UnsafeMutableBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) {
        var first = 0
        var position = position
        while first < pieces.count {
            // The system takes at most 1024 pieces (IOV_MAX) in a call.
            let last = min(first + 1024, pieces.count)
            var written = try write(UnsafeBufferPointer(rebasing: pieces[first..<last]), at: position)
            if written == 0 && pieces[first..<last].contains(where: { $0.count > 0 }) {
                throw FileSystemError(.inputOutput, call: "pwritev", path: path, reason: "wrote nothing")
            }
            position += written
            while first < last && written >= pieces[first].count {
                written -= pieces[first].count
                first += 1
            }
            if written > 0 {
                pieces[first].base = pieces[first].base.map { $0 + written }
                pieces[first].count -= written
            }
        }
    }

    /// Writes an array.
    func writeFully(_ bytes: [UInt8], at position: Int) throws(FileSystemError) {
        var failure: FileSystemError?
        bytes.withUnsafeBytes { buffer in
            var piece = WritePiece(buffer)
            withUnsafeMutablePointer(to: &piece) { pointer in
                do throws(FileSystemError) {
                    try writeFully(UnsafeMutableBufferPointer(start: pointer, count: 1), at: position)
                } catch {
                    failure = error
                }
            }
        }
        if let failure { throw failure }
    }
}
