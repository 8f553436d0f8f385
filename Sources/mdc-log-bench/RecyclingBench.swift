// SPDX-License-Identifier: Apache-2.0

import CMDCSystem
import MDCLog

/// What a write with a sync costs where it makes a file grow, where it fills reserved space, and where it overwrites
/// bytes that were written before, as in a segment that is used again; and what making such a segment costs. The ground
/// for docs/decisions/0004-segments-are-not-recycled.md; the engine itself is not measured.
func recyclingBench(_ parent: String) throws {
    let folder = try Folder(in: parent)
    for (name, size, count) in [("4KiB", 4 << 10, 100), ("64KiB", 64 << 10, 50), ("1MiB", 1 << 20, 16)] {
        let total = size * count * 6
        let growing = try RawFile("\(folder.path)/growing")
        let reserved = try RawFile("\(folder.path)/reserved", reserving: total)
        let written = try RawFile("\(folder.path)/written", reserving: total)
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 4096)
        defer { bytes.deallocate() }
        bytes.initializeMemory(as: UInt8.self, repeating: 7)
        let source = UnsafeRawBufferPointer(bytes)
        let zeroing = try timed {
            for position in stride(from: 0, to: total, by: size) { try written.write(source, at: position) }
            try written.sync()
        }
        var rates: [[Double]] = [[], [], []]
        for turn in 0..<6 {
            for (kind, file) in [growing, reserved, written].enumerated() {
                let time = try timed {
                    for index in 0..<count {
                        try file.write(source, at: (turn * count + index) * size)
                        try file.sync()
                    }
                }
                if turn > 0 { rates[kind].append(Double(count) / time) }
            }
        }
        figure("disk_write_sync_\(name)_growing", medianOf: rates[0], "1/s")
        figure("disk_write_sync_\(name)_reserved", medianOf: rates[1], "1/s")
        figure("disk_write_sync_\(name)_overwriting", medianOf: rates[2], "1/s")
        figure(
            "disk_write_sync_\(name)_overwriting_of_reserved",
            medianOf: zip(rates[2], rates[1]).map { $0 / $1 },
            "ratio"
        )
        figure("disk_prewriting_\(name)_pieces", Double(total) / zeroing / 1e6, "MB/s")
    }
}
