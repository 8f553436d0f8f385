// SPDX-License-Identifier: Apache-2.0

import MDCLog

/// An open file of the simulated disk.
///
/// Unchecked: all state is touched with the disk's lock held only.
final class SimulatedFile: StorageFile, @unchecked Sendable {
    let path: String
    let content: FileContent
    var holdsLock = false
    private let disk: SimulatedDisk
    private let generation: Int

    init(disk: SimulatedDisk, content: FileContent, path: String, generation: Int) {
        self.disk = disk
        self.content = content
        self.path = path
        self.generation = generation
    }

    deinit { if holdsLock { disk.unlock(content, generation) } }

    var descriptor: Int32 { -1 }

    private func perform<R>(
        _ call: SimulatedDisk.Call,
        _ body: () throws(FileSystemError) -> R
    ) throws(FileSystemError) -> R {
        try disk.locked { () throws(FileSystemError) in
            // A process that is gone makes no calls; what is left of its objects is told that the power is off.
            guard generation == disk.generation else { throw disk.down(call, path) }
            try disk.step(call, path)
            return try body()
        }
    }

    func size() throws(FileSystemError) -> Int { try perform(.attributes) { content.current.count } }

    func read(into bytes: UnsafeMutableRawBufferPointer, at position: Int) throws(FileSystemError) -> Int {
        try perform(.read) {
            let count = max(0, min(bytes.count, content.current.count - position))
            if count == 0 { return 0 }
            content.current.withUnsafeBytes {
                bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[position..<position + count]))
            }
            return count
        }
    }

    func write(_ pieces: UnsafeBufferPointer<WritePiece>, at position: Int) throws(FileSystemError) -> Int {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(pieces.reduce(0) { $0 + $1.count })
        for piece in pieces { bytes.append(contentsOf: UnsafeRawBufferPointer(start: piece.base, count: piece.count)) }
        do throws(FileSystemError) {
            return try perform(.write) {
                let count = disk.shortened(bytes.count)
                if count < bytes.count { bytes.removeLast(bytes.count - count) }
                put(bytes, position)
                return count
            }
        } catch {
            // A write that fails may have got some way.
            if error.reason == "injected" {
                disk.locked {
                    if disk.random.once(in: 2) { put(Array(bytes.prefix(disk.random.below(bytes.count))), position) }
                }
            }
            throw error
        }
    }

    private func put(_ bytes: [UInt8], _ position: Int) {
        content.write(bytes, at: position)
        content.modified = disk.stamp()
    }

    func sync() throws(FileSystemError) {
        do throws(FileSystemError) {
            try perform(.sync) { content.sync() }
        } catch {
            if error.reason == "injected" { disk.locked { content.failSync(&disk.random) } }
            throw error
        }
    }

    func truncate(to size: Int) throws(FileSystemError) {
        try perform(.truncate) {
            content.resize(size)
            content.modified = disk.stamp()
        }
    }

    func allocate(at position: Int, count: Int) throws(FileSystemError) {
        try perform(.allocate) {
            if position + count > content.current.count { content.resize(position + count) }
        }
    }

    func isResident(at position: Int) -> Bool { true }
    func readAhead(at position: Int, count: Int) {}
}
