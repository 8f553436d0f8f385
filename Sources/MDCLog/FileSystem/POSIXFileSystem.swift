// SPDX-License-Identifier: Apache-2.0

import CMDCSystem

/// The real disk.
public final class POSIXFileSystem: FileSystem {
    /// Makes the seam to the real disk; it has no state.
    public init() {}

    public func open(_ path: String, _ mode: FileOpenMode) throws(FileSystemError) -> any StorageFile {
        let descriptor = mdc_open(path, mode.rawValue)
        guard descriptor >= 0 else { throw FileSystemError(number: -descriptor, call: "open", path: path) }
        return POSIXFile(descriptor: descriptor, path: path)
    }

    public func makeDirectory(_ path: String) throws(FileSystemError) { try check(mdc_mkdir(path), "mkdir", path) }
    public func unlink(_ path: String) throws(FileSystemError) { try check(mdc_unlink(path), "unlink", path) }
    public func removeDirectory(_ path: String) throws(FileSystemError) { try check(mdc_rmdir(path), "rmdir", path) }
    public func rename(_ path: String, to newPath: String) throws(FileSystemError) {
        try check(mdc_rename(path, newPath), "rename", path)
    }
    public func syncDirectory(_ path: String) throws(FileSystemError) {
        try check(mdc_sync_directory(path), "fsync", path)
    }

    public func list(_ path: String) throws(FileSystemError) -> [DirectoryEntry] {
        final class Names { var entries: [DirectoryEntry] = [] }
        let names = Names()
        let result = mdc_list(path, Unmanaged.passUnretained(names).toOpaque()) { context, name, kind in
            guard let context else { return }
            Unmanaged<Names>.fromOpaque(context).takeUnretainedValue().entries
                .append(DirectoryEntry(name: String(cString: name), isDirectory: kind == 2))
        }
        try check(result, "readdir", path)
        return names.entries
    }

    public func attributes(_ path: String) throws(FileSystemError) -> FileAttributes? {
        var kind: Int32 = 0
        var size: Int64 = 0
        var modified: Int64 = 0
        var allocated: Int64 = 0
        try check(mdc_stat(path, &kind, &size, &modified, &allocated), "stat", path)
        if kind == 0 { return nil }
        return FileAttributes(
            size: Int(size),
            allocatedSize: Int(allocated),
            isDirectory: kind == 2,
            modified: modified
        )
    }

    public func space(_ path: String) throws(FileSystemError) -> (available: UInt64, total: UInt64) {
        var available: UInt64 = 0
        var total: UInt64 = 0
        try check(mdc_space(path, &available, &total), "statvfs", path)
        return (available, total)
    }

    public func lock(_ path: String) throws(FileSystemError) -> any StorageFile {
        let file = try open(path, [.write, .create])
        try check(mdc_lock(file.descriptor), "lock", path)
        return LockedFile(file)
    }

    private func check(_ result: Int32, _ call: String, _ path: String) throws(FileSystemError) {
        if result < 0 { throw FileSystemError(number: -result, call: call, path: path) }
    }
}

/// An open file of the real disk.
private final class POSIXFile: StorageFile {
    let descriptor: Int32
    let path: String

    init(descriptor: Int32, path: String) {
        self.descriptor = descriptor
        self.path = path
    }

    deinit { _ = mdc_close(descriptor) }

    func size() throws(FileSystemError) -> Int { Int(try check(mdc_file_size(descriptor), "fstat")) }

    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        guard let base = bytes.baseAddress, bytes.count > 0 else { return 0 }
        return try check(mdc_pread(descriptor, base, bytes.count, Int64(position)), "pread")
    }

    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int {
        guard let base = pieces.baseAddress else { return 0 }
        // `WritePiece` has the layout of `mdc_piece`: a pointer, then a count.
        let vectors = UnsafeRawPointer(base).assumingMemoryBound(to: mdc_piece.self)
        return try check(mdc_pwritev(descriptor, vectors, Int32(pieces.count), Int64(position)), "pwritev")
    }

    func sync() throws(FileSystemError) { _ = try check(mdc_fdatasync(descriptor), "fdatasync") }
    func truncate(to size: Int) throws(FileSystemError) {
        _ = try check(mdc_ftruncate(descriptor, Int64(size)), "ftruncate")
    }
    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        _ = try check(mdc_fallocate(descriptor, Int64(position), Int64(count)), "fallocate")
    }
    func isResident(at position: Int) -> Bool { mdc_is_resident(descriptor, Int64(position)) != 0 }
    func readAhead(at position: Int, count: Int) { _ = mdc_read_ahead(descriptor, Int64(position), Int64(count)) }
    func writeBack(at position: Int, count: Int) throws(FileSystemError) {
        _ = try check(mdc_write_back(descriptor, Int64(position), Int64(count)), "sync_file_range")
    }

    @inline(__always)
    private func check<T: FixedWidthInteger & SignedInteger>(_ result: T, _ call: String) throws(FileSystemError) -> T {
        if result < 0 { throw FileSystemError(number: Int32(-result), call: call, path: path) }
        return result
    }
}

/// A lock file. Its lock is given up by name before the descriptor is closed: a child process that is being started at
/// that moment holds a copy of the descriptor, and with it the lock, until its program is loaded.
private final class LockedFile: StorageFile {
    private let file: any StorageFile

    init(_ file: any StorageFile) { self.file = file }

    deinit { _ = mdc_unlock(file.descriptor) }

    var descriptor: Int32 { file.descriptor }
    var path: String { file.path }
    func size() throws(FileSystemError) -> Int { try file.size() }
    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        try file.read(into: bytes, at: position)
    }
    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int {
        try file.write(pieces, at: position)
    }
    func sync() throws(FileSystemError) { try file.sync() }
    func truncate(to size: Int) throws(FileSystemError) { try file.truncate(to: size) }
    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        try file.allocate(at: position, count: count)
    }
    func isResident(at position: Int) -> Bool { file.isResident(at: position) }
    func readAhead(at position: Int, count: Int) { file.readAhead(at: position, count: count) }
}

extension FileSystemError {
    /// Makes an error from a system error number.
    init(number: Int32, call: String, path: String) {
        let kind: Kind
        switch number {
        case 28, 122: kind = .noSpace  // ENOSPC, EDQUOT
        case 5: kind = .inputOutput  // EIO
        case 30: kind = .readOnly  // EROFS
        case 2: kind = .notFound  // ENOENT
        case 17: kind = .exists  // EEXIST
        case 11, 16: kind = .busy  // EAGAIN, EBUSY
        case 13 where call == "lock": kind = .busy  // EACCES
        case 95, 22, 38: kind = .unsupported  // EOPNOTSUPP, EINVAL, ENOSYS
        case 23, 24: kind = .tooManyOpenFiles  // ENFILE, EMFILE
        default: kind = .other
        }
        let reason = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 128) { text in
            guard let base = text.baseAddress else { return "" }
            mdc_error_text(number, base, 128)
            return String(cString: base)
        }
        self.init(kind, call: call, path: path, reason: "\(reason) (errno \(number))")
    }
}
