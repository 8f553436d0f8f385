// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCSimulation
import Testing

@Suite struct SimulatedDiskTests {
    private func write(_ file: any StorageFile, _ text: String, at position: Int = 0) throws {
        try Array(text.utf8).withUnsafeBytes { bytes in
            var piece = WritePiece(bytes)
            _ = try withUnsafePointer(to: &piece) {
                try file.write(UnsafeBufferPointer(start: $0, count: 1), at: position)
            }
        }
    }

    private func read(_ disk: SimulatedDisk, _ path: String) -> String? {
        guard let file = try? disk.open(path, []), let size = try? file.size() else { return nil }
        var bytes = [UInt8](repeating: 0, count: size)
        _ = try? bytes.withUnsafeMutableBytes { try file.read(into: $0, at: 0) }
        return String(decoding: bytes, as: UTF8.self)
    }

    private func afterCrash(_ seed: UInt64, _ prepare: (SimulatedDisk) throws -> Void) rethrows -> SimulatedDisk {
        let disk = SimulatedDisk(seed: seed)
        try prepare(disk)
        disk.crash()
        disk.restart()
        return disk
    }

    @Test func whatIsSyncedStays() throws {
        for seed in 0..<50 {
            let disk = try afterCrash(UInt64(seed)) { disk in
                try disk.makeDirectory("/d")
                try disk.syncDirectory("/")
                let file = try disk.open("/d/a", [.write, .create])
                try write(file, "kept")
                try file.sync()
                try disk.syncDirectory("/d")
            }
            #expect(read(disk, "/d/a") == "kept")
        }
    }

    @Test func whatIsNotSyncedMayBeThereOrNot() throws {
        var seen: Set<String> = []
        for seed in 0..<200 {
            let disk = try afterCrash(UInt64(seed)) { disk in
                let file = try disk.open("/a", [.write, .create])
                try write(file, String(repeating: "1", count: 1024))
                try file.sync()
                try disk.syncDirectory("/")
                try write(file, String(repeating: "2", count: 1024))
            }
            let content = try #require(read(disk, "/a"))
            #expect(content.utf8.count == 1024)
            // Each sector is old or new as a whole.
            for half in [content.prefix(512), content.suffix(512)] { #expect(Set(half).count == 1) }
            seen.insert("\(content.first!)\(content.last!)")
        }
        #expect(seen == ["11", "12", "21", "22"])
    }

    @Test func namesNeedTheirFolderSynced() throws {
        var seen: Set<String> = []
        for seed in 0..<200 {
            let disk = try afterCrash(UInt64(seed)) { disk in
                let file = try disk.open("/a.tmp", [.write, .create])
                try write(file, "new")
                try file.sync()
                try disk.rename("/a.tmp", to: "/a")
            }
            seen.insert(disk.files().map(\.path).joined(separator: " "))
        }
        #expect(seen == ["", "/a.tmp", "/a"])
    }

    @Test func aSyncThatFailsForgets() throws {
        var lost = 0
        for seed in 0..<50 {
            let disk = try afterCrash(UInt64(seed)) { disk in
                let file = try disk.open("/a", [.write, .create])
                try disk.syncDirectory("/")
                try write(file, "text")
                disk.setFault(.init(kind: .inputOutput, after: 0, count: 1, calls: [.sync]))
                #expect(throws: FileSystemError.self) { try file.sync() }
                try file.sync()
            }
            if read(disk, "/a") != "text" { lost += 1 }
        }
        #expect(lost > 0)
    }

    @Test func aKillKeepsEverything() throws {
        let disk = SimulatedDisk(seed: 1)
        let file = try disk.open("/a", [.write, .create])
        try write(file, "text")
        disk.kill()
        #expect(throws: FileSystemError.self) { try file.size() }
        #expect(read(disk, "/a") == "text")
    }

    @Test func thePowerFailsAtTheChangeThatWasAskedFor() throws {
        let disk = SimulatedDisk(seed: 1)
        disk.crashAfter(changes: 1)
        let file = try disk.open("/a", [.write, .create])
        #expect(throws: FileSystemError.self) { try write(file, "text") }
        #expect(disk.hasCrashed)
    }
}
