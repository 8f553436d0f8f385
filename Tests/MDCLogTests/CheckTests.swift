// SPDX-License-Identifier: Apache-2.0

import MDCLog
import MDCModel
import NIOCore
import Testing

@Suite struct CheckTests {
    private func filled() throws -> TestNode {
        var settings = LogSettings()
        settings.segmentBytes = 3000
        settings.indexIntervalBytes = 300
        let node = try TestNode(settings: settings)
        let log = try node.make(settings)
        for number in 0..<100 {
            try log.append(
                try BatchMaker().batch(["value \(number)"], timestamp: 1_700_000_000_000 - 500 + Int64(number))
            )
            try log.append(
                try BatchMaker.idempotent(4, sequence: Int32(number), isTransactional: true).batch(["t \(number)"])
            )
            if number % 10 == 9 {
                try log.append(BatchMaker.marker(4, commit: number % 20 == 9), as: .coordinator)
            }
        }
        node.manager.runSyncRound()
        node.manager.runScrub()
        try node.manager.close()
        return node
    }

    @Test func aSoundFolderIsSound() throws {
        let node = try filled()
        var checker = LogChecker(directory: node.folder.path)
        checker.decodesRecords = true
        var last = 0
        let report = try checker.run { last = $0.bytes }
        #expect(report.isSound, "\(report)")
        #expect(report.partitions == 1 && report.segments > 3 && report.records == 210)
        #expect(last > 0 || report.batches < 256)
        let one = try LogChecker(directory: "\(node.folder.path)/t-0").run()
        #expect(one.isSound && one.bytes == report.bytes)
    }

    @Test func aRunningNodeIsLeftAlone() throws {
        let node = try TestNode()
        _ = try node.make()
        let error = #expect(throws: LogError.self) { _ = try LogChecker(directory: node.folder.path).run() }
        #expect(error?.code == .locked)
        let missing = #expect(throws: LogError.self) { _ = try LogChecker(directory: "/tmp/mdc-no-such-folder").run() }
        #expect(missing?.code == .notFound)
    }

    /// Every byte of every file: a flipped bit is found, wherever something depends on it.
    @Test func flippedBitsAreFound() throws {
        let node = try filled()
        for name in try node.folder.names("t-0") where name != "partition.metadata" {
            let bytes = try node.folder.bytes("t-0/\(name)")
            for position in stride(from: 0, to: bytes.count, by: max(bytes.count / 23, 1)) {
                var damaged = bytes
                damaged[position] ^= 0x40
                try node.folder.write("t-0/\(name)", damaged, truncating: false)
                let report = try LogChecker(directory: node.folder.path).run()
                // An index entry may still be true of the log when a timestamp or offset in it is made smaller.
                if name.hasSuffix("index") { continue }
                #expect(!report.isSound, "\(name) at \(position)")
            }
            try node.folder.write("t-0/\(name)", bytes, truncating: false)
        }
        #expect(try LogChecker(directory: node.folder.path).run().isSound)
    }

    @Test func lostRecordsAreFound() throws {
        let node = try filled()
        let name = "t-0/" + (try node.folder.names("t-0").last { $0.hasSuffix(".log") }!)
        try node.folder.write(name, [])
        let report = try LogChecker(directory: node.folder.path).run()
        #expect(report.problems.contains { $0.severity == .data })
    }

    @Test func dumpsTextAndJSON() throws {
        let node = try TestNode()
        let log = try node.make()
        try log.append(try BatchMaker().batch(["plain", "quote \" and \n"], keys: ["k", nil]))
        try log.append(try BatchMaker.idempotent(9, sequence: 3, isTransactional: true).batch(["t"]))
        try log.append(BatchMaker.marker(9, commit: false), as: .coordinator)
        try node.manager.close()
        var text: [String] = []
        try LogDumper(path: "\(node.folder.path)/t-0").run { text.append($0) }
        #expect(
            text.contains { $0.hasPrefix("offset: 0 timestamp: 1700000000000") && $0.hasSuffix("key: k value: plain") }
        )
        #expect(text.contains { $0.contains("endTransaction: ABORT") })
        #expect(text.contains("producerId: 9 firstOffset: 2 lastOffset: 3 lastStableOffset: 4"))
        #expect(text.contains("epoch: 0 startOffset: 0"))
        var dumper = LogDumper(path: "\(node.folder.path)/t-0/00000000000000000000.log")
        dumper.format = .json
        var json: [String] = []
        try dumper.run { json.append($0) }
        #expect(json.contains { $0.contains(#""key":null,"value":"quote \" and \n"}"#) })
        #expect(json.allSatisfy { $0.hasPrefix("{") && $0.hasSuffix("}") })
        let error = #expect(throws: LogError.self) {
            try LogDumper(path: "\(node.folder.path)/mdc-checkpoint").run { _ in }
        }
        #expect(error != nil)
    }
}
